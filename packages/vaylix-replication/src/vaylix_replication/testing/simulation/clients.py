"""Clients: one operation at a time each, with a timeout, and never the same one twice.

An operation that timed out may have happened or not; the client goes on with another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_replication.errors import RefusedError
from vaylix_replication.testing.simulation.checks import TimeFloor
from vaylix_replication.testing.simulation.history import Operation, OperationKind
from vaylix_replication.testing.simulation.schedule import MILLISECOND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vaylix_replication.testing.simulation.process import Process
    from vaylix_replication.testing.simulation.world import World

__all__ = ["Client"]

# Some clients turn to another node soon, some late; some only read. So there is somebody who
# still asks an old leader while somebody else has found the new one.
_TIMEOUTS_MS = (40, 100, 250)
_READ_SHARES = (0.2, 0.4, 1.0)
_THINK_US_MAX = 15 * MILLISECOND


class Client:
    """Asks, waits, thinks, asks again."""

    def __init__(self, world: World, processes: Mapping[str, Process], number: int) -> None:
        self._world = world
        self._processes = processes
        self._random = source = world.source(f"client {number}")
        self.works = True
        self._seen = dict.fromkeys(range(world.options.keys), 0)
        self._target = source.choice(sorted(processes))
        self._current: Operation | None = None
        # What had been observed of time when the current operation began.
        self._floor = TimeFloor()
        self._timeout_us = source.choice(_TIMEOUTS_MS) * MILLISECOND
        self._read_share = source.choice(_READ_SHARES)
        self._think()

    def _think(self) -> None:
        self._current = None
        if self.works:
            delay_us = int(self._random.random() * _THINK_US_MAX)
            self._world.schedule.after(delay_us, self._ask)

    def _ask(self) -> None:
        world, source = self._world, self._random
        process = self._processes[self._target]
        if not process.reachable or source.random() < 0.02:
            self._target = source.choice(sorted(self._processes))
            self._think()
            return
        key = source.randrange(world.options.keys)
        kind = self._choose_kind()
        operation = world.history.begin(self, kind, key, world.schedule.now)
        operation.expected = self._seen[key]
        self._floor = world.checks.time.floor
        self._current = operation
        try:
            process.request(operation)
        except RefusedError:
            self._give_up(operation)
            return
        world.schedule.after(self._timeout_us, self._time_out, operation)

    def _choose_kind(self) -> OperationKind:
        if self._random.random() < self._read_share:
            return OperationKind.READ
        return self._random.choice(
            (
                OperationKind.WRITE,
                OperationKind.WRITE,
                OperationKind.COMPARE_AND_SET,
                OperationKind.INCREMENT,
            )
        )

    def answered(self, operation: Operation, answer: int, heard_ms: int, stamped_ms: int) -> None:
        """Take an answer, unless it comes too late.

        It is as of the later of two times: one that a majority has heard, and a stamp in the log.
        """
        if operation is not self._current:
            return
        times = self._world.checks.time
        times.observed(operation.begin, self._floor, TimeFloor(heard_ms, stamped_ms))
        operation.answer = answer
        operation.end = self._world.schedule.now
        if operation.kind is OperationKind.READ or operation.kind is OperationKind.INCREMENT:
            self._seen[operation.key] = answer
        self._think()

    def refused(self, operation: Operation) -> None:
        """Learn that an operation has certainly not happened."""
        if operation is self._current:
            self._give_up(operation)

    def _give_up(self, operation: Operation) -> None:
        process = self._processes[self._target]
        leader_id = process.raft.leader_id if process.alive else None
        if leader_id is None or leader_id == self._target:
            leader_id = self._random.choice(sorted(self._processes))
        self._target = leader_id
        self._world.history.forget(operation)
        self._think()

    def _time_out(self, operation: Operation) -> None:
        if operation is self._current:
            self._target = self._random.choice(sorted(self._processes))
            self._think()
