"""The result of a call that was queued in a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from vaylix_client._call import Call
    from vaylix_client.errors import ClientError
    from vaylix_protocol import Reply

__all__ = ["Pending"]

T_co = TypeVar("T_co", covariant=True)


class Pending(Generic[T_co]):
    """Where the result of a queued call appears once its batch has run."""

    __slots__ = ("_outcome", "call")

    def __init__(self, call: Call[T_co]) -> None:
        self.call = call
        self._outcome: Reply | ClientError | None = None

    def result(self) -> T_co:
        """Return the result, or raise the error of this call.

        Raise `RuntimeError` while the batch has not run, or when it was dropped or interrupted;
        one that was interrupted may have been executed.
        """
        if self._outcome is None:
            raise RuntimeError("the batch of this call has not run to its end")
        return self.call.result(self._outcome)

    @property
    def is_settled(self) -> bool:
        """Whether the outcome is known."""
        return self._outcome is not None

    def settle(self, outcome: Reply | ClientError) -> None:
        """Take the outcome; done once, by the batch."""
        assert self._outcome is None, "settled twice"
        self._outcome = outcome
