"""Applying entries of the old log, with the clock of the old node.

0.9 dropped keys whose time was up before each command and never wrote that down, and on a restart
it applied all entries without it, also those that the snapshot holds already. So its restarts
disagreed with what it had answered (weaknesses 1 to 3). Here the clock is that of the entries:
before one is applied, the keys go that were dead when it was made (storage section 16.2, step 7).
"""

from __future__ import annotations

import heapq
import re
from typing import TYPE_CHECKING, Final

from vaylix_storage._entry import Entry as StoredEntry
from vaylix_storage.commands import U64_MAX
from vaylix_storage.errors import InvalidIntegerError, NumericOverflowError
from vaylix_storage.format3._snapshot import stored_expiry

if TYPE_CHECKING:
    from vaylix_storage.format3._entries import AddOperation, OperationVariant
    from vaylix_storage.format3._log import Record

__all__ = ["Replay"]

# What counting takes a key to hold that does not exist.
_NOTHING: Final = StoredEntry(b"0", 0, 0)
_DECIMAL: Final = re.compile(rb"([+-]?)0*([0-9]{1,19})")
_I64_MAX: Final = 2**63 - 1
_I64_MIN: Final = -(2**63)
_QUOTED_BYTES_MAX: Final = 64
_REMEDY: Final = "restore a logical backup into a new directory"


class Replay:
    """A state that entries are applied to. `entries` may be taken over by the caller."""

    def __init__(self, entries: dict[bytes, StoredEntry]) -> None:
        self.entries = entries
        # When keys are due; what was replaced since stays in the heap and is passed over.
        self._due = [
            (entry.expires_at_ms, key) for key, entry in entries.items() if entry.expires_at_ms
        ]
        heapq.heapify(self._due)

    def apply(self, record: Record) -> None:
        """Apply one entry; raises InvalidIntegerError and NumericOverflowError."""
        self._drop_dead(record.entry.created_at_ms)
        for operation in record.entry.operations:
            if operation == "Clear":
                self.entries.clear()
                self._due.clear()
            else:
                self._apply(operation, record)

    def _apply(self, operation: OperationVariant, record: Record) -> None:
        entries = self.entries
        if operation.Set:
            new = operation.Set
            entries[new.key.encode()] = StoredEntry(new.value, new.version, 0)
        elif operation.Delete:
            entries.pop(operation.Delete.key.encode(), None)
        elif operation.Expire:
            self._expire(operation.Expire.key.encode(), operation.Expire.expires_at_ms)
        elif operation.Persist:
            key = operation.Persist.key.encode()
            entry = entries.get(key)
            if entry is not None:
                entries[key] = StoredEntry(entry.value, entry.version, 0)
        elif operation.CheckInteger:
            self._add(operation.CheckInteger, record)

    def _drop_dead(self, now_ms: int) -> None:
        due = self._due
        while due and due[0][0] <= now_ms:
            expires_at_ms, key = heapq.heappop(due)
            entry = self.entries.get(key)
            if entry is not None and entry.expires_at_ms == expires_at_ms:
                del self.entries[key]

    def _expire(self, key: bytes, expires_at_ms: int) -> None:
        entry = self.entries.get(key)
        if entry is not None:
            expires_at_ms = stored_expiry(expires_at_ms)
            self.entries[key] = StoredEntry(entry.value, entry.version, expires_at_ms)
            heapq.heappush(self._due, (expires_at_ms, key))

    def _add(self, operation: AddOperation, record: Record) -> None:
        key = operation.key.encode()
        entry = self.entries.get(key, _NOTHING)
        match = _DECIMAL.fullmatch(entry.value)
        number = None if match is None else int(match[1] + match[2])
        if number is None or not _I64_MIN <= number <= _I64_MAX:
            raise InvalidIntegerError(
                f"entry {record.entry.sequence} counts with {key!r}, which holds "
                f"{entry.value[:_QUOTED_BYTES_MAX]!r}",
                path=record.path,
                offset=record.offset,
                remedy=_REMEDY,
            )
        number += operation.delta
        if not _I64_MIN <= number <= _I64_MAX:
            raise NumericOverflowError(
                f"entry {record.entry.sequence} counts {key!r} beyond 64 bits",
                path=record.path,
                offset=record.offset,
                remedy=_REMEDY,
            )
        self.entries[key] = StoredEntry(b"%d" % number, min(entry.version + 1, U64_MAX), 0)
