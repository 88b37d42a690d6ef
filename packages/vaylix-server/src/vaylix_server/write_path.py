"""The life of a write between its session and its answer: propose, persist, commit, apply, answer.

Theory of operation
-------------------

Sessions submit *runs*: the commands that one connection wants applied in order, made from what
arrived in one read. All runs of a loop turn become one batch, which is encoded, sealed, written
and synced once. While that lasts the next runs gather; so group commit needs no timer, and the
batches are as large as the disk is slow.

    gathering --_turn--> persisting --_persisted--> committed --> applied --> answered

At most one batch is persisting. It is applied only after it is committed; on a single voter that
is when its own sync has returned. The next batch starts to persist just before, so that the disk
works while answers are made. Between two batches the log is free for chores that nothing may be
appended beside, such as ending a segment for a snapshot; they wait for the batch that is under
way, and the next batch gathers while they last.

When to sync. Say that reading and answering everybody takes the loop C, and a sync takes S. One
batch of all costs S + C; two that alternate, one syncing while the loop serves the other, cost
max(2 S, C), which is less when S < C. Reading is about half of C, so a batch starts before its turn
once the loop has been gathering it for S / 2, which never happens on a disk for which that would be
wrong. The way to another thread has its price, too: what is not worth it is left to the turn.

Who writes. The loop syncs itself where the disk is quick (see `SyncGate`) and where nobody else is
kept waiting: since the last batch nobody was answered but those who wait for this one. Else only
the sync is left to the log thread: each step that the thread takes in Python waits until the loop
lets go of the interpreter, half a millisecond while it applies a batch, and there were five of
them. Sealing and writing a small batch costs the loop less than that costs the batch. A large one,
and one for which the log must end a segment first, are the thread's altogether.

A run may also hold reads that stand behind a write of their own connection: they are applied in
their place and not logged.

Time: a batch is applied at the time it was stamped with, which lies behind the clock by the time it
is durable. Until then nobody may see a later time, or a key could be seen to expire and then be
given a longer life by that batch; and no dead key may leave memory by a later time, or the batch
would find another state than its replay. `read_time_ms` is that bound.

Who waits and who does not: `submit` never waits for the disk. When too much is gathered `is_full`
turns true, and sessions stop reading from their clients until `when_room` calls them back.

A failed write or sync ends all this. What was persisting is in doubt, so it is answered with an
error that says so; what was gathering was never written and is answered with one that says that.
Nothing is ever retried: after a failed fsync, a second one that succeeds proves nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from vaylix_protocol import ErrorCode, ErrorReply, error_reply
from vaylix_server.interfaces import AckMode, Progress
from vaylix_storage import Batch, BatchKind, Result
from vaylix_storage.errors import LogPoisonedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_server.clock import TimeKeeper
    from vaylix_server.machine import StateMachine
    from vaylix_server.metrics import Metrics
    from vaylix_server.runs import Run, RunOwner
    from vaylix_server.sync_gate import SyncGate
    from vaylix_storage.backend import LogPort, Storage
    from vaylix_storage.commands import Command

__all__ = ["WritePath"]

GATHERED_BYTES_MAX: Final = 8 * 1024 * 1024
# Not Final: tests lower it.
GATHERED_COMMANDS_MAX = 65_536
# Batches that are applied and that the ack mode holds back.
UNANSWERED_BATCHES_MAX: Final = 64
# A batch is worth the way to the log thread and back, which costs a few hundred microseconds, when
# a sync takes at least as long, and so does the loop for its commands.
OVERLAP_SYNC_SECONDS: Final = 0.0003
OVERLAP_COMMANDS: Final = 128
# The loop writes no more than this itself, however quick the disk is: sealing and writing 8 MiB
# takes it 10 ms where a small batch takes 0.1.
INLINE_BYTES_MAX: Final = 256 * 1024
# Not more: the log thread waits for the interpreter meanwhile, with the next batch.
APPLIED_TOGETHER: Final = 16
# Standalone: the term never changes, and the log of a cluster starts above it.
_TERM: Final = 0


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Chore:
    """`run` works on the log thread and returns how to tell; `refuse` tells why it did not."""

    run: Callable[[], Callable[[], None]]
    refuse: Callable[[Exception], None]


class WritePath:
    """Turns runs into durable, applied, answered batches. All methods run on the loop's thread."""

    def __init__(
        self,
        *,
        storage: Storage,
        machine: StateMachine,
        clock: TimeKeeper,
        ack_mode: AckMode,
        metrics: Metrics,
        gate: SyncGate,
        on_failure: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._log = storage.log
        self._machine = machine
        self._clock = clock
        self._ack_mode = ack_mode
        self._node_id = storage.node_id
        self._metrics = metrics
        self._gate = gate
        self._on_failure = on_failure
        self._log_thread = ThreadPoolExecutor(1, thread_name_prefix="vaylix-log")
        self._gathering: deque[Run] = deque()
        self._gathered_bytes = 0
        self._gathered_commands = 0
        # Whether sessions must not submit; what they hold already is bounded by themselves.
        self.is_full = False
        self._turn_scheduled = False
        # Taken from what was gathered, until `_persisted` has their outcome.
        self._persisting: list[Run] = []
        # Work for the log thread that must not meet a batch; one of it may be under way.
        self._chores: deque[_Chore] = deque()
        self._is_doing_chore = False
        # Who was answered without a batch since one was last begun in its turn.
        self._reader: RunOwner | None = None
        self._are_several_readers = False
        self._submitted_count = 0
        self._finished_count = 0
        # In the order of the counts: how many runs must have been finished, and who waits for it.
        self._applied_waiters: deque[tuple[int, Callable[[], None]]] = deque()
        # The time of this turn of the loop, and the turn that it belongs to.
        self._clock_turn = -1.0
        self._turn_ms = 0
        # The stamps of the batches that are persisting or about to be applied, in order.
        self._in_flight_ms: deque[int] = deque()
        # When gathering began, in seconds.
        self._gathering_since = 0.0
        # Applied, and waiting for the ack mode: (last index, runs with results).
        self._unanswered: deque[tuple[int, list[tuple[Run, list[Result]]]]] = deque()
        self._room_waiters: list[Callable[[], None]] = []
        self._drain_waiters: list[asyncio.Future[None]] = []
        self.commit_index = machine.last_applied
        self.failure: str | None = None

    def read_time_ms(self) -> int:
        """Return the time that reads see, and up to which dead keys may leave memory.

        Read once in a turn of the loop: sessions of one turn see one time.
        """
        turn = self._loop.time()
        if turn != self._clock_turn:
            self._clock_turn, self._turn_ms = turn, self._clock.now()
        now_ms = self._turn_ms
        return min(now_ms, self._in_flight_ms[0]) if self._in_flight_ms else now_ms

    def note_reader(self, owner: RunOwner) -> None:
        """Take note that somebody was answered who need not wait for a batch."""
        if owner is not self._reader:
            self._are_several_readers = self._reader is not None
            self._reader = owner

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once there is room again."""
        self._room_waiters.append(callback)

    def submit(self, run: Run) -> None:
        """Take a run of at least one command; its owner is called back with the outcome."""
        assert run.commands, "an empty run has no outcome"
        if not self._gathering:
            self._gathering_since = time.perf_counter()
        self._gathering.append(run)
        self._submitted_count += 1
        self._gathered_bytes += run.payload_bytes
        self._gathered_commands += len(run.commands)
        self.is_full = self.is_full or self._has_too_much()
        if self._turn_scheduled:
            if self._is_worth_starting():
                self._start_beside_loop()
        else:
            self._schedule_turn()

    def when_applied(self, callback: Callable[[], None]) -> None:
        """Call back, later, once all that was submitted so far is applied or has failed."""
        if self._finished_count == self._submitted_count:
            self._loop.call_soon(callback)
        else:
            self._applied_waiters.append((self._submitted_count, callback))

    def between_batches(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        """Do `work` on the log thread while no batch is written; return its result or exception.

        After a failure of the log it is not done: LogPoisonedError.
        """
        done: asyncio.Future[_T] = self._loop.create_future()

        def run() -> Callable[[], None]:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - it belongs to whoever waits.
                problem = error
                return lambda: self._chore_failed(done, problem)
            return lambda: None if done.done() else done.set_result(result)

        def refuse(reason: Exception) -> None:
            if not done.done():
                done.set_exception(reason)

        self._chores.append(_Chore(run, refuse))
        self._schedule_turn()
        return done

    async def drain(self) -> None:
        """Return when everything submitted has been answered.

        What the ack mode still holds back then is answered as being in doubt: nothing will come
        any more that could change its mind.
        """
        while self._gathering or self._persisting or self._chores or self._is_doing_chore:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._drain_waiters.append(waiter)
            await waiter
        self._give_up_unanswered()

    def close(self) -> None:
        """Stop the log thread; the log itself belongs to whoever opened it."""
        assert not self._persisting, "drain first"
        assert not self._is_doing_chore, "drain first"
        self._log_thread.shutdown(wait=True)

    def _schedule_turn(self) -> None:
        if not self._turn_scheduled and not self._persisting and not self._is_doing_chore:
            self._turn_scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_scheduled = False
        if self._persisting or self._is_doing_chore:
            return
        if self._chores:
            self._do_chore(self._chores.popleft())
            return
        if not self._gathering:
            return
        runs = self._take_runs()
        if self.failure is not None:
            self._refuse(runs)
            return
        batch = self._make_batch(runs)
        if batch is None:
            self._apply(None, runs)
            return
        self._persisting = runs
        is_alone = self._waits_alone(runs)
        if is_alone and self._gate.is_open and self._may_append(batch):
            self._persisted(batch, _persist(self._log, batch))
        else:
            self._persist_beside_loop(batch)

    def _is_worth_starting(self) -> bool:
        """Tell whether a batch should start before its turn; see the theory above."""
        return (
            not self._persisting
            and not self._chores
            and not self._is_doing_chore
            and self.failure is None
            and self._can_overlap()
            and time.perf_counter() - self._gathering_since >= self._gate.average_seconds / 2
        )

    def _can_overlap(self) -> bool:
        """Tell whether what is gathered makes a batch, and is worth the way to another thread."""
        return (
            self._gate.average_seconds >= OVERLAP_SYNC_SECONDS
            and self._gathered_commands >= OVERLAP_COMMANDS
            # Mere reads make no batch.
            and bool(self._gathering[0].logged)
        )

    def _start_beside_loop(self) -> None:
        """Persist what is gathered, which begins with a write, while the loop goes on.

        Nobody is called back before this returns, so it may be used while a session submits.
        """
        assert not self._persisting
        runs = self._take_runs()
        batch = self._make_batch(runs)
        assert batch is not None, "there was a write"
        self._persisting = runs
        self._persist_beside_loop(batch)

    def _waits_alone(self, runs: list[Run]) -> bool:
        """Tell whether nobody was served since the last batch but who waits for this one."""
        reader, are_several = self._reader, self._are_several_readers
        self._reader, self._are_several_readers = None, False
        if reader is None:
            return True
        return not are_several and any(run.owner is reader for run in runs)

    def _may_append(self, batch: Batch) -> bool:
        """Tell whether the loop itself may append a batch."""
        if len(batch.payload) > INLINE_BYTES_MAX:
            return False
        try:
            return self._log.appends_at_once
        except Exception:  # noqa: BLE001  # A backend may fail in ways of its own.
            # What is wrong with it, `append` will say where that is expected.
            return False

    def _persist_beside_loop(self, batch: Batch) -> None:
        """Sync a batch on the log thread, and write it there, too, if the loop may not."""
        try:
            if self._may_append(batch):
                started = time.perf_counter()
                self._log.append((batch,))
                append_seconds = time.perf_counter() - started
                future = self._log_thread.submit(_sync, self._log, append_seconds)
            else:
                future = self._log_thread.submit(_persist, self._log, batch)
        except Exception as error:  # noqa: BLE001  # The log, or no thread could be started.
            # Not at once: a session may be submitting.
            self._loop.call_soon(self._persisted, batch, error)
            return
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._persisted, batch, done.result())
        )

    def _do_chore(self, chore: _Chore) -> None:
        if self.failure is not None:
            chore.refuse(LogPoisonedError(f"the log has failed: {self.failure}"))
            self._after_batch()
            return
        self._is_doing_chore = True

        def finish(tell: Callable[[], None]) -> None:
            self._is_doing_chore = False
            tell()
            self._after_batch()

        try:
            future = self._log_thread.submit(chore.run)
        except RuntimeError as error:
            # No thread could be started.
            reason = error
            self._loop.call_soon(finish, lambda: chore.refuse(reason))
            return
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(finish, done.result())
        )

    def _chore_failed(self, done: asyncio.Future[_T], problem: Exception) -> None:
        if isinstance(problem, LogPoisonedError) and self.failure is None:
            # No write will succeed from now on: that is to be known before one is tried.
            self._poison(problem, [])
        if not done.done():
            done.set_exception(problem)

    def _take_runs(self) -> list[Run]:
        """Take what fits into one batch, at least one run."""
        runs: list[Run] = []
        size = 0
        while self._gathering and (
            not runs or size + self._gathering[0].payload_bytes <= GATHERED_BYTES_MAX
        ):
            run = self._gathering.popleft()
            size += run.payload_bytes
            self._gathered_commands -= len(run.commands)
            runs.append(run)
        self._gathered_bytes -= size
        if self.is_full:
            self._make_room()
        return runs

    def _has_too_much(self) -> bool:
        return (
            self._gathered_bytes >= GATHERED_BYTES_MAX
            or self._gathered_commands >= GATHERED_COMMANDS_MAX
            or len(self._unanswered) >= UNANSWERED_BATCHES_MAX
        )

    def _make_room(self) -> None:
        """Let sessions go on, all of them in the next turn of the loop."""
        self.is_full = self._has_too_much()
        if not self.is_full:
            waiters, self._room_waiters = self._room_waiters, []
            for waiter in waiters:
                self._loop.call_soon(waiter)

    def _make_batch(self, runs: list[Run]) -> Batch | None:
        commands: list[Command] = []
        principals: list[tuple[str, int]] = []
        for run in runs:
            if not run.logged:
                continue
            commands += run.logged
            if principals and principals[-1][0] == run.principal:
                principals[-1] = (run.principal, principals[-1][1] + len(run.logged))
            else:
                principals.append((run.principal, len(run.logged)))
        if not commands:
            return None
        metrics = self._metrics
        metrics.write_batches += 1
        metrics.writes_batched += len(commands)
        metrics.write_batch_commands_max = max(metrics.write_batch_commands_max, len(commands))
        batch = Batch.create(
            first_index=self._log.last_index + 1,
            count=len(commands),
            term=_TERM,
            kind=BatchKind.KEYSPACE,
            timestamp_ms=self._clock.now(),
            payload=self._machine.encode_keyspace(commands, principals),
        )
        self._in_flight_ms.append(batch.timestamp_ms)
        return batch

    def _persisted(self, batch: Batch, outcome: float | Exception) -> None:
        runs, self._persisting = self._persisting, []
        if self.failure is not None:
            # The batch before it was not applied as it should, so nothing may follow.
            self._leave_open(runs, self.failure)
            return
        if isinstance(outcome, Exception):
            self._poison(outcome, runs)
            return
        self._gate.record(outcome)
        # A group of one voter: what it has durably is what the quorum has.
        assert batch.first_index == self.commit_index + 1
        self.commit_index = batch.last_index
        if not self._chores and self._can_overlap():
            self._start_beside_loop()
        self._apply(batch, runs)

    def _apply(self, batch: Batch | None, runs: list[Run]) -> None:
        machine = self._machine
        now = batch.timestamp_ms if batch is not None else self._clock.now()
        try:
            answered = self._results_by_run(runs, now)
        except Exception as error:
            # What is in memory is not what the log says any more.
            self._poison(error, runs)
            raise
        # What this batch saw expire stays expired for the reads of the same turn.
        self._turn_ms = max(self._turn_ms, now)
        if batch is not None:
            in_flight_ms = self._in_flight_ms.popleft()
            assert in_flight_ms == batch.timestamp_ms
            machine.advance(batch)
        self._unanswered.append((machine.last_applied, answered))
        self._finish(len(runs))
        try:
            self._answer()
        finally:
            self._after_batch()

    def _results_by_run(self, runs: list[Run], now_ms: int) -> list[tuple[Run, list[Result]]]:
        """Apply short runs together: that costs little more than one of them alone."""
        answered: list[tuple[Run, list[Result]]] = []
        together: list[Run] = []
        count = 0
        for run in runs:
            together.append(run)
            count += len(run.commands)
            if count >= APPLIED_TOGETHER or run is runs[-1]:
                results = self._apply_runs(together, now_ms)
                assert len(results) == count, "each command has its result"
                start = 0
                for applied in together:
                    end = start + len(applied.commands)
                    answered.append((applied, results[start:end]))
                    start = end
                together, count = [], 0
        return answered

    def _apply_runs(self, runs: list[Run], now_ms: int) -> list[Result]:
        keys: list[bytes] = []
        values: list[bytes] = []
        for run in runs:
            plain = run.plain
            if plain is None:
                commands: list[Command] = []
                for mixed in runs:
                    commands += mixed.commands
                return self._machine.apply_commands(commands, now_ms)
            keys += plain.keys
            values += plain.values
        return self._machine.apply_sets(keys, values, now_ms)

    def _answer(self) -> None:
        progress = Progress(
            own_id=self._node_id,
            match={self._node_id: self.commit_index},
            commit=self.commit_index,
        )
        acknowledged = self._ack_mode.acknowledged(progress)
        owners: dict[RunOwner, None] = {}
        while self._unanswered and self._unanswered[0][0] <= acknowledged:
            for run, results in self._unanswered.popleft()[1]:
                run.owner.settle(run, results)
                owners[run.owner] = None
        if self.is_full:
            self._make_room()
        for owner in owners:
            owner.flush()

    def _give_up_unanswered(self) -> None:
        """Answer what the ack mode holds back as being in doubt."""
        while self._unanswered:
            runs = [run for run, _ in self._unanswered.popleft()[1]]
            self._fail(runs, error_reply(ErrorCode.SRV_036))
        if self.is_full:
            self._make_room()

    def _poison(self, cause: Exception, runs: list[Run]) -> None:
        """Answer what was persisting with an error that leaves its outcome open."""
        self._in_flight_ms.clear()
        self.failure = str(cause) or type(cause).__name__
        self._on_failure(self.failure)
        # There will be no batch any more that could bring them on.
        self._give_up_unanswered()
        self._leave_open(runs, str(cause))

    def _leave_open(self, runs: list[Run], why: str) -> None:
        self._fail(runs, error_reply(ErrorCode.ENG_002, err=why))
        self._finish(len(runs))
        self._after_batch()

    def _refuse(self, runs: list[Run]) -> None:
        """Answer what came after the failure and was never written."""
        self._fail(runs, error_reply(ErrorCode.SRV_005))
        self._finish(len(runs))
        self._after_batch()

    def _finish(self, run_count: int) -> None:
        self._finished_count += run_count
        waiters = self._applied_waiters
        while waiters and waiters[0][0] <= self._finished_count:
            self._loop.call_soon(waiters.popleft()[1])

    def _fail(self, runs: list[Run], reply: ErrorReply) -> None:
        for run in runs:
            run.owner.fail(run, reply)
        for run in runs:
            run.owner.flush()

    def _after_batch(self) -> None:
        if self._gathering or self._chores:
            self._schedule_turn()
        elif self._drain_waiters and not self._persisting:
            waiters, self._drain_waiters = self._drain_waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


def _persist(log: LogPort, batch: Batch) -> float | Exception:
    """Append and sync; return the seconds it took, or what went wrong. Runs on any one thread."""
    started = time.perf_counter()
    try:
        log.append((batch,))
    except Exception as error:  # noqa: BLE001  # A backend may fail in ways of its own.
        return error
    return _sync(log, time.perf_counter() - started)


def _sync(log: LogPort, append_seconds: float) -> float | Exception:
    """Sync; return the seconds of append and sync, or what went wrong. Runs on any one thread."""
    started = time.perf_counter()
    try:
        log.sync()
    except Exception as error:  # noqa: BLE001  # A backend may fail in ways of its own.
        # Whatever it was, nobody knows what is on the disk now.
        return error
    return append_seconds + time.perf_counter() - started
