"""Changes of a keyring: a new active key, another wrapping, keys that nobody needs any more.

Each change replaces `keyring.bin` as a whole, after all of its keys have been unwrapped and its
HMAC checked: what is lost or wrong is found before anything is changed. Nobody else may use the
data directory meanwhile; hold its lock.

A rewrap goes through three states, and each is one atomic replacement of a file:

1. each key in its old wrapping
2. each key in the old wrapping, then in the new one: the old and the new provider both work
3. each key in the new wrapping only

When a key file is replaced under its own name, the new key waits under `<name>.new` until state 2
is on the disk, and takes its place before state 3. So at any moment the file opens the keyring. A
rewrap that was interrupted is taken up by doing it again; if its new key was in place already, that
makes yet another one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vaylix_storage._format import KEY_BYTES
from vaylix_storage._key_providers import FileKeyProvider, NextFileKeyProvider
from vaylix_storage._keyring import (
    KEY_ID_BYTES,
    Keyring,
    KeyringBody,
    WrappedKey,
    decode_keyring,
    encode_keyring,
    open_keyring,
    read_keyring,
    wrap_key,
)
from vaylix_storage._vfs import Vfs, replace_file_durably
from vaylix_storage.errors import FileSystemError, KeyringError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from vaylix_storage._key_providers import KeyProvider

__all__ = ["drop_keys", "rewrap_keyring", "rotate_keyring", "settle_keyring"]


class _KeyringFile:
    """A keyring as it was read, to be opened by providers and written again."""

    def __init__(self, path: Path, vfs: Vfs) -> None:
        self.path = path
        self._vfs = vfs
        self.content = read_keyring(path, vfs)
        self.body = decode_keyring(self.content, path)

    def open(self, provider: KeyProvider) -> tuple[Keyring, dict[bytes, WrappedKey]]:
        return open_keyring(self.content, self.body, provider, self.path)

    def write(self, active_key_id: bytes, entries: Iterable[WrappedKey], active: bytes) -> None:
        self._replace(encode_keyring(KeyringBody(active_key_id, tuple(entries)), active))

    def write_again(self) -> None:
        self._replace(self.content)

    def _replace(self, content: bytes) -> None:
        try:
            replace_file_durably(self._vfs, self.path, content)
        except OSError as error:
            raise FileSystemError(
                f"cannot write the keyring: {error}",
                path=self.path,
                remedy="nothing is lost: both the old and the new keyring work; do it again",
            ) from error


def settle_keyring(path: Path, *, vfs: Vfs) -> None:
    """Write a keyring again as it is, so that what can be read is also on the disk.

    After a failed sync of a directory a replaced file can be read, but may be the old one again
    after a power cut. Data must not be sealed by a key that could go with it.
    """
    _KeyringFile(path, vfs).write_again()


def rotate_keyring(
    path: Path,
    *,
    vfs: Vfs,
    provider: KeyProvider,
    created_at_ms: int,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> Keyring:
    """Add a new storage key and make it the active one; the old ones stay, for what they sealed.

    Raises KeyringError, CorruptionError, FileSystemError; after the last the new key may be there,
    and must not be used before the keyring was read and settled again.
    """
    file = _KeyringFile(path, vfs)
    file.open(provider)
    key_id, key = random_bytes(KEY_ID_BYTES), random_bytes(KEY_BYTES)
    entry = wrap_key(key_id, key, created_at_ms, provider)
    file.write(key_id, (*file.body.keys, entry), key)
    return Keyring.load(path, vfs=vfs, provider=provider)


def rewrap_keyring(
    path: Path, *, vfs: Vfs, old_provider: KeyProvider, new_provider: KeyProvider
) -> Keyring:
    """Wrap all storage keys by another provider, or by another key of the same provider.

    To replace a key file under its own name, pass `old_provider.next_key()` as the new provider.
    Raises KeyringError, with nothing changed, when neither provider opens the keyring. When this
    is interrupted or raises FileSystemError, the old provider or the new one opens the keyring,
    and the same call does the rest.
    """
    file = _KeyringFile(path, vfs)
    by_new = _try_open(file, new_provider)
    by_old = _try_open(file, old_provider) if by_new is not None else file.open(old_provider)
    if isinstance(new_provider, NextFileKeyProvider) and not new_provider.exists:
        # What opened the keyring was the current key under its other name.
        by_new = None if by_old is not None else by_new
    elif by_old is not None and by_new is not None and by_old[1] == by_new[1]:
        return _finish(file, by_new[0], by_new[1].values(), vfs, new_provider)
    # What opens the keyring may have replaced another key, which is about to lose its wrapping.
    is_replacement = by_old is not None and _is_rewrapped(file.body, by_old[1])
    if is_replacement and isinstance(old_provider, FileKeyProvider):
        old_provider.settle()
    opened = by_new or by_old
    assert opened is not None
    keyring = opened[0]
    if by_new is None:
        new_provider.prepare()
        rewrapped = [
            wrap_key(info.key_id, keyring.key(info.key_id), info.created_at_ms, new_provider)
            for info in keyring.keys
        ]
    else:
        rewrapped = list(by_new[1].values())
    if by_old is not None:
        # Also when it can be read already: it has to be on the disk before the old key goes.
        both = [*by_old[1].values(), *rewrapped]
        file.write(keyring.active_key_id, both, keyring.key(keyring.active_key_id))
        Keyring.load(path, vfs=vfs, provider=new_provider)
    if isinstance(new_provider, NextFileKeyProvider):
        if by_old is None:
            file.write_again()
        new_provider.take_place()
        new_provider = new_provider.in_place()
    return _finish(file, keyring, rewrapped, vfs, new_provider)


def drop_keys(
    path: Path, key_ids_in_use: frozenset[bytes], *, vfs: Vfs, provider: KeyProvider
) -> list[bytes]:
    """Remove the retired keys that nothing names any more; return their ids.

    `key_ids_in_use` must hold what every segment, snapshot and archive names. The active key stays.
    """
    file = _KeyringFile(path, vfs)
    keyring, _ = file.open(provider)
    active_key_id = keyring.active_key_id
    kept = key_ids_in_use | {active_key_id}
    dropped = [info.key_id for info in keyring.keys if info.key_id not in kept]
    if dropped:
        entries = [entry for entry in file.body.keys if entry.key_id in kept]
        file.write(active_key_id, entries, keyring.key(active_key_id))
    return dropped


def _try_open(
    file: _KeyringFile, provider: KeyProvider
) -> tuple[Keyring, dict[bytes, WrappedKey]] | None:
    try:
        return file.open(provider)
    except KeyringError:
        return None


def _is_rewrapped(body: KeyringBody, opened: dict[bytes, WrappedKey]) -> bool:
    """Tell whether what was opened is the new of two wrappings by the same provider."""
    return any(
        entry.key_id == key_id and entry.provider == opened[key_id].provider
        for key_id in opened
        for entry in body.keys[: body.keys.index(opened[key_id])]
    )


def _finish(
    file: _KeyringFile,
    keyring: Keyring,
    entries: Iterable[WrappedKey],
    vfs: Vfs,
    provider: KeyProvider,
) -> Keyring:
    """Leave one wrapping of each key."""
    file.write(keyring.active_key_id, entries, keyring.key(keyring.active_key_id))
    return Keyring.load(file.path, vfs=vfs, provider=provider)
