"""The prepared commands of the keyspace: what the log holds and `Keyspace.apply` carries out.

A prepared command has nothing left to decide: no clock, no randomness, no secret. Times to live
stay relative; "now" is the timestamp of the batch. `SetOptions` is apart from `Set` so that a plain
SET, by far the most frequent, is four MessagePack items and one check.

On disk a list of commands is one MessagePack array; each command is an array that begins with its
tag. Tags are part of the storage format: they are never reused.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec

from vaylix_storage.errors import CommandEncodingError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "U64_MAX",
    "Clear",
    "Command",
    "Count",
    "DbSize",
    "Decr",
    "Del",
    "Exec",
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
    "Ping",
    "Rename",
    "RenameNx",
    "RestoreBegin",
    "RestoreChunk",
    "RestoreCommand",
    "RestoreCommit",
    "Scan",
    "Set",
    "SetCondition",
    "SetNx",
    "SetOptions",
    "SimpleCommand",
    "Ttl",
    "decode_commands",
    "encode_commands",
    "milliseconds",
]

U64_MAX: Final = 2**64 - 1

# An unsigned 64-bit number.
Unsigned = Annotated[int, msgspec.Meta(ge=0)]


def milliseconds(seconds: int) -> int:
    """Turn the seconds of EX and EXPIRE into milliseconds, saturating at 2**64 - 1."""
    return min(seconds * 1000, U64_MAX)


class SetCondition(IntEnum):
    """Whether a SET depends on the key being absent (NX) or present (XX)."""

    NONE = 0
    NX = 1
    XX = 2


class SetOptions(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The options of SET (VTP2 commands section 6.4).

    `ttl_ms` beats `keep_ttl`; a `ttl_ms` of 0 leaves no key behind. `if_version` holds only when
    the key exists with exactly this version.
    """

    condition: SetCondition = SetCondition.NONE
    ttl_ms: Unsigned | None = None
    keep_ttl: bool = False
    return_previous: bool = False
    if_version: Unsigned | None = None


class Set(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Write a value; without options always, and without a time to live."""

    key: bytes
    value: bytes
    options: SetOptions | None = None


class SetNx(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Write a value unless the key exists."""

    key: bytes
    value: bytes


class GetDel(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Read a value and delete the key."""

    key: bytes


class GetEx(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Read a value and replace the time to live, or drop it with `persist`; `ttl_ms` beats it."""

    key: bytes
    ttl_ms: Unsigned | None = None
    persist: bool = False


class Del(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Delete keys and count those that existed."""

    keys: tuple[bytes, ...]


class MSet(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Write several values, in order."""

    pairs: tuple[tuple[bytes, bytes], ...]


class Incr(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Add one to a decimal number; the time to live is dropped."""

    key: bytes


class Decr(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """Subtract one from a decimal number; the time to live is dropped."""

    key: bytes


class Expire(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Set the time to live of a key; 0 deletes it."""

    key: bytes
    ttl_ms: Unsigned


class Persist(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """Drop the time to live of a key."""

    key: bytes


class Rename(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """Move value and time to live to another key."""

    source: bytes
    destination: bytes


class RenameNx(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """Move value and time to live to another key unless that key exists."""

    source: bytes
    destination: bytes


class Clear(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """Remove all keys."""


class Get(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=32):
    """Read a value."""

    key: bytes


class Exists(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=33):
    """Say whether a key exists."""

    key: bytes


class MGet(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=34):
    """Read several values, in the order asked."""

    keys: tuple[bytes, ...]


class Ttl(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=35):
    """Read the time to live of a key in seconds."""

    key: bytes


class Scan(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=36):
    """Read a page of keys."""

    cursor: Unsigned
    pattern: bytes | None = None
    count: Unsigned | None = None


class DbSize(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=37):
    """Count the keys."""


class Count(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=38):
    """Count the keys, under its other name."""


class List(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=39):
    """Read all keys and values."""


class Ping(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=40):
    """Give back the message."""

    message: bytes


SimpleCommand: TypeAlias = (
    Set
    | SetNx
    | GetDel
    | GetEx
    | Del
    | MSet
    | Incr
    | Decr
    | Expire
    | Persist
    | Rename
    | RenameNx
    | Clear
    | Get
    | Exists
    | MGet
    | Ttl
    | Scan
    | DbSize
    | Count
    | List
    | Ping
)


class Exec(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=64):
    """Carry out all commands, or none when one of them fails."""

    commands: tuple[SimpleCommand, ...]


class RestoreBegin(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=65):
    """Start to build another keyspace beside the live one; an unfinished one is dropped."""

    restore_id: bytes


class RestoreChunk(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=66):
    """Add entries to the keyspace that is being built: key, value, version, expiry.

    The expiry is Unix time in ms, 0 for none. What is dead at the time of the begin is left out.
    """

    restore_id: bytes
    entries: tuple[tuple[bytes, bytes, Unsigned, Unsigned], ...]


class RestoreCommit(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=67):
    """Put what was built in the place of the live keyspace, if all `chunk_count` chunks came."""

    restore_id: bytes
    chunk_count: Unsigned


RestoreCommand: TypeAlias = RestoreBegin | RestoreChunk | RestoreCommit
Command: TypeAlias = SimpleCommand | Exec | RestoreCommand

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[Command])


def encode_commands(commands: Sequence[Command]) -> bytes:
    """Encode a list of commands as the payload of one batch."""
    return _ENCODER.encode(commands)


def decode_commands(payload: bytes, count: int) -> list[Command]:
    """Decode the payload of a batch that holds `count` commands.

    Raises CommandEncodingError when the payload is anything else.
    """
    try:
        commands = _DECODER.decode(payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CommandEncodingError(f"payload does not hold commands: {error}") from error
    if len(commands) != count:
        raise CommandEncodingError(f"payload holds {len(commands)} commands, not {count}")
    return commands
