"""Building a whole new data directory from a state: for migrations and restores.

The new directory begins a history of its own: fresh ids, a fresh timeline, fresh keys. Its first
snapshot holds the state at an index and counts as installed, so that the log begins behind it.
Nothing can start in it before it is finished; see `_staging`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from vaylix_storage._batch import Batch, HardState
from vaylix_storage._directory import DataDirectory, NodeIdentity
from vaylix_storage._keyring import Keyring
from vaylix_storage._keyspace_snapshot import KeyspaceDump
from vaylix_storage._log import Log
from vaylix_storage._manifest import Manifest, ManifestEntry, load_manifest, store_manifest
from vaylix_storage._names import IDENTITY_NAME, KEYRING_NAME, MANIFEST_NAME
from vaylix_storage._options import LogBase, LogOptions, SyncPolicy
from vaylix_storage._snapshot import SnapshotInfo, SnapshotReader, SnapshotWriter
from vaylix_storage._staging import begin_building, finish_building
from vaylix_storage.errors import CorruptionError, FileSystemError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._keyspace import Keyspace
    from vaylix_storage._snapshot_format import SnapshotMeta
    from vaylix_storage._vfs import Vfs

__all__ = [
    "KEYSPACE_SECTION",
    "BuiltDirectory",
    "NewHistory",
    "Section",
    "build_directory",
    "keyspace_section",
    "read_back",
]

KEYSPACE_SECTION: Final = "keyspace"
# Batches are put together until a frame has this much.
_FRAME_BYTES: Final = 1024 * 1024


class Section(NamedTuple):
    """A named part of a state: chunks, each with the number of its items, made as they are asked.

    A chunk has at most 16 MiB. (`SnapshotWriter.add` says how much exactly.)
    """

    name: str
    chunks: Iterable[tuple[bytes, int]]


class NewHistory(NamedTuple):
    """What a new directory holds: a state at an index, and entries that follow on it.

    Without a hard state, that of a node which has committed all of it is written.
    """

    meta: SnapshotMeta
    sections: Iterable[Section]
    batches: Iterable[Batch] = ()
    hard_state: HardState | None = None


class BuiltDirectory(msgspec.Struct, frozen=True):
    """What was built. `digests` are SHA-256 over all chunks of each section, by its name."""

    path: Path
    identity: NodeIdentity
    snapshot: SnapshotInfo
    last_index: int
    digests: dict[str, bytes]


def keyspace_section(keyspace: Keyspace) -> Section:
    """Return a keyspace as a section. It must not change before the last chunk was taken."""
    return Section(KEYSPACE_SECTION, _keyspace_chunks(keyspace))


def _keyspace_chunks(keyspace: Keyspace) -> Iterator[tuple[bytes, int]]:
    dump = KeyspaceDump(keyspace.begin_walk())
    try:
        while (chunk := dump.next_chunk()) is not None:
            yield chunk
    finally:
        dump.close()


def build_directory(
    path: Path,
    history: NewHistory,
    *,
    vfs: Vfs,
    provider: KeyProvider,
    random_bytes: Callable[[int], bytes] = os.urandom,
    finish: bool = True,
) -> BuiltDirectory:
    """Make a data directory that holds a state, and entries that follow on it.

    `path` must not exist, or must be without data of Vaylix. Everything is on the disk when this
    returns. Without `finish`, the directory stays unfinished for what the caller adds to it; then
    `finish_building` is up to the caller.

    Raises subclasses of StorageError and leaves the unfinished directory: remove it with
    `remove_built`.
    """
    try:
        if vfs.exists(path / IDENTITY_NAME):
            raise FileSystemError(
                "there is a data directory already", path=path, remedy="choose an empty directory"
            )
        begin_building(path, vfs)
        directory = DataDirectory.open(
            path, vfs=vfs, random_bytes=random_bytes, is_being_built=True
        )
        try:
            keyring = directory.open_keyring(
                provider, created_at_ms=history.meta.created_at_ms, random_bytes=random_bytes
            )
            snapshot, digests = _write_snapshot(directory, keyring, vfs, history, random_bytes)
            last_index = _write_log(directory, keyring, vfs, history, random_bytes)
        finally:
            directory.close()
        if finish:
            finish_building(path, vfs)
    except OSError as error:
        raise FileSystemError(f"cannot build the directory: {error}", path=path) from error
    return BuiltDirectory(path, directory.identity, snapshot, last_index, digests)


def read_back(
    path: Path,
    *,
    vfs: Vfs,
    provider: KeyProvider,
    take: Callable[[str, bytes], None],
    take_batch: Callable[[Batch], None] | None = None,
) -> tuple[SnapshotMeta, int]:
    """Open a directory that was built as a node would, and read all of it back from the files.

    `take` gets section and chunk, `take_batch` what follows the snapshot, in order. Returns what
    the snapshot says of itself, and the last index of the log. Raises subclasses of StorageError.
    """
    try:
        directory = DataDirectory.open(path, vfs=vfs, is_being_built=True)
        try:
            keyring = Keyring.load(path / KEYRING_NAME, vfs=vfs, provider=provider)
            entry = load_manifest(
                path / MANIFEST_NAME, vfs=vfs, keyring=keyring, timeline=directory.timeline
            ).current
            if entry is None:
                raise CorruptionError("the snapshot is missing", path=path, offset=0)
            reader = SnapshotReader.open(
                _snapshot_path(path, entry.meta),
                vfs=vfs,
                keyring=keyring,
                timeline=directory.timeline,
                end_tag=entry.end_tag,
            )
            try:
                for name, plain in reader.chunks():
                    take(name, plain)
            finally:
                reader.close()
            # Not as installed: a log that does not reach its base is a mistake here.
            base = LogBase(entry.meta.index, entry.meta.term, installed=False)
            log = _open_log(directory, keyring, vfs, base, os.urandom, must_exist=True)
            try:
                if take_batch is not None:
                    for batch in log.read(entry.meta.index + 1):
                        take_batch(batch)
                log.close()
            finally:
                log.abandon()
            return reader.meta, log.last_index
        finally:
            directory.close()
    except OSError as error:
        raise FileSystemError(f"cannot read back: {error}", path=path) from error


def _snapshot_path(path: Path, meta: SnapshotMeta) -> Path:
    return path / "snapshots" / f"{meta.index}.snapshot"


def _digested(sections: Iterable[Section], digests: dict[str, bytes]) -> Iterator[Section]:
    """Pass sections on and note what was in each."""
    for name, chunks in sections:
        digest = hashlib.sha256()
        yield Section(name, _noted(chunks, digest))
        digests[name] = digest.digest()


def _noted(
    chunks: Iterable[tuple[bytes, int]], digest: hashlib._Hash
) -> Iterator[tuple[bytes, int]]:
    for plain, item_count in chunks:
        digest.update(plain)
        yield plain, item_count


def _write_snapshot(
    directory: DataDirectory,
    keyring: Keyring,
    vfs: Vfs,
    history: NewHistory,
    random_bytes: Callable[[int], bytes],
) -> tuple[SnapshotInfo, dict[str, bytes]]:
    meta = history.meta
    path = _snapshot_path(directory.path, meta)
    digests: dict[str, bytes] = {}
    vfs.make_directory(path.parent)
    writer = SnapshotWriter.create(
        path,
        meta,
        vfs=vfs,
        keyring=keyring,
        timeline=directory.timeline,
        random_bytes=random_bytes,
    )
    try:
        for name, chunks in _digested(history.sections, digests):
            writer.begin_section(name)
            for plain, item_count in chunks:
                writer.add(plain, item_count)
        info = writer.finish()
    except BaseException:
        writer.abandon()
        raise
    entry = ManifestEntry(
        meta=meta,
        size_bytes=info.size_bytes,
        end_tag=info.end_tag,
        key_id=info.key_id,
        installed=True,
    )
    manifest = Manifest(directory.timeline, (entry,))
    store_manifest(directory.path / MANIFEST_NAME, manifest, vfs=vfs, keyring=keyring)
    return info, digests


def _write_log(
    directory: DataDirectory,
    keyring: Keyring,
    vfs: Vfs,
    history: NewHistory,
    random_bytes: Callable[[int], bytes],
) -> int:
    meta = history.meta
    base = LogBase(meta.index, meta.term, installed=True)
    log = _open_log(directory, keyring, vfs, base, random_bytes, must_exist=False)
    directory.mark_log_begun()
    try:
        term = meta.term
        frame: list[Batch] = []
        frame_bytes = 0
        for batch in history.batches:
            frame.append(batch)
            frame_bytes += len(batch.payload)
            term = batch.term
            if frame_bytes >= _FRAME_BYTES:
                log.append(frame)
                frame, frame_bytes = [], 0
        log.append(frame)
        log.append((), history.hard_state or HardState(term=term, commit=log.last_index))
        log.sync()
        log.close()
    except BaseException:
        log.abandon()
        raise
    return log.last_index


def _open_log(
    directory: DataDirectory,
    keyring: Keyring,
    vfs: Vfs,
    base: LogBase,
    random_bytes: Callable[[int], bytes],
    *,
    must_exist: bool,
) -> Log:
    return Log.open(
        directory.wal_path,
        vfs=vfs,
        keyring=keyring,
        options=LogOptions(
            timeline=directory.timeline,
            must_exist=must_exist,
            sync_policy=SyncPolicy.BUFFERED,
            base=base,
        ),
        random_bytes=random_bytes,
    )
