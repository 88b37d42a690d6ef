"""Commands that read and write keys. Any of them may be queued in a transaction."""

from __future__ import annotations

from typing import ClassVar

from vaylix_protocol._constants import Opcode, ReplyKind, SetCondition
from vaylix_protocol.commands._base import CommandBase, Expiration

__all__ = [
    "Clear",
    "Count",
    "DbSize",
    "Decr",
    "Del",
    "Exists",
    "Expire",
    "Get",
    "GetDel",
    "GetEx",
    "Incr",
    "List",
    "MGet",
    "MSet",
    "Persist",
    "Rename",
    "RenameNx",
    "Scan",
    "Set",
    "SetNx",
    "Ttl",
]


class Get(CommandBase, frozen=True, gc=False):
    """Read the value of a key."""

    opcode: ClassVar[Opcode] = Opcode.GET
    reply_kind: ClassVar[ReplyKind] = ReplyKind.VALUE

    key: bytes


class GetDel(CommandBase, frozen=True, gc=False):
    """Read the value of a key and delete the key."""

    opcode: ClassVar[Opcode] = Opcode.GETDEL
    reply_kind: ClassVar[ReplyKind] = ReplyKind.VALUE

    key: bytes


class GetEx(CommandBase, frozen=True, gc=False):
    """Read the value of a key and set or drop its expiration; an expiration beats `persist`."""

    opcode: ClassVar[Opcode] = Opcode.GETEX
    reply_kind: ClassVar[ReplyKind] = ReplyKind.VALUE

    key: bytes
    expiration: Expiration | None = None
    persist: bool = False


class Set(CommandBase, frozen=True, gc=False):
    """Write a value.

    The write happens only if `condition` holds and, when given, `if_version` is the version of the
    key. An `expiration` beats `keep_ttl`. `reply_kind` is the one of a SET without condition,
    version or `return_previous`; `reply_kind_of` knows all three (VTP2 section 6.1).
    """

    opcode: ClassVar[Opcode] = Opcode.SET
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    key: bytes
    value: bytes
    condition: SetCondition = SetCondition.NONE
    expiration: Expiration | None = None
    keep_ttl: bool = False
    return_previous: bool = False
    if_version: int | None = None


class SetNx(CommandBase, frozen=True, gc=False):
    """Write a value unless the key exists."""

    opcode: ClassVar[Opcode] = Opcode.SETNX
    reply_kind: ClassVar[ReplyKind] = ReplyKind.BOOL

    key: bytes
    value: bytes


class Del(CommandBase, frozen=True, gc=False):
    """Delete keys; the reply counts those that existed."""

    opcode: ClassVar[Opcode] = Opcode.DEL
    reply_kind: ClassVar[ReplyKind] = ReplyKind.COUNT

    keys: tuple[bytes, ...]


class Exists(CommandBase, frozen=True, gc=False):
    """Say whether a key exists."""

    opcode: ClassVar[Opcode] = Opcode.EXISTS
    reply_kind: ClassVar[ReplyKind] = ReplyKind.BOOL

    key: bytes


class MGet(CommandBase, frozen=True, gc=False):
    """Read several values; the reply has one for each key, in order."""

    opcode: ClassVar[Opcode] = Opcode.MGET
    reply_kind: ClassVar[ReplyKind] = ReplyKind.STRINGS

    keys: tuple[bytes, ...]


class MSet(CommandBase, frozen=True, gc=False):
    """Write several pairs of key and value."""

    opcode: ClassVar[Opcode] = Opcode.MSET
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    pairs: tuple[tuple[bytes, bytes], ...]


class Incr(CommandBase, frozen=True, gc=False):
    """Add one to the decimal number at a key."""

    opcode: ClassVar[Opcode] = Opcode.INCR
    reply_kind: ClassVar[ReplyKind] = ReplyKind.INTEGER

    key: bytes


class Decr(CommandBase, frozen=True, gc=False):
    """Subtract one from the decimal number at a key."""

    opcode: ClassVar[Opcode] = Opcode.DECR
    reply_kind: ClassVar[ReplyKind] = ReplyKind.INTEGER

    key: bytes


class Expire(CommandBase, frozen=True, gc=False):
    """Let a key expire after `seconds`."""

    opcode: ClassVar[Opcode] = Opcode.EXPIRE
    reply_kind: ClassVar[ReplyKind] = ReplyKind.BOOL

    key: bytes
    seconds: int


class Ttl(CommandBase, frozen=True, gc=False):
    """Ask for the remaining seconds of a key: -1 without expiration, -2 if it is missing."""

    opcode: ClassVar[Opcode] = Opcode.TTL
    reply_kind: ClassVar[ReplyKind] = ReplyKind.INTEGER

    key: bytes


class Persist(CommandBase, frozen=True, gc=False):
    """Drop the expiration of a key."""

    opcode: ClassVar[Opcode] = Opcode.PERSIST
    reply_kind: ClassVar[ReplyKind] = ReplyKind.BOOL

    key: bytes


class Rename(CommandBase, frozen=True, gc=False):
    """Rename a key, replacing the destination."""

    opcode: ClassVar[Opcode] = Opcode.RENAME
    reply_kind: ClassVar[ReplyKind] = ReplyKind.BOOL

    source: bytes
    destination: bytes


class RenameNx(CommandBase, frozen=True, gc=False):
    """Rename a key unless the destination exists."""

    opcode: ClassVar[Opcode] = Opcode.RENAMENX
    reply_kind: ClassVar[ReplyKind] = ReplyKind.BOOL

    source: bytes
    destination: bytes


class Scan(CommandBase, frozen=True, gc=False):
    """Ask for a page of keys; cursor 0 starts, and a next cursor of 0 ends the walk."""

    opcode: ClassVar[Opcode] = Opcode.SCAN
    reply_kind: ClassVar[ReplyKind] = ReplyKind.SCAN

    cursor: int
    pattern: str | None = None
    count: int | None = None


class DbSize(CommandBase, frozen=True, gc=False):
    """Count the keys."""

    opcode: ClassVar[Opcode] = Opcode.DBSIZE
    reply_kind: ClassVar[ReplyKind] = ReplyKind.COUNT


class Count(CommandBase, frozen=True, gc=False):
    """Count the keys; the same as `DbSize` under another opcode."""

    opcode: ClassVar[Opcode] = Opcode.COUNT
    reply_kind: ClassVar[ReplyKind] = ReplyKind.COUNT


class List(CommandBase, frozen=True, gc=False):
    """Ask for all pairs of key and value, ordered by key."""

    opcode: ClassVar[Opcode] = Opcode.LIST
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES


class Clear(CommandBase, frozen=True, gc=False):
    """Delete all keys (CLEAR, FLUSHDB)."""

    opcode: ClassVar[Opcode] = Opcode.CLEAR
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK
