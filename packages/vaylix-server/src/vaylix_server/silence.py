"""Notice that a client has said nothing for too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["SilenceTimer"]


class SilenceTimer:
    """Calls `on_silence` once nothing was said for as long as is allowed, and nothing was to do.

    It is not set anew with each request: when it rings, it looks how long the silence has lasted,
    and waits for what is left. While `is_busy`, the client waits for us, and may be silent.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        is_busy: Callable[[], bool],
        on_silence: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._is_busy = is_busy
        self._on_silence = on_silence
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

    def _wait(self, seconds: float) -> None:
        self._handle = self._loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._handle = None
        silent_seconds = self._loop.time() - self.last_active
        if self._is_busy():
            self._wait(self._limit_seconds)
        elif silent_seconds < self._limit_seconds:
            self._wait(self._limit_seconds - silent_seconds)
        else:
            self._on_silence()
