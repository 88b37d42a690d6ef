"""The simplest state there is over a data directory: the list of all its batches.

A snapshot holds it as one chunk for each batch, so what a start finds, a snapshot and the log
behind it, can be compared batch by batch with what was appended.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_storage._batch import Batch, BatchKind
from vaylix_storage._engine import Engine, EngineOptions
from vaylix_storage._retention import RetentionPolicy
from vaylix_storage._snapshot_format import SnapshotMeta
from vaylix_storage.testing._fixed import counting_random_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaylix_storage._snapshot import SnapshotInfo
    from vaylix_storage.testing._memory_vfs import MemoryVfs

__all__ = [
    "ARCHIVE",
    "NOW_MS",
    "OPTIONS",
    "PATH",
    "make_batch",
    "meta_of",
    "open_engine",
    "state_of",
    "take_snapshot",
    "write_snapshot",
]

PATH: Final = Path("/data")
ARCHIVE: Final = Path("/archive")
NOW_MS: Final = 1_700_000_000_000
# Everything happens soon: segments of four batches, and nothing is kept that need not be.
OPTIONS: Final = EngineOptions(
    segment_bytes_max=2500,
    retention=RetentionPolicy(segments_max=0, snapshots_max=1),
    archive_directory=ARCHIVE,
)
_SECTION: Final = "state"


def open_engine(vfs: MemoryVfs, options: EngineOptions = OPTIONS) -> Engine:
    """Open the directory at `PATH`, with bytes by chance that differ after each power cut only."""
    return Engine.open(
        PATH,
        vfs=vfs,
        options=options,
        now_ms=NOW_MS,
        random_bytes=counting_random_bytes(vfs.generation),
    )


def make_batch(first_index: int, term: int = 1, payload_bytes: int = 600) -> Batch:
    """Return a batch of two entries that no other index has the like of."""
    return Batch.create(
        first_index=first_index,
        count=2,
        term=term,
        kind=BatchKind.KEYSPACE,
        timestamp_ms=NOW_MS + first_index,
        payload=bytes([first_index % 251 + 1]) * payload_bytes,
    )


def meta_of(batches: Sequence[Batch]) -> SnapshotMeta:
    """Return what a snapshot of these batches says of itself."""
    last = batches[-1]
    return SnapshotMeta(last.last_index, last.term, last.timestamp_ms, NOW_MS)


def write_snapshot(engine: Engine, batches: Sequence[Batch]) -> SnapshotInfo:
    """Write a snapshot of these batches and finish it; nobody believes in it yet."""
    writer = engine.create_snapshot(meta_of(batches))
    writer.begin_section(_SECTION)
    for batch in batches:
        writer.add(msgspec.msgpack.encode(batch), 1)
    return writer.finish()


def take_snapshot(engine: Engine, batches: Sequence[Batch], *, installed: bool = False) -> None:
    """Make a snapshot of these batches the current one."""
    engine.commit_snapshot(write_snapshot(engine, batches), installed=installed)


def state_of(engine: Engine) -> list[Batch]:
    """Load the snapshot and what follows it, as a node does at its start."""
    state: list[Batch] = []
    reader = engine.open_snapshot()
    if reader is not None:
        for name, plain in reader.chunks():
            assert name == _SECTION
            state.append(msgspec.msgpack.decode(plain, type=Batch))
        assert state[-1].last_index == reader.meta.index
        reader.close()
    return state + list(engine.read_behind_snapshot())
