"""The JSON bodies of the internal replication opcodes (VTP2 section 12).

These are what nodes of the published server say to each other. The codec carries their JSON as it
is; here it is read and written. Unknown fields are ignored, a field that may be null may be
missing, and writers put every field, in the listed order.

`decode_request` is strict about everything else: it raises `RemoteProtocolError` SRV-030, which is
what a server answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec

from vaylix_protocol.commands import (
    ReplicationAck,
    ReplicationAppend,
    ReplicationFetch,
    ReplicationHeartbeat,
    ReplicationInstallSnapshot,
    ReplicationVote,
)
from vaylix_protocol.errors import ErrorCode, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AckRequest",
    "AppendRequest",
    "AppendResponse",
    "Delete",
    "Entry",
    "Expire",
    "FetchRequest",
    "HeartbeatRequest",
    "HeartbeatResponse",
    "Increment",
    "InstallRequest",
    "InstallResponse",
    "Member",
    "Operation",
    "Persist",
    "Request",
    "Set",
    "Snapshot",
    "State",
    "StateMetadata",
    "Status",
    "StatusFollower",
    "StoredValue",
    "VoteRequest",
    "VoteResponse",
    "decode_request",
    "encode",
]

Unsigned: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Octet: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=255)]
# An array of numbers is what writers write; readers take text for its UTF-8 bytes, too.
Octets: TypeAlias = list[Octet] | str


class Member(msgspec.Struct, frozen=True):
    """A node of the cluster."""

    node_id: str
    advertise_addr: str
    voter: bool = True


class Set(msgspec.Struct, frozen=True):
    """Store a value under a version."""

    key: str
    value: Octets
    version: Unsigned = 1


class Delete(msgspec.Struct, frozen=True):
    """Remove a key."""

    key: str


class Expire(msgspec.Struct, frozen=True):
    """Let a key end at a time."""

    key: str
    expires_at_ms: Unsigned


class Persist(msgspec.Struct, frozen=True):
    """Let a key stay."""

    key: str


class Increment(msgspec.Struct, frozen=True):
    """Add to the decimal number at a key; its name on the wire is `CheckInteger`."""

    key: str
    delta: int


class Operation(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Exactly one of these; `Clear` is the bare string of that name instead."""

    set: Set | None = None
    delete: Delete | None = None
    expire: Expire | None = None
    persist: Persist | None = None
    check_integer: Increment | None = None

    def __post_init__(self) -> None:
        given = [name for name in self.__struct_fields__ if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("an operation is exactly one of those there are")


_CLEAR: Final = "Clear"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A log entry of the published server; one without operations is a leader's no-op."""

    sequence: Unsigned
    term: Unsigned = 0
    created_at_ms: Unsigned
    operations: list[Operation | str]

    def __post_init__(self) -> None:
        for operation in self.operations:
            if isinstance(operation, str) and operation != _CLEAR:
                raise ValueError(f"unknown operation {operation}")


class StoredValue(msgspec.Struct, frozen=True):
    """A value of a snapshot."""

    value: Octets
    expires_at_ms: Unsigned | None = None
    version: Unsigned = 0


class StateMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """How far a state is; `version` is that of its layout."""

    version: Unsigned
    created_at_ms: Unsigned
    updated_at_ms: Unsigned
    last_snapshot_at_ms: Unsigned | None = None
    last_applied_sequence: Unsigned


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """All keys. The older shape has text for values, and their expiries apart."""

    data: dict[str, StoredValue | str]
    metadata: StateMetadata
    expirations: dict[str, Unsigned] = {}


class Snapshot(msgspec.Struct, frozen=True):
    """The whole state of a node."""

    state: State
    storage_format_version: Unsigned
    exported_at_ms: Unsigned


class FetchRequest(msgspec.Struct, frozen=True):
    """0x44: entries after a sequence, at most `limit`; 0 means no cap."""

    after_sequence: Unsigned
    limit: Unsigned


class AckRequest(msgspec.Struct, frozen=True):
    """0x45: how far a follower is."""

    follower_node_id: str
    applied_sequence: Unsigned
    term: Unsigned
    leader_node_id: str


class VoteRequest(msgspec.Struct, frozen=True):
    """0x46: a candidate asks."""

    term: Unsigned
    candidate_node_id: str
    candidate_addr: str
    last_log_index: Unsigned
    last_log_term: Unsigned | None = None
    prevote: bool = False


class HeartbeatRequest(msgspec.Struct, frozen=True):
    """0x47: a leader says that it is there."""

    term: Unsigned
    leader_node_id: str
    leader_addr: str
    commit_sequence: Unsigned
    leader_frontier_sequence: Unsigned
    members: list[Member]


class AppendRequest(msgspec.Struct, frozen=True, kw_only=True):
    """0x48: a leader sends entries that continue after `prev_sequence`."""

    term: Unsigned
    leader_node_id: str
    leader_addr: str
    commit_sequence: Unsigned
    leader_frontier_sequence: Unsigned
    prev_sequence: Unsigned
    prev_term: Unsigned | None = None
    prev_entry_checksum: Unsigned | None = None
    entries: list[Entry]
    members: list[Member]


class InstallRequest(msgspec.Struct, frozen=True):
    """0x49: a leader sends its state."""

    term: Unsigned
    leader_node_id: str
    leader_addr: str
    commit_sequence: Unsigned
    members: list[Member]
    snapshot: Snapshot


class VoteResponse(msgspec.Struct, frozen=True):
    """The answer to 0x46."""

    term: Unsigned
    vote_granted: bool


class HeartbeatResponse(msgspec.Struct, frozen=True):
    """The answer to 0x47."""

    term: Unsigned
    accepted: bool


class AppendResponse(msgspec.Struct, frozen=True):
    """The answer to 0x48."""

    term: Unsigned
    accepted: bool
    match_sequence: Unsigned


class InstallResponse(msgspec.Struct, frozen=True):
    """The answer to 0x49."""

    term: Unsigned
    accepted: bool
    applied_sequence: Unsigned


class StatusFollower(msgspec.Struct, frozen=True):
    """How far one follower is, as its leader sees it."""

    node_id: str
    applied_sequence: Unsigned
    lag_entries: Unsigned
    lag_ms: Unsigned
    stale: bool


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to 0x42."""

    node_id: str
    group_id: str
    role: str
    advertise_addr: str | None = None
    leader_node_id: str | None = None
    leader_advertise_addr: str | None = None
    upstream: str | None = None
    write_ack_mode: str
    paused: bool
    health: str
    reason: str | None = None
    local_last_applied_sequence: Unsigned
    commit_sequence: Unsigned
    retention_floor_sequence: Unsigned | None = None
    follower_phase: str | None = None
    follower_lag_entries: Unsigned | None = None
    follower_lag_ms: Unsigned | None = None
    known_followers: Unsigned
    followers: list[StatusFollower]
    current_term: Unsigned
    voted_for: str | None = None
    quorum_size: Unsigned
    members: list[Member]


Request: TypeAlias = (
    FetchRequest | AckRequest | VoteRequest | HeartbeatRequest | AppendRequest | InstallRequest
)
WithBody: TypeAlias = (
    ReplicationFetch
    | ReplicationAck
    | ReplicationVote
    | ReplicationHeartbeat
    | ReplicationAppend
    | ReplicationInstallSnapshot
)

_BODIES: Final[Mapping[type[WithBody], type[Request]]] = {
    ReplicationFetch: FetchRequest,
    ReplicationAck: AckRequest,
    ReplicationVote: VoteRequest,
    ReplicationHeartbeat: HeartbeatRequest,
    ReplicationAppend: AppendRequest,
    ReplicationInstallSnapshot: InstallRequest,
}


def decode_request(command: WithBody) -> Request:
    """Read the JSON of a command that has some; raises RemoteProtocolError SRV-030."""
    try:
        # The decoder does not look into fields that it ignores.
        text = command.json.decode()
        return msgspec.json.decode(text, type=_BODIES[type(command)])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RemoteProtocolError.of(ErrorCode.SRV_030, detail=str(error)) from None


def encode(message: msgspec.Struct) -> bytes:
    """Write any of the messages of this module as compact JSON."""
    return msgspec.json.encode(message)
