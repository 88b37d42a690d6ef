"""Half a request and no login, many times over, cost a bounded amount of memory and no time."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import vaylix_protocol as vtp
from vaylix_protocol import ConnectionSettings, Role, Value
from vaylix_server.testing import ServerProcess

CLIENTS = 60
FRAME_BYTES = 4 * 1024 * 1024
# What is allowed for all of them, and what their buffers and sockets cost beside it.
GROWTH_BYTES_MAX = (32 + 48) * 1024 * 1024


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * 4096


def test_half_senders_without_a_login_cost_bounded_memory_and_slow_nobody(tmp_path: Path) -> None:
    settings = ConnectionSettings()
    with ServerProcess(tmp_path / "data") as server, server.admin() as user, ExitStack() as stack:
        before = resident_bytes(server.pid)
        longest = 0.0
        for _ in range(CLIENTS):
            client = stack.enter_context(socket.create_connection(server.address))
            connection = vtp.Connection(Role.CLIENT, settings)
            client.sendall(connection.hello())
            connection.receive_data(client.recv(4096))
            request = connection.send_request(bytes(16), vtp.Set(b"k", b"\xff" * 100))
            header = request[:6] + FRAME_BYTES.to_bytes(4, "big") + request[10:]
            # Whoever was turned out meanwhile cannot send any more.
            with suppress(ConnectionError):
                client.sendall(header + bytes(FRAME_BYTES - len(header)))
            started = time.monotonic()
            assert user.ask(vtp.Ping()) == Value(b"PONG")
            longest = max(longest, time.monotonic() - started)
        assert resident_bytes(server.pid) - before < GROWTH_BYTES_MAX
        assert longest < 1.0
