"""All open sessions, and how many of them may be served at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vaylix_server.metrics import Metrics

__all__ = ["Member", "SessionRegistry"]

# Connections beyond the limit that may be silent or wait for their refusal at a time.
TURNED_AWAY_MAX = 64
# What all connections without a login may make us hold: requests that are not whole or wait behind
# a login, and replies that are not read. One may send a frame of the largest size; hundreds of them
# would be gigabytes, for which nobody has to log in.
WAITING_BYTES_MAX = 32 * 1024 * 1024


class Member(Protocol):
    """What the registry needs of a session."""

    number: int

    def stop(self) -> None:
        """Take no further request; close once all that were taken are answered."""

    def end(self, reason: str) -> None:
        """Close behind the replies to all earlier requests; the reason is logged."""

    def abort(self) -> None:
        """Close at once."""


class SessionRegistry:
    """Counts sessions in and out. Used on the loop's thread only.

    A session is a member as soon as it is connected, but takes a slot only with its hello: who
    connects and says nothing keeps nobody out, and is dropped by the handshake timeout, or
    earlier when others come.
    """

    def __init__(self, *, slots: int, metrics: Metrics) -> None:
        self._slots = slots
        self._metrics = metrics
        self._members: set[Member] = set()
        self._admitted: set[Member] = set()
        # Those that have not said their hello, oldest first.
        self._silent: dict[Member, None] = {}
        # Those without a login of which something waits, and how many bytes of it.
        self._waiting: dict[Member, int] = {}
        self._waiting_bytes = 0
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._stopping = False

    @property
    def is_full(self) -> bool:
        """Whether no slot is free."""
        return len(self._admitted) >= self._slots

    def add(self, member: Member) -> None:
        """Take a new connection in; when far too many are waiting, the oldest of them must go."""
        self._metrics.connections_accepted += 1
        self._metrics.connections_active += 1
        member.number = self._metrics.connections_accepted
        self._members.add(member)
        self._silent[member] = None
        self._all_gone.clear()
        if self._stopping:
            member.abort()
        elif len(self._members) > self._slots + TURNED_AWAY_MAX:
            # Whoever has been silent for longest makes room, so that nobody can be kept out.
            oldest = next(iter(self._silent))
            del self._silent[oldest]
            oldest.abort()

    def admit(self, member: Member) -> None:
        """Give a slot to a connection that has said its hello."""
        assert not self.is_full
        self._silent.pop(member, None)
        self._admitted.add(member)

    def note_waiting(self, member: Member, size: int) -> None:
        """Note how many bytes of and for a connection without a login wait; 0 once it has one.

        When those of all of them together are too many, whoever has most must go.
        """
        self._waiting_bytes += size - self._waiting.pop(member, 0)
        if size:
            self._waiting[member] = size
        if self._waiting_bytes > WAITING_BYTES_MAX:
            greediest = max(self._waiting, key=self._waiting.__getitem__)
            # It is lost for certain, though that is noticed only after others have been read.
            self._waiting_bytes -= self._waiting.pop(greediest)
            greediest.end("turned out: too much waited without a login")
            greediest.abort()

    def remove(self, member: Member) -> None:
        """Let a connection go."""
        self.note_waiting(member, 0)
        self._metrics.connections_active -= 1
        self._metrics.connections_completed += 1
        self._members.discard(member)
        self._silent.pop(member, None)
        self._admitted.discard(member)
        if not self._members:
            self._all_gone.set()

    def begin_stop(self) -> None:
        """Ask all sessions to finish, and let nobody in any more."""
        self._stopping = True
        for member in list(self._members):
            member.stop()

    async def wait_until_empty(self, *, patience_seconds: float) -> None:
        """Return when all sessions have ended; abort those that have not after a while."""
        try:
            async with asyncio.timeout(patience_seconds):
                await self._all_gone.wait()
        except TimeoutError:
            for member in list(self._members):
                member.abort()
            await self._all_gone.wait()
