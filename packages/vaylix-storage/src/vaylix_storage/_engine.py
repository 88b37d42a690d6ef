"""A data directory, opened whole: identity, keys, snapshots and log as one.

The state of a node is its current snapshot and the entries of the log behind it. How a snapshot
becomes current:

1. It is written under a staging name while everything goes on (`create_snapshot`), synced, and
   named `snapshots/<index>.snapshot`. Nobody believes in it yet.
2. The log ends its segment, so that all entries the snapshot holds are on the disk: a snapshot is
   never ahead of the log it was made from.
3. The manifest is replaced, durably. **Now it is current.**
4. What the manifest does not name is removed. An installed snapshot, which came from elsewhere,
   puts an end to a log that does not reach and match it.

A start writes the manifest it has found once more: what can be read need not be on the disk. A
crash before 3 leaves the old snapshot and the log behind it; a crash after 3 leaves the new one.
Files that the manifest does not name are worth nothing, whoever left them; a start removes them.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vaylix_storage._archive import archive_segment, archive_snapshot
from vaylix_storage._directory import DataDirectory
from vaylix_storage._foreign_identity import refuse_foreign_identity
from vaylix_storage._key_providers import FileKeyProvider
from vaylix_storage._log import Log
from vaylix_storage._manifest import (
    Manifest,
    ManifestEntry,
    load_manifest,
    parse_snapshot_name,
    snapshot_name,
    store_manifest,
)
from vaylix_storage._names import KEY_NAME, MANIFEST_NAME, SNAPSHOTS_NAME, STAGING_SUFFIX
from vaylix_storage._options import SEGMENT_BYTES_MAX_DEFAULT, LogBase, LogOptions, SyncPolicy
from vaylix_storage._retention import RetentionPolicy, kept_snapshots, removable_before
from vaylix_storage._snapshot import SnapshotInfo, SnapshotReader, SnapshotWriter
from vaylix_storage._vfs import RealVfs
from vaylix_storage.errors import (
    RESTORE_REMEDY,
    CorruptionError,
    FileSystemError,
    LogOrderError,
    StorageBusyError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaylix_storage._batch import Batch
    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._keyring import Keyring
    from vaylix_storage._snapshot_format import SnapshotMeta
    from vaylix_storage._vfs import Vfs

__all__ = ["Engine", "EngineOptions", "RetentionPlan"]


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a directory. `sync_policy` and `segment_bytes_max` are those of the log.

    What `retention` lets go is copied to the `archive_directory` first, if there is one.
    """

    sync_policy: SyncPolicy = SyncPolicy.SYNC
    segment_bytes_max: int = SEGMENT_BYTES_MAX_DEFAULT
    retention: RetentionPolicy = RetentionPolicy()
    archive_directory: Path | None = None


class RetentionPlan(msgspec.Struct, frozen=True):
    """What may go: segments with nothing from entry `before` on, and some old snapshots."""

    before: int
    segments: tuple[Path, ...]
    snapshots: tuple[ManifestEntry, ...]


class Engine:
    """An open data directory; `Engine.open` makes one. Close it last.

    One thread at a time, but for what `Log` says of itself. A writer that `create_snapshot` has
    returned may be used by another thread; `commit_snapshot` counts as a change of the log.
    """

    __slots__ = (
        "_in_doubt",
        "_options",
        "_random_bytes",
        "_vfs",
        "_writers",
        "directory",
        "keyring",
        "log",
        "manifest",
    )

    def __init__(
        self,
        directory: DataDirectory,
        keyring: Keyring,
        manifest: Manifest,
        log: Log,
        vfs: Vfs,
        options: EngineOptions,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.directory = directory
        self.keyring = keyring
        self.manifest = manifest
        self.log = log
        self._vfs = vfs
        self._options = options
        self._random_bytes = random_bytes
        # Snapshots that are being written, or are written and not committed yet, by their path;
        # one that was abandoned goes when the next begins.
        self._writers: dict[Path, SnapshotWriter] = {}
        # Snapshots whose commit has failed: the manifest on the disk may name them or not.
        self._in_doubt: set[Path] = set()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        vfs: Vfs | None = None,
        provider: KeyProvider | None = None,
        options: EngineOptions | None = None,
        now_ms: int,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> Engine:
        """Lock and recover a directory, or make a new one.

        Without a provider the wrapping key is kept in `storage.key` inside. Of the snapshot only
        the size is checked: `open_snapshot` reads it. What the files say is changed only after the
        manifest and the log have been checked. Raises subclasses of StorageError.
        """
        vfs = RealVfs() if vfs is None else vfs
        options = EngineOptions() if options is None else options
        provider = FileKeyProvider(path / KEY_NAME, vfs=vfs) if provider is None else provider
        directory = DataDirectory.open(
            path, vfs=vfs, random_bytes=random_bytes, known=_known_paths(provider, options)
        )
        try:
            refuse_foreign_identity(path, directory.identity, vfs)
            keyring = directory.open_keyring(
                provider, created_at_ms=now_ms, random_bytes=random_bytes
            )
            manifest = load_manifest(
                path / MANIFEST_NAME, vfs=vfs, keyring=keyring, timeline=directory.timeline
            )
            _check_files(path, manifest, vfs)
            if manifest.snapshots:
                # It may be in the page cache only, left by a process whose sync failed. The log may
                # be cut because of what it says, so it has to be on the disk before.
                store_manifest(path / MANIFEST_NAME, manifest, vfs=vfs, keyring=keyring)
            log = _open_log(directory, keyring, manifest, vfs, options, random_bytes)
        except BaseException:
            directory.close()
            raise
        engine = cls(directory, keyring, manifest, log, vfs, options, random_bytes)
        try:
            directory.mark_log_begun()
            engine._prepare()
        except BaseException:
            engine.abandon()
            raise
        return engine

    # Reading

    def open_snapshot(self, entry: ManifestEntry | None = None) -> SnapshotReader | None:
        """Open a snapshot of the manifest, without an argument the current one; None if none is.

        It proves to be what the manifest names only when its last chunk has been read.
        """
        entry = self.manifest.current if entry is None else entry
        if entry is None:
            return None
        return SnapshotReader.open(
            self.snapshot_path(entry.meta.index),
            vfs=self._vfs,
            keyring=self.keyring,
            timeline=self.directory.timeline,
            end_tag=entry.end_tag,
        )

    def read_behind_snapshot(self) -> Iterator[Batch]:
        """Return an iterator over the batches behind the current snapshot; as `Log.read`."""
        current = self.manifest.current
        index = 0 if current is None else current.meta.index
        return self.log.read(index + 1)

    def snapshot_path(self, index: int) -> Path:
        """Where the snapshot of an index is kept."""
        return self.directory.path / SNAPSHOTS_NAME / snapshot_name(index)

    # Writing

    def create_snapshot(self, meta: SnapshotMeta) -> SnapshotWriter:
        """Start a snapshot, which must be newer than the current one; see `commit_snapshot`.

        `meta.index` must be the end of a batch. StorageBusyError when one with this index is being
        written or is there already; LogOrderError when it is older.
        """
        current = self.manifest.current
        if current is not None and meta.index < current.meta.index:
            raise LogOrderError(
                f"a snapshot of entry {meta.index} is older than that of {current.meta.index}"
            )
        if self._in_doubt:
            # Their names can be given again once no manifest names them, on the disk neither.
            self._store(self.manifest)
            self._remove_unnamed()
        self._writers = {
            path: writer for path, writer in self._writers.items() if not writer.is_abandoned
        }
        path = self.snapshot_path(meta.index)
        if path in self._writers or self._exists(path):
            raise StorageBusyError(f"there is a snapshot of entry {meta.index} already", path=path)
        writer = SnapshotWriter.create(
            path,
            meta,
            vfs=self._vfs,
            keyring=self.keyring,
            timeline=self.directory.timeline,
            random_bytes=self._random_bytes,
        )
        self._writers[path] = writer
        return writer

    def commit_snapshot(self, info: SnapshotInfo, *, installed: bool = False) -> None:
        """Make a finished snapshot the current one, durably; older ones stay in the manifest.

        `installed` is for one that came from elsewhere: it may be ahead of the log, which is then
        reset. Any other must not be, or LogOrderError. When this raises FileSystemError or
        LogPoisonedError, the old or the new one is current after the next start; it may be tried
        again.
        """
        meta = info.meta
        if not installed:
            if meta.index > self.log.last_index:
                raise LogOrderError(f"the log has not reached entry {meta.index}")
            if self._contradicts_log(meta):
                raise LogOrderError(f"entry {meta.index} of the log is not of term {meta.term}")
            self.log.rotate()
        entry = ManifestEntry(meta, info.size_bytes, info.end_tag, info.key_id, installed)
        manifest = Manifest(self.manifest.timeline, (*self.manifest.snapshots, entry))
        self._in_doubt.add(info.path)
        self._store(manifest)
        if installed and (meta.index > self.log.last_index or self._contradicts_log(meta)):
            self.log.reset(meta.index, meta.term)
        self._remove_unnamed()

    def apply_retention(
        self,
        policy: RetentionPolicy | None,
        now_ms: int,
        *,
        needed_from: int | None = None,
    ) -> list[Path]:
        """Archive, then remove, what a policy lets go; return the paths of what is gone.

        Without a policy, that of the options counts. `needed_from` is the first entry that a live
        follower still needs. It changes the log. Raises subclasses of StorageError; what was not
        archived is not removed then, and it may be tried again unless the log is poisoned.
        """
        plan = self.plan_retention(policy, now_ms, needed_from=needed_from)
        self.archive(plan)
        return self.remove(plan)

    def plan_retention(
        self,
        policy: RetentionPolicy | None,
        now_ms: int,
        *,
        needed_from: int | None = None,
    ) -> RetentionPlan:
        """Return what `apply_retention` would let go; changes nothing."""
        policy = self._options.retention if policy is None else policy
        snapshots = self.manifest.snapshots
        kept_count = kept_snapshots(
            [entry.meta.created_at_ms for entry in snapshots], policy=policy, now_ms=now_ms
        )
        current = self.manifest.current
        segments = self.log.segments()
        before = removable_before(
            segments,
            snapshot_index=0 if current is None else current.meta.index,
            policy=policy,
            now_ms=now_ms,
            needed_from=needed_from,
        )
        gone = [part.path for part in segments if part.is_sealed and part.last_index < before]
        return RetentionPlan(before, tuple(gone), snapshots[: len(snapshots) - kept_count])

    def archive(self, plan: RetentionPlan) -> None:
        """Copy what a plan lets go to the archive, if there is one.

        Takes its time, and touches nothing that changes: any thread, while entries are appended.
        """
        archive = self._options.archive_directory
        if archive is None:
            return
        timeline = self.directory.timeline
        for path in plan.segments:
            archive_segment(path, archive, vfs=self._vfs, timeline=timeline)
        for entry in plan.snapshots:
            path = self.snapshot_path(entry.meta.index)
            # One that somebody has taken away must not hold up all others for ever.
            if self._exists(path):
                archive_snapshot(path, archive, vfs=self._vfs, timeline=timeline)

    def remove(self, plan: RetentionPlan) -> list[Path]:
        """Remove what a plan lets go, once it is archived; return what is gone. Changes the log."""
        paths = [self.snapshot_path(entry.meta.index) for entry in plan.snapshots]
        if paths:
            kept = [entry for entry in self.manifest.snapshots if entry not in plan.snapshots]
            self._store(Manifest(self.manifest.timeline, tuple(kept)))
            self._remove_unnamed()
        return [*paths, *self.log.remove_before(plan.before)]

    def close(self) -> None:
        """Stop cleanly, and give up the lock. Closing twice is allowed."""
        try:
            self.log.close()
        finally:
            self.log.abandon()
            self.directory.close()

    def abandon(self) -> None:
        """Let go of everything as it is, as a kill would; the next start recovers."""
        self.log.abandon()
        self.directory.close()

    # Inside

    def _contradicts_log(self, meta: SnapshotMeta) -> bool:
        """Tell whether the log is known to have another term where a snapshot ends."""
        if not self.log.first_index <= meta.index <= self.log.last_index:
            return False
        return self.log.term_of(meta.index) != meta.term

    def _store(self, manifest: Manifest) -> None:
        path = self.directory.path / MANIFEST_NAME
        store_manifest(path, manifest, vfs=self._vfs, keyring=self.keyring)
        self.manifest = manifest
        for settled in self._in_doubt:
            self._writers.pop(settled, None)
        self._in_doubt.clear()

    def _exists(self, path: Path) -> bool:
        try:
            return self._vfs.exists(path)
        except OSError as error:
            raise FileSystemError(f"cannot read the directory: {error}", path=path) from error

    def _prepare(self) -> None:
        path = self.directory.path / SNAPSHOTS_NAME
        try:
            self._vfs.make_directory(path)
        except OSError as error:
            raise FileSystemError(f"cannot open the directory: {error}", path=path) from error
        self._remove_unnamed()

    def _remove_unnamed(self) -> None:
        """Remove snapshots that do not count; what fails is tried again the next time."""
        kept = {self.snapshot_path(entry.meta.index).name for entry in self.manifest.snapshots}
        for path in self._writers:
            kept.update((path.name, path.name + STAGING_SUFFIX))
        directory = self.directory.path / SNAPSHOTS_NAME
        with suppress(OSError):
            for name in self._vfs.list_directory(directory):
                is_ours = parse_snapshot_name(name.removesuffix(STAGING_SUFFIX)) is not None
                if is_ours and name not in kept:
                    self._vfs.unlink(directory / name)


def _known_paths(provider: KeyProvider, options: EngineOptions) -> list[Path]:
    """Return what the user has named, and may have put into a new directory."""
    paths = [provider.path] if isinstance(provider, FileKeyProvider) else []
    return paths if options.archive_directory is None else [*paths, options.archive_directory]


def _check_files(path: Path, manifest: Manifest, vfs: Vfs) -> None:
    """Check that the current snapshot is there and as long as it should be."""
    current = manifest.current
    if current is None:
        return
    file_path = path / SNAPSHOTS_NAME / snapshot_name(current.meta.index)
    try:
        file = vfs.open(file_path)
        try:
            size_bytes = file.size()
        finally:
            file.close()
    except FileNotFoundError as error:
        raise _damaged(file_path, 0, "the snapshot is missing that the manifest names") from error
    except OSError as error:
        raise FileSystemError(f"cannot read the snapshot: {error}", path=file_path) from error
    if size_bytes != current.size_bytes:
        offset = min(size_bytes, current.size_bytes)
        reason = f"the snapshot has {size_bytes} bytes, not {current.size_bytes}"
        raise _damaged(file_path, offset, reason)


def _damaged(path: Path, offset: int, reason: str) -> CorruptionError:
    return CorruptionError(reason, path=path, offset=offset, remedy=RESTORE_REMEDY)


def _open_log(
    directory: DataDirectory,
    keyring: Keyring,
    manifest: Manifest,
    vfs: Vfs,
    options: EngineOptions,
    random_bytes: Callable[[int], bytes],
) -> Log:
    current = manifest.current
    base = None
    if current is not None:
        base = LogBase(current.meta.index, current.meta.term, current.installed)
    return Log.open(
        directory.wal_path,
        vfs=vfs,
        keyring=keyring,
        options=LogOptions(
            timeline=directory.timeline,
            must_exist=directory.log_has_begun,
            sync_policy=options.sync_policy,
            segment_bytes_max=options.segment_bytes_max,
            base=base,
        ),
        random_bytes=random_bytes,
    )
