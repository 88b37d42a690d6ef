"""Elections: who may ask for votes, who gives them, and when an election is won.

    FOLLOWER --timeout--> PRE_CANDIDATE --majority would vote--> CANDIDATE --majority--> LEADER
       ^                        |                                   |
       +---- leader heard, newer term, refused by a majority -------+

PRE_CANDIDATE asks first, without a new term, so that a node that cannot win disturbs nobody
(dissertation 9.6). A candidate's own vote counts only when it is durable.

A voter refuses, without adopting the newer term:

- while it has heard a leader within the minimal election timeout (dissertation 4.2.3); this is
  what ends the nuisance of removed nodes, and what a lease rests on. The clock for it runs from
  the last leader heard, whatever terms were seen since. A leader's own request lifts it.
- a candidate that its membership does not know, unless the candidate's log is strictly ahead.
  A legitimate candidate that we do not know has, by definition, an entry that we lack: the one
  that made it a member. Dissertation 4.1 requires to elect that one, or a group could lose its
  majority in the middle of a change. Equal logs contain the same memberships, so a candidate
  with a log no longer than ours is known to nobody.
"""

from __future__ import annotations

from vaylix_replication._leading import become_leader
from vaylix_replication._quorum import majority_size
from vaylix_replication._state import NodeState, Role
from vaylix_replication.errors import LeaderHeardError, MembershipRefusedError
from vaylix_replication.messages import PreVote, PreVoteReply, TimeoutNow, Vote, VoteReply

__all__ = [
    "admits_vote",
    "campaign",
    "count_own_vote",
    "on_pre_vote",
    "on_pre_vote_reply",
    "on_timeout_now",
    "on_vote",
    "on_vote_reply",
    "refuse_vote",
    "tick_follower",
]


def tick_follower(state: NodeState) -> None:
    """Let one tick pass for anybody who does not lead."""
    state.contact_elapsed += 1
    state.election_elapsed += 1
    if state.election_elapsed < state.election_timeout:
        return
    if may_stand(state):
        _start_pre_vote(state)
    else:
        state.reset_election_timer()


def campaign(state: NodeState) -> None:
    """Stand for election now, because an operator says so; the voters decide as always."""
    if state.leading is not None:
        return
    if not may_stand(state):
        raise MembershipRefusedError("this node is not a voter that can lead")
    if is_sticky(state):
        raise LeaderHeardError("a leader was heard within the minimal election timeout")
    _start_pre_vote(state)


def may_stand(state: NodeState) -> bool:
    """Tell whether this node may lead: it has a voice, and speaks everything in its log.

    A voter whose removal is not committed yet still stands, although its own vote counts no more.
    It may be the only one that has the entry of its removal, and then nobody else can be elected:
    of two voters, the one that is left lacks the entry and needs the vote of the one that goes,
    whose log is longer (dissertation 4.2.2).
    """
    if state.semantics_barrier is not None:
        return False
    if state.node_id in state.voters:
        return True
    settled = state.configurations.at(state.commit)
    return state.configurations.latest_index > state.commit and state.node_id in settled.voters


def is_sticky(state: NodeState) -> bool:
    """Tell whether a leader was heard so recently that nobody else is elected."""
    return state.leading is not None or state.contact_elapsed <= state.settings.election_ticks_min


def is_up_to_date(state: NodeState, message: PreVote | Vote) -> bool:
    """Tell whether the candidate's log is at least as complete as ours (dissertation 3.6.1)."""
    log = state.log
    return (message.last_term, message.last_index) >= (log.last_term, log.last_index)


def has_free_vote(state: NodeState, message: Vote) -> bool:
    """Tell whether the vote of this term is not given yet, or given to this very candidate."""
    return state.vote is None or state.vote == message.sender


def _is_unknown(state: NodeState, message: PreVote | Vote) -> bool:
    log = state.log
    ahead = (message.last_term, message.last_index) > (log.last_term, log.last_index)
    return not ahead and state.is_stranger(message.sender)


# -- Asking -------------------------------------------------------------------------------------


def _start_pre_vote(state: NodeState) -> None:
    state.become_follower(state.term, None)
    state.role = Role.PRE_CANDIDATE
    state.votes[state.node_id] = True
    for voter in state.voters:
        if voter != state.node_id:
            message = PreVote(
                cluster_id=state.cluster_id,
                sender=state.node_id,
                term=state.term + 1,
                last_index=state.log.last_index,
                last_term=state.log.last_term,
            )
            state.send(voter, message)
    _count(state)


def _start_election(state: NodeState, *, forced: bool) -> None:
    """Ask for votes in a new term.

    The requests wait for the disk like the own vote does. They name the end of this log, and
    voters rely on it: if the log were shorter after a crash, votes given for the longer one would
    still arrive and elect a leader that lacks committed entries.
    """
    state.become_follower(state.term + 1, None)
    state.role = Role.CANDIDATE
    state.vote = state.node_id
    for voter in state.voters:
        if voter != state.node_id:
            message = Vote(
                cluster_id=state.cluster_id,
                sender=state.node_id,
                term=state.term,
                last_index=state.log.last_index,
                last_term=state.log.last_term,
                forced=forced,
            )
            state.send_after_write(voter, message)


def count_own_vote(state: NodeState) -> None:
    """Count the own vote once it is durable."""
    if state.role is not Role.CANDIDATE or state.node_id in state.votes:
        return
    if (state.writes.durable_term, state.writes.durable_vote) == (state.term, state.node_id):
        state.votes[state.node_id] = True
        _count(state)


def on_pre_vote_reply(state: NodeState, message: PreVoteReply) -> None:
    """Pre-candidate: count the answer, if it is one to this question."""
    if message.granted and message.term != state.term + 1:
        return
    state.votes[message.sender] = message.granted
    _count(state)


def on_vote_reply(state: NodeState, message: VoteReply) -> None:
    """Candidate: count the answer; whoever wins begins at the latest time of its voters.

    A read is answered at a time that a majority has heard, and one of those is among the voters.
    So time never falls behind an answer, although an answer leaves no entry in the log.
    """
    if message.granted:
        state.time_ms = max(state.time_ms, message.time_ms)
    state.votes[message.sender] = message.granted
    _count(state)


def on_timeout_now(state: NodeState, message: TimeoutNow) -> None:
    """Follower: the leader hands over; do not ask first, do not wait."""
    if message.sender == state.leader_id and may_stand(state):
        _start_election(state, forced=True)


def _count(state: NodeState) -> None:
    """Win, lose, or go on waiting."""
    granted = sum(state.votes.get(voter) is True for voter in state.voters)
    refused = sum(state.votes.get(voter) is False for voter in state.voters)
    if granted >= majority_size(len(state.voters)):
        if state.role is Role.PRE_CANDIDATE:
            _start_election(state, forced=False)
        elif state.node_id in state.votes:
            become_leader(state)
    elif refused >= majority_size(len(state.voters)):
        state.become_follower(state.term, None)


# -- Answering ----------------------------------------------------------------------------------


def on_pre_vote(state: NodeState, message: PreVote) -> None:
    """Anybody: would we vote for this one? Nothing is promised and nothing changes."""
    granted = (
        message.term >= state.term
        and not is_sticky(state)
        and not _is_unknown(state, message)
        and is_up_to_date(state, message)
    )
    reply = PreVoteReply(
        cluster_id=state.cluster_id,
        sender=state.node_id,
        term=message.term if granted else state.term,
        granted=granted,
    )
    state.send(message.sender, reply)


def admits_vote(state: NodeState, message: Vote) -> bool:
    """Tell whether a request is considered at all; if not, not even its term counts."""
    if is_sticky(state) and not message.forced:
        return False
    return not _is_unknown(state, message)


def refuse_vote(state: NodeState, message: Vote) -> None:
    """Say no, in the own term."""
    state.send(message.sender, _vote_reply(state, granted=False))


def on_vote(state: NodeState, message: Vote) -> None:
    """Anybody, in the term of the candidate: give the one vote of the term, or refuse it."""
    eligible = has_free_vote(state, message) and is_up_to_date(state, message)
    if not (eligible and admits_vote(state, message)):
        refuse_vote(state, message)
        return
    if state.role is not Role.FOLLOWER:
        state.become_follower(state.term, None)
    state.vote = message.sender
    state.election_elapsed = 0
    state.send_after_write(message.sender, _vote_reply(state, granted=True))


def _vote_reply(state: NodeState, *, granted: bool) -> VoteReply:
    return VoteReply(
        cluster_id=state.cluster_id,
        sender=state.node_id,
        term=state.term,
        granted=granted,
        time_ms=state.time_ms,
    )
