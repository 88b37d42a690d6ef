"""Ack modes: up to which index a write may be answered. They never change what is committed.

An ack mode is any object with a `name` and the method of `AckMode`; the kit in
`vaylix_replication.testing` checks the rules that one must keep.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec

__all__ = ["AckMode", "AckProgress", "AllVoters", "LocalDisk", "Majority", "find_ack_mode"]


class AckProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the group is: for each member what it has durably (absent: nothing), the commit."""

    own_id: str
    voters: tuple[str, ...]
    match: Mapping[str, int]
    commit: int


class AckMode(Protocol):
    """Decides when the client is answered."""

    @property
    def name(self) -> str:
        """What operators call it."""

    def acknowledged(self, progress: AckProgress) -> int:
        """Return the index up to which writes may be answered."""


class LocalDisk:
    """`local`: the leader has it durably. A failover can lose what was answered."""

    name = "local"

    def acknowledged(self, progress: AckProgress) -> int:
        """Return what the own disk has."""
        return max(progress.match.get(progress.own_id, 0), progress.commit)


class Majority:
    """`majority`: it is committed. No failure of a minority loses what was answered."""

    name = "majority"

    def acknowledged(self, progress: AckProgress) -> int:
        """Return the commit point."""
        return progress.commit


class AllVoters:
    """`all`: it is committed and every voter has it. One dead voter holds up every answer."""

    name = "all"

    def acknowledged(self, progress: AckProgress) -> int:
        """Return what every voter has, within the commit point."""
        reached = [progress.match.get(voter, 0) for voter in progress.voters]
        return min([progress.commit, *reached])


def find_ack_mode(name: str) -> AckMode:
    """Return the mode of this name; `replica` is `majority`. Raises KeyError for others."""
    modes: dict[str, AckMode] = {
        "local": LocalDisk(),
        "majority": Majority(),
        "replica": Majority(),
        "all": AllVoters(),
    }
    return modes[name]
