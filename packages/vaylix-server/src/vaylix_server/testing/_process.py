"""A server as a process of its own, and a blocking client that speaks the wire."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Self

from vaylix_protocol import (
    Auth,
    Command,
    Connection,
    ConnectionSettings,
    Ok,
    Reply,
    Response,
    Role,
    ServerHello,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

__all__ = ["ServerProcess", "SocketClient"]

_READ_BYTES = 256 * 1024


class SocketClient:
    """One blocking connection. Raises ConnectionError once the server has closed it."""

    def __init__(self, address: tuple[str, int], *, timeout_seconds: float = 30.0) -> None:
        self._connection = Connection(Role.CLIENT, ConnectionSettings())
        self._socket = socket.create_connection(address, timeout=timeout_seconds)
        self._sent = 0
        self._replies: deque[Reply] = deque()
        self._greeted = False
        self._socket.sendall(self._connection.hello())
        while not self._greeted:
            self._read()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Hang up."""
        del kind, error, traceback
        self.close()

    def login(self, user: str = "vaylix", password: str = "vaylix") -> None:  # noqa: S107
        """Authenticate, by default with the default credentials."""
        reply = self.ask(Auth(user, password))
        assert reply == Ok(), reply

    def send(self, commands: Sequence[Command]) -> None:
        """Send requests in one write and do not wait."""
        frames = []
        for command in commands:
            self._sent += 1
            request_id = self._sent.to_bytes(16, "big")
            frames.append(self._connection.send_request(request_id, command))
        self._socket.sendall(b"".join(frames))

    def send_bytes(self, data: bytes) -> None:
        """Send anything at all."""
        self._socket.sendall(data)

    def receive(self) -> Reply:
        """Return the next reply."""
        while not self._replies:
            self._read()
        return self._replies.popleft()

    def ask(self, command: Command) -> Reply:
        """Send one request and return its reply."""
        self.send((command,))
        return self.receive()

    def ask_all(self, commands: Sequence[Command]) -> list[Reply]:
        """Send all requests at once and return all replies."""
        self.send(commands)
        return [self.receive() for _ in commands]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _read(self) -> None:
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("the server has closed the connection")
        events = self._connection.receive_data(data)
        while self._connection.has_more:
            events += self._connection.receive_data(b"")
        for event in events:
            if isinstance(event, Response):
                self._replies.append(event.reply)
            elif isinstance(event, ServerHello) and event.error_code is None:
                self._greeted = True
            else:
                raise ConnectionError(f"the server turned this client away: {event}")


class ServerProcess:
    """A running `vaylix` process; its lines of output are kept.

    with ServerProcess(directory / "data") as server:
        with server.client() as client:
            ...
    """

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        command = [
            *wrapper,
            sys.executable,
            "-m",
            "vaylix_server",
            f"--data-dir={data_dir}",
            *(() if any(flag.startswith("--port") for flag in flags) else ("--port=0",)),
            *flags,
        ]
        self._process = subprocess.Popen(  # noqa: S603  # Our own interpreter and module.
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.lines: list[str] = []
        self._address: tuple[str, int] | None = None
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._follow_output, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        """Wait until the server listens."""
        self.wait_until_listening()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server if it still runs, with force if an error is on its way."""
        del error, traceback
        if self._process.poll() is None:
            if kind is None:
                self.stop()
            else:
                self.kill()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait_until_listening(self) -> None:
        """Return when clients can connect; raises RuntimeError with stderr when it cannot start."""
        if not self._listening.wait(60):
            self._process.kill()
        if self._address is None:
            _, errors = self.wait()
            raise RuntimeError(f"the server did not start: {errors or self.lines}")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        assert self._address is not None
        return self._address

    def client(self) -> SocketClient:
        """Return a connected client that has not authenticated."""
        return SocketClient(self.address)

    def admin(self) -> SocketClient:
        """Return a client that is authenticated with the default credentials."""
        client = self.client()
        client.login()
        return client

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        self._process.kill()
        self.wait()

    def stop(self) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()[0]

    def signal(self, number: int) -> None:
        """Send a signal and do not wait."""
        self._process.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what was written to standard error."""
        assert self._process.stderr is not None
        errors = self._process.stderr.read()
        code = self._process.wait(60)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.stderr.close()
        return code, errors

    def _follow_output(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            found = re.search(r"listening on (\S+):(\d+)", line)
            if found:
                self._address = (found[1], int(found[2]))
                self._listening.set()
        self._listening.set()
