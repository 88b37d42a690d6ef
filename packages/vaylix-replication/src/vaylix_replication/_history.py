"""A value that log entries change: effective when appended, undone when truncated."""

from __future__ import annotations

from bisect import bisect_right
from typing import Generic, TypeVar

__all__ = ["History"]

Value = TypeVar("Value")


class History(Generic[Value]):
    """Which value holds at which index of the log.

    Always: `_indexes` ascend strictly, there is at least one value, and the first one is that of
    the snapshot the log stands on.
    """

    __slots__ = ("_indexes", "_values")

    def __init__(self, base_index: int, value: Value) -> None:
        self._indexes = [base_index]
        self._values = [value]

    @property
    def latest(self) -> Value:
        """The value at the end of the log, committed or not."""
        return self._values[-1]

    @property
    def latest_index(self) -> int:
        """The index of the entry that made the latest value."""
        return self._indexes[-1]

    def at(self, index: int) -> Value:
        """Return the value as of `index`, which is not before the base."""
        position = bisect_right(self._indexes, index) - 1
        assert position >= 0
        return self._values[position]

    def append(self, index: int, value: Value) -> None:
        """Let `value` hold from `index` on."""
        assert index > self._indexes[-1]
        self._indexes.append(index)
        self._values.append(value)

    def truncate_after(self, index: int) -> None:
        """Forget what entries behind `index` have made."""
        keep = bisect_right(self._indexes, index)
        assert keep >= 1
        del self._indexes[keep:], self._values[keep:]

    def compact(self, index: int) -> None:
        """Make the value as of `index` the base."""
        first = bisect_right(self._indexes, index) - 1
        assert first >= 0
        del self._indexes[:first], self._values[:first]

    def after(self, index: int) -> list[tuple[int, Value]]:
        """Return the changes behind `index`, in order."""
        first = bisect_right(self._indexes, index)
        return list(zip(self._indexes[first:], self._values[first:], strict=True))
