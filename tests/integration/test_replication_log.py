"""The real log, behind the port of the replication core, is the log that its simulator has."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vaylix_replication
import vaylix_storage
from vaylix_replication import (
    Batch,
    Configuration,
    HardState,
    LogReader,
    RaftNode,
    Restored,
    Role,
    Settings,
    SnapshotMeta,
    Write,
)
from vaylix_replication.testing import MemoryLog, MemorySnapshots
from vaylix_server.replication_log import ReplicationLog
from vaylix_storage import Log, LogBase, LogOptions, SyncPolicy
from vaylix_storage.errors import CorruptionError
from vaylix_storage.testing import (
    MemoryVfs,
    SimulatedCrash,
    Survival,
    counting_random_bytes,
    fixed_keyring,
)

DIRECTORY = Path("/data/wal")
KEYSPACE = int(vaylix_storage.BatchKind.KEYSPACE)


def open_log(
    vfs: MemoryVfs,
    policy: SyncPolicy = SyncPolicy.SYNC,
    *,
    base: LogBase | None = None,
    install: Callable[[SnapshotMeta], None] | None = None,
) -> ReplicationLog:
    log = Log.open(
        DIRECTORY,
        vfs=vfs,
        keyring=fixed_keyring(),
        options=LogOptions(
            timeline=b"t" * 16, sync_policy=policy, segment_bytes_max=1500, base=base
        ),
        random_bytes=counting_random_bytes(vfs.generation),
    )
    return ReplicationLog(log, install=install)


def data_vfs() -> MemoryVfs:
    vfs = MemoryVfs()
    vfs.make_directory(DIRECTORY.parent)
    return vfs


def make_batch(first_index: int, term: int, payload: bytes, count: int = 1) -> Batch:
    return Batch.create(
        first_index=first_index,
        term=term,
        kind=KEYSPACE,
        payload=payload,
        count=count,
        timestamp_ms=7,
    )


def read_back(log: LogReader, index: int, bytes_max: int) -> list[Batch]:
    return list(log.read(index, bytes_max))


class Writer:
    """Draws writes as a node might ask for them, given what the log holds."""

    def __init__(self, data: st.DataObject, model: MemoryLog) -> None:
        self._data = data
        self._model = model

    def draw(self) -> Write:
        data, old = self._data, self._model.hard_state
        term = old.term + data.draw(st.integers(0, 2), "terms later")
        ends = [0, *(batch.last_index for batch in self._model.batches)]
        cut = data.draw(st.none() | st.sampled_from(ends), "cut after")
        last_index = self._model.last_index if cut is None else cut
        batches = []
        for size, count in data.draw(
            st.lists(st.tuples(st.integers(0, 400), st.integers(1, 5)), max_size=4), "batches"
        ):
            batches.append(make_batch(last_index + 1, term, bytes(size), count))
            last_index = batches[-1].last_index
        vote = data.draw(st.none() | st.sampled_from(["a", "Ärger", "n" * 255]), "vote")
        return Write(
            index=last_index,
            term=term,
            hard_state=HardState(term=term, vote=vote, commit=old.commit),
            truncate_after=cut,
            batches=tuple(batches),
        )


@given(st.data())
def test_it_reads_like_the_log_in_memory_also_after_a_power_cut(data: st.DataObject) -> None:
    vfs, model = data_vfs(), MemoryLog()
    log = open_log(vfs)
    writer = Writer(data, model)
    for _ in range(data.draw(st.integers(1, 6), "writes")):
        write = writer.draw()
        log.write(write)
        model.write(write)
        if data.draw(st.booleans(), "power cut"):
            vfs.power_cut(Survival.NOTHING, Survival.NOTHING)
            log = open_log(vfs)
        assert (log.last_index, log.hard_state) == (model.last_index, model.hard_state)
        for index in range(1, model.last_index + 1):
            for bytes_max in (0, 1, 399, 400, 401, 10_000):
                assert read_back(log, index, bytes_max) == read_back(model, index, bytes_max)


def test_a_crash_at_any_call_leaves_the_log_before_the_cut_or_after_it_or_all() -> None:
    first = tuple(make_batch(index, 1, bytes(300)) for index in range(1, 9))
    second = tuple(make_batch(index, 2, bytes(200)) for index in range(5, 8))
    old, new = HardState(term=1, vote="b"), HardState(term=2, vote="c", commit=3)
    outcomes = {
        "before": (list(first), old),
        "cut": (list(first[:4]), old),
        "after": ([*first[:4], *second], new),
    }
    seen = set()
    call, finished = 0, False
    while not finished:
        call += 1
        for survival in Survival:
            vfs = data_vfs()
            log = open_log(vfs)
            log.write(Write(index=8, term=1, hard_state=old, batches=first))
            vfs.crash_at(vfs.call_count + call)
            try:
                log.write(Write(index=7, term=2, hard_state=new, truncate_after=4, batches=second))
                finished = True
            except SimulatedCrash:
                pass
            vfs.power_cut(survival, survival)
            log = open_log(vfs)
            found = (read_back(log, 1, 10_000), log.hard_state)
            (name,) = (name for name, outcome in outcomes.items() if outcome == found)
            assert name == "after" or not finished
            seen.add(name)
    assert seen == set(outcomes)


def test_a_write_of_entries_and_a_new_vote_is_one_write_and_one_sync() -> None:
    vfs = data_vfs()
    log = open_log(vfs)
    for term in range(1, 4):
        first, last = log.last_index + 1, log.last_index + 2
        batches = (make_batch(first, term, b"one"), make_batch(last, term, b"two"))
        state = HardState(term=term, vote="me", commit=log.last_index)
        calls = vfs.call_count
        log.write(Write(index=last, term=term, hard_state=state, batches=batches))
        assert vfs.call_count == calls + 2
        vfs.power_cut()
        log = open_log(vfs)
        assert (log.hard_state, log.last_index) == (state, last)


def test_a_log_that_does_not_sync_is_found_out() -> None:
    log = open_log(data_vfs(), SyncPolicy.BUFFERED)
    batch = make_batch(1, 1, b"x")
    log.write(Write(index=1, term=1, hard_state=HardState(term=1), batches=(batch,)))
    batch = make_batch(2, 1, b"x")
    with pytest.raises(AssertionError, match="vouches for nothing"):
        log.write(Write(index=2, term=1, hard_state=HardState(term=1), batches=(batch,)))


def test_both_packages_mean_the_same_batch() -> None:
    fields = vaylix_replication.Batch.__struct_fields__
    assert fields == vaylix_storage.Batch.__struct_fields__
    for kind in vaylix_replication.BatchKind:
        assert int(vaylix_storage.BatchKind[kind.name]) == int(kind)
    ours = make_batch(9, 4, b"payload", 3)
    theirs = vaylix_storage.Batch.create(
        first_index=9, count=3, term=4, kind=KEYSPACE, timestamp_ms=7, payload=b"payload"
    )
    assert ours.checksum == theirs.checksum


def test_a_batch_that_was_changed_on_the_way_is_not_written() -> None:
    log = open_log(data_vfs())
    good = make_batch(1, 1, b"good")
    bad = Batch(1, 1, 1, KEYSPACE, 7, b"evil", good.checksum)
    with pytest.raises(CorruptionError):
        log.write(Write(index=1, term=1, hard_state=HardState(term=1), batches=(bad,)))
    assert log.last_index == 0


class Disk:
    """A log and the base that a manifest would hold, which is durable before the log is reset."""

    def __init__(self) -> None:
        self.vfs = data_vfs()
        self.base: LogBase | None = None

    def open(self) -> ReplicationLog:
        return open_log(self.vfs, base=self.base, install=self._install)

    def _install(self, meta: SnapshotMeta) -> None:
        self.base = LogBase(meta.index, meta.term, installed=True)


OLD = (make_batch(1, 1, b"one"), make_batch(2, 1, b"two"), make_batch(3, 2, b"three"))
FILLED = Write(index=3, term=2, hard_state=HardState(term=2, vote="a"), batches=OLD)


@pytest.mark.parametrize("meta", [SnapshotMeta(index=9, term=4), SnapshotMeta(index=2, term=1)])
def test_a_snapshot_takes_the_place_of_the_log_whenever_the_crash_comes(
    meta: SnapshotMeta,
) -> None:
    """The new log begins behind the snapshot; until then the old one is whole."""
    state = HardState(term=5, vote="b", commit=meta.index)
    new = make_batch(meta.index + 1, 5, b"new")
    install = Write(index=meta.index + 1, term=5, hard_state=state, install=meta, batches=(new,))
    after = make_batch(meta.index + 2, 5, b"after")
    call = 0
    finished = False
    while not finished:
        call += 1
        disk = Disk()
        log = disk.open()
        log.write(FILLED)
        disk.vfs.crash_at(disk.vfs.call_count + call)
        try:
            log.write(install)
            finished = True
        except SimulatedCrash:
            pass
        disk.vfs.power_cut(Survival.NOTHING, Survival.NOTHING)
        again = disk.open()
        if finished:
            assert read_back(again, meta.index + 1, 0) == [new]
            assert again.hard_state == state
        else:
            assert again.hard_state in (FILLED.hard_state, state)
            # The core asks again; what counts is that the snapshot is the base, and all goes on.
            again.write(install)
        rest = Write(index=after.last_index, term=5, hard_state=state, batches=(after,))
        again.write(rest)
        disk.vfs.power_cut(Survival.NOTHING, Survival.NOTHING)
        assert read_back(disk.open(), meta.index + 1, 1_000) == [new, after]
    assert call > 5


class Machine:
    """A group of one whose disk is the real log: the smallest driver there can be."""

    def __init__(self, vfs: MemoryVfs) -> None:
        self.log = open_log(vfs)
        self.applied: list[Batch] = []
        first = Restored.first_start(Configuration.of_voters({"a": ""}))
        self.raft = RaftNode(
            Settings(cluster_id="group", node_id="a"),
            Restored(hard_state=self.log.hard_state, snapshot=first.snapshot),
            log=self.log,
            snapshots=MemorySnapshots(),
            draw=random.Random(1).randint,
        )

    def lead(self) -> None:
        for _ in range(1000):
            self.raft.tick()
            self.run()
            if self.raft.role is Role.LEADER:
                return
        raise AssertionError("no election")

    def propose(self, payload: bytes) -> None:
        self.raft.propose(make_batch(self.raft.next_index, self.raft.term, payload))

    def run(self) -> None:
        while self.raft.has_ready:
            ready = self.raft.ready()
            if ready.write is not None:
                self.log.write(ready.write)
                self.raft.persisted(ready.write.index, ready.write.term)
            if ready.committed:
                self.applied.extend(ready.committed)
                self.raft.applied(ready.committed[-1].last_index)

    def values(self) -> list[bytes]:
        return [batch.payload for batch in self.applied if batch.kind == KEYSPACE]


def test_a_node_on_the_real_log_keeps_its_votes_and_commits_through_power_cuts() -> None:
    vfs = data_vfs()
    expected: list[bytes] = []
    terms: list[int] = []
    for life in range(5):
        machine = Machine(vfs)
        assert machine.raft.term == (terms[-1] if terms else 0)
        assert machine.log.hard_state.vote == ("a" if terms else None)
        machine.lead()
        terms.append(machine.raft.term)
        assert machine.values() == expected
        for number in range(20):
            value = b"%d/%d" % (life, number) * 10
            machine.propose(value)
            machine.run()
            expected.append(value)
        assert machine.values() == expected
        # Never handed to the disk, hence allowed to be lost.
        machine.propose(b"lost")
        vfs.power_cut(Survival.NOTHING, Survival.NOTHING)
    assert terms == sorted(set(terms)), "each life leads a term of its own"
