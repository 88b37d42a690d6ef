"""What a plugin gives to the server: registration records, and the protocols behind them.

Records are frozen and carry a unique `name`; the settings choose among them by it. Hooks yield
them once, at start-up; from then on the server calls the objects behind them directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_server.settings import Settings
    from vaylix_storage.backend import Storage

__all__ = [
    "AckMode",
    "Listener",
    "Progress",
    "SessionFactory",
    "StorageBackend",
    "StorageRequest",
    "Transport",
]

SessionFactory = Callable[[], asyncio.Protocol]


class Listener(Protocol):
    """An open door. All methods run on the event loop."""

    @property
    def address(self) -> str:
        """Where clients reach it, for the log."""

    async def start_accepting(self) -> None:
        """Let clients in; raises OSError when that cannot be."""

    def stop_accepting(self) -> None:
        """Let nobody in any more; sessions that are in stay."""

    async def wait_closed(self) -> None:
        """Return when the door is shut."""


class ListenCallable(Protocol):
    """Opens a listener."""

    async def __call__(self, host: str, port: int, session_factory: SessionFactory) -> Listener:
        """Take `host` and `port`, let nobody in yet; raises OSError when that cannot be.

        From then on nobody else can take them. Clients that come too early wait or are refused.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """A way in: `name` is its URL scheme, each accepted connection gets a new session."""

    name: str
    listen: ListenCallable


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageRequest:
    """What the server asks a backend to open."""

    directory: Path
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageBackend:
    """A place to keep log and snapshots; see `vaylix_storage.backend` for what it must do.

    `open` may block; it raises `StartupError` when it cannot be opened. One that is not durable
    keeps nothing beyond its process; the server says so instead of promising anything.
    """

    name: str
    open: Callable[[StorageRequest], Storage]
    is_durable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the group is: for each voter the last index that it has durably, and the commit."""

    own_id: str
    match: Mapping[str, int]
    commit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AckMode:
    """Decides up to which index writes may be answered. It never changes what is committed."""

    name: str
    acknowledged: Callable[[Progress], int]
