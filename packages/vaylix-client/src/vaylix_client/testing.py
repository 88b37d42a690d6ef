"""A toy server, for tests of programs that use this package.

It speaks real VTP2 and keeps its keys in a dictionary. It knows the data commands, logins and
transactions; what it does not know, and what should go wrong, a test sets: `replies` answers a
kind of command with a fixed reply, `faults` makes it misbehave. It is no database: one user, no
quotas, expiry only where it is asked for, and SCAN cursors are plain positions.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Self, cast

from vaylix_client._toy_store import DATA_COMMANDS, ToyStore
from vaylix_protocol import (
    Auth,
    ClientHello,
    Command,
    Connection,
    ConnectionBroken,
    ConnectionClosed,
    ConnectionSettings,
    Discard,
    ErrorCode,
    ErrorReply,
    Event,
    Exec,
    ExecResults,
    InvalidPayload,
    Multi,
    Ok,
    Ping,
    Reply,
    Request,
    Role,
    Value,
    error_reply,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Iterator
    from types import TracebackType

__all__ = ["Fault", "ToyServer", "toy_server_thread"]

_SERVER_ID = bytes(16)


class Fault(Enum):
    """What goes wrong with a request."""

    DROP = "the connection is closed without executing it"
    SWALLOW = "it is executed, then the connection is closed without an answer"
    HALF_ANSWER = "it is executed, then the connection is closed within the answer"
    WRONG_ID = "the answer carries the id of nobody"
    HOLD = "the answer, and all behind it, waits for `release()`"


class ToyServer:
    """A server in the running event loop: `async with ToyServer() as server:`.

    - `replies`: fixed replies by class of command, instead of executing it.
    - `faults`: misbehaviour by class of command.
    - `received`: all requests so far, in order.
    - `connection_count`: connections that have been accepted so far.
    """

    def __init__(
        self,
        *,
        user: str = "vaylix",
        password: str = "vaylix",  # noqa: S107 - the documented default
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.credentials = (user, password)
        self.store = ToyStore()
        self.replies: dict[type[Command], Reply] = {}
        self.faults: dict[type[Command], Fault] = {}
        self.received: list[Command] = []
        self.connection_count = 0
        self.sessions: set[_ToySession] = set()
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._port = 0
        self._departed: asyncio.Future[None] | None = None
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1. The same again after `stop` and `start`."""
        return self._port

    @property
    def url(self) -> str:
        """The URL that connects to it, with credentials."""
        user, password = self.credentials
        return f"vaylix://{user}:{password}@127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen."""
        self._loop = asyncio.get_running_loop()
        self._server = await self._loop.create_server(
            lambda: _ToySession(self), "127.0.0.1", self._port, ssl=self._tls
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close all connections and stop listening. The keys stay."""
        assert self._server is not None, "not started"
        self._server.close()
        self.disconnect()
        await self._server.wait_closed()

    def disconnect(self) -> None:
        """Close all connections, and go on listening."""
        for session in list(self.sessions):
            session.abort()

    def release(self) -> None:
        """Send all answers that were held back, and hold back no more."""
        self.faults = {key: fault for key, fault in self.faults.items() if fault is not Fault.HOLD}
        for session in self.sessions:
            session.release()

    def on_its_loop(self, action: Callable[[], object]) -> None:
        """Call `action` in the server's event loop, from another thread, and wait for it."""

        async def act() -> None:
            action()

        self.wait_for(act())

    def wait_for(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run a coroutine in the server's event loop, from another thread, and wait for it."""
        assert self._loop is not None, "not started"
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def arrival(self, count: int = 1) -> None:
        """Wait until `count` requests have been received in all (AUTH included)."""
        if len(self.received) < count:
            future = asyncio.get_running_loop().create_future()
            self._awaited.append((count, future))
            await future

    async def departure(self) -> None:
        """Wait until no connection is left."""
        while self.sessions:
            self._departed = asyncio.get_running_loop().create_future()
            await self._departed

    def depart(self, session: _ToySession) -> None:
        """Forget a connection. Called by sessions."""
        self.sessions.discard(session)
        if self._departed is not None and not self._departed.done():
            self._departed.set_result(None)

    def note(self, command: Command) -> None:
        """Remember a request. Called by sessions."""
        self.received.append(command)
        for count, future in self._awaited:
            if len(self.received) >= count and not future.done():
                future.set_result(None)


class _ToySession(asyncio.Protocol):
    """One connection of the toy server."""

    def __init__(self, server: ToyServer) -> None:
        self._server = server
        self._connection = Connection(Role.SERVER, ConnectionSettings())
        self._transport: asyncio.Transport | None = None
        self._is_authenticated = False
        self._queue: list[Command] | None = None
        self._held: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an assertion: uvloop's transports do not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._server.connection_count += 1
        self._server.sessions.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's interface
        self._server.depart(self)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`, so that the client's output piles up."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def release(self) -> None:
        """Send what was held back."""
        held, self._held = self._held, []
        if held and self._transport is not None:
            self._transport.write(b"".join(held))

    def data_received(self, data: bytes) -> None:
        self._take(self._connection.receive_data(data))
        while self._connection.has_more:
            self._take(self._connection.receive_data(b""))

    def _take(self, events: list[Event]) -> None:
        assert self._transport is not None
        for event in events:
            if self._transport.is_closing():
                return
            if isinstance(event, ClientHello):
                self._transport.write(self._connection.accept(event, _SERVER_ID))
            elif isinstance(event, Request):
                self._serve(event)
            elif isinstance(event, ConnectionBroken | ConnectionClosed):
                self._transport.close()

    def _serve(self, request: Request) -> None:
        assert self._transport is not None
        command = request.command
        if isinstance(command, InvalidPayload):
            refusal = error_reply(command.error_code)
            self._send(self._connection.send_reply(request.request_id, refusal))
            return
        self._server.note(command)
        fault = self._server.faults.get(type(command))
        if fault is Fault.DROP:
            self._transport.close()
            return
        answer = self._connection.send_reply(
            bytes(16) if fault is Fault.WRONG_ID else request.request_id, self._answer(command)
        )
        if fault is Fault.SWALLOW:
            self._transport.close()
        elif fault is Fault.HALF_ANSWER:
            self._transport.write(answer[: len(answer) // 2])
            self._transport.close()
        elif fault is Fault.HOLD:
            self._held.append(answer)
        else:
            self._send(answer)

    def _send(self, answer: bytes) -> None:
        assert self._transport is not None
        if self._held:
            # Replies keep the order of their requests.
            self._held.append(answer)
        else:
            self._transport.write(answer)

    def _answer(self, command: Command) -> Reply:
        fixed = self._server.replies.get(type(command))
        if fixed is not None:
            return fixed
        if isinstance(command, Auth):
            if (command.username, command.password) != self._server.credentials:
                return error_reply(ErrorCode.SRV_008)
            self._is_authenticated = True
            return Ok()
        if not self._is_authenticated and not isinstance(command, Ping):
            return error_reply(ErrorCode.SRV_007)
        return self._answer_in_transaction(command)

    def _answer_in_transaction(self, command: Command) -> Reply:
        if isinstance(command, Multi):
            if self._queue is not None:
                return error_reply(ErrorCode.SRV_014)
            self._queue = []
            return Ok()
        if isinstance(command, Exec | Discard):
            queue, self._queue = self._queue, None
            if queue is None:
                return error_reply(ErrorCode.SRV_015)
            return self._execute(queue) if isinstance(command, Exec) else Ok()
        if not isinstance(command, DATA_COMMANDS):
            return error_reply(ErrorCode.SRV_016)
        if self._queue is not None:
            self._queue.append(command)
            return Value(b"QUEUED")
        return self._server.store.apply(command)

    def _execute(self, queue: list[Command]) -> Reply:
        before = self._server.store.copy()
        results: list[Reply] = []
        for command in queue:
            reply = self._server.store.apply(command)
            if isinstance(reply, ErrorReply):
                self._server.store = before
                return reply
            results.append(reply)
        return ExecResults(tuple(results))


@contextmanager
def toy_server_thread(server: ToyServer | None = None) -> Iterator[ToyServer]:
    """Run a toy server in a thread of its own, for blocking programs.

    While it runs, change only `replies`, `faults` and `credentials`, between requests; use
    `on_its_loop` for anything else.
    """
    toy = ToyServer() if server is None else server
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="toy-server", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(toy.start(), loop).result()
        try:
            yield toy
        finally:
            asyncio.run_coroutine_threadsafe(toy.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
