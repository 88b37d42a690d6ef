"""A test per normative sentence of dissertation sections 4.1 and 4.2, as corrected in 2015.

Joint consensus, section 4.3, is not used: the membership changes one member at a time.
"""

from __future__ import annotations

import random

import pytest

from vaylix_replication import (
    Batch,
    BatchKind,
    Configuration,
    HardState,
    Join,
    JoinAsLearner,
    Leave,
    Member,
    MemberKind,
    RaftNode,
    Restored,
    Role,
    Settings,
    SnapshotMeta,
)
from vaylix_replication.errors import (
    ChangeInProgressError,
    MembershipRefusedError,
    NotLeaderError,
    NotReadyError,
    UnknownSemanticsError,
)
from vaylix_replication.messages import (
    PreVote,
    PreVoteReply,
    Vote,
    VoteReply,
)
from vaylix_replication.testing import LockstepGroup, MemoryLog, MemorySnapshots
from vaylix_replication.testing.solo import SoloNode, make_batches


def leader(voters: str = "abc") -> SoloNode:
    node = SoloNode(voters=voters)
    node.lead()
    for peer in voters[1:]:
        node.acknowledge(peer, 1)
    return node


def voters(node: SoloNode) -> str:
    return "".join(node.raft.status().configuration.voters)


def membership_batch(index: int, term: int, members: str) -> Batch:
    configuration = Configuration.of_voters(dict.fromkeys(members, ""))
    return Batch.create(
        first_index=index,
        term=term,
        kind=BatchKind.CONFIGURATION,
        payload=configuration.encode(),
    )


# -- 4.1 ------------------------------------------------------------------------------------------


def test_4_1_a_change_is_an_entry_and_takes_effect_when_it_is_appended() -> None:
    node = leader()
    index = node.raft.propose_membership(Leave("c"))
    assert (index, voters(node)) == (2, "ab")
    assert node.raft.commit == 1


def test_4_1_a_change_is_committed_by_a_majority_of_the_new_membership() -> None:
    node = leader("abcde")
    node.raft.propose_membership(Leave("e"))
    node.run()
    node.acknowledge("e", 2)
    node.acknowledge("b", 2)
    assert node.raft.commit == 1
    node.acknowledge("c", 2)
    assert node.raft.commit == 2


def test_4_1_a_follower_uses_the_latest_membership_in_its_log_and_falls_back() -> None:
    node = SoloNode([1], voters="abc")
    node.receive(node.append(membership_batch(2, 1, "abcd"), term=1, prev=(1, 1)))
    assert voters(node) == "abcd"
    node.receive(node.append(*make_batches([2], first_index=2), sender="c", term=2, prev=(1, 1)))
    assert voters(node) == "abc"


def test_4_1_the_next_change_waits_until_the_one_before_is_committed() -> None:
    node = leader("abcde")
    node.raft.propose_membership(Leave("e"))
    node.run()
    with pytest.raises(ChangeInProgressError):
        node.raft.propose_membership(Leave("d"))
    node.acknowledge("b", 2)
    node.acknowledge("c", 2)
    assert node.raft.propose_membership(Leave("d")) == 3


def test_4_1_a_leader_changes_nothing_before_it_has_committed_in_its_term() -> None:
    """The correction of 2015: otherwise two memberships two voters apart can both be in use."""
    node = SoloNode([1])
    node.lead()
    with pytest.raises(NotReadyError):
        node.raft.propose_membership(Leave("c"))
    node.acknowledge("b", 2)
    node.raft.propose_membership(Leave("c"))


def test_4_1_a_server_takes_entries_from_a_leader_outside_its_membership() -> None:
    node = SoloNode([1])
    answers = node.receive(node.append(*make_batches([2], first_index=2), sender="z", term=2))
    assert [to for to, _ in answers] == ["z"]
    assert node.terms() == [1, 2]


def test_4_1_a_server_votes_for_a_candidate_outside_its_membership_that_is_ahead() -> None:
    """It may have become a member by an entry that this server lacks."""
    node = SoloNode([1])
    node.tick(11)
    ((_, answer),) = node.receive(node.pre_vote(sender="z", term=2, last=(2, 1)))
    assert isinstance(answer, PreVoteReply)
    assert answer.granted
    ((_, answer),) = node.receive(node.vote(sender="z", term=2, last=(2, 1)))
    assert isinstance(answer, VoteReply)
    assert answer.granted


@pytest.mark.parametrize("last", [(1, 1), (0, 0)])
def test_17_4_a_candidate_outside_the_membership_that_is_not_ahead_changes_nothing(
    last: tuple[int, int],
) -> None:
    """Equal logs hold equal memberships, so nobody knows this one; its term does not count."""
    node = SoloNode([1])
    node.tick(11)
    ((_, answer),) = node.receive(node.vote(sender="z", term=9, last=last))
    assert isinstance(answer, VoteReply)
    assert (answer.granted, node.raft.term) == (False, 1)


# -- 4.2.1: catching up ---------------------------------------------------------------------------


def test_4_2_1_a_new_server_has_no_vote_until_it_has_caught_up() -> None:
    node = leader()
    node.raft.propose_membership(Join("d", "d:1"))
    node.run()
    assert voters(node) == "abc"
    node.acknowledge("d", 1)
    assert voters(node) == "abc"
    node.acknowledge("b", 2)
    node.acknowledge("d", 2)
    assert voters(node) == "abcd"


def test_4_2_1_a_new_server_becomes_a_voter_only_when_no_other_change_is_on_its_way() -> None:
    node = leader()
    node.raft.propose_membership(Join("d", "d:1"))
    node.run()
    node.acknowledge("b", 2)
    node.raft.propose_membership(Leave("c"))
    node.run()
    node.acknowledge("d", 3)
    assert voters(node) == "ab"
    node.acknowledge("b", 3)
    node.tick()
    assert voters(node) == "abd"


def test_4_2_1_an_operator_gives_up_a_server_that_never_catches_up() -> None:
    """It has no voice, so it delays nobody but the change that would follow its own."""
    node = leader()
    node.raft.propose_membership(Join("d", "d:1"))
    node.run()
    node.acknowledge("b", 2)
    for _ in range(100):
        node.acknowledge("b", 2)
        node.tick()
    assert node.raft.status().configuration.find("d") == Member("d", "d:1", MemberKind.JOINING)
    assert node.raft.propose_membership(Leave("d")) == 3
    node.run()
    node.acknowledge("b", 3)
    assert node.raft.commit == 3
    assert node.raft.status().configuration.find("d") is None
    assert [peer.node_id for peer in node.raft.status().peers] == ["b", "c"]
    node.acknowledge("d", 3)
    node.tick(2)
    assert voters(node) == "abc"


def test_4_2_1_a_round_that_takes_longer_than_an_election_timeout_is_followed_by_another() -> None:
    node = leader("a")
    node.raft.propose_membership(Join("d", "d:1"))
    node.run()
    node.propose()
    node.tick(11)
    node.acknowledge("d", 2)
    assert voters(node) == "a"
    node.acknowledge("d", node.raft.next_index - 1)
    assert voters(node) == "ad"


def test_4_2_1_a_learner_stays_one() -> None:
    group = LockstepGroup("a")
    first = group.elect()
    group.add("b")
    first.raft.propose_membership(JoinAsLearner("b", "b:1"))
    group.settle()
    group.tick(50)
    member = first.raft.status().configuration.find("b")
    assert member == Member("b", "b:1", MemberKind.LEARNER)
    assert group.nodes["b"].raft.role is Role.FOLLOWER
    assert group.nodes["b"].raft.commit == first.raft.commit
    first.raft.propose_membership(Join("b", "b:1"))
    group.settle()
    group.tick(5)
    assert first.raft.status().configuration.voters == ("a", "b")


def test_4_2_1_a_server_joins_that_does_not_speak_the_semantics_only_once_it_does() -> None:
    node = SoloNode(voters="a", semantics_version_max=2)
    node.lead()
    node.raft.propose_semantics(2)
    node.run()
    node.raft.propose_membership(Join("d", "d:1"))
    node.run()
    node.acknowledge("d", node.raft.next_index - 1, speaks=1)
    assert voters(node) == "a"
    node.acknowledge("d", node.raft.next_index - 1, speaks=2)
    node.tick(2)
    assert voters(node) == "ad"


# -- 4.2.2: removing the leader -------------------------------------------------------------------


def test_4_2_2_a_leader_that_removes_itself_does_not_count_itself() -> None:
    node = leader()
    node.raft.propose_membership(Leave("a"))
    node.run()
    node.acknowledge("b", 2)
    assert (node.raft.commit, node.role()) == (1, Role.LEADER)


def test_4_2_2_it_steps_down_when_its_removal_is_committed() -> None:
    node = leader()
    node.raft.propose_membership(Leave("a"))
    node.run()
    node.acknowledge("b", 2)
    node.acknowledge("c", 2)
    assert (node.raft.commit, node.role()) == (2, Role.FOLLOWER)
    node.tick(100)
    assert node.role() is Role.FOLLOWER


def test_4_2_2_until_then_it_may_have_to_lead_again() -> None:
    """Of two voters only the one that leaves has the entry; the other cannot win without it."""
    group = LockstepGroup("ab")
    first = group.elect()
    other = next(n for n in group.nodes if n != first.node_id)
    group.cut = {other}
    first.raft.propose_membership(Leave(first.node_id))
    group.settle()
    group.tick(40)
    assert first.raft.role is not Role.LEADER
    group.cut = set()
    group.tick(100)
    assert group.leader is group.nodes[other]
    assert group.nodes[other].raft.status().configuration.voters == (other,)


# -- 4.2.3 ----------------------------------------------------------------------------------------


def test_4_2_3_a_removed_server_disturbs_nobody() -> None:
    group = LockstepGroup("abc")
    first = group.elect()
    removed = next(n for n in group.nodes if n != first.node_id)
    group.cut = {removed}
    first.raft.propose_membership(Leave(removed))
    group.settle()
    group.tick(100)
    group.cut = set()
    group.tick(200)
    assert group.leader is first
    assert first.raft.term == group.nodes[removed].raft.term == 1


def test_4_1_the_last_voter_cannot_leave() -> None:
    node = leader("a")
    with pytest.raises(MembershipRefusedError):
        node.raft.propose_membership(Leave("a"))


def test_a_change_that_holds_already_appends_nothing() -> None:
    """VTP replication 19.12: JOIN of the same address and REMOVE of an absent id are no-ops."""
    node = leader()
    before = node.raft.next_index
    assert node.raft.propose_membership(Leave("z")) == 0
    assert node.raft.propose_membership(Join("b", "")) == 0
    assert node.raft.next_index == before
    node.raft.propose_membership(Join("b", "elsewhere:1"))
    assert node.raft.status().configuration.find("b") == Member("b", "elsewhere:1")
    with pytest.raises(MembershipRefusedError):
        node.raft.propose_membership(JoinAsLearner("b", ""))


@pytest.mark.parametrize(
    "change",
    [
        Join("", "d:1"),
        Join("d" * 256, "d:1"),
        Join("Ä" * 128, "d:1"),
        Join("\ud800", "d:1"),
        JoinAsLearner("d", "d" * 1025),
        JoinAsLearner("d", "\ud800"),
    ],
    ids=["empty", "long", "long in bytes", "surrogate", "long address", "surrogate address"],
)
def test_a_member_that_no_peer_could_read_is_refused(change: Join | JoinAsLearner) -> None:
    node = leader()
    before = node.raft.next_index
    with pytest.raises(MembershipRefusedError):
        node.raft.propose_membership(change)
    assert node.raft.next_index == before
    node.raft.propose_membership(Join("Ä" * 127 + "d", "d" * 1024))


def test_only_a_leader_changes_the_membership() -> None:
    node = SoloNode()
    with pytest.raises(NotLeaderError):
        node.raft.propose_membership(Leave("b"))


def test_members_are_carried_by_snapshots_and_survive_restarts() -> None:
    group = LockstepGroup("abc")
    first = group.elect()
    first.raft.propose_membership(Leave(next(n for n in group.nodes if n != first.node_id)))
    group.settle()
    first.compact()
    assert first.snapshots.meta is not None
    assert first.snapshots.meta.configuration == first.raft.status().configuration
    assert len(first.snapshots.meta.configuration.voters) == 2


# -- Semantics ------------------------------------------------------------------------------------


def semantics_batch(index: int, term: int, version: int) -> Batch:
    payload = version.to_bytes(4, "big")
    return Batch.create(first_index=index, term=term, kind=BatchKind.SEMANTICS, payload=payload)


def test_a_node_does_not_pass_semantics_it_does_not_speak() -> None:
    node = SoloNode([1])
    later = make_batches([1], first_index=3)
    node.receive(node.append(semantics_batch(2, 1, 2), *later, term=1, commit=3))
    assert [b.last_index for b in node.applied] == [1]
    assert node.raft.commit == 3
    assert node.raft.status().semantics_barrier == 2
    node.tick(200)
    assert node.of_kind(PreVote) == []


def test_a_node_does_not_start_on_a_snapshot_of_semantics_it_does_not_speak() -> None:
    """The barrier is behind it: it would lead, and apply by rules that it does not know."""
    snapshot = SnapshotMeta(
        index=5, term=3, configuration=Configuration.of_voters({"a": ""}), semantics_version=2
    )
    restored = Restored(hard_state=HardState(term=3, commit=5), snapshot=snapshot)

    def start(speaks: int) -> RaftNode:
        return RaftNode(
            Settings(cluster_id="group", node_id="a", semantics_version_max=speaks),
            restored,
            log=MemoryLog(base_index=5),
            snapshots=MemorySnapshots(),
            draw=random.Random(1).randint,
        )

    with pytest.raises(UnknownSemanticsError, match="version 2, this node speaks 1"):
        start(1)
    assert start(2).status().semantics_version == 2


def test_a_node_that_speaks_them_passes() -> None:
    node = SoloNode([1], semantics_version_max=2)
    node.receive(node.append(semantics_batch(2, 1, 2), term=1, commit=2))
    assert len(node.applied) == 2
    assert node.raft.status().semantics_version == 2


def test_a_leader_moves_on_only_when_every_voter_speaks_the_version() -> None:
    node = SoloNode(semantics_version_max=2)
    node.lead()
    node.acknowledge("b", 1, speaks=2)
    node.acknowledge("c", 1, speaks=1)
    with pytest.raises(MembershipRefusedError, match="c is not known"):
        node.raft.propose_semantics(2)
    node.acknowledge("c", 1, speaks=2)
    assert node.raft.propose_semantics(2) == 2
    assert node.raft.propose_semantics(2) == 2


def test_learners_are_not_asked_for_votes() -> None:
    """A learner is asked for nothing: requests go to voters only."""
    node = SoloNode([1])
    members = Configuration((Member("a", ""), Member("b", ""), Member("l", "", MemberKind.LEARNER)))
    batch = Batch.create(
        first_index=2, term=1, kind=BatchKind.CONFIGURATION, payload=members.encode()
    )
    node.receive(node.append(batch, term=1))
    node.time_out()
    node.grant_pre_votes("b")
    assert {to for to, m in node.sent if isinstance(m, PreVote | Vote)} == {"b"}
