"""Keeping the garbage collector of Python out of the way of requests.

A collection looks at every item of every container in its generation, and what is in no cache costs
it most. The entries of the keyspace are nothing to it (see `vaylix_storage`), but what a command or
a connection holds for a while is: so the youngest generation is small, or each of its collections
would be a stall. The older ones must not meet the containers of a snapshot or a backup, which hold
a million items.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["CollectorPause", "settle_collector"]

# New containers, less those released, before the youngest generation is looked at.
_YOUNG_MAX = 1_000
# The same while containers may hold thousands of items, each of which is looked at then: 40 us for
# two thousand.
_LARGE_YOUNG_MAX = 50
# Such looks before the next generation has its turn, and for what has none.
_LOOKS_MAX = 100
_NEVER = 1_000_000_000


def settle_collector() -> None:
    """Keep the collector away from what lives as long as the server.

    What was loaded is frozen, and full collections do not start by themselves; sessions break
    their own cycles when they end, so that young collections suffice.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_MAX, _LOOKS_MAX, _NEVER)


class CollectorPause:
    """A context in which only the youngest generation is collected, but often; they may overlap.

    For work of a few seconds that holds large containers: each of them is looked at once, and few
    of them at a time. For one thread.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._thresholds = (0, 0, 0)

    def __enter__(self) -> Self:
        """Put the older generations off, and keep the youngest small."""
        if self._depth == 0:
            self._thresholds = gc.get_threshold()
            gc.set_threshold(_LARGE_YOUNG_MAX, _NEVER, _NEVER)
        self._depth += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Go on as before when the last context ends."""
        del kind, error, traceback
        self._depth -= 1
        if self._depth == 0:
            gc.set_threshold(*self._thresholds)
