"""All live keys in key order, a millisecond at a time.

A walk over the shards gives keys in the order of their hash. They are sorted in runs of some
thousand, and the runs are merged. Runs hold references to keys and entries that exist already, so a
million keys cost 16 MB; what is overwritten meanwhile stays in memory until it has been passed.
"""

from __future__ import annotations

from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from vaylix_storage._packing import expiry_of, unpack
from vaylix_storage.logical_backup._document import BackupEntry, DocumentWriter

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from vaylix_storage._entry import Held, Shard

__all__ = ["SortedWalk", "Walk", "backup_pieces"]

# What fits into a step of about one millisecond.
RUN_KEYS: Final = 2048
STEP_KEYS: Final = 512
STEP_BYTES: Final = 256 * 1024


class Walk(Protocol):
    """What `Keyspace.begin_walk` returns."""

    def next_shard(self) -> Shard | None:
        """Return the next shard as it was at the beginning; None at the end."""
        ...

    def close(self) -> None:
        """Let go of everything. Allowed at any time, any number of times."""
        ...


class SortedWalk:
    """The keys that are alive at `now_ms`, sorted; for the thread that changes the keyspace.

    Other work may be done between any two steps, and does not change what the steps return.
    """

    __slots__ = ("_merged", "_now_ms", "_runs", "_walk")

    def __init__(self, walk: Walk, now_ms: int) -> None:
        self._walk: Walk | None = walk
        self._now_ms = now_ms
        self._runs: list[Iterator[tuple[bytes, Held]]] = []
        self._merged: Iterator[tuple[bytes, Held]] = iter(())

    def step(self) -> list[BackupEntry] | None:
        """Do about a millisecond of work and return the next entries; None at the end.

        The list is empty as long as there is still something to sort. Only a single large value
        makes a step take longer.
        """
        if self._walk is not None:
            self._sort_run(self._walk)
            return []
        entries: list[BackupEntry] = []
        value_bytes = 0
        for key, held in islice(self._merged, STEP_KEYS):
            entry = unpack(held)
            entries.append(
                BackupEntry(key, entry.value, entry.expires_at_ms or None, entry.version)
            )
            value_bytes += len(entry.value)
            if value_bytes >= STEP_BYTES:
                break
        return entries or None

    def close(self) -> None:
        """Give up. Allowed at any time, any number of times."""
        if self._walk is not None:
            self._walk.close()
            self._walk = None
        self._runs = []
        self._merged = iter(())

    def _sort_run(self, walk: Walk) -> None:
        """Sort some shards; after the last one, begin to merge."""
        now_ms = self._now_ms
        live: Shard = {}
        while len(live) < RUN_KEYS:
            shard = walk.next_shard()
            if shard is None:
                walk.close()
                self._walk = None
                break
            live.update(
                {key: held for key, held in shard.items() if not 0 < expiry_of(held) <= now_ms}
            )
        if live:
            keys = sorted(live, reverse=True)
            self._runs.append(_drain(keys, [live[key] for key in keys]))
        if self._walk is None:
            # No key is there twice, so no two entries are ever compared.
            self._merged = merge(*self._runs)
            self._runs = []


def _drain(keys: list[bytes], entries: list[Held]) -> Iterator[tuple[bytes, Held]]:
    """Yield a run from its end, and let go of each item at once.

    All runs end at about the same time. If they were dropped whole, that would be a stall.
    """
    while keys:
        yield keys.pop(), entries.pop()


def backup_pieces(writer: DocumentWriter, walk: SortedWalk) -> Generator[bytes, None, None]:
    """Make a whole document in pieces, each about a millisecond of work; many are empty.

    Raises what `DocumentWriter.feed` raises. Closing the iterator closes the walk.
    """
    try:
        yield writer.begin()
        while (entries := walk.step()) is not None:
            yield writer.feed(entries)
        yield writer.end()
    finally:
        walk.close()
