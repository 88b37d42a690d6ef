"""Snapshots of a running server: when they are taken, and how nobody notices.

Life of a snapshot
------------------

1. All that was submitted before is applied; then the state is held, at no cost, as it is then.
2. Piece by piece it is encoded on the loop, a fraction of a millisecond between two turns, and
   compressed, sealed and written by a thread of its own. Requests go on meanwhile.
3. Between two batches the segment of the log is ended, so that all the snapshot builds on is on the
   disk, and the manifest names the snapshot: now it counts.
4. What the retention policy does not ask for any more is archived, if that is wanted, and removed.

One is taken at a time. Whoever asks while one is under way gets the next, since the one under
way need not hold what that client has written before it asked.

While a restore builds its keyspace no state is held: what was built so far would be in neither the
snapshot nor the log behind. Whoever asks waits until the restore is complete or given up, but for a
server that stops: it refuses, and the next start replays the log.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from vaylix_server.state_snapshot import StateSnapshot
from vaylix_storage.errors import LogPoisonedError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_server.eventlog import EventLog
    from vaylix_server.machine import StateMachine
    from vaylix_server.metrics import Metrics
    from vaylix_server.settings import Settings
    from vaylix_server.walk_guard import WalkGuard
    from vaylix_server.write_path import WritePath
    from vaylix_storage.backend import SnapshotSink, Storage

__all__ = ["Snapshotter"]

_T = TypeVar("_T")
# What fills or breaks a disk does not go away by itself, and each attempt writes the whole state.
RETRY_SECONDS = 10.0


class Snapshotter:
    """Takes snapshots on demand and when they are due. All methods run on the loop's thread."""

    def __init__(
        self,
        *,
        settings: Settings,
        storage: Storage,
        machine: StateMachine,
        write_path: WritePath,
        walk: WalkGuard,
        metrics: Metrics,
        log: EventLog,
        wall_ms: Callable[[], int],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._snapshots = storage.snapshots
        self._storage_log = storage.log
        self._machine = machine
        self._write_path = write_path
        self._walk = walk
        self._metrics = metrics
        self._log = log
        self._wall_ms = wall_ms
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vaylix-snapshot")
        # Who waits for the next snapshot to begin and end.
        self._waiting: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._begun_at = self._loop.time()
        # What the log had when the last snapshot was done; what it had at the start counts as new.
        self._log_bytes = 0
        # When a log that is long enough may ask again after a failure.
        self._retry_at = 0.0
        current = storage.snapshots.current
        self._last_index = 0 if current is None else current.index
        self.last_at_ms = None if current is None else current.created_at_ms
        self.last_duration_ms: int | None = None

    async def take(self) -> None:
        """Take a snapshot of everything that is submitted now; return when it counts.

        Raises StorageError, also for a restore that is under way while the server stops. Does
        nothing when the last snapshot holds everything already.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(done)
        self._begin()
        await done

    def look(self) -> None:
        """Begin a snapshot that is due; to be called every now and then."""
        if self._task is None and not self._waiting and self._is_due():
            done: asyncio.Future[None] = self._loop.create_future()
            done.add_done_callback(self._judge_own)
            self._waiting.append(done)
        self._begin()

    def begin_stop(self) -> None:
        """Let nobody wait for the end of a restore any more, which may never come."""
        self._is_stopping = True
        self._begin()

    async def close(self) -> None:
        """Let the snapshot under way end, refuse those that wait, and stop the thread."""
        self._refuse_waiting()
        if self._task is not None:
            await self._task
        self._thread.shutdown(wait=True)

    def _judge_own(self, done: asyncio.Future[None]) -> None:
        """Pass on what nobody could expect; any other failure was logged, and comes again."""
        error = done.exception()
        if error is not None and not isinstance(error, StorageError | OSError):
            self._loop.call_exception_handler({"message": "a snapshot failed", "exception": error})

    def _is_due(self) -> bool:
        """Say whether time or the length of the log ask for a snapshot."""
        if self._write_path.failure is not None or self._machine.last_applied == self._last_index:
            return False
        interval = self._settings.snapshot_interval_seconds
        if interval is not None and self._loop.time() - self._begun_at >= interval:
            return True
        if self._loop.time() < self._retry_at:
            return False
        bound = self._settings.snapshot_wal_bytes
        return bound > 0 and self._storage_log.size_bytes - self._log_bytes >= bound

    def _begin(self) -> None:
        if not self._waiting or self._task is not None:
            return
        if not self._machine.keyspace.is_being_restored:
            self._task = self._loop.create_task(self._serve_waiting())
        elif self._is_stopping:
            self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            if not done.done():
                done.set_exception(StorageError("the server is stopping"))

    async def _serve_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        failure: Exception | None = None
        try:
            if not await self._take():
                self._waiting = waiting + self._waiting
                waiting = []
        except Exception as error:  # noqa: BLE001 - whoever waits has to hear of it.
            failure = error
            self._retry_at = self._loop.time() + RETRY_SECONDS
            self._log.error("server.snapshotter", f"no snapshot was taken: {error}")
        for done in waiting:
            if done.done():
                continue
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)
        self._task = None
        self._begin()

    async def _take(self) -> bool:
        """Take a snapshot; False when a restore has begun meanwhile."""
        self._begun_at = started = self._loop.time()
        applied = asyncio.Event()
        self._write_path.when_applied(applied.set)
        await applied.wait()
        if self._write_path.failure is not None:
            raise LogPoisonedError(f"the log has failed: {self._write_path.failure}")
        async with self._walk.alone():
            # Asked only now: nothing comes between this question and the walk.
            if self._machine.keyspace.is_being_restored:
                return False
            if self._machine.last_applied == self._last_index:
                return True
            state = StateSnapshot(self._machine, created_at_ms=self._wall_ms())
            try:
                writer = await self._in_thread(lambda: self._snapshots.create(state.meta))
                await self._write(state, writer)
            finally:
                state.close()
        self._last_index, self.last_at_ms = state.meta.index, state.meta.created_at_ms
        self.last_duration_ms = round((self._loop.time() - started) * 1000)
        self._metrics.snapshots += 1
        await self._retain()
        self._log_bytes = self._storage_log.size_bytes
        return True

    async def _write(self, state: StateSnapshot, writer: SnapshotSink) -> None:
        """Write all pieces, one in the thread while the next one is encoded, and commit."""
        try:
            section = ""
            writing: asyncio.Future[None] | None = None
            while (piece := state.next_piece()) is not None:
                name, plain, count = piece
                if writing is not None:
                    await writing
                writing = self._in_thread(_add(writer, name, plain, count, is_new=name != section))
                section = name
                # Requests that came meanwhile have their turn before the next piece.
                await asyncio.sleep(0)
            if writing is not None:
                await writing
            await self._in_thread(writer.finish)
            now_ms = self._wall_ms()
            await self._write_path.between_batches(lambda: self._snapshots.commit(now_ms))
        except BaseException:
            await self._in_thread(writer.abandon)
            raise

    async def _retain(self) -> None:
        """Archive in the thread; remove between two batches, since the log must stand still."""
        try:
            await self._in_thread(self._snapshots.archive)
            await self._write_path.between_batches(self._snapshots.prune)
        except (StorageError, OSError) as error:
            # The snapshot counts; what should have gone is still there, and nothing is lost.
            self._log.error("server.snapshotter", f"old files could not be removed: {error}")

    def _in_thread(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        return self._loop.run_in_executor(self._thread, work)


def _add(
    writer: SnapshotSink, section: str, plain: bytes, count: int, *, is_new: bool
) -> Callable[[], None]:
    def add() -> None:
        if is_new:
            writer.begin_section(section)
        writer.add(plain, count)

    return add
