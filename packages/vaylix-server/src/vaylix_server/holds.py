"""Why a session may stand still, and what it does with its socket."""

from __future__ import annotations

import enum
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

__all__ = ["Hold", "peer_of", "tune"]

# The stock event loop of Python asks the kernel for this much, and is slow with large buffers.
STOCK_READ_BYTES_MAX: Final = 32 * 1024


class Hold(enum.Flag):
    """Why a session does not work on requests."""

    NOTHING = 0
    # The client does not take its replies fast enough; the transport says so.
    OUTPUT = enum.auto()
    # What it has asked for and not been answered weighs more than `SESSION_WEIGHT_MAX`.
    IN_FLIGHT = enum.auto()
    # All sessions together have more under way than the write path takes.
    ROOM = enum.auto()
    # It has kept the loop to itself for long enough: others have their turn first.
    TURN = enum.auto()
    # AUTH decides what may come next, and a snapshot, backup or restore must not be overtaken by
    # what stands behind it.
    BARRIER = enum.auto()
    # It is being closed, or has been lost.
    ENDING = enum.auto()


def peer_of(transport: asyncio.Transport) -> tuple[str, str]:
    """Return the address of the other end, without and with its port."""
    peername = transport.get_extra_info("peername")
    if not isinstance(peername, tuple):
        return "unknown", "unknown"
    return str(peername[0]), f"{peername[0]}:{peername[1]}"


def tune(transport: asyncio.Transport) -> None:
    """Send small frames at once, and read in pieces that the stock event loop is quick with."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A peer that vanished without a word would keep its place for ever.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(transport, "max_size"):
        transport.max_size = STOCK_READ_BYTES_MAX
