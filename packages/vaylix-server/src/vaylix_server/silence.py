"""Notice that a client has said nothing for too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

__all__ = ["SilenceTimer", "SilentOwner"]


class SilentOwner(Protocol):
    """Whose client may not be silent for ever."""

    def is_busy(self) -> bool:
        """Tell whether the client waits for us, and may be silent."""

    def end_silence(self) -> None:
        """Nothing was said for as long as is allowed, and nothing was to do."""


class SilenceTimer:
    """Tells its owner when nothing was said for too long.

    It is not set anew with each request: when it rings, it looks how long the silence has lasted,
    and waits for what is left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: SilentOwner) -> None:
        self._loop = loop
        self._owner: SilentOwner | None = owner
        self._limit_seconds = 0.0
        self._handle: asyncio.TimerHandle | None = None
        # When something was said last, by the clock of the loop; for the owner to set.
        self.last_active = 0.0

    def start(self, limit_seconds: float) -> None:
        """Allow so much silence from now on."""
        self.stop()
        self.last_active = self._loop.time()
        self._limit_seconds = limit_seconds
        self._wait(limit_seconds)

    def stop(self) -> None:
        """Allow any silence."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def close(self) -> None:
        """Stop for good and let go of the owner: no collector would come to part the two."""
        self.stop()
        self._owner = None

    def _wait(self, seconds: float) -> None:
        self._handle = self._loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._handle = None
        owner = self._owner
        assert owner is not None, "it is stopped before"
        silent_seconds = self._loop.time() - self.last_active
        if owner.is_busy():
            self._wait(self._limit_seconds)
        elif silent_seconds < self._limit_seconds:
            self._wait(self._limit_seconds - silent_seconds)
        else:
            owner.end_silence()
