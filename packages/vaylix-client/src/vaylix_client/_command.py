"""How one method serves every kind of client.

A command is written once, as a static function that builds a `Call[T]`, and decorated with
`@command`. The decorator is a descriptor: what the attribute is depends on who is asked.

- On an `AsyncExecutor`, `client.get(key)` is a coroutine that gives `T`.
- On a `BlockingExecutor` it gives `T`.
- On a `BatchExecutor` (pipeline, transaction) it queues the call and gives `Pending[T]`.

Signatures, defaults and docstrings are the function's own, so type checkers and editors see
precise methods in all three cases and no command is spelled twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import update_wrapper
from typing import TYPE_CHECKING, Generic, ParamSpec, Self, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from vaylix_client._call import Call
    from vaylix_client._pending import Pending

__all__ = ["AsyncExecutor", "BatchExecutor", "BlockingExecutor", "command"]

P = ParamSpec("P")
T = TypeVar("T")


class AsyncExecutor(ABC):
    """Executes calls in coroutines."""

    __slots__ = ()

    @abstractmethod
    async def execute(self, call: Call[T]) -> T:
        """Execute the call and return its result."""


class BlockingExecutor(ABC):
    """Executes calls while the caller's thread waits."""

    __slots__ = ()

    @abstractmethod
    def execute(self, call: Call[T]) -> T:
        """Execute the call and return its result."""


class BatchExecutor(ABC):
    """Takes calls now and executes them later."""

    __slots__ = ()

    @abstractmethod
    def execute(self, call: Call[T]) -> Pending[T]:
        """Queue the call and return the place where its result will appear."""


class command(Generic[P, T]):  # noqa: N801 - used like a function, as `property` is
    """Turn a function that builds a call into a method of clients and batches."""

    def __init__(self, build: Callable[P, Call[T]]) -> None:
        self._build = build
        update_wrapper(self, build)

    @overload
    def __get__(self, instance: None, owner: type[object]) -> Self: ...
    @overload
    def __get__(
        self, instance: AsyncExecutor, owner: type[object]
    ) -> Callable[P, Coroutine[None, None, T]]: ...
    @overload
    def __get__(self, instance: BlockingExecutor, owner: type[object]) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: BatchExecutor, owner: type[object]) -> Callable[P, Pending[T]]: ...
    def __get__(
        self,
        instance: AsyncExecutor | BlockingExecutor | BatchExecutor | None,
        owner: type[object],
    ) -> Self | Callable[P, Coroutine[None, None, T] | T | Pending[T]]:
        """Bind to the executor `instance`."""
        if instance is None:
            return self
        build, execute = self._build, instance.execute

        def method(*args: P.args, **kwargs: P.kwargs) -> Coroutine[None, None, T] | T | Pending[T]:
            return execute(build(*args, **kwargs))

        return update_wrapper(method, build)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Build the call without executing it: `Client.get("k")` for `client.execute(...)`."""
        return self._build(*args, **kwargs)
