"""Commands of a store: checked arguments, batches of them, and what their failures mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_storage._results import FailureCode
from vaylix_storage.commands import (
    U64_MAX,
    Clear,
    Decr,
    Del,
    Expire,
    Incr,
    Persist,
    Rename,
    Set,
    SetCondition,
    SetOptions,
)
from vaylix_storage.errors import IntegerOverflowError, NotAnIntegerError, StorageError

if TYPE_CHECKING:
    from vaylix_storage._results import CommandFailure, SimpleResult
    from vaylix_storage.commands import SimpleCommand

__all__ = ["StoreBatch", "check_bytes", "check_number", "failure_of", "set_command"]


def check_bytes(value: object) -> None:
    """Refuse keys and values that are not bytes: the log could not be read back."""
    if not isinstance(value, bytes):
        raise TypeError(f"keys and values are bytes, not {type(value).__name__}")


def check_number(value: int) -> None:
    """Refuse numbers that do not fit into 64 bits without sign."""
    if not 0 <= value <= U64_MAX:
        raise ValueError(f"{value} is not a number from 0 to {U64_MAX}")


def set_command(
    key: bytes,
    value: bytes,
    *,
    ttl_ms: int | None = None,
    condition: SetCondition = SetCondition.NONE,
    keep_ttl: bool = False,
    if_version: int | None = None,
) -> Set:
    """Return the command of a SET, its arguments checked."""
    check_bytes(key)
    check_bytes(value)
    if ttl_ms is None and condition is SetCondition.NONE and not keep_ttl and if_version is None:
        return Set(key, value)
    for number in (ttl_ms, if_version):
        if number is not None:
            check_number(number)
    return Set(
        key,
        value,
        SetOptions(
            condition=SetCondition(condition),
            ttl_ms=ttl_ms,
            keep_ttl=keep_ttl,
            if_version=if_version,
        ),
    )


def failure_of(failure: CommandFailure) -> StorageError:
    """Return the error to raise for a command that was refused."""
    if failure.code is FailureCode.NUMERIC_OVERFLOW:
        return IntegerOverflowError(failure.message)
    assert failure.code is FailureCode.NOT_AN_INTEGER
    return NotAnIntegerError(failure.message)


class StoreBatch:
    """Writes that belong together, as `Store.batch` collects them; arguments as in `Store`.

    `results` has one answer for each once the batch was carried out: True for what always succeeds,
    else what the method of `Store` would have returned. One thread at a time.
    """

    __slots__ = ("commands", "results")

    def __init__(self) -> None:
        self.commands: list[SimpleCommand] = []
        self.results: tuple[SimpleResult, ...] = ()

    def set(
        self,
        key: bytes,
        value: bytes,
        *,
        ttl_ms: int | None = None,
        condition: SetCondition = SetCondition.NONE,
        keep_ttl: bool = False,
        if_version: int | None = None,
    ) -> None:
        """Write a value; a condition that does not hold does not hold up the others."""
        self.commands.append(
            set_command(
                key,
                value,
                ttl_ms=ttl_ms,
                condition=condition,
                keep_ttl=keep_ttl,
                if_version=if_version,
            )
        )

    def delete(self, *keys: bytes) -> None:
        """Remove keys."""
        for key in keys:
            check_bytes(key)
        self.commands.append(Del(keys))

    def incr(self, key: bytes) -> None:
        """Add one to a decimal number; if that fails, nothing of the batch is done."""
        check_bytes(key)
        self.commands.append(Incr(key))

    def decr(self, key: bytes) -> None:
        """Subtract one, as `incr` adds one."""
        check_bytes(key)
        self.commands.append(Decr(key))

    def expire(self, key: bytes, ttl_ms: int) -> None:
        """Set the time to live of a key."""
        check_bytes(key)
        check_number(ttl_ms)
        self.commands.append(Expire(key, ttl_ms))

    def persist(self, key: bytes) -> None:
        """Let a key stay for good."""
        check_bytes(key)
        self.commands.append(Persist(key))

    def rename(self, source: bytes, destination: bytes) -> None:
        """Move value and time to live to another key."""
        check_bytes(source)
        check_bytes(destination)
        self.commands.append(Rename(source, destination))

    def clear(self) -> None:
        """Remove all keys."""
        self.commands.append(Clear())
