"""A test per normative sentence of dissertation sections 3.4, 3.6.1, 3.10, 4.2.3 and 9.6."""

from __future__ import annotations

from collections import Counter

import pytest

from vaylix_replication import HardState, Role
from vaylix_replication.errors import LeaderHeardError, NotLeaderError, TransferInProgressError
from vaylix_replication.messages import (
    Heartbeat,
    HeartbeatReply,
    PreVote,
    PreVoteReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from vaylix_replication.testing import LockstepGroup
from vaylix_replication.testing.solo import GROUP, SoloNode


def granted(node: SoloNode, message: Vote | PreVote) -> bool:
    ((_, answer),) = node.receive(message)
    assert isinstance(answer, VoteReply | PreVoteReply)
    return answer.granted


# -- 3.4 ------------------------------------------------------------------------------------------


def test_3_4_servers_start_up_as_followers() -> None:
    assert SoloNode().role() is Role.FOLLOWER


def test_3_4_a_server_remains_a_follower_while_it_hears_a_leader() -> None:
    node = SoloNode([1])
    for _ in range(20):
        node.tick(10)
        node.receive(node.heartbeat(term=1))
    assert (node.role(), node.raft.term) == (Role.FOLLOWER, 1)


def test_3_4_each_server_votes_for_at_most_one_candidate_in_a_term_also_after_a_restart() -> None:
    node = SoloNode([1])
    node.tick(11)
    assert granted(node, node.vote(sender="b", term=2, last=(1, 1)))
    again = SoloNode([1], hard_state=node.log.hard_state)
    again.tick(11)
    assert not granted(again, again.vote(sender="c", term=2, last=(1, 1)))
    assert granted(again, again.vote(sender="b", term=2, last=(1, 1)))


def test_3_4_a_candidate_ignores_a_leader_of_an_older_term() -> None:
    node = SoloNode([3])
    node.time_out()
    node.grant_pre_votes("b")
    node.receive(node.append(sender="c", term=3))
    assert (node.role(), node.raft.term) == (Role.CANDIDATE, 4)


def test_3_4_election_timeouts_are_random_within_the_range() -> None:
    """Timeouts are chosen randomly from a fixed interval, so split votes are rare."""
    waits = Counter[int]()
    for seed in range(200):
        node = SoloNode([1], seed=seed)
        ticks = 0
        while node.role() is Role.FOLLOWER:
            node.tick()
            ticks += 1
        waits[ticks] += 1
    assert set(waits) == set(range(11, 21))


def test_3_4_a_split_vote_is_followed_by_another_election() -> None:
    node = SoloNode([1], voters="abcd")
    node.time_out()
    node.grant_pre_votes("b", "c")
    first = node.raft.term
    node.grant_votes("b")
    node.tick(20)
    node.grant_pre_votes("b", "c")
    assert node.raft.term == first + 1


# -- 3.6.1 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "expected"),
    [((9, 1), False), ((2, 2), False), ((3, 2), True), ((4, 2), True), ((1, 3), True)],
)
def test_3_6_1_a_voter_refuses_a_log_that_is_less_up_to_date(
    last: tuple[int, int], expected: bool
) -> None:
    """The later last term wins; with equal last terms, the longer log."""
    node = SoloNode([1, 2, 2])
    node.tick(11)
    assert granted(node, node.pre_vote(sender="b", term=4, last=last)) is expected
    assert granted(node, node.vote(sender="b", term=4, last=last)) is expected


def test_3_6_1_a_request_names_the_log_and_waits_until_that_is_durable() -> None:
    """Otherwise a vote for a longer log would count for a shorter one after a crash."""
    node = SoloNode([1])
    node.time_out()
    node.disk_held = True
    node.grant_pre_votes("b")
    assert node.of_kind(Vote) == []
    node.flush()
    assert {(m.last_index, m.last_term) for m in node.of_kind(Vote)} == {(1, 1)}


def test_3_6_1_the_own_vote_counts_when_it_is_durable() -> None:
    node = SoloNode(voters="a")
    node.disk_held = True
    node.time_out()
    assert node.role() is Role.CANDIDATE
    node.flush()
    assert node.role() is Role.LEADER


# -- 3.10: leadership transfer --------------------------------------------------------------------


def leader_of_three() -> SoloNode:
    node = SoloNode()
    node.lead()
    for peer in "bc":
        node.acknowledge(peer, 1)
    return node


def test_3_10_the_prior_leader_stops_accepting_requests() -> None:
    node = leader_of_three()
    node.raft.transfer_leadership("b")
    with pytest.raises(TransferInProgressError):
        node.propose()


def test_3_10_the_target_is_brought_up_to_date_first() -> None:
    node = leader_of_three()
    node.propose()
    node.raft.transfer_leadership("b")
    node.run()
    assert node.of_kind(TimeoutNow) == []
    node.acknowledge("b", 2)
    assert len(node.of_kind(TimeoutNow)) == 1


def test_3_10_the_target_starts_an_election_at_once() -> None:
    node = SoloNode([1])
    node.receive(node.heartbeat(term=1))
    node.receive(node.timeout_now())
    assert (node.role(), node.raft.term) == (Role.CANDIDATE, 2)
    assert all(request.forced for request in node.of_kind(Vote))


def test_3_10_voters_that_hear_a_leader_elect_the_target_all_the_same() -> None:
    node = SoloNode([1])
    node.receive(node.heartbeat(term=1))
    assert not granted(node, node.vote(sender="c", term=2, last=(1, 1)))
    assert granted(node, node.vote(sender="c", term=2, last=(1, 1), forced=True))


def test_3_10_a_transfer_that_takes_an_election_timeout_is_given_up() -> None:
    node = leader_of_three()
    node.raft.transfer_leadership("b")
    for _ in range(20):
        node.tick()
        for peer in "bc":
            node.acknowledge(peer, 1)
    assert node.propose() in node.log.batches


def test_3_10_a_transfer_moves_leadership_without_waiting_for_a_timeout() -> None:
    group = LockstepGroup("abc")
    group.elect().raft.transfer_leadership("b")
    group.settle()
    assert group.leader is group.nodes["b"]


def test_3_10_only_a_leader_transfers() -> None:
    node = SoloNode([1])
    with pytest.raises(NotLeaderError):
        node.raft.transfer_leadership("b")


# -- 4.2.3: disruptive servers --------------------------------------------------------------------


def test_4_2_3_a_server_that_hears_a_leader_neither_votes_nor_adopts_the_term() -> None:
    """Within the minimum election timeout of hearing from a current leader."""
    node = SoloNode([1])
    node.receive(node.heartbeat(term=1))
    node.tick(10)
    assert not granted(node, node.vote(sender="c", term=9, last=(5, 5)))
    assert node.raft.term == 1


def test_4_2_3_the_silence_counts_whatever_terms_were_seen_since() -> None:
    """A newer term learned elsewhere must not shorten what a lease rests on."""
    node = SoloNode([1])
    node.receive(node.heartbeat(term=1))
    node.receive(
        HeartbeatReply(cluster_id=GROUP, sender="c", term=4, round=0, semantics_version_max=1)
    )
    assert node.raft.term == 4
    assert not granted(node, node.vote(sender="c", term=5, last=(5, 4)))


def test_4_2_3_a_restarted_server_votes_for_nobody_for_a_minimum() -> None:
    """It may have answered a heartbeat just before, on which a lease rests."""
    node = SoloNode([1])
    node.tick(10)
    assert not granted(node, node.vote(sender="c", term=2, last=(1, 1)))
    node.tick(1)
    assert granted(node, node.vote(sender="c", term=2, last=(1, 1)))


def test_4_2_3_a_leader_ignores_candidates() -> None:
    node = leader_of_three()
    assert not granted(node, node.vote(sender="c", term=9, last=(9, 9)))
    assert (node.role(), node.raft.term) == (Role.LEADER, 1)


def test_6_2_a_leader_without_a_majority_steps_down() -> None:
    """If an election timeout elapses without a round of heartbeats to a majority."""
    node = leader_of_three()
    node.tick(20)
    assert node.role() is Role.LEADER
    node.tick(1)
    assert node.role() is Role.FOLLOWER


# -- 9.6: pre-vote --------------------------------------------------------------------------------


def test_9_6_a_candidate_increments_its_term_only_after_a_majority_would_vote() -> None:
    node = SoloNode([1])
    node.time_out()
    assert (node.role(), node.raft.term) == (Role.PRE_CANDIDATE, 1)
    node.tick(200)
    assert node.raft.term == 1
    node.grant_pre_votes("b")
    assert (node.role(), node.raft.term) == (Role.CANDIDATE, 2)


def test_9_6_a_pre_vote_is_refused_while_a_leader_is_heard() -> None:
    node = SoloNode([1])
    node.receive(node.heartbeat(term=1))
    assert not granted(node, node.pre_vote(sender="c", term=2, last=(5, 5)))


def test_9_6_a_pre_vote_changes_nothing_at_the_voter() -> None:
    node = SoloNode([1])
    node.tick(11)
    assert granted(node, node.pre_vote(sender="b", term=5, last=(1, 1)))
    assert (node.raft.term, node.raft.status().vote) == (1, None)


def test_9_6_a_partitioned_server_disturbs_nobody_when_it_returns() -> None:
    group = LockstepGroup("abc")
    leader = group.elect()
    follower = next(n for n in group.nodes if n != leader.node_id)
    group.cut = {follower}
    group.tick(200)
    term = leader.raft.term
    group.cut = set()
    group.tick(50)
    assert group.leader is leader
    assert {node.raft.term for node in group.nodes.values()} == {term}


def test_9_6_an_answer_to_an_older_question_does_not_count() -> None:
    node = SoloNode([1])
    node.time_out()
    node.receive(PreVoteReply(cluster_id=GROUP, sender="b", term=1, granted=True))
    assert node.role() is Role.PRE_CANDIDATE


# -- Standing on request --------------------------------------------------------------------------


def test_campaign_is_an_ordinary_election() -> None:
    node = SoloNode([1], hard_state=HardState(term=3))
    node.receive(node.heartbeat(term=3))
    with pytest.raises(LeaderHeardError):
        node.raft.campaign()
    again = SoloNode([1], hard_state=HardState(term=3))
    again.tick(11)
    if again.role() is Role.FOLLOWER:
        again.raft.campaign()
    assert again.role() is Role.PRE_CANDIDATE


def test_quiescent_heartbeats_write_nothing() -> None:
    """A heartbeat that changes nothing costs no fsync, on either side."""
    node = SoloNode([1])
    node.receive(node.heartbeat(term=1))
    node.disk_held = True
    for _ in range(5):
        node.tick()
        node.receive(node.heartbeat(term=1))
    assert node.held_writes == []
    leader = leader_of_three()
    leader.disk_held = True
    leader.tick(5)
    assert leader.held_writes == []
    assert leader.of_kind(Heartbeat)
