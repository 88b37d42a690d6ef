"""A whole group in one process, without faults: every write succeeds, every message arrives.

The shortest complete driver of `RaftNode`. It is what examples and benchmarks run on; the
simulator next door is for everything that goes wrong.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from typing import TYPE_CHECKING

from vaylix_replication import (
    Batch,
    BatchKind,
    Configuration,
    RaftNode,
    Restored,
    Role,
    Settings,
)
from vaylix_replication.testing.memory import MemoryLog, MemorySnapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vaylix_replication import Message, Ready, SnapshotMeta

__all__ = ["LockstepGroup", "LockstepNode"]


class LockstepNode:
    """One node with its disk, and what it has applied."""

    def __init__(self, settings: Settings, configuration: Configuration, seed: int) -> None:
        self.node_id = settings.node_id
        self.log = MemoryLog()
        self.snapshots = MemorySnapshots()
        self.applied: list[Batch] = []
        self.reads: list[int] = []
        self.reads_dropped: list[int] = []
        self.raft = RaftNode(
            settings,
            Restored.first_start(configuration),
            log=self.log,
            snapshots=self.snapshots,
            draw=random.Random(seed).randint,  # noqa: S311 - a seed decides, not a secret
        )

    def handle(self, ready: Ready, send: Callable[[str, str, Message], None]) -> None:
        """Carry out the duties of a driver, in their order."""
        for recipient, message in ready.messages:
            send(self.node_id, recipient, message)
        for chunk in ready.snapshot_chunks:
            self.snapshots.receive(chunk.offset_bytes, chunk.data)
            if chunk.is_last:
                digest = snapshot_id(self.snapshots.received())
                self.raft.snapshot_received(chunk.meta, valid=digest == chunk.meta.snapshot_id)
        if ready.write is not None:
            if ready.write.install is not None:
                self._install(ready.write.install)
            self.log.write(ready.write)
            self.raft.persisted(ready.write.index, ready.write.term)
        for recipient, message in ready.messages_after_write:
            send(self.node_id, recipient, message)
        if ready.committed:
            self.applied.extend(ready.committed)
            self.raft.applied(ready.committed[-1].last_index)
        self.reads.extend(read.context for read in ready.reads)
        self.reads_dropped.extend(ready.reads_dropped)

    def _install(self, meta: SnapshotMeta) -> None:
        self.snapshots.store(meta, self.snapshots.received())
        self.applied.clear()

    def compact(self) -> None:
        """Take a snapshot of everything applied and drop the log before it.

        What the snapshot holds does not matter here; it is as long as the history it replaces.
        """
        index = self.raft.status().applied
        data = b"".join(batch.payload for batch in self.applied)
        meta = self.raft.describe_snapshot(index, snapshot_id(data), len(data))
        self.snapshots.store(meta, data)
        self.raft.compact(index)
        self.log.drop_before(index)


class LockstepGroup:
    """Nodes that are connected by queues.

    `cut` names the nodes that nothing reaches or leaves, `cut_links` single links, from and to.
    """

    def __init__(self, node_ids: Iterable[str], *, seed: int = 0, **settings: int) -> None:
        self._settings = settings
        self._seed = seed
        self.nodes: dict[str, LockstepNode] = {}
        self.cut: set[str] = set()
        self.cut_links: set[tuple[str, str]] = set()
        self._wire: deque[tuple[str, Message]] = deque()
        configuration = Configuration.of_voters(dict.fromkeys(node_ids, ""))
        for member in configuration.members:
            self.add(member.node_id, configuration)

    def add(self, node_id: str, configuration: Configuration | None = None) -> LockstepNode:
        """Start a node; without a configuration it waits to be told of one."""
        settings = Settings(cluster_id="group", node_id=node_id, **self._settings)
        seed = zlib.crc32(f"{self._seed}/{node_id}".encode())
        node = LockstepNode(settings, configuration or Configuration(), seed)
        self.nodes[node_id] = node
        return node

    @property
    def leader(self) -> LockstepNode | None:
        """The leader of the newest term, if any."""
        leaders = [node for node in self.nodes.values() if node.raft.role is Role.LEADER]
        return max(leaders, key=lambda node: node.raft.term, default=None)

    def tick(self, times: int = 1) -> None:
        """Let time pass for everybody, delivering everything in between."""
        for _ in range(times):
            for node in self.nodes.values():
                node.raft.tick()
            self.settle()

    def elect(self) -> LockstepNode:
        """Let time pass until there is a leader that everybody reachable follows."""
        for _ in range(1000):
            self.tick()
            leader = self.leader
            if leader is not None and leader.raft.status().applied == leader.raft.commit > 0:
                return leader
        raise AssertionError("no leader")

    def propose(self, payload: bytes, *, count: int = 1, kind: int = 1) -> Batch:
        """Propose a batch on the leader; it moves with the next `settle`."""
        leader = self.leader
        assert leader is not None
        assert kind not in list(BatchKind)
        batch = Batch.create(
            first_index=leader.raft.next_index,
            term=leader.raft.term,
            kind=kind,
            payload=payload,
            count=count,
            timestamp_ms=leader.raft.time_ms,
        )
        leader.raft.propose(batch)
        return batch

    def settle(self) -> None:
        """Run until nothing is left to do."""
        busy = True
        while busy:
            busy = False
            for node in self.nodes.values():
                while node.raft.has_ready:
                    busy = True
                    node.handle(node.raft.ready(), self._send)
            while self._wire:
                busy = True
                recipient, message = self._wire.popleft()
                self.nodes[recipient].raft.step(message)

    def _send(self, sender: str, recipient: str, message: Message) -> None:
        cut = self.cut.intersection((sender, recipient)) or (sender, recipient) in self.cut_links
        if not cut and recipient in self.nodes:
            self._wire.append((recipient, message))


def snapshot_id(data: bytes) -> bytes:
    """Return what tells two snapshots of the same index apart."""
    return zlib.crc32(data).to_bytes(4, "big")
