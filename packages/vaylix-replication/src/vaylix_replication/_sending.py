"""How the leader brings every other member up to date: appends, heartbeats, snapshots.

`replicate` is called whenever something changed that could let a member receive more: a proposal,
an acknowledgement, a sign of life after silence. It sends what the progress of the member allows
and is cheap when that is nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_replication._batch import Batch, batch_cost_bytes
from vaylix_replication._limits import BATCHES_MAX
from vaylix_replication._progress import Progress, ProgressMode
from vaylix_replication.messages import Append, Heartbeat, InstallSnapshot, TimeoutNow

if TYPE_CHECKING:
    from vaylix_replication._state import LeaderState, NodeState

__all__ = [
    "broadcast_appends",
    "broadcast_heartbeats",
    "replicate",
    "send_chunk",
    "send_empty_append",
    "send_timeout_now",
]


def broadcast_appends(state: NodeState, leading: LeaderState) -> None:
    """Send to everybody what is new to them."""
    shared: dict[int, Append] = {}
    for peer, progress in leading.peers.items():
        replicate(state, leading, peer, progress, shared)


def broadcast_heartbeats(state: NodeState, leading: LeaderState) -> None:
    """Begin a new round: ask everybody whether this node still leads."""
    leading.round += 1
    for peer, progress in leading.peers.items():
        if progress.mode is ProgressMode.PROBE:
            # The place where the logs part is not known, and the probe may be lost: ask again,
            # without sending its batches again.
            send_empty_append(state, leading, peer, progress)
            continue
        if progress.mode is ProgressMode.SNAPSHOT and _is_overdue(state, progress):
            # The piece or its answer is lost. A heartbeat alone would not do: a member whose
            # membership is so old that it does not know this leader ignores those.
            send_chunk(state, leading, peer, progress, ask=True)
            continue
        # What the member has acknowledged, it has verified: only that may be called committed.
        commit = min(state.commit, progress.match)
        term = state.log.term_at(commit)
        message = Heartbeat(
            cluster_id=state.cluster_id,
            sender=state.node_id,
            term=state.term,
            commit=commit if term is not None else 0,
            commit_term=term or 0,
            round=leading.round,
            time_ms=state.time_ms,
        )
        state.send(peer, message)


def replicate(
    state: NodeState,
    leading: LeaderState,
    peer: str,
    progress: Progress,
    shared: dict[int, Append] | None = None,
) -> None:
    """Send appends to one member until it has everything or its bound is reached.

    `shared` holds the first append for each position, so that members at the same place receive
    the same object and it is encoded once.
    """
    log = state.log
    if progress.mode is ProgressMode.SNAPSHOT:
        return
    if progress.mode is ProgressMode.PROBE and progress.probe_sent:
        return
    while progress.next_index <= log.last_index:
        if progress.next_index <= log.base_index:
            _begin_snapshot(state, leading, peer, progress)
            return
        room_bytes = state.settings.inflight_bytes_max - progress.inflight_bytes
        if room_bytes <= 0:
            return
        if room_bytes < state.settings.append_bytes_max or shared is None:
            bytes_max = min(room_bytes, state.settings.append_bytes_max)
            message = _append_from(state, leading, progress.next_index, bytes_max)
        else:
            message = shared.get(progress.next_index) or _append_from(
                state, leading, progress.next_index, state.settings.append_bytes_max
            )
            shared[progress.next_index] = message
        cost = sum(map(batch_cost_bytes, message.batches))
        progress.sent(message.batches[-1].last_index, cost)
        state.send(peer, message)
        if progress.mode is ProgressMode.PROBE:
            return


def send_empty_append(
    state: NodeState, leading: LeaderState, peer: str, progress: Progress
) -> None:
    """Ask whether the logs agree before `next_index`; the answer says where to go on."""
    if progress.next_index <= state.log.base_index:
        _begin_snapshot(state, leading, peer, progress)
        return
    prev_index = progress.next_index - 1
    state.send(peer, _append(state, leading, prev_index, ()))


def send_timeout_now(state: NodeState, leading: LeaderState, peer: str) -> None:
    """Tell a member to take over; from now on this term gives no lease any more."""
    leading.lease_forfeited = True
    message = TimeoutNow(cluster_id=state.cluster_id, sender=state.node_id, term=state.term)
    state.send(peer, message)


def send_chunk(
    state: NodeState, leading: LeaderState, peer: str, progress: Progress, *, ask: bool
) -> None:
    """Send the next piece of the snapshot; with `ask`, only the question how much has arrived."""
    meta = progress.snapshot
    assert meta is not None
    offset, bytes_max = progress.snapshot_offset_bytes, state.settings.chunk_bytes_max
    data = b"" if ask else state.snapshots.read(meta, offset, bytes_max)
    if data is None:
        # A newer one has replaced it: begin anew with that.
        _begin_snapshot(state, leading, peer, progress)
        return
    message = InstallSnapshot(
        cluster_id=state.cluster_id,
        sender=state.node_id,
        term=state.term,
        meta=meta,
        offset_bytes=progress.snapshot_offset_bytes,
        data=data,
        round=leading.round,
        time_ms=state.time_ms,
    )
    progress.snapshot_tick = state.tick
    state.send(peer, message)


def _begin_snapshot(state: NodeState, leading: LeaderState, peer: str, progress: Progress) -> None:
    meta = state.snapshots.latest()
    if meta is None or meta.index < state.log.base_index:
        # None fits at this moment; the next sign of life of the member leads here again.
        return
    progress.send_snapshot(meta)
    send_chunk(state, leading, peer, progress, ask=True)


def _append_from(state: NodeState, leading: LeaderState, index: int, bytes_max: int) -> Append:
    # The bound in bytes does not bound the number: a reader of the disk counts payloads only.
    batches = state.log.read(index, bytes_max)[:BATCHES_MAX]
    return _append(state, leading, index - 1, batches)


def _append(
    state: NodeState, leading: LeaderState, prev_index: int, batches: tuple[Batch, ...]
) -> Append:
    prev_term, prev_checksum = state.log.term_at(prev_index), state.log.checksum_at(prev_index)
    assert prev_term is not None
    assert prev_checksum is not None
    return Append(
        cluster_id=state.cluster_id,
        sender=state.node_id,
        term=state.term,
        prev_index=prev_index,
        prev_term=prev_term,
        prev_checksum=prev_checksum,
        batches=batches,
        commit=state.commit,
        round=leading.round,
        time_ms=state.time_ms,
    )


def _is_overdue(state: NodeState, progress: Progress) -> bool:
    return state.tick - progress.snapshot_tick >= state.settings.election_ticks_min
