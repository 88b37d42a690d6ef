"""The defects of the old server that concern the core (VTP replication section 18), one by one.

Each test fails on the old behaviour. docs/replication.md holds the table of all of them, with the
ones that other files cover.
"""

from __future__ import annotations

import msgspec
import pytest

from vaylix_replication import Batch, Configuration, HardState, Role
from vaylix_replication.errors import CorruptionError, ForeignMessageError
from vaylix_replication.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    PreVote,
    PreVoteReply,
    Vote,
    VoteReply,
)
from vaylix_replication.ports import SnapshotMeta
from vaylix_replication.testing import LockstepGroup
from vaylix_replication.testing.solo import COMMAND, GROUP, SoloNode, make_batches


def others(group: LockstepGroup) -> list[str]:
    leader = group.leader
    assert leader is not None
    return [n for n in group.nodes if n != leader.node_id]


def test_w1_a_long_log_survives_a_leader_that_is_killed_right_after_it_won() -> None:
    """Section 20, first row: 2000 entries, the leader killed after its election, twice."""
    group = LockstepGroup("abcde", append_bytes_max=1000)
    group.elect()
    batches = [group.propose(b"%d" % n) for n in range(2000)]
    group.settle()
    for _ in range(2):
        leader = group.leader
        assert leader is not None
        group.cut.add(leader.node_id)
        while group.leader in (leader, None):
            group.tick()
    group.elect()
    group.tick(5)
    for node_id in set(group.nodes) - group.cut:
        applied = group.nodes[node_id].applied
        assert [b for b in applied if b.kind == COMMAND] == batches


def test_w1_w3_a_late_duplicate_of_an_older_append_cuts_nothing() -> None:
    node = SoloNode([1] * 10)
    node.receive(node.append(*make_batches([1, 1], first_index=3), term=1, prev=(2, 1), commit=4))
    assert len(node.terms()) == 10


def test_w2_w24_a_write_that_nobody_acknowledges_stays_in_the_log() -> None:
    node = SoloNode([1, 1])
    node.lead()
    node.propose()
    node.tick(15)
    assert node.terms() == [1, 1, 2, 2]
    assert node.raft.commit == 0


def test_w2_the_last_acknowledged_write_survives_a_failover_and_a_silent_follower() -> None:
    """The second row of section 20."""
    group = LockstepGroup("abc")
    first = group.elect()
    write = group.propose(b"acknowledged")
    group.settle()
    assert write in first.applied
    group.cut = {first.node_id}
    while group.leader in (first, None):
        group.tick()
    second = group.leader
    assert second is not None
    group.cut = {n for n in group.nodes if n != second.node_id}
    group.propose(b"times out")
    group.tick(5)
    group.cut = {first.node_id}
    group.elect()
    group.tick(5)
    assert all(write in group.nodes[n].applied for n in others(group) if n != first.node_id)


def test_w3_an_acknowledgement_counts_only_in_the_term_it_was_given() -> None:
    node = SoloNode([1], voters="abcde")
    node.lead()
    old = node.append_reply("b", 2, term=1)
    node.receive(old)
    assert [peer.match for peer in node.raft.status().peers] == [0, 0, 0, 0]


def test_w4_a_divergent_tail_is_not_committed_by_a_heartbeat() -> None:
    node = SoloNode([1, 1, 2])
    node.receive(node.heartbeat(term=3, commit=(3, 3)))
    assert node.raft.commit == 0


def test_w5_figure_8_with_more_inherited_entries_than_one_message() -> None:
    node = SoloNode([1, *[2] * 20], voters="abcde", append_bytes_max=100)
    node.lead()
    for peer in "bc":
        node.acknowledge(peer, 21)
    assert node.raft.commit == 0


def test_w6_a_node_with_nothing_but_a_snapshot_refuses_shorter_logs() -> None:
    """And it takes the next append behind the snapshot."""
    node = SoloNode(hard_state=HardState(term=1))
    node.receive(snapshot_message(META, 0, b"0123456789"))
    node.raft.snapshot_received(META, valid=True)
    node.run()
    assert (node.raft.commit, node.raft.term_at(8)) == (8, 1)
    assert [m.index for m in node.of_kind(AppendReply)] == [8]
    node.tick(11)
    ((_, answer),) = node.receive(node.vote(sender="c", term=2, last=(7, 1)))
    assert isinstance(answer, VoteReply)
    assert not answer.granted


def snapshot_message(
    meta: SnapshotMeta, offset: int, data: bytes, *, term: int = 1
) -> InstallSnapshot:
    return InstallSnapshot(
        cluster_id=GROUP,
        sender="b",
        term=term,
        meta=meta,
        offset_bytes=offset,
        data=data,
        round=1,
        time_ms=0,
    )


MEMBERS = Configuration.of_voters(dict.fromkeys("abc", ""))
META = SnapshotMeta(
    index=8,
    term=1,
    checksum=make_batches([1], first_index=8)[0].checksum,
    configuration=MEMBERS,
    snapshot_id=b"s",
    size_bytes=10,
)


def test_w7_a_snapshot_that_is_not_ahead_of_the_commit_point_is_ignored() -> None:
    node = SoloNode([1] * 9)
    node.receive(node.append(term=1, commit=9))
    ((_, answer),) = node.receive(snapshot_message(META, 0, b"0123456789"))
    assert isinstance(answer, AppendReply)
    assert (answer.accepted, answer.index) == (True, 9)
    assert node.chunks == []


def test_w7_a_matching_log_is_kept_with_everything_behind_the_snapshot() -> None:
    node = SoloNode([1] * 9)
    node.receive(snapshot_message(META, 0, b"0123456789"))
    assert (node.raft.commit, len(node.terms()), node.chunks) == (8, 9, [])


@pytest.mark.parametrize("commit", [0, 9])
@pytest.mark.parametrize("wrong", [{"checksum": 5}, {"term": 2}], ids=["checksum", "term"])
def test_w7_a_snapshot_that_contradicts_the_log_is_an_alarm(
    wrong: dict[str, int], commit: int
) -> None:
    """Of another term it contradicts only what is committed; the rest may still be replaced."""
    node = SoloNode([1] * 9)
    node.receive(node.append(term=2, commit=commit))
    message = snapshot_message(msgspec.structs.replace(META, **wrong), 0, b"", term=2)
    if commit or "checksum" in wrong:
        with pytest.raises(CorruptionError):
            node.receive(message)
    else:
        node.receive(message)
        assert node.raft.status().receives_snapshot


def test_w7_a_received_snapshot_that_contradicts_the_log_by_now_is_an_alarm() -> None:
    """The batches arrived from somebody else while the driver verified the file."""
    node = SoloNode([1] * 3)
    other = msgspec.structs.replace(META, checksum=5)
    node.receive(snapshot_message(other, 0, b"0123456789"))
    node.receive(node.append(*make_batches([1] * 6, first_index=4), term=1, prev=(3, 1)))
    with pytest.raises(CorruptionError):
        node.raft.snapshot_received(other, valid=True)


def test_w7_a_snapshot_that_is_overtaken_while_it_is_verified_rewinds_nothing() -> None:
    node = SoloNode([1] * 3)
    node.receive(snapshot_message(META, 0, b"0123456789"))
    later = make_batches([1] * 6, first_index=4)
    node.receive(node.append(*later, term=1, prev=(3, 1), commit=9))
    node.raft.compact(9)
    node.raft.snapshot_received(META, valid=True)
    node.run()
    status = node.raft.status()
    assert (status.commit, status.applied, status.first_index, status.last_index) == (9, 9, 10, 9)


def test_w7_an_incomplete_or_damaged_snapshot_changes_nothing() -> None:
    node = SoloNode([1] * 3)
    node.receive(snapshot_message(META, 0, b"01234"))
    assert node.raft.status().receives_snapshot
    node.receive(snapshot_message(META, 5, b"56789"))
    node.raft.snapshot_received(META, valid=False)
    node.run()
    assert (node.terms(), node.raft.commit) == ([1, 1, 1], 0)
    ((_, answer),) = node.receive(snapshot_message(META, 0, b""))
    assert isinstance(answer, InstallSnapshotReply)
    assert answer.received_bytes == 0


def test_w8_nothing_is_appended_without_a_comparison_of_what_precedes_it() -> None:
    """An ex-leader with an entry of its own does not take the next one on top."""
    node = SoloNode([1, 1, 2])
    node.receive(node.append(*make_batches([3], first_index=4), term=3, prev=(3, 3)))
    assert node.terms() == [1, 1, 2]


def test_w9_w18_w19_only_what_is_committed_is_ever_applied() -> None:
    node = SoloNode([1] * 5)
    assert node.applied == []
    node.receive(node.append(*make_batches([1] * 3, first_index=6), term=1, commit=4))
    assert [b.last_index for b in node.applied] == [1, 2, 3, 4]


def test_w14_standing_on_request_takes_votes() -> None:
    node = SoloNode([1])
    node.tick(11)
    if node.role() is Role.FOLLOWER:
        node.raft.campaign()
        node.run()
    assert (node.role(), node.raft.term) == (Role.PRE_CANDIDATE, 1)


def test_w16_an_isolated_leader_stops_leading_and_answers_no_read() -> None:
    group = LockstepGroup("abc")
    leader = group.elect()
    group.cut = {leader.node_id}
    leader.raft.read_index(1)
    group.tick(21)
    assert leader.raft.role is Role.FOLLOWER
    assert (leader.reads, leader.reads_dropped) == ([], [1])


def test_w17_w48_a_new_leader_answers_with_everything_its_predecessor_acknowledged() -> None:
    group = LockstepGroup("abc")
    first = group.elect()
    write = group.propose(b"last write of the old leader")
    group.settle()
    group.cut = {first.node_id}
    while group.leader in (first, None):
        group.tick()
    second = group.leader
    assert second is not None
    second.raft.read_index(1)
    group.settle()
    assert second.reads == [1]
    assert write in second.applied


def test_w20_a_leader_that_dies_after_a_heartbeat_and_before_an_append_blocks_nobody() -> None:
    group = LockstepGroup("abc")
    first = group.elect()
    group.tick(2)
    group.propose(b"never sent")
    group.cut = {first.node_id}
    group.settle()
    for _ in range(60):
        group.tick()
    assert group.leader is not first


@pytest.mark.parametrize("seed", range(20))
def test_w21_w22_w49_a_silent_leader_is_replaced_within_two_election_timeouts(seed: int) -> None:
    """A black hole, not a reset: nothing is refused, nothing answers. One more peer is silent."""
    group = LockstepGroup("abcde", seed=seed)
    first = group.elect()
    group.cut = {first.node_id, others(group)[0]}
    ticks = 0
    while group.leader in (first, None):
        group.tick()
        ticks += 1
        assert ticks <= 40


def test_w22_all_voters_are_asked_at_once() -> None:
    node = SoloNode([1], voters="abcde")
    node.time_out()
    assert {to for to, m in node.sent if isinstance(m, PreVote)} == set("bcde")
    node.grant_pre_votes("b", "c")
    assert {to for to, m in node.sent if isinstance(m, Vote)} == set("bcde")


def test_w23_w46_a_member_that_never_answers_holds_up_nobody() -> None:
    group = LockstepGroup("abc")
    group.elect()
    group.cut = {others(group)[0]}
    for _ in range(200):
        batch = group.propose(b"x")
        group.settle()
        leader = group.leader
        assert leader is not None
        assert leader.applied[-1] is batch


def test_w25_a_conflict_below_the_own_snapshot_is_an_alarm_not_an_endless_loop() -> None:
    node = SoloNode([1] * 5)
    node.receive(node.append(term=1, commit=5))
    with pytest.raises(CorruptionError):
        node.raft.step(node.append(term=2, sender="c", prev=(4, 2)))


def test_w26_retention_keeps_what_a_living_voter_lacks() -> None:
    group = LockstepGroup("abc")
    leader = group.elect()
    group.propose(b"1")
    group.settle()
    slow = others(group)[0]
    group.cut = {slow}
    for n in range(5):
        group.propose(b"%d" % n)
    group.settle()
    assert leader.raft.retention_index == 3
    group.tick(30)
    assert leader.raft.retention_index == 8


def test_w30_any_node_can_win_with_equal_logs() -> None:
    winners = set()
    for seed in range(40):
        group = LockstepGroup("abc", seed=seed)
        winners.add(group.elect().node_id)
    assert winners == {"a", "b", "c"}


def test_w32_messages_for_another_group_or_in_the_own_name_are_refused() -> None:
    node = SoloNode([1])
    foreign = VoteReply(cluster_id="other", sender="b", term=9, granted=True, time_ms=0)
    own = VoteReply(cluster_id=GROUP, sender="a", term=9, granted=True, time_ms=0)
    for message in (foreign, own):
        with pytest.raises(ForeignMessageError):
            node.raft.step(message)
    assert node.raft.term == 1


def test_17_5_a_heartbeat_from_a_stranger_changes_nothing() -> None:
    node = SoloNode([1])
    message = Heartbeat(
        cluster_id=GROUP, sender="z", term=9, commit=1, commit_term=1, round=1, time_ms=9
    )
    assert node.receive(message) == []
    assert (node.raft.term, node.raft.commit, node.raft.leader_id) == (1, 0, None)


def test_w45_a_leader_of_an_older_term_is_told_so_and_not_followed() -> None:
    node = SoloNode([5])
    answers = node.receive(node.append(term=4, prev=(1, 5)))
    assert [m.term for _, m in answers] == [5]
    assert node.raft.leader_id is None


def test_w47_the_commit_point_never_falls() -> None:
    node = SoloNode(voters="a")
    node.lead()
    seen = []
    for _ in range(20):
        node.propose()
        seen.append(node.raft.commit)
    assert seen == sorted(seen)


def test_17_1_a_candidate_answers_the_question_before_the_vote_and_keeps_its_vote() -> None:
    node = SoloNode([1])
    node.time_out()
    node.grant_pre_votes("b")
    ((_, answer),) = node.receive(node.pre_vote(sender="c", term=2, last=(1, 1)))
    assert answer.term == 2
    assert (node.role(), node.raft.status().vote) == (Role.CANDIDATE, "a")


def test_17_2_a_candidate_gives_its_vote_to_nobody_else() -> None:
    node = SoloNode([1])
    node.time_out()
    node.grant_pre_votes("b")
    ((_, answer),) = node.receive(node.vote(sender="b", term=2, last=(9, 1)))
    assert isinstance(answer, VoteReply)
    assert not answer.granted


def test_17_3_a_question_at_a_newer_term_changes_nothing_while_a_leader_is_heard() -> None:
    node = SoloNode([1])
    node.receive(node.heartbeat(term=1))
    ((_, answer),) = node.receive(node.pre_vote(sender="c", term=9, last=(9, 8)))
    assert isinstance(answer, PreVoteReply)
    assert (answer.granted, node.raft.term) == (False, 1)


def test_17_6_the_commit_point_follows_as_entries_arrive() -> None:
    """A heartbeat that is ahead of the log moves nothing; the old server took it on trust."""
    node = SoloNode([1] * 3)
    node.receive(node.heartbeat(term=1, commit=(9, 1)))
    assert node.raft.commit == 0
    reached = []
    for first, count in ((4, 2), (6, 4)):
        batches = make_batches([1] * count, first_index=first)
        node.receive(node.append(*batches, term=1, prev=(first - 1, 1), commit=9))
        reached.append(node.raft.commit)
    assert reached == [5, 9]


def test_17_13_an_acknowledgement_of_another_term_is_ignored() -> None:
    node = SoloNode()
    node.lead()
    node.propose()
    stale = node.append_reply("b", 2, term=0)
    node.receive(stale)
    assert node.raft.commit == 0


def test_17_14_a_new_term_clears_the_progress_and_keeps_the_commit_point() -> None:
    group = LockstepGroup("abc")
    first = group.elect()
    group.propose(b"x")
    group.settle()
    commit = first.raft.commit
    first.raft.step(
        HeartbeatReply(cluster_id=GROUP, sender="b", term=9, round=0, semantics_version_max=1)
    )
    status = first.raft.status()
    assert (status.term, status.commit, status.peers) == (9, commit, ())


def test_17_15_a_restarted_node_follows_and_waits() -> None:
    node = SoloNode([1, 1], hard_state=HardState(term=3, vote="a", commit=1))
    assert (node.role(), node.raft.term, node.raft.commit) == (Role.FOLLOWER, 3, 1)
    node.tick(10)
    assert node.role() is Role.FOLLOWER


def test_w28_a_batch_is_compared_whole_and_skipped_whole() -> None:
    """Many entries in one batch cost one comparison, and one message to find the place."""
    group = LockstepGroup("abc")
    group.elect()
    slow = others(group)[0]
    group.cut = {slow}
    for _ in range(50):
        group.propose(b"x", count=1000)
    group.settle()
    group.cut = set()
    leader = group.leader
    assert leader is not None
    group.tick(3)
    assert group.nodes[slow].raft.commit == leader.raft.commit == 50_001


def test_an_append_names_its_predecessor_by_term_and_checksum() -> None:
    node = SoloNode([1])
    node.lead()
    append = node.of_kind(Append)[0]
    assert isinstance(append.batches[0], Batch)
    assert append.prev_checksum == node.log.batches[0].checksum
