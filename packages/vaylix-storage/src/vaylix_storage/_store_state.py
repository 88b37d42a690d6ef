"""What tells the directory of a store from that of a server, and how a store comes back.

The first entry of the log of a store is a marker, and the first section of each of its snapshots is
one, too. A server writes neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_storage._batch import ENTRY_BYTES_MAX, BatchKind
from vaylix_storage._builder import KEYSPACE_SECTION
from vaylix_storage._keyspace import Keyspace
from vaylix_storage._keyspace_snapshot import KeyspaceLoader
from vaylix_storage.commands import decode_commands, encode_commands
from vaylix_storage.errors import CommandEncodingError, CorruptionError, ForeignFormatError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vaylix_storage._batch import Batch
    from vaylix_storage._engine import Engine
    from vaylix_storage._snapshot import SnapshotReader
    from vaylix_storage.commands import Command

__all__ = [
    "KEYSPACE_SECTION",
    "MARKER",
    "MARKER_KIND",
    "STORE_SECTION",
    "encode_for_log",
    "load",
]

# A kind of batch that servers do not have; the payload gives the version of the rules.
MARKER_KIND: Final = 64
MARKER: Final = msgspec.msgpack.encode(["vaylix store", 1])
STORE_SECTION: Final = "store"


def encode_for_log(commands: Sequence[Command]) -> bytes:
    """Encode the commands of one batch, and refuse what no start could read back.

    One entry that cannot be read would keep the directory closed for good. Raises
    CommandEncodingError and TypeError.
    """
    payload = encode_commands(commands)
    if len(payload) <= ENTRY_BYTES_MAX:
        decode_commands(payload, len(commands))
    return payload


def load(engine: Engine) -> tuple[Keyspace, int]:
    """Return the state of a directory and the time of its last entry; a new one is empty.

    Raises ForeignFormatError for the directory of a server or of a later release, and what reading
    snapshots and logs raises.
    """
    keyspace = Keyspace()
    entry_ms = 0
    path = engine.directory.path
    is_marked = False
    reader = engine.open_snapshot()
    if reader is not None:
        try:
            is_marked = _load_snapshot(reader, keyspace, path)
        finally:
            reader.close()
        entry_ms = reader.meta.timestamp_ms
    for batch in engine.read_behind_snapshot():
        if batch.kind == MARKER_KIND:
            if batch.payload != MARKER:
                raise _foreign(path, "a later release has written to this directory")
            is_marked = True
        elif batch.kind == BatchKind.KEYSPACE and is_marked:
            _apply(keyspace, batch, path)
        else:
            raise _of_a_server(path)
        entry_ms = batch.timestamp_ms
    # A restore that a crash has interrupted is never gone on with.
    keyspace.drop_restore()
    return keyspace, entry_ms


def _load_snapshot(reader: SnapshotReader, keyspace: Keyspace, path: Path) -> bool:
    """Load a snapshot; return False for that of a time before the first entry, which is empty."""
    loader = KeyspaceLoader(keyspace)
    is_marked = False
    for name, plain in reader.chunks():
        if name == STORE_SECTION:
            if plain != MARKER:
                raise _foreign(path, "a later release has written to this directory")
            is_marked = True
        elif name == KEYSPACE_SECTION and is_marked:
            try:
                loader.add(plain)
            except CorruptionError as error:
                raise reader.corruption(error.reason) from error
        else:
            raise _of_a_server(path)
    if reader.meta.index == 0 and not reader.sections:
        return False
    if not is_marked:
        raise _of_a_server(path)
    if loader.key_count != reader.sections[-1].item_count:
        raise reader.corruption("the snapshot holds another number of keys than it says")
    loader.finish()
    return True


def _apply(keyspace: Keyspace, batch: Batch, path: Path) -> None:
    try:
        commands = decode_commands(batch.payload, batch.count)
    except CommandEncodingError as error:
        raise CommandEncodingError(
            f"entry {batch.first_index}: {error.reason}",
            path=path,
            remedy="open it with the release that wrote it",
        ) from error
    keyspace.apply(commands, batch.timestamp_ms, want_results=False)


def _of_a_server(path: Path) -> ForeignFormatError:
    return _foreign(path, "this directory belongs to a Vaylix server, not to a store")


def _foreign(path: Path, reason: str) -> ForeignFormatError:
    return ForeignFormatError(
        reason,
        path=path,
        remedy="open it with what wrote it; a logical backup carries its data over",
    )
