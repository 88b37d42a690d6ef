"""The keyspace as a section of a snapshot.

The section is a sequence of chunks, each a MessagePack array of `[shard number, {key: [value,
version, expires at ms or 0], ...}]`. A shard is the top 12 bits of CRC-32 of the key. Whole shards
are put together until a chunk has about 64 KiB, or 512 keys; one that is larger than 64 KiB is
spread over several chunks.
So encoder and decoder handle whole dicts; what Python does per key is to pack and unpack entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from vaylix_storage._entry import Entry
from vaylix_storage._expiry import expiry_item
from vaylix_storage._packing import unpack_all
from vaylix_storage._table import SHARD_COUNT
from vaylix_storage.errors import CorruptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaylix_storage._keyspace import Keyspace
    from vaylix_storage._shard_walk import ShardWalk
    from vaylix_storage._table import Table

__all__ = ["CHUNK_BYTES", "KeyspaceDump", "KeyspaceLoader", "load_keyspace_chunk"]

CHUNK_BYTES: Final = 64 * 1024
# Small keys cost time rather than bytes: whole shards are added until there are that many.
_CHUNK_KEYS: Final = 512
# More than MessagePack puts around the key and the value of one entry.
_ENTRY_OVERHEAD_BYTES: Final = 30

_ShardIndex = Annotated[int, msgspec.Meta(ge=0, lt=SHARD_COUNT)]
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[tuple[_ShardIndex, dict[bytes, Entry]]])


class KeyspaceDump:
    """The chunks of the section, one for each call, from `Keyspace.begin_walk`.

    A call takes a fraction of a millisecond, but for single entries that are large. It shows the
    keyspace as it was at the beginning and is used by the thread that changes the keyspace, between
    any two changes. Close it when it is given up; coming to the end closes it, too.
    """

    __slots__ = ("_chunk_bytes", "_rest", "_walk")

    def __init__(self, walk: ShardWalk, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._walk = walk
        self._chunk_bytes = chunk_bytes
        # What is left of a shard that is larger than a chunk.
        self._rest: Iterator[tuple[bytes, Entry]] | None = None

    def next_chunk(self) -> tuple[bytes, int] | None:
        """Return a chunk and the number of its keys; None at the end."""
        pieces: list[tuple[int, dict[bytes, Entry]]] = []
        held_bytes = key_count = 0
        while held_bytes < self._chunk_bytes and key_count < _CHUNK_KEYS:
            if self._rest is not None:
                entries, entry_bytes = self._cut(self._rest)
            else:
                shard = self._walk.next_shard()
                if shard is None:
                    break
                entries = unpack_all(shard)
                entry_bytes = _encoded_bytes(entries)
                if entry_bytes > self._chunk_bytes:
                    self._rest = iter(entries.items())
                    continue
            if entries:
                pieces.append((self._walk.shard_index, entries))
            held_bytes += entry_bytes
            key_count += len(entries)
        return (_ENCODER.encode(pieces), key_count) if pieces else None

    def close(self) -> None:
        """Give up. Allowed at any time, any number of times."""
        self._rest = None
        self._walk.close()

    def _cut(self, rest: Iterator[tuple[bytes, Entry]]) -> tuple[dict[bytes, Entry], int]:
        """Return the next part of a large shard and its size."""
        part: dict[bytes, Entry] = {}
        part_bytes = 0
        for key, entry in rest:
            part[key] = entry
            part_bytes += len(key) + len(entry.value) + _ENTRY_OVERHEAD_BYTES
            if part_bytes >= self._chunk_bytes:
                return part, part_bytes
        self._rest = None
        return part, part_bytes


def _encoded_bytes(entries: dict[bytes, Entry]) -> int:
    """Return about how many bytes entries take in a chunk, and not less than they do."""
    values = sum([len(entry.value) for entry in entries.values()])
    return sum(map(len, entries)) + values + _ENTRY_OVERHEAD_BYTES * len(entries)


class KeyspaceLoader:
    """Fills a keyspace from the chunks of a section, the quickest way: expiries come last.

    The keyspace must have been empty, and must not be used before `finish`. That takes about a
    second for a million keys that expire, and nothing when none do.
    """

    __slots__ = ("_expiring", "_keyspace", "key_count")

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._expiring: list[bytes] = []
        self.key_count = 0

    def add(self, plain: bytes) -> None:
        """Add the entries of one chunk; errors as `load_keyspace_chunk`."""
        self.key_count += _load(self._keyspace.table, plain, self._expiring)

    def finish(self) -> None:
        """Make the keyspace fit for use."""
        self._keyspace.table.expiry.add_many(self._expiring)
        self._expiring = []


def load_keyspace_chunk(keyspace: Keyspace, plain: bytes) -> int:
    """Add the entries of one chunk to a keyspace; return how many keys these are.

    Each call leaves the keyspace fit for use and takes a few milliseconds at most, so that a node
    that serves others can load between two requests. Raises CorruptionError, without a place, when
    these are not entries, or not all of them new: the keyspace is of no use then. No walk must be
    open.
    """
    expiring: list[bytes] = []
    key_count = _load(keyspace.table, plain, expiring)
    keyspace.table.expiry.add_many(expiring)
    return key_count


def _load(table: Table, plain: bytes, expiring: list[bytes]) -> int:
    try:
        pieces = _DECODER.decode(plain)
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"a chunk does not hold entries of a keyspace: {error}") from error
    key_count = 0
    for shard_index, shard in pieces:
        expiring += [
            expiry_item(entry.expires_at_ms, key)
            for key, entry in shard.items()
            if entry.expires_at_ms
        ]
        key_count += len(shard)
        if not table.adopt(shard_index, shard):
            raise CorruptionError("a chunk holds a key twice, or one of another shard")
    return key_count
