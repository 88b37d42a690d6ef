"""Decides whether the next fsync may run on the event loop itself.

A thread hop costs as much as a fast fsync, so writers that wait for it wait half as long when the
loop syncs inline. A slow disk must not stall everybody else, though. So the loop syncs inline only
while all recent syncs were quick: one slow one ends that until a whole window of quick ones has
been seen again.

What counts as quick is a fifth of the 20 ms that no request may wait because of the server. With
1 ms, a disk shared with others, on which one sync in a hundred takes two, kept the gate shut most
of the time, and fifty writers got 55 000 answers a second instead of 67 000.
"""

from __future__ import annotations

__all__ = ["SyncGate"]


class SyncGate:
    """Counts quick syncs in a row. `quick_seconds_max` bounds a quick one."""

    __slots__ = ("_quick_in_a_row", "_quick_seconds_max", "_window")

    def __init__(self, *, quick_seconds_max: float = 0.004, window: int = 128) -> None:
        self._quick_seconds_max = quick_seconds_max
        self._window = window
        self._quick_in_a_row = 0

    @property
    def is_open(self) -> bool:
        """Whether the next sync may run inline."""
        return self._quick_in_a_row >= self._window

    def record(self, seconds: float) -> None:
        """Take note of how long a sync took."""
        if seconds < self._quick_seconds_max:
            self._quick_in_a_row += 1
        else:
            self._quick_in_a_row = 0
