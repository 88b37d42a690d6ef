"""Pipelines and transactions: calls collected first, executed together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from vaylix_client._admin_commands import AdminCommands
from vaylix_client._command import BatchExecutor
from vaylix_client._data_commands import DataCommands
from vaylix_client._pending import Pending
from vaylix_client._transaction import TransactionPlan
from vaylix_client.errors import ClientError, InvalidCallError
from vaylix_protocol import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaylix_client._call import Call
    from vaylix_client._session import Outcome
    from vaylix_protocol import Reply

__all__ = ["BATCH_CALLS_MAX", "Batch", "PipelineCommands", "TransactionCommands"]

T = TypeVar("T")

# Far more than a server queues in a transaction by default (127), and few enough to stay within
# what the codec allows to be unanswered (65 536) together with the calls of others.
BATCH_CALLS_MAX: Final = 16_384


class Batch(BatchExecutor):
    """Collects calls. Methods of commands give back a `Pending` result each."""

    __slots__ = ("_calls", "_is_closed")

    def __init__(self) -> None:
        self._calls: list[Pending[object]] = []
        self._is_closed = False

    def execute(self, call: Call[T]) -> Pending[T]:
        """Queue a call. Raise `InvalidCallError` for one more than `BATCH_CALLS_MAX`."""
        if self._is_closed:
            raise RuntimeError("the block of this batch has ended")
        if len(self._calls) >= BATCH_CALLS_MAX:
            why = f"more than {BATCH_CALLS_MAX} calls in one batch"
            raise InvalidCallError.of(ErrorCode.SRV_013, why)
        pending = Pending(call)
        self._calls.append(pending)
        return pending

    @property
    def results(self) -> list[object]:
        """All results in order. Raise the error of the first call that has none."""
        return [pending.result() for pending in self._calls]

    def close(self) -> tuple[Call[object], ...]:
        """End the block: take no more calls, and return the ones taken."""
        self._is_closed = True
        return tuple(pending.call for pending in self._calls)

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Hand every call its outcome."""
        for pending, outcome in zip(self._calls, outcomes, strict=True):
            pending.settle(outcome)

    def settle_rest(self, error: ClientError) -> None:
        """Hand every call that has no outcome the error that stopped the batch."""
        for pending in self._calls:
            if not pending.is_settled:
                pending.settle(error)

    def raise_first_error(self) -> None:
        """Raise the error of the first call that has one."""
        for pending in self._calls:
            pending.result()


class PipelineCommands(Batch, DataCommands, AdminCommands):
    """A batch of independent calls: any command."""

    __slots__ = ()


class TransactionCommands(Batch, DataCommands):
    """A batch that runs as one: data commands only, others cannot be queued (SRV-016)."""

    __slots__ = ()

    def plan(self) -> TransactionPlan | None:
        """End the block, and return how to run its calls; `None` when there are none."""
        calls = self.close()
        return TransactionPlan(tuple(call.command for call in calls)) if calls else None

    def take(self, outcome: tuple[Reply, ...] | ClientError) -> None:
        """Hand every call its reply, or raise the error because of which there are none."""
        if isinstance(outcome, ClientError):
            raise outcome
        self.settle(outcome)
