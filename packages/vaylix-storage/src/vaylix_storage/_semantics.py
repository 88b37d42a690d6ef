"""What each prepared command does to the table and answers (VTP2 commands sections 6.1 to 6.6).

Every function depends on the table, the command and "now" alone. None raises; what is refused
comes back as `CommandFailure` and has changed nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaylix_storage import commands as c
from vaylix_storage._entry import Entry
from vaylix_storage._results import Answer, CommandFailure, FailureCode, SimpleResult

if TYPE_CHECKING:
    from vaylix_storage._table import Table

__all__ = [
    "absolute_expiry",
    "add",
    "delete",
    "expire",
    "get_and_delete",
    "get_and_expire",
    "persist",
    "rename",
    "rename_unless_exists",
    "set_many",
    "set_unless_exists",
    "set_value",
    "time_to_live",
]

_I64_DIGITS_MAX: Final = 19
# What a refusal quotes of a value; it can be as long as values may be.
_QUOTED_BYTES_MAX: Final = 256
# As many digits always fit i64.
_SURE_DIGITS: Final = 18
_I64_MAX: Final = 2**63 - 1
_I64_MIN: Final = -(2**63)


def absolute_expiry(ttl_ms: int, now_ms: int) -> int:
    """Return when a time to live that begins now ends, saturating at 2**64 - 1."""
    return min(now_ms + ttl_ms, c.U64_MAX)


def set_value(table: Table, command: c.Set, now_ms: int) -> SimpleResult:
    """SET with its options."""
    options = command.options
    if options is None:
        table.set_plain(command.key, command.value, now_ms)
        return Answer.OK
    previous = table.find(command.key, now_ms)
    passes = _condition_passes(options, previous)
    if passes:
        _store(table, command, options, previous, now_ms)
    if options.return_previous:
        return Answer.NOT_FOUND if previous is None else previous.value
    if options.condition is c.SetCondition.NONE and options.if_version is None:
        return Answer.OK
    return passes


def _condition_passes(options: c.SetOptions, previous: Entry | None) -> bool:
    if options.if_version is not None and (
        previous is None or previous.version != options.if_version
    ):
        return False
    if options.condition is c.SetCondition.NX:
        return previous is None
    return options.condition is c.SetCondition.NONE or previous is not None


def _store(
    table: Table, command: c.Set, options: c.SetOptions, previous: Entry | None, now_ms: int
) -> None:
    expires_at_ms = 0
    if options.ttl_ms is not None:
        if options.ttl_ms == 0:
            table.drop(command.key)
            return
        expires_at_ms = absolute_expiry(options.ttl_ms, now_ms)
    elif options.keep_ttl and previous is not None:
        expires_at_ms = previous.expires_at_ms
    version = 1 if previous is None else min(previous.version + 1, c.U64_MAX)
    table.put(command.key, Entry(command.value, version, expires_at_ms))


def set_unless_exists(table: Table, command: c.SetNx, now_ms: int) -> bool:
    """SETNX."""
    if table.find(command.key, now_ms) is not None:
        return False
    table.set_plain(command.key, command.value, now_ms)
    return True


def set_many(table: Table, command: c.MSet, now_ms: int) -> Answer:
    """MSET: in order, so a key named twice ends with the last value and two versions more."""
    for key, value in command.pairs:
        table.set_plain(key, value, now_ms)
    return Answer.OK


def get_and_delete(table: Table, command: c.GetDel, now_ms: int) -> SimpleResult:
    """GETDEL."""
    entry = table.find(command.key, now_ms)
    if entry is None:
        return Answer.NOT_FOUND
    table.drop(command.key)
    return entry.value


def get_and_expire(table: Table, command: c.GetEx, now_ms: int) -> SimpleResult:
    """GETEX: the value as it was, and its time to live replaced or dropped."""
    entry = table.find(command.key, now_ms)
    if entry is None:
        return Answer.NOT_FOUND
    if command.ttl_ms is not None:
        _set_expiry(table, command.key, entry, command.ttl_ms, now_ms)
    elif command.persist and entry.expires_at_ms:
        table.put(command.key, Entry(entry.value, entry.version, 0))
    return entry.value


def delete(table: Table, command: c.Del, now_ms: int) -> int:
    """DEL: a key listed twice counts once."""
    count = 0
    for key in command.keys:
        if table.find(key, now_ms) is not None:
            table.drop(key)
            count += 1
    return count


def add(table: Table, key: bytes, delta: int, now_ms: int) -> int | CommandFailure:
    """INCR and DECR: a decimal in i64, stored in canonical form, without a time to live."""
    text = table.value(key, now_ms)
    if text is None:
        text = b"0"
    number = _parse_decimal(text)
    if number is None:
        return CommandFailure(FailureCode.NOT_AN_INTEGER, key, text[:_QUOTED_BYTES_MAX])
    number += delta
    if not _I64_MIN <= number <= _I64_MAX:
        return CommandFailure(FailureCode.NUMERIC_OVERFLOW, key)
    table.set_plain(key, b"%d" % number, now_ms)
    return number


def _parse_decimal(text: bytes) -> int | None:
    """Return a decimal that fits i64, leading zeros and a sign allowed, or None.

    Linear in the length of the value, which is up to whoever wrote it.
    """
    if text.isdigit() and len(text) <= _SURE_DIGITS:
        return int(text)
    digits = text[1:] if text[:1] in (b"+", b"-") else text
    if not digits.isdigit():
        return None
    significant = digits.lstrip(b"0")
    if len(significant) > _I64_DIGITS_MAX:
        return None
    number = int(significant or b"0")
    if text[:1] == b"-":
        number = -number
    return number if _I64_MIN <= number <= _I64_MAX else None


def expire(table: Table, command: c.Expire, now_ms: int) -> bool:
    """EXPIRE: replaces an earlier time to live; 0 deletes the key."""
    entry = table.find(command.key, now_ms)
    if entry is None:
        return False
    _set_expiry(table, command.key, entry, command.ttl_ms, now_ms)
    return True


def _set_expiry(table: Table, key: bytes, entry: Entry, ttl_ms: int, now_ms: int) -> None:
    if ttl_ms == 0:
        table.drop(key)
    else:
        table.put(key, Entry(entry.value, entry.version, absolute_expiry(ttl_ms, now_ms)))


def persist(table: Table, command: c.Persist, now_ms: int) -> bool:
    """PERSIST: true if there was a time to live."""
    entry = table.find(command.key, now_ms)
    if entry is None or not entry.expires_at_ms:
        return False
    table.put(command.key, Entry(entry.value, entry.version, 0))
    return True


def rename(table: Table, source: bytes, destination: bytes, now_ms: int) -> bool:
    """RENAME: the value and its time to live move; the version is the destination's."""
    entry = table.find(source, now_ms)
    if entry is None:
        return False
    # The source goes first, so renaming a key to itself finds no destination: version 1.
    table.drop(source)
    version = table.next_version(destination, now_ms)
    table.put(destination, Entry(entry.value, version, entry.expires_at_ms))
    return True


def rename_unless_exists(table: Table, command: c.RenameNx, now_ms: int) -> bool:
    """RENAMENX: the destination is looked at first."""
    if table.find(command.destination, now_ms) is not None:
        return False
    return rename(table, command.source, command.destination, now_ms)


def time_to_live(table: Table, key: bytes, now_ms: int) -> int:
    """TTL: -2 missing, -1 without expiry, else seconds left, rounded up."""
    entry = table.find(key, now_ms)
    if entry is None:
        return -2
    if not entry.expires_at_ms:
        return -1
    return -((now_ms - entry.expires_at_ms) // 1000)
