"""The names in a data directory of format 4 (docs/storage-format.md); format 3 has its own."""

from __future__ import annotations

from typing import Final

__all__ = [
    "IDENTITY_NAME",
    "KEYRING_NAME",
    "KEY_NAME",
    "LOG_BEGUN_NAME",
    "MANIFEST_NAME",
    "SEGMENT_SUFFIX",
    "SNAPSHOTS_NAME",
    "SNAPSHOT_SUFFIX",
    "STAGING_SUFFIX",
    "WAL_NAME",
]

IDENTITY_NAME: Final = "node.json"
KEYRING_NAME: Final = "keyring.bin"
# Where a storage key is kept unless the user says otherwise.
KEY_NAME: Final = "storage.key"
# The mark that there has been a log: one that is lost must not look like one that is new.
LOG_BEGUN_NAME: Final = "wal.begun"
MANIFEST_NAME: Final = "manifest.bin"
SNAPSHOTS_NAME: Final = "snapshots"
WAL_NAME: Final = "wal"

SEGMENT_SUFFIX: Final = ".wal"
SNAPSHOT_SUFFIX: Final = ".snapshot"
# Of a file that is being written and does not count yet.
STAGING_SUFFIX: Final = ".tmp"
