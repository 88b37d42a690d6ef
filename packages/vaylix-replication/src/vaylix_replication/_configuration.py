"""Who belongs to the group, and how that may change.

A configuration is the whole truth about the membership, not a difference: it is the payload of a
CONFIGURATION batch and part of every snapshot. Consecutive configurations differ by at most one
voter, so any majority of one shares a voter with any majority of the next (dissertation 4.1).

    (absent) --Join--> JOINING --caught up--> VOTER --Leave--> (absent)
    (absent) --JoinAsLearner--> LEARNER --Join--> JOINING

JOINING and LEARNER receive the log and have no voice. The leader turns a JOINING member into a
VOTER by itself once it has caught up (dissertation 4.2.1). Not in the table: a voter never becomes
a learner, and the last voter never leaves.
"""

from enum import IntEnum
from typing import Annotated, Self

import msgspec

from vaylix_replication._batch import Identifier, check_name
from vaylix_replication.errors import InvalidNameError, MembershipRefusedError

__all__ = [
    "Configuration",
    "Join",
    "JoinAsLearner",
    "Leave",
    "Member",
    "MemberKind",
    "MembershipChange",
    "change_configuration",
    "promote_member",
]

_MEMBERS_MAX = 255


class MemberKind(IntEnum):
    """What a member may do."""

    VOTER = 1
    # Receives the log, for as long as it likes.
    LEARNER = 2
    # Receives the log and becomes a voter when it has caught up.
    JOINING = 3


class Member(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A node of the group. `address` is where peers reach it; the core only carries it.

    Raises `InvalidNameError` for an id that is no name.
    """

    node_id: Identifier
    address: Annotated[str, msgspec.Meta(max_length=1024)]
    kind: MemberKind = MemberKind.VOTER

    def __post_init__(self) -> None:
        check_name(self.node_id)


class Configuration(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All members, ordered by their ids, each id once."""

    members: Annotated[tuple[Member, ...], msgspec.Meta(max_length=_MEMBERS_MAX)] = ()

    @classmethod
    def of_voters(cls, addresses: dict[str, str]) -> Self:
        """Return the configuration whose voters are the keys, reached at the values."""
        return cls(tuple(Member(node_id, addresses[node_id]) for node_id in sorted(addresses)))

    @property
    def voters(self) -> tuple[str, ...]:
        """The ids of the voters, ordered."""
        return tuple(m.node_id for m in self.members if m.kind is MemberKind.VOTER)

    def find(self, node_id: str) -> Member | None:
        """Return the member of this id."""
        for member in self.members:
            if member.node_id == node_id:
                return member
        return None

    def encode(self) -> bytes:
        """Return the payload of a CONFIGURATION batch."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read `encode` back; raises `msgspec.MsgspecError` or `UnicodeDecodeError`."""
        return msgspec.msgpack.decode(payload, type=cls)


class Join(msgspec.Struct, frozen=True):
    """Add a voter, which has to catch up first; or give an existing member a new address."""

    node_id: str
    address: str


class JoinAsLearner(msgspec.Struct, frozen=True):
    """Add a member without a voice; or give an existing learner a new address."""

    node_id: str
    address: str


class Leave(msgspec.Struct, frozen=True):
    """Remove a member of any kind; the leader may remove itself."""

    node_id: str


MembershipChange = Join | JoinAsLearner | Leave


def change_configuration(
    configuration: Configuration, change: MembershipChange
) -> Configuration | None:
    """Return the configuration after `change`, or None when it holds already.

    Raises `MembershipRefusedError` for a change that is never possible.
    """
    present = configuration.find(change.node_id)
    if isinstance(change, Leave):
        if present is None:
            return None
        if configuration.voters == (change.node_id,):
            raise MembershipRefusedError("the last voter cannot leave")
        return _replace(configuration, change.node_id, None)
    kind = _kind_after_join(change, present)
    wanted = _make_member(change, kind)
    if wanted == present:
        return None
    if present is None and len(configuration.members) == _MEMBERS_MAX:
        raise MembershipRefusedError(f"a group has at most {_MEMBERS_MAX} members")
    return _replace(configuration, change.node_id, wanted)


def promote_member(configuration: Configuration, node_id: str) -> Configuration:
    """Return the configuration in which a joining member has become a voter."""
    present = configuration.find(node_id)
    assert present is not None
    assert present.kind is MemberKind.JOINING
    return _replace(configuration, node_id, Member(node_id, present.address))


def _kind_after_join(change: Join | JoinAsLearner, present: Member | None) -> MemberKind:
    if isinstance(change, Join):
        voter = present is not None and present.kind is MemberKind.VOTER
        return MemberKind.VOTER if voter else MemberKind.JOINING
    if present is not None and present.kind is MemberKind.VOTER:
        raise MembershipRefusedError("a voter does not become a learner; remove it first")
    return MemberKind.LEARNER


def _make_member(change: Join | JoinAsLearner, kind: MemberKind) -> Member:
    """Return a member that every peer can read."""
    try:
        member = Member(change.node_id, change.address, kind)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(member), type=Member)
    except (InvalidNameError, msgspec.MsgspecError, UnicodeError) as error:
        raise MembershipRefusedError(str(error)) from error


def _replace(configuration: Configuration, node_id: str, member: Member | None) -> Configuration:
    others = [m for m in configuration.members if m.node_id != node_id]
    if member is not None:
        others.append(member)
    return Configuration(tuple(sorted(others, key=lambda m: m.node_id)))
