"""Servers inside of tests: in the same process, or as a real process that can be killed."""

from vaylix_server.testing._memory import MemoryServer, WireClient, serve_in_memory
from vaylix_server.testing._process import ServerProcess, SocketClient
from vaylix_server.testing._witness import Witness

__all__ = [
    "MemoryServer",
    "ServerProcess",
    "SocketClient",
    "WireClient",
    "Witness",
    "serve_in_memory",
]
