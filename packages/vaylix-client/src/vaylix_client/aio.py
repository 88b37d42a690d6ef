"""The asyncio client."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from copy import copy
from typing import TYPE_CHECKING, Self, TypeVar

from vaylix_client._admin_commands import AdminCommands
from vaylix_client._batch import Batch, PipelineCommands, TransactionCommands
from vaylix_client._client_state import ClientState
from vaylix_client._command import AsyncExecutor
from vaylix_client._data_commands import DataCommands
from vaylix_client._dial import dial
from vaylix_client._link import Link
from vaylix_client._retry import retry_pause_seconds
from vaylix_client._session import Cause
from vaylix_client._settings import ConnectOptions, Settings, resolve
from vaylix_client._wire import check_login, is_login_decided
from vaylix_client.errors import ClientError
from vaylix_protocol import Auth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType
    from typing import Unpack

    from vaylix_client._call import Call

__all__ = ["AsyncCommands", "Client", "Pipeline", "Transaction", "connect"]

T = TypeVar("T")


async def connect(url: str | None = None, **options: Unpack[ConnectOptions]) -> Client:
    """Connect and log in; `vaylix://127.0.0.1:9173` when no `url` is given.

    Raise `ConfigurationError`, `ConnectError`, `AuthenticationError` for a refused login, and
    `InvalidCallError` for a user or password that cannot be sent.
    `ConnectOptions` lists the options. Use it as `async with await connect(...) as client:`.
    """
    client = Client(resolve(url, options))
    await client.open()
    return client


class _Block(Batch):
    """A batch that is executed at the end of its `async with` block."""

    __slots__ = ("_run",)

    def __init__(self, run: Callable[[Self], Awaitable[None]]) -> None:
        super().__init__()
        self._run = run

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self: Self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            self.close()
            return
        try:
            await self._run(self)
        except ClientError as error:
            self.settle_rest(error)
            raise


class Pipeline(_Block, PipelineCommands):
    """Calls that leave together when the block ends: `async with client.pipeline() as pipe:`.

    Each method gives a `Pending` result. The calls are independent of each other: some can fail
    while others succeed. Leaving the block raises the error of the first one that failed, after
    all have ended. An exception inside the block drops them all unsent. Nothing is retried.
    """

    __slots__ = ()


class Transaction(_Block, TransactionCommands):
    """Calls that run as one when the block ends: `async with client.transaction() as tx:`.

    All or nothing: if a call is refused, or the block is left by an exception, nothing is applied.
    Each method gives a `Pending` result, `results` lists all. Nothing is sent before the block
    ends; then the transaction has a connection to itself, and other calls wait or go elsewhere.
    Leaving the block raises `NotSentError` when it is certain that nothing was executed,
    `OutcomeUnknownError` when an answer is missing that would tell. Nothing is retried.
    """

    __slots__ = ()


class AsyncCommands(AsyncExecutor, DataCommands, AdminCommands):
    """What a client and a pool have in common: all commands, pipelines, transactions, scans."""

    __slots__ = ()

    async def scan(
        self, pattern: str | None = None, *, count: int | None = None
    ) -> AsyncIterator[str]:
        """Walk all keys that match `pattern`, `count` (a wish) per round trip.

        A key that exists during the whole walk is seen; one that comes or goes meanwhile may be
        missed, and servers of version 0.9 may then also skip or repeat others.
        """
        cursor = 0
        while True:
            page = await self.scan_page(cursor, pattern=pattern, count=count)
            for key in page.keys:
                yield key
            cursor = page.cursor
            if cursor == 0:
                return

    def pipeline(self) -> Pipeline:
        """Return a pipeline: many calls in one write."""
        return Pipeline(self._run_pipeline)

    def transaction(self) -> Transaction:
        """Return a transaction: many calls as one."""
        return Transaction(self._run_transaction)

    @abstractmethod
    async def _run_pipeline(self, pipeline: Pipeline) -> None: ...

    @abstractmethod
    async def _run_transaction(self, transaction: Transaction) -> None: ...


class _Dialling:
    """An attempt to connect, and how many wait for it: all share its time and its outcome.

    It is a task of its own, so that a caller who gives up takes nothing from the others.
    """

    def __init__(self, task: asyncio.Task[Link | ClientError]) -> None:
        self.task = task
        self._waiter_count = 0

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to join: it has ended, or is being called off."""
        return self.task.done() or self.task.cancelling() > 0

    async def wait(self) -> None:
        """Wait for the end. Whoever is the last one to give up calls the attempt off."""
        self._waiter_count += 1
        try:
            await asyncio.wait({self.task})
        finally:
            self._waiter_count -= 1
            if self._waiter_count == 0:
                self.task.cancel()


class Client(ClientState[Link], AsyncCommands):
    """One connection at a time, and any number of concurrent calls on it.

    Calls of one loop turn leave in one write. A connection that was lost is replaced by the next
    call; calls that were on it have failed by then. For one event loop; not thread-safe.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._dialling: _Dialling | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect now, instead of at the first call."""
        await self._connected()

    async def close(self) -> None:
        """Close the connection. Calls without an answer end as interrupted; later ones too."""
        self._is_closed = True
        # One that has ended is not waited for: a cancellation in that turn of the loop would leave
        # its connection open.
        if self._dialling is not None and not self._dialling.task.done():
            self._dialling.task.cancel()
            await asyncio.wait({self._dialling.task})
        if self._link is not None:
            await self._link.close()

    async def auth(self, user: str, password: str) -> None:
        """Log in as somebody else, also for connections that replace this one.

        Raise `AuthenticationError`; the identity from before then stays. When no answer tells
        which identity the connection has, it is closed.
        """
        link = await self._connected()
        try:
            check_login(await link.exchange(Auth(user, password), reads_only=False))
        except BaseException as error:
            if not is_login_decided(error):
                link.abort(Cause.io_error("a login was interrupted"))
            raise
        self._login = (user, password)

    async def execute(self, call: Call[T]) -> T:
        """Execute a call; the methods of commands all end here.

        Raise `ServerError`, `NotSentError`, `OutcomeUnknownError`, `InvalidCallError`, and
        `ConnectError` when the connection had to be replaced and could not.
        """
        attempts = 0
        while True:
            attempts += 1
            try:
                link = self._link
                if link is None or not link.is_usable:
                    link = await self._connected()
                outcome = await link.exchange(call.command, reads_only=call.reads_only)
                return call.result(outcome)
            except ClientError as error:
                pause = retry_pause_seconds(call, error, attempts, self._settings.retry_reads)
                if pause is None or self._is_closed:
                    raise
            await asyncio.sleep(pause)

    async def _connected(self) -> Link:
        self._check_open()
        if self._link is not None and self._link.is_usable:
            return self._link
        if self._dialling is None or self._dialling.is_over:
            self._dialling = _Dialling(asyncio.create_task(self._dial()))
        dialling = self._dialling
        await dialling.wait()
        self._check_open()
        outcome = dialling.task.result()
        if isinstance(outcome, ClientError):
            # Each caller its own copy: an exception collects the traceback of whoever raises it.
            raise copy(outcome) from outcome.__cause__
        return outcome

    async def _dial(self) -> Link | ClientError:
        try:
            link = await dial(self._settings, self._login)
        except ClientError as error:
            return error
        self._link = link
        return link

    async def _run_pipeline(self, pipeline: Pipeline) -> None:
        calls = pipeline.close()
        link = await self._connected()
        pipeline.settle(await link.exchange_all(calls))
        pipeline.raise_first_error()

    async def _run_transaction(self, transaction: Transaction) -> None:
        plan = transaction.plan()
        if plan is not None:
            link = await self._connected()
            transaction.take(await link.transact(plan))
