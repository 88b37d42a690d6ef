"""One immutable value class for each kind of reply (VTP2 sections 7 and 8)."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

import msgspec

from vaylix_protocol._constants import ReplyKind

__all__ = [
    "Bool",
    "CountReply",
    "Entries",
    "ErrorReply",
    "ExecResults",
    "Integer",
    "Json",
    "NotFound",
    "Ok",
    "Queued",
    "Reply",
    "ScanPage",
    "Strings",
    "Value",
]


class Ok(msgspec.Struct, frozen=True, gc=False):
    """Done; there is nothing to return."""

    kind: ClassVar[ReplyKind] = ReplyKind.OK


class NotFound(msgspec.Struct, frozen=True, gc=False):
    """There is no such value: the null of the protocol."""

    kind: ClassVar[ReplyKind] = ReplyKind.NOT_FOUND


class Value(msgspec.Struct, frozen=True, gc=False):
    """One opaque byte string."""

    kind: ClassVar[ReplyKind] = ReplyKind.VALUE

    data: bytes


class Bool(msgspec.Struct, frozen=True, gc=False):
    """Yes or no."""

    kind: ClassVar[ReplyKind] = ReplyKind.BOOL

    value: bool


class CountReply(msgspec.Struct, frozen=True, gc=False):
    """A number of things, 0 to 2^64 - 1."""

    kind: ClassVar[ReplyKind] = ReplyKind.COUNT

    value: int


class Integer(msgspec.Struct, frozen=True, gc=False):
    """A signed number of 64 bits."""

    kind: ClassVar[ReplyKind] = ReplyKind.INTEGER

    value: int


class Entries(msgspec.Struct, frozen=True, gc=False):
    """Pairs of key and value, in the order of the server."""

    kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES

    pairs: tuple[tuple[bytes, bytes], ...]


class Strings(msgspec.Struct, frozen=True, gc=False):
    """One value for each key that was asked for; None where there is none."""

    kind: ClassVar[ReplyKind] = ReplyKind.STRINGS

    values: tuple[bytes | None, ...]


class ScanPage(msgspec.Struct, frozen=True, gc=False):
    """A page of keys, and the cursor of the next one; 0 ends the walk."""

    kind: ClassVar[ReplyKind] = ReplyKind.SCAN

    cursor: int
    keys: tuple[bytes, ...]


class ExecResults(msgspec.Struct, frozen=True, gc=False):
    """One reply for each command of a transaction: anything but errors, JSON and EXEC itself."""

    kind: ClassVar[ReplyKind] = ReplyKind.EXEC_RESULTS

    results: tuple[Reply, ...]


class ErrorReply(msgspec.Struct, frozen=True, gc=False):
    """The request failed: code and name from the catalogue in `errors`, and a message."""

    kind: ClassVar[ReplyKind] = ReplyKind.ERROR

    code: str
    name: str
    message: str


class Json(msgspec.Struct, frozen=True, gc=False):
    """JSON text between cluster nodes, neither read nor checked here (VTP2 section 12)."""

    kind: ClassVar[ReplyKind] = ReplyKind.JSON

    data: bytes


class Queued(msgspec.Struct, frozen=True, gc=False):
    """The command waits for EXEC.

    On the wire it is a value `QUEUED`; a client's connection tells the two apart by following the
    transaction.
    """

    kind: ClassVar[ReplyKind] = ReplyKind.QUEUED


Reply: TypeAlias = (
    Ok
    | NotFound
    | Value
    | Bool
    | CountReply
    | Integer
    | Entries
    | Strings
    | ScanPage
    | ExecResults
    | ErrorReply
    | Json
    | Queued
)
