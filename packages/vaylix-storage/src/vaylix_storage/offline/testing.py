"""A small data directory with everything in it, for the tests of the offline tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from vaylix_storage._batch import Batch, BatchKind, HardState
from vaylix_storage._engine import Engine, EngineOptions
from vaylix_storage._key_providers import FileKeyProvider
from vaylix_storage._keyspace import Keyspace
from vaylix_storage._keyspace_snapshot import KeyspaceDump, KeyspaceLoader
from vaylix_storage._snapshot_format import SnapshotMeta
from vaylix_storage._staging import walk_files
from vaylix_storage.commands import Command, Incr, List, Set, decode_commands, encode_commands
from vaylix_storage.testing import MemoryVfs, counting_random_bytes

if TYPE_CHECKING:
    from vaylix_storage._snapshot import SnapshotInfo
    from vaylix_storage._vfs import Vfs

__all__ = ["NOW_MS", "Sample"]

NOW_MS: Final = 1_700_000_000_000


def _read(vfs: Vfs, path: Path) -> bytes:
    file = vfs.open(path)
    try:
        return file.read_at(0, file.size())
    finally:
        file.close()


class Sample:
    """Makes, fills and opens one data directory, by default on a `MemoryVfs` of its own.

    `random_bytes` differ between samples with another seed.
    """

    def __init__(
        self, path: Path = Path("/data"), vfs: Vfs | None = None, *, seed: int = 7
    ) -> None:
        self.path = path
        self.vfs = MemoryVfs() if vfs is None else vfs
        self._random_bytes = counting_random_bytes(seed)

    @property
    def memory(self) -> MemoryVfs:
        """The disk, if it is a simulated one."""
        assert isinstance(self.vfs, MemoryVfs)
        return self.vfs

    @property
    def wal(self) -> Path:
        """The directory of the log."""
        return self.path / "wal"

    def provider(self, path: Path | None = None) -> FileKeyProvider:
        """Return what wraps the keys of the directory, or of a copy of it."""
        return FileKeyProvider(
            (path or self.path) / "storage.key", vfs=self.vfs, random_bytes=self._random_bytes
        )

    def open(self, path: Path | None = None, *, segment_bytes_max: int = 500) -> Engine:
        """Open the directory, or a copy of it, as a node does."""
        return Engine.open(
            path or self.path,
            vfs=self.vfs,
            provider=self.provider(path),
            options=EngineOptions(segment_bytes_max=segment_bytes_max),
            now_ms=NOW_MS,
            random_bytes=self._random_bytes,
        )

    def append(self, engine: Engine, count: int = 1, *, size: int = 40) -> None:
        """Append batches of two commands, each acknowledged."""
        for _ in range(count):
            first = engine.log.last_index + 1
            commands: list[Command] = [Set(b"key %d" % first, b"v" * size), Incr(b"n")]
            batch = Batch.create(
                first_index=first,
                count=2,
                term=1,
                kind=BatchKind.KEYSPACE,
                timestamp_ms=NOW_MS + first,
                payload=encode_commands(commands),
            )
            engine.log.append([batch], HardState(1, b"me", batch.last_index))
            engine.log.sync()

    def snapshot(self, engine: Engine) -> SnapshotInfo:
        """Make a snapshot of all there is."""
        index = engine.log.last_index
        writer = engine.create_snapshot(SnapshotMeta(index, 1, NOW_MS + index, NOW_MS + 500))
        writer.begin_section("keyspace")
        dump = KeyspaceDump(self.keyspace(engine).begin_walk())
        while (chunk := dump.next_chunk()) is not None:
            writer.add(*chunk)
        dump.close()
        info = writer.finish()
        engine.commit_snapshot(info)
        return info

    def keyspace(self, engine: Engine) -> Keyspace:
        """Return the state that a node would have: the current snapshot and the log behind it."""
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
        return keyspace

    def contents(self, path: Path | None = None) -> dict[bytes, bytes]:
        """Open the directory as a node does and return all keys; closes it by a kill."""
        engine = self.open(path)
        try:
            keyspace = self.keyspace(engine)
            pairs = keyspace.apply([List()], NOW_MS, want_results=True)[0]
            assert isinstance(pairs, list)
            return dict(pairs)
        finally:
            engine.abandon()

    def files(self, path: Path | None = None) -> dict[Path, bytes]:
        """Return every file with its content."""
        root = path or self.path
        return {file: _read(self.vfs, file) for file in walk_files(root, self.vfs)}

    def fill(self, *, clean: bool) -> None:
        """Write 16 entries with snapshots of 6 and of 12, and stop."""
        engine = self.open()
        self.append(engine, 3)
        self.snapshot(engine)
        self.append(engine, 3)
        self.snapshot(engine)
        self.append(engine, 2)
        if clean:
            engine.close()
        else:
            engine.abandon()
