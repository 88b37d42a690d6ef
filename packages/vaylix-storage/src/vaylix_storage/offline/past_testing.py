"""Histories with snapshots, rotations and an archive, for the tests of point-in-time recovery."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vaylix_storage._batch import Batch, BatchKind
from vaylix_storage._builder import keyspace_section
from vaylix_storage._engine import Engine, EngineOptions
from vaylix_storage._key_providers import FileKeyProvider
from vaylix_storage._keyspace import Keyspace
from vaylix_storage._keyspace_snapshot import KeyspaceLoader
from vaylix_storage._retention import RetentionPolicy
from vaylix_storage._snapshot_format import SnapshotMeta
from vaylix_storage._staging import walk_files
from vaylix_storage.commands import Command, Incr, decode_commands, encode_commands
from vaylix_storage.offline.pitr import Point, RestoreOptions, RestoreResult, restore
from vaylix_storage.testing import MemoryVfs, counting_random_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_storage.offline.progress import Progress

__all__ = [
    "ARCHIVE",
    "SOURCE",
    "TARGET",
    "PastWriter",
    "State",
    "files_below",
    "open_engine",
    "provider_of",
    "restore_to",
    "small_history",
    "state_of",
]

SOURCE, TARGET, ARCHIVE = Path("/node/data"), Path("/node/restored"), Path("/node/archive")
State = dict[bytes, bytes]


def provider_of(vfs: MemoryVfs, path: Path) -> FileKeyProvider:
    """Return what wraps the keys of a directory."""
    return FileKeyProvider(path / "storage.key", vfs=vfs, random_bytes=counting_random_bytes(7))


def open_engine(
    vfs: MemoryVfs, path: Path = SOURCE, *, keep: int = 1, snapshots: int = 1
) -> Engine:
    """Open a directory as a node does; `keep` sealed segments, and some snapshots, stay."""
    return Engine.open(
        path,
        vfs=vfs,
        provider=provider_of(vfs, path),
        options=EngineOptions(
            segment_bytes_max=700,
            retention=RetentionPolicy(segments_max=keep, snapshots_max=snapshots),
            archive_directory=ARCHIVE,
        ),
        now_ms=1,
        random_bytes=counting_random_bytes(vfs.generation + 1),
    )


class PastWriter:
    """Writes a history and remembers the state behind each of its entries."""

    def __init__(self, vfs: MemoryVfs, *, keep: int = 1, snapshots: int = 1) -> None:
        self.vfs = vfs
        self.engine = open_engine(vfs, keep=keep, snapshots=snapshots)
        self.keyspace = Keyspace()
        self.counts: dict[bytes, int] = {}
        self.states: list[State] = [{}]
        self.times: list[int] = [0]

    def append(self, keys: list[bytes], timestamp_ms: int) -> None:
        """Append one batch that counts some keys up."""
        commands: list[Command] = [Incr(key) for key in keys]
        batch = Batch.create(
            first_index=self.engine.log.last_index + 1,
            count=len(commands),
            term=0,
            kind=BatchKind.KEYSPACE,
            timestamp_ms=timestamp_ms,
            payload=encode_commands(commands),
        )
        self.engine.log.append([batch])
        self.engine.log.sync()
        self.keyspace.apply(commands, timestamp_ms, want_results=False)
        for key in keys:
            self.counts[key] = self.counts.get(key, 0) + 1
            self.states.append({name: b"%d" % count for name, count in self.counts.items()})
            self.times.append(timestamp_ms)

    def snapshot(self) -> None:
        """Take a snapshot unless there is nothing new, and let retention and archive work."""
        index = self.engine.log.last_index
        current = self.engine.manifest.current
        if index == 0 or (current is not None and current.meta.index == index):
            return
        meta = SnapshotMeta(
            index=index, term=0, timestamp_ms=self.times[-1], created_at_ms=self.times[-1]
        )
        writer = self.engine.create_snapshot(meta)
        section = keyspace_section(self.keyspace)
        writer.begin_section(section.name)
        for plain, count in section.chunks:
            writer.add(plain, count)
        self.engine.commit_snapshot(writer.finish())
        self.engine.apply_retention(None, self.times[-1])

    def close(self) -> None:
        """Stop cleanly."""
        self.engine.close()


def state_of(vfs: MemoryVfs, path: Path) -> State:
    """Return what a node would have that starts in a directory."""
    engine = open_engine(vfs, path)
    keyspace = Keyspace()
    reader = engine.open_snapshot()
    if reader is not None:
        loader = KeyspaceLoader(keyspace)
        for _, plain in reader.chunks():
            loader.add(plain)
        loader.finish()
        reader.close()
    for batch in engine.read_behind_snapshot():
        commands = decode_commands(batch.payload, batch.count)
        keyspace.apply(commands, batch.timestamp_ms, want_results=False)
    engine.close()
    listed = keyspace.list_all(0, 10**9)
    assert isinstance(listed, list)
    return dict(listed)


def files_below(vfs: MemoryVfs, path: Path) -> dict[Path, bytes]:
    """Return every file with its content."""
    return {file: vfs.content(file) for file in walk_files(path, vfs)}


def restore_to(
    vfs: MemoryVfs,
    point: Point,
    *,
    force: bool = False,
    dry_run: bool = False,
    include_unconfirmed: bool = False,
    progress: Progress | None = None,
    free_bytes: Callable[[Path], int] | None = None,
) -> RestoreResult:
    """Restore the source into the target, with the archive."""
    options = RestoreOptions(
        now_ms=vfs.call_count,
        archive=ARCHIVE,
        random_bytes=counting_random_bytes(50),
        force=force,
        dry_run=dry_run,
        include_unconfirmed=include_unconfirmed,
        free_bytes=free_bytes,
    )
    return restore(
        SOURCE,
        TARGET,
        point,
        vfs=vfs,
        provider=provider_of(vfs, SOURCE),
        target_provider=lambda path: provider_of(vfs, path),
        options=options if progress is None else replace(options, progress=progress),
    )


def small_history(vfs: MemoryVfs) -> PastWriter:
    """Return a closed history of several segments, two of them archived, and two snapshots."""
    writer = PastWriter(vfs)
    for number in range(1, 9):
        writer.append([b"a", b"%d" % number, b"a"], number * 10)
        if number in {3, 6}:
            writer.snapshot()
    writer.close()
    return writer
