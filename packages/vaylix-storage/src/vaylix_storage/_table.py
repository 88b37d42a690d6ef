"""The map under the keyspace: dict shards, exact totals, the order of expiry, and an undo journal.

Why shards: CPython resizes a dict in one go. One dict of a million keys stops everything for more
than 100 ms when it grows and again when it is cleared; 4096 small dicts never do. A key's shard is
the top bits of CRC-32 of the key: fixed, so that every node walks the keys in the same order.
(Somebody who chooses keys for their CRC can crowd one shard. That costs stalls, not data.)

Why entries are structs: see `_entry`.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from vaylix_storage._entry import Before, Entry, Shard
from vaylix_storage._expiry import ExpiryIndex
from vaylix_storage._shard_walk import ShardWalk
from vaylix_storage.commands import U64_MAX
from vaylix_storage.errors import StorageBusyError

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
        self._journal: list[tuple[bytes, Entry | None] | _Contents] | None = None
        # What an open walk has still to show, by the number of the shard.
        self._view: list[Shard | None] | None = None
        # What entries of these shards were when the walk began, if they have changed since.
        self._before: dict[int, Before] = {}
        # Whether there is a journal or a view: the one question that each write asks.
        self._is_watched = False

    def find(self, key: bytes, now_ms: int) -> Entry | None:
        """Return the entry of a key that is alive at `now_ms`."""
        entry = self.shards[crc32(key) >> SHARD_SHIFT].get(key)
        if entry is None or 0 < entry.expires_at_ms <= now_ms:
            return None
        return entry

    def values(self, keys: list[bytes], now_ms: int) -> list[bytes | None]:
        """Return the values of many keys: `find` in one loop, for pipelines of GETs."""
        shards, hash_of = self.shards, crc32
        values: list[bytes | None] = []
        for key in keys:
            entry = shards[hash_of(key) >> SHARD_SHIFT].get(key)
            if entry is None or 0 < entry.expires_at_ms <= now_ms:
                values.append(None)
            else:
                values.append(entry.value)
        return values

    def put(self, key: bytes, entry: Entry) -> None:
        """Store an entry, whatever was there."""
        shard = self.shards[crc32(key) >> SHARD_SHIFT]
        old = shard.get(key)
        if self._is_watched:
            self._note_change(key, old)
        shard[key] = entry
        expires_at_ms = entry.expires_at_ms
        if old is None:
            self.entry_count += 1
            self.content_bytes += len(key) + len(entry.value)
            if expires_at_ms:
                self.expiry.add(expires_at_ms, key)
            return
        self.content_bytes += len(entry.value) - len(old.value)
        old_expires_at_ms = old.expires_at_ms
        if old_expires_at_ms != expires_at_ms:
            if old_expires_at_ms:
                self.expiry.remove(old_expires_at_ms, key)
            if expires_at_ms:
                self.expiry.add(expires_at_ms, key)

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
        self.content_bytes -= len(key) + len(old.value)
        if old.expires_at_ms:
            self.expiry.remove(old.expires_at_ms, key)

    def set_all(self, keys: list[bytes], values: list[bytes], now_ms: int) -> None:
        """Store values without a time to live, in order.

        It is `set_plain` for each, with the usual case spelled out: there is no hotter write.
        """
        shards, hash_of = self.shards, crc32
        new_count = new_bytes = 0
        for position, key in enumerate(keys):
            value = values[position]
            shard = shards[hash_of(key) >> SHARD_SHIFT]
            old = shard.get(key)
            if self._is_watched or (old is not None and old.expires_at_ms):
                self.set_plain(key, value, now_ms)
            elif old is None:
                shard[key] = Entry(value, 1, 0)
                new_count += 1
                new_bytes += len(key) + len(value)
            else:
                version = old.version
                shard[key] = Entry(value, version + 1 if version < U64_MAX else version, 0)
                new_bytes += len(value) - len(old.value)
        self.entry_count += new_count
        self.content_bytes += new_bytes

    def set_plain(self, key: bytes, value: bytes, now_ms: int) -> None:
        """Store a value without a time to live."""
        self.put(key, Entry(value, self.next_version(key, now_ms), 0))

    def next_version(self, key: bytes, now_ms: int) -> int:
        """Return the version that a write gives to a key (VTP2 commands section 6.2)."""
        entry = self.find(key, now_ms)
        return 1 if entry is None else min(entry.version + 1, U64_MAX)

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
                self.put(record[0], record[1])

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
            self.content_bytes -= len(key) + len(old.value)
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

    def adopt(self, shard_index: int, shard: Shard) -> bool:
        """Take over entries from a snapshot; `shard` belongs to the table from then on.

        The caller adds to `expiry` those that expire. Returns False, and leaves the table in
        pieces, when a key belongs to another shard or is there already.
        """
        assert not self._is_watched
        if {crc32(key) >> SHARD_SHIFT for key in shard} - {shard_index}:
            return False
        current = self.shards[shard_index]
        if current:
            if not current.keys().isdisjoint(shard):
                return False
            current.update(shard)
        else:
            self.shards[shard_index] = shard
        self.entry_count += len(shard)
        self.content_bytes += sum(map(len, shard)) + sum([len(e.value) for e in shard.values()])
        return True

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

    def _note_change(self, key: bytes, old: Entry | None) -> None:
        """Write down what is about to change, for whoever wants to know."""
        if self._view is not None:
            self._save_entry(key, old)
        if self._journal is not None:
            self._journal.append((key, old))

    def _save_entry(self, key: bytes, old: Entry | None) -> None:
        """Let the walk see the entry of a key as it is now, if it has still to see it.

        A shard that was passed or cleared away is not in the view any more.
        """
        view = self._view
        assert view is not None
        shard_index = crc32(key) >> SHARD_SHIFT
        if view[shard_index] is self.shards[shard_index]:
            self._before.setdefault(shard_index, {}).setdefault(key, old)

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
