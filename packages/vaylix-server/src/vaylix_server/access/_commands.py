"""Access-control commands as they stand in the log: hashes, not passwords; nothing to guess."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AccessCommand", "ReconcileAdmin", "decode_access_commands", "encode_access_commands"]


class ReconcileAdmin(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Make `username` the managed administrator and retire its predecessor (server spec 2.2)."""

    username: str
    password_hash: str


# Becomes a union as soon as there is a second command; the tag already tells them apart.
AccessCommand = ReconcileAdmin


def encode_access_commands(commands: Sequence[AccessCommand]) -> bytes:
    """Encode the payload of an ACCESS batch."""
    return msgspec.msgpack.encode(commands)


def decode_access_commands(payload: bytes) -> list[AccessCommand]:
    """Decode the payload of an ACCESS batch; raises `msgspec.DecodeError` on anything else."""
    return msgspec.msgpack.decode(payload, type=list[AccessCommand])
