"""Reading and judging documents (VTP2 storage section 12.3).

Two ways lead to the same answer. What the writer of this package, or that of the published server,
has written is read by msgspec, some hundred entries at a time, and must come out byte for byte the
same when it is encoded again: then it breaks no rule. Everything else (other layout, other order,
version 1, any mistake) takes the strict reader, which is ten times slower and knows every rule.

The order of checks is part of the contract, since it decides which error a client sees. RESTORE
and CHECK: JSON, version given, version known, the rest. VERIFY: JSON and header, version known, the
sidecar, the entries.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from hashlib import sha256
from typing import Annotated, Final

import msgspec

from vaylix_storage.errors import (
    BackupFormatError,
    BackupVerificationError,
    BackupVersionError,
)
from vaylix_storage.logical_backup._document import (
    BackupDocument,
    BackupEntry,
    BackupHeader,
    EntryLimits,
)
from vaylix_storage.logical_backup._sidecar import Sidecar
from vaylix_storage.logical_backup._strict_json import (
    U32_MAX,
    U64_MAX,
    Fields,
    JsonError,
    JsonValue,
    parse_json,
)

__all__ = ["VerifyReport", "check_document", "describe", "parse_document", "verify_document"]

_HEADER_NAMES: Final = (
    "version",
    "created_at_ms",
    "source_engine_version",
    "source_sequence",
    "entries",
)
_ENTRY_NAMES: Final = {
    1: ("key", "value", "expires_at_ms"),
    2: ("key", "value_base64", "expires_at_ms", "version"),
}
_NOT_BASE64: Final = "is not padded standard base64"

_WRITTEN_HEAD: Final = re.compile(
    rb'\{"version":2,"created_at_ms":(0|[1-9][0-9]{0,19}),'
    rb'"source_engine_version":(0|[1-9][0-9]{0,9}),'
    rb'"source_sequence":(0|[1-9][0-9]{0,19}),"entries":\['
)
_WRITTEN_TAIL: Final = b"]}"
# Inside a string the second quote would be escaped, so in JSON this is always between two objects.
_BORDER: Final = b'},{"key":"'
# What is decoded in one call, during which no other thread runs.
_PIECE_BYTES: Final = 64 * 1024

_Unsigned = Annotated[int, msgspec.Meta(ge=0)]


class _ReadEntry(msgspec.Struct, gc=False):
    key: str
    value_base64: bytes
    expires_at_ms: _Unsigned | None
    version: _Unsigned


_DECODER: Final = msgspec.json.Decoder(list[_ReadEntry])
_ENCODER: Final = msgspec.json.Encoder()


class VerifyReport(msgspec.Struct, frozen=True):
    """What VERIFY answers: live entries, all entries, and the digest of the bytes."""

    entries: int
    entry_count: int
    sha256: str

    def pairs(self) -> list[tuple[str, str]]:
        """Return the lines of the answer, in their order."""
        return [
            ("status", "ok"),
            ("entries", str(self.entries)),
            ("entry_count", str(self.entry_count)),
            ("sha256", self.sha256),
        ]


def parse_document(data: bytes) -> BackupDocument:
    """Read a document of version 1 or 2.

    Raises BackupFormatError or BackupVersionError. Values that are not base64 are the one thing
    that `check_document` judges, since it depends on the time.
    """
    written = _read_written(data)
    if written is not None:
        return written
    try:
        fields = Fields(parse_json(_text(data)), "the document")
        version = _version(fields)
        if version not in _ENTRY_NAMES:
            raise BackupVersionError(f"backup version {version}")
        header, values = _header(fields)
    except JsonError as error:
        raise BackupFormatError(str(error)) from error
    return _read_entries(header, values)


def check_document(document: BackupDocument, now_ms: int, limits: EntryLimits | None = None) -> int:
    """Return how many entries a restore at `now_ms` would write.

    An entry counts even if a later one has the same key. Raises BackupFormatError when the value of
    one of them is not base64, or when one exceeds the `limits`.
    """
    for place, reason in document.bad_values.items():
        if document.entries[place].is_live(now_ms):
            raise BackupFormatError(reason)
    if limits is not None:
        for place, entry in enumerate(document.entries):
            fault = limits.fault_of(entry)
            if fault is not None and entry.is_live(now_ms):
                raise BackupFormatError(f"entry {place}: {fault}")
    return sum(entry.is_live(now_ms) for entry in document.entries)


def verify_document(
    data: bytes,
    now_ms: int,
    sidecar: bytes | None = None,
    limits: EntryLimits | None = None,
) -> VerifyReport:
    """Check a document, and that it is the one its sidecar describes, if that is given.

    Raises BackupVerificationError for what is wrong with the document as a whole, and
    BackupFormatError for an entry.
    """
    written = _read_written(data)
    if written is not None:
        document = written
        if sidecar is not None:
            Sidecar.parse(sidecar).verify(describe(data, written.header, len(written.entries)))
    else:
        header, values = _read_header_to_verify(data)
        if sidecar is not None:
            Sidecar.parse(sidecar).verify(describe(data, header, len(values)))
        document = _read_entries(header, values)
    return VerifyReport(
        check_document(document, now_ms, limits), len(document.entries), sha256(data).hexdigest()
    )


def describe(data: bytes, header: BackupHeader, entry_count: int) -> Sidecar:
    """Return the sidecar that belongs to the bytes of a document."""
    return Sidecar(
        backup_version=header.version,
        created_at_ms=header.created_at_ms,
        source_engine_version=header.source_engine_version,
        source_sequence=header.source_sequence,
        entry_count=entry_count,
        byte_len=len(data),
        sha256=sha256(data).hexdigest(),
    )


# What a writer has written


def _read_written(data: bytes) -> BackupDocument | None:
    """Read a document that is byte for byte as it is written; None for every other."""
    head = _WRITTEN_HEAD.match(data)
    if head is None or not data.endswith(_WRITTEN_TAIL):
        return None
    header = BackupHeader(
        version=2,
        created_at_ms=int(head[1]),
        source_engine_version=int(head[2]),
        source_sequence=int(head[3]),
    )
    if max(header.created_at_ms, header.source_sequence) > U64_MAX:
        return None
    if header.source_engine_version > U32_MAX:
        return None
    entries: list[BackupEntry] = []
    start, end = head.end(), len(data) - len(_WRITTEN_TAIL)
    while start < end:
        border = data.find(_BORDER, start + _PIECE_BYTES, end)
        stop = end if border < 0 else border + 1
        found = _read_written_piece(b"[" + data[start:stop] + b"]")
        if found is None:
            return None
        entries += found
        start = stop + 1
    return BackupDocument(header, entries, {})


def _read_written_piece(piece: bytes) -> list[BackupEntry] | None:
    try:
        read = _DECODER.decode(piece)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if not read or _ENCODER.encode(read) != piece:
        return None
    entries = [
        BackupEntry(entry.key.encode(), entry.value_base64, entry.expires_at_ms, entry.version)
        for entry in read
    ]
    numbers = [entry.version for entry in read]
    numbers += [entry.expires_at_ms for entry in read if entry.expires_at_ms is not None]
    return entries if max(numbers) <= U64_MAX else None


# Everything else


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8 at byte {error.start}") from error


def _version(fields: Fields) -> int:
    fields.require_once(("version",))
    return fields.number("version", U32_MAX)


def _header(fields: Fields) -> tuple[BackupHeader, list[JsonValue]]:
    """Read the header, version included, and the entries as they are."""
    fields.require_once(_HEADER_NAMES)
    header = BackupHeader(
        version=_version(fields),
        created_at_ms=fields.number("created_at_ms"),
        source_engine_version=fields.number("source_engine_version", U32_MAX),
        source_sequence=fields.number("source_sequence"),
    )
    return header, fields.array("entries")


def _read_header_to_verify(data: bytes) -> tuple[BackupHeader, list[JsonValue]]:
    try:
        header, values = _header(Fields(parse_json(_text(data)), "the document"))
    except JsonError as error:
        raise BackupVerificationError(str(error)) from error
    if header.version not in _ENTRY_NAMES:
        raise BackupVerificationError(f"unsupported backup version {header.version}")
    return header, values


def _read_entries(header: BackupHeader, values: list[JsonValue]) -> BackupDocument:
    document = BackupDocument(header, [], {})
    for place, value in enumerate(values):
        what = f"entry {place}"
        try:
            fields = Fields(value, what)
            fields.require_once(_ENTRY_NAMES[header.version])
            document.entries.append(_read_entry(fields, header.version, document, what))
        except JsonError as error:
            raise BackupFormatError(f"{what}: {error}") from error
    return document


def _read_entry(fields: Fields, version: int, document: BackupDocument, what: str) -> BackupEntry:
    key = fields.text("key").encode()
    expires_at_ms = fields.number_or_none("expires_at_ms")
    if version == 1:
        return BackupEntry(key, fields.text("value").encode(), expires_at_ms, 1)
    value = _decode_base64(fields.text("value_base64"))
    if value is None:
        document.bad_values[len(document.entries)] = f"{what}: field `value_base64` {_NOT_BASE64}"
    return BackupEntry(key, value or b"", expires_at_ms, fields.number("version"))


def _decode_base64(text: str) -> bytes | None:
    """Return the bytes, or None unless these bytes are encoded exactly like this."""
    try:
        value = a2b_base64(text)
    except (Base64Error, ValueError):
        return None
    return value if b2a_base64(value, newline=False).decode() == text else None
