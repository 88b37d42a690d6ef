"""What time a batch is stamped with, and what time a read sees.

Theory of operation
-------------------

Expiry is decided by the time that is written into each batch, so that every node and every replay
decides alike. That time is made here, by the node that proposes. It must

* never go back, or a key that a client saw expire would live again;
* advance at rate one even while the wall clock is behind, or time-outs would freeze;
* not follow a wall clock that jumps far ahead by mistake, or every key with an expiry would die at
  once and for good, since the time cannot be taken back.

So the time is `max(wall, last + elapsed)`, where `elapsed` comes from a clock that no one sets and
that goes on while the machine sleeps (CLOCK_BOOTTIME). A wall clock that is suddenly more than
`jump_ms_max` ahead of that is believed only when it still says so `patience_ms` later.

The price is that a log once written with a clock that was ahead stays ahead. It serves as before,
but whatever comes with a moment of its own, such as the entries of a RESTORE, expires early. Nobody
would guess why, so `offset_ms` is shown by a metric, and by HEALTH and the start when it is large.

Reads use the same time as writes. Every later batch is stamped at or after the time of every
earlier read, because there is only one `now`, and it does not go back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TimeKeeper"]


class TimeKeeper:
    """A clock in Unix milliseconds that never goes back. Not thread safe.

    `wall_ms` and `elapsed_ms` are read at every call: the first is Unix time, the second counts
    from anywhere but is never set. `start_ms` is the newest time already written in the log.
    """

    def __init__(
        self,
        *,
        wall_ms: Callable[[], int],
        elapsed_ms: Callable[[], int],
        start_ms: int = 0,
        jump_ms_max: int = 60_000,
        patience_ms: int = 300_000,
    ) -> None:
        self._wall_ms = wall_ms
        self._elapsed_ms = elapsed_ms
        self._jump_ms_max = jump_ms_max
        self._patience_ms = patience_ms
        self._elapsed = elapsed_ms()
        # Nothing has been observed in this process yet, so the wall clock is believed once.
        wall = wall_ms()
        self._last = max(start_ms, wall)
        self._ahead_since: int | None = None
        # How far the wall clock was ahead of the newest answer when that was given.
        self.offset_ms = wall - self._last

    @property
    def is_far_off(self) -> bool:
        """Whether the wall clock was further away, before or behind, than is followed at once."""
        return abs(self.offset_ms) > self._jump_ms_max

    def now(self) -> int:
        """Return the current time in milliseconds, at least as large as every earlier answer."""
        elapsed = self._elapsed_ms()
        steady = self._last + max(0, elapsed - self._elapsed)
        wall = self._wall_ms()
        if wall - steady <= self._jump_ms_max:
            self._ahead_since = None
            now = max(wall, steady)
        else:
            now = self._judge_jump(wall, steady, elapsed)
        assert now >= self._last, "time must not go back"
        self.offset_ms = wall - now
        self._elapsed = elapsed
        self._last = now
        return now

    def _judge_jump(self, wall: int, steady: int, elapsed: int) -> int:
        if self._ahead_since is None:
            self._ahead_since = elapsed
        if elapsed - self._ahead_since < self._patience_ms:
            return steady
        self._ahead_since = None
        return wall
