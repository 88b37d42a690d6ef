"""Clients: one operation at a time each, with a timeout, and never the same one twice.

An operation that timed out may have happened or not; the client goes on with another. The history
holds what was asked, when, and what was answered; only that is checked for linearizability.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from vaylix_replication.errors import RefusedError
from vaylix_replication.testing.simulation.checks import TimeFloor
from vaylix_replication.testing.simulation.linearizability import Interval, is_linearizable
from vaylix_replication.testing.simulation.schedule import MILLISECOND

if TYPE_CHECKING:
    import random

    from vaylix_replication.testing.simulation.cluster import Simulation

__all__ = ["Client", "Operation", "OperationKind", "histories_are_linearizable"]

# Some clients turn to another node soon, some late; some only read. So there is somebody who
# still asks an old leader while somebody else has found the new one.
_TIMEOUTS_MS = (40, 100, 250)
_READ_SHARES = (0.2, 0.4, 1.0)
_THINK_US_MAX = 15 * MILLISECOND


class OperationKind(IntEnum):
    """What a client can ask for."""

    READ = 0
    WRITE = 1
    COMPARE_AND_SET = 2
    INCREMENT = 3


class Operation:
    """One request: what was asked, when, what was answered, when it first took effect."""

    __slots__ = (
        "answer",
        "applied_answer",
        "applied_at",
        "argument",
        "begin",
        "client",
        "end",
        "expected",
        "floor",
        "key",
        "kind",
        "number",
        "rank",
    )

    def __init__(self, number: int, client: Client, kind: OperationKind, key: int) -> None:
        self.number = number
        self.client = client
        self.kind = kind
        self.key = key
        # Distinct for every operation, so that a value tells who wrote it.
        self.argument = number * 1000
        self.expected = 0
        self.begin = client.simulation.schedule.now
        self.floor = client.simulation.checks.time.floor
        self.end: int | None = None
        self.answer = 0
        self.applied_at: int | None = None
        self.applied_answer = 0
        # The place among everything that was applied.
        self.rank = 0

    def step(self, state: int) -> int | None:
        """Return what the register holds afterwards, None if the answer contradicts `state`."""
        answer = self.answer if self.end is not None else self.applied_answer
        if self.kind is OperationKind.READ:
            return state if state == answer else None
        if self.kind is OperationKind.WRITE:
            return self.argument
        if self.kind is OperationKind.INCREMENT:
            return answer if state + 1 == answer else None
        if answer:
            return self.argument if state == self.expected else None
        return state if state != self.expected else None

    def __repr__(self) -> str:
        return (
            f"{self.kind.name} key {self.key} argument {self.argument} expected {self.expected} "
            f"answer {self.answer} from {self.begin} to {self.end} applied at {self.applied_at}"
        )


class Client:
    """Asks, waits, thinks, asks again."""

    def __init__(self, simulation: Simulation, source: random.Random) -> None:
        self.simulation = simulation
        self._random = source
        self._seen = dict.fromkeys(range(simulation.options.keys), 0)
        self._target = source.choice(sorted(simulation.processes))
        self._current: Operation | None = None
        self._timeout_us = source.choice(_TIMEOUTS_MS) * MILLISECOND
        self._read_share = source.choice(_READ_SHARES)
        self._think()

    def _think(self) -> None:
        self._current = None
        if self.simulation.clients_work:
            delay_us = int(self._random.random() * _THINK_US_MAX)
            self.simulation.schedule.after(delay_us, self._ask)

    def _ask(self) -> None:
        simulation, source = self.simulation, self._random
        process = simulation.processes[self._target]
        if not process.reachable or source.random() < 0.02:
            self._target = source.choice(sorted(simulation.processes))
            self._think()
            return
        key = source.randrange(simulation.options.keys)
        kind = self._choose_kind()
        operation = simulation.new_operation(self, kind, key)
        operation.expected = self._seen[key]
        self._current = operation
        try:
            process.request(operation)
        except RefusedError:
            self._give_up(operation)
            return
        simulation.schedule.after(self._timeout_us, self._time_out, operation)

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
        times = self.simulation.checks.time
        times.observed(operation.begin, operation.floor, TimeFloor(heard_ms, stamped_ms))
        operation.answer = answer
        operation.end = self.simulation.schedule.now
        if operation.kind is OperationKind.READ or operation.kind is OperationKind.INCREMENT:
            self._seen[operation.key] = answer
        self._think()

    def refused(self, operation: Operation) -> None:
        """Learn that an operation has certainly not happened."""
        if operation is self._current:
            self._give_up(operation)

    def _give_up(self, operation: Operation) -> None:
        process = self.simulation.processes[self._target]
        leader_id = process.raft.leader_id if process.alive else None
        if leader_id is None or leader_id == self._target:
            leader_id = self._random.choice(sorted(self.simulation.processes))
        self._target = leader_id
        self.simulation.forget_operation(operation)
        self._think()

    def _time_out(self, operation: Operation) -> None:
        if operation is self._current:
            self._target = self._random.choice(sorted(self.simulation.processes))
            self._think()


def histories_are_linearizable(operations: list[Operation], key: int) -> bool:
    """Check the history of one key.

    A write without an answer that never took effect anywhere is left out. One that did take effect
    must have done so before it was first applied.
    """
    intervals = []
    for operation in operations:
        if operation.key != key:
            continue
        end = operation.end if operation.end is not None else operation.applied_at
        if end is not None:
            intervals.append(Interval(operation.begin, end, operation.step, operation.rank))
    return is_linearizable(intervals)
