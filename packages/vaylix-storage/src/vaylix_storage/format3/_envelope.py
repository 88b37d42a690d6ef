"""The encryption envelope of format 3 (storage section 6).

    0   4  "VXE1"
    4   1  version, 1
    5   1  algorithm, 1: ChaCha20-Poly1305
    6  16  key id
   22  16  salt of the key derivation: the key id, or anything else in older data
   38  12  nonce
   50   4  size of the ciphertext with its tag, little endian
   54   4  CRC-32 of the ciphertext, little endian
   58   n  ciphertext and tag

The header is not authenticated, and nothing binds an envelope to its place: only the names of the
files and the sequence numbers inside do (weakness 21 of 0.9).
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from vaylix_storage.errors import (
    CorruptionError,
    ForeignFormatError,
    KeyringError,
    SealDamageError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ENVELOPE_HEADER_BYTES", "ENVELOPE_MAGIC", "Envelopes", "derive_key", "envelope_size"]

ENVELOPE_MAGIC: Final = b"VXE1"
ENVELOPE_HEADER_BYTES: Final = 58
_HEADER: Final = struct.Struct("<4sBB16s16s12sII")
# A salt of its own for every envelope was the habit of old releases; those are not worth keeping.
_DERIVED_KEYS_MAX: Final = 256
_RESTORE: Final = "restore the file from a copy, or a logical backup into a new directory"


def derive_key(secret: str, salt: bytes) -> bytes:
    """Return the key that a secret of the keyring stands for: Argon2id, 19 MiB, 2 passes."""
    kdf = Argon2id(salt=salt, length=32, iterations=2, lanes=1, memory_cost=19456)
    return kdf.derive(secret.encode())


def envelope_size(head: bytes) -> int | None:
    """Return the size of the envelope that `head` begins, or None if it does not say so."""
    if len(head) < ENVELOPE_HEADER_BYTES or head[:6] != ENVELOPE_MAGIC + b"\x01\x01":
        return None
    return ENVELOPE_HEADER_BYTES + int.from_bytes(head[50:54], "little")


class Envelopes:
    """Opens envelopes with the keys of a keyring."""

    def __init__(self, secrets: Mapping[bytes, str]) -> None:
        self._secrets = dict(secrets)
        self._ciphers: dict[tuple[bytes, bytes], ChaCha20Poly1305] = {}
        # Keys that have opened something. If one of these fails, the data are to blame.
        self._proven: set[bytes] = set()

    def open(self, data: bytes, resource: str, *, path: Path, offset: int) -> bytes:
        """Return the plaintext of an envelope that is all of `data`.

        `resource` is "snapshot", "wal entry" or "auth metadata"; `path` and `offset` say where
        the envelope is. Raises ForeignFormatError (ENG-009), CorruptionError (ENG-007), and for a
        seal that does not fit SealDamageError, or KeyringError before the key has opened anything
        (both ENG-008).
        """
        key_id, salt, nonce, ciphertext = _split(data, resource, path, offset)
        secret = self._secrets.get(key_id)
        if secret is None:
            raise ForeignFormatError(
                f"the {resource} is sealed by the key {key_id.hex()}, which the keyring does not "
                "hold",
                path=path,
                offset=offset,
                remedy="restore the keyring.bin that belongs to this directory",
            )
        try:
            plain = self._cipher(key_id, secret, salt).decrypt(nonce, ciphertext, resource.encode())
        except InvalidTag:
            raise self._refusal(key_id, resource, path, offset) from None
        except OverflowError as error:
            raise ForeignFormatError(
                f"the {resource} is too large to be opened: {error}",
                path=path,
                offset=offset,
                remedy="move the data by a logical backup",
            ) from error
        self._proven.add(key_id)
        return plain

    def _cipher(self, key_id: bytes, secret: str, salt: bytes) -> ChaCha20Poly1305:
        cipher = self._ciphers.get((key_id, salt))
        if cipher is None:
            try:
                cipher = ChaCha20Poly1305(derive_key(secret, salt))
            except UnsupportedAlgorithm as error:
                raise ForeignFormatError(
                    f"the cryptography library cannot open this format: {error}",
                    remedy="install `cryptography` from its wheel",
                ) from error
            if len(self._ciphers) >= _DERIVED_KEYS_MAX:
                self._ciphers.clear()
            self._ciphers[key_id, salt] = cipher
        return cipher

    def _refusal(self, key_id: bytes, resource: str, path: Path, offset: int) -> StorageError:
        if key_id in self._proven:
            return SealDamageError(
                f"the {resource} was altered: its seal does not fit, though its key is right",
                path=path,
                offset=offset,
                remedy=_RESTORE,
            )
        return KeyringError(
            f"the key {key_id.hex()} of the keyring does not open the {resource}: its secret is "
            "wrong, or the data were altered",
            path=path,
            offset=offset,
            remedy="restore the keyring.bin that belongs to this directory",
        )


def _split(
    data: bytes, resource: str, path: Path, offset: int
) -> tuple[bytes, bytes, bytes, bytes]:
    reason = ""
    if len(data) < ENVELOPE_HEADER_BYTES:
        reason = "is too short to be sealed"
    elif data[:4] != ENVELOPE_MAGIC:
        reason = "is not sealed, though the directory has a keyring"
    if reason:
        raise ForeignFormatError(
            f"the {resource} {reason}", path=path, offset=offset, remedy=_RESTORE
        )
    _, version, algorithm, key_id, salt, nonce, size, crc = _HEADER.unpack_from(data)
    if (version, algorithm) != (1, 1) or size != len(data) - ENVELOPE_HEADER_BYTES:
        raise ForeignFormatError(
            f"the seal of the {resource} has another version, algorithm or length",
            path=path,
            offset=offset,
            remedy=_RESTORE,
        )
    ciphertext = data[ENVELOPE_HEADER_BYTES:]
    if zlib.crc32(ciphertext) != crc:
        raise CorruptionError(
            f"the ciphertext of the {resource} does not fit its checksum",
            path=path,
            offset=offset + ENVELOPE_HEADER_BYTES,
            remedy=_RESTORE,
        )
    return key_id, salt, nonce, ciphertext
