"""Transport `tcp`: plain TCP on the running event loop."""

from __future__ import annotations

import asyncio
import socket

from vaylix_server.hookspecs import hookimpl
from vaylix_server.interfaces import Listener, SessionFactory, Transport

__all__ = ["TcpListener", "vaylix_transports"]

# How many connections the kernel may finish before the loop picks them up.
_BACKLOG = 512


class TcpListener:
    """Sockets that are bound, on which the kernel holds connections until the loop takes them."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        host, port = server.sockets[0].getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def listen(self) -> None:
        """Have the kernel hold connections; raises OSError where somebody else listens."""
        for bound in self._server.sockets:
            # What event loops hand out cannot listen, but a copy of it stands for the same socket.
            with socket.fromfd(bound.fileno(), bound.family, bound.type) as twin:
                twin.listen(_BACKLOG)

    async def start_accepting(self) -> None:
        """Let clients in; raises OSError when the loop cannot."""
        await self._server.start_serving()
        # Where a socket cannot listen, uvloop closes it and tells nobody: the socket is None then,
        # or one without a number.
        if not all(map(_is_listening, self._server.sockets)):
            raise OSError(f"the event loop does not listen on {self.address}")

    def stop_accepting(self) -> None:
        """Let nobody in any more, and turn away whoever waits in the kernel."""
        self._server.close()

    async def wait_closed(self) -> None:
        """Return when the sockets are closed."""
        await self._server.wait_closed()


def _is_listening(bound: socket.socket | None) -> bool:
    if bound is None or bound.fileno() < 0:
        return False
    return bool(bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


async def _listen(host: str, port: int, session_factory: SessionFactory) -> Listener:
    """Listen at once, though nobody is let in yet.

    A port that is bound only can be bound by a second server, too, since both allow reuse: else
    no server could start on the port of one that has just ended.
    """
    loop = asyncio.get_running_loop()
    # Brackets are how the flag is written for IPv6; the socket calls want none.
    bare_host = host.removeprefix("[").removesuffix("]")
    server = await loop.create_server(
        session_factory, bare_host, port, backlog=_BACKLOG, start_serving=False
    )
    listener = TcpListener(server)
    try:
        listener.listen()
    except OSError:
        listener.stop_accepting()
        await listener.wait_closed()
        raise
    return listener


@hookimpl
def vaylix_transports() -> list[Transport]:
    """Register the transport."""
    return [Transport(name="tcp", listen=_listen)]
