"""Search for an order of all operations that explains every answer (Wing and Gong, Lowe).

Each key is a register of its own, so each is checked alone. The search tries, at every step, all
operations that may come next: those that began before any remaining one has ended. What it has
tried before, the same operations done and the same value left, it does not try again. Two things
keep it short:

- An operation that may come next and leaves the value as it is comes next at once, and nothing
  else is tried: in any order that works it can be moved to this place.
- The others are tried in the order of their `rank`, a guess of the caller. A log is such a guess,
  so a history that is right takes no search at all, however many operations overlap. The search
  is given up after a bound, and then counts as in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

__all__ = ["Interval", "is_linearizable"]

State = int
_STATES_MAX = 200_000


class Interval(msgspec.Struct, frozen=True):
    """An operation: when it began and ended, what it does to the register, and a guess."""

    begin: int
    end: int
    step: Callable[[State], State | None]
    rank: int = 0


def is_linearizable(operations: Sequence[Interval], initial: State = 0) -> bool:
    """Tell whether some order, compatible with the times, explains every answer."""
    ordered = sorted(operations, key=lambda operation: operation.begin)
    everything = (1 << len(ordered)) - 1
    # (done as bits, state, first operation that is not done)
    stack = [(0, initial, 0)]
    seen = {(0, initial)}
    while stack and len(seen) < _STATES_MAX:
        done, state, first = stack.pop()
        if done == everything:
            return True
        for done_next, state_next in _successors(ordered, done, state, first):
            if (done_next, state_next) not in seen:
                seen.add((done_next, state_next))
                first_next = first
                while done_next >> first_next & 1:
                    first_next += 1
                stack.append((done_next, state_next, first_next))
    return False


def _successors(
    ordered: Sequence[Interval], done: int, state: State, first: int
) -> list[tuple[int, State]]:
    """Return what one more operation can lead to, the best guess last."""
    result = []
    horizon = None
    for position in range(first, len(ordered)):
        if done >> position & 1:
            continue
        operation = ordered[position]
        if horizon is not None and operation.begin > horizon:
            break
        horizon = operation.end if horizon is None else min(horizon, operation.end)
        outcome = operation.step(state)
        if outcome == state:
            return [(done | 1 << position, state)]
        if outcome is not None:
            result.append((operation.rank, done | 1 << position, outcome))
    result.sort(reverse=True)
    return [(done_next, outcome) for _, done_next, outcome in result]
