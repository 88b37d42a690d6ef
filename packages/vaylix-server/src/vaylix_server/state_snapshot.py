"""The whole state as the sections of a snapshot, and back.

    machine    [version of the semantics]
    access     users, roles and grants; see `access`
    keyspace   all keys; see vaylix_storage

The state may go on changing while its pieces are taken one by one: the small sections are encoded
at the beginning, and the dump of the keyspace shows what it held then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_server.access import decode_access_state, encode_access_state
from vaylix_server.errors import StartupError
from vaylix_storage import KeyspaceDump, KeyspaceLoader, SnapshotMeta

if TYPE_CHECKING:
    from vaylix_server.machine import StateMachine

__all__ = ["ACCESS", "KEYSPACE", "MACHINE", "StateLoader", "StateSnapshot", "encode_machine"]

MACHINE: Final = "machine"
ACCESS: Final = "access"
KEYSPACE: Final = "keyspace"


def encode_machine(semantics_version: int) -> bytes:
    """Return the content of the section `machine`."""
    return msgspec.msgpack.encode([semantics_version])


class StateSnapshot:
    """What the state was when this object was made; close it when it is given up.

    Not while a restore is under way: what it has built so far is in no section.
    """

    def __init__(self, machine: StateMachine, *, created_at_ms: int) -> None:
        assert not machine.keyspace.is_being_restored
        self.meta = SnapshotMeta(
            index=machine.last_applied,
            term=machine.last_term,
            timestamp_ms=machine.last_timestamp_ms,
            created_at_ms=created_at_ms,
        )
        self._small = [
            (ACCESS, encode_access_state(machine.access), len(machine.access.users)),
            (MACHINE, encode_machine(machine.semantics_version), 1),
        ]
        self._keyspace = KeyspaceDump(machine.keyspace.begin_walk())

    def next_piece(self) -> tuple[str, bytes, int] | None:
        """Return section, content and number of items of the next piece; None at the end.

        Takes a fraction of a millisecond, on the thread that applies batches.
        """
        if self._small:
            return self._small.pop()
        chunk = self._keyspace.next_chunk()
        return None if chunk is None else (KEYSPACE, *chunk)

    def close(self) -> None:
        """Let go of the state."""
        self._keyspace.close()


class StateLoader:
    """Builds the state of a fresh machine from the pieces of a snapshot."""

    def __init__(self, machine: StateMachine, meta: SnapshotMeta) -> None:
        assert machine.last_applied == 0, "a snapshot is the beginning of a state"
        self._machine = machine
        self._meta = meta
        self._keyspace = KeyspaceLoader(machine.keyspace)

    def add(self, section: str, plain: bytes) -> None:
        """Take a piece. Raises `StartupError` for one that this server does not know."""
        machine = self._machine
        if section == KEYSPACE:
            self._keyspace.add(plain)
        elif section == ACCESS:
            machine.access = decode_access_state(plain)
        elif section == MACHINE:
            (version,) = msgspec.msgpack.decode(plain, type=tuple[int])
            machine.adopt_semantics(version)
        else:
            raise StartupError(
                "ENG-009",
                "Unsupported Storage Format",
                f"the snapshot holds a section '{section}', which this server does not know",
                "start the server that wrote it, or a newer one",
            )

    def finish(self) -> None:
        """Let the machine go on behind the snapshot."""
        self._keyspace.finish()
        machine, meta = self._machine, self._meta
        machine.last_applied = meta.index
        machine.last_term = meta.term
        machine.last_timestamp_ms = meta.timestamp_ms
