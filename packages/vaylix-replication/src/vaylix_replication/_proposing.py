"""How the leader appends to its own log, and when what it appended is committed.

A leader never cuts or replaces anything in its own log (Leader Append-Only). It commits by
counting voters that have an entry durably, but only when the entry is of its own term; what came
before is committed with it (dissertation 3.6.2: an entry of an older term on a majority of the
voters can still be replaced). Its own disk is one vote like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_replication._batch import Batch, BatchKind, batch_cost_bytes, find_fault
from vaylix_replication._quorum import majority_reached
from vaylix_replication.errors import (
    BacklogFullError,
    NotLeaderError,
    ProposalMismatchError,
    TransferInProgressError,
    UnreadableBatchError,
)

if TYPE_CHECKING:
    from vaylix_replication._state import LeaderState, NodeState

__all__ = ["advance_commit", "append_own", "propose", "require_leadership"]

_CORE_KINDS = frozenset(BatchKind)


def require_leadership(state: NodeState) -> LeaderState:
    """Return the leader's state, or raise why nothing can be proposed here."""
    if state.leading is None:
        raise NotLeaderError(state.leader_id)
    if state.leading.transferee is not None:
        raise TransferInProgressError(f"leadership goes to {state.leading.transferee}")
    return state.leading


def propose(state: NodeState, batch: Batch) -> None:
    """Append a batch of the application, which must be made for exactly this place."""
    leading = require_leadership(state)
    if batch.first_index != state.log.last_index + 1 or batch.term != state.term:
        raise ProposalMismatchError(
            f"the batch is for index {batch.first_index} in term {batch.term}, the next is for "
            f"index {state.log.last_index + 1} in term {state.term}"
        )
    if batch.kind in _CORE_KINDS:
        raise ProposalMismatchError(f"batches of kind {batch.kind} are made by the core itself")
    if batch.timestamp_ms < state.time_ms:
        raise ProposalMismatchError(
            f"the batch is stamped {batch.timestamp_ms}, but it is {state.time_ms} already"
        )
    fault = find_fault(batch)
    if fault is not None:
        raise UnreadableBatchError(f"no peer could read the batch: {fault}")
    cost = batch_cost_bytes(batch)
    if leading.backlog and leading.backlog_bytes + cost > state.settings.uncommitted_bytes_max:
        raise BacklogFullError(f"{leading.backlog_bytes} bytes are not committed yet")
    append_own(state, leading, batch)


def append_own(state: NodeState, leading: LeaderState, batch: Batch) -> None:
    """Append a batch of this leader; it leaves for the disk and the peers with the next Ready."""
    cost = batch_cost_bytes(batch)
    leading.backlog.append((batch.last_index, cost))
    leading.backlog_bytes += cost
    leading.appends_due = True
    state.append(batch)


def advance_commit(state: NodeState, leading: LeaderState) -> bool:
    """Commit what a majority of the voters has durably; tell whether anything was committed."""
    index = majority_reached(
        [
            state.log.durable_index if voter == state.node_id else leading.peers[voter].match
            for voter in state.voters
        ]
    )
    if index <= state.commit or not may_commit(state, index):
        return False
    state.commit_to(index)
    while leading.backlog and leading.backlog[0][0] <= index:
        leading.backlog_bytes -= leading.backlog.popleft()[1]
    return True


def may_commit(state: NodeState, index: int) -> bool:
    """Tell whether counting voters is enough to commit the entry at `index`."""
    return state.log.term_at(index) == state.term
