"""Simulated time: a queue of events, and nothing that happens outside it."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MILLISECOND", "Schedule"]

# Time is counted in whole microseconds.
MILLISECOND = 1000


class Schedule:
    """Events in the order of their time; those of equal time in the order of their making."""

    __slots__ = ("_made", "_queue", "event_count", "now")

    def __init__(self) -> None:
        self.now = 0
        self.event_count = 0
        self._made = 0
        self._queue: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []

    def after(self, delay_us: int, action: Callable[..., None], *arguments: object) -> None:
        """Let `action` happen after a delay."""
        assert delay_us >= 0
        self._made += 1
        heappush(self._queue, (self.now + delay_us, self._made, action, arguments))

    def run_until(self, end: int) -> None:
        """Let everything happen that is due by `end`."""
        queue = self._queue
        while queue and queue[0][0] <= end:
            self.now, _, action, arguments = heappop(queue)
            self.event_count += 1
            action(*arguments)
        self.now = end
