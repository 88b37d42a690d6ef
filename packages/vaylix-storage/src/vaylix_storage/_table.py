"""The map under the keyspace: dict shards, exact totals, the order of expiry, and an undo journal.

Why shards: CPython resizes a dict in one go. One dict of a million keys stops everything for more
than 100 ms when it grows and again when it is cleared; 4096 small dicts never do. A key's shard is
the top bits of CRC-32 of the key: fixed, so that every node walks the keys in the same order.
(Somebody who chooses keys for their CRC can crowd one shard. That costs stalls, not data.)

Why many keys are looked up before the first is used: what a random key needs of a large table is
in no cache, and the processor waits for it, unless it can begin with the next key meanwhile. It
looks some five hundred instructions ahead. So loops that do nothing else touch what a batch needs.
docs/performance.md has what that brings.

How entries are held: see `_entry` and `_packing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from zlib import crc32

from vaylix_storage._expiry import ExpiryIndex
from vaylix_storage._packing import (
    PACKED_VALUE_BYTES_MAX,
    VERSION,
    VERSION_1,
    VERSION_BYTES,
    expiry_of,
    live_value,
    pack,
    pack_plain,
    unpack,
    unpack_all,
    value_bytes_of,
    version_of,
)
from vaylix_storage._shard_walk import ShardWalk
from vaylix_storage.commands import U64_MAX
from vaylix_storage.errors import StorageBusyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_storage._entry import Before, Entry, Held, Shard

__all__ = ["SHARD_BITS", "SHARD_COUNT", "SHARD_SHIFT", "Table"]

SHARD_BITS: Final = 12
SHARD_COUNT: Final = 1 << SHARD_BITS
SHARD_SHIFT: Final = 32 - SHARD_BITS

# A keyspace this small is cleared on the spot, which is cheaper than new shards.
_CLEAR_IN_PLACE_KEYS_MAX: Final = 4096


class _Contents:
    """Everything a table held before it was cleared inside a transaction."""

    __slots__ = ("content_bytes", "entry_count", "expiry", "shards")

    def __init__(self, table: Table) -> None:
        self.shards = table.shards
        self.expiry = table.expiry
        self.entry_count = table.entry_count
        self.content_bytes = table.content_bytes


class Table:
    """Key to entry, dead entries included until they are reclaimed.

    `entry_count` and `content_bytes` (keys and values) are exact and include the dead entries.
    Change `shards` through the methods only.
    """

    __slots__ = (
        "_before",
        "_is_watched",
        "_journal",
        "_retired",
        "_view",
        "content_bytes",
        "entry_count",
        "expired_count",
        "expiry",
        "shards",
    )

    def __init__(self) -> None:
        self.shards: list[Shard] = [{} for _ in range(SHARD_COUNT)]
        self.expiry = ExpiryIndex()
        self.entry_count = 0
        self.content_bytes = 0
        # How many dead entries have left memory so far; those that were cleared do not count.
        self.expired_count = 0
        # What is no longer reachable from the keyspace, freed one small container at a time.
        self._retired: list[list[Shard] | list[list[bytes]]] = []
        self._journal: list[tuple[bytes, Held | None] | _Contents] | None = None
        # What an open walk has still to show, by the number of the shard.
        self._view: list[Shard | None] | None = None
        # What entries of these shards were when the walk began, if they have changed since.
        self._before: dict[int, Before] = {}
        # Whether there is a journal or a view: the one question that each write asks.
        self._is_watched = False

    def entries(self) -> dict[bytes, Entry]:
        """Return all entries, dead ones included; one pass over all keys, for checks."""
        entries: dict[bytes, Entry] = {}
        for shard in self.shards:
            entries |= unpack_all(shard)
        return entries

    def find(self, key: bytes, now_ms: int) -> Entry | None:
        """Return the entry of a key that is alive at `now_ms`."""
        held = self._find(key, now_ms)
        return None if held is None else unpack(held)

    def value(self, key: bytes, now_ms: int) -> bytes | None:
        """Return the value of a key that is alive at `now_ms`."""
        held = self.shards[crc32(key) >> SHARD_SHIFT].get(key)
        return None if held is None else live_value(held, now_ms)

    def values(self, keys: list[bytes], now_ms: int) -> list[bytes | None]:
        """Return the values of many keys, None where there is none."""
        return [
            None if held is None else live_value(held, now_ms)
            for held in _look_up(keys, self._shards_of(keys))
        ]

    def next_version(self, key: bytes, now_ms: int) -> int:
        """Return the version that a write gives to a key (VTP2 commands section 6.2)."""
        held = self._find(key, now_ms)
        return 1 if held is None else min(version_of(held) + 1, U64_MAX)

    def put(self, key: bytes, entry: Entry) -> None:
        """Store an entry, whatever was there."""
        self._put(key, pack(entry))

    def set_plain(self, key: bytes, value: bytes, now_ms: int) -> None:
        """Store a value without a time to live."""
        self._put(key, pack_plain(value, self.next_version(key, now_ms)))

    def set_all(self, keys: list[bytes], values: list[bytes], now_ms: int) -> None:
        """Store values without a time to live, in order.

        It is `set_plain` for each, with the usual case spelled out: there is no hotter write.
        """
        encode_version: Callable[[int], bytes] = VERSION.pack
        decode_version: Callable[[bytes], tuple[int]] = VERSION.unpack_from
        shards = self._shards_of(keys)
        # Kept until the end, so that what is replaced is freed in one loop, too.
        before = _look_up(keys, shards)
        new_count = new_bytes = 0
        for position, key in enumerate(keys):
            value = values[position]
            shard = shards[position]
            # Not from `before`: the same key may have been set a moment ago.
            old = shard.get(key)
            if self._is_watched or len(value) > PACKED_VALUE_BYTES_MAX:
                self.set_plain(key, value, now_ms)
            elif old is None:
                shard[key] = VERSION_1 + value
                new_count += 1
                new_bytes += len(key) + len(value)
            elif isinstance(old, bytes):
                version = decode_version(old)[0]
                shard[key] = encode_version(version + 1 if version < U64_MAX else version) + value
                new_bytes += VERSION_BYTES + len(value) - len(old)
            else:
                self.set_plain(key, value, now_ms)
        self.entry_count += new_count
        self.content_bytes += new_bytes
        before.clear()

    def drop(self, key: bytes) -> None:
        """Remove the entry of a key, if there is one."""
        shard = self.shards[crc32(key) >> SHARD_SHIFT]
        old = shard.get(key)
        if old is None:
            return
        if self._is_watched:
            self._note_change(key, old)
        del shard[key]
        self.entry_count -= 1
        self.content_bytes -= len(key) + value_bytes_of(old)
        expires_at_ms = expiry_of(old)
        if expires_at_ms:
            self.expiry.remove(expires_at_ms, key)

    def clear(self) -> None:
        """Remove everything. What was there is freed later, by `reclaim`."""
        if self.entry_count == 0:
            return
        if self._journal is not None:
            self._journal.append(_Contents(self))
            self._start_afresh()
            return
        if self.entry_count <= _CLEAR_IN_PLACE_KEYS_MAX and self._view is None:
            for shard in self.shards:
                if shard:
                    shard.clear()
            self.expiry.release_blocks()
            self.entry_count = 0
            self.content_bytes = 0
            return
        self._retire(self.shards, self.expiry)
        self._start_afresh()

    def begin(self) -> None:
        """Start to journal changes, so that they can be undone."""
        assert self._journal is None
        self._journal = []
        self._is_watched = True

    def commit(self) -> None:
        """Keep the changes since `begin`."""
        journal = self._journal
        assert journal is not None
        self._journal = None
        self._is_watched = self._view is not None
        for record in journal:
            if isinstance(record, _Contents):
                self._retire(record.shards, record.expiry)

    def roll_back(self) -> None:
        """Undo the changes since `begin`."""
        journal = self._journal
        assert journal is not None
        self._journal = None
        self._is_watched = self._view is not None
        for record in reversed(journal):
            if isinstance(record, _Contents):
                self.shards = record.shards
                self.expiry = record.expiry
                self.entry_count = record.entry_count
                self.content_bytes = record.content_bytes
            elif record[1] is None:
                self.drop(record[0])
            else:
                self._put(record[0], record[1])

    def reclaim(self, now_ms: int, entries_max: int) -> int:
        """Free at most about `entries_max` dead or cleared entries; return how many were freed.

        Small containers are freed whole, so the bound can be passed by the size of one shard.
        """
        freed = 0
        while self._retired and freed < entries_max:
            containers = self._retired[-1]
            freed += len(containers.pop()) + 1
            if not containers:
                self._retired.pop()
        while freed < entries_max:
            due = self.expiry.take_due(now_ms, entries_max - freed)
            if not due:
                break
            freed += len(due)
            self.expired_count += len(due)
            self._forget(due)
        return freed

    def _forget(self, keys: list[bytes]) -> None:
        """Remove entries that `expiry` no longer knows."""
        shards = self.shards
        if self._view is not None:
            for key in keys:
                self._save_entry(key, shards[crc32(key) >> SHARD_SHIFT][key])
        for key in keys:
            old = shards[crc32(key) >> SHARD_SHIFT].pop(key)
            self.content_bytes -= len(key) + value_bytes_of(old)
        self.entry_count -= len(keys)

    def begin_walk(self) -> ShardWalk:
        """Start to show what the table holds now, shard by shard, while it goes on changing.

        One walk at a time, and not inside a transaction; StorageBusyError otherwise.
        """
        if self._is_watched:
            raise StorageBusyError("another walk over this keyspace has not ended yet")
        # A list of references: what this costs does not depend on the number of keys.
        self._view = list(self.shards)
        self._is_watched = True
        self._before = {}
        return ShardWalk(self._view, self._before, self._end_walk)

    def abandon_walk(self) -> None:
        """End a walk that an interrupt has left without an owner; nothing if there is none."""
        if self._view is not None:
            self._end_walk()

    def _end_walk(self) -> None:
        """Stop to save what is about to change."""
        view = self._view
        assert view is not None
        assert self._journal is None
        self._view = None
        self._before = {}
        self._is_watched = False
        # What was cleared meanwhile may have no other owner by now. Much of it dropped at once
        # would be a stall.
        left = [
            shard
            for shard, current in zip(view, self.shards, strict=True)
            if shard and shard is not current
        ]
        view.clear()
        if left:
            self._retired.append(left)

    def adopt(self, shard_index: int, entries: dict[bytes, Entry]) -> bool:
        """Take over entries of one shard from a snapshot.

        The caller adds to `expiry` those that expire. Returns False, and leaves the table in
        pieces, when a key belongs to another shard or is there already.
        """
        assert not self._is_watched
        shard = self.shards[shard_index]
        expected = len(shard) + len(entries)
        for key, entry in entries.items():
            if crc32(key) >> SHARD_SHIFT != shard_index:
                return False
            shard[key] = pack(entry)
            self.content_bytes += len(key) + len(entry.value)
        self.entry_count += len(entries)
        return len(shard) == expected

    def replace_with(self, other: Table) -> None:
        """Hold what another table held, which is left empty; what was here is freed later."""
        assert self._journal is None
        assert not other._is_watched
        self._retire(self.shards, self.expiry)
        self._retired += other._retired
        self.shards = other.shards
        self.expiry = other.expiry
        self.entry_count = other.entry_count
        self.content_bytes = other.content_bytes
        other._retired = []
        other._start_afresh()

    def retire(self, other: Table) -> None:
        """Free what another table holds, later, as `clear` does; nobody may use it any more."""
        self._retire(other.shards, other.expiry)

    def _find(self, key: bytes, now_ms: int) -> Held | None:
        """Return what a key holds that is alive at `now_ms`."""
        held = self.shards[crc32(key) >> SHARD_SHIFT].get(key)
        return None if held is None or 0 < expiry_of(held) <= now_ms else held

    def _put(self, key: bytes, held: Held) -> None:
        """Let a key hold something, whatever it held."""
        shard = self.shards[crc32(key) >> SHARD_SHIFT]
        old = shard.get(key)
        if self._is_watched:
            self._note_change(key, old)
        shard[key] = held
        expires_at_ms = expiry_of(held)
        if old is None:
            self.entry_count += 1
            self.content_bytes += len(key) + value_bytes_of(held)
            if expires_at_ms:
                self.expiry.add(expires_at_ms, key)
            return
        self.content_bytes += value_bytes_of(held) - value_bytes_of(old)
        old_expires_at_ms = expiry_of(old)
        if old_expires_at_ms != expires_at_ms:
            if old_expires_at_ms:
                self.expiry.remove(old_expires_at_ms, key)
            if expires_at_ms:
                self.expiry.add(expires_at_ms, key)

    def _note_change(self, key: bytes, old: Held | None) -> None:
        """Write down what is about to change, for whoever wants to know."""
        if self._view is not None:
            self._save_entry(key, old)
        if self._journal is not None:
            self._journal.append((key, old))

    def _save_entry(self, key: bytes, old: Held | None) -> None:
        """Let the walk see the entry of a key as it is now, if it has still to see it.

        A shard that was passed or cleared away is not in the view any more.
        """
        view = self._view
        assert view is not None
        shard_index = crc32(key) >> SHARD_SHIFT
        if view[shard_index] is self.shards[shard_index]:
            self._before.setdefault(shard_index, {}).setdefault(key, old)

    def _shards_of(self, keys: list[bytes]) -> list[Shard]:
        shards, hash_of = self.shards, crc32
        return [shards[hash_of(key) >> SHARD_SHIFT] for key in keys]

    def _start_afresh(self) -> None:
        self.shards = [{} for _ in range(SHARD_COUNT)]
        self.expiry = ExpiryIndex()
        self.entry_count = 0
        self.content_bytes = 0

    def _retire(self, shards: list[Shard], expiry: ExpiryIndex) -> None:
        filled = [shard for shard in shards if shard]
        if filled:
            self._retired.append(filled)
        blocks = expiry.release_blocks()
        if blocks:
            self._retired.append(blocks)


def _look_up(keys: list[bytes], shards: list[Shard]) -> list[Held | None]:
    """Return what each key holds in its shard, in loops as short as can be (see the module)."""
    for key in keys:
        # A string remembers its hash.
        hash(key)
    found: list[Held | None] = []
    for position, shard in enumerate(shards):
        found.append(shard.get(keys[position]))
    return found
