"""The keyring: the storage keys, each wrapped by a key provider, in `keyring.bin`.

    0   8  magic "VAYLIXK4"
    8   4  body bytes, little endian
    12  n  body, MessagePack: [active key id, [[key id, created ms, provider, wrapped key], ...]]
    ..  32 HMAC-SHA-256 of everything before, by a key derived from the active storage key
    ..  4  CRC-32 of everything before, little endian

The CRC tells damage from a wrong key. The HMAC keeps somebody without the keys from choosing
which of them is active. While a rewrap is under way, the body lists each key twice, wrapped in the
old way and then in the new one; a reader takes the first entry that its provider can open.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
import zlib
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from vaylix_storage._format import KEY_BYTES
from vaylix_storage._vfs import Vfs, create_file_durably
from vaylix_storage.errors import (
    CorruptionError,
    FileSystemError,
    ForeignFormatError,
    KeyringError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from vaylix_storage._key_providers import KeyProvider

__all__ = [
    "KEYRING_MAGIC",
    "KEY_ID_BYTES",
    "KeyInfo",
    "Keyring",
    "KeyringBody",
    "WrappedKey",
    "decode_keyring",
    "encode_keyring",
    "open_keyring",
    "read_keyring",
    "wrap_key",
]

KEY_ID_BYTES: Final = 16
KEYRING_MAGIC: Final = b"VAYLIXK4"
_START: Final = struct.Struct("<8sI")
_CRC: Final = struct.Struct("<I")
_MAC_BYTES: Final = 32
_FILE_BYTES_MAX: Final = 1024 * 1024
_MAC_CONTEXT: Final = b"vaylix keyring mac"
_REMEDY: Final = "restore keyring.bin from a copy; without it the data cannot be read"


class WrappedKey(msgspec.Struct, frozen=True, array_like=True):
    """A storage key that a provider has wrapped."""

    key_id: bytes
    created_at_ms: Annotated[int, msgspec.Meta(ge=0)]
    provider: str
    wrapped: bytes


class KeyringBody(msgspec.Struct, frozen=True, array_like=True):
    """What is in a keyring, the oldest key first."""

    active_key_id: bytes
    keys: tuple[WrappedKey, ...]


class KeyInfo(msgspec.Struct, frozen=True):
    """What can be told about a storage key. `providers` have wrapped it; usually it is one."""

    key_id: bytes
    created_at_ms: int
    providers: tuple[str, ...]
    is_active: bool


class Keyring:
    """The storage keys of a data directory, unwrapped. Immutable, so any thread may use it."""

    __slots__ = ("_active_key_id", "_infos", "_keys")

    def __init__(
        self,
        active_key_id: bytes,
        keys: Mapping[bytes, bytes],
        wrapped: Iterable[WrappedKey] = (),
    ) -> None:
        assert active_key_id in keys
        self._active_key_id = active_key_id
        self._keys = dict(keys)
        self._infos = [_describe(key_id, active_key_id, wrapped) for key_id in self._keys]

    @property
    def keys(self) -> list[KeyInfo]:
        """What can be told about each key, the oldest first."""
        return list(self._infos)

    @property
    def active_key_id(self) -> bytes:
        """Id of the key that new segments use."""
        return self._active_key_id

    def key(self, key_id: bytes) -> bytes:
        """Return a storage key; KeyringError when the keyring does not hold it."""
        try:
            return self._keys[key_id]
        except KeyError:
            raise KeyringError(
                f"the keyring does not hold the storage key {key_id.hex()}", remedy=_REMEDY
            ) from None

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        vfs: Vfs,
        provider: KeyProvider,
        created_at_ms: int,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> Keyring:
        """Make a keyring with one new storage key and write it durably to `path`."""
        provider.prepare()
        key_id, key = random_bytes(KEY_ID_BYTES), random_bytes(KEY_BYTES)
        entry = wrap_key(key_id, key, created_at_ms, provider)
        content = encode_keyring(KeyringBody(key_id, (entry,)), key)
        try:
            create_file_durably(vfs, path, content)
        except OSError as error:
            raise FileSystemError(f"cannot write the keyring: {error}", path=path) from error
        return cls(key_id, {key_id: key}, (entry,))

    @classmethod
    def load(cls, path: Path, *, vfs: Vfs, provider: KeyProvider) -> Keyring:
        """Read a keyring and unwrap its keys. Changes nothing.

        Raises KeyringError for a missing file, a wrong wrapping key, or one of another provider;
        CorruptionError for damage.
        """
        content = read_keyring(path, vfs)
        body = decode_keyring(content, path)
        return open_keyring(content, body, provider, path)[0]


def open_keyring(
    content: bytes, body: KeyringBody, provider: KeyProvider, path: Path
) -> tuple[Keyring, dict[bytes, WrappedKey]]:
    """Unwrap all keys of a keyring; return them, and the entry that each was found in."""
    keys: dict[bytes, bytes] = {}
    opened: dict[bytes, WrappedKey] = {}
    # All are needed: one that is found missing later would be found after something was changed.
    for key_id in dict.fromkeys(entry.key_id for entry in body.keys):
        entries = [entry for entry in body.keys if entry.key_id == key_id]
        opened[key_id], keys[key_id] = _open_key(entries, provider, path)
    active = keys.get(body.active_key_id)
    if active is None:
        raise CorruptionError("the active key is missing", path=path, offset=12, remedy=_REMEDY)
    end = len(content) - _CRC.size - _MAC_BYTES
    if not hmac.compare_digest(_mac(content[:end], active), content[end : end + _MAC_BYTES]):
        raise CorruptionError("the keyring was altered", path=path, offset=end, remedy=_REMEDY)
    return Keyring(body.active_key_id, keys, body.keys), opened


def wrap_key(key_id: bytes, key: bytes, created_at_ms: int, provider: KeyProvider) -> WrappedKey:
    """Return a storage key as it is in a keyring, having seen that it can be unwrapped again."""
    context = _context(key_id, created_at_ms)
    wrapped = provider.wrap(key, context)
    if provider.unwrap(wrapped, context) != key:
        raise KeyringError(f"the provider '{provider.name}' does not give back what it has wrapped")
    return WrappedKey(key_id, created_at_ms, provider.name, wrapped)


def _open_key(
    entries: list[WrappedKey], provider: KeyProvider, path: Path
) -> tuple[WrappedKey, bytes]:
    """Return the first entry of a key that the provider can open, and the key."""
    failure = KeyringError(
        f"the storage key {entries[0].key_id.hex()} is not wrapped by the provider "
        f"'{provider.name}'",
        path=path,
        remedy="start with the key provider this keyring was made with",
    )
    for entry in entries:
        if entry.provider == provider.name:
            context = _context(entry.key_id, entry.created_at_ms)
            try:
                return entry, provider.unwrap(entry.wrapped, context)
            except KeyringError as error:
                failure = error
    raise failure


def _describe(key_id: bytes, active_key_id: bytes, wrapped: Iterable[WrappedKey]) -> KeyInfo:
    entries = [entry for entry in wrapped if entry.key_id == key_id]
    created_at_ms = entries[0].created_at_ms if entries else 0
    providers = tuple(entry.provider for entry in entries)
    return KeyInfo(key_id, created_at_ms, providers, key_id == active_key_id)


def _context(key_id: bytes, created_at_ms: int) -> bytes:
    return b"vaylix storage key" + key_id + created_at_ms.to_bytes(8, "little")


def _mac(content: bytes, storage_key: bytes) -> bytes:
    mac_key = hmac.digest(storage_key, _MAC_CONTEXT, hashlib.sha256)
    return hmac.digest(mac_key, content, hashlib.sha256)


def encode_keyring(body: KeyringBody, active_key: bytes) -> bytes:
    """Return the bytes of a keyring."""
    encoded = msgspec.msgpack.encode(body)
    content = _START.pack(KEYRING_MAGIC, len(encoded)) + encoded
    content += _mac(content, active_key)
    return content + _CRC.pack(zlib.crc32(content))


def read_keyring(path: Path, vfs: Vfs) -> bytes:
    """Return the bytes of a keyring; KeyringError when there is none."""
    try:
        file = vfs.open(path)
        try:
            return file.read_at(0, _FILE_BYTES_MAX)
        finally:
            file.close()
    except FileNotFoundError as error:
        raise KeyringError("the keyring is missing", path=path, remedy=_REMEDY) from error
    except OSError as error:
        raise FileSystemError(f"cannot read the keyring: {error}", path=path) from error


def decode_keyring(content: bytes, path: Path) -> KeyringBody:
    """Return what is in a keyring; nobody has vouched for it yet."""
    smallest = _START.size + _MAC_BYTES + _CRC.size
    if len(content) < smallest:
        raise CorruptionError("the keyring is too short", path=path, offset=0, remedy=_REMEDY)
    if zlib.crc32(content[: -_CRC.size]) != _CRC.unpack_from(content, len(content) - 4)[0]:
        raise CorruptionError("the keyring is damaged", path=path, offset=0, remedy=_REMEDY)
    magic, body_bytes = _START.unpack_from(content)
    if magic != KEYRING_MAGIC:
        raise ForeignFormatError("this is not a keyring of storage format 4", path=path)
    if body_bytes != len(content) - smallest:
        raise CorruptionError("the keyring is malformed", path=path, offset=8, remedy=_REMEDY)
    try:
        return msgspec.msgpack.decode(
            content[_START.size : _START.size + body_bytes], type=KeyringBody
        )
    except msgspec.MsgspecError as error:
        raise CorruptionError(
            f"the keyring is malformed: {error}", path=path, offset=_START.size, remedy=_REMEDY
        ) from error
