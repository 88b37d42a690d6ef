"""Commands about keys (commands spec 6). Each can also be queued in a transaction.

Keys are text: `str`, or `bytes` that hold UTF-8. Values are opaque: `bytes`, or `str` which is
sent as UTF-8; they come back as `bytes`. All numbers of seconds are whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from vaylix_client import _call as reply
from vaylix_client._call import Call, Missing, Page
from vaylix_client._command import command
from vaylix_client.errors import InvalidCallError, option_conflict, unsendable
from vaylix_protocol import (
    Clear,
    Count,
    DbSize,
    Decr,
    Del,
    ErrorCode,
    Exists,
    Expiration,
    Expire,
    Get,
    GetDel,
    GetEx,
    Incr,
    List,
    LocalProtocolError,
    MGet,
    MSet,
    Persist,
    Ping,
    Rename,
    RenameNx,
    Scan,
    Set,
    SetCondition,
    SetNx,
    TimeUnit,
    Ttl,
)
from vaylix_protocol.grammar import Conflict

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DataCommands", "Key", "Value"]

Key: TypeAlias = str | bytes
Value: TypeAlias = bytes | str


def _bytes(text: str | bytes) -> bytes:
    if isinstance(text, str):
        try:
            return text.encode()
        except UnicodeEncodeError:
            # A lone surrogate, which has no encoding.
            raise unsendable(LocalProtocolError.of(ErrorCode.TRN_012)) from None
    if isinstance(text, bytes):
        return text
    raise TypeError(f"expected str or bytes, got {type(text).__name__}")


def _u64(field: str, number: int, maximum: int = 2**64 - 1) -> int:
    if not 0 <= number <= maximum:
        code = ErrorCode.CMD_004
        raise InvalidCallError.of(code, code.message(field=field, value=number))
    return number


def _expiration(name: str, ex: int | None, px: int | None) -> Expiration | None:
    if ex is not None and px is not None:
        raise option_conflict(name, Conflict.ONE_EXPIRATION)
    if ex is not None:
        return Expiration(TimeUnit.SECONDS, _u64("seconds", ex))
    if px is not None:
        return Expiration(TimeUnit.MILLISECONDS, _u64("milliseconds", px))
    return None


def _set(
    key: Key,
    value: Value,
    condition: SetCondition = SetCondition.NONE,
    *,
    ex: int | None,
    px: int | None,
    keep_ttl: bool,
    return_previous: bool = False,
    if_version: int | None = None,
) -> Set:
    expiration = _expiration("set", ex, px)
    if keep_ttl and expiration is not None:
        raise option_conflict("set", Conflict.KEEPTTL_WITH_EXPIRATION)
    if if_version is not None and condition is not SetCondition.NONE:
        raise option_conflict("set", Conflict.VERSION_WITH_CONDITION)
    if if_version is not None:
        _u64("version", if_version)
    return Set(
        _bytes(key), _bytes(value), condition, expiration, keep_ttl, return_previous, if_version
    )


class DataCommands:
    """One method per data command; what a call gives back depends on who executes it."""

    __slots__ = ()

    @command
    @staticmethod
    def ping(message: str | None = None) -> Call[str]:
        """Return `message`, or `PONG`."""
        return Call(Ping(None if message is None else _bytes(message)), reply.text, reads_only=True)

    @command
    @staticmethod
    def get(key: Key) -> Call[bytes | None]:
        """Return the value of `key`, or `None` if there is none."""
        return Call(Get(_bytes(key)), reply.optional_value, reads_only=True)

    @command
    @staticmethod
    def getdel(key: Key) -> Call[bytes | None]:
        """Delete `key` and return the value that it had, or `None`."""
        return Call(GetDel(_bytes(key)), reply.optional_value)

    @command
    @staticmethod
    def getex(
        key: Key, *, ex: int | None = None, px: int | None = None, persist: bool = False
    ) -> Call[bytes | None]:
        """Return the value of `key`, and let it expire in `ex` seconds or `px` milliseconds.

        `persist` takes its expiry away instead. Without options this is `get`.
        """
        expiration = _expiration("getex", ex, px)
        if persist and expiration is not None:
            raise option_conflict("getex", Conflict.PERSIST_WITH_EXPIRATION)
        changes_nothing = expiration is None and not persist
        return Call(GetEx(_bytes(key), expiration, persist), reply.optional_value, changes_nothing)

    @command
    @staticmethod
    def set(
        key: Key,
        value: Value,
        *,
        ex: int | None = None,
        px: int | None = None,
        keep_ttl: bool = False,
    ) -> Call[None]:
        """Write `value`. An expiry that `key` has is dropped unless `keep_ttl` is true.

        It expires in `ex` seconds or `px` milliseconds; 0 leaves no key behind.
        """
        return Call(_set(key, value, ex=ex, px=px, keep_ttl=keep_ttl), reply.nothing)

    @command
    @staticmethod
    def set_if_absent(
        key: Key, value: Value, *, ex: int | None = None, px: int | None = None
    ) -> Call[bool]:
        """SET NX: write only if there is no `key`. Return whether it was written."""
        return Call(
            _set(key, value, SetCondition.NX, ex=ex, px=px, keep_ttl=False),
            reply.flag,
        )

    @command
    @staticmethod
    def set_if_present(
        key: Key,
        value: Value,
        *,
        ex: int | None = None,
        px: int | None = None,
        keep_ttl: bool = False,
    ) -> Call[bool]:
        """SET XX: write only if `key` exists. Return whether it was written."""
        return Call(_set(key, value, SetCondition.XX, ex=ex, px=px, keep_ttl=keep_ttl), reply.flag)

    @command
    @staticmethod
    def set_if_version(
        key: Key,
        value: Value,
        version: int,
        *,
        ex: int | None = None,
        px: int | None = None,
        keep_ttl: bool = False,
    ) -> Call[bool]:
        """SET IF VERSION: write only if `key` exists in `version`. Return whether it was written.

        A new key has version 1 and every write adds 1.
        """
        return Call(
            _set(key, value, ex=ex, px=px, keep_ttl=keep_ttl, if_version=version), reply.flag
        )

    @command
    @staticmethod
    def set_and_get(
        key: Key,
        value: Value,
        condition: SetCondition = SetCondition.NONE,
        *,
        if_version: int | None = None,
        ex: int | None = None,
        px: int | None = None,
        keep_ttl: bool = False,
    ) -> Call[bytes | None]:
        """SET GET: write if the condition holds, and return the value before, or `None`.

        The result does not tell whether the condition held.
        """
        request = _set(
            key,
            value,
            condition,
            ex=ex,
            px=px,
            keep_ttl=keep_ttl,
            return_previous=True,
            if_version=if_version,
        )
        return Call(request, reply.optional_value)

    @command
    @staticmethod
    def setnx(key: Key, value: Value) -> Call[bool]:
        """Write only if there is no `key`. Return whether it was written."""
        return Call(SetNx(_bytes(key), _bytes(value)), reply.flag)

    @command
    @staticmethod
    def mget(*keys: Key) -> Call[list[bytes | None]]:
        """Return one value, or `None`, for each key in order."""
        return Call(MGet(tuple(map(_bytes, keys))), reply.values, reads_only=True)

    @command
    @staticmethod
    def mset(pairs: Mapping[str, Value]) -> Call[None]:
        """Write all pairs, atomically. Expiries of the keys are dropped."""
        return Call(
            MSet(tuple((_bytes(key), _bytes(value)) for key, value in pairs.items())),
            reply.nothing,
        )

    @command
    @staticmethod
    def delete(*keys: Key) -> Call[int]:
        """DEL: delete keys. Return how many there were."""
        return Call(Del(tuple(map(_bytes, keys))), reply.count)

    @command
    @staticmethod
    def exists(key: Key) -> Call[bool]:
        """Return whether `key` exists."""
        return Call(Exists(_bytes(key)), reply.flag, reads_only=True)

    @command
    @staticmethod
    def incr(key: Key) -> Call[int]:
        """Add 1 to the decimal number at `key` (0 if absent), drop its expiry, return the sum.

        Raise `InvalidIntegerError` or `NumericOverflowError`.
        """
        return Call(Incr(_bytes(key)), reply.integer)

    @command
    @staticmethod
    def decr(key: Key) -> Call[int]:
        """Subtract 1; otherwise like `incr`."""
        return Call(Decr(_bytes(key)), reply.integer)

    @command
    @staticmethod
    def expire(key: Key, seconds: int) -> Call[bool]:
        """Let `key` expire in `seconds`; 0 deletes it. Return whether the key exists."""
        return Call(Expire(_bytes(key), _u64("seconds", seconds)), reply.flag)

    @command
    @staticmethod
    def ttl(key: Key) -> Call[int | Missing | None]:
        """Return the seconds that `key` has left, rounded up.

        `None` means that it does not expire, `MISSING` that there is no such key.
        """
        return Call(Ttl(_bytes(key)), reply.remaining_seconds, reads_only=True)

    @command
    @staticmethod
    def persist(key: Key) -> Call[bool]:
        """Take the expiry of `key` away. Return whether there was one."""
        return Call(Persist(_bytes(key)), reply.flag)

    @command
    @staticmethod
    def rename(source: Key, destination: Key) -> Call[bool]:
        """Move value and expiry, replacing `destination`. Return whether `source` existed."""
        return Call(Rename(_bytes(source), _bytes(destination)), reply.flag)

    @command
    @staticmethod
    def renamenx(source: Key, destination: Key) -> Call[bool]:
        """Like `rename`, but only if there is no `destination`. Return whether it was moved."""
        return Call(RenameNx(_bytes(source), _bytes(destination)), reply.flag)

    @command
    @staticmethod
    def scan_page(
        cursor: int = 0, *, pattern: str | None = None, count: int | None = None
    ) -> Call[Page]:
        """Return one page of keys; `scan()` of a client walks all of them.

        `pattern`: `*` any run of characters, `?` one. `count` (0 to 65535) is a wish.
        """
        _u64("cursor", cursor)
        if count is not None:
            _u64("count", count, maximum=0xFFFF)
        return Call(Scan(cursor, pattern, count), reply.page, reads_only=True)

    @command
    @staticmethod
    def dbsize() -> Call[int]:
        """Return the number of keys."""
        return Call(DbSize(), reply.count, reads_only=True)

    @command
    @staticmethod
    def count() -> Call[int]:
        """Return the number of keys (the same as `dbsize`)."""
        return Call(Count(), reply.count, reads_only=True)

    @command
    @staticmethod
    def list_all() -> Call[dict[str, bytes]]:
        """LIST: return all keys and values. Everything travels in one message; see `scan`."""
        return Call(List(), reply.entries, reads_only=True)

    @command
    @staticmethod
    def clear() -> Call[None]:
        """Delete all keys."""
        return Call(Clear(), reply.nothing)
