"""Logical backups: all live keys as one JSON document that any release can read.

Documents of version 2 are written, 1 and 2 are read (VTP2 storage section 12). Nothing here knows
the storage format or its keys, so a document carries data between releases, and outlives a lost
keyring; it is not encrypted.
"""

from vaylix_storage.logical_backup._document import (
    SOURCE_ENGINE_VERSION,
    VERSION_WRITTEN,
    BackupDocument,
    BackupEntry,
    BackupHeader,
    DocumentWriter,
    EntryLimits,
)
from vaylix_storage.logical_backup._files import BackupDirectory, BackupFile
from vaylix_storage.logical_backup._parser import (
    VerifyReport,
    check_document,
    parse_document,
    verify_document,
)
from vaylix_storage.logical_backup._restore_batches import restore_batches
from vaylix_storage.logical_backup._sidecar import SIDECAR_SUFFIX, Sidecar
from vaylix_storage.logical_backup._sorted_walk import SortedWalk, backup_pieces

__all__ = [
    "SIDECAR_SUFFIX",
    "SOURCE_ENGINE_VERSION",
    "VERSION_WRITTEN",
    "BackupDirectory",
    "BackupDocument",
    "BackupEntry",
    "BackupFile",
    "BackupHeader",
    "DocumentWriter",
    "EntryLimits",
    "Sidecar",
    "SortedWalk",
    "VerifyReport",
    "backup_pieces",
    "check_document",
    "parse_document",
    "restore_batches",
    "verify_document",
]
