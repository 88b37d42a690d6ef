"""A pool of blocking clients."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TypeVar

from vaylix_client._session import Cause
from vaylix_client._settings import ConnectOptions, resolve
from vaylix_client.blocking._client import BlockingCommands, Client, Pipeline, Transaction
from vaylix_client.blocking._places import Places
from vaylix_client.errors import configuration_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Unpack

    from vaylix_client._call import Call

__all__ = ["Pool"]

T = TypeVar("T")


class Pool(BlockingCommands):
    """At most `size_max` connections, made when needed, lent to one thread at a time.

    All commands are methods of the pool too; each borrows a connection for its one call, so calls
    that must run on the same connection need `acquire()`. Threads are served first come, first
    served. Before a connection is used, one that the server has closed meanwhile is noticed and
    replaced.

    `ConnectOptions` lists the other options. Waiting for a connection may take up to
    `call_timeout_seconds` by itself, then it raises `NotSentTimeoutError`.
    """

    def __init__(
        self, url: str | None = None, *, size_max: int = 8, **options: Unpack[ConnectOptions]
    ) -> None:
        if size_max < 1:
            raise configuration_error("size_max must be at least 1")
        self._settings = resolve(url, options)
        self._places = Places(size_max)
        self._lock = threading.Lock()
        self._idle: deque[Client] = deque()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections now and the ones that are lent when they come back."""
        with self._lock:
            self._is_closed = True
            clients = list(self._idle)
            self._idle.clear()
        for client in clients:
            client.close()

    @contextmanager
    def acquire(self) -> Iterator[Client]:
        """Borrow a client: `with pool.acquire() as client:`."""
        seconds = self._settings.call_timeout_seconds
        if not self._places.take(seconds):
            assert seconds is not None
            raise Cause.timeout(seconds).not_sent()
        try:
            client = self._take()
            try:
                yield client
            finally:
                self._give_back(client)
        finally:
            self._places.give_back()

    def execute(self, call: Call[T]) -> T:
        """Execute a call on a borrowed connection."""
        with self.acquire() as client:
            return client.execute(call)

    def _run_pipeline(self, pipeline: Pipeline) -> None:
        with self.acquire() as client:
            client._run_pipeline(pipeline)  # noqa: SLF001 - the same family of classes

    def _run_transaction(self, transaction: Transaction) -> None:
        with self.acquire() as client:
            client._run_transaction(transaction)  # noqa: SLF001 - as above

    def _take(self) -> Client:
        with self._lock:
            if self._is_closed:
                raise Cause.io_error("this pool is closed").not_sent()
            # The one that was used last is the one most likely to be alive.
            return self._idle.pop() if self._idle else Client(self._settings)

    def _give_back(self, client: Client) -> None:
        with self._lock:
            # Nobody may inherit the identity that a borrower took on, nor a client that is done.
            is_kept = (
                not self._is_closed and not client.is_closed and client.has_configured_identity
            )
            if is_kept:
                self._idle.append(client)
        if not is_kept:
            client.close()
