"""What a plugin gives to the server: registration records, and the protocols behind them.

Records are frozen and carry a unique `name`; the settings choose among them by it. Hooks yield
them once, at start-up; from then on the server calls the objects behind them directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_server.settings import Settings
    from vaylix_storage import (
        Batch,
        Keyspace,
        SnapshotInfo,
        SnapshotMeta,
        SnapshotReader,
        SnapshotWriter,
    )

__all__ = [
    "AckMode",
    "Listener",
    "LogPort",
    "Progress",
    "SessionFactory",
    "SnapshotPort",
    "Storage",
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
        """Let clients in; the address has been taken before."""

    def stop_accepting(self) -> None:
        """Let nobody in any more; sessions that are in stay."""

    async def wait_closed(self) -> None:
        """Return when the door is shut."""


class ListenCallable(Protocol):
    """Opens a listener."""

    async def __call__(self, host: str, port: int, session_factory: SessionFactory) -> Listener:
        """Take `host` and `port`, let nobody in yet; raises OSError when that cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """A way in: `name` is its URL scheme, each accepted connection gets a new session."""

    name: str
    listen: ListenCallable


class LogPort(Protocol):
    """The durable sequence of batches that the write path needs.

    `append` and `sync` are called by one thread at a time, which need not be the loop's. After
    either has failed, every later call fails; what was not synced by then is in doubt.
    """

    @property
    def last_index(self) -> int:
        """Index of the newest entry, 0 when there is none."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""

    @property
    def segment_count(self) -> int:
        """Number of segments."""

    @property
    def first_index(self) -> int:
        """Index of the oldest entry that is kept."""

    def append(self, batches: Sequence[Batch]) -> None:
        """Write batches, in order, as one unit; they count once `sync` has returned."""

    def sync(self) -> None:
        """Make everything appended as durable as the sync policy promises."""

    def read(self, first_index: int) -> Iterator[Batch]:
        """Stream the batches from `first_index` on, with bounded memory."""


class SnapshotPort(Protocol):
    """Where snapshots of the state are kept, so that the log need not be kept for ever.

    `commit` and `prune` are called while nothing is appended to the log; all other methods while
    that may be so. They are called in the order create, commit, archive, prune.
    """

    @property
    def current(self) -> SnapshotMeta | None:
        """The newest snapshot that counts."""

    @property
    def log_bytes(self) -> int:
        """The length of the log, in bytes."""

    def open_current(self) -> SnapshotReader | None:
        """Open the newest snapshot that counts; the log goes on behind it."""

    def create(self, meta: SnapshotMeta) -> SnapshotWriter:
        """Begin a snapshot; it counts once it is finished and committed."""

    def commit(self, info: SnapshotInfo, now_ms: int) -> None:
        """Let a finished snapshot count, and decide what is not needed any more.

        Everything it builds on is on the disk when this returns.
        """

    def archive(self) -> None:
        """Copy what `prune` will remove to where the operator wants it, if anywhere."""

    def prune(self) -> None:
        """Remove what no retention policy asks for, and only what has been archived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """An opened backend: the log, the keyspace that its entries build, and facts for INFO."""

    log: LogPort
    snapshots: SnapshotPort
    keyspace: Keyspace
    node_id: str
    encryption_key_id: str | None
    # Marks the end of the log as clean and lets go of the directory.
    close: Callable[[], None]
    # Lets go of the directory as it is, after the log has failed.
    abandon: Callable[[], None]
    # Lines for the start log, such as how recovery found the directory.
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageRequest:
    """What the server asks a backend to open."""

    directory: Path
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageBackend:
    """A place to keep the log. `open` may block; raises `StartupError` when it cannot be opened."""

    name: str
    open: Callable[[StorageRequest], Storage]


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
