"""Who may use a connection next: many calls together, or one transaction alone.

Rules:

1. At most `inside_max` calls are inside at once; whoever comes later waits.
2. While somebody owns the gate, nobody else enters. Calls that entered before stay inside: their
   requests are ahead on the wire, so the owner need not wait for their answers.
3. Strictly first come, first served, calls and owners in one queue. A stream of calls therefore
   cannot starve a transaction, nor the other way round.
4. A waiter that is cancelled just as its turn comes passes the turn on.
5. A closed gate lets nobody in; it tells the ones who wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_client.errors import ClientError

__all__ = ["Gate"]


class _Waiter:
    __slots__ = ("turn", "wants_to_own")

    def __init__(self, turn: asyncio.Future[None], *, wants_to_own: bool) -> None:
        self.turn = turn
        self.wants_to_own = wants_to_own


class Gate:
    """See the rules above. Belongs to one event loop; not thread-safe."""

    __slots__ = ("_inside", "_inside_max", "_owned", "_queue", "_refusal")

    def __init__(self, inside_max: int) -> None:
        assert inside_max >= 1
        self._inside_max = inside_max
        self._inside = 0
        self._owned = False
        # Ordered, and yet any of them can leave without a look at the others.
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        self._refusal: Callable[[], ClientError] | None = None

    def try_enter(self) -> bool:
        """Enter if that is possible without waiting. The fast path of every call."""
        if self._queue or self._owned or self._inside >= self._inside_max or self._refusal:
            return False
        self._inside += 1
        return True

    async def enter(self) -> None:
        """Enter, when the turn comes. Raise the error the gate was closed with."""
        if not self.try_enter():
            await self._wait(wants_to_own=False)

    def leave(self) -> None:
        """Undo one `enter`."""
        assert self._inside > 0, "left more often than entered"
        self._inside -= 1
        self._wake()

    async def own(self) -> None:
        """Own the gate, when the turn comes. Raise the error the gate was closed with."""
        if self._queue or self._owned or self._refusal:
            await self._wait(wants_to_own=True)
        else:
            self._owned = True

    def disown(self) -> None:
        """Undo `own`."""
        assert self._owned, "not owned"
        self._owned = False
        self._wake()

    def close(self, refusal: Callable[[], ClientError]) -> None:
        """Refuse everybody from now on, the ones who wait included, each with its own error."""
        self._refusal = refusal
        while self._queue:
            waiter, _ = self._queue.popitem(last=False)
            if not waiter.turn.done():
                waiter.turn.set_exception(refusal())

    async def _wait(self, *, wants_to_own: bool) -> None:
        if self._refusal is not None:
            raise self._refusal()
        waiter = _Waiter(asyncio.get_running_loop().create_future(), wants_to_own=wants_to_own)
        self._queue[waiter] = None
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled() and not waiter.turn.exception():
                self._give_back(waiter)
            elif waiter in self._queue:
                del self._queue[waiter]
                # Whoever stood behind may fit where this one did not: an owner in front holds
                # back calls that could enter.
                self._wake()
            raise

    def _give_back(self, waiter: _Waiter) -> None:
        if waiter.wants_to_own:
            self.disown()
        else:
            self.leave()

    def _wake(self) -> None:
        while self._queue and not self._owned:
            waiter = next(iter(self._queue))
            if not waiter.wants_to_own and self._inside >= self._inside_max:
                return
            del self._queue[waiter]
            if waiter.turn.done():
                continue
            if waiter.wants_to_own:
                self._owned = True
            else:
                self._inside += 1
            waiter.turn.set_result(None)
