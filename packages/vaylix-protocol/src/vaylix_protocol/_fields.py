"""The payload of every opcode as a row of fields, read and written by the same table.

A field knows how to take its value off a reader and how to write it, so each layout of VTP2
section 6 is stated once. `LAYOUTS` has the fields of a command in the order of the wire, which is
also the order of the attributes of its class.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

from vaylix_protocol import commands as c
from vaylix_protocol._constants import SetCondition, TimeUnit
from vaylix_protocol._primitives import (
    Reader,
    write_bool,
    write_key16,
    write_key32,
    write_text16,
    write_text32,
    write_u16,
    write_u64,
    write_value,
)
from vaylix_protocol.errors import ErrorCode, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["LAYOUTS", "Field"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Field:
    """How one attribute of a command travels."""

    read: Callable[[Reader], object]
    write: Callable[[object], bytes]


def _field(kind: type[T], read: Callable[[Reader], T], write: Callable[[T], bytes]) -> Field:
    """Make a field whose writer raises TypeError for anything but a `kind`."""

    def write_checked(value: object) -> bytes:
        if not isinstance(value, kind):
            raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
        return write(value)

    return Field(read, write_checked)


def _optional(field: Field) -> Field:
    """Make the field optional: a flag in front, and None if it is absent."""

    def read(reader: Reader) -> object:
        return field.read(reader) if reader.flag() else None

    def write(value: object) -> bytes:
        return b"\x00" if value is None else b"\x01" + field.write(value)

    return Field(read, write)


def _read_keys(reader: Reader) -> tuple[bytes, ...]:
    # Every key takes at least two bytes, so a false count runs out of bytes before it costs much.
    return tuple([reader.key16() for _ in range(reader.u16())])


def _write_keys(keys: tuple[bytes, ...]) -> bytes:
    return write_u16(len(keys)) + b"".join([_KEY.write(key) for key in keys])


def _read_pairs(reader: Reader) -> tuple[tuple[bytes, bytes], ...]:
    return tuple([(reader.key16(), reader.value()) for _ in range(reader.u16())])


def _write_pairs(pairs: tuple[tuple[bytes, bytes], ...]) -> bytes:
    parts = [_KEY.write(key) + _VALUE.write(value) for key, value in pairs]
    return write_u16(len(pairs)) + b"".join(parts)


def _read_expiration(reader: Reader) -> object:
    unit = reader.u8()
    if unit == 0:
        return None
    if unit > TimeUnit.MILLISECONDS:
        raise RemoteProtocolError.of(ErrorCode.TRN_008)
    return c.Expiration(TimeUnit(unit), reader.u64())


def _write_expiration(value: object) -> bytes:
    if value is None:
        return b"\x00"
    if not isinstance(value, c.Expiration):
        raise TypeError(f"expected Expiration, got {type(value).__name__}")
    if not isinstance(value.unit, TimeUnit):
        raise TypeError(f"expected TimeUnit, got {type(value.unit).__name__}")
    return bytes((value.unit,)) + write_u64(value.amount)


def _read_condition(reader: Reader) -> SetCondition:
    value = reader.u8()
    if value > SetCondition.XX:
        raise RemoteProtocolError.of(ErrorCode.TRN_008)
    return SetCondition(value)


def _write_condition(condition: SetCondition) -> bytes:
    return bytes((condition,))


def _read_version(reader: Reader) -> object:
    # Encoders of old ended the payload before this field (VTP2 section 6.1).
    return _OPTIONAL_U64.read(reader) if reader.left_bytes else None


def _read_cursor(reader: Reader) -> int:
    # The flags of pattern and count follow in any case; all three are asked for up front.
    if reader.left_bytes < 10:
        raise RemoteProtocolError.of(ErrorCode.TRN_007)
    return reader.u64()


def _read_address(reader: Reader) -> str:
    """Read the address of CLUSTER JOIN, which one published client writes as s16 (section 18)."""
    left_bytes = reader.left_bytes
    alternative = reader.rewound(left_bytes)
    if left_bytes >= 2 and alternative.u16() == left_bytes - 2 and _is_short(reader):
        return reader.text16()
    return reader.text32()


def _is_short(reader: Reader) -> bool:
    """Say whether an s32 does not use up the rest of the reader."""
    left_bytes = reader.left_bytes
    return left_bytes < 4 or reader.rewound(left_bytes).u32() != left_bytes - 4


_KEY: Final = _field(bytes, Reader.key16, write_key16)
_KEY32: Final = _field(bytes, Reader.key32, write_key32)
_NAME: Final = _field(str, Reader.text16, write_text16)
_TEXT: Final = _field(str, Reader.text32, write_text32)
_VALUE: Final = _field(bytes, Reader.value, write_value)
_BOOL: Final = _field(bool, Reader.flag, write_bool)
_U64: Final = _field(int, Reader.u64, write_u64)
_OPTIONAL_U64: Final = _optional(_U64)
_KEYS: Final = _field(tuple, _read_keys, _write_keys)
_PAIRS: Final = _field(tuple, _read_pairs, _write_pairs)
_EXPIRATION: Final = Field(_read_expiration, _write_expiration)
_CONDITION: Final = _field(SetCondition, _read_condition, _write_condition)
_VERSION: Final = Field(_read_version, _OPTIONAL_U64.write)
_CURSOR: Final = _field(int, _read_cursor, write_u64)
_PATTERN: Final = _optional(_NAME)
_PAGE_SIZE: Final = _optional(_field(int, Reader.u16, write_u16))
_ADDRESS: Final = _field(str, _read_address, write_text32)
_JSON: Final = _field(bytes, Reader.rest, bytes)

LAYOUTS: Final[Mapping[type[c.CommandBase], tuple[Field, ...]]] = MappingProxyType(
    {
        c.Auth: (_NAME, _TEXT),
        c.Ping: (_optional(_KEY32),),
        c.Get: (_KEY,),
        c.GetDel: (_KEY,),
        c.GetEx: (_KEY, _EXPIRATION, _BOOL),
        c.Set: (_KEY, _VALUE, _CONDITION, _EXPIRATION, _BOOL, _BOOL, _VERSION),
        c.SetNx: (_KEY, _VALUE),
        c.Del: (_KEYS,),
        c.Exists: (_KEY,),
        c.MGet: (_KEYS,),
        c.MSet: (_PAIRS,),
        c.Incr: (_KEY,),
        c.Decr: (_KEY,),
        c.Expire: (_KEY, _U64),
        c.Ttl: (_KEY,),
        c.Persist: (_KEY,),
        c.Rename: (_KEY, _KEY32),
        c.RenameNx: (_KEY, _KEY32),
        c.Scan: (_CURSOR, _PATTERN, _PAGE_SIZE),
        c.DbSize: (),
        c.Info: (),
        c.Metrics: (),
        c.List: (),
        c.Clear: (),
        c.Count: (),
        c.Save: (),
        c.Snapshot: (),
        c.Multi: (),
        c.Exec: (),
        c.Discard: (),
        c.Backup: (),
        c.Restore: (_TEXT,),
        c.CreateUser: (_NAME, _TEXT),
        c.DropUser: (_NAME,),
        c.CreateRole: (_NAME,),
        c.DropRole: (_NAME,),
        c.GrantRole: (_NAME, _TEXT),
        c.RevokeRole: (_NAME, _TEXT),
        c.GrantPermission: (_NAME, _NAME, _NAME),
        c.RevokePermission: (_NAME, _NAME, _NAME),
        c.ShowUsers: (),
        c.ShowRoles: (),
        c.WhoAmI: (),
        c.BackupTo: (_NAME,),
        c.RestoreFrom: (_NAME,),
        c.RestoreCheck: (_TEXT,),
        c.RestoreCheckFrom: (_NAME,),
        c.AlterUserPassword: (_NAME, _TEXT),
        c.MetricsProm: (),
        c.BackupVerify: (_TEXT,),
        c.BackupVerifyFrom: (_NAME,),
        c.ShowGrants: (),
        c.ShowGrantsForUser: (_NAME,),
        c.ShowGrantsForRole: (_NAME,),
        c.MaintenanceOn: (),
        c.MaintenanceOff: (),
        c.MaintenanceStatus: (),
        c.Health: (),
        c.ShowCluster: (),
        c.ClusterJoin: (_NAME, _ADDRESS),
        c.ClusterRemove: (_NAME,),
        c.ShowReplication: (),
        c.PromoteFollower: (),
        c.PauseReplication: (),
        c.ResumeReplication: (),
        c.ReplicationStatus: (_JSON,),
        c.ReplicationSnapshot: (_JSON,),
        c.ReplicationFetch: (_JSON,),
        c.ReplicationAck: (_JSON,),
        c.ReplicationVote: (_JSON,),
        c.ReplicationHeartbeat: (_JSON,),
        c.ReplicationAppend: (_JSON,),
        c.ReplicationInstallSnapshot: (_JSON,),
    }
)
