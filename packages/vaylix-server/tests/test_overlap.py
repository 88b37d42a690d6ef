"""Two batches that alternate: one syncs while the loop serves the other."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import ErrorReply, Integer, Ok
from vaylix_server.builtin.ack_local import vaylix_ack_modes
from vaylix_server.clock import TimeKeeper
from vaylix_server.hookspecs import hookimpl
from vaylix_server.interfaces import StorageBackend, StorageRequest
from vaylix_server.machine import StateMachine
from vaylix_server.metrics import Metrics
from vaylix_server.runs import Run
from vaylix_server.settings import Settings
from vaylix_server.sync_gate import SyncGate
from vaylix_server.testing import serve_in_memory
from vaylix_server.write_path import INLINE_BYTES_MAX, OVERLAP_COMMANDS, WritePath
from vaylix_storage import Answer, Batch, Keyspace, Result
from vaylix_storage import commands as log
from vaylix_storage.backend import LogPort, Storage, memory_storage

SLOW, QUICK = 1.0, 0.0001
MANY = [log.Set(b"k", b"v")] * OVERLAP_COMMANDS
OKS: list[Result] = [Answer.OK] * OVERLAP_COMMANDS


class HeldLog:
    """A log whose syncs wait until the test lets them go on, or raise what it wants."""

    def __init__(self, inner: LogPort) -> None:
        self._inner = inner
        self.go_on = threading.Semaphore(0)
        self.error: Exception | None = None
        self.append_error: Exception | None = None
        self.may_append: bool | Exception = True
        self.appended_by: list[threading.Thread] = []
        self.synced_by: list[threading.Thread] = []
        self.first_index, self.size_bytes, self.segment_count = 1, 0, 1

    @property
    def last_index(self) -> int:
        return self._inner.last_index

    @property
    def appends_at_once(self) -> bool:
        if isinstance(self.may_append, Exception):
            raise self.may_append
        return self.may_append

    def append(self, batches: Sequence[Batch]) -> None:
        self.appended_by.append(threading.current_thread())
        if self.append_error is not None:
            raise self.append_error
        self._inner.append(batches)

    def sync(self) -> None:
        self.synced_by.append(threading.current_thread())
        assert self.go_on.acquire(timeout=30)
        if self.error is not None:
            raise self.error

    def read(self, first_index: int) -> Iterator[Batch]:
        return self._inner.read(first_index)


class Owner:
    """A session that notes what it is told, and whether a batch was on its way just then."""

    def __init__(self, path: WritePath) -> None:
        self._path = path
        self.told: list[object] = []
        self.was_persisting: list[bool] = []
        self.news = asyncio.Event()

    def submit(self, *commands: log.Command) -> Run:
        run = Run(self, "")
        for command in commands:
            if isinstance(command, log.Get):
                run.add_read(bytes(16), command)
            else:
                run.add_write(bytes(16), command, 10)
        self._path.submit(run)
        return run

    def submit_columns(self, *pairs: tuple[bytes, bytes]) -> None:
        run = Run(self, "")
        ids = [bytes(16)] * len(pairs)
        sets = vtp.SetRun(ids, [key for key, _ in pairs], [value for _, value in pairs])
        run.add_sets(sets)
        self._path.submit(run)

    def settle(self, run: Run, results: list[Result]) -> None:
        del run
        self.was_persisting.append(bool(self._path._persisting))
        self.told.append(results)

    def fail(self, run: Run, reply: ErrorReply) -> None:
        del run
        self.told.append(reply.code)

    def flush(self) -> None:
        self.news.set()

    async def hear(self, count: int) -> list[object]:
        while len(self.told) < count:
            self.news.clear()
            await self.news.wait()
        return self.told


class BrokenOwner(Owner):
    """A session that does not expect its results."""

    def settle(self, run: Run, results: list[Result]) -> None:
        del run, results
        raise ValueError("as the test wants it")


class Lab:
    """A write path on a held log, believing that a sync takes `sync_seconds`."""

    def __init__(self, sync_seconds: float) -> None:
        storage = memory_storage()
        self.log = HeldLog(storage.log)
        (mode,) = vaylix_ack_modes()
        self.wall_ms = 1_000
        self.machine = StateMachine(storage.keyspace)
        self.path = WritePath(
            storage=replace(storage, log=self.log),
            machine=self.machine,
            clock=TimeKeeper(wall_ms=lambda: self.wall_ms, elapsed_ms=lambda: self.wall_ms),
            ack_mode=mode,
            metrics=Metrics(),
            gate=SyncGate(),
            on_failure=lambda _: None,
        )
        self.path._gate.average_seconds = sync_seconds

    def replayed(self) -> StateMachine:
        """Return what a restart would make of the log."""
        machine = StateMachine(Keyspace())
        for batch in self.log.read(1):
            machine.replay(batch)
        return machine

    async def begin(self, owner: Owner, *commands: log.Command) -> Run:
        """Submit the first batch and wait until it is on its way."""
        run = owner.submit(*commands)
        while not self.path._persisting:
            await asyncio.sleep(0)
        return run


async def test_the_next_batch_starts_before_the_answers_are_made() -> None:
    lab = Lab(SLOW)
    owner = Owner(lab.path)
    await lab.begin(owner, *MANY)
    owner.submit(*MANY)
    lab.log.go_on.release(2)
    assert await owner.hear(2) == [OKS, OKS]
    assert owner.was_persisting == [True, False]
    lab.path.close()


@pytest.mark.parametrize(
    ("sync_seconds", "count"), [(QUICK, OVERLAP_COMMANDS), (SLOW, OVERLAP_COMMANDS - 1)]
)
async def test_what_is_not_worth_the_way_to_another_thread_is_left_to_the_turn(
    sync_seconds: float, count: int
) -> None:
    lab = Lab(sync_seconds)
    owner = Owner(lab.path)
    await lab.begin(owner, *MANY)
    if sync_seconds == QUICK:
        # Whatever the first one takes, it is quick on average.
        lab.path._gate.average_seconds = -SLOW
    owner.submit(*MANY[:count])
    lab.log.go_on.release(2)
    await owner.hear(2)
    assert owner.was_persisting == [False, False]
    lab.path.close()


@pytest.mark.parametrize(
    ("sync_seconds", "gathered_seconds", "count", "starts"),
    [
        (0.001, 0.0006, OVERLAP_COMMANDS - 1, True),
        (0.001, 0.0006, OVERLAP_COMMANDS - 2, False),
        (0.001, 0.0, OVERLAP_COMMANDS, False),
        (SLOW, 0.1, OVERLAP_COMMANDS, False),
        (QUICK, SLOW, OVERLAP_COMMANDS, False),
    ],
)
async def test_a_batch_starts_early_once_gathering_takes_half_a_sync(
    sync_seconds: float, gathered_seconds: float, count: int, starts: bool
) -> None:
    lab = Lab(sync_seconds)
    owner = Owner(lab.path)
    first = owner.submit(*MANY[:count])
    assert lab.path._persisting == [], "one run never starts by itself"
    # Time is not spent but said to have passed.
    lab.path._gathering_since = time.perf_counter() - gathered_seconds
    second = owner.submit(log.Set(b"b", b"2"))
    assert lab.path._persisting == ([first, second] if starts else [])
    assert owner.told == [], "nobody is called back while it submits"
    lab.log.go_on.release(2)
    assert await owner.hear(2) == [OKS[:count], [Answer.OK]]
    lab.path.close()


async def test_reads_that_stand_first_wait_for_their_turn() -> None:
    """They make no batch, and what they read is written by the batch before them."""
    lab = Lab(SLOW)
    owner = Owner(lab.path)
    await lab.begin(owner, log.Set(b"a", b"1"))
    owner.submit(log.Get(b"a"))
    owner.submit(*MANY)
    lab.log.go_on.release(2)
    assert await owner.hear(3) == [[Answer.OK], [b"1"], OKS]
    assert owner.was_persisting[0] is False
    lab.path.close()


async def test_nobody_sees_a_time_that_a_batch_under_way_has_not_reached() -> None:
    lab = Lab(SLOW)
    owner = Owner(lab.path)
    await lab.begin(owner, *MANY)
    lab.wall_ms = 2_000
    owner.submit(*MANY)
    assert lab.path.read_time_ms() == 1_000
    lab.log.go_on.release()
    await owner.hear(1)
    lab.wall_ms = 3_000
    await asyncio.sleep(0.01)  # Another turn of the loop, in which the clock is read anew.
    assert lab.path.read_time_ms() == 2_000, "the second batch is under way since then"
    lab.log.go_on.release()
    await owner.hear(2)
    lab.path.close()


async def test_a_failure_meets_the_batch_that_was_under_way_and_what_came_later() -> None:
    lab = Lab(SLOW)
    owner = Owner(lab.path)
    await lab.begin(owner, *MANY)
    owner.submit(*MANY)
    lab.log.go_on.release()
    await owner.hear(1)
    owner.submit(*MANY)
    lab.log.error = OSError(5, "as the test wants it")
    lab.log.go_on.release()
    assert await owner.hear(3) == [OKS, "ENG-002", "SRV-005"]
    lab.path.close()


async def test_a_drain_waits_for_the_batch_that_started_beside_the_answers() -> None:
    lab = Lab(SLOW)
    owner = Owner(lab.path)
    await lab.begin(owner, *MANY)
    owner.submit(*MANY)
    drained = asyncio.ensure_future(lab.path.drain())
    lab.log.go_on.release()
    await owner.hear(1)
    assert not drained.done()
    lab.log.go_on.release()
    await drained
    assert owner.told == [OKS, OKS]
    lab.path.close()


@pytest.mark.parametrize(
    ("count", "second"), [(OVERLAP_COMMANDS, "ENG-002"), (OVERLAP_COMMANDS - 1, "SRV-005")]
)
async def test_nothing_follows_a_batch_that_could_not_be_applied(
    monkeypatch: pytest.MonkeyPatch, count: int, second: str
) -> None:
    """That is a defect, upon which the server stops: it must not wait for an answer then."""
    lab = Lab(SLOW)
    owner = Owner(lab.path)
    defects: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: defects.append(context["exception"])
    )

    def apply_commands(commands: Sequence[log.Command], now_ms: int) -> list[Result]:
        raise ValueError("as the test wants it")

    monkeypatch.setattr(lab.path._machine, "apply_commands", apply_commands)
    await lab.begin(owner, *MANY)
    owner.submit(*MANY[:count])
    lab.log.go_on.release(2)
    async with asyncio.timeout(10):
        await lab.path.drain()
    assert owner.told == ["ENG-002", second]
    assert list(map(str, defects)) == ["as the test wants it"]
    lab.path.close()


async def test_a_defect_of_one_session_keeps_nobody_behind_it_waiting() -> None:
    lab = Lab(SLOW)
    owner = Owner(lab.path)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    await lab.begin(BrokenOwner(lab.path), log.Set(b"a", b"1"))
    owner.submit(log.Set(b"b", b"2"))
    lab.log.go_on.release(2)
    async with asyncio.timeout(10):
        await lab.path.drain()
    assert owner.told == [[Answer.OK]]
    lab.path.close()


@pytest.mark.parametrize(
    ("readers", "is_inline"),
    [
        ([], True),
        (["writer", "writer"], True),
        (["other"], False),
        (["writer", "other"], False),
        (["other", "writer"], False),
        (["other", "third"], False),
    ],
)
async def test_the_loop_does_not_sync_while_others_could_be_served(
    readers: list[str], is_inline: bool
) -> None:
    lab = Lab(QUICK)
    lab.path._gate = SyncGate(window=0)
    owners = {name: Owner(lab.path) for name in ("writer", "other", "third")}
    writer = owners["writer"]
    lab.log.go_on.release(2)
    for name in readers:
        lab.path.note_reader(owners[name])
    writer.submit(log.Set(b"k", b"1"))
    await writer.hear(1)
    # Only who was served since the last batch counts.
    writer.submit(log.Set(b"k", b"2"))
    await writer.hear(2)
    loop = threading.main_thread()
    assert [thread is loop for thread in lab.log.synced_by] == [is_inline, True]
    lab.path.close()


def set_of(batch_bytes: int, machine: StateMachine) -> log.Set:
    """Return a SET that makes a batch with a payload of so many bytes."""
    for value_bytes in range(batch_bytes, 0, -1):
        command = log.Set(b"k", bytes(value_bytes))
        if len(machine.encode_keyspace([command], [("", 1)])) == batch_bytes:
            return command
    raise AssertionError("there is none")


@pytest.mark.parametrize(
    ("is_quick", "at_once", "batch_bytes", "loop_appends", "loop_syncs"),
    [
        (True, True, INLINE_BYTES_MAX, True, True),
        (True, True, INLINE_BYTES_MAX + 1, False, False),
        (True, False, 100, False, False),
        (False, True, INLINE_BYTES_MAX, True, False),
        (False, True, INLINE_BYTES_MAX + 1, False, False),
        (False, False, 100, False, False),
    ],
)
async def test_the_loop_does_only_what_does_not_hold_it_up(
    is_quick: bool, at_once: bool, batch_bytes: int, loop_appends: bool, loop_syncs: bool
) -> None:
    lab = Lab(QUICK)
    if is_quick:
        lab.path._gate = SyncGate(window=0)
    lab.log.may_append = at_once
    owner = Owner(lab.path)
    lab.log.go_on.release()
    owner.submit(set_of(batch_bytes, lab.machine))
    assert await owner.hear(1) == [[Answer.OK]]
    loop = threading.main_thread()
    assert [thread is loop for thread in lab.log.appended_by] == [loop_appends]
    assert [thread is loop for thread in lab.log.synced_by] == [loop_syncs]
    lab.path.close()


def entries_of(machine: StateMachine) -> dict[bytes, tuple[bytes | None, int, int]]:
    keyspace = machine.keyspace
    return {
        key: (keyspace.get(key, 0), keyspace.version(key, 0), keyspace.ttl(key, 0))
        for key in keyspace.table.entries()
    }


async def test_what_is_applied_in_columns_is_what_a_replay_makes_of_it() -> None:
    """In the order of the runs, alone and beside others, and at the time of their batch."""
    lab = Lab(QUICK)
    lab.log.go_on.release(3)
    owner = Owner(lab.path)
    owner.submit(log.Set(b"short", b"0", log.SetOptions(ttl_ms=500)))
    await owner.hear(1)
    lab.wall_ms += 1_000
    owner.submit_columns((b"a", b"1"), (b"b", b"1"))
    owner.submit_columns((b"a", b"2"), (b"short", b"1"))
    await owner.hear(3)
    assert entries_of(lab.machine) == entries_of(lab.replayed())
    assert entries_of(lab.machine)[b"a"] == (b"2", 2, -1)
    owner.submit_columns((b"a", b"3"), (b"n", b"7"))
    owner.submit(log.Incr(b"n"), log.Set(b"a", b"4"))
    owner.submit_columns((b"a", b"5"), (b"b", b"2"))
    assert await owner.hear(6) == [
        [Answer.OK],
        [Answer.OK, Answer.OK],
        [Answer.OK, Answer.OK],
        [Answer.OK, Answer.OK],
        [8, Answer.OK],
        [Answer.OK, Answer.OK],
    ]
    assert entries_of(lab.machine) == {
        b"a": (b"5", 5, -1),
        b"b": (b"2", 2, -1),
        # It had expired, so this is a new one.
        b"short": (b"1", 1, -1),
        b"n": (b"8", 2, -1),
    }
    assert entries_of(lab.replayed()) == entries_of(lab.machine)
    lab.path.close()


@pytest.mark.parametrize("what", ["the log", "the thread"])
@pytest.mark.parametrize("is_quick", [True, False])
async def test_a_batch_that_cannot_even_begin_fails_like_any_other(
    monkeypatch: pytest.MonkeyPatch, what: str, is_quick: bool
) -> None:
    """A backend that does not say how it appends, or a process that may have no more threads."""
    lab = Lab(QUICK)
    if is_quick:
        lab.path._gate = SyncGate(window=0)
    owner = Owner(lab.path)
    lab.log.may_append = AttributeError("as the test wants it")
    if what == "the log":
        lab.log.append_error = lab.log.may_append
    else:

        def submit(*_: object) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(lab.path._log_thread, "submit", submit)
    owner.submit(log.Set(b"a", b"1"))
    async with asyncio.timeout(10):
        assert await owner.hear(1) == ["ENG-002"]
        owner.submit(log.Set(b"b", b"2"))
        await lab.path.drain()
    assert owner.told == ["ENG-002", "SRV-005"]
    assert lab.path.failure is not None
    lab.path.close()


async def test_a_failed_append_of_a_batch_that_starts_early_calls_nobody_back_at_once() -> None:
    lab = Lab(0.001)
    owner = Owner(lab.path)
    owner.submit(*MANY)
    lab.path._gathering_since = time.perf_counter() - SLOW
    lab.log.append_error = OSError(28, "as the test wants it")
    owner.submit(log.Set(b"b", b"2"))
    assert len(lab.log.appended_by) == 1, "it was tried"
    assert owner.told == [], "nobody is called back while it submits"
    owner.submit(log.Set(b"c", b"3"))
    async with asyncio.timeout(10):
        await lab.path.drain()
    assert owner.told == ["ENG-002", "ENG-002", "SRV-005"]
    assert not lab.log.synced_by
    lab.path.close()


class SlowLog(HeldLog):
    """A disk on which a sync takes two milliseconds."""

    def sync(self) -> None:
        time.sleep(0.002)


class SlowDisk:
    """A plugin: the memory backend on a slow disk."""

    @hookimpl
    def vaylix_storage_backends(self) -> list[StorageBackend]:
        return [StorageBackend(name="slow", open=self._open)]

    def _open(self, request: StorageRequest) -> Storage:
        del request
        storage = memory_storage()
        return replace(storage, log=SlowLog(storage.log))


async def test_counters_of_many_pipelines_never_skip_or_repeat(tmp_path: Path) -> None:
    clients, rounds, depth = 12, 10, 30
    settings = Settings(storage_backend="slow")
    async with serve_in_memory(tmp_path, settings, extra_plugins=[SlowDisk()]) as server:

        async def count() -> list[int]:
            client = await server.login()
            numbers: list[int] = []
            for _ in range(rounds):
                replies = await client.ask_all([vtp.Incr(b"n")] * depth)
                numbers += [reply.value for reply in replies if isinstance(reply, Integer)]
            return numbers

        counted = await asyncio.gather(*(count() for _ in range(clients)))
        client = await server.login()
        assert await client.ask(vtp.Set(b"end", b"")) == Ok()
    assert all(numbers == sorted(numbers) for numbers in counted)
    assert sorted(itertools.chain(*counted)) == list(range(1, clients * rounds * depth + 1))
