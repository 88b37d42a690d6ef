"""The names in a data directory, as the offline tools need them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_storage._vfs import Vfs

__all__ = [
    "IDENTITY_NAME",
    "KEYRING_NAME",
    "KEY_NAME",
    "LOG_BEGUN_NAME",
    "MANIFEST_NAME",
    "OTHER_DIRECTORIES",
    "OTHER_NAMES",
    "SNAPSHOTS_NAME",
    "WAL_NAME",
    "read_small",
]

IDENTITY_NAME: Final = "node.json"
KEYRING_NAME: Final = "keyring.bin"
KEY_NAME: Final = "storage.key"
LOG_BEGUN_NAME: Final = "wal.begun"
MANIFEST_NAME: Final = "manifest.bin"
SNAPSHOTS_NAME: Final = "snapshots"
WAL_NAME: Final = "wal"
# What the owner of a directory keeps in it beside the data.
OTHER_NAMES: Final = frozenset(
    {"LOCK", "audit.log", "maintenance.mode", "migration.json", "restore.json"}
)
OTHER_DIRECTORIES: Final = frozenset({"backups"})

_SMALL_BYTES_MAX: Final = 1024 * 1024


def read_small(path: Path, vfs: Vfs) -> bytes | None:
    """Return the content of a small file, or None when there is none; OSError."""
    try:
        with closing(vfs.open(path)) as file:
            return file.read_at(0, _SMALL_BYTES_MAX)
    except FileNotFoundError:
        return None
