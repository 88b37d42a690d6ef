"""Entries of the format-3 log, and the exact bytes that their identity is made of.

An entry is a MessagePack map (storage section 5.2). Its identity in 0.9 is its term and the CRC-32
of that map as the writer encodes it, so `encode_entry` gives byte for byte the same.
"""

from __future__ import annotations

import zlib
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from vaylix_storage.format3._messagepack import (
    MalformedError,
    Value,
    as_bytes,
    as_fields,
    as_list,
    as_map,
    as_signed,
    as_text,
    as_unsigned,
    decode_value,
)

__all__ = [
    "AddOperation",
    "Entry",
    "ExpireOperation",
    "KeyOperation",
    "Operation",
    "OperationVariant",
    "SetOperation",
    "decode_entry",
    "encode_entry",
    "entry_identity",
]

_Unsigned = Annotated[int, msgspec.Meta(ge=0)]
_Signed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class SetOperation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Replace a value; the version is that of the record, the time to live goes."""

    key: str
    value: bytes
    version: _Unsigned = 1


class KeyOperation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Delete a key, or drop its time to live."""

    key: str


class ExpireOperation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Set the absolute expiry of a key that is there."""

    key: str
    expires_at_ms: _Unsigned


class AddOperation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Add to a decimal."""

    key: str
    delta: _Signed


class OperationVariant(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Exactly one of these; the field names are those of the file."""

    Set: SetOperation | msgspec.UnsetType = msgspec.UNSET
    Delete: KeyOperation | msgspec.UnsetType = msgspec.UNSET
    Expire: ExpireOperation | msgspec.UnsetType = msgspec.UNSET
    Persist: KeyOperation | msgspec.UnsetType = msgspec.UNSET
    CheckInteger: AddOperation | msgspec.UnsetType = msgspec.UNSET

    def count(self) -> int:
        """Return how many of the fields are set."""
        fields = (self.Set, self.Delete, self.Expire, self.Persist, self.CheckInteger)
        return sum(field is not msgspec.UNSET for field in fields)


Operation: TypeAlias = OperationVariant | Literal["Clear"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One command, or one transaction, of the old log."""

    sequence: _Unsigned
    term: _Unsigned = 0
    created_at_ms: _Unsigned
    operations: list[Operation]


_ENTRY_FIELDS: Final = ("sequence", "term", "created_at_ms", "operations")
_DECODER: Final = msgspec.msgpack.Decoder(Entry)


def encode_entry(entry: Entry) -> bytes:
    """Return the bytes that 0.9 writes for an entry."""
    return msgspec.msgpack.encode(entry)


def entry_identity(entry: Entry) -> tuple[int, int]:
    """Return what 0.9 tells entries apart by: the term, and a CRC-32."""
    return entry.term, zlib.crc32(encode_entry(entry))


def decode_entry(data: bytes) -> Entry:
    """Return the entry that `data` begins with. Raises MalformedError."""
    try:
        entry = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _decode_tolerantly(data)
    for operation in entry.operations:
        if operation != "Clear" and operation.count() != 1:
            return _decode_tolerantly(data)
    return entry


def _decode_tolerantly(data: bytes) -> Entry:
    fields = as_fields(decode_value(data), _ENTRY_FIELDS)
    try:
        return Entry(
            sequence=as_unsigned(fields["sequence"]),
            term=as_unsigned(fields.get("term", 0)),
            created_at_ms=as_unsigned(fields["created_at_ms"]),
            operations=[_operation(value) for value in as_list(fields["operations"])],
        )
    except KeyError as error:
        raise MalformedError(f"the field {error.args[0]!r} is missing") from None


def _operation(value: Value) -> Operation:
    if value == "Clear":
        return "Clear"
    variants = as_map(value)
    if len(variants) != 1:
        raise MalformedError("an operation has exactly one name")
    [(name, payload)] = variants.items()
    if name == "Set":
        fields = as_fields(payload, ("key", "value", "version"))
        return OperationVariant(
            Set=SetOperation(
                key=as_text(fields["key"]),
                value=as_bytes(fields["value"]),
                version=as_unsigned(fields.get("version", 1)),
            )
        )
    if name == "Expire":
        fields = as_fields(payload, ("key", "expires_at_ms"))
        expires_at_ms = as_unsigned(fields["expires_at_ms"])
        return OperationVariant(
            Expire=ExpireOperation(key=as_text(fields["key"]), expires_at_ms=expires_at_ms)
        )
    if name == "CheckInteger":
        fields = as_fields(payload, ("key", "delta"))
        delta = as_signed(fields["delta"])
        return OperationVariant(CheckInteger=AddOperation(key=as_text(fields["key"]), delta=delta))
    key = KeyOperation(key=as_text(as_fields(payload, ("key",))["key"]))
    if name == "Delete":
        return OperationVariant(Delete=key)
    if name == "Persist":
        return OperationVariant(Persist=key)
    raise MalformedError(f"there is no operation {name!r}")
