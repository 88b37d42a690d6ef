"""A server inside of a test, and a client that speaks the wire and hides nothing.

    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert await client.ask(Get(b"missing")) == NotFound()

For authors of plugins as well as for the tests of this package.
"""

from __future__ import annotations

import asyncio
import io
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vaylix_protocol import (
    NO_METADATA,
    Auth,
    Command,
    Connection,
    ConnectionSettings,
    Metadata,
    Ok,
    Reply,
    Response,
    Role,
    ServerHello,
)
from vaylix_server.app import Server, compose
from vaylix_server.builtin.transport_memory import MemoryListener
from vaylix_server.eventlog import EventLog
from vaylix_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

__all__ = ["MemoryServer", "WireClient", "serve_in_memory"]


class WireClient(asyncio.Protocol):
    """One connection. Requests are numbered from 1; every event of the server is kept."""

    def __init__(self, settings: ConnectionSettings | None = None) -> None:
        self.connection = Connection(Role.CLIENT, settings or ConnectionSettings())
        self.transport: asyncio.Transport | None = None
        self.hello: ServerHello | None = None
        self.closed = asyncio.Event()
        self.received_bytes = 0
        self._sent = 0
        self._replies: deque[Reply] = deque()
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; the test says when the hello goes out."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect what the server says."""
        self.received_bytes += len(data)
        events = self.connection.receive_data(data)
        while self.connection.has_more:
            events += self.connection.receive_data(b"")
        for event in events:
            if isinstance(event, Response):
                self._replies.append(event.reply)
            elif isinstance(event, ServerHello):
                self.hello = event
            elif not self.connection.is_rejected:
                raise AssertionError(f"unexpected {event}")  # It is the server's fault.
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake whoever waits for something that will not come."""
        del exc
        self.closed.set()
        self._news.set()

    def send_bytes(self, data: bytes) -> None:
        """Send anything at all."""
        assert self.transport is not None
        self.transport.write(data)

    async def say_hello(self) -> ServerHello:
        """Negotiate."""
        self.send_bytes(self.connection.hello())
        while self.hello is None:
            await self._wait()
        return self.hello

    def send(self, command: Command, metadata: Metadata = NO_METADATA) -> None:
        """Send one request and do not wait."""
        self._sent += 1
        request_id = self._sent.to_bytes(16, "big")
        self.send_bytes(self.connection.send_request(request_id, command, metadata))

    async def receive(self) -> Reply:
        """Return the next reply; raises ConnectionError when the server has closed instead."""
        while not self._replies:
            await self._wait()
        return self._replies.popleft()

    async def ask(self, command: Command, metadata: Metadata = NO_METADATA) -> Reply:
        """Send one request and return its reply."""
        self.send(command, metadata)
        return await self.receive()

    async def ask_all(self, commands: Sequence[Command]) -> list[Reply]:
        """Send all requests at once and return all replies."""
        for command in commands:
            self.send(command)
        return [await self.receive() for _ in commands]

    def close(self) -> None:
        """Hang up."""
        if self.transport is not None:
            self.transport.close()

    async def _wait(self) -> None:
        if self.closed.is_set():
            raise ConnectionError("the server has closed the connection")
        self._news.clear()
        await self._news.wait()


@dataclass(slots=True)
class MemoryServer:
    """A running server whose clients are in the same process."""

    server: Server
    settings: Settings
    output: io.StringIO

    def connect(self, settings: ConnectionSettings | None = None) -> WireClient:
        """Connect a client that has not said anything yet."""
        listener = self.server.listener
        assert isinstance(listener, MemoryListener)
        client = WireClient(settings)
        listener.connect(lambda: client)
        return client

    async def greet(self, settings: ConnectionSettings | None = None) -> WireClient:
        """Connect a client and negotiate."""
        client = self.connect(settings)
        await client.say_hello()
        return client

    async def login(self, user: str | None = None, password: str | None = None) -> WireClient:
        """Connect a client, negotiate, and authenticate, as the administrator by default."""
        client = await self.greet()
        reply = await client.ask(
            Auth(user or self.settings.user, password or self.settings.password)
        )
        assert reply == Ok(), reply
        return client


@asynccontextmanager
async def serve_in_memory(
    directory: Path,
    settings: Settings | None = None,
    *,
    extra_plugins: Sequence[object] = (),
) -> AsyncIterator[MemoryServer]:
    """Run a server with its data in `directory / "data"`; its log lines go to `output`."""
    settings = replace(settings or Settings(), transport="memory", data_dir=directory / "data")
    output = io.StringIO()
    server = compose(settings, extra_plugins=extra_plugins, log=EventLog(output))
    async with server:
        yield MemoryServer(server, settings, output)
