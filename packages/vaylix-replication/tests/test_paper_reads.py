"""A test per normative sentence of dissertation section 6.4, and of the rules of the lease."""

from __future__ import annotations

import pytest

from vaylix_replication import Batch, Leave, ReadState, Role
from vaylix_replication.errors import NotLeaderError, ReadBacklogFullError
from vaylix_replication.messages import (
    Append,
    Heartbeat,
    HeartbeatReply,
    ReadIndex,
    ReadIndexReply,
)
from vaylix_replication.testing import LockstepGroup
from vaylix_replication.testing.solo import COMMAND, GROUP, SoloNode, make_batches


def confirm(node: SoloNode, sender: str, number: int | None = None) -> None:
    """Answer a round, by default the newest one."""
    newest = node.of_kind(Heartbeat)[-1].round if number is None else number
    node.receive(
        HeartbeatReply(
            cluster_id=GROUP,
            sender=sender,
            term=node.raft.term,
            round=newest,
            semantics_version_max=1,
        )
    )


def leader(voters: str = "abc") -> SoloNode:
    node = SoloNode(voters=voters)
    node.lead()
    for peer in voters[1:]:
        node.acknowledge(peer, 1)
    return node


def answer_to(question: ReadIndex, *, index: int, time_ms: int = 0) -> ReadIndexReply:
    return ReadIndexReply(
        cluster_id=GROUP,
        sender="b",
        term=question.term,
        question=question.question,
        granted=True,
        index=index,
        time_ms=time_ms,
    )


def contexts(node: SoloNode) -> list[int]:
    return [read.context for read in node.reads]


def test_6_4_1_a_leader_reads_only_after_it_has_committed_in_its_term() -> None:
    node = SoloNode([1])
    node.lead()
    node.raft.read_index(7)
    node.run()
    node.tick()
    assert contexts(node) == []
    node.acknowledge("b", 2)
    confirm(node, "b")
    assert node.reads == [ReadState(7, 2, 0)]


def test_6_4_2_the_read_index_is_the_commit_index_of_the_moment() -> None:
    node = leader()
    node.raft.read_index(7)
    node.run()
    node.propose()
    node.acknowledge("b", 2)
    confirm(node, "b", node.of_kind(Heartbeat)[-1].round)
    assert node.reads[0].index == 1


def test_6_4_3_a_read_waits_for_a_majority_that_answers_a_round_begun_after_it() -> None:
    node = leader("abcde")
    node.tick(2)
    earlier = node.of_kind(Heartbeat)[-1].round
    node.raft.read_index(7)
    node.run()
    for peer in "bcde":
        confirm(node, peer, earlier)
    assert contexts(node) == []
    confirm(node, "b")
    assert contexts(node) == []
    confirm(node, "c")
    assert contexts(node) == [7]


def test_6_4_4_a_read_waits_until_its_index_is_applied() -> None:
    follower = SoloNode([1])
    follower.receive(follower.append(term=1))
    follower.raft.read_index(7)
    follower.run()
    follower.receive(answer_to(follower.of_kind(ReadIndex)[-1], index=1, time_ms=5))
    assert follower.reads == []
    follower.receive(follower.append(term=1, prev=(1, 1), commit=1))
    assert follower.reads == [ReadState(7, 1, 5)]


def test_6_4_one_round_answers_all_reads_of_a_turn() -> None:
    node = leader()
    sent = len(node.of_kind(Heartbeat))
    for context in range(1000):
        node.raft.read_index(context)
    node.run()
    assert len(node.of_kind(Heartbeat)) == sent + 2
    confirm(node, "c")
    assert contexts(node) == list(range(1000))


def test_6_4_a_follower_asks_the_leader_for_its_read_index() -> None:
    group = LockstepGroup("abc")
    first = group.elect()
    group.tick(3)
    follower = next(n for n in group.nodes.values() if n is not first)
    follower.raft.read_index(9)
    group.settle()
    assert follower.reads == [9]


def test_6_4_a_deposed_leader_answers_nothing() -> None:
    """An isolated leader does not know of its successor; its reads must not be answered."""
    node = leader()
    node.raft.read_index(7)
    node.run()
    node.tick(50)
    assert (contexts(node), node.reads_dropped) == ([], [7])


def test_6_4_without_a_leader_a_read_is_refused_at_once() -> None:
    with pytest.raises(NotLeaderError):
        SoloNode().raft.read_index(1)


def test_6_4_a_leader_alone_confirms_itself() -> None:
    node = leader("a")
    node.raft.read_index(3)
    node.run()
    assert contexts(node) == [3]


def test_reads_that_wait_have_a_bound() -> None:
    node = SoloNode(reads_waiting_max=2)
    node.lead()
    node.raft.read_index(1)
    node.raft.read_index(2)
    with pytest.raises(ReadBacklogFullError):
        node.raft.read_index(3)
    node.acknowledge("b", 1)
    node.run()
    confirm(node, "b")
    node.raft.read_index(3)
    follower = SoloNode([1], reads_waiting_max=1)
    follower.receive(follower.append(term=1))
    follower.raft.read_index(1)
    with pytest.raises(ReadBacklogFullError):
        follower.raft.read_index(2)


def test_a_full_leader_refuses_a_followers_read() -> None:
    node = SoloNode(reads_waiting_max=1)
    node.lead()
    node.raft.read_index(1)
    ((to, answer),) = node.receive(ReadIndex(cluster_id=GROUP, sender="c", term=1, question=5))
    assert isinstance(answer, ReadIndexReply)
    assert (to, answer.question, answer.granted) == ("c", 5, False)


def test_reads_of_a_follower_end_when_it_follows_somebody_else() -> None:
    node = SoloNode([1])
    node.receive(node.append(term=1))
    node.raft.read_index(4)
    node.receive(node.append(sender="c", term=2, prev=(1, 1)))
    assert node.reads_dropped == [4]


def test_a_lost_answer_does_not_occupy_its_place_for_ever() -> None:
    node = SoloNode([1], reads_waiting_max=1)
    node.receive(node.append(term=1))
    node.raft.read_index(1)
    for _ in range(21):
        node.receive(node.heartbeat(term=1))
        node.tick()
    assert node.reads_dropped == [1]
    node.raft.read_index(2)


def test_an_answer_to_a_former_life_answers_nothing_in_this_one() -> None:
    """Same leader, same term, same context: only the number of the question tells them apart."""
    former = SoloNode([1], seed=1)
    former.receive(former.append(term=1, commit=1))
    former.raft.read_index(7)
    former.run()
    late = answer_to(former.of_kind(ReadIndex)[-1], index=1)
    node = SoloNode([1], seed=2)
    node.receive(node.append(*make_batches([1], first_index=2), term=1, prev=(1, 1), commit=1))
    node.raft.read_index(7)
    node.run()
    node.receive(late)
    assert node.reads == []
    node.receive(answer_to(node.of_kind(ReadIndex)[-1], index=1))
    assert contexts(node) == [7]


def test_a_late_answer_to_a_read_that_was_given_up_answers_nothing() -> None:
    node = SoloNode([1])
    node.receive(node.append(term=1, commit=1))
    node.raft.read_index(7)
    node.run()
    late = answer_to(node.of_kind(ReadIndex)[-1], index=1)
    for _ in range(21):
        node.receive(node.heartbeat(term=1))
        node.tick()
    assert node.reads_dropped == [7]
    node.raft.read_index(7)
    node.run()
    node.receive(late)
    assert node.reads == []


# -- The lease ------------------------------------------------------------------------------------


def offer(node: SoloNode, deadline: int) -> None:
    node.raft.tick(lease_deadline=deadline)
    node.run()


def test_lease_holds_until_its_deadline_once_a_majority_has_answered() -> None:
    node = leader()
    offer(node, 800)
    assert node.raft.lease_index(0) is None
    confirm(node, "b")
    assert node.raft.lease_index(799) == 1
    assert node.raft.lease_index(800) is None


def test_lease_is_counted_from_the_sending_of_the_heartbeat_that_was_answered() -> None:
    node = leader()
    offer(node, 800)
    first = node.of_kind(Heartbeat)[-1].round
    offer(node, 900)
    confirm(node, "b", first)
    assert node.raft.lease_index(799) == 1
    assert node.raft.lease_index(850) is None


def test_lease_is_opt_in() -> None:
    node = leader()
    node.tick()
    confirm(node, "b")
    assert node.raft.lease_index(0) is None


def test_lease_needs_an_own_entry_that_is_committed() -> None:
    """A majority confirms the leadership before it has the entry: the commit index is not known."""
    node = SoloNode([1])
    node.lead()
    offer(node, 800)
    confirm(node, "b", node.of_kind(Append)[-1].round)
    assert node.raft.lease_index(0) is None
    node.acknowledge("b", 2)
    assert node.raft.lease_index(0) == 2


def test_lease_ends_before_leadership_is_transferred_and_stays_ended() -> None:
    """The request to take over may arrive any time later, also after the transfer was given up."""
    node = leader()
    offer(node, 800)
    confirm(node, "b")
    node.raft.transfer_leadership("b")
    assert node.raft.lease_index(1) is None
    for _ in range(25):
        offer(node, 10_000)
        for peer in "bc":
            confirm(node, peer)
    assert node.raft.lease_index(1) is None


def test_lease_ends_when_the_membership_changes() -> None:
    node = leader()
    offer(node, 800)
    confirm(node, "b")
    node.raft.propose_membership(Leave("c"))
    assert node.raft.lease_index(1) is None


def test_lease_does_not_rest_on_a_round_from_before_a_change_of_the_membership() -> None:
    """Whoever answers it late need not be a majority of the new members with the leader."""
    node = leader()
    offer(node, 800)
    round_before = node.of_kind(Heartbeat)[-1].round
    node.raft.propose_membership(Leave("c"))
    node.run()
    confirm(node, "b", round_before)
    assert node.raft.lease_index(1) is None
    offer(node, 900)
    confirm(node, "b")
    assert node.raft.lease_index(899) == 1


def test_lease_ends_with_leadership() -> None:
    node = leader()
    offer(node, 10_000)
    confirm(node, "b")
    assert node.raft.lease_index(1) == 1
    node.receive(
        HeartbeatReply(cluster_id=GROUP, sender="b", term=9, round=0, semantics_version_max=1)
    )
    assert node.raft.lease_index(1) is None


# -- Time -----------------------------------------------------------------------------------------


def test_heartbeats_carry_the_leaders_time_and_no_node_falls_behind_it() -> None:
    node = leader()
    node.raft.tick(time_ms=5000)
    node.run()
    assert node.of_kind(Heartbeat)[-1].time_ms == 5000
    node.raft.tick(time_ms=3000)
    assert node.raft.time_ms == 5000
    group = LockstepGroup("abc")
    first = group.elect()
    first.raft.tick(time_ms=777)
    group.settle()
    assert {n.raft.time_ms for n in group.nodes.values()} == {777}


def test_a_batch_tells_its_time_to_whoever_appends_it() -> None:
    """So a leader does not stamp anything before what its predecessors have stamped."""
    node = SoloNode([1])
    batch = Batch.create(first_index=2, term=1, kind=COMMAND, payload=b"", timestamp_ms=700)
    node.receive(node.append(batch, term=1))
    assert node.raft.time_ms == 700
    node.lead()
    assert node.log.batches[-1].timestamp_ms == 700
    assert SoloNode(batches=node.log.batches).raft.time_ms == 700


def test_time_does_not_fall_behind_a_read_that_was_answered() -> None:
    """The time of a read is in no log; the voters that confirmed it tell it to the next leader."""
    group = LockstepGroup("abc")
    first = group.elect()
    voter, successor = (node for node in group.nodes.values() if node is not first)
    group.cut = {successor.node_id}
    first.raft.tick(time_ms=100_000)
    first.raft.read_index(7)
    group.settle()
    assert first.reads == [7]
    assert successor.raft.time_ms < 100_000
    group.cut = {first.node_id}
    for _ in range(11):
        voter.raft.tick()
    while successor.raft.role is not Role.LEADER:
        successor.raft.tick()
        group.settle()
    assert successor.raft.time_ms == 100_000
    assert successor.log.batches[-1].timestamp_ms == 100_000


def test_the_winner_of_an_election_goes_on_from_the_latest_time_of_its_voters() -> None:
    node = SoloNode(voters="abcde")
    node.time_out()
    node.grant_pre_votes(*"bc")
    node.grant_votes("b", time_ms=300)
    node.grant_votes("c", time_ms=200)
    assert (node.role(), node.raft.time_ms) == (Role.LEADER, 300)
    assert node.log.batches[-1].timestamp_ms == 300


def test_the_lease_reads_as_of_a_time_that_a_majority_has_heard() -> None:
    node = leader()
    node.raft.tick(lease_deadline=800, time_ms=5000)
    node.run()
    node.raft.tick(lease_deadline=900, time_ms=6000)
    node.run()
    assert node.raft.confirmed_time_ms == 0
    confirm(node, "b", node.of_kind(Heartbeat)[-3].round)
    assert (node.raft.lease_index(1), node.raft.confirmed_time_ms) == (1, 5000)
    node.raft.read_index(7)
    node.run()
    confirm(node, "b")
    assert node.raft.confirmed_time_ms == node.reads[-1].time_ms == 6000
