"""The state machine of a node: the parts that committed log entries build, and nothing else.

What a batch does depends on the state and the batch alone, so replay after a crash, a follower and
the node that answered the client all arrive at the same state. The parts are the keyspace and
access control; the kind of a batch says which part it is for.

The version of the rules is itself an entry. A node that meets a version it does not speak stops
there, since guessing would fork history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vaylix_server.access import (
    AccessState,
    decode_access_commands,
    encode_access_commands,
)
from vaylix_server.errors import StartupError
from vaylix_storage import Answer, Batch, BatchKind, Keyspace, Result
from vaylix_storage.commands import Command

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "SEMANTICS_VERSION",
    "KeyspacePayload",
    "StateMachine",
    "cut_batch",
    "describe_batch",
    "encode_semantics_version",
]

SEMANTICS_VERSION = 1


class KeyspacePayload(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a KEYSPACE batch: commands, and the access state they were admitted under.

    `principals` holds runs of (user name, number of commands) in the order of the commands; the
    name is empty where authentication is disabled. Once access control can change while clients
    write, a node whose revision has moved on checks each command again for its principal.
    """

    access_revision: int
    principals: list[tuple[str, int]]
    commands: list[Command]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(KeyspacePayload)


def encode_semantics_version(version: int) -> bytes:
    """Encode the payload of a SEMANTICS batch."""
    return msgspec.msgpack.encode(version)


def cut_batch(batch: Batch, count: int) -> bytes:
    """Return the payload of the first `count` entries of a batch, for a restore that ends there."""
    if batch.kind == BatchKind.ACCESS:
        return encode_access_commands(decode_access_commands(batch.payload)[:count])
    assert batch.kind == BatchKind.KEYSPACE, "other batches hold one entry"
    payload = _DECODER.decode(batch.payload)
    principals: list[tuple[str, int]] = []
    left = count
    for name, run in payload.principals:
        if left:
            principals.append((name, min(run, left)))
            left -= min(run, left)
    return _ENCODER.encode(
        KeyspacePayload(payload.access_revision, principals, payload.commands[:count])
    )


def describe_batch(batch: Batch) -> Sequence[object]:
    """Return what the entries of a batch are, for people; raises `msgspec.MsgspecError`."""
    if batch.kind == BatchKind.KEYSPACE:
        return _DECODER.decode(batch.payload).commands
    if batch.kind == BatchKind.ACCESS:
        # Who, and not the hash of the password.
        return [command.username for command in decode_access_commands(batch.payload)]
    if batch.kind == BatchKind.SEMANTICS:
        return [msgspec.msgpack.decode(batch.payload, type=int)]
    return []


class StateMachine:
    """Keyspace, access control, and the index up to which both have been built."""

    def __init__(self, keyspace: Keyspace) -> None:
        self.keyspace = keyspace
        self.access = AccessState()
        self.semantics_version = 0
        self.last_applied = 0
        self.last_term = 0
        self.last_timestamp_ms = 0

    def encode_keyspace(self, commands: list[Command], principals: list[tuple[str, int]]) -> bytes:
        """Encode commands that were admitted under the present access state."""
        return _ENCODER.encode(KeyspacePayload(self.access.revision, principals, commands))

    def replay(self, batch: Batch) -> None:
        """Apply a batch from the log for nobody; raises `StartupError` on rules of the future."""
        if batch.kind == BatchKind.KEYSPACE:
            payload = _DECODER.decode(batch.payload)
            assert payload.access_revision == self.access.revision, "its users are not these"
            assert len(payload.commands) == batch.count, "its commands are not as many as it says"
            self.keyspace.apply(payload.commands, batch.timestamp_ms, want_results=False)
        elif batch.kind == BatchKind.ACCESS:
            self.access.apply(decode_access_commands(batch.payload))
        elif batch.kind == BatchKind.SEMANTICS:
            self.adopt_semantics(msgspec.msgpack.decode(batch.payload, type=int))
        else:
            # No-op and configuration entries belong to replication and change no part.
            is_known = batch.kind in (BatchKind.NOOP, BatchKind.CONFIGURATION)
            assert is_known, f"no entry has the kind {batch.kind} here"
        self.advance(batch)

    def apply_commands(self, commands: Sequence[Command], now_ms: int) -> list[Result]:
        """Apply the commands of a committed batch and return a result for each."""
        return self.keyspace.apply(commands, now_ms, want_results=True)

    def apply_sets(self, keys: list[bytes], values: list[bytes], now_ms: int) -> list[Result]:
        """Do the same for SETs without options, in columns."""
        self.keyspace.set_all(keys, values, now_ms)
        return [Answer.OK] * len(keys)

    def advance(self, batch: Batch) -> None:
        """Note that every entry of `batch` has been applied."""
        assert batch.first_index == self.last_applied + 1, "batches are applied in order, once"
        assert batch.timestamp_ms >= self.last_timestamp_ms, "time does not go back"
        self.last_applied = batch.last_index
        self.last_term = batch.term
        self.last_timestamp_ms = batch.timestamp_ms

    def adopt_semantics(self, version: int) -> None:
        """Go on by these rules; raises `StartupError` when they are not known here."""
        if version > SEMANTICS_VERSION:
            raise StartupError(
                "ENG-009",
                "Unsupported Storage Format",
                f"the log speaks version {version} of the command rules, this server knows up to "
                f"{SEMANTICS_VERSION}",
                "start a newer server",
            )
        self.semantics_version = version
