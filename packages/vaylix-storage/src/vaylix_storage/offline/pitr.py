"""Restoring a directory as it was at a point in time, as the beginning of a new history.

The target gets the newest snapshot at or below the point and the entries behind it, up to the point
and no further. Nothing is applied: the state that a node builds from these is the state of that
time, users and roles included. Ids, timeline and keys are fresh, so that no peer and no archive of
the old history can be taken for part of the new one.

The target is built aside, opened and read back, and only then gets its name (`_restored_target`).
The source is not changed, and is locked against writers all the while.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_storage._batch import IDENTITY, Batch, BatchKind
from vaylix_storage._builder import (
    BuiltDirectory,
    NewHistory,
    Section,
    build_directory,
    read_back,
)
from vaylix_storage._snapshot_format import SnapshotMeta
from vaylix_storage._staging import finish_building
from vaylix_storage._vfs import create_file_durably
from vaylix_storage.commands import decode_commands, encode_commands
from vaylix_storage.errors import (
    CorruptionError,
    FileSystemError,
    KeyringError,
    RestorePointError,
    StorageError,
)
from vaylix_storage.offline._moment import MomentVfs
from vaylix_storage.offline._read_only import MeteredVfs, ReadOnlyVfs
from vaylix_storage.offline._restored_target import REPORT_NAME, RestoreTarget
from vaylix_storage.offline.history import History, Interval, PastSnapshot, read_history
from vaylix_storage.offline.progress import Progress, no_progress
from vaylix_storage.offline.verify import bytes_to_read, check_is_directory, lock_for_reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._snapshot_format import SectionCounts
    from vaylix_storage._vfs import Vfs

__all__ = [
    "Point",
    "RestoreOptions",
    "RestoreResult",
    "Window",
    "cut_store_batch",
    "inspect",
    "restore",
    "window_of",
]

_LOOKS_MAX: Final = 5
_COPY_REMEDY: Final = (
    "take a consistent copy with `vaylix storage copy`, and use that; only inspect can look at it "
    "as it is, with --live"
)
# What a new directory takes beside its contents, and more: a segment of the log has room to grow.
_SPARE_BYTES: Final = 16 * 1024 * 1024


class Point(msgspec.Struct, frozen=True):
    """A point in time: an entry, or a Unix time in ms; exactly one of them."""

    sequence: int | None = None
    timestamp_ms: int | None = None

    def __post_init__(self) -> None:
        """Refuse a point that is none or two."""
        if (self.sequence is None) == (self.timestamp_ms is None):
            raise ValueError("a point is a sequence or a time")


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What can be restored: every entry from `earliest` to `latest`, and all of `earlier`.

    Between the intervals something is missing. Times are those of the entries, 0 before the first.
    `unconfirmed` durable entries lie behind `latest`, which is the last one known to be committed.
    """

    earliest: int
    earliest_timestamp_ms: int
    latest: int
    latest_timestamp_ms: int
    earlier: tuple[Interval, ...]
    unconfirmed: int

    def __str__(self) -> str:
        parts = [*((part.earliest, part.latest) for part in self.earlier)]
        parts.append((self.earliest, self.latest))
        return ", ".join(f"{a} to {b}" if a < b else f"{a}" for a, b in parts)


class RestoreResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was restored, or would be. `replaced` is where an old target is kept.

    `problems` are damages that stood in the way, and what was done without.
    """

    source: Path
    target: Path
    sequence: int
    snapshot_sequence: int | None
    unconfirmed: int
    is_done: bool
    problems: tuple[str, ...] = ()
    replaced: Path | None = None
    cluster_id: str | None = None
    node_id: str | None = None
    timeline: str | None = None


def cut_store_batch(batch: Batch, count: int) -> bytes:
    """Return the payload of the first `count` commands of a batch that a `Store` wrote."""
    return encode_commands(decode_commands(batch.payload, batch.count)[:count])


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """How to restore. `now_ms` is the time of the new directory.

    `cut` returns the payload of the first commands of a batch, for a point inside of one. Entries
    that are durable but not known to be committed are restored only with `include_unconfirmed`.
    With `force`, an old target is kept beside under another name. `free_bytes` returns how much
    space there is where a path is.
    """

    now_ms: int
    archive: Path | None = None
    cut: Callable[[Batch, int], bytes] = cut_store_batch
    include_unconfirmed: bool = False
    force: bool = False
    dry_run: bool = False
    random_bytes: Callable[[int], bytes] = os.urandom
    free_bytes: Callable[[Path], int] | None = None
    progress: Progress = no_progress


def window_of(history: History) -> Window | None:
    """Say what can be restored of a history, None if nothing can."""
    limit = history.committed_index
    intervals = history.intervals(limit)
    if not intervals:
        return None
    *earlier, last = intervals
    return Window(
        earliest=last.earliest,
        earliest_timestamp_ms=last.earliest_timestamp_ms,
        latest=last.latest,
        latest_timestamp_ms=last.latest_timestamp_ms,
        earlier=tuple(earlier),
        unconfirmed=history.last_index - limit,
    )


def inspect(
    path: Path,
    *,
    vfs: Vfs,
    provider: KeyProvider,
    archive: Path | None = None,
    live: bool = False,
    progress: Progress = no_progress,
) -> History:
    """Read what can be restored of a directory; changes nothing. Raises subclasses of StorageError.

    With `live` another process may use it, and the newest entries may be missing. Snapshots that
    are damaged are among the problems, and do not count.
    """
    looks = _LOOKS_MAX if live else 1
    while True:
        looks -= 1
        try:
            with _reading(path, vfs, live=live):
                view = MomentVfs(path, ReadOnlyVfs(vfs)) if live else vfs
                return _read(path, view, provider, archive, progress, check_snapshots=True)
        except (CorruptionError, FileSystemError):
            # In use, a file may be renamed or removed between two calls.
            if not looks:
                raise


@contextmanager
def _reading(path: Path, vfs: Vfs, *, live: bool = False) -> Iterator[None]:
    """Keep writers out of a data directory; OSError becomes FileSystemError."""
    read_only = ReadOnlyVfs(vfs)
    try:
        check_is_directory(path, read_only)
        lock = None if live else lock_for_reading(path, read_only, remedy=_COPY_REMEDY)
        try:
            yield
        finally:
            if lock is not None:
                lock.release()
    except OSError as error:
        raise FileSystemError(f"cannot be read: {error}", path=path) from error


def _read(
    path: Path,
    vfs: Vfs,
    provider: KeyProvider,
    archive: Path | None,
    progress: Progress,
    *,
    check_snapshots: bool,
) -> History:
    paths = [path]
    if archive is not None and vfs.exists(archive):
        paths += [archive / name for name in vfs.list_subdirectories(archive)]
    # The log of the directory is read twice.
    total = 2 * sum(bytes_to_read(part, vfs) for part in paths)
    metered = MeteredVfs(ReadOnlyVfs(vfs), progress, "reading", total)
    history = read_history(
        path, vfs=metered, provider=provider, archive=archive, check_snapshots=check_snapshots
    )
    metered.finish()
    return history


class _Restore:
    """One restore: which snapshot and which entries make up the target."""

    def __init__(
        self, source: Path, history: History, point: Point, options: RestoreOptions
    ) -> None:
        self._source = source
        self._history = history
        self._options = options
        self._sections: tuple[SectionCounts, ...] = ()
        # Over all batches that were taken.
        self.digest = hashlib.sha256()
        self.index = self._resolve(point)
        self.base = self._choose_base()

    @property
    def _base_index(self) -> int:
        return 0 if self.base is None else self.base.meta.index

    def _resolve(self, point: Point) -> int:
        """Return the last entry that the target shall hold. Raises RestorePointError."""
        history = self._history
        unconfirmed = self._options.include_unconfirmed
        limit = history.last_index if unconfirmed else history.committed_index
        index = point.sequence
        if point.timestamp_ms is not None:
            index = history.index_at(point.timestamp_ms, limit)
        if index is None or not 0 <= index <= limit or not list(history.bases_for(index)):
            # What is out of reach is told truly only when it is known what is whole.
            history.check_snapshots()
            raise self._out_of_reach(point, index, limit)
        return index

    def _choose_base(self) -> PastSnapshot | None:
        """Return the newest snapshot that leads to the point and is whole; None: the beginning."""
        failure: StorageError | None = None
        for base in list(self._history.bases_for(self.index)):
            if base is None:
                return None
            try:
                self._sections = self._history.read_whole(base)
            except (CorruptionError, FileSystemError, KeyringError) as error:
                self._history.drop(base, error)
                failure = failure or error
                continue
            return base
        assert failure is not None, "a point that can be resolved has a base"
        self._history.check_snapshots()
        window = window_of(self._history)
        left = "nothing else can be restored" if window is None else f"the window is {window}"
        failure.remedy = "; ".join(filter(None, (failure.remedy, f"without it, {left}")))
        raise failure

    def new_history(self) -> NewHistory:
        """Return what the target shall hold, made as it is asked."""
        meta = SnapshotMeta(index=0, term=0, timestamp_ms=0, created_at_ms=self._options.now_ms)
        if self.base is None:
            return NewHistory(meta, (), self._batches())
        old = self.base.meta
        meta = msgspec.structs.replace(old, created_at_ms=self._options.now_ms)
        return NewHistory(meta, self._copied_sections(self.base), self._batches())

    def check_space(self, path: Path) -> None:
        """Raise FileSystemError when there is too little."""
        if self._options.free_bytes is None:
            return
        free = self._options.free_bytes(path)
        needed = _SPARE_BYTES + self._history.bytes_for(self._base_index, self.index)
        needed += 0 if self.base is None else self.base.size_bytes
        if free < needed:
            raise FileSystemError(
                f"the restore needs up to {needed} bytes, but only {free} are free",
                path=path,
                remedy="make room, or choose a target on another volume",
            )

    def verify(self, built: BuiltDirectory, vfs: Vfs, provider: KeyProvider) -> None:
        """Open what was built as a node would, and read all of it back."""
        seen: dict[str, hashlib._Hash] = {}
        digest = hashlib.sha256()
        tell = self._teller("verifying", self._chunk_count + self.index - self._base_index)
        tell(0)

        def take(name: str, plain: bytes) -> None:
            seen.setdefault(name, hashlib.sha256()).update(plain)
            tell(1)

        def take_batch(batch: Batch) -> None:
            _note(digest, batch)
            tell(batch.count)

        meta, last_index = read_back(
            built.path, vfs=vfs, provider=provider, take=take, take_batch=take_batch
        )
        # A section without chunks is not read back, and has nothing to compare.
        wanted = {
            part.name: built.digests[part.name] for part in self._sections if part.name in seen
        }
        if (
            meta != built.snapshot.meta
            or last_index != self.index
            or {name: part.digest() for name, part in seen.items()} != wanted
            or any(part.chunk_count and part.name not in seen for part in self._sections)
            or digest.digest() != self.digest.digest()
        ):
            raise CorruptionError(
                "what was written is not what is read back",
                path=built.path,
                offset=0,
                remedy="check the disk and the memory of this machine; the source is untouched",
            )

    @property
    def _chunk_count(self) -> int:
        return sum(part.chunk_count for part in self._sections)

    def _teller(self, what: str, total: int) -> Callable[[int], None]:
        """Return what tells of progress when it is given how much more has been done."""
        done = 0

        def tell(more: int) -> None:
            nonlocal done
            done = min(done + more, total)
            self._options.progress(what, done, total)

        return tell

    def _batches(self) -> Iterator[Batch]:
        tell = self._teller("restoring entries", self.index - self._base_index)
        for found in self._history.batches(self._base_index, self.index):
            batch = self._restored(found)
            _note(self.digest, batch)
            yield batch
            tell(batch.count)

    def _restored(self, batch: Batch) -> Batch:
        """Return a batch as the new history has it: cut at the point, and without old members."""
        count = min(batch.count, self.index - batch.first_index + 1)
        kind, payload = batch.kind, batch.payload
        if kind == BatchKind.CONFIGURATION:
            # The new history has one voter, which must not wait for the members of the old one.
            kind, payload = int(BatchKind.NOOP), b""
        elif count < batch.count:
            payload = self._options.cut(batch, count) if kind != BatchKind.NOOP else payload
        else:
            return batch
        return Batch.create(
            first_index=batch.first_index,
            count=count,
            term=batch.term,
            kind=kind,
            timestamp_ms=batch.timestamp_ms,
            payload=payload,
        )

    def _copied_sections(self, base: PastSnapshot) -> Iterator[Section]:
        """Yield the sections of a snapshot that has been read through and found whole."""
        tell = self._teller("restoring a snapshot", self._chunk_count)
        with closing(self._history.open(base)) as reader:
            pieces = groupby(_told(reader.chunks(), tell), key=itemgetter(0))
            for part in self._sections:
                chunks: Iterable[tuple[str, bytes]] = ()
                if part.chunk_count:
                    _, chunks = next(pieces)
                yield Section(part.name, _counted(chunks, part.item_count))
            # The end of the reader is the proof that all of it was right.
            assert next(pieces, None) is None

    def _out_of_reach(self, point: Point, index: int | None, limit: int) -> StorageError:
        window = window_of(self._history)
        if window is None:
            return self._history.nothing_left(self._source)
        what = f"entry {point.sequence}"
        remedy = "choose a point in the window, or name the archive that reaches further back"
        if point.timestamp_ms is not None:
            what = f"the time {point.timestamp_ms} ms"
            begin_ms = window.earliest_timestamp_ms
            if window.earlier:
                begin_ms = window.earlier[0].earliest_timestamp_ms
            if index is None and point.timestamp_ms >= begin_ms:
                remedy += "; entries of that time are missing, so name an entry instead"
        if index is not None and limit < index <= self._history.last_index:
            remedy = "the entry is durable but not known to be committed: --include-unconfirmed"
        return RestorePointError(
            f"{what} cannot be restored; the window is {window}, from "
            f"{window.earliest_timestamp_ms} to {window.latest_timestamp_ms} ms",
            path=self._source,
            remedy=remedy,
        )


def restore(
    source: Path,
    target: Path,
    point: Point,
    *,
    vfs: Vfs,
    provider: KeyProvider,
    target_provider: Callable[[Path], KeyProvider],
    options: RestoreOptions,
) -> RestoreResult:
    """Make `target` a directory that holds what `source` held at a point, and nothing later.

    `target_provider` gets the directory that is being built and returns what wraps its keys. Raises
    RestorePointError for a point out of reach, RestoreTargetError for a target that will not do,
    and other subclasses of StorageError; then target and source are as before. After a crash it can
    be done again.
    """
    with _reading(source, vfs):
        place = RestoreTarget(target, vfs)
        sources = [source] if options.archive is None else [source, options.archive]
        place.check(sources, force=options.force)
        history = _read(
            source, vfs, provider, options.archive, options.progress, check_snapshots=False
        )
        work = _Restore(source, history, point, options)
        result = RestoreResult(
            source=source,
            target=target,
            sequence=work.index,
            snapshot_sequence=None if work.base is None else work.base.meta.index,
            unconfirmed=history.last_index - history.committed_index,
            is_done=False,
            problems=tuple(history.problems),
        )
        work.check_space(place.staging.parent)
        if options.dry_run:
            return result
        try:
            place.clear_staging()
            built = _build(work, place.staging, vfs, target_provider, options)
            report = msgspec.structs.replace(
                result,
                is_done=True,
                cluster_id=built.identity.cluster_id,
                node_id=built.identity.node_id,
                timeline=built.identity.timeline,
            )
            content = msgspec.json.format(msgspec.json.encode(report, enc_hook=str)) + b"\n"
            create_file_durably(vfs, place.staging / REPORT_NAME, content)
            finish_building(place.staging, vfs)
            replaced = place.take_place(options.now_ms, force=options.force)
        except (StorageError, OSError) as error:
            # The space may be what was missing. If this fails, too, the next attempt does it.
            with suppress(StorageError, OSError):
                place.clear_staging()
            if isinstance(error, StorageError):
                raise
            raise FileSystemError(f"cannot be restored: {error}", path=target) from error
        return msgspec.structs.replace(report, replaced=replaced)


def _build(
    work: _Restore,
    path: Path,
    vfs: Vfs,
    target_provider: Callable[[Path], KeyProvider],
    options: RestoreOptions,
) -> BuiltDirectory:
    """Build the new directory, and see that it is what it should be."""
    provider = target_provider(path)
    built = build_directory(
        path,
        work.new_history(),
        vfs=vfs,
        provider=provider,
        random_bytes=options.random_bytes,
        finish=False,
    )
    work.verify(built, vfs, provider)
    return built


def _note(digest: hashlib._Hash, batch: Batch) -> None:
    identity = (batch.first_index, batch.count, batch.term, batch.kind, batch.timestamp_ms)
    digest.update(IDENTITY.pack(*identity))
    digest.update(batch.payload)


def _told(
    chunks: Iterable[tuple[str, bytes]], tell: Callable[[int], None]
) -> Iterator[tuple[str, bytes]]:
    """Pass chunks on, and tell of each once it has been dealt with."""
    for chunk in chunks:
        yield chunk
        tell(1)


def _counted(chunks: Iterable[tuple[str, bytes]], count: int) -> Iterator[tuple[bytes, int]]:
    """Yield chunks with numbers of items. Only the sum is known, and it is the sum that counts."""
    for _, plain in chunks:
        yield plain, count
        count = 0
