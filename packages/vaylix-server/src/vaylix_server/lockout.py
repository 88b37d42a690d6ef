"""Who may try to log in again, and when (server spec section 6, with its defects mended).

Two records are kept for an attempt: one for the user name together with the address it comes from
(without the port, or a new connection would be a new start), and one for the user name alone, with
three times the limit. Locks and counts are never touched by those who only look at them.

The table is bounded. When it is full, the record that was touched longest ago makes room; an
attacker who floods it with names only evicts what is older than the flood, and every eviction
costs a password verification first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

__all__ = ["LockoutPolicy", "LockoutTable"]

NAME_SCOPE_FACTOR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LockoutPolicy:
    """The limits; times in seconds."""

    window_seconds: int = 300
    failures_max: int = 5
    lockout_seconds: int = 900
    records_max: int = 65_536


@dataclass(slots=True)
class _Record:
    first_failure_ms: int
    failures: int = 0
    # Locked up to and including this time; 0 means not locked.
    locked_until_ms: int = 0


class LockoutTable:
    """Counts failed logins; times are Unix milliseconds and are passed in. Not thread safe."""

    def __init__(self, policy: LockoutPolicy) -> None:
        self._policy = policy
        self._records: OrderedDict[tuple[str, str], _Record] = OrderedDict()

    def is_locked(self, username: str, address: str, now_ms: int) -> bool:
        """Say whether an attempt must be refused unverified."""
        keys = _scopes(username, address)
        return any(self._is_active(self._records.get(key), now_ms) for key in keys)

    def record_failure(self, username: str, address: str, now_ms: int) -> bool:
        """Count a failed attempt; True when it has locked a record that was open."""
        limit = self._policy.failures_max
        by_address, by_name = _scopes(username, address)
        locked = self._count(by_address, limit, now_ms)
        locked_name = self._count(by_name, max(1, NAME_SCOPE_FACTOR * limit), now_ms)
        return locked or locked_name

    def record_success(self, username: str, address: str) -> None:
        """Forget the failures of this name from this address, and those of the name."""
        for key in _scopes(username, address):
            self._records.pop(key, None)

    def active_count(self, now_ms: int) -> int:
        """Return how many records are locked at `now_ms`."""
        return sum(self._is_active(record, now_ms) for record in self._records.values())

    def _count(self, key: tuple[str, str], limit: int, now_ms: int) -> bool:
        record = self._records.pop(key, None)
        window_ms = self._policy.window_seconds * 1000
        if record is None or now_ms - record.first_failure_ms > window_ms:
            record = _Record(first_failure_ms=now_ms)
        self._records[key] = record
        while len(self._records) > self._policy.records_max:
            self._records.popitem(last=False)
        record.failures += 1
        if record.failures < limit:
            return False
        record.locked_until_ms = now_ms + self._policy.lockout_seconds * 1000
        return True

    @staticmethod
    def _is_active(record: _Record | None, now_ms: int) -> bool:
        return record is not None and 0 < now_ms <= record.locked_until_ms


def _scopes(username: str, address: str) -> tuple[tuple[str, str], tuple[str, str]]:
    # No address is empty, so the scope of the bare name cannot collide with one.
    return (username, address or "unknown"), (username, "")
