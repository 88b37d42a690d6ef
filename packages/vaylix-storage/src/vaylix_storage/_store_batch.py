"""Writes of a store that belong together, and what failures of commands mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_storage._results import FailureCode
from vaylix_storage._store_arguments import check_bytes, check_number, set_command
from vaylix_storage.commands import (
    Clear,
    Decr,
    Del,
    Expire,
    Incr,
    Persist,
    Rename,
    SetCondition,
)
from vaylix_storage.errors import IntegerOverflowError, NotAnIntegerError, StorageError

if TYPE_CHECKING:
    from vaylix_storage._results import CommandFailure, SimpleResult
    from vaylix_storage.commands import SimpleCommand

__all__ = ["StoreBatch", "failure_of"]


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
        check_bytes(*keys)
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
        check_number("ttl_ms", ttl_ms)
        self.commands.append(Expire(key, ttl_ms))

    def persist(self, key: bytes) -> None:
        """Let a key stay for good."""
        check_bytes(key)
        self.commands.append(Persist(key))

    def rename(self, source: bytes, destination: bytes) -> None:
        """Move value and time to live to another key."""
        check_bytes(source, destination)
        self.commands.append(Rename(source, destination))

    def clear(self) -> None:
        """Remove all keys."""
        self.commands.append(Clear())
