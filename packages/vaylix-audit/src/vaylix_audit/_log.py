"""The audit log: a chain of records in a file, and checkpoints of it in another.

Records are written at the end that the log knows, with one call for a batch. After the first write
or sync that fails, nobody knows what the disk holds, and trying again proves nothing; so the log
refuses everything from then on, and the next start reads the disk. The same holds when somebody
else has changed the length of the file meanwhile, for instance to rotate it.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from vaylix_audit._chain import ChainHead
from vaylix_audit._checkpoints import Checkpoint, encode_checkpoint, sign_checkpoint
from vaylix_audit._event import chain_event
from vaylix_audit._files import RealFileSystem, write_whole
from vaylix_audit._inspection import LogCheck, checkpoints_path, inspect
from vaylix_audit._repair import repair_checkpoints, repair_log
from vaylix_audit.errors import (
    REPAIR_REMEDY,
    AuditLogClosedError,
    AuditLogFailedError,
    AuditLogInUseError,
    FileSystemError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from vaylix_audit._checkpoints import Signer
    from vaylix_audit._event import AuditEvent, AuditRecord
    from vaylix_audit._files import File, FileSystem
    from vaylix_audit._inspection import Inspection

__all__ = ["CHECKPOINT_EVERY", "AuditLog", "OpenReport"]

# Records between two checkpoints, unless somebody wants another number.
CHECKPOINT_EVERY: Final = 1024


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class OpenReport:
    """What opening has found and done. `kept_path` is where a torn end was put aside."""

    check: LogCheck
    kept_path: Path | None

    def messages(self) -> tuple[str, ...]:
        """Return what somebody has to be told, as sentences; none if all is as it should be."""
        check = self.check
        said: list[str] = []
        if check.torn is not None:
            said.append(
                f"audit log: line {check.torn.line} was torn ({check.torn.reason}); "
                f"{check.torn_bytes} bytes from byte {check.torn.offset} on were moved to "
                f"{self.kept_path}"
            )
        if check.lacks_newline:
            said.append(f"audit log: record {check.head.sequence} had no newline; it was added")
        if check.has_torn_checkpoint:
            said.append("audit log: the last checkpoint was torn; it was removed")
        if check.checkpoint is None and check.head.sequence:
            said.append(
                f"audit log: there were no checkpoints; nothing vouches for the "
                f"{check.head.sequence} records found"
            )
        return tuple(said)


class AuditLog:
    """The audit log of one file; `AuditLog.open` makes one.

    One thread at a time may call `append`; one at a time, that or another, may call `sync` and
    `checkpoint`. `close` must overlap with none of these. The properties may be read anywhere.
    """

    __slots__ = (
        "_checkpoint_every",
        "_checkpoints",
        "_durable_head",
        "_failure",
        "_file",
        "_head",
        "_is_closed",
        "_path",
        "report",
    )

    def __init__(
        self,
        path: Path,
        file: File,
        checkpoints: _CheckpointWriter,
        report: OpenReport,
        checkpoint_every: int,
    ) -> None:
        self.report = report
        self._path = path
        self._file = file
        self._checkpoints = checkpoints
        self._checkpoint_every = checkpoint_every
        self._head = self._durable_head = report.check.head
        self._failure: BaseException | None = None
        self._is_closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        signer: Signer,
        expected: ChainHead | None = None,
        checkpoint_every: int = CHECKPOINT_EVERY,
        file_system: FileSystem | None = None,
        now_ms: Callable[[], int] = _wall_clock_ms,
    ) -> AuditLog:
        """Verify the log at `path`, repair what a crash has left, and make ready to append.

        The checkpoints are beside it, see `checkpoints_path`. `expected` is a head that the caller
        knows the log once had, from a place that is not lost together with these files; the log
        must exist and hold that record. A new log is made, with its directories, when there is
        nothing and nothing is expected. Nothing is changed before everything was verified; when
        this returns, all records found are on the disk and have a checkpoint.

        Raises BrokenChainError, InvalidTextError, LostRecordsError, CheckpointError,
        AuditLogInUseError, FileSystemError.
        """
        if checkpoint_every < 1:
            raise ValueError("a checkpoint is due after one record or more")
        file_system = RealFileSystem() if file_system is None else file_system
        names = checkpoints_path(path)
        with ExitStack() as stack:
            try:
                log = _open_existing(path, file_system, stack)
                checkpoints = _open_existing(names, file_system, stack)
                inspection = inspect(log, checkpoints, path=path, signer=signer, expected=expected)
                if log is None:
                    file_system.make_directory(path.parent)
                    log = _create(path, file_system, stack)
                else:
                    # The process that made it may have been killed before it synced the name.
                    file_system.sync_directory(path.parent)
                kept = repair_log(log, inspection.check, path=path, file_system=file_system)
                if checkpoints is None:
                    checkpoints = _create(names, file_system, stack)
                repair_checkpoints(checkpoints, inspection.checkpoints)
                writer = _CheckpointWriter(checkpoints, inspection, signer, now_ms)
                writer.write_if_due(inspection.check.head, 1)
            except OSError as error:
                raise FileSystemError(str(error), path=path, remedy=REPAIR_REMEDY) from error
            stack.pop_all()
        return cls(path, log, writer, OpenReport(inspection.check, kept), checkpoint_every)

    # Properties

    @property
    def path(self) -> Path:
        """Where the log is."""
        return self._path

    @property
    def head(self) -> ChainHead:
        """The record that was appended last."""
        return self._head

    @property
    def durable_head(self) -> ChainHead:
        """The last record that is known to be on the disk."""
        return self._durable_head

    @property
    def last_checkpoint(self) -> Checkpoint:
        """The newest checkpoint."""
        return self._checkpoints.last

    # Writing

    def append(self, events: Sequence[AuditEvent]) -> tuple[AuditRecord, ...]:
        """Write events behind the last record, with one call, and return their records.

        Nothing is durable before `sync`. InvalidEventError if one cannot be written; then none is,
        and the log is as before. AuditLogFailedError after the first failure, AuditLogClosedError
        after `close`.
        """
        self._check_usable()
        head = self._head
        records: list[AuditRecord] = []
        lines: list[bytes] = []
        for event in events:
            record, line = chain_event(event, head.sequence + 1, head.event_hash)
            head = ChainHead(record.sequence, record.event_hash, head.size_bytes + len(line))
            records.append(record)
            lines.append(line)
        if not records:
            return ()
        with self._ending_at_a_failure():
            self._check_length()
            write_whole(self._file, self._head.size_bytes, b"".join(lines))
        self._head = head
        return tuple(records)

    def sync(self) -> None:
        """Return when all records are on the disk; write a checkpoint if one is due.

        Raises as `append`.
        """
        self._sync(self._checkpoint_every)

    def checkpoint(self) -> None:
        """Sync, and write a checkpoint unless there is one of the last record. Raises as `append`.

        Worth calling now and then while little happens: what is behind the newest checkpoint can
        be cut off unnoticed.
        """
        self._sync(1)

    def close(self) -> None:
        """Sync, write a checkpoint, and close the files; the latter in any case.

        Raises AuditLogFailedError if syncing fails now. A log that failed before is only closed:
        who wrote to it has been told.
        """
        if self._is_closed:
            return
        try:
            if self._failure is None:
                self._sync(1)
        finally:
            self._is_closed = True
            try:
                self._checkpoints.close()
            finally:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Inside

    def _sync(self, checkpoint_every: int) -> None:
        self._check_usable()
        # What is appended meanwhile, by another thread, is not vouched for.
        head = self._head
        with self._ending_at_a_failure():
            if head != self._durable_head:
                self._file.sync()
                self._durable_head = head
            self._checkpoints.write_if_due(head, checkpoint_every)

    def _check_length(self) -> None:
        size_bytes = self._file.size()
        if size_bytes != self._head.size_bytes:
            raise OSError(
                f"somebody else has changed the file: it has {size_bytes} bytes instead of "
                f"{self._head.size_bytes}"
            )

    def _check_usable(self) -> None:
        if self._is_closed:
            raise AuditLogClosedError("the audit log is closed", path=self._path)
        if self._failure is not None:
            raise self._error() from self._failure

    @contextmanager
    def _ending_at_a_failure(self) -> Iterator[None]:
        """Refuse everything from now on if the block fails; an interrupt is passed on as it is."""
        try:
            yield
        except BaseException as error:
            if self._failure is None:
                self._failure = error
            if isinstance(error, Exception):
                raise self._error() from error
            raise

    def _error(self) -> AuditLogFailedError:
        what = str(self._failure) or type(self._failure).__name__
        return AuditLogFailedError(
            f"the audit log cannot be written any more: {what}",
            path=self._path,
            remedy="repair the disk or undo the change, then restart",
        )


class _CheckpointWriter:
    """Appends to the file of checkpoints, which is whole when this is made."""

    __slots__ = ("_end", "_file", "_newest", "_now_ms", "_signer")

    def __init__(
        self, file: File, inspection: Inspection, signer: Signer, now_ms: Callable[[], int]
    ) -> None:
        self._file = file
        self._end = inspection.checkpoints.end
        self._newest = inspection.checkpoints.newest
        self._signer = signer
        self._now_ms = now_ms

    @property
    def last(self) -> Checkpoint:
        """The newest checkpoint; there is one as soon as the log is open."""
        assert self._newest is not None
        return self._newest

    def write_if_due(self, head: ChainHead, every: int) -> None:
        """Write and sync a checkpoint if there is none, or if `every` records have come since.

        All up to `head` has to be on the disk.
        """
        if self._newest is not None and head.sequence - self._newest.head.sequence < every:
            return
        checkpoint = sign_checkpoint(head, max(0, self._now_ms()), self._signer)
        line = encode_checkpoint(checkpoint)
        write_whole(self._file, self._end, line)
        self._file.sync()
        self._end += len(line)
        self._newest = checkpoint

    def close(self) -> None:
        self._file.close()


def _open_existing(path: Path, file_system: FileSystem, stack: ExitStack) -> File | None:
    return _open_locked(path, file_system, stack) if file_system.exists(path) else None


def _create(path: Path, file_system: FileSystem, stack: ExitStack) -> File:
    """Make a new file and sync its name."""
    file = _open_locked(path, file_system, stack)
    if file.size():
        # It was not there a moment ago, so nobody has verified it.
        raise _in_use(path)
    try:
        file_system.sync_directory(path.parent)
    except OSError:
        # Another sync might succeed without putting this name on the disk; a new one helps.
        with suppress(OSError):
            file_system.unlink(path)
        raise
    return file


def _open_locked(path: Path, file_system: FileSystem, stack: ExitStack) -> File:
    try:
        file = file_system.open_locked(path)
    except BlockingIOError as error:
        raise _in_use(path) from error
    stack.callback(file.close)
    return file


def _in_use(path: Path) -> AuditLogInUseError:
    return AuditLogInUseError(
        "another process, or this one, has the audit log open",
        path=path,
        remedy="stop or close what uses it, or choose another file",
    )
