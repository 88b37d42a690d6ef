"""Who may hold the whole state: one at a time, and out of the collector's sight."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from vaylix_server.collector import CollectorPause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["WalkGuard"]


class WalkGuard:
    """Shared by snapshots, backups and restores; for the loop's thread."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._pause = CollectorPause()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """For a walk over all keys, of which there can be one at a time."""
        async with self._lock:
            with self._pause:
                yield

    @asynccontextmanager
    async def quietly(self) -> AsyncIterator[None]:
        """For work that builds large containers, but walks nothing."""
        with self._pause:
            yield
