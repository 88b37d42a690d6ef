"""Changes of the membership and of the semantics, as entries of the log (dissertation 4.1, 4.2).

A new membership is in force from the moment it is appended, and no longer when its entry is cut.
A leader proposes one only when the one before is committed, and when an entry of its own term is:
without the latter two leaders could each commit a change that the other has never seen, with
majorities that share no voter (the correction of 2015 to section 4.1).

A joining member becomes a voter when it has caught up: it has reached, within one election
timeout, what was the end of the log when it began. Until then a round after the other begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_replication._batch import Batch, BatchKind
from vaylix_replication._configuration import (
    Configuration,
    MembershipChange,
    change_configuration,
    promote_member,
)
from vaylix_replication._progress import Progress
from vaylix_replication._proposing import append_own, require_leadership
from vaylix_replication.errors import (
    ChangeInProgressError,
    MembershipRefusedError,
    NotReadyError,
)

if TYPE_CHECKING:
    from vaylix_replication._state import LeaderState, NodeState

__all__ = [
    "consider_promotion",
    "propose_membership",
    "propose_semantics",
    "synchronise_peers",
]


def propose_membership(state: NodeState, change: MembershipChange) -> int:
    """Append the changed membership; return the index whose commit completes the change.

    A change that holds already returns the index that made it so, and appends nothing.
    """
    leading = require_leadership(state)
    changed = change_configuration(state.configuration, change)
    if changed is None:
        return state.configurations.latest_index
    _require_settled(state, leading)
    return _append_configuration(state, leading, changed)


def propose_semantics(state: NodeState, version: int) -> int:
    """Append the switch to a newer version, which every voter must have said that it speaks."""
    leading = require_leadership(state)
    if version <= state.semantics.latest:
        return state.semantics.latest_index
    _require_settled(state, leading)
    for voter in state.voters:
        if _semantics_spoken(state, leading, voter) < version:
            raise MembershipRefusedError(f"voter {voter} is not known to speak version {version}")
    index = state.log.last_index + 1
    append_own(state, leading, _make(state, BatchKind.SEMANTICS, version.to_bytes(4, "big")))
    return index


def consider_promotion(state: NodeState, leading: LeaderState, peer: str) -> None:
    """Turn a joining member into a voter if it has caught up, or begin the next round."""
    if peer not in state.joining:
        return
    progress = leading.peers[peer]
    if progress.match < progress.caught_up_target:
        return
    elapsed = state.tick - progress.caught_up_since_tick
    quick = elapsed <= state.settings.election_ticks_min
    speaks = progress.semantics_version_max >= state.semantics.latest
    if quick and speaks and _is_settled(state, leading) and leading.transferee is None:
        _append_configuration(state, leading, promote_member(state.configuration, peer))
        return
    progress.caught_up_target = state.log.last_index
    progress.caught_up_since_tick = state.tick


def synchronise_peers(state: NodeState, leading: LeaderState) -> None:
    """Keep one progress for every other member, none for anybody else."""
    wanted = [m.node_id for m in state.configuration.members if m.node_id != state.node_id]
    for gone in set(leading.peers).difference(wanted):
        del leading.peers[gone]
    for node_id in wanted:
        if node_id not in leading.peers:
            leading.peers[node_id] = Progress(state.log.last_index + 1, state.tick)
    if leading.transferee is not None and leading.transferee not in leading.peers:
        leading.transferee = None


def may_change(state: NodeState, leading: LeaderState) -> bool:
    """Tell whether this leader has committed an entry of its own term."""
    return state.commit >= leading.own_term_index


def _is_settled(state: NodeState, leading: LeaderState) -> bool:
    return may_change(state, leading) and state.commit >= max(
        state.configurations.latest_index, state.semantics.latest_index
    )


def _require_settled(state: NodeState, leading: LeaderState) -> None:
    if not may_change(state, leading):
        raise NotReadyError("no entry of this leader's term is committed yet")
    if not _is_settled(state, leading):
        raise ChangeInProgressError("an earlier change is not committed yet")


def _semantics_spoken(state: NodeState, leading: LeaderState, voter: str) -> int:
    if voter == state.node_id:
        return state.settings.semantics_version_max
    return leading.peers[voter].semantics_version_max


def _append_configuration(
    state: NodeState, leading: LeaderState, configuration: Configuration
) -> int:
    index = state.log.last_index + 1
    batch = _make(state, BatchKind.CONFIGURATION, configuration.encode())
    append_own(state, leading, batch)
    synchronise_peers(state, leading)
    # The voters that the lease rests on need not be a majority any more.
    leading.lease_end = None
    leading.lease_offers.clear()
    return index


def _make(state: NodeState, kind: BatchKind, payload: bytes) -> Batch:
    return Batch.create(
        first_index=state.log.last_index + 1,
        term=state.term,
        kind=kind,
        timestamp_ms=state.time_ms,
        payload=payload,
    )
