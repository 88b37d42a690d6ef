"""The state machine that a simulated log drives: some registers, and a digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vaylix_replication.testing.simulation.checks import ViolationError
from vaylix_replication.testing.simulation.history import Operation, OperationKind

if TYPE_CHECKING:
    from vaylix_replication import Batch

__all__ = ["Machine"]

_DIGEST_BITS = (1 << 61) - 1


class Machine:
    """The state machine: registers, and a digest of everything that has led to them."""

    __slots__ = ("digest", "time_ms", "values")

    def __init__(self, data: bytes | None = None) -> None:
        self.values: dict[int, int] = {}
        self.digest = self.time_ms = 0
        if data is not None:
            self.digest, self.time_ms, self.values = msgspec.msgpack.decode(
                data, type=tuple[int, int, dict[int, int]]
            )

    def snapshot(self) -> bytes:
        """Return the whole state."""
        return msgspec.msgpack.encode((self.digest, self.time_ms, self.values))

    def take(self, batch: Batch) -> None:
        """Note a batch of any kind."""
        self.digest = (self.digest * 1_000_003 + batch.checksum + 1) & _DIGEST_BITS
        if batch.timestamp_ms < self.time_ms:
            raise ViolationError("time never falls", f"{batch.timestamp_ms} at {batch.last_index}")
        self.time_ms = batch.timestamp_ms

    def apply(self, operation: Operation) -> int:
        """Carry out one operation and return the answer."""
        value = self.values.get(operation.key, 0)
        if operation.kind is OperationKind.INCREMENT:
            self.values[operation.key] = value + 1
            return value + 1
        if operation.kind is OperationKind.COMPARE_AND_SET and value != operation.expected:
            return 0
        self.values[operation.key] = operation.argument
        return 1
