"""Everything that can go wrong in this package, under one roof.

`StorageError` is the only base. Each class knows its code and name of the published catalogue
(VTP2 storage section 10), the file and the offset where it happened, and what an operator can do
about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AccessDamageError",
    "BackupEncodingError",
    "BackupError",
    "BackupFileError",
    "BackupFormatError",
    "BackupNameError",
    "BackupPathError",
    "BackupVerificationError",
    "BackupVersionError",
    "BatchError",
    "CommandEncodingError",
    "CorruptionError",
    "DirectoryLockedError",
    "EntryTooLargeError",
    "FileSystemError",
    "ForeignBackupError",
    "ForeignFormatError",
    "ForeignProcessError",
    "IntegerOverflowError",
    "InvalidIntegerError",
    "KeyringError",
    "LogClosedError",
    "LogDamageError",
    "LogOrderError",
    "LogPoisonedError",
    "LostKeyringError",
    "ManifestDamageError",
    "MigrationRequiredError",
    "NotAnIntegerError",
    "NumericOverflowError",
    "RestorePointError",
    "RestoreTargetError",
    "SealDamageError",
    "SnapshotDamageError",
    "StorageBusyError",
    "StorageError",
]


class StorageError(Exception):
    """Base of all errors of this package.

    `code` and `name` are those of the error catalogue; `path` and `offset` (bytes) say where, and
    `remedy` says what to do next. The last three are None where they mean nothing.
    """

    code: ClassVar[str] = "ENG-002"
    name: ClassVar[str] = "Filesystem I/O Failure"

    def __init__(
        self,
        reason: str,
        *,
        path: Path | None = None,
        offset: int | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path
        self.offset = offset
        self.remedy = remedy

    def __str__(self) -> str:
        where = "" if self.path is None else f"{self.path}: "
        at = "" if self.offset is None else f" at byte {self.offset}"
        remedy = "" if self.remedy is None else f" ({self.remedy})"
        return f"{where}{self.reason}{at}{remedy}"


# What helps when the disk is full or broken, and nothing has been harmed by it.
REPAIR_REMEDY: Final = "make room or repair the disk, then try again"
# What helps when what a node had on its disk is damaged or lost.
RESTORE_REMEDY: Final = (
    "restore the directory from a backup, or let this node fetch the data from its peers"
)
# How a file of another history may have come here, and what helps against it.
FOREIGN_FILE_CAUSE: Final = "this file was copied from another node or from before a restore"
FOREIGN_FILE_REMEDY: Final = f"{FOREIGN_FILE_CAUSE}; take it away"


class FileSystemError(StorageError):
    """The operating system refused a call; the cause is chained."""


class DirectoryLockedError(StorageError):
    """Another process, or something else in this one, has the data directory open."""

    code = "ENG-011"
    name = "Invalid Storage Operation"


class ForeignProcessError(StorageError):
    """A store is used in a child of the process that opened it. Nothing was changed."""

    code = "ENG-011"
    name = "Invalid Storage Operation"


class MigrationRequiredError(StorageError):
    """The directory belongs to an older storage format and must be migrated first."""

    code = "ENG-010"
    name = "Storage Migration Required"


class ForeignFormatError(StorageError):
    """The file is of a format, version or history that this release cannot use."""

    code = "ENG-009"
    name = "Unsupported Storage Format"


class KeyringError(StorageError):
    """A key is missing, lost or wrong. Nothing was changed."""

    code = "ENG-008"
    name = "Encrypted Storage Failure"


class CorruptionError(StorageError):
    """Bytes that were once durable are not what was written. Nothing was changed."""

    code = "ENG-007"
    name = "Checksum Validation Failure"


class LogDamageError(CorruptionError):
    """The log of an older release is not what its files promise: a gap, a cut, a wrong name."""

    code = "ENG-014"
    name = "WAL Deserialization Failure"


class SnapshotDamageError(CorruptionError):
    """The snapshot of an older release cannot be decoded."""

    code = "ENG-004"
    name = "Snapshot Deserialization Failure"


class ManifestDamageError(CorruptionError):
    """The manifest or the keyring of an older release cannot be decoded."""

    code = "ENG-006"
    name = "Manifest Deserialization Failure"


class SealDamageError(CorruptionError):
    """What an older release sealed was altered: the right key does not open it."""

    code = "ENG-008"
    name = "Encrypted Storage Failure"


class AccessDamageError(CorruptionError):
    """The users and roles of an older release cannot be decoded."""

    code = "SRV-026"
    name = "Auth Store Deserialization Failure"


class InvalidIntegerError(CorruptionError):
    """The log of an older release counts with a value that is no number."""

    code = "ENG-015"
    name = "Invalid Integer Value"


class NumericOverflowError(CorruptionError):
    """The log of an older release counts beyond 64 bits."""

    code = "ENG-016"
    name = "Numeric Overflow"


class LostKeyringError(KeyringError):
    """A directory of an older release holds sealed data, but no keyring."""

    code = "ENG-014"
    name = "WAL Deserialization Failure"


class RestorePointError(StorageError):
    """The point in time lies outside of what can be restored. Nothing was changed."""

    code = "ENG-012"
    name = "Restore Point Unavailable"


class RestoreTargetError(StorageError):
    """A restore may not go there. Nothing was changed."""

    code = "ENG-011"
    name = "Invalid Storage Operation"


class CommandEncodingError(StorageError):
    """A payload is not the list of prepared commands it should be."""

    code = "ENG-014"
    name = "WAL Deserialization Failure"


class EntryTooLargeError(StorageError):
    """A batch, or all batches of one append, exceed what one frame may hold."""

    code = "ENG-013"
    name = "WAL Serialization Failure"


class LogOrderError(StorageError):
    """The caller broke the order of the log: a gap, a falling term, a cut inside a batch."""

    code = "ENG-011"
    name = "Invalid Storage Operation"


class NotAnIntegerError(StorageError):
    """A value that was to be counted is not a decimal number of 64 bits. Nothing was changed."""

    code = "ENG-015"
    name = "Invalid Integer Value"


class IntegerOverflowError(StorageError):
    """A number would have left 64 bits. Nothing was changed."""

    code = "ENG-016"
    name = "Numeric Overflow"


class StorageBusyError(StorageError):
    """What may be done once at a time is under way: a walk over the keyspace, a snapshot."""

    code = "ENG-011"
    name = "Invalid Storage Operation"


class BatchError(StorageError):
    """A batch of a store is used before or after its block, or elsewhere. Nothing was changed."""

    code = "ENG-011"
    name = "Invalid Storage Operation"


class LogClosedError(StorageError):
    """The log has been closed."""

    code = "ENG-011"
    name = "Invalid Storage Operation"


class LogPoisonedError(StorageError):
    """An earlier write or sync failed, so nobody knows what the disk holds.

    The first failure is chained as the cause. Only a restart, which reads the disk, helps.
    """


class BackupError(StorageError):
    """Base of what can be wrong with a logical backup. Nothing was changed.

    `message` is the text of the error catalogue, for clients.
    """

    _message: ClassVar[str] = "{reason}"

    @property
    def message(self) -> str:
        """The text of the error, as the catalogue words it (without a prefix)."""
        return self._message.format(reason=self.reason)


class BackupEncodingError(BackupError):
    """The keyspace holds what a JSON document cannot."""

    code = "ENG-003"
    name = "Snapshot Serialization Failure"
    _message = "snapshot serialization failed: {reason}"


class BackupFormatError(BackupError):
    """A document breaks the rules of its version."""

    code = "ENG-004"
    name = "Snapshot Deserialization Failure"
    _message = "snapshot deserialization failed: {reason}"


class BackupVersionError(BackupError):
    """A document has a version that this release cannot read."""

    code = "ENG-009"
    name = "Unsupported Storage Format"
    _message = "unsupported storage format for logical backup"


class BackupVerificationError(BackupError):
    """A document is not whole, or not the one that its sidecar describes."""

    code = "SRV-029"
    name = "Backup Verification Failure"
    _message = "backup verification failed: {reason}"


class BackupPathError(BackupError):
    """A path leads out of the backup directory; the reason is the path. No file was touched.

    Or it leads among the files of a data directory, and the reason says so.
    """

    code = "SRV-027"
    name = "Backup Path Rejected"
    _message = "backup path is outside the configured backup directory: {reason}"


class BackupNameError(BackupError):
    """A dump would get a name that the sidecar of another dump has. No file was touched."""

    code = "ENG-011"
    name = "Invalid Storage Operation"
    _message = "invalid storage operation: {reason}"


class ForeignBackupError(BackupError):
    """A backup of a store would replace what is no earlier one. No file was touched."""

    code = "ENG-011"
    name = "Invalid Storage Operation"
    _message = "invalid storage operation: {reason}"


class BackupFileError(BackupError):
    """A backup file cannot be read or written; the cause is chained if there is one."""

    code = "SRV-004"
    name = "Filesystem I/O Failure"
    _message = "filesystem I/O failed: {reason}"
