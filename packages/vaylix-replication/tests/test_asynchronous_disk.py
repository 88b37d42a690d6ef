"""Several writes on their way at once, and what the report of each of them proves."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaylix_replication import Batch, BatchKind, HardState, Write
from vaylix_replication._log import RaftLog
from vaylix_replication.messages import AppendReply, HeartbeatReply, InstallSnapshot
from vaylix_replication.ports import SnapshotMeta
from vaylix_replication.testing import MemoryLog
from vaylix_replication.testing.solo import GROUP, SoloNode, make_batches


def report_oldest(node: SoloNode) -> None:
    write = node.held_writes.pop(0)
    node.log.write(write)
    node.raft.persisted(write.index, write.term)


def test_several_writes_may_be_outstanding_and_are_reported_in_order() -> None:
    node = SoloNode(voters="a")
    node.lead()
    node.disk_held = True
    for _ in range(3):
        node.propose()
    assert [w.index for w in node.held_writes] == [2, 3, 4]
    report_oldest(node)
    node.run()
    assert (node.raft.commit, len(node.applied)) == (2, 2)
    report_oldest(node)
    report_oldest(node)
    node.run()
    assert (node.raft.commit, len(node.applied)) == (4, 4)


def test_a_report_out_of_order_is_a_mistake_of_the_driver() -> None:
    node = SoloNode(voters="a")
    node.lead()
    node.disk_held = True
    node.propose()
    node.propose()
    with pytest.raises(AssertionError, match="in order"):
        node.raft.persisted(3, 1)


def test_a_late_report_does_not_vouch_for_an_entry_that_was_cut_and_came_back() -> None:
    """The story of `_writes`, step by step."""
    node = SoloNode([1] * 4)
    entry = make_batches([1], first_index=5)
    node.disk_held = True
    node.receive(node.append(*entry, sender="b", term=1, prev=(4, 1)))
    node.receive(node.append(*make_batches([2], first_index=5), sender="c", term=2, prev=(4, 1)))
    node.receive(node.append(*entry, sender="b", term=3, prev=(4, 1)))
    assert [w.truncate_after for w in node.held_writes] == [None, 4, 4]
    report_oldest(node)
    assert node.raft.status().durable_index == 4
    report_oldest(node)
    assert node.raft.status().durable_index == 4
    report_oldest(node)
    assert node.raft.status().durable_index == 5


def test_a_report_from_before_an_install_proves_nothing_about_the_log_after_it() -> None:
    """The batch that it reports was cut, and came back as the end of the snapshot and beyond."""
    node = SoloNode([1] * 4)
    entries = make_batches([1] * 5, first_index=5)
    node.disk_held = True
    node.receive(node.append(*entries, sender="b", term=1, prev=(4, 1)))
    node.receive(node.append(*make_batches([2], first_index=5), sender="c", term=2, prev=(4, 1)))
    meta = SnapshotMeta(
        index=8,
        term=1,
        checksum=entries[3].checksum,
        configuration=node.raft.status().configuration,
        size_bytes=1,
    )
    snapshot = InstallSnapshot(
        cluster_id=GROUP,
        sender="b",
        term=3,
        meta=meta,
        offset_bytes=0,
        data=b"x",
        round=1,
        time_ms=0,
    )
    node.receive(snapshot)
    node.raft.snapshot_received(meta, valid=True)
    node.run()
    append = node.append(entries[4], sender="b", term=3, prev=(8, 1))
    node.receive(msgspec.structs.replace(append, prev_checksum=meta.checksum))
    ends = [(9, 1), (5, 2), (5, 2), (8, 1), (9, 1)]
    assert [(write.index, write.term) for write in node.held_writes] == ends
    durable = []
    while node.held_writes:
        report_oldest(node)
        durable.append(node.raft.status().durable_index)
    assert durable == [0, 0, 0, 8, 9]


def test_a_repeated_append_is_acknowledged_at_once_only_if_it_is_durable() -> None:
    node = SoloNode([1])
    entry = make_batches([1], first_index=2)
    node.disk_held = True
    assert node.receive(node.append(*entry, term=1, prev=(1, 1))) == []
    assert node.receive(node.append(*entry, term=1, prev=(1, 1))) == []
    node.flush()
    assert len(node.of_kind(AppendReply)) == 2
    ((_, answer),) = node.receive(node.append(*entry, term=1, prev=(1, 1)))
    assert isinstance(answer, AppendReply)


def test_nothing_leaves_in_a_term_that_is_not_durable() -> None:
    node = SoloNode([1])
    node.disk_held = True
    assert node.receive(node.heartbeat(term=3)) == []
    node.flush()
    assert [m.term for m in node.of_kind(HeartbeatReply)] == [3]


def test_a_write_holds_the_hard_state_and_the_cut_beside_the_batches() -> None:
    node = SoloNode([1, 1])
    node.disk_held = True
    node.receive(node.append(*make_batches([4], first_index=2), term=4, prev=(1, 1)))
    (write,) = node.held_writes
    assert (write.truncate_after, write.index, write.term) == (1, 2, 4)
    assert write.hard_state == HardState(term=4, vote=None, commit=0)


def test_memory_has_a_bound_although_nothing_may_be_applied() -> None:
    """Behind a version that the node does not speak, the log goes on to grow, on disk only."""
    node = SoloNode([1], window_bytes_max=1000)
    switch = Batch.create(
        first_index=2, term=1, kind=BatchKind.SEMANTICS, payload=(2).to_bytes(4, "big")
    )
    node.receive(node.append(switch, term=1, prev=(1, 1), commit=2))
    log = node.raft._state.log
    prev = switch
    for index in range(3, 203):
        (batch,) = make_batches([1], first_index=index)
        append = node.append(batch, term=1, prev=(index - 1, 1), commit=index)
        node.receive(msgspec.structs.replace(append, prev_checksum=prev.checksum))
        prev = batch
        assert log.window_bytes <= 1250
    assert (node.raft.commit, len(node.applied)) == (202, 1)
    assert log.find(3).first_index == 3


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, 2)),
            st.tuples(st.just("truncate"), st.integers(0, 5)),
            st.tuples(st.just("compact"), st.integers(0, 5)),
            st.tuples(st.just("write"), st.just(0)),
        ),
        max_size=40,
    ),
    st.sampled_from([1, 200, 10_000]),
)
@settings(max_examples=150)
def test_the_view_of_the_log_equals_a_list(steps: list[tuple[str, int]], window: int) -> None:
    disk = MemoryLog()
    log = RaftLog(disk, SnapshotMeta(), window)
    terms: list[int] = []
    base, term = 0, 1
    for name, amount in steps:
        if name == "append":
            term += amount
            (batch,) = make_batches([term], first_index=len(terms) + 1)
            log.append(batch)
            terms.append(term)
        elif name == "truncate":
            keep = max(base, len(terms) - amount)
            if keep < len(terms):
                log.truncate_after(keep)
                del terms[keep:]
        elif name == "compact":
            log.compact(min(base + amount, log.durable_index))
            base = max(base, min(base + amount, log.durable_index))
            disk.drop_before(base)
        else:
            _write_everything(log, disk)
            log.evict()
        assert log.last_index == len(terms)
        for index in range(base + 1, len(terms) + 1):
            assert log.term_at(index) == terms[index - 1]
            assert log.find(index).first_index == index
        assert log.term_at(len(terms) + 1) is None
        if base < len(terms):
            everything = log.read(base + 1, 10**9)
            assert everything[0].first_index == base + 1
            assert log.last_index_with_term_at_most(10**9, 10**9) == len(terms)


def _write_everything(log: RaftLog, disk: MemoryLog) -> None:
    write = Write(
        index=log.last_index,
        term=log.last_term,
        hard_state=HardState(),
        truncate_after=log.pending_cut,
        batches=log.unhanded(),
    )
    log.pending_cut = None
    disk.write(write)
    log.durable_index = log.last_index


@pytest.mark.parametrize(("field", "value"), [("commit", 9), ("handed_out", 0), ("applied", 2)])
def test_a_broken_invariant_stops_the_node_before_anything_leaves(field: str, value: int) -> None:
    node = SoloNode([1])
    node.receive(node.append(term=1, commit=1))
    setattr(node.raft._state, field, value)
    with pytest.raises(AssertionError):
        node.receive(node.append(*make_batches([1], first_index=2), term=1, prev=(1, 1)))
