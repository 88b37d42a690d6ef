"""A client that does not read, half-sends or floods costs bounded memory and slows nobody else."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import ConnectionSettings, Ok, Value
from vaylix_server import IS_COMPILED
from vaylix_server import session as session_module
from vaylix_server import write_path as write_path_module
from vaylix_server.fast_paths import OUT_BYTES_MAX
from vaylix_server.holds import Hold
from vaylix_server.passwords import verify_password
from vaylix_server.session import Session
from vaylix_server.settings import Settings
from vaylix_server.testing import MemoryServer, WireClient, serve_in_memory
from vaylix_server.weights import SESSION_WEIGHT_MAX

# The modules as they are written are the reference; there it runs.
replaces_methods = pytest.mark.skipif(
    IS_COMPILED, reason="it replaces methods, and those of compiled classes cannot be replaced"
)


def sessions(server: MemoryServer) -> list[Session]:
    members = server.server._registry._members
    return [member for member in members if isinstance(member, Session)]


def session_of(server: MemoryServer) -> Session:
    """Return the newest session."""
    return max(sessions(server), key=lambda session: session.number)


async def turns(count: int) -> None:
    """Let the loop turn a few times, so that everything that is ready happens."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_client_that_never_reads_stops_being_served_and_others_go_on(
    tmp_path: Path,
) -> None:
    async with serve_in_memory(tmp_path, Settings(disable_compression=True)) as server:
        client = await server.login()
        await client.ask(vtp.Set(b"big", b"v" * 200_000))
        session = session_of(server)
        assert client.transport is not None
        client.transport.pause_reading()
        for _ in range(2000):
            client.send(vtp.Get(b"big"))
        await turns(50)
        assert session._holds & Hold.OUTPUT
        assert session._transport is not None
        waiting = session._transport.get_write_buffer_size()
        # One turn of replies beyond the mark at which the transport complains.
        assert waiting < OUT_BYTES_MAX + 2 * 200_100 + 64 * 1024
        other = await server.login()
        assert await other.ask(vtp.Ping()) == Value(b"PONG")
        client.transport.resume_reading()
        for _ in range(2000):
            assert await client.receive() == Value(b"v" * 200_000)


async def test_ten_thousand_pings_in_one_write_are_answered_in_order(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        pings = [vtp.Ping(b"%d" % number) for number in range(10_000)]
        assert await client.ask_all(pings) == [Value(b"%d" % number) for number in range(10_000)]


async def test_writes_and_reads_of_one_connection_keep_their_order(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        commands: list[vtp.Command] = []
        expected: list[vtp.Reply] = []
        for number in range(500):
            value = b"%d" % number
            commands += [vtp.Set(b"k", value), vtp.Get(b"k"), vtp.Ping(value), vtp.Incr(b"n")]
            expected += [Ok(), Value(value), Value(value), vtp.Integer(number + 1)]
        assert await client.ask_all(commands) == expected
        metrics = await client.ask(vtp.Metrics())
        assert isinstance(metrics, vtp.Entries)
        behind = dict(metrics.pairs)[b"vaylix.server.read.fastpath.fallback.count"]
        assert int(behind) > 0, "some reads must have stood behind a write"


@replaces_methods
async def test_unanswered_writes_of_a_session_are_bounded(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        session = session_of(server)
        heaviest = 0
        charge = session._charge

        def watched(weight: int) -> None:
            nonlocal heaviest
            charge(weight)
            heaviest = max(heaviest, session._in_flight_weight)

        session._charge = watched  # type: ignore[method-assign]
        replies = await client.ask_all([vtp.Set(b"k", b"v")] * 5000)
        assert replies == [Ok()] * 5000
        assert heaviest == SESSION_WEIGHT_MAX
        assert session._in_flight_weight == 0


@replaces_methods
async def test_when_the_write_path_is_full_sessions_wait_and_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_in_memory(tmp_path) as server:
        write_path = server.server.services.write_path
        clients = [await server.login() for _ in range(10)]
        held = 0
        hold = Session._hold

        def watched(session: Session, reason: Hold) -> None:
            nonlocal held
            held += reason is Hold.ROOM
            hold(session, reason)

        monkeypatch.setattr(write_path_module, "GATHERED_COMMANDS_MAX", 100)
        monkeypatch.setattr(Session, "_hold", watched)
        for client in clients:
            for _ in range(300):
                client.send(vtp.Incr(b"n"))
        results = [await client.receive() for client in clients for _ in range(300)]
        assert sorted(r.value for r in results if isinstance(r, vtp.Integer)) == list(
            range(1, 3001)
        )
        assert held > 0
        assert not write_path.is_full


async def test_a_full_server_turns_newcomers_away_and_stays_responsive(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, Settings(max_connections=2)) as server:
        first, second = await server.login(), await server.login()
        third = server.connect()
        third.send_bytes(third.connection.hello())
        await third.closed.wait()
        assert third.hello is not None
        assert third.hello.error_code == "SRV-003"
        assert await first.ask(vtp.Ping()) == Value(b"PONG")
        second.close()
        await second.closed.wait()
        await turns(3)
        fourth = await server.login()
        assert await fourth.ask(vtp.Ping()) == Value(b"PONG")


async def test_silent_connections_take_no_slot_and_their_number_is_bounded(
    tmp_path: Path,
) -> None:
    async with serve_in_memory(tmp_path, Settings(max_connections=2)) as server:
        silent: list[WireClient] = [server.connect() for _ in range(100)]
        await turns(5)
        assert sum(client.closed.is_set() for client in silent) == 100 - (2 + 64)
        for client in silent:
            client.close()
        await turns(5)
        assert await (await server.login()).ask(vtp.Ping()) == Value(b"PONG")


async def test_a_client_that_hangs_up_after_asking_still_gets_its_writes_done(
    tmp_path: Path,
) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        client.send(vtp.Set(b"k", b"v"))
        await turns(1)
        assert client.transport is not None
        client.transport.write_eof()
        assert await client.receive() == Ok()
        await client.closed.wait()
        assert await (await server.login()).ask(vtp.Get(b"k")) == Value(b"v")


async def test_a_client_that_does_not_read_is_idle(tmp_path: Path) -> None:
    settings = Settings(disable_compression=True, idle_timeout_seconds=1)
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.login()
        await client.ask(vtp.Set(b"big", b"v" * 200_000))
        assert client.transport is not None
        client.transport.pause_reading()
        for _ in range(100):
            client.send(vtp.Get(b"big"))
        await client.closed.wait()


async def test_a_session_leaves_no_cycle_behind(tmp_path: Path) -> None:
    """Full collections are rare: a cycle would keep what the session has buffered."""

    def living() -> int:
        return sum(type(known) is Session for known in gc.get_objects())

    async with serve_in_memory(tmp_path, Settings(idle_timeout_seconds=60)) as server:
        gc.collect()
        gc.disable()
        try:
            for leaves in ("at once", "greeted", "logged in", "asked", "half", "garbage"):
                client = server.connect() if leaves == "at once" else await server.login()
                if leaves == "asked":
                    await client.ask_all([vtp.Set(b"k", b"v"), vtp.Get(b"k"), vtp.Incr(b"n")])
                    await client.ask_all([vtp.Multi(), vtp.Get(b"k"), vtp.Exec(), vtp.Save()])
                elif leaves == "half":
                    client.send_bytes(request_bytes(client, 7, vtp.Set(b"k", b"v"))[:-1])
                elif leaves == "garbage":
                    client.send_bytes(b"garbage that is long enough")
                    await client.closed.wait()
                else:
                    client.close()
                    await client.closed.wait()
                client.close()
                del client
            # The write path knows who was served last, and no more than one.
            last = await server.login()
            await last.ask(vtp.Get(b"k"))
            await turns(5)
            assert living() == 1
        finally:
            gc.enable()


async def test_a_closing_connection_does_not_wait_for_ever_for_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LINGER_SECONDS", 0.1)
    async with serve_in_memory(tmp_path, Settings(disable_compression=True)) as server:
        client = await server.login()
        # Less than what makes the transport complain, so that the session goes on to the garbage.
        await client.ask(vtp.Set(b"big", b"v" * 50_000))
        assert client.transport is not None
        client.transport.pause_reading()
        client.send(vtp.Get(b"big"))
        client.send_bytes(b"garbage that is long enough")
        await client.closed.wait()


async def test_what_follows_a_value_that_compresses_well_is_not_forgotten(tmp_path: Path) -> None:
    """One call of the connection expands 8 MiB at most; the session must ask for the rest."""
    async with serve_in_memory(
        tmp_path, Settings(max_value_bytes=10 << 20, max_request_payload_bytes=12 << 20)
    ) as server:
        client = await server.login()
        request = client.connection.send_request
        client.send_bytes(
            request(bytes(16), vtp.Set(b"k", bytes((8 << 20) - 30)))
            + request(b"2" * 16, vtp.Ping())
        )
        async with asyncio.timeout(5):
            assert await client.receive() == Ok()
            assert await client.receive() == Value(b"PONG")


def request_bytes(client: WireClient, number: int, command: vtp.Command) -> bytes:
    return client.connection.send_request(number.to_bytes(16, "big"), command)


async def test_what_is_half_sent_without_a_login_is_bounded_for_all_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaylix_server.registry.WAITING_BYTES_MAX", 1_000_000)
    large = vtp.Set(b"k", random.Random(1).randbytes(500_000))
    settings = Settings(disable_compression=True, max_value_bytes=500_000)
    async with serve_in_memory(tmp_path, settings) as server:
        user = await server.login()
        # What users send is theirs to send, and is not counted.
        whole = request_bytes(user, 1, large)
        user.send_bytes(whole[:-1])
        clients = [await server.greet() for _ in range(3)]
        for client, size in zip(clients, (400_000, 480_000, 90_000), strict=True):
            client.send_bytes(whole[:size])
        await turns(20)
        assert len(sessions(server)) == 4
        clients[2].send_bytes(bytes(50_000))
        await clients[1].closed.wait()
        assert not clients[0].closed.is_set()
        assert not clients[2].closed.is_set()
        assert "too much waited without a login" in server.output.getvalue()
        # Others come and go as before, and what the user had begun is finished.
        assert await (await server.login()).ask(vtp.Ping()) == Value(b"PONG")
        user.send_bytes(whole[-1:])
        assert await user.receive() == Ok()
        for client in (clients[0], clients[2]):
            client.close()
        await turns(20)
        assert server.server._registry._waiting_bytes == 0


async def test_a_request_behind_a_login_counts_until_that_succeeds(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, Settings(disable_compression=True)) as server:
        client = await server.greet()
        login = request_bytes(client, 1, vtp.Auth("vaylix", "vaylix"))
        whole = request_bytes(client, 2, vtp.Set(b"k", bytes(100_000)))
        client.send_bytes(login + whole[:-1])
        assert await client.receive() == Ok()
        assert server.server._registry._waiting_bytes == 0
        client.send_bytes(whole[-1:])
        assert await client.receive() == Ok()


@asynccontextmanager
async def slow_logins(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[threading.Event]:
    """Let no check of a password end before the event is set, which is set in the end."""
    go_on = threading.Event()

    def verify(password: str, phc: str) -> bool:
        go_on.wait()
        return verify_password(password, phc)

    monkeypatch.setattr("vaylix_server.authenticator.verify_password", verify)
    try:
        yield go_on
    finally:
        go_on.set()


BIG_VALUES = Settings(max_value_bytes=8 << 20, max_request_payload_bytes=8 << 20)


async def test_what_waits_behind_a_login_is_not_expanded_and_answered_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_in_memory(tmp_path, BIG_VALUES) as server, slow_logins(monkeypatch) as go_on:
        clients = [await server.greet() for _ in range(3)]
        pipeline: list[vtp.Command] = [
            vtp.Auth("vaylix", "vaylix"),
            *(vtp.Set(b"k", bytes((8 << 20) - 100)) for _ in range(2)),
            vtp.Set(b"k", b"v"),
            vtp.Get(b"k"),
            vtp.Ping(),
        ]
        streams = [
            [request_bytes(client, n, command) for n, command in enumerate(pipeline)]
            for client in clients
        ]
        tracemalloc.start()
        try:
            for client, stream in zip(clients, streams, strict=True):
                client.send_bytes(b"".join(stream))
            await turns(20)
            held_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        waiting = sum(len(frame) for stream in streams for frame in stream[1:])
        assert server.server._registry._waiting_bytes == waiting
        assert held_bytes < 20 * waiting < 1 << 20
        go_on.set()
        for client in clients:
            replies = [await client.receive() for _ in pipeline]
            assert replies == [Ok()] * 4 + [Value(b"v"), Value(b"PONG")]
        assert server.server._registry._waiting_bytes == 0


@pytest.mark.parametrize("password", ["vaylix", "wrong"])
async def test_what_waits_behind_a_login_is_bounded_for_all_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setattr("vaylix_server.registry.WAITING_BYTES_MAX", 1_000_000)
    async with serve_in_memory(tmp_path) as server, slow_logins(monkeypatch) as go_on:
        clients = [await server.greet() for _ in range(3)]
        for client, size in zip(clients, (300_000, 500_000, 250_000), strict=True):
            client.send_bytes(
                request_bytes(client, 1, vtp.Auth("vaylix", password))
                + request_bytes(client, 2, vtp.Set(b"k", b"v"))
                + request_bytes(client, 3, vtp.Auth("vaylix", password))
                # Nothing of these is half sent.
                + b"".join(
                    request_bytes(client, n, vtp.Set(b"k", random.Random(n).randbytes(50_000)))
                    for n in range(4, 4 + size // 50_000)
                )
            )
        await clients[1].closed.wait()
        go_on.set()
        for client, size in ((clients[0], 300_000), (clients[2], 250_000)):
            replies = [await client.receive() for _ in range(3 + size // 50_000)]
            if password == "vaylix":
                assert replies == [Ok()] * len(replies)
            else:
                assert all(isinstance(reply, vtp.ErrorReply) for reply in replies)
        assert server.output.getvalue().count("too much waited without a login") == 1
        assert server.server._registry._waiting_bytes == 0


async def test_answers_that_are_not_read_count_without_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may compress what it sends and have its answers at full length."""
    monkeypatch.setattr("vaylix_server.registry.WAITING_BYTES_MAX", 1_000_000)
    plain = ConnectionSettings(compression=vtp.Compression.NONE)
    async with serve_in_memory(tmp_path) as server:
        compressing, reader = await server.greet(), await server.greet(plain)
        clients = [await server.greet(plain) for _ in range(3)]
        for client, size in zip(clients, (300_000, 400_000, 350_000), strict=True):
            assert client.transport is not None
            client.transport.pause_reading()
            ping = request_bytes(compressing, size, vtp.Ping(bytes(size)))
            assert len(ping) < 1_000
            # Of what stands behind the first answer that is not read, nothing is taken out.
            client.send_bytes(ping * 2)
        await clients[1].closed.wait()
        registry = server.server._registry
        assert 650_000 < registry._waiting_bytes < 652_000
        # Whoever reads its answers is none of them.
        assert await reader.ask(vtp.Ping(bytes(300_000))) == Value(bytes(300_000))
        for client in (clients[0], clients[2]):
            client.close()
        await turns(20)
        assert registry._waiting_bytes == 0


async def test_what_waits_behind_a_login_is_answered_before_a_stop_and_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_in_memory(tmp_path) as server, slow_logins(monkeypatch) as go_on:
        clients = [await server.greet() for _ in range(2)]
        for client in clients:
            client.send_bytes(
                request_bytes(client, 1, vtp.Auth("vaylix", "vaylix"))
                + request_bytes(client, 2, vtp.Set(b"k", b"v"))
                + request_bytes(client, 3, vtp.Get(b"k"))
                + b"half a frame"
            )
        assert clients[0].transport is not None
        clients[0].transport.write_eof()
        await turns(10)
        server.server._registry.begin_stop()
        await turns(10)
        go_on.set()
        for client in clients:
            assert [await client.receive() for _ in range(3)] == [Ok(), Ok(), Value(b"v")]
            await client.closed.wait()


def send_in_one_write(client: WireClient, commands: list[vtp.Command]) -> None:
    requests = [
        client.connection.send_request(number.to_bytes(16, "big"), command)
        for number, command in enumerate(commands, 1000)
    ]
    client.send_bytes(b"".join(requests))


@pytest.mark.parametrize("first", [[], [vtp.Set(b"k", b"v")]], ids=["reads", "behind a write"])
async def test_between_the_commands_of_one_client_others_have_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: list[vtp.Command]
) -> None:
    """A pipeline of 3000 SCANs held everybody else up for twelve seconds."""
    async with serve_in_memory(tmp_path) as server:
        greedy, other = await server.login(), await server.login()
        metrics = server.server.services.metrics
        before = metrics.requests
        monkeypatch.setattr(session_module, "TURN_SECONDS", 0.0)
        scans: list[vtp.Command] = [vtp.Scan(0, None, count) for count in range(100)]
        send_in_one_write(greedy, [*first, *scans])
        while metrics.requests == before:
            await asyncio.sleep(0)
        assert await other.ask(vtp.Ping()) == Value(b"PONG")
        assert metrics.requests - before < 50
        for _ in (*first, *scans):
            await greedy.receive()


async def test_what_waits_for_its_turn_is_answered_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        monkeypatch.setattr(session_module, "TURN_SECONDS", 0.0)
        pings: list[vtp.Command] = [vtp.Ping(b"%d" % number) for number in range(20)]
        send_in_one_write(client, pings)
        while not session_of(server)._holds & Hold.TURN:
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await server.server.stop()
        for number in range(20):
            assert await client.receive() == Value(b"%d" % number)
