"""A pool of asyncio clients."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, TypeVar

from vaylix_client._session import Cause
from vaylix_client._settings import ConnectOptions, resolve
from vaylix_client.aio import AsyncCommands, Client, Pipeline, Transaction
from vaylix_client.errors import ClientError, configuration_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Unpack

    from vaylix_client._call import Call

__all__ = ["Pool"]

T = TypeVar("T")

_HEALTH_CHECK_SECONDS = 2.0


class Pool(AsyncCommands):
    """At most `size_max` connections, made when needed, lent to one borrower at a time.

    All commands are methods of the pool too; each borrows a connection for its one call, so calls
    that must run on the same connection need `acquire()`. Borrowers are served first come, first
    served. A connection that lay idle for `idle_check_seconds` is tried with a PING before it is
    lent, and replaced if that fails. For one event loop; not thread-safe.

    `ConnectOptions` lists the other options. Waiting for a connection may take up to
    `call_timeout_seconds` by itself, then it raises `NotSentTimeoutError`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        size_max: int = 8,
        idle_check_seconds: float = 30.0,
        **options: Unpack[ConnectOptions],
    ) -> None:
        if size_max < 1:
            raise configuration_error("size_max must be at least 1")
        self._settings = resolve(url, options)
        self._idle_check_seconds = idle_check_seconds
        self._slots = asyncio.Semaphore(size_max)
        self._idle: deque[tuple[Client, float]] = deque()
        self._lent: set[Client] = set()
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def size(self) -> int:
        """How many clients there are, idle and lent."""
        return len(self._idle) + len(self._lent)

    async def close(self) -> None:
        """Close all connections, the ones that are lent too, and refuse everybody."""
        self._is_closed = True
        clients = [client for client, _ in self._idle] + list(self._lent)
        self._idle.clear()
        # Each may have to wait a second for a peer that does not answer.
        await asyncio.gather(*(client.close() for client in clients))

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Client]:
        """Borrow a client: `async with pool.acquire() as client:`."""
        seconds = self._settings.call_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._slots.acquire()
        except TimeoutError:
            assert seconds is not None
            raise Cause.timeout(seconds).not_sent() from None
        try:
            client = await self._take()
            try:
                yield client
            finally:
                await self._give_back(client)
        finally:
            self._slots.release()

    async def execute(self, call: Call[T]) -> T:
        """Execute a call on a borrowed connection."""
        async with self.acquire() as client:
            return await client.execute(call)

    async def _run_pipeline(self, pipeline: Pipeline) -> None:
        async with self.acquire() as client:
            await client._run_pipeline(pipeline)  # noqa: SLF001 - the same family of classes

    async def _run_transaction(self, transaction: Transaction) -> None:
        async with self.acquire() as client:
            await client._run_transaction(transaction)  # noqa: SLF001 - as above

    async def _take(self) -> Client:
        self._check_open()
        # The one that was used last is the one most likely to be alive.
        client, idle_since = self._idle.pop() if self._idle else (Client(self._settings), None)
        self._lent.add(client)
        try:
            if idle_since is not None and self._is_stale(idle_since) and client.is_connected:
                client = await self._checked(client)
                # Somebody may have closed the pool meanwhile.
                self._check_open()
        except BaseException:
            self._lent.discard(client)
            await client.close()
            raise
        return client

    def _check_open(self) -> None:
        if self._is_closed:
            raise Cause.io_error("this pool is closed").not_sent()

    def _is_stale(self, idle_since: float) -> bool:
        return time.monotonic() - idle_since >= self._idle_check_seconds

    async def _checked(self, client: Client) -> Client:
        try:
            async with asyncio.timeout(_HEALTH_CHECK_SECONDS):
                await client.ping()
        except (ClientError, TimeoutError):
            self._lent.discard(client)
            await client.close()
            client = Client(self._settings)
            self._lent.add(client)
        return client

    async def _give_back(self, client: Client) -> None:
        self._lent.discard(client)
        if self._is_closed or client.is_closed or not client.has_configured_identity:
            # Nobody may inherit the identity that a borrower took on, nor a client that is done.
            await client.close()
        else:
            self._idle.append((client, time.monotonic()))
