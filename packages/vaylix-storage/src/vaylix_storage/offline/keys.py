"""The keys of a data directory: what they are needed for, and their change, offline.

The steps, and why a crash between any two of them is harmless, are in `_keyring_changes`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from vaylix_storage._directory import lock_directory
from vaylix_storage._key_providers import NextFileKeyProvider
from vaylix_storage._keyring_changes import (
    drop_keys,
    rewrap_keyring,
    rotate_keyring,
    settle_keyring,
)
from vaylix_storage._keys_in_use import key_ids_in_use, key_uses
from vaylix_storage._names import KEYRING_NAME
from vaylix_storage._permissions import find_loose_modes
from vaylix_storage.errors import FileSystemError
from vaylix_storage.offline._layout import check_keyring_exists, load_keyring
from vaylix_storage.offline.verify import check_is_directory, lock_for_reading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._vfs import Vfs

__all__ = ["KeyStatus", "KeyUse", "key_status", "rewrap_keys", "rotate_keys"]


class KeyUse(msgspec.Struct, frozen=True, kw_only=True):
    """A storage key; `used_by` are the segments, snapshots, manifest and archive that name it."""

    key_id: str
    created_at_ms: int
    providers: tuple[str, ...]
    is_active: bool
    is_in_use: bool
    used_by: tuple[str, ...]


class KeyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All storage keys of a directory, oldest first, and those that were dropped just now.

    `loose_modes` are files and directories that let other users in.
    """

    keys: tuple[KeyUse, ...]
    dropped: tuple[str, ...] = ()
    loose_modes: tuple[str, ...] = ()


def key_status(
    path: Path,
    *,
    vfs: Vfs,
    provider: KeyProvider,
    archive: Path | None = None,
    key_file: Path | None = None,
) -> KeyStatus:
    """Tell what there is; changes nothing. Raises subclasses of StorageError.

    `key_file` is one that lies elsewhere, to be told who may read it.
    """
    try:
        check_is_directory(path, vfs)
        lock = lock_for_reading(path, vfs)
        try:
            status = _status(path, vfs, provider, archive)
            others = () if key_file is None else (key_file,)
            loose = find_loose_modes(path, vfs=vfs, others=others)
            return msgspec.structs.replace(status, loose_modes=tuple(map(str, loose)))
        finally:
            lock.release()
    except OSError as error:
        raise FileSystemError(f"cannot be read: {error}", path=path) from error


def rotate_keys(
    path: Path,
    *,
    vfs: Vfs,
    provider: KeyProvider,
    now_ms: int,
    archive: Path | None = None,
    drop: bool = True,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> KeyStatus:
    """Make a new key the active one and, with `drop`, drop those that nothing names any more.

    An archive that is not named here is not looked at, and could not be read any more; where one is
    named that does not exist, nothing is dropped. Raises subclasses of StorageError; a
    retired key that is needed is never dropped.
    """

    def change() -> tuple[str, ...]:
        keyring_path = path / KEYRING_NAME
        # What is needed is found out first: damage must stop this before anything is changed.
        needed = key_ids_in_use(path, vfs=vfs, archive=archive)
        rotate_keyring(
            keyring_path,
            vfs=vfs,
            provider=provider,
            created_at_ms=now_ms,
            random_bytes=random_bytes,
        )
        settle_keyring(keyring_path, vfs=vfs)
        # A mistyped path would hide what needs them.
        if not drop or (archive is not None and not vfs.is_directory(archive)):
            return ()
        dropped = drop_keys(keyring_path, needed, vfs=vfs, provider=provider)
        return tuple(key_id.hex() for key_id in dropped)

    return _locked(path, vfs, provider, archive, change)


def rewrap_keys(path: Path, *, vfs: Vfs, old: KeyProvider, new: KeyProvider) -> KeyStatus:
    """Wrap all keys by another provider; when interrupted, the same call does the rest."""

    def change() -> tuple[str, ...]:
        rewrap_keyring(path / KEYRING_NAME, vfs=vfs, old_provider=old, new_provider=new)
        return ()

    # A key that replaces another under its name is, by then, what the old provider reads.
    reader = old if isinstance(new, NextFileKeyProvider) else new
    return _locked(path, vfs, reader, None, change)


def _locked(
    path: Path,
    vfs: Vfs,
    provider: KeyProvider,
    archive: Path | None,
    change: Callable[[], tuple[str, ...]],
) -> KeyStatus:
    try:
        check_is_directory(path, vfs)
        lock = lock_directory(path / "LOCK", vfs)
        try:
            check_keyring_exists(path, vfs)
            dropped = change()
            status = _status(path, vfs, provider, archive)
            return msgspec.structs.replace(status, dropped=dropped)
        finally:
            lock.release()
    except OSError as error:
        raise FileSystemError(
            f"cannot change the keys: {error}",
            path=path,
            remedy="when that is remedied, start it again",
        ) from error


def _status(path: Path, vfs: Vfs, provider: KeyProvider, archive: Path | None) -> KeyStatus:
    keyring = load_keyring(path, vfs=vfs, provider=provider)
    uses = key_uses(path, vfs=vfs, archive=archive)
    return KeyStatus(
        keys=tuple(
            KeyUse(
                key_id=info.key_id.hex(),
                created_at_ms=info.created_at_ms,
                providers=info.providers,
                is_active=info.is_active,
                is_in_use=info.key_id in uses,
                used_by=tuple(map(str, uses.get(info.key_id, ()))),
            )
            for info in keyring.keys
        )
    )
