"""Transport `memory`: clients in the same process and on the same loop, for tests and embedding.

`Server.listener` is a `MemoryListener`; its `connect` gives a client protocol a transport that
behaves like a socket's, flow control included: what one side writes arrives at the other in a
later turn of the loop, and a side that does not read pauses the one that writes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from vaylix_server.hookspecs import hookimpl
from vaylix_server.interfaces import Listener, SessionFactory, Transport

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MemoryListener", "vaylix_transports"]

_HIGH_WATER_BYTES = 64 * 1024


class _MemoryTransport(asyncio.Transport):
    """One end of a pair. What it writes waits in `_outgoing` until the peer takes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("memory", 0)})
        self._loop = loop
        self._protocol = protocol
        self._peer: _MemoryTransport | None = None
        self._outgoing: deque[bytes] = deque()
        self._outgoing_bytes = 0
        self._high_water_bytes = _HIGH_WATER_BYTES
        self._reading = True
        self._protocol_paused = False
        self._eof_sent = False
        self._closing = False

    def pair_with(self, peer: _MemoryTransport) -> None:
        self._peer = peer

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        self._outgoing.append(bytes(data))
        self._outgoing_bytes += len(data)
        if self._outgoing_bytes > self._high_water_bytes and not self._protocol_paused:
            self._protocol_paused = True
            self._protocol.pause_writing()
        self._loop.call_soon(self._deliver)

    def write_eof(self) -> None:
        self._eof_sent = True
        self._loop.call_soon(self._deliver)

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        if self._peer is not None:
            self._loop.call_soon(self._peer._deliver)

    def is_reading(self) -> bool:
        return self._reading

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del low
        self._high_water_bytes = _HIGH_WATER_BYTES if high is None else high

    def get_write_buffer_size(self) -> int:
        return self._outgoing_bytes

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._deliver)

    def abort(self) -> None:
        self._outgoing.clear()
        self._outgoing_bytes = 0
        self._closing = True
        self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Hand everything that waits to the peer, unless it has stopped reading."""
        peer = self._peer
        while self._outgoing and peer is not None and peer._reading and not peer._closing:
            data = self._outgoing.popleft()
            self._outgoing_bytes -= len(data)
            peer._protocol.data_received(data)
        peer_is_gone = peer is None or peer._closing
        if self._protocol_paused and (peer_is_gone or not self._outgoing):
            self._protocol_paused = False
            self._protocol.resume_writing()
        if self._outgoing and not peer_is_gone:
            return
        if self._closing:
            self._disconnect(None)
        elif self._eof_sent and peer is not None and not peer_is_gone:
            self._eof_sent = False
            if not peer._protocol.eof_received():
                peer.close()

    def _disconnect(self, error: Exception | None) -> None:
        peer, self._peer = self._peer, None
        if peer is None:
            return
        self._protocol.connection_lost(error)
        if not peer._closing:
            peer._closing = True
            self._loop.call_soon(peer._disconnect, None)


class MemoryListener:
    """Where in-process clients knock."""

    def __init__(self, session_factory: SessionFactory) -> None:
        self._session_factory = session_factory
        self._accepting = False
        self.address = "memory"

    def connect(self, protocol_factory: Callable[[], asyncio.Protocol]) -> asyncio.Transport:
        """Connect a client protocol; raises ConnectionRefusedError once the door is shut."""
        if not self._accepting:
            raise ConnectionRefusedError("the in-memory listener does not accept any more")
        loop = asyncio.get_running_loop()
        client_protocol, session = protocol_factory(), self._session_factory()
        client = _MemoryTransport(loop, client_protocol)
        server = _MemoryTransport(loop, session)
        client.pair_with(server)
        server.pair_with(client)
        session.connection_made(server)
        client_protocol.connection_made(client)
        return client

    async def start_accepting(self) -> None:
        """Let clients in."""
        self._accepting = True

    def stop_accepting(self) -> None:
        """Let nobody in any more."""
        self._accepting = False

    async def wait_closed(self) -> None:
        """Return at once: there is no socket to wait for."""


async def _listen(host: str, port: int, session_factory: SessionFactory) -> Listener:
    del host, port
    return MemoryListener(session_factory)


@hookimpl
def vaylix_transports() -> list[Transport]:
    """Register the transport."""
    return [Transport(name="memory", listen=_listen)]
