"""The small files of a data directory and what else is in it, as the offline tools need them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from vaylix_storage._catalog import parse_segment_name
from vaylix_storage._directory import NodeIdentity, has_log_begun, read_identity
from vaylix_storage._foreign_identity import refuse_foreign_identity
from vaylix_storage._keyring import Keyring
from vaylix_storage._names import (
    IDENTITY_NAME,
    KEYRING_NAME,
    WAL_NAME,
)
from vaylix_storage.errors import CorruptionError

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._vfs import Vfs

__all__ = [
    "OTHER_DIRECTORIES",
    "OTHER_NAMES",
    "check_keyring_exists",
    "has_data",
    "load_identity",
    "load_keyring",
    "read_small",
    "segment_names",
]

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


def load_identity(path: Path, vfs: Vfs) -> NodeIdentity:
    """Return who owns a data directory; OSError.

    CorruptionError if that is lost or damaged, ForeignFormatError if it is that of another one.
    """
    try:
        identity = read_identity(path, vfs)
    except FileNotFoundError:
        raise CorruptionError(
            "it is missing",
            path=path / IDENTITY_NAME,
            offset=0,
            remedy="restore node.json from a copy",
        ) from None
    refuse_foreign_identity(path, identity, vfs)
    return identity


def load_keyring(path: Path, *, vfs: Vfs, provider: KeyProvider) -> Keyring:
    """Return the keys of a data directory; raises as `Keyring.load` and `check_keyring_exists`."""
    check_keyring_exists(path, vfs)
    return Keyring.load(path / KEYRING_NAME, vfs=vfs, provider=provider)


def check_keyring_exists(path: Path, vfs: Vfs) -> None:
    """Raise CorruptionError if the keys of a directory with data are lost; OSError.

    A directory without data need not have any: its first start was interrupted.
    """
    if not vfs.exists(path / KEYRING_NAME) and has_data(path, vfs):
        raise CorruptionError(
            "it is missing, but the directory holds encrypted data",
            path=path / KEYRING_NAME,
            offset=0,
            remedy="restore keyring.bin from a copy; without it the data cannot be read",
        )


def has_data(path: Path, vfs: Vfs) -> bool:
    """Tell whether anything in a directory is, or has been, sealed by a key; OSError."""
    if has_log_begun(path, vfs):
        return True
    return vfs.exists(path / WAL_NAME) and bool(segment_names(path, vfs))


def segment_names(path: Path, vfs: Vfs) -> list[str]:
    """Return the names of all segments of a directory; OSError."""
    names = vfs.list_directory(path / WAL_NAME)
    return [name for name in names if parse_segment_name(name) is not None]
