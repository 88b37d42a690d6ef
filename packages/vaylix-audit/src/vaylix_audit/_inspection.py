"""Looking at a log and its checkpoints, and judging both. Nothing is changed here."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vaylix_audit._chain import (
    GENESIS,
    ChainHead,
    ChainProblem,
    ChainReport,
    Line,
    next_record,
    problem_error,
    verify_chain,
)
from vaylix_audit._checkpoints import CheckpointScan, scan_checkpoints
from vaylix_audit._event import LINE_BYTES_MAX
from vaylix_audit._files import RealFileSystem, read_pieces
from vaylix_audit.errors import FileSystemError, InvalidLineError, Loss, LostRecordsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vaylix_audit._checkpoints import Checkpoint, Signer
    from vaylix_audit._event import AuditRecord
    from vaylix_audit._files import File, FileSystem

__all__ = ["Inspection", "LogCheck", "check_log", "checkpoints_path", "inspect", "verify_file"]

_NOTHING: Final = CheckpointScan(None, 0, 0, lacks_newline=False, is_torn=False)
_REMEDY: Final = (
    "find out who removed records and restore the log from a copy; or, to begin a new one, "
    "keep the log and its checkpoints elsewhere"
)


@dataclass(frozen=True, slots=True)
class LogCheck:
    """A log that is in order, but for what a crash may leave at its end.

    `head` is the last whole record, `checkpoint` the newest one. `torn` is what is unfinished
    behind `head`, with its `torn_bytes`. `is_missing`: there was no log, and none was expected.
    """

    head: ChainHead
    checkpoint: Checkpoint | None
    torn: ChainProblem | None
    torn_bytes: int
    lacks_newline: bool
    has_torn_checkpoint: bool
    is_missing: bool

    @property
    def unprotected_count(self) -> int:
        """Number of records behind the newest checkpoint: nobody would miss them."""
        checkpointed = 0 if self.checkpoint is None else self.checkpoint.head.sequence
        return self.head.sequence - checkpointed


@dataclass(frozen=True, slots=True)
class Inspection:
    """A check, and what repairing needs to know beyond it."""

    check: LogCheck
    checkpoints: CheckpointScan


def checkpoints_path(path: Path) -> Path:
    """Return where the checkpoints of a log are: `audit.checkpoints` for `audit.log`."""
    checkpoints = path.with_suffix(".checkpoints")
    if checkpoints == path:
        raise ValueError(f"{path.name} is the name of a file of checkpoints")
    return checkpoints


def verify_file(
    path: Path,
    *,
    on_record: Callable[[AuditRecord, ChainHead], None] | None = None,
    file_system: FileSystem | None = None,
) -> ChainReport:
    """Verify the chain of a whole file, see `verify_chain`; nothing is locked or changed.

    Raises FileSystemError, also when there is no such file.
    """
    file_system = RealFileSystem() if file_system is None else file_system
    with ExitStack() as stack:
        try:
            file = file_system.open_to_read(path)
            stack.callback(file.close)
            return verify_chain(read_pieces(file), on_record=on_record)
        except OSError as error:
            raise FileSystemError(str(error), path=path) from error


def check_log(
    path: Path,
    *,
    signer: Signer,
    expected: ChainHead | None = None,
    file_system: FileSystem | None = None,
) -> LogCheck:
    """Find out what `AuditLog.open` would find, without locking or changing anything.

    Raises what it would raise, but for AuditLogInUseError. A log that is being written to may look
    torn at its end.
    """
    file_system = RealFileSystem() if file_system is None else file_system
    checkpoints = checkpoints_path(path)
    with ExitStack() as stack:
        files: list[File | None] = []
        try:
            # The checkpoints first: those read never say more than the log read after them.
            for name in (checkpoints, path):
                file = file_system.open_to_read(name) if file_system.exists(name) else None
                if file is not None:
                    stack.callback(file.close)
                files.append(file)
            return inspect(files[1], files[0], path=path, signer=signer, expected=expected).check
        except OSError as error:
            raise FileSystemError(str(error), path=path) from error


def inspect(
    log: File | None,
    checkpoints: File | None,
    *,
    path: Path,
    signer: Signer,
    expected: ChainHead | None,
) -> Inspection:
    """Read both files, None standing for one that does not exist, and judge them.

    Raises CheckpointError, BrokenChainError, InvalidTextError, LostRecordsError; OSError.
    """
    scan = _NOTHING
    if checkpoints is not None:
        scan = scan_checkpoints(read_pieces(checkpoints), signer, checkpoints_path(path))
    known = [(scan.newest.head, "has a signed checkpoint")] if scan.newest is not None else []
    if expected is not None:
        known.append((expected, "is known to have been in it"))
    if log is None:
        # Checkpoints are not begun before the name of the log is on the disk.
        if checkpoints is not None or known:
            raise _missing(path, known)
        return Inspection(
            _check_of(ChainReport(GENESIS, None, ends_with_newline=True), scan, 0, is_missing=True),
            scan,
        )
    seen: dict[int, ChainHead] = {0: GENESIS}
    wanted = {head.sequence for head, _ in known}

    def note(record: AuditRecord, head: ChainHead) -> None:
        if record.sequence in wanted:
            seen[record.sequence] = head

    report = verify_chain(read_pieces(log), on_record=note)
    size_bytes = log.size()
    if report.problem is not None and report.problem.looks_torn:
        report = _without_zeros(log, report, report.problem.offset, note)
    if report.problem is not None and not report.problem.looks_torn:
        raise problem_error(report.problem, path)
    for head, why in known:
        _require(head, why, seen.get(head.sequence), report, size_bytes, path)
    return Inspection(_check_of(report, scan, size_bytes, is_missing=False), scan)


def _without_zeros(
    log: File,
    report: ChainReport,
    offset: int,
    on_record: Callable[[AuditRecord, ChainHead], None],
) -> ChainReport:
    """Take a whole record with nothing but zeros behind it for one that lacks its newline.

    An earlier start was about to add the newline; the file had got its new length already.
    """
    content = bytearray()
    for piece in read_pieces(log, offset):
        content += piece
        if len(content) > LINE_BYTES_MAX + 1:
            return report
    line = Line(bytes(content).rstrip(b"\0"), offset, is_ended=False)
    try:
        record = next_record(line, report.head)
    except InvalidLineError:
        return report
    head = ChainHead(record.sequence, record.event_hash, line.end)
    on_record(record, head)
    return ChainReport(head, None, ends_with_newline=False)


def _check_of(
    report: ChainReport, scan: CheckpointScan, size_bytes: int, *, is_missing: bool
) -> LogCheck:
    torn = report.problem
    return LogCheck(
        head=report.head,
        checkpoint=scan.newest,
        torn=torn,
        torn_bytes=0 if torn is None else size_bytes - torn.offset,
        lacks_newline=not report.ends_with_newline,
        has_torn_checkpoint=scan.is_torn,
        is_missing=is_missing,
    )


def _missing(path: Path, known: list[tuple[ChainHead, str]]) -> LostRecordsError:
    head, why = max(known, key=lambda one: one[0].sequence, default=(GENESIS, ""))
    what = "the log is missing, but it was there before"
    if head.sequence:
        what = f"the log is missing, but record {head.sequence} {why}"
    return LostRecordsError(what, loss=Loss.MISSING, path=path, remedy=_REMEDY)


def _require(
    known: ChainHead,
    why: str,
    found: ChainHead | None,
    report: ChainReport,
    size_bytes: int,
    path: Path,
) -> None:
    """Refuse a log that lacks a record which it is known to have held."""
    if found == known:
        return
    last = report.head.sequence
    if found is not None:
        how = "holds another" if found.event_hash != known.event_hash else "was rewritten up to it"
        what = f"record {known.sequence} {why}, but the log {how}"
        loss = Loss.REPLACED
    elif size_bytes == 0:
        what = f"the log is empty, but record {known.sequence} {why}"
        loss = Loss.EMPTIED
    elif report.problem is not None and size_bytes >= known.size_bytes:
        # Nothing was cut off: this was damaged after it had been on the disk.
        raise problem_error(report.problem, path)
    else:
        what = f"the log ends at record {last}, but record {known.sequence} {why}"
        loss = Loss.SHORTENED
    raise LostRecordsError(what, loss=loss, path=path, remedy=_REMEDY)
