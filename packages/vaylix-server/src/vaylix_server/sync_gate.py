"""Decides whether the next fsync may run on the event loop itself.

A thread hop costs as much as a fast fsync, so writers that wait for it wait half as long when the
loop syncs inline. A slow disk must not stall everybody else, though. So the loop syncs inline only
while all recent syncs were quick: one slow one ends that until a whole window of quick ones has
been seen again. And only while they are fast on average, since everybody waits for each of them:
beside eight writers on a disk that takes 2 ms, eight readers got 3 300 answers a second inline, and
104 000 with the thread, which cost the writers nothing.

What counts as quick is a fifth of the 20 ms that no request may wait because of the server. With
1 ms, a disk shared with others, on which one sync in a hundred takes two, kept the gate shut most
of the time, and fifty writers got 55 000 answers a second instead of 67 000.
"""

from __future__ import annotations

__all__ = ["SyncGate"]

# Over so many syncs the average is taken, more or less: each one counts a bit less than the next.
_AVERAGED = 32


class SyncGate:
    """Counts quick syncs in a row. `quick_seconds_max` bounds a quick one."""

    __slots__ = (
        "_average_seconds_max",
        "_quick_in_a_row",
        "_quick_seconds_max",
        "_window",
        "average_seconds",
    )

    def __init__(
        self,
        *,
        quick_seconds_max: float = 0.004,
        average_seconds_max: float = 0.001,
        window: int = 128,
    ) -> None:
        self._quick_seconds_max = quick_seconds_max
        self._average_seconds_max = average_seconds_max
        self._window = window
        self._quick_in_a_row = 0
        # How long a batch takes of late.
        self.average_seconds = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the next sync may run inline."""
        return (
            self._quick_in_a_row >= self._window
            and self.average_seconds < self._average_seconds_max
        )

    def record(self, seconds: float) -> None:
        """Take note of how long a batch took to write and sync."""
        self.average_seconds += (seconds - self.average_seconds) / _AVERAGED
        if seconds < self._quick_seconds_max:
            self._quick_in_a_row += 1
        else:
            self._quick_in_a_row = 0
