"""The history: what was asked, when, and what was answered. Only that must be linearizable."""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

import msgspec

from vaylix_replication.testing.simulation.linearizability import Interval, is_linearizable

__all__ = ["Caller", "History", "Operation", "OperationKind"]


class Caller(Protocol):
    """Who waits for an answer."""

    def answered(self, operation: Operation, answer: int, heard_ms: int, stamped_ms: int) -> None:
        """Take an answer as of two times: one that a majority has heard, a stamp in the log."""

    def refused(self, operation: Operation) -> None:
        """Learn that an operation has certainly not happened."""


class OperationKind(IntEnum):
    """What a client can ask for."""

    READ = 0
    WRITE = 1
    COMPARE_AND_SET = 2
    INCREMENT = 3


class Operation(msgspec.Struct, eq=False):
    """One request: what was asked, when, what was answered, when it first took effect."""

    number: int
    caller: Caller
    kind: OperationKind
    key: int
    begin: int
    expected: int = 0
    end: int | None = None
    answer: int = 0
    applied_at: int | None = None
    applied_answer: int = 0
    # The place among everything that was applied.
    rank: int = 0

    @property
    def argument(self) -> int:
        """What it writes: distinct for every operation, so that a value tells who wrote it."""
        return self.number * 1000

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


class History:
    """All operations, except those that have certainly not happened."""

    def __init__(self) -> None:
        self.operations: dict[int, Operation] = {}
        self._begun = 0

    def begin(self, caller: Caller, kind: OperationKind, key: int, now: int) -> Operation:
        """Note what is asked for."""
        self._begun += 1
        operation = Operation(self._begun, caller, kind, key, now)
        self.operations[operation.number] = operation
        return operation

    def forget(self, operation: Operation) -> None:
        """Take out an operation that has certainly not happened."""
        del self.operations[operation.number]

    def is_linearizable(self, key: int) -> bool:
        """Check the history of one key.

        A write without an answer that never took effect anywhere is left out. One that did take
        effect must have done so before it was first applied.
        """
        intervals = []
        for operation in self.operations.values():
            if operation.key != key:
                continue
            end = operation.end if operation.end is not None else operation.applied_at
            if end is not None:
                intervals.append(Interval(operation.begin, end, operation.step, operation.rank))
        return is_linearizable(intervals)
