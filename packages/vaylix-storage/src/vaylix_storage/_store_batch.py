"""Writes of a store that belong together, and what failures of commands mean."""

from __future__ import annotations

from contextvars import ContextVar
from threading import get_ident
from typing import TYPE_CHECKING, Final, Self, TypeAlias
from weakref import ref

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
from vaylix_storage.errors import (
    BatchError,
    IntegerOverflowError,
    NotAnIntegerError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from vaylix_storage._results import CommandFailure, SimpleResult
    from vaylix_storage._store_lock import CallLock
    from vaylix_storage.commands import SimpleCommand

__all__ = ["Results", "StoreBatch", "failure_of"]

Results: TypeAlias = "tuple[SimpleResult, ...]"


def failure_of(failure: CommandFailure) -> StorageError:
    """Return the error to raise for a command that was refused."""
    if failure.code is FailureCode.NUMERIC_OVERFLOW:
        return IntegerOverflowError(failure.message)
    assert failure.code is FailureCode.NOT_AN_INTEGER
    return NotAnIntegerError(failure.message)


class StoreBatch:
    """Writes that belong together, as `Store.batch` collects them; arguments as in `Store`.

    For one `with` block of the thread that enters it. `results` has one answer for each once the
    batch was carried out: True for what always succeeds, else what the method of `Store` would
    have returned. Whatever comes before, after, or from another thread raises BatchError, and so
    does a block inside of that of another batch of the same store: which one would be all or
    nothing?
    """

    __slots__ = ("__weakref__", "_carry_out", "_commands", "_lock", "_results", "_thread_id")

    def __init__(
        self, lock: CallLock, carry_out: Callable[[tuple[SimpleCommand, ...]], Results]
    ) -> None:
        """Use `Store.batch`; `lock` is that of the store."""
        self._lock = lock
        self._carry_out = carry_out
        self._results: Results = ()
        self._thread_id = 0
        # None before and after the block.
        self._commands: list[SimpleCommand] | None = None

    @property
    def results(self) -> Results:
        """What the writes came to; empty unless all have been carried out."""
        return self._results

    def __enter__(self) -> Self:
        if self._thread_id:
            if self._commands is None:
                raise _over()
            raise BatchError(
                "the batch has begun already",
                remedy="enter each batch once: `Store.batch` makes one",
            )
        others = [batch for batch in (known() for known in _BATCHES.get()) if batch is not None]
        others = [batch for batch in others if batch._is_open]  # noqa: SLF001 - as self
        if any(batch._lock is self._lock for batch in others):  # noqa: SLF001 - as self
            raise BatchError(
                "the block is inside of another batch of this store",
                remedy="add the writes to that one, or end it before",
            )
        thread_id = get_ident()
        inside: list[StoreBatch] = [*others, self]
        _BATCHES.set(tuple(ref(batch) for batch in inside))
        # Last, without a call between: an interrupt before leaves a batch that has not begun.
        self._thread_id = thread_id
        self._commands = []
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        commands, self._commands = self._commands, None
        if kind is not None or not commands:
            return
        if get_ident() != self._thread_id:
            raise _elsewhere()
        self._results = self._carry_out(tuple(commands))

    @property
    def _is_open(self) -> bool:
        return self._commands is not None

    def _add(self, command: SimpleCommand) -> None:
        self._lock.check()
        if self._commands is None:
            raise _over() if self._thread_id else _not_begun()
        if get_ident() != self._thread_id:
            raise _elsewhere()
        self._commands.append(command)

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
        self._add(
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
        self._add(Del(keys))

    def incr(self, key: bytes) -> None:
        """Add one to a decimal number; if that fails, nothing of the batch is done."""
        check_bytes(key)
        self._add(Incr(key))

    def decr(self, key: bytes) -> None:
        """Subtract one, as `incr` adds one."""
        check_bytes(key)
        self._add(Decr(key))

    def expire(self, key: bytes, ttl_ms: int) -> None:
        """Set the time to live of a key."""
        check_bytes(key)
        check_number("ttl_ms", ttl_ms)
        self._add(Expire(key, ttl_ms))

    def persist(self, key: bytes) -> None:
        """Let a key stay for good."""
        check_bytes(key)
        self._add(Persist(key))

    def rename(self, source: bytes, destination: bytes) -> None:
        """Move value and time to live to another key."""
        check_bytes(source, destination)
        self._add(Rename(source, destination))

    def clear(self) -> None:
        """Remove all keys."""
        self._add(Clear())


# The batches whose blocks surround what is running, so that tasks of one thread may each have one.
# One whose block an interrupt has cut off before it could end goes with its last owner.
_BATCHES: Final[ContextVar[tuple[ref[StoreBatch], ...]]] = ContextVar("batches", default=())


def _not_begun() -> BatchError:
    return BatchError("the batch has not begun", remedy="use it as `with store.batch() as batch:`")


def _over() -> BatchError:
    return BatchError(
        "the batch is over, its block has been left", remedy="begin another with `Store.batch`"
    )


def _elsewhere() -> BatchError:
    return BatchError(
        "the batch belongs to another thread", remedy="begin one with `Store.batch` in this thread"
    )
