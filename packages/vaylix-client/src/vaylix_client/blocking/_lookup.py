"""Look up the addresses of a host, and wait for no longer than one is told to.

The system's resolver takes as long as it likes: a name server that does not answer holds it up for
half a minute.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Address", "look_up"]

# Family, kind and protocol for `socket.socket`, a name that nobody asks for, and where to connect.
Address: TypeAlias = tuple[
    socket.AddressFamily,
    socket.SocketKind,
    int,
    str,
    tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes],
]


def look_up(host: str, port: int, seconds: float) -> Sequence[Address]:
    """Return the addresses of `host`, at once if it is one itself.

    A lookup that takes longer than `seconds` ends in its own time, in a daemon thread. Raise
    `TimeoutError` then, and else the errors of `socket.getaddrinfo`.
    """
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return _look_up_name(host, port, seconds)


def _look_up_name(host: str, port: int, seconds: float) -> Sequence[Address]:
    found: Future[Sequence[Address]] = Future()

    def ask() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001 - for the caller, whatever it is
            found.set_exception(error)

    try:
        threading.Thread(target=ask, name="vaylix-client-lookup", daemon=True).start()
    except RuntimeError as error:
        # The system has no thread left.
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
    return found.result(seconds)
