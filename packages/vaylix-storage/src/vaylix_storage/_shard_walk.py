"""A consistent walk over a table that goes on changing: before-images, entry by entry.

The walk starts with a list of references to the shards as they are. Before the table changes an
entry of a shard that has not been passed, it notes what the entry was; a table that is cleared goes
on with new shards and leaves the old ones to the walk. When the walk comes to a shard, it puts the
noted entries back into a copy. So a write costs one look more, beginning costs the same for every
number of keys, and what is held is what was overwritten. (Copying a shard before its first change
would cost the first writes 40 us each at a million keys, since the items are in no cache.)

What the walk has passed leaves its list at once: nothing is held longer than it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_storage._entry import Before, Shard

__all__ = ["ShardWalk"]


class ShardWalk:
    """What a table held when the walk began, dead entries included; `Table.begin_walk` makes one.

    To be used by the thread that changes the table. Close it when it is no longer wanted: until
    then each write does a little more work. Coming to the end closes it, too.
    """

    __slots__ = ("_before", "_end", "_view", "shard_index")

    def __init__(
        self, view: list[Shard | None], before: dict[int, Before], end: Callable[[], None]
    ) -> None:
        # Tells the table that the walk is over; None once it has been told.
        self._end: Callable[[], None] | None = end
        self._view = view
        self._before = before
        # Number of the shard that was returned last.
        self.shard_index = -1

    def next_shard(self) -> Shard | None:
        """Return the next shard that is not empty, as it was at the beginning; None at the end.

        It may be the live one: use it before anything else changes the table, and do not change it.
        """
        if self._end is None:
            return None
        view = self._view
        for shard_index in range(self.shard_index + 1, len(view)):
            shard = view[shard_index]
            view[shard_index] = None
            assert shard is not None
            before = self._before.pop(shard_index, None)
            if before is not None:
                shard = _as_it_was(shard, before)
            if shard:
                self.shard_index = shard_index
                return shard
        self.close()
        return None

    def close(self) -> None:
        """Let go of everything. Allowed at any time, any number of times."""
        # In this order, so that an interrupt between the two cannot make it end twice.
        end, self._end = self._end, None
        if end is not None:
            end()


def _as_it_was(shard: Shard, before: Before) -> Shard:
    """Return a copy of a shard without what has changed since the walk began."""
    shard = shard.copy()
    for key, entry in before.items():
        if entry is None:
            shard.pop(key, None)
        else:
            shard[key] = entry
    return shard
