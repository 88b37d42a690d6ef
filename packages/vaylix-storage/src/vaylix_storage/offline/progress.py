"""Progress of long work: what is being done, and how many of how many bytes.

The work reports each step; how often that reaches the eye is up to the caller's clock. Nothing here
knows a terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Progress", "RateLimited", "no_progress"]

_INTERVAL_S: Final = 0.1


class Progress(Protocol):
    """Is told now and then what is being done, and how many bytes of it are."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show it; `done` is at most `total`, and equal to it when the work is done."""
        ...


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""
    del what, done, total


class RateLimited:
    """Passes progress on at most once in an interval, and at each beginning and end.

    `clock` returns seconds from an arbitrary point on and never goes back.
    """

    __slots__ = ("_clock", "_interval_s", "_next", "_progress", "_what")

    def __init__(
        self, progress: Progress, clock: Callable[[], float], interval_s: float = _INTERVAL_S
    ) -> None:
        self._progress = progress
        self._clock = clock
        self._interval_s = interval_s
        self._next = clock()
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Pass it on if it is time."""
        now = self._clock()
        if what == self._what and now < self._next and done < total:
            return
        self._what = what
        self._next = now + self._interval_s
        self._progress(what, done, total)
