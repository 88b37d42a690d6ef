"""A start takes its address before it touches a file; one that fails leaves nothing open."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from vaylix_protocol import Connection, ConnectionSettings, Role, ServerHello
from vaylix_server.app import Server, compose
from vaylix_server.builtin.transport_tcp import TcpListener, vaylix_transports
from vaylix_server.errors import StartupError
from vaylix_server.eventlog import EventLog
from vaylix_server.hookspecs import hookimpl
from vaylix_server.interfaces import (
    Listener,
    SessionFactory,
    StorageBackend,
    StorageRequest,
    Transport,
)
from vaylix_server.settings import Settings
from vaylix_storage.backend import Storage, memory_storage

HOST = "127.0.0.1"
PATIENCE_SECONDS = 30.0

NewLoop = Callable[[], asyncio.AbstractEventLoop]
LOOPS = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


@contextlib.contextmanager
def bound_socket(port: int = 0) -> Iterator[socket.socket]:
    """Bind without listening; whoever asks for reuse, as servers do, can bind the port as well."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
        yield bound


@pytest.fixture
def port() -> Iterator[int]:
    """Return a port that the kernel gives to nobody who does not name it."""
    with bound_socket() as holder:
        yield holder.getsockname()[1]


def quiet(settings: Settings, *plugins: object) -> Server:
    return compose(settings, extra_plugins=plugins, log=EventLog(io.StringIO()))


class Recovering:
    """A plugin: storage `slow`, which calls in the middle of its recovery."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    @hookimpl
    def vaylix_storage_backends(self) -> list[StorageBackend]:
        return [StorageBackend(name="slow", open=self._open)]

    def _open(self, request: StorageRequest) -> Storage:
        del request
        self._call()
        return memory_storage()


@LOOPS
def test_a_second_server_is_refused_while_the_first_recovers(
    tmp_path: Path, port: int, new_loop: NewLoop
) -> None:
    second_dir = tmp_path / "second"
    refusals: list[StartupError] = []

    async def start_second() -> None:
        async with quiet(Settings(port=port, data_dir=second_dir)):
            raise AssertionError("it serves on a port that is taken")

    def recover() -> None:
        with pytest.raises(StartupError) as caught:
            pool.submit(asyncio.run, start_second()).result(PATIENCE_SECONDS)
        refusals.append(caught.value)

    async def start_first() -> None:
        async with quiet(Settings(port=port, storage_backend="slow"), Recovering(recover)):
            pass

    with ThreadPoolExecutor(1) as pool, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(start_first())
    assert [error.code for error in refusals] == ["SRV-001"]
    assert f"free port {port}" in refusals[0].remedy
    assert not second_dir.exists()


@LOOPS
def test_a_client_that_comes_during_recovery_is_served_after_it(
    port: int, new_loop: NewLoop
) -> None:
    protocol = Connection(Role.CLIENT, ConnectionSettings())
    early: list[socket.socket] = []

    def recover() -> None:
        early.append(socket.create_connection((HOST, port), PATIENCE_SECONDS))
        early[0].sendall(protocol.hello())

    async def serve() -> None:
        async with quiet(Settings(port=port, storage_backend="slow"), Recovering(recover)):
            with early[0] as client:
                reply = await asyncio.to_thread(client.recv, 65_536)
        (hello,) = protocol.receive_data(reply)
        assert isinstance(hello, ServerHello)
        assert hello.error_code is None

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve())


class Stuck:
    """A plugin: a transport that never gets to let anybody in, on storage that notes its end."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.address = "nowhere"

    @hookimpl
    def vaylix_transports(self) -> list[Transport]:
        return [Transport(name="stuck", listen=self._listen)]

    @hookimpl
    def vaylix_storage_backends(self) -> list[StorageBackend]:
        return [StorageBackend(name="noting", open=self._open)]

    async def _listen(self, host: str, port: int, session_factory: SessionFactory) -> Listener:
        del host, port, session_factory
        return self

    def _open(self, request: StorageRequest) -> Storage:
        del request
        return replace(memory_storage(), abandon=lambda: self.closed.append("storage"))

    async def start_accepting(self) -> None:
        raise OSError(errno.EADDRINUSE, "taken after all")

    def stop_accepting(self) -> None:
        self.closed.append("door")

    async def wait_closed(self) -> None:
        self.closed.append("waited")


async def test_a_door_that_does_not_open_is_a_refusal_and_everything_is_closed() -> None:
    stuck = Stuck()
    server = quiet(Settings(transport="stuck", port=7, storage_backend="noting"), stuck)
    with pytest.raises(StartupError, match=r"^\[SRV-001\] .*taken after all; free port 7 or"):
        await server.start()
    assert stuck.closed == ["storage", "door", "waited"]
    # It has not started, so there is nothing to stop.
    await server.stop()
    assert len(stuck.closed) == 3


async def test_the_directory_of_a_door_that_does_not_open_can_be_used_at_once(
    tmp_path: Path,
) -> None:
    with pytest.raises(StartupError, match="SRV-001"):
        await quiet(Settings(transport="stuck", data_dir=tmp_path), Stuck()).start()
    async with quiet(Settings(transport="memory", data_dir=tmp_path)):
        pass


async def test_a_recovery_that_fails_closes_the_door(port: int) -> None:
    def fail() -> None:
        raise StartupError("ENG-006", "WAL Corruption", "broken", "repair it")

    with pytest.raises(StartupError, match="ENG-006"):
        await quiet(Settings(port=port, storage_backend="slow"), Recovering(fail)).start()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, port)


def tcp_transport() -> Transport:
    (transport,) = vaylix_transports()
    return transport


@LOOPS
def test_a_loop_that_does_not_listen_is_an_error(port: int, new_loop: NewLoop) -> None:
    async def open_door() -> None:
        listener = await tcp_transport().listen(HOST, port, asyncio.Protocol)
        assert isinstance(listener, TcpListener)
        (bound,) = listener._server.sockets
        with socket.fromfd(bound.fileno(), bound.family, bound.type) as twin:
            twin.shutdown(socket.SHUT_RDWR)
        with bound_socket(port) as rival:
            rival.listen()
            with pytest.raises(OSError, match=r"does not listen|in use"):
                await listener.start_accepting()
        listener.stop_accepting()
        await listener.wait_closed()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(open_door())


@LOOPS
def test_of_two_that_bind_together_the_slower_is_refused_and_lets_go(
    port: int, new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_door(rival: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        create_server, created = loop.create_server, list[asyncio.Server]()

        async def bind_and_lose(
            factory: SessionFactory, host: str, port: int, *, backlog: int, start_serving: bool
        ) -> asyncio.Server:
            server = await create_server(
                factory, host, port, backlog=backlog, start_serving=start_serving
            )
            created.append(server)
            rival.listen()
            return server

        monkeypatch.setattr(loop, "create_server", bind_and_lose)
        with pytest.raises(OSError, match="in use") as caught:
            await tcp_transport().listen(HOST, port, asyncio.Protocol)
        assert caught.value.errno == errno.EADDRINUSE
        assert not created[0].sockets

    with bound_socket(port) as rival, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(open_door(rival))


async def hints(settings: Settings) -> tuple[str, list[str]]:
    """Start a server; return its address, and the lines that tell how to talk to it."""
    output = io.StringIO()
    async with compose(settings, log=EventLog(output)) as server:
        address = server.address
    return address, [line for line in output.getvalue().splitlines() if "talk to it" in line]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("bind", "host"),
    [
        (HOST, HOST),
        pytest.param(
            "[::1]",
            "::1",
            marks=pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6"),
        ),
    ],
)
async def test_the_log_tells_how_to_talk_to_the_server(bind: str, host: str) -> None:
    address, told = await hints(Settings(bind=bind, port=0, storage_backend="memory"))
    port = address.removeprefix(f"{bind}:")
    assert told == [
        f"[INFO] [server.startup] talk to it: vaylix-client --host {host} --port {port}"
    ]


async def test_no_client_is_named_where_none_gets_in() -> None:
    _, told = await hints(Settings(transport="memory", storage_backend="memory"))
    assert told == []
