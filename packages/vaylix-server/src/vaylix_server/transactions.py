"""The queue between MULTI and EXEC (commands spec section 7).

It holds commands that were checked when they came; EXEC logs and applies them as one. What it
holds is bounded in number by the settings and in bytes by what one log entry may carry, so an
EXEC that could not be logged is refused while it is queued, not when it is too late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaylix_storage.commands import SimpleCommand

__all__ = ["Transaction"]

# An entry of the log may have 16 MiB; what surrounds the payloads takes far less than one of them.
QUEUED_BYTES_MAX = 15 * 1024 * 1024


class Transaction:
    """One open transaction. Times are monotonic seconds."""

    __slots__ = ("_queue_max", "_started", "commands", "has_writes", "queued_bytes")

    def __init__(self, *, started: float, queue_max: int) -> None:
        self._started = started
        self._queue_max = queue_max
        self.queued_bytes = 0
        self.commands: list[SimpleCommand] = []
        self.has_writes = False

    def is_older_than(self, seconds: int, now: float) -> bool:
        """Say whether the lifetime is over; at exactly its end it is not."""
        return now - self._started > seconds

    def has_room_for(self, payload_bytes: int) -> bool:
        """Say whether one more command of that size fits. The MULTI marker takes one slot."""
        return (
            len(self.commands) + 1 < self._queue_max
            and self.queued_bytes + payload_bytes <= QUEUED_BYTES_MAX
        )

    def add(self, command: SimpleCommand, payload_bytes: int, *, is_write: bool) -> None:
        """Queue a command that fits."""
        assert self.has_room_for(payload_bytes)
        self.commands.append(command)
        self.queued_bytes += payload_bytes
        self.has_writes = self.has_writes or is_write
