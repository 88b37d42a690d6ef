"""The documents of logical backups, and writing them (VTP2 storage section 12.1).

A document of version 2 is compact JSON with the entries in key order. It is made piece by piece,
so that nobody needs the whole of it in memory.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from vaylix_storage.errors import BackupEncodingError
from vaylix_storage.logical_backup._sidecar import Sidecar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DUMP_HEAD",
    "SOURCE_ENGINE_VERSION",
    "VERSION_WRITTEN",
    "BackupDocument",
    "BackupEntry",
    "BackupHeader",
    "DocumentWriter",
    "EntryLimits",
    "WireEntry",
]

VERSION_WRITTEN: Final = 2
# The version of the rules of the keyspace, as the published server counts them. Not the storage
# format: a document does not depend on that.
SOURCE_ENGINE_VERSION: Final = 3
# What each document begins with, as it is written here.
DUMP_HEAD: Final = b'{"version":'
# Of a key in an error.
_SHOWN_BYTES: Final = 40


class BackupEntry(msgspec.Struct, frozen=True, gc=False):
    """One key. `expires_at_ms` is Unix time or None."""

    key: bytes
    value: bytes
    expires_at_ms: int | None
    version: int

    def is_live(self, now_ms: int) -> bool:
        """Tell whether a restore at `now_ms` would write this entry."""
        return self.expires_at_ms is None or self.expires_at_ms > now_ms


class EntryLimits(msgspec.Struct, frozen=True):
    """How long a key and a value may be at most, in bytes, where readers cannot take any length."""

    key_bytes_max: int
    value_bytes_max: int

    def fault_of(self, entry: BackupEntry) -> str | None:
        """Return what is too long in an entry, and which one it is; None if nothing is."""
        if len(entry.key) > self.key_bytes_max:
            return _too_long(entry, "key", len(entry.key), self.key_bytes_max)
        if len(entry.value) > self.value_bytes_max:
            return _too_long(entry, "value", len(entry.value), self.value_bytes_max)
        return None


def _too_long(entry: BackupEntry, what: str, size_bytes: int, bytes_max: int) -> str:
    start = entry.key[:_SHOWN_BYTES].decode(errors="replace")
    name = repr(start) + ("..." if len(entry.key) > _SHOWN_BYTES else "")
    return f"key {name}: the {what} has {size_bytes} bytes, {bytes_max} are allowed"


class BackupHeader(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Everything in a document but its entries; `source_sequence` is an index of the log."""

    version: int = VERSION_WRITTEN
    created_at_ms: int
    source_engine_version: int = SOURCE_ENGINE_VERSION
    source_sequence: int


class BackupDocument(msgspec.Struct, frozen=True):
    """A document that was read. Every rule holds but one: a value that is not base64 is empty.

    `bad_values` says which entries those are, and why. `check_document` refuses a document with a
    live one; in an expired entry it does not matter.
    """

    header: BackupHeader
    entries: list[BackupEntry]
    bad_values: dict[int, str]


class WireEntry(msgspec.Struct, gc=False):
    """An entry of version 2 in the order of its fields; msgspec writes bytes as padded base64."""

    key: str
    value_base64: bytes
    expires_at_ms: int | None
    version: int


_ENCODER: Final = msgspec.json.Encoder()


class DocumentWriter:
    """Writes one document: `begin`, `feed` in key order any number of times, `end`.

    With `source_node_id` the sidecar says whose it is, and it replaces no dump of anybody else.
    """

    __slots__ = ("_digest", "_last_key", "byte_count", "entry_count", "header", "source_node_id")

    def __init__(self, header: BackupHeader, source_node_id: str | None = None) -> None:
        self.header = header
        self.source_node_id = source_node_id
        self.entry_count = 0
        self.byte_count = 0
        self._digest = sha256()
        self._last_key: bytes | None = None

    def begin(self) -> bytes:
        """Return the first bytes of the document."""
        return self._count(_ENCODER.encode(self.header)[:-1] + b',"entries":[')

    def feed(self, entries: Sequence[BackupEntry]) -> bytes:
        """Return the bytes of some entries, whose keys ascend and follow those fed before.

        Raises BackupEncodingError for a key that is not UTF-8, which JSON cannot hold.
        """
        if not entries:
            return b""
        assert self._last_key is None or self._last_key < entries[0].key
        self._last_key = entries[-1].key
        try:
            wire = [
                WireEntry(entry.key.decode(), entry.value, entry.expires_at_ms, entry.version)
                for entry in entries
            ]
        except UnicodeDecodeError as error:
            raise BackupEncodingError(
                f"the key {error.object!r} is not UTF-8",
                remedy="a logical backup holds text keys only; take a snapshot instead",
            ) from error
        piece = _ENCODER.encode(wire)[1:-1]
        if self.entry_count:
            piece = b"," + piece
        self.entry_count += len(entries)
        return self._count(piece)

    def end(self) -> bytes:
        """Return the last bytes of the document."""
        return self._count(b"]}")

    def sidecar(self) -> Sidecar:
        """Describe the document; call it after `end`."""
        return Sidecar(
            backup_version=self.header.version,
            created_at_ms=self.header.created_at_ms,
            source_engine_version=self.header.source_engine_version,
            source_sequence=self.header.source_sequence,
            entry_count=self.entry_count,
            byte_len=self.byte_count,
            sha256=self._digest.hexdigest(),
            source_node_id=self.source_node_id or UNSET,
        )

    def _count(self, piece: bytes) -> bytes:
        self.byte_count += len(piece)
        self._digest.update(piece)
        return piece
