"""The embedded database: log, snapshots and keyspace behind one small interface.

    with Store.open("data") as store:
        store.set(b"greeting", b"hello", ttl_ms=60_000)
        store.incr(b"visits")

A write is encoded, appended to the log and synced; only then is it applied to memory and its method
returns. So under the sync policy `SYNC` whatever has returned survives a kill and a power cut. A
batch is one entry of the log: all of it or nothing.

Threads: any thread may call any method. One call runs at a time, the others wait. Snapshots and
backups let others in between their steps and show the state of the moment they began. What runs in
the middle of a call in the same thread, such as a signal handler, gets StorageBusyError.

Processes: one. In a child made by a fork (also of `multiprocessing`) every method raises
ForeignProcessError, but for `close`, which lets go of the files and changes nothing.

Directories of a Vaylix server hold more than keys, and their log means something else: they are
refused. Data change sides by logical backups.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self, cast

from vaylix_storage._batch import Batch, BatchKind
from vaylix_storage._engine import Engine
from vaylix_storage._key_providers import FileKeyProvider
from vaylix_storage._keyspace_snapshot import KeyspaceDump
from vaylix_storage._options import SEGMENT_BYTES_MAX_DEFAULT, SyncPolicy
from vaylix_storage._results import Answer, CommandFailure, ExecResult, Result
from vaylix_storage._snapshot_format import SnapshotMeta
from vaylix_storage._store_arguments import (
    check_backup_path,
    check_bytes,
    check_number,
    check_time,
    engine_options,
    set_command,
)
from vaylix_storage._store_batch import StoreBatch, failure_of
from vaylix_storage._store_lock import CallLock
from vaylix_storage._store_state import (
    KEYSPACE_SECTION,
    MARKER,
    MARKER_KIND,
    STORE_SECTION,
    encode_for_log,
    load,
)
from vaylix_storage._vfs import RealVfs, Vfs
from vaylix_storage.commands import (
    Clear,
    Command,
    Decr,
    Del,
    Exec,
    Expire,
    GetDel,
    Incr,
    Persist,
    Rename,
    SetCondition,
)
from vaylix_storage.errors import EntryTooLargeError, LogClosedError, LogPoisonedError
from vaylix_storage.logical_backup import (
    BackupDirectory,
    BackupHeader,
    DocumentWriter,
    SortedWalk,
    backup_pieces,
    restore_batches,
)
from vaylix_storage.offline.pitr import Point, RestoreOptions, restore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from threading import RLock
    from types import TracebackType

    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._keyspace import Keyspace
    from vaylix_storage._options import RecoveryReport
    from vaylix_storage._retention import RetentionPolicy
    from vaylix_storage._snapshot import SnapshotWriter
    from vaylix_storage._store_batch import Results
    from vaylix_storage.commands import SimpleCommand

__all__ = ["Store", "StoreBatch"]

KEY_FILE_NAME: Final = "storage.key"
_SCAN_COUNT_DEFAULT: Final = 100
_RESTORE_ID_BYTES: Final = 16


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Store:
    """An open database; `Store.open` makes one. Use it as a context manager, or close it.

    Keys and values are bytes; together they take at most 16 MiB. Times to live are in ms. After a
    write has failed with LogPoisonedError nothing more is written: open the store again. Every
    method raises LogClosedError after `close`, TypeError for what is not exactly bytes, int or bool
    where it should be, and ValueError for numbers that make no sense; nothing is changed then.
    """

    def __init__(
        self, engine: Engine, keyspace: Keyspace, vfs: Vfs, now_ms: Callable[[], int], entry_ms: int
    ) -> None:
        """Use `Store.open`; `entry_ms` is the time of the last entry of the log."""
        self._engine = engine
        self._keyspace = keyspace
        self._vfs = vfs
        self._clock = now_ms
        self._lock = CallLock()
        # Held during what walks over the keyspace; taken before the other one.
        self._walk_lock = CallLock()
        # No answer and no entry may have an earlier time than one before it.
        self._now_ms = self._entry_ms = entry_ms
        self._is_closed = False
        self._failure: BaseException | None = None

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        key_provider: KeyProvider | None = None,
        sync_policy: SyncPolicy = SyncPolicy.SYNC,
        segment_bytes_max: int = SEGMENT_BYTES_MAX_DEFAULT,
        retention: RetentionPolicy | None = None,
        archive_directory: Path | str | None = None,
        vfs: Vfs | None = None,
        now_ms: Callable[[], int] = _wall_clock_ms,
    ) -> Store:
        """Open a directory, or make it, and bring back all that it holds.

        Without a key provider the wrapping key is kept in the file `storage.key` inside; it should
        be kept elsewhere if the directory is copied to where others can read it. `now_ms` returns
        Unix time in ms, an int. Raises subclasses of StorageError: DirectoryLockedError for one in
        use, ForeignFormatError for one that belongs to a server, CorruptionError, KeyringError and
        others.
        """
        options = engine_options(sync_policy, segment_bytes_max, retention, archive_directory)
        opened_ms = now_ms()
        check_time(opened_ms)
        vfs = RealVfs() if vfs is None else vfs
        engine = Engine.open(
            # The process may go to another directory meanwhile.
            Path(path).absolute(),
            vfs=vfs,
            provider=key_provider,
            options=options,
            now_ms=opened_ms,
        )
        try:
            keyspace, entry_ms = load(engine)
            store = cls(engine, keyspace, vfs, now_ms, entry_ms)
            if engine.log.last_index == 0:
                store._append_marker()
        except BaseException:
            engine.abandon()
            raise
        return store

    # Reading

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        check_bytes(key)
        with self._lock.checked():
            return self._keyspace.get(key, self._read_time())

    def get_many(self, *keys: bytes) -> list[bytes | None]:
        """Return the values of several keys at one moment."""
        check_bytes(*keys)
        with self._lock.checked():
            return list(self._keyspace.mget(keys, self._read_time()))

    def exists(self, key: bytes) -> bool:
        """Tell whether a key exists."""
        check_bytes(key)
        with self._lock.checked():
            return self._keyspace.exists(key, self._read_time())

    def version(self, key: bytes) -> int:
        """Return how often a key was written since it came to be; 0 if there is none."""
        check_bytes(key)
        with self._lock.checked():
            return self._keyspace.version(key, self._read_time())

    def ttl(self, key: bytes) -> int | None:
        """Return how many ms a key has left; None if it stays, or is not there."""
        check_bytes(key)
        with self._lock.checked():
            now_ms = self._read_time()
            entry = self._keyspace.table.find(key, now_ms)
            return (
                entry.expires_at_ms - now_ms if entry is not None and entry.expires_at_ms else None
            )

    def scan(
        self, pattern: bytes | None = None, count: int = _SCAN_COUNT_DEFAULT
    ) -> Iterator[bytes]:
        """Yield all keys, or those that match a pattern (`*` any run, `?` one character).

        Not in order. `count` is how many are looked for at a time, and others may write between:
        a key that exists all the while is yielded exactly once.
        """
        if pattern is not None:
            check_bytes(pattern)
        check_number("count", count)
        self._check_open()
        return self._scan(pattern, count)

    def __len__(self) -> int:
        """Return the number of keys, without a scan."""
        with self._lock.checked():
            return self._keyspace.key_count(self._read_time())

    def __contains__(self, key: bytes) -> bool:
        return self.exists(key)

    # Writing

    def set(
        self,
        key: bytes,
        value: bytes,
        *,
        ttl_ms: int | None = None,
        condition: SetCondition = SetCondition.NONE,
        keep_ttl: bool = False,
        if_version: int | None = None,
    ) -> bool:
        """Write a value; False if a condition did not hold and nothing was written.

        Without `ttl_ms` or `keep_ttl` the key stays for good; a `ttl_ms` of 0 leaves no key behind.
        `condition` asks for the key to be absent (NX) or present (XX), `if_version` to be there
        with exactly this version.
        """
        command = set_command(
            key,
            value,
            ttl_ms=ttl_ms,
            condition=condition,
            keep_ttl=keep_ttl,
            if_version=if_version,
        )
        return self._write(command) is not False

    def delete(self, *keys: bytes) -> int:
        """Remove keys; return how many there were."""
        check_bytes(*keys)
        if not keys:
            self._check_open()
            return 0
        return cast("int", self._write(Del(keys)))

    def pop(self, key: bytes) -> bytes | None:
        """Remove a key and return its value, or None."""
        check_bytes(key)
        result = self._write(GetDel(key))
        return result if isinstance(result, bytes) else None

    def incr(self, key: bytes) -> int:
        """Add one to a decimal number (0 if there is none) and return it; the ttl is dropped.

        Raises NotAnIntegerError and IntegerOverflowError; nothing is changed then.
        """
        check_bytes(key)
        return cast("int", self._write(Incr(key)))

    def decr(self, key: bytes) -> int:
        """Subtract one, as `incr` adds one."""
        check_bytes(key)
        return cast("int", self._write(Decr(key)))

    def expire(self, key: bytes, ttl_ms: int) -> bool:
        """Set the time to live of a key, 0 removes it; False if there is no such key."""
        check_bytes(key)
        check_number("ttl_ms", ttl_ms)
        return self._write(Expire(key, ttl_ms)) is True

    def persist(self, key: bytes) -> bool:
        """Let a key stay for good; False if it had no time to live or is not there."""
        check_bytes(key)
        return self._write(Persist(key)) is True

    def rename(self, source: bytes, destination: bytes) -> bool:
        """Move value and time to live to another key; False if there is no source."""
        check_bytes(source, destination)
        return self._write(Rename(source, destination)) is True

    def clear(self) -> None:
        """Remove all keys."""
        self._write(Clear())

    def batch(self) -> StoreBatch:
        """Collect writes, and carry out all of them at the end of the `with` block, or none.

        None when the block raises, or when one of them does as `incr` says. Then `results` of the
        batch holds an answer for each. Writes to the store itself in the block come before them.
        """
        self._check_open()
        return StoreBatch(self._lock, self._carry_out)

    # As a whole

    def snapshot(self) -> SnapshotMeta:
        """Write down the state, so that the next start is quick and the log can be shortened.

        Others may read and write meanwhile. Then the retention policy is applied. Without anything
        new since the last snapshot, that one is returned.
        """
        with self._walk():
            with self._lock.checked():
                self._check_usable()
                current = self._engine.manifest.current
                is_current = current is not None and current.meta.index == self._last_index
                if current is not None and is_current:
                    if current.key_id == self._engine.keyring.active_key_id:
                        return current.meta
                    # Each index has one snapshot; the one under the new key needs another.
                    self._append_marker()
                meta = SnapshotMeta(self._last_index, 0, self._entry_ms, self._read_clock())
                writer = self._engine.create_snapshot(meta)
                # Nobody else can have one: this thread has the lock of walks.
                self._keyspace.abandon_walk()
                dump = KeyspaceDump(self._keyspace.begin_walk())
            try:
                self._write_snapshot(writer, dump)
            except BaseException:
                writer.abandon()
                raise
            return meta

    def backup(self, path: Path | str) -> None:
        """Write all live keys to a JSON document, and a sidecar with its digest beside it.

        It is not encrypted, and any Vaylix can read it. Keys must be UTF-8, or BackupEncodingError.
        Others may read and write meanwhile. In a data directory it may lie in `backups` only, or
        BackupPathError; no name ends in `.manifest.json`, or BackupNameError. It replaces an
        earlier backup of this store only, or ForeignBackupError. Raises subclasses of BackupError.
        """
        path = Path(path)
        check_backup_path(path, self._engine.directory.path, self._vfs)
        directory = BackupDirectory(path.parent.absolute(), vfs=self._vfs)
        with self._walk():
            with self._lock.checked():
                self._check_usable()
                now_ms = self._read_time()
                header = BackupHeader(created_at_ms=now_ms, source_sequence=self._last_index)
                self._keyspace.abandon_walk()
                walk = SortedWalk(self._keyspace.begin_walk(), now_ms)
            writer = DocumentWriter(header, self._engine.directory.identity.node_id)
            try:
                directory.write(path.name, writer, self._step_by_step(writer, walk))
            finally:
                with self._lock.checked():
                    walk.close()

    def restore_backup(self, path: Path | str) -> int:
        """Replace all keys by those of a document that are still alive; return how many.

        All of it or nothing, also in a crash. A sidecar must fit if there is one. Raises
        subclasses of BackupError, and EntryTooLargeError.
        """
        path = Path(path)
        self._check_open()
        directory = BackupDirectory(path.parent.absolute(), vfs=self._vfs)
        document = directory.read_checked(path.name)
        with self._lock.checked():
            now_ms = self._write_time()
            restore_id = os.urandom(_RESTORE_ID_BYTES)
            parts = list(restore_batches(document, now_ms=now_ms, restore_id=restore_id))
            return cast("int", self._log_and_apply(parts, now_ms)[-1])

    @staticmethod
    def restore_to_point(
        source: Path | str,
        target: Path | str,
        *,
        sequence: int | None = None,
        timestamp_ms: int | None = None,
        key_provider: KeyProvider | None = None,
        target_key_provider: KeyProvider | None = None,
        archive_directory: Path | str | None = None,
    ) -> int:
        """Make `target` a store that holds what a closed one held at a point; return its sequence.

        The point is an entry (see `sequence`) or a Unix time in ms. The source is not changed; the
        target begins a new history. Without key providers the key files inside are used. Raises
        RestorePointError for a point out of reach, and other subclasses of StorageError.
        """
        for name, number in (("sequence", sequence), ("timestamp_ms", timestamp_ms)):
            if number is not None:
                check_number(name, number)
        archive = None if archive_directory is None else Path(archive_directory)
        vfs, source = RealVfs(), Path(source)
        result = restore(
            source,
            Path(target),
            Point(sequence, timestamp_ms),
            vfs=vfs,
            provider=key_provider or FileKeyProvider(source / KEY_FILE_NAME, vfs=vfs),
            target_provider=lambda path: (
                target_key_provider or FileKeyProvider(path / KEY_FILE_NAME, vfs=vfs)
            ),
            options=RestoreOptions(now_ms=_wall_clock_ms(), archive=archive),
        )
        return result.sequence

    @property
    def sequence(self) -> int:
        """Number of the last entry of the log, to name this moment for `restore_to_point`."""
        with self._lock.checked():
            self._check_not_closed()
            return self._last_index

    @property
    def recovery(self) -> RecoveryReport:
        """What was found when the store was opened."""
        return self._engine.log.recovery

    def close(self) -> None:
        """Stop cleanly and let others open the directory. Closing twice is allowed.

        In a child made by a fork it only lets go of the files; the parent goes on.
        """
        if self._lock.is_inherited:
            self._engine.abandon()
            return
        with self._walk(), self._lock.checked():
            if not self._is_closed:
                self._is_closed = True
                try:
                    if self._failure is None:
                        self._engine.close()
                finally:
                    self._engine.abandon()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _scan(self, pattern: bytes | None, count: int) -> Iterator[bytes]:
        cursor = 0
        while True:
            with self._lock.checked():
                page = self._keyspace.scan(cursor, pattern, count, self._read_time())
            yield from page.keys
            cursor = page.cursor
            if cursor == 0:
                return

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled, as another object would write to the same files."""
        raise TypeError("a store cannot be copied or pickled; pass the path, and open it there")

    # Inside; whoever calls these holds the lock, unless told otherwise

    def _walk(self) -> RLock:
        """Return the lock of walks for a `with` statement; without the other one."""
        # Whoever has it may be waiting for the other one.
        self._lock.check()
        return self._walk_lock.checked()

    @property
    def _last_index(self) -> int:
        return self._engine.log.last_index

    def _check_not_closed(self) -> None:
        if self._is_closed:
            raise LogClosedError("the store has been closed", remedy="open it again")

    def _read_time(self) -> int:
        self._check_not_closed()
        self._now_ms = max(self._now_ms, self._read_clock())
        return self._now_ms

    def _read_clock(self) -> int:
        now_ms = self._clock()
        check_time(now_ms)
        return now_ms

    def _check_open(self) -> None:
        """Raise what a call would raise here and now; takes the lock."""
        with self._lock.checked():
            self._check_not_closed()

    def _write_time(self) -> int:
        self._check_usable()
        return self._read_time()

    def _check_usable(self) -> None:
        self._check_not_closed()
        if self._failure is not None:
            cause = str(self._failure) or type(self._failure).__name__
            raise LogPoisonedError(
                f"the store stopped at an earlier failure: {cause}",
                remedy="open it again; recovery reads back what is on the disk",
            ) from self._failure

    def _write(self, command: Command) -> Result:
        """Log and apply one command; takes the lock."""
        with self._lock.checked():
            (result,) = self._log_and_apply([[command]], self._write_time())
        if isinstance(result, CommandFailure):
            raise failure_of(result)
        return result

    def _carry_out(self, commands: tuple[SimpleCommand, ...]) -> Results:
        """Log and apply the commands of a batch; takes the lock."""
        result = cast("ExecResult", self._write(Exec(commands)))
        return tuple(True if part is Answer.OK else part for part in result.results)

    def _log_and_apply(self, parts: Sequence[list[Command]], now_ms: int) -> list[Result]:
        """Make each part a batch of the log; when all are on the disk, apply them."""
        log = self._engine.log
        last_index = log.last_index
        results: list[Result] = []
        has_begun = False
        try:
            for part in parts:
                batch = self._batch_of(BatchKind.KEYSPACE, len(part), encode_for_log(part))
                has_begun = True
                log.append([batch])
            log.sync()
            for part in parts:
                results += self._keyspace.apply(part, now_ms, want_results=True)
            self._entry_ms = now_ms
        except BaseException as error:
            # Memory may be behind the log now, unless a batch was refused before all others.
            is_refused = isinstance(error, EntryTooLargeError) and log.last_index == last_index
            if has_begun and not is_refused:
                self._failure = error
            raise
        return results

    def _batch_of(self, kind: int, count: int, payload: bytes) -> Batch:
        return Batch.create(
            first_index=self._last_index + 1,
            count=count,
            term=0,
            kind=kind,
            timestamp_ms=self._now_ms,
            payload=payload,
        )

    def _append_marker(self) -> None:
        """Say in the log that it belongs to a store."""
        self._now_ms = max(self._now_ms, self._read_clock())
        self._engine.log.append([self._batch_of(MARKER_KIND, 1, MARKER)])
        self._engine.log.sync()
        self._entry_ms = self._now_ms

    def _write_snapshot(self, writer: SnapshotWriter, dump: KeyspaceDump) -> None:
        """Write and commit a snapshot; takes the lock for each step."""
        try:
            writer.begin_section(STORE_SECTION)
            writer.add(MARKER, 1)
            writer.begin_section(KEYSPACE_SECTION)
            while True:
                with self._lock.checked():
                    chunk = dump.next_chunk()
                if chunk is None:
                    break
                writer.add(*chunk)
        finally:
            with self._lock.checked():
                dump.close()
        info = writer.finish()
        with self._lock.checked():
            self._engine.commit_snapshot(info)
            self._engine.apply_retention(None, self._read_clock())

    def _step_by_step(self, writer: DocumentWriter, walk: SortedWalk) -> Iterator[bytes]:
        """Return the pieces of a backup, taking the lock for each."""
        pieces = backup_pieces(writer, walk)
        while True:
            with self._lock.checked():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece
