"""The leader: how it begins, what it does with time and with replies, and how it ends.

It ends on a newer term, when no majority of the voters was heard for one maximal election timeout
(check-quorum: it may already have a successor), and when its own removal is committed.
"""

from __future__ import annotations

from vaylix_replication._batch import Batch, BatchKind
from vaylix_replication._changes import consider_promotion, synchronise_peers
from vaylix_replication._progress import Progress, ProgressMode
from vaylix_replication._proposing import advance_commit, append_own, require_leadership
from vaylix_replication._quorum import majority_size
from vaylix_replication._reading import confirm_rounds, offer_lease
from vaylix_replication._sending import (
    broadcast_heartbeats,
    replicate,
    send_chunk,
    send_empty_append,
    send_timeout_now,
)
from vaylix_replication._state import LeaderState, NodeState, Role
from vaylix_replication.errors import CorruptionError, MembershipRefusedError
from vaylix_replication.messages import AppendReply, HeartbeatReply, InstallSnapshotReply

__all__ = [
    "become_leader",
    "on_append_reply",
    "on_heartbeat_reply",
    "on_install_snapshot_reply",
    "own_log_durable",
    "tick_leader",
    "transfer_leadership",
]

Reply = AppendReply | HeartbeatReply | InstallSnapshotReply


def become_leader(state: NodeState) -> None:
    """Begin the term with an entry of its own, so that the commit index becomes known."""
    assert state.role is Role.CANDIDATE
    assert state.writes.durable_term == state.term
    state.role = Role.LEADER
    state.leader_id = state.node_id
    leading = LeaderState(state.log.last_index + 1)
    state.leading = leading
    synchronise_peers(state, leading)
    noop = Batch.create(
        first_index=state.log.last_index + 1,
        term=state.term,
        kind=BatchKind.NOOP,
        timestamp_ms=state.time_ms,
        payload=b"",
    )
    append_own(state, leading, noop)


def tick_leader(state: NodeState, leading: LeaderState, lease_deadline: int | None) -> None:
    """Let one tick pass."""
    settings = state.settings
    if leading.transferee is not None:
        leading.transfer_elapsed += 1
        if leading.transfer_elapsed >= settings.election_ticks_max:
            leading.transferee = None
    leading.heartbeat_elapsed += 1
    if leading.heartbeat_elapsed < settings.heartbeat_ticks:
        return
    leading.heartbeat_elapsed = 0
    if not _heard_majority(state, leading):
        state.become_follower(state.term, None)
        return
    broadcast_heartbeats(state, leading)
    if lease_deadline is not None:
        offer_lease(state, leading, lease_deadline)
    confirm_rounds(state, leading)
    for peer in tuple(leading.peers):
        consider_promotion(state, leading, peer)


def on_append_reply(state: NodeState, message: AppendReply) -> None:
    """Note how much of the log a member has, or find where its log parts from ours."""
    leading = state.leading
    assert leading is not None
    progress = _note_reply(state, leading, message)
    if progress is None:
        return
    if not message.accepted:
        _on_refusal(state, progress, message)
    elif message.index > state.log.last_index:
        raise CorruptionError(f"{message.sender} acknowledges more than this leader has")
    elif progress.accepted(message.index):
        consider_promotion(state, leading, message.sender)
        if message.sender == leading.transferee:
            _try_transfer(state, leading)
        if message.sender in state.voters and advance_commit(state, leading):
            on_committed(state, leading)
            if state.leading is None:
                return
    replicate(state, leading, message.sender, progress)


def on_heartbeat_reply(state: NodeState, message: HeartbeatReply) -> None:
    """Note that a member is alive; if its replies or our appends were lost, find out now."""
    leading = state.leading
    assert leading is not None
    progress = _note_reply(state, leading, message)
    if progress is None:
        return
    replicate(state, leading, message.sender, progress)
    if progress.mode is ProgressMode.REPLICATE and progress.next_index > progress.match + 1:
        send_empty_append(state, leading, message.sender, progress)


def on_install_snapshot_reply(state: NodeState, message: InstallSnapshotReply) -> None:
    """Send a member the next piece of the snapshot it asks for."""
    leading = state.leading
    assert leading is not None
    progress = _note_reply(state, leading, message)
    if progress is None or progress.snapshot is None:
        return
    meta = progress.snapshot
    if (message.index, message.snapshot_id) != (meta.index, meta.snapshot_id):
        return
    progress.snapshot_offset_bytes = min(message.received_bytes, meta.size_bytes)
    if progress.snapshot_offset_bytes < meta.size_bytes or meta.size_bytes == 0:
        send_chunk(state, leading, message.sender, progress, ask=False)


def own_log_durable(state: NodeState, leading: LeaderState) -> None:
    """Count what the own disk has by now."""
    if advance_commit(state, leading):
        on_committed(state, leading)


def on_committed(state: NodeState, leading: LeaderState) -> None:
    """Step down if what is committed now completes the own removal."""
    removed = state.node_id not in state.voters
    if removed and state.configurations.latest_index <= state.commit:
        # Tell those that are left what is committed, then leave (dissertation 4.2.2).
        broadcast_heartbeats(state, leading)
        state.become_follower(state.term, None)


def transfer_leadership(state: NodeState, transferee: str) -> None:
    """Hand leadership to a voter: stop proposing, bring it up to date, tell it to begin."""
    leading = require_leadership(state)
    if transferee == state.node_id:
        return
    if transferee not in state.voters:
        raise MembershipRefusedError(f"{transferee} is not a voter")
    leading.transferee = transferee
    leading.transfer_elapsed = 0
    _try_transfer(state, leading)


def _try_transfer(state: NodeState, leading: LeaderState) -> None:
    assert leading.transferee is not None
    if leading.peers[leading.transferee].match == state.log.last_index:
        send_timeout_now(state, leading, leading.transferee)


def _note_reply(state: NodeState, leading: LeaderState, message: Reply) -> Progress | None:
    """Take what every reply says; None if the sender is no member any more."""
    progress = leading.peers.get(message.sender)
    if progress is None:
        return None
    progress.contact_tick = state.tick
    progress.semantics_version_max = message.semantics_version_max
    if message.round > progress.confirmed_round:
        progress.confirmed_round = message.round
        confirm_rounds(state, leading)
    return progress


def _on_refusal(state: NodeState, progress: Progress, message: AppendReply) -> None:
    """Go back to where the logs may agree, unless the refusal is an old one."""
    if progress.mode is ProgressMode.SNAPSHOT or message.index <= progress.match:
        return
    if progress.mode is ProgressMode.PROBE and message.index != progress.next_index - 1:
        return
    log = state.log
    hint = log.last_index_with_term_at_most(message.hint_term, message.hint_index)
    # Below the base the terms of this log are not known any more. Nothing can be judged there, and
    # the member needs the snapshot.
    if hint >= log.base_index:
        hint = log.boundary_at_or_before(hint)
        if hint >= message.index:
            raise CorruptionError(f"{message.sender} refuses what it claims to have")
    progress.probe(hint + 1)


def _heard_majority(state: NodeState, leading: LeaderState) -> bool:
    oldest = state.tick - state.settings.election_ticks_max
    heard = 0
    for voter in state.voters:
        if voter == state.node_id or leading.peers[voter].contact_tick >= oldest:
            heard += 1
    return heard >= majority_size(len(state.voters))
