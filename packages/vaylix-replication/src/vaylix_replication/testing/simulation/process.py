"""One node: the core, driven as docs/replication.md says, on a disk and a clock that misbehave."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Protocol

from vaylix_replication import Batch, BatchKind, Configuration, RaftNode, Role, Settings
from vaylix_replication.errors import RefusedError
from vaylix_replication.messages import TimeoutNow
from vaylix_replication.testing.simulation.checks import vouched_entry
from vaylix_replication.testing.simulation.disk import Disk, Entry, PendingWrite, Waiting
from vaylix_replication.testing.simulation.happenings import Happening
from vaylix_replication.testing.simulation.history import Operation, OperationKind
from vaylix_replication.testing.simulation.machine import Machine
from vaylix_replication.testing.simulation.schedule import MILLISECOND

if TYPE_CHECKING:
    from vaylix_replication import Message, Ready, SnapshotChunk, SnapshotMeta
    from vaylix_replication.testing.simulation.world import World

__all__ = ["SEMANTICS_VERSION_MAX", "Observer", "Process"]

_COMMAND = 1
# The newest version of the semantics that any simulated program speaks.
SEMANTICS_VERSION_MAX = 4
_GATHER_US_MAX = 1000
_STALL_MS = 150


class Observer(Protocol):
    """Whoever has to know the moments at which trouble would hurt most."""

    def leader_elected(self, process: Process) -> None:
        """Learn that a process leads, and has told nobody yet."""

    def handing_over(self, process: Process) -> None:
        """Learn that a leader has asked another node to take over."""

    def log_cut(self, process: Process) -> None:
        """Learn that a write on its way to the disk replaces the end of the log."""


class Process:
    """A node that lives, dies and lives again on the same disk."""

    def __init__(
        self, world: World, node_id: str, configuration: Configuration, observer: Observer
    ) -> None:
        self._world = world
        self._observer = observer
        self.node_id = node_id
        self.disk = Disk(configuration, world.happenings)
        self.alive = False
        self.paused_until = 0
        # Counts the lives; what was scheduled in an earlier one is void.
        self.life = 0
        self._random = world.source(f"process {node_id}")
        drift = world.options.drift
        self._rate = 1 + self._random.uniform(-drift, drift)
        self.wall_offset_ms = 0
        # What the program speaks; a newer one comes with a restart, an older one never.
        self.semantics_version_max = 1
        if world.options.semantics_interval_ms:
            self.semantics_version_max = self._random.randint(1, SEMANTICS_VERSION_MAX)
        world.network.join(node_id, self.receive)
        self.start()

    # -- Life and death -------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a life with what is on the disk, unless one is going on."""
        if self.alive:
            return
        options, disk = self._world.options, self.disk
        self.alive = True
        self.life += 1
        settings = Settings(
            cluster_id="simulation",
            node_id=self.node_id,
            heartbeat_ticks=options.heartbeat_ticks,
            chunk_bytes_max=options.chunk_bytes,
            append_bytes_max=options.append_bytes,
            inflight_bytes_max=1024,
            window_bytes_max=512,
            apply_bytes_max=256,
            semantics_version_max=self.semantics_version_max,
        )
        restored = disk.restore()
        self.raft = RaftNode(
            settings, restored, log=disk.log, snapshots=disk.snapshots, draw=self._random.randint
        )
        latest = disk.snapshots.latest()
        self.machine = Machine(disk.snapshots.data if latest is not None else None)
        self._world.checks.restored(self.node_id, restored.snapshot.index, self.machine.digest)
        self.led_term = 0
        self._commit = self.raft.commit
        self._gathered: list[Operation] = []
        self._waiting: dict[int, Operation] = {}
        # By context. Contexts begin anew in every life: nobody promises the core to keep count.
        self._reading: dict[int, Operation] = {}
        self._context = 0
        self._snapshot_pending = False
        # The newest file that was received and verified, which a write may ask to install.
        self._verified = b""
        self._schedule_tick()

    def crash(self, *, in_cut: bool = False) -> None:
        """End a life at once; what is on its way to the disk may or may not arrive there.

        With `in_cut`, the log is cut and nothing is appended yet, if a cut is on its way.
        """
        assert self.alive
        self.alive = False
        self._world.checks.time.crashed(self._world.schedule.now)
        survivors = self._random.randint(0, len(self.disk.pending))
        if in_cut:
            survivors = self.disk.writes_before_cut()
        self.disk.crash(survivors, torn=in_cut or self._random.random() < 0.5)

    def crash_and_restart(self, *, in_cut: bool = False) -> None:
        """End a life, if there is one, and begin the next after a while."""
        if self.alive:
            self._world.happenings[Happening.CRASH] += 1
            self.crash(in_cut=in_cut)
            delay_us = int(self._world.outages.uniform(1, 500) * MILLISECOND)
            self._world.schedule.after(delay_us, self.start)

    def pause(self, duration_us: int) -> None:
        """Stop for a while, as SIGSTOP or a long garbage collection does."""
        self.paused_until = self._world.schedule.now + duration_us

    @property
    def is_leader(self) -> bool:
        """Whether it runs and leads."""
        return self.alive and self.raft.role is Role.LEADER

    @property
    def reachable(self) -> bool:
        """Whether a client gets through."""
        return self.alive and self._world.schedule.now >= self.paused_until

    # -- Clocks ---------------------------------------------------------------------------------

    def boot_time(self) -> int:
        """Return the clock for leases: it drifts, but it never jumps."""
        return int(self._world.schedule.now * self._rate)

    def wall_time_ms(self) -> int:
        """Return the clock that may jump."""
        return max(0, self._world.schedule.now // MILLISECOND + 10_000 + self.wall_offset_ms)

    def _schedule_tick(self) -> None:
        delay_us = int(self._world.options.tick_ms * MILLISECOND / self._rate)
        self._world.schedule.after(delay_us, self._tick, self.life)

    def _tick(self, life: int) -> None:
        if life != self.life or not self.alive:
            return
        self._schedule_tick()
        if self.reachable:
            self.raft.tick(lease_deadline=self.lease_deadline(), time_ms=self.wall_time_ms())
            self.pump()

    def lease_deadline(self) -> int | None:
        """Return until when the heartbeats of this moment may be trusted."""
        if not self._world.options.lease:
            return None
        return self.boot_time() + 8 * self._world.options.tick_ms * MILLISECOND

    # -- Requests -------------------------------------------------------------------------------

    def request(self, operation: Operation) -> None:
        """Take a request; raises `RefusedError` if it certainly does not happen."""
        if operation.kind is OperationKind.READ:
            self._read(operation)
        else:
            if self.raft.role is not Role.LEADER:
                raise RefusedError
            if not self._gathered:
                delay_us = int(self._random.random() * _GATHER_US_MAX)
                self._world.schedule.after(delay_us, self._propose_gathered, self.life)
            self._gathered.append(operation)

    def _read(self, operation: Operation) -> None:
        index = self.raft.lease_index(self.boot_time())
        if index is not None and self.raft.status().applied >= index:
            self._world.happenings[Happening.LEASE_READ] += 1
            self._answer_read(operation, self.raft.confirmed_time_ms)
            return
        self._context += 1
        self.raft.read_index(self._context)
        self._reading[self._context] = operation
        self.pump()

    def _answer_read(self, operation: Operation, time_ms: int) -> None:
        """Answer as of a time that a majority has heard, or of what is applied if that is later."""
        answer = self.machine.values.get(operation.key, 0)
        operation.caller.answered(operation, answer, time_ms, self.machine.time_ms)

    def _propose_gathered(self, life: int) -> None:
        if life != self.life or not self.alive:
            return
        operations, self._gathered = self._gathered, []
        numbers = [operation.number for operation in operations]
        batch = Batch.create(
            first_index=self.raft.next_index,
            term=self.raft.term,
            kind=_COMMAND,
            count=len(numbers),
            timestamp_ms=max(self.raft.time_ms, self.wall_time_ms()),
            payload=struct.pack(f">{len(numbers)}I", *numbers),
        )
        try:
            self.raft.propose(batch)
        except RefusedError:
            for operation in operations:
                operation.caller.refused(operation)
            return
        for operation in operations:
            self._waiting[operation.number] = operation
        self.pump()

    # -- Driving the core -----------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """Take a message from the network."""
        if not self.alive:
            return
        remaining = self.paused_until - self._world.schedule.now
        if remaining > 0:
            self._world.schedule.after(remaining, self.receive, message)
            return
        self.raft.step(message)
        self.pump()

    def pump(self) -> None:
        """Do everything that the core wants done."""
        raft = self.raft
        while raft.has_ready:
            self._handle(raft.ready())
        if raft.commit != self._commit:
            self._world.checks.commit_moved(self.node_id, self._commit, raft.commit)
            self._commit = raft.commit
        if raft.role is Role.LEADER and raft.term != self.led_term:
            self.led_term = raft.term
            self._world.checks.leads(self)
            self._observer.leader_elected(self)

    def _handle(self, ready: Ready) -> None:
        for waiting in self._outgoing(ready.messages):
            self.send(*waiting)
        for chunk in ready.snapshot_chunks:
            self._take_chunk(chunk)
        if ready.write is not None:
            self._begin_write(ready)
        else:
            self._send_after_writes(ready)
        if ready.committed:
            for batch in ready.committed:
                self._apply(batch)
            self.raft.applied(ready.committed[-1].last_index)
            self._consider_snapshot()
        for read in ready.reads:
            self._answer_read(self._reading.pop(read.context), read.time_ms)
        for context in ready.reads_dropped:
            operation = self._reading.pop(context)
            operation.caller.refused(operation)

    def _send_after_writes(self, ready: Ready) -> None:
        """Let messages wait for the newest write that is on its way, if there is one."""
        outgoing = self._outgoing(ready.messages_after_write)
        if self.disk.pending:
            self.disk.pending[-1].messages.extend(outgoing)
            return
        for waiting in outgoing:
            self.send(*waiting)

    def _outgoing(self, messages: list[tuple[str, Message]]) -> list[Waiting]:
        return [(name, message, vouched_entry(self.raft, message)) for name, message in messages]

    def send(self, recipient: str, message: Message, entry: Entry | None) -> None:
        """Let a message leave."""
        self._world.checks.leaves(self, recipient, message, entry)
        self._world.network.send(self.node_id, recipient, message)
        if type(message) is TimeoutNow:
            self._observer.handing_over(self)

    def _apply(self, batch: Batch) -> None:
        machine = self.machine
        machine.take(batch)
        if batch.kind == BatchKind.SEMANTICS:
            version = int.from_bytes(batch.payload, "big")
            self._world.checks.semantics(self.node_id, version, self.semantics_version_max)
        if batch.kind == _COMMAND:
            operations = self._world.history.operations
            for number in struct.unpack(f">{batch.count}I", batch.payload):
                operation = operations[number]
                answer = machine.apply(operation)
                if operation.applied_at is None:
                    operation.applied_at = self._world.schedule.now
                    operation.applied_answer = answer
                    operation.rank = batch.last_index
                if self._waiting.pop(number, None) is not None:
                    operation.caller.answered(operation, answer, 0, machine.time_ms)
        self._world.checks.applied(self.node_id, self.raft.term, batch, machine.digest)

    # -- The disk -------------------------------------------------------------------------------

    def _begin_write(self, ready: Ready) -> None:
        write = ready.write
        assert write is not None
        if write.batches:
            prev_term = self.raft.term_at(write.batches[0].first_index - 1)
            assert prev_term is not None
            self._world.checks.appended(write.batches, prev_term)
        data = self._verified if write.install is not None else b""
        waiting = self._outgoing(ready.messages_after_write)
        self.disk.pending.append(PendingWrite(write, data, waiting))
        if len(self.disk.pending) == 1:
            self._schedule_sync()
        if write.truncate_after is not None:
            self._observer.log_cut(self)

    def _schedule_sync(self) -> None:
        options, source = self._world.options, self._random
        delay_us = int(source.random() * options.sync_ms_max * MILLISECOND)
        if self._world.faulty and source.random() < options.sync_stall:
            delay_us += int(source.random() * _STALL_MS * MILLISECOND)
            self._world.happenings[Happening.SYNC_STALL] += 1
        self._world.schedule.after(delay_us, self._synced, self.life)

    def _synced(self, life: int) -> None:
        if life != self.life or not self.alive:
            return
        options, source = self._world.options, self._random
        if self._world.faulty and source.random() < options.sync_failure:
            self.sync_failed()
            return
        pending = self.disk.complete_oldest()
        if self.disk.pending:
            self._schedule_sync()
        if pending.write.install is not None:
            self._world.happenings[Happening.INSTALL] += 1
            self.machine = Machine(pending.data)
            index = pending.write.install.index
            self._world.checks.restored(self.node_id, index, self.machine.digest)
        self.raft.persisted(pending.write.index, pending.write.term)
        for waiting in pending.messages:
            self.send(*waiting)
        self.pump()

    def sync_failed(self) -> None:
        """End: a failed sync is never tried again, and what the disk has is seen at the restart."""
        self._world.happenings[Happening.SYNC_FAILURE] += 1
        if self._random.random() < 0.5:
            self._world.happenings[Happening.PAGES_LOST] += 1
            self.disk.lose_pending()
        self.crash_and_restart()

    # -- Snapshots ------------------------------------------------------------------------------

    def _consider_snapshot(self) -> None:
        entries = self._world.options.snapshot_entries
        status = self.raft.status()
        if not entries or self._snapshot_pending:
            return
        if status.applied - status.first_index + 1 < entries:
            return
        data = self.machine.snapshot()
        digest = zlib.crc32(data).to_bytes(4, "big")
        meta = self.raft.describe_snapshot(status.applied, digest, len(data))
        self._snapshot_pending = True
        delay_us = int(self._random.random() * 20 * MILLISECOND)
        self._world.schedule.after(delay_us, self._snapshot_saved, self.life, meta, data)

    def _snapshot_saved(self, life: int, meta: SnapshotMeta, data: bytes) -> None:
        if life != self.life or not self.alive:
            return
        self._snapshot_pending = False
        if meta.index >= self.raft.status().first_index:
            self._world.happenings[Happening.SNAPSHOT] += 1
            self.raft.compact(meta.index)
            self.disk.save_snapshot(meta, data)

    def _take_chunk(self, chunk: SnapshotChunk) -> None:
        snapshots, source = self.disk.snapshots, self._random
        snapshots.receive(chunk.offset_bytes, chunk.data)
        if chunk.is_last:
            # Reading and syncing a whole file takes time, and meanwhile the next one may begin.
            delay_us = int(source.random() * self._world.options.verify_ms_max * MILLISECOND)
            arguments = (self.life, chunk.meta, snapshots.received())
            self._world.schedule.after(delay_us, self._snapshot_verified, *arguments)

    def _snapshot_verified(self, life: int, meta: SnapshotMeta, data: bytes) -> None:
        if life != self.life or not self.alive:
            return
        self._verified = data
        valid = zlib.crc32(data).to_bytes(4, "big") == meta.snapshot_id
        self.raft.snapshot_received(meta, valid=valid)
        self.pump()
