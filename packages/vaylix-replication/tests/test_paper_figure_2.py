"""A test per normative sentence of the Raft paper's figure 2 (dissertation figure 3.1).

The docstring of each test quotes or paraphrases its sentence.
"""

from __future__ import annotations

import pytest

from vaylix_replication import HardState, RaftNode, Restored, Role, SnapshotMeta
from vaylix_replication.errors import CorruptionError
from vaylix_replication.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    PreVote,
    Vote,
    VoteReply,
)
from vaylix_replication.testing.solo import GROUP, SoloNode, make_batches

# -- State ----------------------------------------------------------------------------------------


def test_state_term_vote_and_log_are_durable_before_a_reply_relies_on_them() -> None:
    """Persistent state is updated on stable storage before responding to RPCs."""
    node = SoloNode([1])
    node.tick(11)
    node.disk_held = True
    assert node.receive(node.vote(sender="b", term=5, last=(1, 1))) == []
    node.flush()
    assert node.log.hard_state == HardState(term=5, vote="b", commit=0)
    assert [m.granted for m in node.of_kind(VoteReply)] == [True]

    node.disk_held = True
    batch = make_batches([6], first_index=2)
    assert node.receive(node.append(*batch, sender="c", term=6, prev=(1, 1))) == []
    node.flush()
    assert node.terms() == [1, 6]
    assert [m.index for m in node.of_kind(AppendReply)] == [2]


def test_state_the_term_starts_at_0_and_only_grows() -> None:
    """currentTerm: latest term the server has seen (0 on first boot, increases monotonically)."""
    node = SoloNode()
    assert node.raft.term == 0
    node.receive(node.append(term=7))
    assert node.raft.term == 7
    node.receive(node.append(term=3))
    assert node.raft.term == 7


def test_state_the_vote_belongs_to_its_term() -> None:
    """votedFor: candidate that received the vote in the current term, or null if none."""
    node = SoloNode(hard_state=HardState(term=3, vote="b"))
    assert node.raft.status().vote == "b"
    node.receive(node.append(term=4, sender="c"))
    assert node.raft.status().vote is None


def test_state_commit_and_applied_start_at_0_and_only_grow() -> None:
    """commitIndex and lastApplied start at 0 and increase monotonically."""
    node = SoloNode([1, 1, 1])
    assert (node.raft.commit, len(node.applied)) == (0, 0)
    node.receive(node.append(term=1, commit=2))
    assert (node.raft.commit, len(node.applied)) == (2, 2)
    node.receive(node.append(term=1, commit=1))
    assert (node.raft.commit, len(node.applied)) == (2, 2)


def test_state_next_index_starts_behind_the_leaders_log_and_match_index_at_0() -> None:
    """nextIndex is initialised to leader last log index + 1, matchIndex to 0, after election."""
    node = SoloNode([1, 1, 1])
    node.lead()
    assert [peer.match for peer in node.raft.status().peers] == [0, 0]
    first = [m for m in node.of_kind(Append) if m.batches]
    assert {m.prev_index for m in first} == {3}


# -- AppendEntries ----------------------------------------------------------------------------


def test_append_1_a_message_of_an_older_term_is_refused() -> None:
    """Reply false if term < currentTerm."""
    node = SoloNode([5])
    batch = make_batches([4], first_index=2)
    answers = node.receive(node.append(*batch, term=4, prev=(1, 4)))
    assert [(to, m.term) for to, m in answers] == [("b", 5)]
    assert isinstance(answers[0][1], HeartbeatReply)
    assert node.terms() == [5]


@pytest.mark.parametrize("prev", [(3, 1), (2, 2)])
def test_append_2_a_message_is_refused_if_the_log_lacks_prev(prev: tuple[int, int]) -> None:
    """Reply false if log doesn't contain an entry at prevLogIndex whose term matches."""
    node = SoloNode([1, 1])
    ((_, answer),) = node.receive(node.append(term=2, prev=prev))
    assert isinstance(answer, AppendReply)
    assert not answer.accepted
    assert node.terms() == [1, 1]


def test_append_3_a_conflicting_entry_and_all_that_follow_it_are_deleted() -> None:
    """If an existing entry conflicts with a new one, delete it and all that follow it."""
    node = SoloNode([1, 2, 2, 2])
    node.receive(node.append(*make_batches([3], first_index=2), term=3, prev=(1, 1)))
    assert node.terms() == [1, 3]


def test_append_3_nothing_is_deleted_without_a_conflict() -> None:
    """A short or late append that matches deletes nothing (the paper's "if ... conflicts")."""
    node = SoloNode([1, 1, 1, 1])
    ((_, answer),) = node.receive(node.append(*make_batches([1]), term=1, prev=(0, 0)))
    assert node.terms() == [1, 1, 1, 1]
    assert isinstance(answer, AppendReply)
    assert (answer.accepted, answer.index) == (True, 1)


def test_append_4_entries_not_in_the_log_are_appended() -> None:
    """Append any new entries not already in the log."""
    node = SoloNode([1, 1])
    node.receive(node.append(*make_batches([1, 1, 1], first_index=2), term=1, prev=(1, 1)))
    assert node.terms() == [1, 1, 1, 1]


@pytest.mark.parametrize(("leader_commit", "expected"), [(2, 2), (9, 3)])
def test_append_5_commit_follows_to_what_was_verified(leader_commit: int, expected: int) -> None:
    """commitIndex = min(leaderCommit, index of last new entry)."""
    node = SoloNode([1, 1, 1, 1, 1])
    node.receive(
        node.append(*make_batches([1], first_index=3), term=1, prev=(2, 1), commit=leader_commit)
    )
    assert node.raft.commit == expected


# -- RequestVote ------------------------------------------------------------------------------


def test_vote_1_a_request_of_an_older_term_is_refused() -> None:
    """Reply false if term < currentTerm."""
    node = SoloNode([5])
    node.tick(11)
    ((_, answer),) = node.receive(node.vote(sender="b", term=4, last=(9, 4)))
    assert isinstance(answer, VoteReply)
    assert (answer.granted, answer.term) == (False, 5)


def test_vote_2_a_vote_goes_to_the_first_candidate_with_an_up_to_date_log() -> None:
    """If votedFor is null or candidateId, and the log is up-to-date, grant vote."""
    node = SoloNode([1])
    node.tick(11)
    outcomes = [
        node.receive(node.vote(sender=sender, term=2, last=(1, 1)))[0][1]
        for sender in ("b", "c", "b")
    ]
    assert [m.granted for m in outcomes if isinstance(m, VoteReply)] == [True, False, True]


# -- Rules for servers ------------------------------------------------------------------------


def test_all_servers_apply_what_is_committed_in_order() -> None:
    """If commitIndex > lastApplied: increment lastApplied, apply log[lastApplied]."""
    node = SoloNode([1, 1, 1])
    node.receive(node.append(term=1, commit=3))
    assert [batch.first_index for batch in node.applied] == [1, 2, 3]


@pytest.mark.parametrize("role", [Role.CANDIDATE, Role.LEADER])
def test_all_servers_follow_a_newer_term(role: Role) -> None:
    """If RPC request or response contains term T > currentTerm: adopt it, become follower."""
    node = SoloNode([1])
    if role is Role.LEADER:
        node.lead()
    else:
        node.time_out()
        node.grant_pre_votes("b")
    assert node.role() is role
    newer = HeartbeatReply(cluster_id=GROUP, sender="c", term=9, round=0, semantics_version_max=1)
    node.receive(newer)
    assert (node.raft.role, node.raft.term) == (Role.FOLLOWER, 9)


def test_followers_answer_candidates_and_leaders() -> None:
    """Respond to RPCs from candidates and leaders."""
    node = SoloNode([1])
    assert node.receive(node.heartbeat(term=1))
    assert node.receive(node.append(term=1))
    assert node.receive(node.vote(sender="c", term=2))


def test_followers_stand_for_election_when_they_hear_nobody() -> None:
    """If election timeout elapses without AppendEntries or granting vote: become candidate."""
    node = SoloNode([1])
    node.tick(10)
    assert node.role() is Role.FOLLOWER
    node.receive(node.heartbeat(term=1))
    node.tick(10)
    assert node.role() is Role.FOLLOWER
    node.receive(node.vote(sender="c", term=1, last=(1, 1)))
    node.tick(1)
    node.receive(node.vote(sender="c", term=1, last=(1, 1)))
    assert node.raft.status().vote == "c"
    node.tick(10)
    assert node.role() is Role.FOLLOWER
    node.time_out()
    assert node.role() is Role.PRE_CANDIDATE


def test_candidates_increment_the_term_vote_for_themselves_and_ask_everybody() -> None:
    """On conversion to candidate: increment currentTerm, vote for self, reset timer, ask all."""
    node = SoloNode([1])
    node.time_out()
    assert {to for to, m in node.sent if isinstance(m, PreVote)} == {"b", "c"}
    node.grant_pre_votes("b")
    assert (node.raft.role, node.raft.term) == (Role.CANDIDATE, 2)
    assert node.log.hard_state == HardState(term=2, vote="a", commit=0)
    assert {to for to, m in node.sent if isinstance(m, Vote)} == {"b", "c"}
    node.tick(10)
    assert node.role() is Role.CANDIDATE


def test_candidates_become_leader_with_a_majority() -> None:
    """If votes received from majority of servers: become leader."""
    node = SoloNode([1], voters="abcde")
    node.time_out()
    node.grant_pre_votes("b", "c")
    node.grant_votes("b")
    assert node.role() is Role.CANDIDATE
    node.grant_votes("c")
    assert node.role() is Role.LEADER


def test_candidates_follow_a_leader_of_their_term() -> None:
    """If AppendEntries RPC received from new leader: convert to follower."""
    node = SoloNode([1])
    node.time_out()
    node.grant_pre_votes("b")
    node.receive(node.append(sender="c"))
    assert (node.raft.role, node.raft.leader_id) == (Role.FOLLOWER, "c")


def test_candidates_start_over_when_the_election_fails() -> None:
    """If election timeout elapses: start new election."""
    node = SoloNode([1])
    node.time_out()
    node.grant_pre_votes("b")
    asked = len(node.of_kind(PreVote))
    node.tick(20)
    assert len(node.of_kind(PreVote)) > asked


def test_leaders_make_themselves_heard_at_once_and_again_and_again() -> None:
    """Upon election: send initial empty AppendEntries; repeat during idle periods."""
    node = SoloNode([1])
    node.lead()
    assert {to for to, m in node.sent if isinstance(m, Append)} == {"b", "c"}
    for peer in "bc":
        node.acknowledge(peer, 2)
    node.tick(3)
    assert len(node.of_kind(Heartbeat)) == 6


def test_leaders_append_commands_and_answer_when_they_are_applied() -> None:
    """If command received from client: append entry, respond after it is applied."""
    node = SoloNode()
    node.lead()
    node.acknowledge("b", 1)
    batch = node.propose(b"command")
    assert batch not in node.applied
    node.acknowledge("b", 2)
    assert node.applied[-1] == batch


def test_leaders_go_back_and_send_what_is_missing_from_next_index_on() -> None:
    """If last log index >= nextIndex for a follower: send entries starting at nextIndex.

    If AppendEntries fails because of log inconsistency: decrement nextIndex and retry.
    """
    node = SoloNode([1, 1, 1, 1])
    node.lead()
    refusal = node.append_reply("b", 4, hint=(1, 1))
    ((_, answer),) = node.receive(refusal)
    assert isinstance(answer, Append)
    assert (answer.prev_index, len(answer.batches)) == (1, 4)


def test_leaders_note_what_a_follower_has_accepted() -> None:
    """If successful: update nextIndex and matchIndex for follower."""
    node = SoloNode([1])
    node.lead()
    node.acknowledge("b", 2)
    assert [peer.match for peer in node.raft.status().peers] == [2, 0]
    node.propose()
    assert node.of_kind(Append)[-1].prev_index == 2


def test_leaders_commit_what_a_majority_has_of_their_own_term() -> None:
    """If a majority has N > commitIndex and log[N].term == currentTerm: commitIndex = N."""
    node = SoloNode([1, 1], voters="abcde")
    node.lead()
    node.acknowledge("b", 2)
    node.acknowledge("c", 2)
    node.acknowledge("d", 2)
    assert node.raft.commit == 0
    node.acknowledge("b", 3)
    assert node.raft.commit == 0
    node.acknowledge("c", 3)
    assert node.raft.commit == 3


def test_leaders_own_disk_is_one_vote_like_any_other() -> None:
    """The leader counts itself only when its entry is on stable storage (10.2.1)."""
    node = SoloNode()
    node.lead()
    node.disk_held = True
    node.propose()
    node.acknowledge("b", 2)
    assert node.raft.commit == 1
    node.flush()
    assert node.raft.commit == 2


# -- Properties -------------------------------------------------------------------------------


def test_election_safety_two_leaders_of_one_term_are_an_alarm() -> None:
    """At most one leader can be elected in a given term."""
    node = SoloNode()
    node.lead()
    with pytest.raises(CorruptionError, match="leads term 1 too"):
        node.raft.step(node.append(sender="b", prev=(0, 0)))


def test_leader_append_only_a_leader_never_cuts_its_log() -> None:
    """A leader never overwrites or deletes entries in its log; it only appends new entries."""
    node = SoloNode([1, 1])
    node.lead()
    before = node.terms()
    node.propose()
    assert node.terms() == [*before, 2]
    assert all(w.truncate_after is None for w in node.held_writes)


def test_state_machine_safety_what_is_committed_is_never_cut() -> None:
    """No other server will ever apply a different entry for the same index."""
    node = SoloNode([1, 1])
    node.receive(node.append(term=1, commit=2))
    with pytest.raises(CorruptionError, match="is committed"):
        node.raft.step(
            node.append(*make_batches([2], first_index=2), sender="c", term=2, prev=(1, 1))
        )


def test_a_log_that_is_older_than_its_commit_point_is_an_alarm() -> None:
    """Stable storage that forgets is outside the model; a node must not go on with it."""
    node = SoloNode([1])
    with pytest.raises(CorruptionError):
        RaftNode(
            node.settings,
            Restored(hard_state=HardState(term=1, commit=2), snapshot=SnapshotMeta()),
            log=node.log,
            snapshots=node.snapshots,
            draw=lambda low, high: low + high,
        )
