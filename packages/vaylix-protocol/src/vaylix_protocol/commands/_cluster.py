"""Commands about the cluster, and those that its nodes send each other.

The payload of the latter is JSON text that this package neither reads nor checks (VTP2 section 12).
"""

from __future__ import annotations

from typing import ClassVar

from vaylix_protocol._constants import Opcode, ReplyKind
from vaylix_protocol.commands._base import CommandBase

__all__ = [
    "ClusterJoin",
    "ClusterRemove",
    "PauseReplication",
    "PromoteFollower",
    "ReplicationAck",
    "ReplicationAppend",
    "ReplicationFetch",
    "ReplicationHeartbeat",
    "ReplicationInstallSnapshot",
    "ReplicationSnapshot",
    "ReplicationStatus",
    "ReplicationVote",
    "ResumeReplication",
    "ShowCluster",
    "ShowReplication",
]


class ShowCluster(CommandBase, frozen=True, gc=False):
    """List the members of the cluster."""

    opcode: ClassVar[Opcode] = Opcode.SHOW_CLUSTER
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES


class ClusterJoin(CommandBase, frozen=True, gc=False):
    """Add a node to the cluster."""

    opcode: ClassVar[Opcode] = Opcode.CLUSTER_JOIN
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    node_id: str
    address: str


class ClusterRemove(CommandBase, frozen=True, gc=False):
    """Remove a node from the cluster."""

    opcode: ClassVar[Opcode] = Opcode.CLUSTER_REMOVE
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    node_id: str


class ShowReplication(CommandBase, frozen=True, gc=False):
    """Ask for the state of replication."""

    opcode: ClassVar[Opcode] = Opcode.SHOW_REPLICATION
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES


class PromoteFollower(CommandBase, frozen=True, gc=False):
    """Make this follower the leader."""

    opcode: ClassVar[Opcode] = Opcode.PROMOTE_FOLLOWER
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK


class PauseReplication(CommandBase, frozen=True, gc=False):
    """Stop following the leader for a while."""

    opcode: ClassVar[Opcode] = Opcode.PAUSE_REPLICATION
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK


class ResumeReplication(CommandBase, frozen=True, gc=False):
    """Follow the leader again."""

    opcode: ClassVar[Opcode] = Opcode.RESUME_REPLICATION
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK


class ReplicationStatus(CommandBase, frozen=True, gc=False):
    """Ask a node for its state; the payload is not read."""

    opcode: ClassVar[Opcode] = Opcode.REPLICATION_STATUS
    reply_kind: ClassVar[ReplyKind] = ReplyKind.JSON

    json: bytes = b""


class ReplicationSnapshot(CommandBase, frozen=True, gc=False):
    """Ask a node for its snapshot; the payload is not read."""

    opcode: ClassVar[Opcode] = Opcode.REPLICATION_SNAPSHOT
    reply_kind: ClassVar[ReplyKind] = ReplyKind.JSON

    json: bytes = b""


class ReplicationFetch(CommandBase, frozen=True, gc=False):
    """Ask a node for log entries."""

    opcode: ClassVar[Opcode] = Opcode.REPLICATION_FETCH
    reply_kind: ClassVar[ReplyKind] = ReplyKind.JSON

    json: bytes


class ReplicationAck(CommandBase, frozen=True, gc=False):
    """Tell the leader what a follower has applied."""

    opcode: ClassVar[Opcode] = Opcode.REPLICATION_ACK
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    json: bytes


class ReplicationVote(CommandBase, frozen=True, gc=False):
    """Ask for a vote."""

    opcode: ClassVar[Opcode] = Opcode.REPLICATION_VOTE
    reply_kind: ClassVar[ReplyKind] = ReplyKind.JSON

    json: bytes


class ReplicationHeartbeat(CommandBase, frozen=True, gc=False):
    """Keep followers from electing another leader."""

    opcode: ClassVar[Opcode] = Opcode.REPLICATION_HEARTBEAT
    reply_kind: ClassVar[ReplyKind] = ReplyKind.JSON

    json: bytes


class ReplicationAppend(CommandBase, frozen=True, gc=False):
    """Send log entries to a follower."""

    opcode: ClassVar[Opcode] = Opcode.REPLICATION_APPEND
    reply_kind: ClassVar[ReplyKind] = ReplyKind.JSON

    json: bytes


class ReplicationInstallSnapshot(CommandBase, frozen=True, gc=False):
    """Send a snapshot to a follower."""

    opcode: ClassVar[Opcode] = Opcode.REPLICATION_INSTALL_SNAPSHOT
    reply_kind: ClassVar[ReplyKind] = ReplyKind.JSON

    json: bytes
