"""Linearizable reads without a log entry (dissertation 6.4), and the lease.

A read may be answered from the applied state at the commit index of the moment it arrived, once
it is certain that no newer leader existed at that moment. Certainty comes from a majority that
answers a *round* begun after the read arrived:

    read_index -> waiting --next Ready--> round n --majority answered n or later--> confirmed
                                                         --index applied--> Ready.reads

All reads that wait when a Ready is made share one round. A leader that has not committed an entry
of its own term does not know the commit index yet, and its reads wait for that first.

A follower asks its leader. An answer may come late, even to a later life of the follower in the
same term, where it would vouch for a read that began after the round. So every question has a
number that no other question of this node has, in any of its lives.

A read is answered as of a time, which decides what has expired. It is one that the round has
told to a majority, and a vote tells it on to the next leader: so what a client saw expire stays
expired. The own `time_ms` of a leader would not do, because nobody else may have heard it yet.

The lease
---------

The driver passes with each tick the time until which leadership may be trusted if the heartbeats
of this tick are answered by a majority: their sending time plus 0.8 of the minimal election
timeout. Each member of that majority refuses every vote for one whole minimum after it heard
the heartbeat, whatever else it learns in between, and so does a restarted one after its start. So
no leader can be elected before the lease is over. Two things break that argument, and each ends
the lease: a transfer of leadership asks voters not to refuse, and the request may arrive any time
later, so a leader that has sent it gives no lease to the end of its term; and after a change of
the membership a majority of the new one need not share a voter with those that answered before.
"""

from __future__ import annotations

from vaylix_replication._quorum import majority_reached
from vaylix_replication._ready import ReadState
from vaylix_replication._sending import broadcast_heartbeats
from vaylix_replication._state import (
    LeaderState,
    LeaseOffer,
    NodeState,
    ReadRound,
    RemoteRead,
    WaitingRead,
)
from vaylix_replication.errors import NotLeaderError, ReadBacklogFullError
from vaylix_replication.messages import ReadIndex, ReadIndexReply

__all__ = [
    "begin_round",
    "confirm_rounds",
    "drop_overdue_reads",
    "is_full",
    "lease_index",
    "may_begin_round",
    "offer_lease",
    "on_read_index",
    "on_read_index_reply",
    "read_index",
    "take_applied_reads",
]


def read_index(state: NodeState, context: int) -> None:
    """Queue a read here, or ask the leader on behalf of a follower."""
    if is_full(state):
        raise ReadBacklogFullError("too many reads wait to be answered")
    if state.leading is not None:
        _queue(state.leading, WaitingRead(None, context))
        return
    if state.leader_id is None:
        raise NotLeaderError(None)
    question = state.next_question
    state.next_question += 1
    state.remote_reads[question] = RemoteRead(context, state.tick)
    message = ReadIndex(
        cluster_id=state.cluster_id, sender=state.node_id, term=state.term, question=question
    )
    state.send(state.leader_id, message)


def is_full(state: NodeState) -> bool:
    """Tell whether as many reads wait, for a round or to be applied, as may."""
    waiting = len(state.remote_reads) + len(state.confirmed_reads)
    if state.leading is not None:
        waiting += state.leading.reads_waiting_count
    return waiting >= state.settings.reads_waiting_max


def drop_overdue_reads(state: NodeState) -> None:
    """Give up what the leader was asked long ago: the question or the answer is lost."""
    oldest = state.tick - state.settings.election_ticks_max
    overdue = [
        question for question, read in state.remote_reads.items() if read.asked_tick < oldest
    ]
    state.dropped_reads.extend(state.remote_reads.pop(question).context for question in overdue)


def on_read_index(state: NodeState, message: ReadIndex) -> None:
    """Leader: queue a follower's read; anybody else, and a full leader: refuse."""
    if state.leading is None or is_full(state):
        _answer(state, message.sender, message.question, None)
        return
    _queue(state.leading, WaitingRead(message.sender, message.question))


def on_read_index_reply(state: NodeState, message: ReadIndexReply) -> None:
    """Follower: the leader has confirmed, or refused."""
    read = state.remote_reads.pop(message.question, None)
    if read is None:
        return
    if not message.granted:
        state.dropped_reads.append(read.context)
        return
    state.time_ms = max(state.time_ms, message.time_ms)
    state.confirmed_reads.append(ReadState(read.context, message.index, message.time_ms))


def may_begin_round(state: NodeState, leading: LeaderState) -> bool:
    """Tell whether reads wait and the commit index is known: an own entry is committed."""
    return bool(leading.reads_waiting) and state.commit >= leading.own_term_index


def begin_round(state: NodeState, leading: LeaderState) -> None:
    """Give all waiting reads one round, if the commit index is known."""
    if not may_begin_round(state, leading):
        return
    broadcast_heartbeats(state, leading)
    reads = leading.reads_waiting
    leading.reads_waiting = []
    leading.rounds.append(ReadRound(leading.round, state.commit, state.time_ms, reads))
    confirm_rounds(state, leading)


def confirm_rounds(state: NodeState, leading: LeaderState) -> None:
    """Answer the reads, and extend the lease, of every round that a majority has answered."""
    if not leading.rounds and not leading.lease_offers:
        return
    confirmed = majority_reached(
        [
            leading.round if voter == state.node_id else leading.peers[voter].confirmed_round
            for voter in state.voters
        ]
    )
    while leading.rounds and leading.rounds[0].number <= confirmed:
        _release(state, leading, leading.rounds.popleft())
    while leading.lease_offers and leading.lease_offers[0].number <= confirmed:
        offer = leading.lease_offers.popleft()
        leading.lease_end = offer.deadline
        leading.confirmed_time_ms = max(leading.confirmed_time_ms, offer.time_ms)


def offer_lease(state: NodeState, leading: LeaderState, deadline: int) -> None:
    """Note what the heartbeats of the round that begins now are worth when they are answered."""
    if not leading.lease_forfeited:
        leading.lease_offers.append(LeaseOffer(leading.round, deadline, state.time_ms))


def lease_index(state: NodeState, now: int) -> int | None:
    """Return the index that a read at `now` must have applied, None without a lease."""
    leading = state.leading
    if leading is None or leading.lease_end is None or leading.lease_forfeited:
        return None
    if now >= leading.lease_end or state.commit < leading.own_term_index:
        return None
    return state.commit


def take_applied_reads(state: NodeState) -> list[ReadState]:
    """Return the confirmed reads whose index is applied."""
    if not state.confirmed_reads:
        return []
    ready = [read for read in state.confirmed_reads if read.index <= state.applied]
    if ready:
        later = [read for read in state.confirmed_reads if read.index > state.applied]
        state.confirmed_reads = later
    return ready


def _queue(leading: LeaderState, read: WaitingRead) -> None:
    leading.reads_waiting.append(read)
    leading.reads_waiting_count += 1


def _release(state: NodeState, leading: LeaderState, read_round: ReadRound) -> None:
    leading.reads_waiting_count -= len(read_round.reads)
    leading.confirmed_time_ms = max(leading.confirmed_time_ms, read_round.time_ms)
    for read in read_round.reads:
        if read.origin is None:
            state.confirmed_reads.append(
                ReadState(read.context, read_round.index, read_round.time_ms)
            )
        else:
            _answer(state, read.origin, read.context, read_round)


def _answer(state: NodeState, recipient: str, question: int, granted: ReadRound | None) -> None:
    message = ReadIndexReply(
        cluster_id=state.cluster_id,
        sender=state.node_id,
        term=state.term,
        question=question,
        granted=granted is not None,
        index=granted.index if granted is not None else 0,
        time_ms=granted.time_ms if granted is not None else 0,
    )
    state.send(recipient, message)
