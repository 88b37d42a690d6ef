"""Transport `tcp`: plain TCP on the running event loop."""

from __future__ import annotations

import asyncio

from vaylix_server.hookspecs import hookimpl
from vaylix_server.interfaces import Listener, SessionFactory, Transport

__all__ = ["vaylix_transports"]

# How many connections the kernel may finish before the loop picks them up.
_BACKLOG = 512


class _TcpListener:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        host, port = server.sockets[0].getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start_accepting(self) -> None:
        await self._server.start_serving()

    def stop_accepting(self) -> None:
        self._server.close()

    async def wait_closed(self) -> None:
        await self._server.wait_closed()


async def _listen(host: str, port: int, session_factory: SessionFactory) -> Listener:
    loop = asyncio.get_running_loop()
    # Brackets are how the flag is written for IPv6; the socket calls want none.
    bare_host = host.removeprefix("[").removesuffix("]")
    server = await loop.create_server(
        session_factory, bare_host, port, backlog=_BACKLOG, start_serving=False
    )
    return _TcpListener(server)


@hookimpl
def vaylix_transports() -> list[Transport]:
    """Register the transport."""
    return [Transport(name="tcp", listen=_listen)]
