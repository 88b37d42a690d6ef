"""A bounded number of places, given to threads first come, first served.

`threading.Semaphore` lets a thread that has just arrived overtake those that wait.
"""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["Places"]


class Places:
    """Thread-safe."""

    def __init__(self, count: int) -> None:
        assert count >= 1
        self._lock = threading.Lock()
        self._free = count
        self._queue: deque[threading.Event] = deque()

    def take(self, seconds: float | None) -> bool:
        """Take a place; wait for at most `seconds`, and return whether there was one."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            turn = threading.Event()
            self._queue.append(turn)
        try:
            return turn.wait(seconds) or not self._withdraw(turn)
        except BaseException:
            if not self._withdraw(turn):
                self.give_back()
            raise

    def give_back(self) -> None:
        """Leave a place to the one that has waited longest."""
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._free += 1

    def _withdraw(self, turn: threading.Event) -> bool:
        """Stop waiting; false if the turn came in the last moment and the place is taken."""
        with self._lock:
            if turn.is_set():
                return False
            self._queue.remove(turn)
            return True
