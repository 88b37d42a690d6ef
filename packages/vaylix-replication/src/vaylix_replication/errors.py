"""Everything this package raises on purpose.

An error here is an answer to the caller, with a meaning for what to do next. A broken invariant of
the algorithm is not an error but a failed assertion: the node must stop and not go on guessing.
"""

from __future__ import annotations

__all__ = [
    "BacklogFullError",
    "ChangeInProgressError",
    "CorruptionError",
    "ForeignMessageError",
    "InvalidNameError",
    "LeaderHeardError",
    "MalformedMessageError",
    "MembershipRefusedError",
    "NotLeaderError",
    "NotReadyError",
    "ProposalMismatchError",
    "ReadBacklogFullError",
    "RefusedError",
    "ReplicationError",
    "SettingsError",
    "TransferInProgressError",
    "UnknownSemanticsError",
    "UnreadableBatchError",
]


class ReplicationError(Exception):
    """Base of everything in this module."""


class SettingsError(ReplicationError):
    """The settings contradict themselves; nothing was started."""


class InvalidNameError(SettingsError, ValueError):
    """The name of a node or of a group is not 1 to 255 bytes of UTF-8."""


class UnknownSemanticsError(ReplicationError):
    """The state on disk is of a newer version than this program speaks; nothing was started.

    Start the newer program on it again: the older one could neither apply nor lead rightly.
    """


class CorruptionError(ReplicationError):
    """Two histories that must be equal are not. The node must stop; nothing can be repaired here.

    Equal index and term with another checksum, a conflict at or below the commit point, or a
    second leader in one term: each means that a disk, a memory or a peer has broken its word.
    """


class ForeignMessageError(ReplicationError):
    """The message is not for this group, or claims to come from this node; it changed nothing."""


class MalformedMessageError(ReplicationError):
    """The bytes are no message of this version. Close the connection; the node is unharmed."""


class RefusedError(ReplicationError):
    """The request was refused before it changed anything; trying again is safe, here or there."""


class NotLeaderError(RefusedError):
    """Only the leader does this. `leader_id` names the one this node knows, or is None."""

    def __init__(self, leader_id: str | None) -> None:
        super().__init__(f"not the leader; the leader is {leader_id or 'not known'}")
        self.leader_id = leader_id


class NotReadyError(RefusedError):
    """The leader has not yet committed an entry of its own term; try again shortly."""


class LeaderHeardError(RefusedError):
    """No election now: a leader was heard a moment ago. Ask that one for a transfer instead."""


class TransferInProgressError(RefusedError):
    """Leadership is being handed over; nothing is proposed until that has ended."""


class BacklogFullError(RefusedError):
    """Too many bytes are proposed and not committed; try again when some are."""


class ReadBacklogFullError(RefusedError):
    """Too many reads wait for their confirmation; try again when some are answered."""


class ProposalMismatchError(RefusedError):
    """The batch was made for another index, term or time than the leader is at; make it anew."""


class UnreadableBatchError(RefusedError):
    """No peer could read the batch: too large, out of range, or not as its checksum says."""


class MembershipRefusedError(RefusedError):
    """The change of the membership is not possible; the message says why."""


class ChangeInProgressError(MembershipRefusedError):
    """An earlier change is not committed yet; there is never more than one (dissertation 4.1)."""
