"""Keys in the order in which they expire.

A sorted list kept in blocks of bounded size. A heap would be smaller code, but it can neither
count the keys that are due without popping them nor forget a key whose time to live changed. Here
adding and removing cost two binary searches and a short move, counting what is due costs one step
per block, and nothing ever costs a pass over all keys, not even a million keys due at once.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final, TypeAlias

__all__ = ["BLOCK_ITEMS_MAX", "ExpiryIndex"]

BLOCK_ITEMS_MAX: Final = 512

# Absolute expiry in ms, then the key: tuples sort in the order of expiry.
Item: TypeAlias = tuple[int, bytes]


class ExpiryIndex:
    """A set of (expires_at_ms, key), ordered.

    Every block is sorted and not empty. The bound of a block is at or behind all of its items and
    before all items of the next block; removing an item need not lower it.
    """

    __slots__ = ("_blocks", "_bounds")

    def __init__(self) -> None:
        self._blocks: list[list[Item]] = []
        self._bounds: list[Item] = []

    def add(self, expires_at_ms: int, key: bytes) -> None:
        """Add an item that is not there yet."""
        item = (expires_at_ms, key)
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

    def add_many(self, items: list[Item]) -> None:
        """Add items that are not there yet; sorts the list. Into an empty index that is quick."""
        if self._blocks:
            for item in items:
                self.add(*item)
            return
        items.sort()
        step = BLOCK_ITEMS_MAX // 2
        self._blocks = [items[start : start + step] for start in range(0, len(items), step)]
        self._bounds = [block[-1] for block in self._blocks]

    def remove(self, expires_at_ms: int, key: bytes) -> None:
        """Remove an item that is there."""
        item = (expires_at_ms, key)
        position = bisect_left(self._bounds, item)
        block = self._blocks[position]
        place = bisect_left(block, item)
        assert block[place] == item
        del block[place]
        if not block:
            del self._blocks[position], self._bounds[position]

    def due_count(self, now_ms: int) -> int:
        """Count the items that expire at or before `now_ms`."""
        blocks = self._blocks
        if not blocks or blocks[0][0][0] > now_ms:
            return 0
        first_alive = (now_ms + 1, b"")
        whole = bisect_left(self._bounds, first_alive)
        count = sum(map(len, blocks[:whole]))
        if whole < len(blocks):
            count += bisect_left(blocks[whole], first_alive)
        return count

    def take_due(self, now_ms: int, items_max: int) -> list[Item]:
        """Remove and return the first items that are due, at most `items_max`, perhaps fewer.

        The result is empty only when nothing is due.
        """
        blocks = self._blocks
        if not blocks or blocks[0][0][0] > now_ms:
            return []
        block = blocks[0]
        due = min(bisect_left(block, (now_ms + 1, b"")), items_max)
        taken = block[:due]
        if due == len(block):
            del blocks[0], self._bounds[0]
        else:
            del block[:due]
        return taken

    def items(self) -> list[Item]:
        """Return all items in order; for checks."""
        return [item for block in self._blocks for item in block]

    def release_blocks(self) -> list[list[Item]]:
        """Empty the index and hand over what it held, to be freed piece by piece."""
        blocks = self._blocks
        self._blocks = []
        self._bounds = []
        return blocks

    def _split(self, position: int) -> None:
        block = self._blocks[position]
        middle = len(block) // 2
        self._blocks.insert(position + 1, block[middle:])
        del block[middle:]
        self._bounds.insert(position, block[-1])
