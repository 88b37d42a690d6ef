"""Raft as a pure state machine: no clock, no socket, no thread, no disk, no randomness of its own.

`RaftNode` takes ticks, messages and requests, and returns in a `Ready` what must be written, sent
and applied. Everything around it is the driver's.
"""

from __future__ import annotations

from vaylix_replication._ack_modes import (
    AckMode,
    AckProgress,
    AllVoters,
    LocalDisk,
    Majority,
    find_ack_mode,
)
from vaylix_replication._batch import Batch, BatchKind
from vaylix_replication._configuration import (
    Configuration,
    Join,
    JoinAsLearner,
    Leave,
    Member,
    MemberKind,
    MembershipChange,
)
from vaylix_replication._node import PeerStatus, RaftNode, Status
from vaylix_replication._progress import ProgressMode
from vaylix_replication._ready import ReadState, Ready, SnapshotChunk, Write
from vaylix_replication._settings import Restored, Settings
from vaylix_replication._state import Role
from vaylix_replication.messages import Message, decode_message, encode_message
from vaylix_replication.ports import HardState, LogReader, SnapshotMeta, SnapshotReader

__all__ = [
    "AckMode",
    "AckProgress",
    "AllVoters",
    "Batch",
    "BatchKind",
    "Configuration",
    "HardState",
    "Join",
    "JoinAsLearner",
    "Leave",
    "LocalDisk",
    "LogReader",
    "Majority",
    "Member",
    "MemberKind",
    "MembershipChange",
    "Message",
    "PeerStatus",
    "ProgressMode",
    "RaftNode",
    "ReadState",
    "Ready",
    "Restored",
    "Role",
    "Settings",
    "SnapshotChunk",
    "SnapshotMeta",
    "SnapshotReader",
    "Status",
    "Write",
    "decode_message",
    "encode_message",
    "find_ack_mode",
]
