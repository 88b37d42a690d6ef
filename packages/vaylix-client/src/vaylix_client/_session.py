"""The life of requests on one connection, without any IO: pipelining, timeouts, interruptions.

A driver (asyncio or a blocking socket) submits commands and gets a ticket for each. It asks for
bytes to send when it is able to send, hands over the bytes that arrive, and collects what has been
settled: pairs of the driver's own waiter and an outcome, a reply or an error.

# Theory

A ticket is WAITING, then SENT, then SETTLED. It is encoded only on the way from WAITING to SENT,
so a call that is given up while it waits leaves no trace on the wire.

The server answers in request order and echoes ids (VTP2 section 10). A ticket that was SENT stays
in the queue of unanswered ones until *its* reply comes, whether anybody still waits for it or not.
A caller that gave up (timeout, cancellation) only marks it; its late reply is then matched to it
and dropped. That is why nothing can shift replies: no path removes a sent ticket from the queue
except its own reply and the end of the connection. A reply with another id ends the connection
(CLI-006).

What an interruption means follows from the state alone, never from guesses about the network:
WAITING is "not sent", SENT is "outcome unknown". Handing bytes to the kernel counts as sent.

# What is not here

Time: the driver says when a ticket was abandoned, and decides how long it waits for late replies.
Admission: how many calls may be in flight is the driver's business, and so is who owns the
connection while a transaction runs.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from vaylix_client.errors import (
    CallTimeoutError,
    ClientError,
    ConnectError,
    NotSentError,
    NotSentTimeoutError,
    OutcomeUnknownError,
    in_transport,
    unsendable,
)
from vaylix_protocol import (
    ConnectionBroken,
    ConnectionClosed,
    ErrorCode,
    Reply,
    Response,
    ServerHello,
    Status,
)

if TYPE_CHECKING:
    from vaylix_client._ids import RequestIds
    from vaylix_protocol import Command, Connection, Event, RemoteProtocolError

__all__ = ["Cause", "Outcome", "Session", "Ticket", "TicketState"]

W = TypeVar("W")

Outcome: TypeAlias = Reply | ClientError


class TicketState(Enum):
    """Where a request is."""

    WAITING = "waiting"
    SENT = "sent"
    SETTLED = "settled"


class Ticket(Generic[W]):
    """One request on its way. Made by `Session.submit`."""

    __slots__ = ("abandoned_at", "command", "reads_only", "request_id", "state", "waiter")

    def __init__(self, waiter: W, command: Command, *, reads_only: bool) -> None:
        self.waiter = waiter
        self.command = command
        self.reads_only = reads_only
        self.state = TicketState.WAITING
        self.request_id = b""
        self.abandoned_at: float | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """Why requests were interrupted: code, name and message of the error that did it."""

    code: str
    name: str
    message: str
    timed_out: bool = False

    @classmethod
    def violation(cls, error: RemoteProtocolError) -> Cause:
        """Say that the server broke the protocol, or that a message was cut short."""
        code = error.error_code
        if code is ErrorCode.CLI_006:
            return cls(code.code, code.title, error.message)
        return cls(code.code, code.title, in_transport(error.message))

    @classmethod
    def rejection(cls, hello: ServerHello) -> Cause:
        """Say what the server gave as its reason to turn this client away."""
        code = ErrorCode.TRN_014
        reason = code.message(detail="server rejected startup")
        if hello.error_code is None:
            return cls(code.code, code.title, in_transport(reason))
        name = hello.error_name or code.title
        return cls(hello.error_code, name, f"server rejected startup: {hello.error_message}")

    @classmethod
    def end_of_stream(cls) -> Cause:
        """Say that the server closed the connection between two messages."""
        code = ErrorCode.TRN_007
        return cls(code.code, code.title, in_transport(code.message()))

    @classmethod
    def io_error(cls, text: str) -> Cause:
        """Say that the socket failed, or that this side gave the connection up."""
        code = ErrorCode.TRN_013
        return cls(code.code, code.title, in_transport(code.message(err=text)))

    @classmethod
    def timeout(cls, seconds: float) -> Cause:
        """Say that the time of the call ran out."""
        code = ErrorCode.TRN_013
        message = in_transport(code.message(err=f"no reply within {seconds:g} s"))
        return cls(code.code, code.title, message, timed_out=True)

    def not_connected(self) -> ConnectError:
        """Return the error for a connection that ended before it was ready."""
        return ConnectError(self.code, self.name, self.message, retryable=True)

    def not_sent(self) -> NotSentError:
        """Return the error for a request that never left."""
        error_class = NotSentTimeoutError if self.timed_out else NotSentError
        return error_class(self.code, self.name, f"{self.message} (not sent)", retryable=True)

    def outcome_unknown(self, *, reads_only: bool) -> OutcomeUnknownError:
        """Return the error for a request that left and was not answered."""
        error_class = CallTimeoutError if self.timed_out else OutcomeUnknownError
        return error_class(
            self.code, self.name, f"{self.message} (outcome unknown)", retryable=reads_only
        )


class Session(Generic[W]):
    """See the top of this module. `W` is whatever the driver wakes when a request is settled.

    Not thread-safe. Nothing here raises on what the server sends.
    """

    __slots__ = (
        "_abandoned",
        "_connection",
        "_ids",
        "_sent",
        "_settled",
        "_waiting",
        "is_ready",
        "lost",
    )

    def __init__(self, connection: Connection, ids: RequestIds) -> None:
        self._connection = connection
        self._ids = ids
        # Ordered, and yet any of them can be withdrawn without a look at the others.
        self._waiting: OrderedDict[Ticket[W], None] = OrderedDict()
        self._sent: deque[Ticket[W]] = deque()
        # In the order in which they were given up. One that has its reply is dropped when it comes
        # to the front. No request sent after the one in front can have its reply by then, so there
        # are never more of them here than were sent at the same time.
        self._abandoned: deque[Ticket[W]] = deque()
        self._settled: list[tuple[W, Outcome]] = []
        self.is_ready = False
        """Whether the server's hello has come."""
        self.lost: Cause | None = None
        """Why the connection is over, or `None` while it is not."""

    @property
    def unanswered(self) -> int:
        """How many requests wait to be sent or to be answered."""
        return len(self._waiting) + len(self._sent)

    @property
    def has_waiting(self) -> bool:
        """Whether `take_output` has something to encode."""
        return bool(self._waiting)

    def hello(self) -> bytes:
        """Return the first bytes to send."""
        return self._connection.hello()

    def submit(self, waiter: W, command: Command, *, reads_only: bool) -> Ticket[W]:
        """Queue a request. On a connection that is over it is settled at once, as not sent."""
        ticket = Ticket(waiter, command, reads_only=reads_only)
        if self.lost is None:
            self._waiting[ticket] = None
        else:
            self._settle(ticket, self.lost.not_sent())
        return ticket

    def take_output(self, bytes_max: int) -> bytes:
        """Encode waiting requests, in order, and count them as sent.

        Stops after the request that reaches `bytes_max`; `has_waiting` tells whether more wait.
        A request that cannot be encoded is settled with `InvalidCallError`, whatever is wrong with
        it: the others are on their way, and their bytes must leave.
        """
        assert self.is_ready, "requests before the hello"
        chunks: list[bytes] = []
        taken_bytes = 0
        while self._waiting and taken_bytes < bytes_max:
            ticket, _ = self._waiting.popitem(last=False)
            ticket.request_id = self._ids.next_id()
            try:
                chunk = self._connection.send_request(ticket.request_id, ticket.command)
            except Exception as error:  # noqa: BLE001 - see above
                self._settle(ticket, unsendable(error))
                continue
            ticket.state = TicketState.SENT
            self._sent.append(ticket)
            chunks.append(chunk)
            taken_bytes += len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the server."""
        if self.lost is not None:
            return
        self._take(self._connection.receive_data(data))

    def receive_eof(self) -> None:
        """Take the end of the server's bytes."""
        if self.lost is not None:
            return
        self._take(self._connection.receive_eof())
        assert self.lost is not None, "the end of input ends the connection"

    def lose(self, cause: Cause) -> None:
        """End the connection and settle every request by what its state says."""
        if self.lost is not None:
            return
        self.lost = cause
        while self._sent:
            ticket = self._sent.popleft()
            self._settle(ticket, cause.outcome_unknown(reads_only=ticket.reads_only))
        while self._waiting:
            ticket, _ = self._waiting.popitem(last=False)
            self._settle(ticket, cause.not_sent())
        self._abandoned.clear()

    def interruption(self, ticket: Ticket[W], cause: Cause) -> ClientError:
        """Return what it means for this request to be interrupted now."""
        if ticket.state is TicketState.WAITING:
            return cause.not_sent()
        return cause.outcome_unknown(reads_only=ticket.reads_only)

    def abandon(self, ticket: Ticket[W], now: float) -> None:
        """Nobody waits for this request any more.

        One that waits is withdrawn, and settled at once without an outcome for anybody. One that
        was sent keeps its place; its reply will be settled as any other, for the driver to drop.
        `now` never goes back.
        """
        if ticket.state is TicketState.WAITING:
            del self._waiting[ticket]
            self._settle(ticket, Cause.io_error("given up by the caller").not_sent())
        elif ticket.state is TicketState.SENT and ticket.abandoned_at is None:
            ticket.abandoned_at = now
            self._abandoned.append(ticket)

    def oldest_abandonment(self) -> float | None:
        """When the first one of the abandoned requests that are still unanswered was given up."""
        while self._abandoned and self._abandoned[0].state is TicketState.SETTLED:
            self._abandoned.popleft()
        return self._abandoned[0].abandoned_at if self._abandoned else None

    def take_settled(self) -> list[tuple[W, Outcome]]:
        """Return what has been settled since the last time, in order."""
        settled, self._settled = self._settled, []
        return settled

    def _take(self, events: list[Event]) -> None:
        while events:
            for event in events:
                if isinstance(event, Response):
                    ticket = self._sent.popleft()
                    assert ticket.request_id == event.request_id, "the codec matches ids"
                    self._settle(ticket, event.reply)
                elif isinstance(event, ServerHello):
                    self.is_ready = self._connection.negotiation is not None
                    if event.status is not Status.OK:
                        # The codec goes on to say so, too, but not why.
                        self.lose(Cause.rejection(event))
                elif isinstance(event, ConnectionBroken):
                    self.lose(Cause.violation(event.error))
                elif isinstance(event, ConnectionClosed):
                    self.lose(Cause.end_of_stream())
            # Compressed input can stand for more than the codec hands out at a time.
            events = self._connection.receive_data(b"") if self._connection.has_more else []

    def _settle(self, ticket: Ticket[W], outcome: Outcome) -> None:
        assert ticket.state is not TicketState.SETTLED, "settled twice"
        ticket.state = TicketState.SETTLED
        self._settled.append((ticket.waiter, outcome))
