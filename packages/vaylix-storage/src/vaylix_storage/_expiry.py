"""Keys in the order in which they expire.

A sorted list kept in blocks of bounded size. A heap would be smaller code, but it can neither
count the keys that are due without popping them nor forget a key whose time to live changed. Here
adding and removing cost two binary searches and a short move, counting what is due costs one step
per block, and nothing ever costs a pass over all keys, not even a million keys due at once.

An item is a string of bytes: the time, big end first, then the key. So items sort by time, take
half of what a tuple takes, and are nothing to the garbage collector (see `_entry`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final

__all__ = ["BLOCK_ITEMS_MAX", "ExpiryIndex", "expiry_item"]

BLOCK_ITEMS_MAX: Final = 512

_TIME_BYTES: Final = 8


def expiry_item(expires_at_ms: int, key: bytes) -> bytes:
    """Return the item of a key; for `ExpiryIndex.add_many`."""
    return expires_at_ms.to_bytes(_TIME_BYTES, "big") + key


class ExpiryIndex:
    """A set of keys with the absolute time, in ms and up to 2**64 - 1, at which each expires.

    Every block is sorted and not empty. The bound of a block is at or behind all of its items and
    before all items of the next block; removing an item need not lower it.
    """

    __slots__ = ("_blocks", "_bounds")

    def __init__(self) -> None:
        self._blocks: list[list[bytes]] = []
        self._bounds: list[bytes] = []

    def add(self, expires_at_ms: int, key: bytes) -> None:
        """Add a key that is not there yet with this time."""
        self._add_item(expiry_item(expires_at_ms, key))

    def add_many(self, items: list[bytes]) -> None:
        """Add items that are not there yet; sorts the list. Into an empty index that is quick."""
        if self._blocks:
            for item in items:
                self._add_item(item)
            return
        items.sort()
        step = BLOCK_ITEMS_MAX // 2
        self._blocks = [items[start : start + step] for start in range(0, len(items), step)]
        self._bounds = [block[-1] for block in self._blocks]

    def remove(self, expires_at_ms: int, key: bytes) -> None:
        """Remove a key that is there with this time."""
        item = expiry_item(expires_at_ms, key)
        position = bisect_left(self._bounds, item)
        block = self._blocks[position]
        place = bisect_left(block, item)
        assert block[place] == item
        del block[place]
        if not block:
            del self._blocks[position], self._bounds[position]

    def due_count(self, now_ms: int) -> int:
        """Count the keys that expire at or before `now_ms`."""
        blocks = self._blocks
        if not blocks:
            return 0
        first_alive = expiry_item(now_ms + 1, b"")
        if blocks[0][0] >= first_alive:
            return 0
        whole = bisect_left(self._bounds, first_alive)
        count = sum(map(len, blocks[:whole]))
        if whole < len(blocks):
            count += bisect_left(blocks[whole], first_alive)
        return count

    def take_due(self, now_ms: int, keys_max: int) -> list[bytes]:
        """Remove and return the first keys that are due, at most `keys_max`, perhaps fewer.

        The result is empty only when nothing is due.
        """
        blocks = self._blocks
        if not blocks:
            return []
        block, first_alive = blocks[0], expiry_item(now_ms + 1, b"")
        if block[0] >= first_alive:
            return []
        due = min(bisect_left(block, first_alive), keys_max)
        taken = [item[_TIME_BYTES:] for item in block[:due]]
        if due == len(block):
            del blocks[0], self._bounds[0]
        else:
            del block[:due]
        return taken

    def items(self) -> list[tuple[int, bytes]]:
        """Return all times and keys in order; for checks."""
        return [
            (int.from_bytes(item[:_TIME_BYTES], "big"), item[_TIME_BYTES:])
            for block in self._blocks
            for item in block
        ]

    def release_blocks(self) -> list[list[bytes]]:
        """Empty the index and hand over what it held, to be freed piece by piece."""
        blocks = self._blocks
        self._blocks = []
        self._bounds = []
        return blocks

    def _add_item(self, item: bytes) -> None:
        blocks = self._blocks
        if not blocks:
            blocks.append([item])
            self._bounds.append(item)
            return
        position = bisect_left(self._bounds, item)
        if position == len(blocks):
            position -= 1
            self._bounds[position] = item
        block = blocks[position]
        insort(block, item)
        if len(block) > BLOCK_ITEMS_MAX:
            self._split(position)

    def _split(self, position: int) -> None:
        block = self._blocks[position]
        middle = len(block) // 2
        self._blocks.insert(position + 1, block[middle:])
        del block[middle:]
        self._bounds.insert(position, block[-1])
