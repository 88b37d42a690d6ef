"""The dictionary behind the toy server: what each data command does (commands spec 6), briefly."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from vaylix_protocol import (
    Bool,
    Clear,
    Command,
    Count,
    CountReply,
    DbSize,
    Decr,
    Del,
    Entries,
    ErrorCode,
    Exists,
    Expiration,
    Expire,
    Get,
    GetDel,
    GetEx,
    Incr,
    Integer,
    List,
    MGet,
    MSet,
    NotFound,
    Ok,
    Persist,
    Ping,
    Rename,
    RenameNx,
    Reply,
    ReplyKind,
    Scan,
    ScanPage,
    Set,
    SetCondition,
    SetNx,
    Strings,
    TimeUnit,
    Ttl,
    Value,
    error_reply,
    reply_kind_of,
)

if TYPE_CHECKING:
    from typing import Self

__all__ = ["DATA_COMMANDS", "ToyStore"]

_NUMBER = re.compile(rb"[+-]?[0-9]+")


DATA_COMMANDS: Final = (
    Ping,
    Get,
    GetDel,
    GetEx,
    Set,
    SetNx,
    Del,
    Exists,
    MGet,
    MSet,
    Incr,
    Decr,
    Expire,
    Ttl,
    Persist,
    Rename,
    RenameNx,
    Scan,
    DbSize,
    Count,
    List,
    Clear,
)


class ToyStore:
    """Keys with values, versions, and seconds to live that never run down: no time passes here."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.versions: dict[bytes, int] = {}
        self.expiries: dict[bytes, int] = {}

    def copy(self) -> Self:
        """Return an independent copy."""
        other = type(self)()
        other.values = dict(self.values)
        other.versions = dict(self.versions)
        other.expiries = dict(self.expiries)
        return other

    def apply(self, command: Command) -> Reply:
        """Execute a command. It must be one of `DATA_COMMANDS`."""
        return self._read(command) or self._write(command) or self._change(command)

    def _read(self, command: Command) -> Reply | None:
        match command:
            case Ping(message):
                return Value(b"PONG" if message is None else message)
            case Get(key):
                return self._value(key)
            case Exists(key):
                return Bool(key in self.values)
            case MGet(keys):
                return Strings(tuple(map(self.values.get, keys)))
            case Ttl(key):
                return Integer(self.expiries.get(key, -1) if key in self.values else -2)
            case DbSize() | Count():
                return CountReply(len(self.values))
            case List():
                return Entries(tuple(sorted(self.values.items())))
            case Scan(cursor, pattern, count):
                return self._scan(cursor, pattern, count)
        return None

    def _write(self, command: Command) -> Reply | None:
        match command:
            case Set():
                return self._set(command)
            case SetNx(key, value):
                return Bool(key not in self.values and self._put(key, value))
            case MSet(pairs):
                for key, value in pairs:
                    self._put(key, value)
                return Ok()
            case GetDel(key):
                found = self._value(key)
                self._drop(key)
                return found
            case GetEx(key, expiration, persist):
                found = self._value(key)
                if persist and expiration is None:
                    self.expiries.pop(key, None)
                self._expire(key, expiration)
                return found
        return None

    def _change(self, command: Command) -> Reply:
        match command:
            case Del(keys):
                return CountReply(sum(self._drop(key) for key in keys))
            case Incr(key):
                return self._add(key, 1)
            case Decr(key):
                return self._add(key, -1)
            case Expire(key, seconds):
                exists = key in self.values
                self._expire(key, Expiration(TimeUnit.SECONDS, seconds))
                return Bool(exists)
            case Rename(source, destination):
                return Bool(self._rename(source, destination))
            case RenameNx(source, destination):
                return Bool(destination not in self.values and self._rename(source, destination))
            case Clear():
                self.values, self.versions, self.expiries = {}, {}, {}
                return Ok()
            case Persist(key):
                return Bool(self.expiries.pop(key, None) is not None)
        raise AssertionError(f"not a data command: {type(command).__name__}")

    def _value(self, key: bytes) -> Reply:
        value = self.values.get(key)
        return NotFound() if value is None else Value(value)

    def _put(self, key: bytes, value: bytes) -> bool:
        self.values[key] = value
        self.versions[key] = self.versions.get(key, 0) + 1
        self.expiries.pop(key, None)
        return True

    def _drop(self, key: bytes) -> bool:
        self.versions.pop(key, None)
        self.expiries.pop(key, None)
        return self.values.pop(key, None) is not None

    def _expire(self, key: bytes, expiration: Expiration | None) -> None:
        if expiration is None or key not in self.values:
            return
        if expiration.amount == 0:
            self._drop(key)
        elif expiration.unit is TimeUnit.SECONDS:
            self.expiries[key] = expiration.amount
        else:
            self.expiries[key] = -(-expiration.amount // 1000)

    def _set(self, command: Set) -> Reply:
        previous = self._value(command.key)
        exists = command.key in self.values
        passes = (
            command.condition is SetCondition.NONE
            or (command.condition is SetCondition.XX) == exists
        ) and command.if_version in {None, self.versions.get(command.key)}
        if passes:
            kept = self.expiries.get(command.key) if command.keep_ttl else None
            self._put(command.key, command.value)
            if kept is not None:
                self.expiries[command.key] = kept
            self._expire(command.key, command.expiration)
        if command.return_previous:
            return previous
        return Bool(passes) if reply_kind_of(command) is ReplyKind.BOOL else Ok()

    def _add(self, key: bytes, delta: int) -> Reply:
        text = self.values.get(key, b"0")
        if not _NUMBER.fullmatch(text):
            shown = text.decode(errors="replace")
            return error_reply(ErrorCode.ENG_015, key=key.decode(), value=shown)
        total = int(text) + delta
        if not -(2**63) <= total < 2**63:
            return error_reply(ErrorCode.ENG_016, key=key.decode())
        self._put(key, str(total).encode())
        return Integer(total)

    def _rename(self, source: bytes, destination: bytes) -> bool:
        if source not in self.values:
            return False
        value, expiry = self.values[source], self.expiries.get(source)
        self._drop(source)
        self._put(destination, value)
        if expiry is not None:
            self.expiries[destination] = expiry
        return True

    def _scan(self, cursor: int, pattern: str | None, count: int | None) -> Reply:
        glob = "*" if pattern is None else pattern
        wanted = "".join({"*": ".*", "?": "."}.get(char) or re.escape(char) for char in glob)
        keys = [k for k in sorted(self.values) if re.fullmatch(wanted, k.decode(), re.DOTALL)]
        end = cursor + (10 if count is None else max(1, count))
        return ScanPage(end if end < len(keys) else 0, tuple(keys[cursor:end]))
