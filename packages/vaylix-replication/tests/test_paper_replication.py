"""A test per normative sentence of dissertation sections 3.5, 3.6 and 5.1 (snapshots)."""

from __future__ import annotations

import msgspec
import pytest

from vaylix_replication import Batch, BatchKind, HardState, Join, ProgressMode, Role, Settings
from vaylix_replication._limits import BATCHES_MAX
from vaylix_replication.errors import (
    BacklogFullError,
    CorruptionError,
    InvalidNameError,
    NotLeaderError,
    ProposalMismatchError,
    SettingsError,
    UnreadableBatchError,
)
from vaylix_replication.messages import (
    Append,
    AppendReply,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    decode_message,
    encode_message,
)
from vaylix_replication.testing import LockstepGroup
from vaylix_replication.testing.solo import COMMAND, GROUP, SoloNode, make_batches


def alive(node: SoloNode, sender: str) -> None:
    node.receive(
        HeartbeatReply(
            cluster_id=GROUP, sender=sender, term=node.raft.term, round=0, semantics_version_max=1
        )
    )


# -- 3.5 ------------------------------------------------------------------------------------------


def test_3_5_the_leader_retries_until_every_follower_has_everything() -> None:
    group = LockstepGroup("abc")
    leader = group.elect()
    slow = next(n for n in group.nodes if n != leader.node_id)
    group.cut = {slow}
    batches = [group.propose(b"%d" % n) for n in range(20)]
    group.settle()
    assert leader.applied[-1] == batches[-1]
    assert batches[0] not in group.nodes[slow].applied
    group.cut = set()
    group.tick(5)
    assert group.nodes[slow].applied == leader.applied


def test_3_5_equal_index_and_term_mean_equal_logs_up_to_there() -> None:
    """Log Matching, kept by the check of prev; another checksum is corruption, not repaired."""
    node = SoloNode([1, 1])
    other = Batch.create(first_index=2, term=1, kind=COMMAND, payload=b"other")
    with pytest.raises(CorruptionError, match="differs from the leader's"):
        node.raft.step(node.append(other, term=1, prev=(1, 1)))
    node = SoloNode([1, 1])
    wrong = node.append(*make_batches([1], first_index=3), term=1)
    damaged = Append(
        **{
            **{f: getattr(wrong, f) for f in wrong.__struct_fields__},
            "prev_checksum": wrong.prev_checksum ^ 1,
        }
    )
    with pytest.raises(CorruptionError, match="differs from the leader's"):
        node.raft.step(damaged)


def test_3_5_a_refusal_skips_a_whole_term() -> None:
    """One round trip per conflicting term, not per entry (the optimisation at the end of 3.5)."""
    node = SoloNode([1, *[4] * 100])
    answers = node.receive(node.append(sender="b", term=6, prev=(101, 5)))
    (refusal,) = [m for _, m in answers if isinstance(m, AppendReply)]
    assert (refusal.hint_index, refusal.hint_term) == (101, 4)
    leader = SoloNode([1, *[2] * 50, *[5] * 50])
    leader.lead()
    leader.receive(leader.append_reply("b", 101, hint=(101, 4)))
    assert leader.of_kind(Append)[-1].prev_index == 51


def test_3_5_a_follower_with_a_shorter_log_is_found_in_one_step() -> None:
    node = SoloNode([1] * 50)
    node.lead()
    node.receive(node.append_reply("b", 50, hint=(7, 1)))
    assert node.of_kind(Append)[-1].prev_index == 7


def test_3_5_an_old_refusal_is_ignored() -> None:
    node = SoloNode([1] * 5)
    node.lead()
    node.acknowledge("b", 6)
    sent = len(node.of_kind(Append))
    node.receive(node.append_reply("b", 5, hint=(2, 1)))
    assert len(node.of_kind(Append)) == sent
    assert node.raft.status().peers[0].mode is ProgressMode.REPLICATE


def test_3_5_a_refusal_of_an_earlier_probe_does_not_move_the_search() -> None:
    """Doubled by the network, it would start the search anew while an answer is on its way."""
    node = SoloNode([1] * 50)
    node.lead()
    refusal = node.append_reply("b", 50, hint=(7, 1))
    node.receive(refusal)
    assert node.of_kind(Append)[-1].prev_index == 7
    assert node.receive(refusal) == []
    assert node.receive(node.append_reply("b", 50, hint=(20, 1))) == []
    node.receive(node.append_reply("b", 7, hint=(3, 1)))
    assert node.of_kind(Append)[-1].prev_index == 3


def test_3_5_a_divergent_log_is_replaced_by_the_leaders() -> None:
    """Figure 3.6: missing entries, extra uncommitted entries, or both, over several terms."""
    leader_terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    for follower_terms in (
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ):
        leader = SoloNode(leader_terms, hard_state=HardState(term=7))
        follower = SoloNode(follower_terms, node_id="b", hard_state=HardState(term=7))
        leader.lead()
        exchange(leader, follower)
        assert follower.terms() == [*leader_terms, 8]


def exchange(leader: SoloNode, follower: SoloNode) -> None:
    """Let the two talk until the leader has nothing left to say."""
    position = 0
    while position < len(leader.sent):
        recipient, message = leader.sent[position]
        position += 1
        if recipient == "b" and isinstance(message, Append):
            for _, answer in follower.receive(message):
                leader.receive(answer)


def test_3_5_batches_travel_whole_within_the_bound_of_a_message() -> None:
    node = SoloNode(append_bytes_max=300)
    node.lead()
    node.acknowledge("b", 1)
    for _ in range(6):
        node.propose(b"x" * 100, count=10)
    large = node.propose(b"x" * 1000, count=3)
    sent = [m.batches for to, m in node.sent if to == "b" and isinstance(m, Append) and m.batches]
    assert all(len(batches) == 1 for batches in sent)
    assert sent[-1] == (large,)
    behind = SoloNode(append_bytes_max=400)
    behind.lead()
    behind.acknowledge("b", 1)
    for _ in range(4):
        behind.raft.propose(
            Batch.create(
                first_index=behind.raft.next_index,
                term=behind.raft.term,
                kind=COMMAND,
                payload=b"x" * 100,
            )
        )
    behind.run()
    sizes = [
        len(m.batches)
        for to, m in behind.sent
        if to == "b" and isinstance(m, Append) and m.prev_index >= 1
    ]
    assert sizes == [2, 2]


def test_10_2_1_appends_are_pipelined_within_the_bound_of_bytes_in_flight() -> None:
    """Without waiting for answers, but not without end (dissertation 10.2.1)."""
    node = SoloNode(inflight_bytes_max=400)
    node.lead()
    node.acknowledge("b", 1)
    for _ in range(10):
        node.propose(b"x" * 36)
    sent = [m for to, m in node.sent if to == "b" and isinstance(m, Append) and m.batches]
    assert sent[-1].batches[-1].last_index == 5
    node.acknowledge("b", 5)
    sent = [m for to, m in node.sent if to == "b" and isinstance(m, Append) and m.batches]
    assert sent[-1].batches[-1].last_index == 9


def test_10_2_1_a_probe_waits_for_its_answer() -> None:
    node = SoloNode([1])
    node.lead()
    for _ in range(3):
        node.propose()
    assert [len(m.batches) for to, m in node.sent if to == "b" and isinstance(m, Append)] == [1]


def test_3_5_lost_appends_are_noticed_by_the_next_sign_of_life() -> None:
    node = SoloNode([1])
    node.lead()
    node.acknowledge("b", 2)
    node.propose()
    node.propose()
    alive(node, "b")
    question = node.of_kind(Append)[-1]
    assert (question.prev_index, question.batches) == (4, ())
    node.receive(node.append_reply("b", 4, hint=(2, 2)))
    assert [b.first_index for b in node.of_kind(Append)[-1].batches] == [3, 4]


# -- 3.6 ------------------------------------------------------------------------------------------


def test_3_6_2_an_entry_of_an_older_term_is_not_committed_by_counting() -> None:
    """Figure 3.7: term 2 sits on a majority and can still be overwritten by term 3."""
    node = SoloNode([1, 2], voters="abcde", append_bytes_max=1)
    node.lead()
    for peer in "bc":
        node.receive(node.append_reply(peer, 2, hint=(1, 1)))
        node.acknowledge(peer, 2)
    assert node.raft.commit == 0
    for peer in "bc":
        node.acknowledge(peer, 3)
    assert node.raft.commit == 3


def test_3_6_2_a_new_leader_appends_an_entry_of_its_own_term() -> None:
    """6.4 and 3.6.2: the no-op makes everything before it committed."""
    node = SoloNode([1, 1])
    node.lead()
    noop = node.log.batches[-1]
    assert (noop.kind, noop.term, noop.count, noop.payload) == (BatchKind.NOOP, 2, 1, b"")


def test_3_6_3_a_commit_point_is_never_taken_from_unverified_entries() -> None:
    """A heartbeat may call committed only what it proves to be the same entry."""
    node = SoloNode([1, 1, 2])
    node.receive(node.heartbeat(term=5, commit=(3, 4)))
    assert node.raft.commit == 0
    node.receive(node.heartbeat(term=5, commit=(9, 4)))
    assert node.raft.commit == 0
    node.receive(node.heartbeat(term=5, commit=(2, 1)))
    assert node.raft.commit == 2


def test_3_8_only_what_is_on_the_own_disk_is_applied() -> None:
    node = SoloNode([1])
    node.disk_held = True
    node.receive(node.append(*make_batches([1], first_index=2), term=1, commit=2))
    assert [b.last_index for b in node.applied] == [1]
    node.flush()
    assert [b.last_index for b in node.applied] == [1, 2]


# -- Proposals ------------------------------------------------------------------------------------


def test_a_proposal_must_be_made_for_its_place() -> None:
    node = SoloNode()
    with pytest.raises(NotLeaderError):
        node.propose()
    node.lead()
    for index, term, kind in ((5, 1, COMMAND), (2, 9, COMMAND), (2, 1, BatchKind.NOOP)):
        batch = Batch.create(first_index=index, term=term, kind=kind, payload=b"")
        with pytest.raises(ProposalMismatchError):
            node.raft.propose(batch)
    assert node.raft.next_index == 2


def test_the_backlog_has_a_bound_and_room_again_after_a_commit() -> None:
    node = SoloNode(uncommitted_bytes_max=300)
    node.lead()
    node.acknowledge("b", 1)
    node.propose(b"x" * 86)
    node.propose(b"x" * 86)
    with pytest.raises(BacklogFullError):
        node.propose(b"x")
    node.acknowledge("b", 3)
    node.propose(b"x")


def test_one_batch_larger_than_the_backlog_is_let_through() -> None:
    node = SoloNode(uncommitted_bytes_max=300)
    node.lead()
    node.acknowledge("b", 1)
    node.propose(b"x" * 5000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"payload": bytes(16 * 1024 * 1024 + 1)},
        {"count": 0},
        {"count": 2**32},
        {"kind": 256},
        {"timestamp_ms": 2**63},
        {"checksum": 1},
    ],
    ids=["too large", "no entry", "too many entries", "kind", "time", "checksum"],
)
def test_what_no_peer_could_read_is_not_appended(wrong: dict[str, int | bytes]) -> None:
    """Appended, it would be sent for ever, and every peer would close the connection."""
    node = SoloNode()
    node.lead()
    batch = Batch.create(first_index=2, term=1, kind=COMMAND, payload=b"")
    batch = msgspec.structs.replace(batch, **wrong)
    with pytest.raises(UnreadableBatchError):
        node.raft.propose(batch)
    assert (node.raft.next_index, node.raft.has_ready) == (2, False)


def test_the_largest_batch_is_appended_and_every_peer_can_read_it() -> None:
    node = SoloNode()
    node.lead()
    node.acknowledge("b", 1)
    batch = node.propose(bytes(16 * 1024 * 1024))
    message = node.of_kind(Append)[-1]
    assert message.batches == (batch,)
    assert decode_message(encode_message(message)) == message


def test_a_proposal_is_not_stamped_before_the_present_time() -> None:
    node = SoloNode()
    node.lead()
    node.raft.tick(time_ms=5000)
    late, in_time = (
        Batch.create(first_index=2, term=1, kind=COMMAND, payload=b"", timestamp_ms=time_ms)
        for time_ms in (4999, 5000)
    )
    with pytest.raises(ProposalMismatchError, match="4999"):
        node.raft.propose(late)
    node.raft.propose(in_time)


def test_an_append_holds_no_more_batches_than_a_peer_takes() -> None:
    """A disk counts the bytes of payloads only, so empty batches fit in any number."""
    empty = [
        Batch.create(first_index=index, term=1, kind=COMMAND, payload=b"")
        for index in range(1, BATCHES_MAX + 2)
    ]
    node = SoloNode(window_bytes_max=1, batches=empty)
    node.lead()
    node.receive(node.append_reply("b", BATCHES_MAX + 1, hint=(0, 0)))
    message = node.of_kind(Append)[-1]
    assert len(message.batches) == BATCHES_MAX
    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize("name", ["", "d" * 256, "Ä" * 128, "\ud800"], ids=ascii)
def test_settings_with_a_name_that_does_not_fit_are_refused(name: str) -> None:
    for settings in (
        Settings(cluster_id=name, node_id="a"),
        Settings(cluster_id="group", node_id=name),
    ):
        with pytest.raises(InvalidNameError):
            settings.validate()
    Settings(cluster_id="Ä" * 127 + "d", node_id="d" * 255).validate()


def test_settings_whose_messages_no_peer_could_read_are_refused() -> None:
    for wrong in ({"chunk_bytes_max": 16 * 1024 * 1024 + 1}, {"semantics_version_max": 2**32}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            Settings(cluster_id="group", node_id="a", **wrong).validate()


# -- 5.1: snapshots -------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes_max", [1, 7, 1000])
def test_5_1_a_follower_that_needs_what_is_compacted_receives_the_snapshot(
    chunk_bytes_max: int,
) -> None:
    group = LockstepGroup("abc", chunk_bytes_max=chunk_bytes_max)
    leader = group.elect()
    slow = next(n for n in group.nodes if n != leader.node_id)
    group.cut = {slow}
    for n in range(10):
        group.propose(b"%d" % n)
        group.settle()
    leader.compact()
    group.propose(b"behind")
    group.cut = set()
    group.tick(20)
    status = group.nodes[slow].raft.status()
    assert (status.first_index, status.commit) == (12, leader.raft.commit)
    assert status.configuration == leader.raft.status().configuration
    assert [b.payload for b in group.nodes[slow].applied] == [b"behind"]
    assert group.nodes[slow].snapshots.data == leader.snapshots.data


def test_5_1_a_refusal_of_what_is_compacted_meanwhile_leads_to_the_snapshot() -> None:
    """What a compacted log had there is not known any more: nobody can be accused of anything."""
    node = SoloNode([1, 2])
    node.lead()
    refusal = node.append_reply("b", 2, hint=(2, 1))
    node.acknowledge("c", 3)
    meta = node.raft.describe_snapshot(3, b"id", 4)
    node.snapshots.store(meta, b"data")
    node.raft.compact(3)
    node.log.drop_before(3)
    node.receive(refusal)
    assert node.of_kind(InstallSnapshot)[-1].meta == meta


def test_a_refusal_of_what_the_member_has_by_its_own_word_is_reported() -> None:
    node = SoloNode([1, 2])
    node.lead()
    with pytest.raises(CorruptionError, match="refuses what it claims to have"):
        node.receive(node.append_reply("b", 2, hint=(2, 2)))


def test_5_1_a_new_empty_node_joins_after_the_log_was_compacted() -> None:
    group = LockstepGroup("a")
    leader = group.elect()
    for n in range(10):
        group.propose(b"%d" % n)
    group.settle()
    leader.compact()
    group.add("b")
    leader.raft.propose_membership(Join("b", "b:1"))
    group.settle()
    group.tick(20)
    assert group.nodes["b"].raft.status().configuration.voters == ("a", "b")


def test_5_1_terms_and_votes_hold_across_a_snapshot() -> None:
    """A node that has only a snapshot refuses a candidate with a shorter log."""
    group = LockstepGroup("abc")
    leader = group.elect()
    for n in range(10):
        group.propose(b"%d" % n)
    group.settle()
    leader.compact()
    status = leader.raft.status()
    assert status.last_index == status.first_index - 1 == 11
    assert leader.raft.term_at(11) == 1
    assert leader.raft.role is Role.LEADER


def compacted_leader() -> SoloNode:
    """A leader of three whose log begins behind entry 5, and that has heard only from b."""
    node = SoloNode([1] * 5)
    node.lead()
    node.acknowledge("b", 6)
    meta = node.raft.describe_snapshot(6, b"snapshot", 10)
    node.snapshots.store(meta, b"0123456789")
    node.raft.compact(6)
    node.log.drop_before(6)
    node.receive(node.append_reply("c", 5, hint=(2, 1)))
    return node


def pieces(node: SoloNode) -> list[tuple[int, bytes]]:
    return [(m.offset_bytes, m.data) for to, m in node.sent if isinstance(m, InstallSnapshot)]


def wants(node: SoloNode, received_bytes: int) -> None:
    node.receive(
        InstallSnapshotReply(
            cluster_id=GROUP,
            sender="c",
            term=node.raft.term,
            index=6,
            snapshot_id=b"snapshot",
            received_bytes=received_bytes,
            round=0,
            semantics_version_max=1,
        )
    )


def test_5_1_a_transfer_begins_with_a_question_and_resumes_where_it_stopped() -> None:
    node = compacted_leader()
    assert pieces(node) == [(0, b"")]
    wants(node, 7)
    assert pieces(node)[1:] == [(7, b"789")]


def test_5_1_a_lost_piece_is_asked_for_again_although_the_member_is_silent() -> None:
    """A member whose membership is old does not know this leader and ignores its heartbeats."""
    node = compacted_leader()
    for _ in range(10):
        node.acknowledge("b", 6)
        node.tick()
    assert pieces(node) == [(0, b""), (0, b"")]


def test_5_1_after_the_snapshot_appends_go_on_behind_it() -> None:
    node = compacted_leader()
    wants(node, 0)
    node.acknowledge("c", 6)
    node.propose()
    assert node.of_kind(Append)[-1].prev_index == 6


def test_5_1_a_snapshot_that_was_replaced_meanwhile_is_sent_anew() -> None:
    node = compacted_leader()
    assert node.snapshots.meta is not None
    meta = msgspec.structs.replace(node.snapshots.meta, snapshot_id=b"newer")
    node.snapshots.store(meta, b"9876543210")
    wants(node, 5)
    last = node.of_kind(InstallSnapshot)[-1]
    assert (last.meta.snapshot_id, last.offset_bytes, last.data) == (b"newer", 0, b"")
