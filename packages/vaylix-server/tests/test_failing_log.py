"""When the log fails: no acknowledgement, HEALTH says why, reads go on, a restart recovers."""

from __future__ import annotations

import asyncio
import errno
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import ErrorReply, Ok, Value
from vaylix_server import IS_COMPILED
from vaylix_server.builtin.storage_wal import open_wal
from vaylix_server.hookspecs import hookimpl
from vaylix_server.interfaces import AckMode, Progress, StorageBackend, StorageRequest
from vaylix_server.session import Session
from vaylix_server.settings import Settings
from vaylix_server.testing import serve_in_memory
from vaylix_server.weights import SESSION_WEIGHT_MAX, VALUE_WEIGHT
from vaylix_server.write_path import UNANSWERED_BATCHES_MAX
from vaylix_storage import Batch
from vaylix_storage.backend import LogPort, Storage

# The modules as they are written are the reference; there it runs.
replaces_methods = pytest.mark.skipif(
    IS_COMPILED, reason="it replaces methods, and those of compiled classes cannot be replaced"
)


class FailingLog:
    """Wraps a log; fails one call on demand, or holds a sync until told to go on."""

    def __init__(self, log: LogPort) -> None:
        self._log = log
        self.fail: str | None = None
        # How many calls of that kind go well before.
        self.spared = 0
        self.error: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self.failed = False

    @property
    def last_index(self) -> int:
        return self._log.last_index

    @property
    def first_index(self) -> int:
        return self._log.first_index

    @property
    def size_bytes(self) -> int:
        return self._log.size_bytes

    @property
    def segment_count(self) -> int:
        return self._log.segment_count

    @property
    def appends_at_once(self) -> bool:
        return self._log.appends_at_once

    def append(self, batches: Sequence[Batch]) -> None:
        self._check("append", errno.ENOSPC)
        self._log.append(batches)

    def sync(self) -> None:
        assert self.go_on.wait(30)
        self._check("sync", errno.EIO)
        self._log.sync()

    def read(self, first_index: int) -> Iterator[Batch]:
        return self._log.read(first_index)

    def _check(self, call: str, number: int) -> None:
        assert not self.failed, "nothing may be written after a failure"
        if self.error is not None:
            self.failed = True
            raise self.error
        if self.fail == call and self.spared:
            self.spared -= 1
        elif self.fail == call:
            self.failed = True
            raise OSError(number, "as the test wants it")


class FailingBackend:
    """A plugin: the built-in backend with a log that can fail."""

    def __init__(self) -> None:
        self.log: FailingLog | None = None

    def open(self, request: StorageRequest) -> Storage:
        storage = open_wal(request)
        self.log = FailingLog(storage.log)
        return replace(storage, log=self.log)

    @hookimpl
    def vaylix_storage_backends(self) -> list[StorageBackend]:
        return [StorageBackend(name="failing", open=self.open)]


FAILING = Settings(storage_backend="failing")


@pytest.mark.parametrize("call", ["append", "sync"])
async def test_a_failed_write_is_not_acknowledged_and_reads_go_on(
    tmp_path: Path, call: str
) -> None:
    backend = FailingBackend()
    async with serve_in_memory(tmp_path, FAILING, extra_plugins=[backend]) as server:
        client = await server.login()
        assert await client.ask(vtp.Set(b"k", b"before")) == Ok()
        assert backend.log is not None
        backend.log.fail = call
        refusal = await client.ask(vtp.Set(b"k", b"lost"))
        assert isinstance(refusal, ErrorReply)
        assert refusal.code == "ENG-002"
        assert "as the test wants it" in refusal.message
        refusal = await client.ask(vtp.Set(b"k", b"refused"))
        assert isinstance(refusal, ErrorReply)
        assert refusal.code == "SRV-005"
        assert await client.ask(vtp.Get(b"k")) == Value(b"before")
        health = await client.ask(vtp.Health())
        assert isinstance(health, vtp.Entries)
        facts = dict(health.pairs)
        assert facts[b"status"] == b"degraded"
        assert facts[b"ready"] == b"false"
        assert b"as the test wants it" in facts[b"reason"]
        assert "no write will be acknowledged any more" in server.output.getvalue()
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        value = await client.ask(vtp.Get(b"k"))
        # After a failed sync the frame may be there: its outcome was reported as unknown.
        assert value in (
            (Value(b"before"), Value(b"lost")) if call == "sync" else (Value(b"before"),)
        )
        assert await client.ask(vtp.Set(b"k", b"after")) == Ok()


async def test_everything_under_way_is_answered_when_the_log_fails(tmp_path: Path) -> None:
    backend = FailingBackend()
    async with serve_in_memory(tmp_path, FAILING, extra_plugins=[backend]) as server:
        clients = [await server.login() for _ in range(3)]
        assert backend.log is not None
        backend.log.go_on.clear()
        backend.log.fail = "sync"
        for client in clients:
            for _ in range(10):
                client.send(vtp.Incr(b"n"))
                client.send(vtp.Get(b"n"))
            client.send(vtp.Ping())
        backend.log.go_on.set()
        for client in clients:
            replies = [await client.receive() for _ in range(20)]
            codes = [reply.code for reply in replies[0::2] if isinstance(reply, ErrorReply)]
            assert codes == ["ENG-002"] * 10, "one batch took them all"
            assert replies[1::2] == [vtp.NotFound()] * 10
            assert await client.receive() == Value(b"PONG")


@pytest.mark.parametrize(("call", "spared"), [("append", 0), ("sync", 1)])
async def test_all_of_a_failed_batch_get_the_same_error_in_the_order_they_wrote(
    tmp_path: Path, call: str, spared: int
) -> None:
    """Weakness 29 of the published server, where only the first of them heard the cause."""
    backend = FailingBackend()
    async with serve_in_memory(tmp_path, FAILING, extra_plugins=[backend]) as server:
        first = await server.login()
        clients = [await server.login() for _ in range(5)]
        assert backend.log is not None
        backend.log.go_on.clear()
        write_path = server.server.services.write_path
        first.send(vtp.Set(b"first", b"v"))
        while not write_path._persisting:
            await asyncio.sleep(0)
        # Its append is over, its sync is not.
        backend.log.fail, backend.log.spared = call, spared
        heard: list[tuple[int, vtp.Reply]] = []

        async def listen(number: int) -> None:
            heard.append((number, await clients[number].receive()))
            heard.append((number, await clients[number].receive()))

        # Neither the order in which they have connected nor its reverse.
        order = (3, 0, 4, 1, 2)
        listeners = [asyncio.ensure_future(listen(number)) for number in range(5)]
        for number in order:
            clients[number].send(vtp.Incr(b"n"))
            clients[number].send(vtp.Set(b"k", b"v"))
        while write_path._gathered_commands < 10:
            await asyncio.sleep(0)
        batches = server.server.services.metrics.write_batches
        backend.log.go_on.set()
        assert await first.receive() == Ok()
        await asyncio.gather(*listeners)
        assert server.server.services.metrics.write_batches == batches + 1
        assert backend.log.failed
        cause = heard[0][1]
        assert isinstance(cause, ErrorReply)
        assert cause.code == "ENG-002"
        assert "as the test wants it" in cause.message
        assert heard == [(number, cause) for number in order for _ in range(2)]
        late = await clients[0].ask(vtp.Incr(b"n"))
        assert isinstance(late, ErrorReply)
        assert late.code == "SRV-005"


async def test_a_batch_is_one_append_however_many_wrote(tmp_path: Path) -> None:
    backend = FailingBackend()
    async with serve_in_memory(tmp_path, FAILING, extra_plugins=[backend]) as server:
        clients = [await server.login() for _ in range(5)]
        assert backend.log is not None
        backend.log.go_on.clear()
        write_path = server.server.services.write_path
        clients[0].send(vtp.Set(b"first", b"v"))
        while not write_path._persisting:
            await asyncio.sleep(0)
        for client in clients[1:]:
            for number in range(20):
                client.send(vtp.Set(b"k%d" % number, b"v"))
        metrics = server.server.services.metrics
        while write_path._gathered_commands < 80:
            await asyncio.sleep(0)
        backend.log.go_on.set()
        for client in clients[1:]:
            for _ in range(20):
                assert await client.receive() == Ok()
        assert metrics.write_batches == 2
        assert metrics.write_batch_commands_max == 80


async def test_a_write_that_waits_for_the_disk_counts_as_slow(tmp_path: Path) -> None:
    backend = FailingBackend()
    settings = replace(FAILING, slow_command_threshold_ms=200)
    async with serve_in_memory(tmp_path, settings, extra_plugins=[backend]) as server:
        client = await server.login()
        metrics = server.server.services.metrics
        assert backend.log is not None
        before = metrics.slow_commands
        backend.log.go_on.clear()
        client.send(vtp.Set(b"k", b"v"))
        asyncio.get_running_loop().call_later(0.3, backend.log.go_on.set)
        assert await client.receive() == Ok()
        assert metrics.slow_commands == before + 1


MILLISECONDS = vtp.TimeUnit.MILLISECONDS


async def test_time_stands_still_for_a_batch_that_is_being_synced(tmp_path: Path) -> None:
    """A key that dies meanwhile is there for everybody, or else it could be seen to live again."""
    backend = FailingBackend()
    async with serve_in_memory(tmp_path, FAILING, extra_plugins=[backend]) as server:
        writer, reader = await server.login(), await server.login()
        assert backend.log is not None
        ttl = vtp.Expiration(MILLISECONDS, 150)
        for key in (b"counter", b"kept"):
            assert await writer.ask(vtp.Set(key, b"5", expiration=ttl)) == Ok()
        backend.log.go_on.clear()
        writer.send(vtp.Incr(b"counter"))
        writer.send(vtp.Persist(b"kept"))
        write_path = server.server.services.write_path
        while not write_path._persisting:
            await asyncio.sleep(0)
        stamp = write_path.read_time_ms()
        while write_path._clock.now() < stamp + 300:
            # Housekeeping and an unrelated read may not take the dead keys away.
            assert await reader.ask(vtp.Exists(b"other")) == vtp.Bool(False)
            assert await reader.ask(vtp.Get(b"kept")) == Value(b"5")
            await asyncio.sleep(0.02)
        backend.log.go_on.set()
        live = [await writer.receive(), await writer.receive()]
        assert live == [vtp.Integer(6), vtp.Bool(True)]
        assert await reader.ask(vtp.Get(b"kept")) == Value(b"5")
        assert await reader.ask(vtp.Get(b"counter")) == Value(b"6")
    async with serve_in_memory(tmp_path) as server:
        reader = await server.login()
        assert await reader.ask(vtp.Get(b"counter")) == Value(b"6")


@replaces_methods
async def test_no_read_sees_an_earlier_time_than_a_batch_of_the_same_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a turn is read once, and a batch that is applied in it may be stamped later."""
    async with serve_in_memory(tmp_path) as server:
        write_path, loop = server.server.services.write_path, asyncio.get_running_loop()
        turn = loop.time()
        ticks = itertools.count(write_path._clock.now() + 1)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "time", lambda: turn)
            patch.setattr(type(write_path._clock), "now", lambda _clock: next(ticks))
            before = write_path.read_time_ms()
            write_path._apply(None, [])
            assert write_path.read_time_ms() > before


async def test_a_failure_of_any_kind_ends_acknowledgements(tmp_path: Path) -> None:
    backend = FailingBackend()
    async with serve_in_memory(tmp_path, FAILING, extra_plugins=[backend]) as server:
        client = await server.login()
        assert backend.log is not None
        backend.log.error = ValueError("a backend with a defect")
        refusal = await client.ask(vtp.Set(b"k", b"v"))
        assert isinstance(refusal, ErrorReply)
        assert refusal.code == "ENG-002"
        health = await client.ask(vtp.Health())
        assert isinstance(health, vtp.Entries)
        assert dict(health.pairs)[b"ready"] == b"false"


async def test_reads_behind_failed_writes_are_answered(tmp_path: Path) -> None:
    backend = FailingBackend()
    async with serve_in_memory(tmp_path, FAILING, extra_plugins=[backend]) as server:
        client = await server.login()
        assert await client.ask(vtp.Set(b"k", b"before")) == Ok()
        assert backend.log is not None
        backend.log.fail = "append"
        for expected in ("ENG-002", "SRV-005"):
            reads: list[vtp.Command] = [vtp.Get(b"k"), vtp.Ping(), vtp.DbSize()]
            refusal, *answers = await client.ask_all([vtp.Set(b"k", b"lost"), *reads])
            assert isinstance(refusal, ErrorReply)
            assert refusal.code == expected
            assert answers == [Value(b"before"), Value(b"PONG"), vtp.CountReply(1)]


@pytest.mark.parametrize("position", range(7))
async def test_a_client_that_vanishes_in_the_middle_harms_nobody(
    tmp_path: Path, position: int
) -> None:
    backend = FailingBackend()
    pipeline: list[vtp.Command] = [
        vtp.Set(b"a", b"1"),
        vtp.Ping(),
        vtp.Set(b"b", b"2"),
        vtp.Get(b"a"),
        vtp.Ping(),
        vtp.Incr(b"a"),
        vtp.Get(b"big"),
    ]
    async with serve_in_memory(tmp_path, FAILING, extra_plugins=[backend]) as server:
        vanishing, other = await server.login(), await server.login()
        assert backend.log is not None
        backend.log.go_on.clear()
        for command in pipeline[: position + 1]:
            vanishing.send(command)
        other.send(vtp.Set(b"other", b"v"))
        while not server.server.services.write_path._persisting:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert vanishing.transport is not None
        vanishing.transport.abort()
        await vanishing.closed.wait()
        backend.log.go_on.set()
        assert await other.receive() == Ok()
        assert await other.ask(vtp.Get(b"a")) == Value(b"2" if position >= 5 else b"1")


async def test_a_reply_too_large_for_its_client_ends_that_connection_only(tmp_path: Path) -> None:
    backend = FailingBackend()
    tiny = vtp.ConnectionSettings(max_frame_bytes=64)
    async with serve_in_memory(tmp_path, FAILING, extra_plugins=[backend]) as server:
        other = await server.login()
        assert await other.ask(vtp.Set(b"big", b"v" * 1000)) == Ok()
        client = await server.greet(tiny)
        assert await client.ask(vtp.Auth("vaylix", "vaylix")) == Ok()
        assert backend.log is not None
        backend.log.go_on.clear()
        for command in (vtp.Set(b"a", b"1"), vtp.Get(b"big"), vtp.Ping(), vtp.Set(b"b", b"2")):
            client.send(command)
        while not server.server.services.write_path._persisting:
            await asyncio.sleep(0)
        backend.log.go_on.set()
        assert await client.receive() == Ok()
        await client.closed.wait()
        # What was taken is done all the same, and everybody else goes on.
        assert await other.ask(vtp.Get(b"b")) == Value(b"2")
        backend.log.fail = "sync"
        failing = await server.greet(tiny)
        assert await failing.ask(vtp.Auth("vaylix", "vaylix")) == Ok()
        failing.send(vtp.Set(b"c", b"3"))
        other.send(vtp.Set(b"d", b"4"))
        assert isinstance(await other.receive(), ErrorReply)
        await failing.closed.wait()


async def test_gets_behind_a_slow_write_are_bounded_and_keep_their_order(tmp_path: Path) -> None:
    backend = FailingBackend()
    async with serve_in_memory(tmp_path, FAILING, extra_plugins=[backend]) as server:
        client = await server.login()
        for number in range(10):
            assert await client.ask(vtp.Set(b"%d" % number, b"%d" % number)) == Ok()
        assert backend.log is not None
        backend.log.go_on.clear()
        commands: list[vtp.Command] = [vtp.Set(b"k", b"v")]
        commands += [vtp.Get(b"%d" % (number % 11)) for number in range(1_000)]
        stream = [
            client.connection.send_request(number.to_bytes(16, "big"), command)
            for number, command in enumerate(commands)
        ]
        client.send_bytes(b"".join(stream))
        while not server.server.services.write_path._persisting:
            await asyncio.sleep(0)
        (session,) = server.server._registry._members
        assert isinstance(session, Session)
        assert SESSION_WEIGHT_MAX <= session._in_flight_weight < SESSION_WEIGHT_MAX + VALUE_WEIGHT
        backend.log.go_on.set()
        assert await client.receive() == Ok()
        for number in range(1_000):
            value = number % 11
            expected = vtp.NotFound() if value == 10 else Value(b"%d" % value)
            assert await client.receive() == expected


@pytest.mark.parametrize(
    ("keys", "answers"), [([b"big"], []), ([b"a", b"b", b"big", b"a"], [b"1", b"2"])]
)
async def test_of_gets_together_those_before_one_too_large_are_answered(
    tmp_path: Path, keys: list[bytes], answers: list[bytes]
) -> None:
    async with serve_in_memory(tmp_path) as server:
        other = await server.login()
        for key, value in ((b"big", b"v" * 1000), (b"a", b"1"), (b"b", b"2")):
            assert await other.ask(vtp.Set(key, value)) == Ok()
        client = await server.greet(vtp.ConnectionSettings(max_frame_bytes=64))
        assert await client.ask(vtp.Auth("vaylix", "vaylix")) == Ok()
        stream = [
            client.connection.send_request(bytes([number]) * 16, vtp.Get(key))
            for number, key in enumerate(keys)
        ]
        client.send_bytes(b"".join(stream))
        for value in answers:
            assert await client.receive() == Value(value)
        await client.closed.wait()
        assert await other.ask(vtp.Ping()) == Value(b"PONG")


async def test_a_refused_login_that_does_not_fit_ends_that_connection_only(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.greet(vtp.ConnectionSettings(max_frame_bytes=40))
        client.send(vtp.Auth("vaylix", "wrong"))
        await client.closed.wait()
        assert await (await server.login()).ask(vtp.Ping()) == Value(b"PONG")


async def test_what_stands_behind_a_slow_write_is_bounded(tmp_path: Path) -> None:
    backend = FailingBackend()
    settings = replace(FAILING, disable_compression=True)
    async with serve_in_memory(tmp_path, settings, extra_plugins=[backend]) as server:
        client = await server.login()
        assert backend.log is not None
        backend.log.go_on.clear()
        client.send(vtp.Set(b"k", b"v"))
        for _ in range(200):
            client.send(vtp.Ping(b"x" * 60_000))
        (session,) = (s for s in server.server._registry._members if isinstance(s, Session))
        while not session._is_held:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        waiting = sum(len(frame) for frame in session._queue if isinstance(frame, bytes))
        assert waiting < 1024 * 1024 + 100_000
        backend.log.go_on.set()
        assert await client.receive() == Ok()
        for _ in range(200):
            assert await client.receive() == Value(b"x" * 60_000)
        assert session._in_flight_weight == 0


async def test_a_transaction_that_asks_for_too_much_ends_its_connection_unbuilt(
    tmp_path: Path,
) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Set(b"big", b"v" * 262_144))
        await client.ask_all([vtp.Multi(), *[vtp.MGet((b"big",) * 256)] * 8])
        client.send(vtp.Exec())
        await client.closed.wait()
        assert await (await server.login()).ask(vtp.Ping()) == Value(b"PONG")


class Never:
    @hookimpl
    def vaylix_ack_modes(self) -> list[AckMode]:
        return [AckMode(name="never", acknowledged=lambda _: 0)]


async def test_what_an_ack_mode_holds_back_is_answered_when_the_server_stops(
    tmp_path: Path,
) -> None:
    settings = Settings(write_ack_mode="never", disable_auth=True)
    async with serve_in_memory(tmp_path, settings, extra_plugins=[Never()]) as server:
        client = await server.greet()
        client.send(vtp.Set(b"k", b"v"))
        while not server.server.services.write_path._unanswered:
            await asyncio.sleep(0)
        stopping = asyncio.ensure_future(server.server.stop())
        reply = await client.receive()
        assert isinstance(reply, ErrorReply)
        assert reply.code == "SRV-036"
        await stopping


async def test_what_an_ack_mode_holds_back_is_answered_before_what_fails_behind_it(
    tmp_path: Path,
) -> None:
    backend = FailingBackend()
    settings = replace(FAILING, write_ack_mode="never", disable_auth=True)
    async with serve_in_memory(tmp_path, settings, extra_plugins=[backend, Never()]) as server:
        client = await server.greet()
        client.send(vtp.Set(b"k", b"held back"))
        while not server.server.services.write_path._unanswered:
            await asyncio.sleep(0)
        assert backend.log is not None
        backend.log.fail = "sync"
        replies = await client.ask_all([vtp.Set(b"k", b"lost")])
        replies.append(await client.receive())
        codes = [reply.code for reply in replies if isinstance(reply, ErrorReply)]
        assert codes == ["SRV-036", "ENG-002"]


async def test_room_is_made_by_what_an_ack_mode_lets_go(tmp_path: Path) -> None:
    held: list[int] = []

    class Slowly:
        @hookimpl
        def vaylix_ack_modes(self) -> list[AckMode]:
            return [AckMode(name="slowly", acknowledged=self.acknowledged)]

        def acknowledged(self, progress: Progress) -> int:
            held.append(progress.commit)
            return progress.commit if len(held) > UNANSWERED_BATCHES_MAX else 0

    settings = Settings(write_ack_mode="slowly", disable_auth=True)
    async with serve_in_memory(tmp_path, settings, extra_plugins=[Slowly()]) as server:
        client = await server.greet()
        for number in range(UNANSWERED_BATCHES_MAX):
            client.send(vtp.Incr(b"n"))
            while len(held) <= number:
                await asyncio.sleep(0)
        # This one finds no room left, and lets everything go.
        client.send(vtp.Incr(b"n"))
        counted = [await client.receive() for _ in range(UNANSWERED_BATCHES_MAX + 1)]
        assert counted[-1] == vtp.Integer(UNANSWERED_BATCHES_MAX + 1)
        async with asyncio.timeout(10):
            assert await client.ask(vtp.Incr(b"n")) == vtp.Integer(UNANSWERED_BATCHES_MAX + 2)
