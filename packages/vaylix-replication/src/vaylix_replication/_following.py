"""How a follower takes over the leader's log, its commit point and its snapshots.

The rules, each of which protects something acknowledged:

- Nothing is cut but what provably conflicts: an entry of another term at the same index. A short,
  late or repeated append cuts nothing.
- Nothing is cut at or below the commit point; a leader that asks for it is a broken promise.
- The commit point follows the leader only over what this very message has verified.
- An acceptance names the end of what was verified, not of what is in the log, and waits until
  that is durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_replication._history import History
from vaylix_replication._ready import SnapshotChunk
from vaylix_replication._state import NodeState, Role
from vaylix_replication.errors import CorruptionError
from vaylix_replication.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
)

if TYPE_CHECKING:
    from vaylix_replication._batch import Batch
    from vaylix_replication.ports import SnapshotMeta

__all__ = [
    "on_append",
    "on_heartbeat",
    "on_install_snapshot",
    "on_rival",
    "reply_to_stale_leader",
    "snapshot_received",
]

FromLeader = Append | Heartbeat | InstallSnapshot


def on_rival(state: NodeState, message: FromLeader) -> None:
    """Leader: somebody else claims to lead the same term."""
    raise CorruptionError(f"{message.sender} leads term {state.term} too")


def reply_to_stale_leader(state: NodeState, message: FromLeader) -> None:
    """Tell a leader of an older term that its time is over."""
    _reply_to_heartbeat(state, message.sender, 0)


def on_heartbeat(state: NodeState, message: Heartbeat) -> None:
    """Note the leader, its time, and a commit point that is verified by its term."""
    if state.is_stranger(message.sender):
        return
    _follow(state, message)
    if message.commit > state.commit and (state.log.term_at(message.commit) == message.commit_term):
        state.commit_to(message.commit)
    _reply_to_heartbeat(state, message.sender, message.round)


def on_append(state: NodeState, message: Append) -> None:
    """Take over batches, if they fit to what is here."""
    _follow(state, message)
    log = state.log
    if message.prev_index < log.base_index:
        # An old one. Up to the commit point every log agrees, so that much can be accepted.
        _accept(state, message, state.commit)
        return
    if log.term_at(message.prev_index) != message.prev_term:
        _refuse(state, message)
        return
    if log.checksum_at(message.prev_index) != message.prev_checksum:
        _report_difference(message.prev_index, message.prev_term)
    new = _skip_present(state, message.batches)
    if new:
        if new[0].first_index <= log.last_index:
            state.truncate_after(new[0].first_index - 1)
        for batch in new:
            state.append(batch)
    verified = message.batches[-1].last_index if message.batches else message.prev_index
    state.commit_to(commit_limit(state, message, verified))
    _accept(state, message, verified)


def on_install_snapshot(state: NodeState, message: InstallSnapshot) -> None:
    """Gather a snapshot, unless this node has what it holds."""
    _follow(state, message)
    meta = message.meta
    held = _is_held(state, meta)
    if is_behind(state, meta):
        _accept(state, message, state.commit)
        return
    if held:
        # The log matches up to there, so it holds all that the snapshot does, and what follows.
        state.commit_to(meta.index)
        _accept(state, message, meta.index)
        return
    if meta.semantics_version > state.settings.semantics_version_max:
        return
    if state.incoming != meta:
        state.incoming, state.incoming_bytes = meta, 0
    fits = message.offset_bytes == state.incoming_bytes
    complete = state.incoming_bytes == meta.size_bytes and meta.size_bytes > 0
    if fits and not complete and (message.data or meta.size_bytes == 0):
        _take_chunk(state, meta, message.data)
    reply = InstallSnapshotReply(
        cluster_id=state.cluster_id,
        sender=state.node_id,
        term=state.term,
        index=meta.index,
        snapshot_id=meta.snapshot_id,
        received_bytes=state.incoming_bytes,
        round=message.round,
        semantics_version_max=state.settings.semantics_version_max,
    )
    state.send(message.sender, reply)


def snapshot_received(state: NodeState, meta: SnapshotMeta, *, valid: bool) -> None:
    """Install a snapshot that is complete and verified, or ask for it again."""
    if state.incoming != meta:
        return
    state.incoming, state.incoming_bytes = None, 0
    if not valid or is_behind(state, meta) or state.role is Role.LEADER:
        return
    if _is_held(state, meta):
        state.commit_to(meta.index)
        return
    state.log.restore(meta)
    state.time_ms = max(state.time_ms, meta.time_ms)
    state.configurations = History(meta.index, meta.configuration)
    state.semantics = History(meta.index, meta.semantics_version)
    state.refresh_configuration()
    state.commit = state.handed_out = meta.index
    state.installing = meta
    if state.leader_id is not None:
        _send_acceptance(state, state.leader_id, meta.index, 0)


def _follow(state: NodeState, message: FromLeader) -> None:
    """Recognise the sender as the leader of the present term."""
    assert message.term == state.term
    if state.leader_id != message.sender or state.role is not Role.FOLLOWER:
        if state.leader_id is not None:
            raise CorruptionError(f"{state.leader_id} and {message.sender} lead term {state.term}")
        state.become_follower(state.term, message.sender)
    state.heard_leader()
    state.time_ms = max(state.time_ms, message.time_ms)


def commit_limit(state: NodeState, message: Append, verified: int) -> int:
    """Return how far the leader's commit point holds here: no farther than the logs are equal."""
    assert verified <= state.log.last_index
    return min(message.commit, verified)


def is_behind(state: NodeState, meta: SnapshotMeta) -> bool:
    """Tell whether a snapshot holds nothing that is not committed here already."""
    return meta.index <= state.commit


def _is_held(state: NodeState, meta: SnapshotMeta) -> bool:
    """Tell whether the log holds the very batch that a snapshot ends with.

    A snapshot is of committed state. So where its batch is here, it must be the same one, and what
    is committed here cannot be of another term.
    """
    log = state.log
    term = log.term_at(meta.index)
    if term == meta.term:
        if log.checksum_at(meta.index) != meta.checksum:
            _report_difference(meta.index, meta.term)
        return True
    if term is not None and is_behind(state, meta):
        _report_difference(meta.index, meta.term)
    return False


def _skip_present(state: NodeState, batches: tuple[Batch, ...]) -> tuple[Batch, ...]:
    """Return the batches from the first one on that is missing here or conflicts."""
    log = state.log
    for position, batch in enumerate(batches):
        term = log.term_at(batch.first_index)
        if term is None or term != batch.term:
            return batches[position:]
        if log.checksum_at(batch.last_index) != batch.checksum:
            _report_difference(batch.last_index, batch.term)
    return ()


def _report_difference(index: int, term: int) -> None:
    raise CorruptionError(
        f"the batch that ends at index {index} in term {term} differs from the leader's"
    )


def _accept(state: NodeState, message: Append | InstallSnapshot, index: int) -> None:
    _send_acceptance(state, message.sender, index, message.round)


def _send_acceptance(state: NodeState, leader_id: str, index: int, number: int) -> None:
    reply = AppendReply(
        cluster_id=state.cluster_id,
        sender=state.node_id,
        term=state.term,
        accepted=True,
        index=index,
        round=number,
        semantics_version_max=state.settings.semantics_version_max,
    )
    if index <= state.log.durable_index:
        state.send(leader_id, reply)
    else:
        state.send_after_write(leader_id, reply)


def _refuse(state: NodeState, message: Append) -> None:
    log = state.log
    if message.prev_index <= state.commit:
        _report_difference(message.prev_index, message.prev_term)
    hint = log.last_index_with_term_at_most(message.prev_term, message.prev_index)
    hint = max(hint, log.base_index)
    hint_term = log.term_at(hint)
    assert hint_term is not None
    reply = AppendReply(
        cluster_id=state.cluster_id,
        sender=state.node_id,
        term=state.term,
        accepted=False,
        index=message.prev_index,
        round=message.round,
        semantics_version_max=state.settings.semantics_version_max,
        hint_index=hint,
        hint_term=hint_term,
    )
    state.send(message.sender, reply)


def _reply_to_heartbeat(state: NodeState, recipient: str, number: int) -> None:
    reply = HeartbeatReply(
        cluster_id=state.cluster_id,
        sender=state.node_id,
        term=state.term,
        round=number,
        semantics_version_max=state.settings.semantics_version_max,
    )
    state.send(recipient, reply)


def _take_chunk(state: NodeState, meta: SnapshotMeta, data: bytes) -> None:
    if state.incoming_bytes + len(data) > meta.size_bytes:
        return
    state.chunks.append(SnapshotChunk(meta, state.incoming_bytes, data))
    state.incoming_bytes += len(data)
