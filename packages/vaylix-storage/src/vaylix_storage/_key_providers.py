"""Where the key comes from that wraps the storage keys.

A provider never sees data, only the 32-byte storage keys of the keyring, and never makes a new
wrapping key once a keyring exists: a key that cannot be found is an error, not a fresh start.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vaylix_storage._format import KEY_BYTES
from vaylix_storage._names import IDENTITY_NAME, KEYRING_NAME, SNAPSHOTS_NAME, WAL_NAME
from vaylix_storage._vfs import NotRegularFileError, Vfs, create_file_durably, replace_file_durably
from vaylix_storage.errors import FileSystemError, KeyringError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["EnvKeyProvider", "FileKeyProvider", "KeyProvider", "NextFileKeyProvider"]

_NONCE_BYTES: Final = 12


class KeyProvider(Protocol):
    """Wraps and unwraps storage keys. All methods raise KeyringError."""

    @property
    def name(self) -> str:
        """What the keyring calls this provider, at most 64 characters."""
        ...

    def prepare(self) -> None:
        """Make sure that a wrapping key exists. Called only before a keyring is created."""
        ...

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Return `key` sealed; `context` must be the same when it is unwrapped."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the key that was wrapped."""
        ...


class FileKeyProvider:
    """The wrapping key is a file of 64 hexadecimal digits, created with mode 0600.

    Whoever can read both this file and the data directory can read the data: keep the file on
    another volume where that matters.
    """

    name: Final = "file"

    def __init__(
        self, path: Path, *, vfs: Vfs, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._path = path
        self._vfs = vfs
        self._random_bytes = random_bytes

    @property
    def path(self) -> Path:
        """Where the key is."""
        return self._path

    def prepare(self) -> None:
        """Create the key file unless it exists; FileSystemError for an impossible place."""
        try:
            self._check_place()
            if self._vfs.exists(self._path):
                self._key()
                # A start that was killed may have left the name without syncing it.
                self._vfs.sync_directory(self._path.parent)
            else:
                key = self._random_bytes(KEY_BYTES)
                create_file_durably(self._vfs, self._path, key.hex().encode() + b"\n")
        except OSError as error:
            raise FileSystemError(
                f"cannot create the key file: {error}",
                path=self._path,
                remedy="see that its directory exists and can be written to, or name another file",
            ) from error
        self._key()

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Return `key` sealed with AES-256-GCM."""
        return _wrap(self._key(), key, context, self._random_bytes)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the key that was wrapped."""
        return _unwrap(self._key(), wrapped, context, f"the key file {self._path}")

    def next_key(self) -> NextFileKeyProvider:
        """Return the provider of a new key that is going to replace the one in this file."""
        return NextFileKeyProvider(self._path, vfs=self._vfs, random_bytes=self._random_bytes)

    def settle(self) -> None:
        """Write the key file again, so that the key that can be read is also on the disk."""
        content = self._key().hex().encode() + b"\n"
        try:
            # A symbolic link stays one: the key must not move to another volume.
            replace_file_durably(self._vfs, self._vfs.resolve(self._path), content)
        except OSError as error:
            raise FileSystemError(f"cannot write the key file: {error}", path=self._path) from error

    def _check_place(self) -> None:
        """Refuse a place where the next start would take the file for a segment or a snapshot."""
        place = self._vfs.resolve(self._path)
        for around in place.parents:
            if around.name in {WAL_NAME, SNAPSHOTS_NAME} and any(
                self._vfs.exists(around.parent / name) for name in (IDENTITY_NAME, KEYRING_NAME)
            ):
                raise FileSystemError(
                    "a key file cannot lie among the segments and snapshots of a data directory",
                    path=self._path,
                    remedy=f"choose a path outside of {around}",
                )

    def _key(self) -> bytes:
        return read_key_file(self._path, self._vfs)


class NextFileKeyProvider(FileKeyProvider):
    """A new wrapping key beside a key file, under its name with `.new`, until it takes its place.

    For `rewrap_keyring`; a key that an interrupted rewrap has left there is used again.
    """

    def __init__(
        self, path: Path, *, vfs: Vfs, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        # A symbolic link stays one: the key must not move to another volume.
        self._current = vfs.resolve(path)
        super().__init__(
            self._current.with_name(self._current.name + ".new"),
            vfs=vfs,
            random_bytes=random_bytes,
        )

    @property
    def exists(self) -> bool:
        """Whether there is a new key that is not the current one."""
        if not self._vfs.exists(self._path):
            return False
        has_current = self._vfs.exists(self._current)
        return not has_current or self._key() != read_key_file(self._current, self._vfs)

    def prepare(self) -> None:
        """Create the new key unless an interrupted rewrap has left one."""
        if not self.exists and self._vfs.exists(self._path):
            # Another name of the current key: a rename of before that a power cut half undid.
            try:
                self._vfs.unlink(self._path)
            except OSError as error:
                raise FileSystemError(f"cannot be removed: {error}", path=self._path) from error
        super().prepare()

    def in_place(self) -> FileKeyProvider:
        """Return the provider of the key file itself."""
        return FileKeyProvider(self._current, vfs=self._vfs, random_bytes=self._random_bytes)

    def take_place(self) -> None:
        """Replace the key file, atomically and durably."""
        try:
            self._vfs.rename(self._path, self._current)
            self._vfs.sync_directory(self._current.parent)
        except OSError as error:
            raise FileSystemError(
                f"cannot replace the key file: {error}", path=self._current
            ) from error


def read_key_file(path: Path, vfs: Vfs) -> bytes:
    """Return the key in a file of hexadecimal digits; KeyringError when there is none."""
    try:
        file = vfs.open(path)
    except NotRegularFileError as error:
        raise KeyringError(
            "the key file is not a regular file",
            path=path,
            remedy="write the key into a file: it is read more than once, which a pipe cannot be",
        ) from error
    except OSError as error:
        raise KeyringError(
            f"cannot read the key file: {error.strerror or error}",
            path=path,
            remedy="restore the key file",
        ) from error
    try:
        text = file.read_at(0, 2 * KEY_BYTES + 2)
    except OSError as error:
        raise KeyringError(f"cannot read the key file: {error}", path=path) from error
    finally:
        file.close()
    return _parse_key(text.decode("ascii", errors="replace"), f"the key file {path}")


class EnvKeyProvider:
    """The wrapping key is an environment variable of 64 hexadecimal digits."""

    name: Final = "env"

    def __init__(
        self,
        variable: str,
        *,
        environment: Mapping[str, str],
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._variable = variable
        self._environment = environment
        self._random_bytes = random_bytes

    def prepare(self) -> None:
        """Check the variable; a provider cannot create it."""
        self._key()

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Return `key` sealed with AES-256-GCM."""
        return _wrap(self._key(), key, context, self._random_bytes)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the key that was wrapped."""
        return _unwrap(self._key(), wrapped, context, f"the variable {self._variable}")

    def _key(self) -> bytes:
        text = self._environment.get(self._variable)
        if text is None:
            raise KeyringError(
                f"the variable {self._variable} is not set",
                remedy="set it to the 64 hexadecimal digits of the wrapping key",
            )
        return _parse_key(text, f"the variable {self._variable}")


def _parse_key(text: str, source: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyringError(f"{source} does not hold {2 * KEY_BYTES} hexadecimal digits")
    return key


def _wrap(
    wrapping_key: bytes, key: bytes, context: bytes, random_bytes: Callable[[int], bytes]
) -> bytes:
    nonce = random_bytes(_NONCE_BYTES)
    return nonce + AESGCM(wrapping_key).encrypt(nonce, key, context)


def _unwrap(wrapping_key: bytes, wrapped: bytes, context: bytes, source: str) -> bytes:
    try:
        return AESGCM(wrapping_key).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context)
    except (InvalidTag, ValueError):
        raise KeyringError(
            f"{source} holds another key than the one that wrapped the keyring",
            remedy="supply the key this data was written with",
        ) from None
