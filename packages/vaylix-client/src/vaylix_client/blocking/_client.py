"""The blocking client."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TypeVar

from vaylix_client._admin_commands import AdminCommands
from vaylix_client._batch import Batch, PipelineCommands, TransactionCommands
from vaylix_client._client_state import ClientState
from vaylix_client._command import BlockingExecutor
from vaylix_client._data_commands import DataCommands
from vaylix_client._retry import retry_pause_seconds
from vaylix_client._session import Cause
from vaylix_client._settings import ConnectOptions, Settings, resolve
from vaylix_client._wire import check_login, is_login_decided
from vaylix_client.blocking._link import RawCommand, SocketLink, dial
from vaylix_client.errors import ClientError
from vaylix_protocol import Auth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Unpack

    from vaylix_client._call import Call

__all__ = ["BlockingCommands", "Client", "Pipeline", "Transaction", "connect"]

T = TypeVar("T")


def connect(url: str | None = None, **options: Unpack[ConnectOptions]) -> Client:
    """Connect and log in; `vaylix://127.0.0.1:9173` when no `url` is given.

    Raise `ConfigurationError`, `ConnectError`, `AuthenticationError` for a refused login, and
    `InvalidCallError` for a user or password that cannot be sent.
    `ConnectOptions` lists the options. Use it as `with connect(...) as client:`.
    """
    client = Client(resolve(url, options))
    client.open()
    return client


class _Block(Batch):
    """A batch that is executed at the end of its `with` block."""

    __slots__ = ("_run",)

    def __init__(self, run: Callable[[Self], None]) -> None:
        super().__init__()
        self._run = run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self: Self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            self.close()
            return
        try:
            self._run(self)
        except ClientError as error:
            self.settle_rest(error)
            raise


class Pipeline(_Block, PipelineCommands):
    """Calls that leave together when the block ends: `with client.pipeline() as pipe:`.

    Each method gives a `Pending` result. The calls are independent of each other: some can fail
    while others succeed. Leaving the block raises the error of the first one that failed, after
    all have ended. An exception inside the block drops them all unsent. Nothing is retried.
    """

    __slots__ = ()


class Transaction(_Block, TransactionCommands):
    """Calls that run as one when the block ends: `with client.transaction() as tx:`.

    All or nothing: if a call is refused, or the block is left by an exception, nothing is applied.
    Each method gives a `Pending` result, `results` lists all. Nothing is sent before the block
    ends. Leaving it raises `NotSentError` when it is certain that nothing was executed,
    `OutcomeUnknownError` when an answer is missing that would tell. Nothing is retried.
    """

    __slots__ = ()


class BlockingCommands(BlockingExecutor, DataCommands, AdminCommands):
    """What a client and a pool have in common: all commands, pipelines, transactions, scans."""

    __slots__ = ()

    def scan(self, pattern: str | None = None, *, count: int | None = None) -> Iterator[str]:
        """Walk all keys that match `pattern`, `count` (a wish) per round trip.

        A key that exists during the whole walk is seen; one that comes or goes meanwhile may be
        missed, and servers of version 0.9 may then also skip or repeat others.
        """
        cursor = 0
        while True:
            page = self.scan_page(cursor, pattern=pattern, count=count)
            yield from page.keys
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
    def _run_pipeline(self, pipeline: Pipeline) -> None: ...

    @abstractmethod
    def _run_transaction(self, transaction: Transaction) -> None: ...


class Client(ClientState[SocketLink], BlockingCommands):
    """One connection. Threads may share it: their calls then wait for each other.

    A connection that was lost is replaced by the next call; the call that was on it has failed by
    then. Do not use it on both sides of a fork.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect now, instead of at the first call."""
        with self._turn():
            self._connected()

    def close(self) -> None:
        """Close the connection, after the call that another thread may have on it."""
        self._is_closed = True
        with self._lock:
            if self._link is not None:
                self._link.abort(Cause.io_error("connection closed by this client"))

    def auth(self, user: str, password: str) -> None:
        """Log in as somebody else, also for connections that replace this one.

        Raise `AuthenticationError`; the identity from before then stays. When no answer tells
        which identity the connection has, it is closed.
        """
        with self._turn() as seconds:
            link = self._connected()
            try:
                (outcome,) = link.exchange_all([RawCommand(Auth(user, password))], seconds)
                check_login(outcome)
            except BaseException as error:
                if not is_login_decided(error):
                    link.abort(Cause.io_error("a login was interrupted"))
                raise
            self._login = (user, password)

    def execute(self, call: Call[T]) -> T:
        """Execute a call; the methods of commands all end here.

        Raise `ServerError`, `NotSentError`, `OutcomeUnknownError`, `InvalidCallError`, and
        `ConnectError` when the connection had to be replaced and could not.
        """
        attempts = 0
        while True:
            attempts += 1
            try:
                with self._turn() as seconds:
                    (outcome,) = self._connected().exchange_all([call], seconds)
                return call.result(outcome)
            except ClientError as error:
                pause = retry_pause_seconds(call, error, attempts, self._settings.retry_reads)
                if pause is None or self._is_closed:
                    raise
            time.sleep(pause)

    @contextmanager
    def _turn(self) -> Iterator[float | None]:
        """Have the connection for one exchange; yields the seconds that remain for it."""
        seconds = self._settings.call_timeout_seconds
        started = time.monotonic()
        if not self._lock.acquire(timeout=-1 if seconds is None else seconds):
            assert seconds is not None
            raise Cause.timeout(seconds).not_sent()
        try:
            waited = time.monotonic() - started
            yield None if seconds is None else max(0.0, seconds - waited)
        finally:
            self._lock.release()

    def _connected(self) -> SocketLink:
        self._check_open()
        if self._link is not None:
            # A server that went away meanwhile is noticed before anything is sent to it.
            self._link.look()
            if self._link.is_usable:
                return self._link
        self._link = dial(self._settings, self._login)
        return self._link

    def _run_pipeline(self, pipeline: Pipeline) -> None:
        calls = pipeline.close()
        with self._turn() as seconds:
            outcomes = self._connected().exchange_all(calls, seconds)
        pipeline.settle(outcomes)
        pipeline.raise_first_error()

    def _run_transaction(self, transaction: Transaction) -> None:
        plan = transaction.plan()
        if plan is not None:
            with self._turn() as seconds:
                outcome = self._connected().transact(plan, seconds)
            transaction.take(outcome)
