"""Everything that can go wrong in this package, under one roof.

`AuditError` is the only base. Each class knows its code and name of the published catalogue (VTP2
server sections 8 and 12); an error knows what is wrong, the file, and what an operator can do.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AuditError",
    "AuditLogClosedError",
    "AuditLogFailedError",
    "AuditLogInUseError",
    "BrokenChainError",
    "CheckpointError",
    "FileSystemError",
    "InvalidEventError",
    "InvalidLineError",
    "InvalidTextError",
    "Loss",
    "LostRecordsError",
]


class AuditError(Exception):
    """Base of all errors of this package.

    `code` and `name` are those of the error catalogue. `what` is wrong, in `path`, and `remedy`
    says what to do next; the last two are None where they mean nothing.
    """

    code: ClassVar[str] = "SRV-004"
    name: ClassVar[str] = "Filesystem I/O Failure"
    _message: ClassVar[str] = "filesystem I/O failed: {what}"

    def __init__(self, what: str, *, path: Path | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.path = path
        self.remedy = remedy

    @property
    def message(self) -> str:
        """The text of the error as the catalogue words it, without path and remedy."""
        return self._message.format(what=self.what)

    def __str__(self) -> str:
        where = "" if self.path is None else f"{self.path}: "
        remedy = "" if self.remedy is None else f" ({self.remedy})"
        return f"{where}{self.message}{remedy}"


# What helps when the disk is full or broken, and nothing has been harmed by it.
REPAIR_REMEDY: Final = "make room or repair the disk, then try again"


class FileSystemError(AuditError):
    """The operating system refused a call; the cause is chained."""


class AuditLogInUseError(AuditError):
    """Another process, or another `AuditLog` of this one, has the file open."""


class AuditLogFailedError(AuditError):
    """A write or sync has failed, now or earlier, so nobody knows what the disk holds.

    The first failure is chained as the cause. Nothing is appended any more; only a restart, which
    reads the disk, helps.
    """


class AuditLogClosedError(AuditError):
    """The audit log has been closed."""


class InvalidEventError(AuditError):
    """An event cannot be written down. Nothing of its batch was, and the log goes on."""


class InvalidLineError(AuditError):
    """A line is not the record it should be; `what` says why, in the words of section 8.2.

    `is_cut`: it ends before its JSON does, as a crash leaves a line.
    """

    code = "SRV-028"
    name = "Audit Chain Verification Failure"
    _message = "audit log hash chain verification failed: {what}"

    def __init__(self, what: str, *, is_cut: bool = False) -> None:
        super().__init__(what)
        self.is_cut = is_cut


class InvalidTextError(AuditError):
    """A line of the log is not UTF-8. Nothing was changed."""


class BrokenChainError(AuditError):
    """The log is not the chain that was written. Nothing was changed.

    `what` begins with the line: `line {n}: {reason}`.
    """

    code = "SRV-028"
    name = "Audit Chain Verification Failure"
    _message = "audit log hash chain verification failed: {what}"


class Loss(Enum):
    """How a log lacks records that it once had."""

    MISSING = "missing"
    EMPTIED = "emptied"
    SHORTENED = "shortened"
    REPLACED = "replaced"


class LostRecordsError(BrokenChainError):
    """The log is whole in itself, but lacks what it is known to have held. Nothing was changed."""

    def __init__(
        self, what: str, *, loss: Loss, path: Path | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(what, path=path, remedy=remedy)
        self.loss = loss


class CheckpointError(BrokenChainError):
    """The checkpoints are not what was signed. Nothing was changed."""
