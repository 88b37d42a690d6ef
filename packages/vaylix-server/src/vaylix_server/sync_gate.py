"""Decides whether the next fsync may run on the event loop itself.

A thread hop costs as much as a fast fsync, so a lone writer waits half as long when the loop
syncs inline. A slow disk must not stall everybody else, though. So the loop syncs inline only
while the 99th percentile of the recent syncs is below a bound, and one slow sync ends that until
a whole window of quick ones has been seen again.
"""

from __future__ import annotations

__all__ = ["SyncGate"]


class SyncGate:
    """Counts quick syncs in a row. `quick_seconds_max` bounds a quick one.

    The 99th percentile of a window of 128 is below the bound when at most one sync exceeds it;
    since one slow sync closes the gate anyway, a run of 128 quick ones is the same condition.
    """

    __slots__ = ("_quick_in_a_row", "_quick_seconds_max", "_window")

    def __init__(self, *, quick_seconds_max: float = 0.001, window: int = 128) -> None:
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
