"""One connection on a plain socket: a thin blocking driver around the sans-IO session.

The socket does not block; waiting happens in one place, for reading and writing together. So a
large pipeline cannot lock up with a server that stops reading until its replies are read.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vaylix_client._os_errors import describe_os_error
from vaylix_client._session import Cause, Session
from vaylix_client._wire import (
    check_login,
    dial_error,
    login_failure,
    new_connection,
    new_request_ids,
    tls_context,
)
from vaylix_client.blocking._lookup import look_up
from vaylix_client.errors import CallTimeoutError, ClientError, NotSentTimeoutError
from vaylix_protocol import Auth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaylix_client._call import Call
    from vaylix_client._session import Outcome, Ticket
    from vaylix_client._settings import Settings
    from vaylix_client._transaction import TransactionPlan
    from vaylix_protocol import Command, Reply

__all__ = ["RawCommand", "SocketLink", "dial"]

_READ_BYTES: Final = 1 << 16
_WRITE_BYTES_MAX: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class RawCommand:
    """A command of any kind, AUTH, MULTI and EXEC included, whose reply is taken as it is."""

    command: Command
    reads_only: bool = False


class _Slot:
    """Where the outcome of a ticket appears."""

    __slots__ = ("outcome",)

    def __init__(self) -> None:
        self.outcome: Outcome | None = None


class SocketLink:
    """For one thread at a time. Create it with `dial`.

    Any exception out of the blue, KeyboardInterrupt for one, ends the connection: nobody can tell
    how far a write had come. Timeouts of calls do not; see `exchange_all`.
    """

    def __init__(self, sock: socket.socket, settings: Settings) -> None:
        self._socket = sock
        self._in_flight_max = settings.in_flight_max
        self._late_seconds = settings.late_reply_seconds
        self._session: Session[_Slot] = Session(new_connection(settings), new_request_ids())
        self._output = memoryview(self._session.hello())
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ)

    @property
    def is_usable(self) -> bool:
        """Whether calls can be submitted."""
        return self._session.lost is None

    @property
    def lost(self) -> Cause | None:
        """Why the connection is over, or `None` while it is not."""
        return self._session.lost

    def greet(self, deadline: float) -> None:
        """Send the hello and wait for the server's. Raise `ConnectError`, `TimeoutError`."""
        while not self._session.is_ready:
            if self._session.lost is not None:
                raise self._session.lost.not_connected()
            if not self._step(deadline):
                raise TimeoutError

    def look(self) -> None:
        """Take what has come since the last call: late replies, or the end of the connection.

        Gives the connection up when a late reply has stayed away for too long.
        """
        if self._session.lost is not None:
            return
        self._read()
        oldest = self._session.oldest_abandonment()
        if oldest is not None and oldest + self._late_seconds <= time.monotonic():
            self.abort(Cause.io_error(f"no reply {self._late_seconds:g} s after its call ended"))

    def exchange_all(
        self, calls: Sequence[Call[object] | RawCommand], seconds: float | None
    ) -> list[Outcome]:
        """Send many commands, at most `in_flight_max` ahead of their replies; return outcomes.

        When the time is over, calls without a reply end as interrupted. The connection stays
        usable; whichever call comes next drops their late replies.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        tickets: list[Ticket[_Slot]] = []
        try:
            while len(tickets) < len(calls) or self._session.unanswered:
                while len(tickets) < len(calls) and self._session.unanswered < self._in_flight_max:
                    call = calls[len(tickets)]
                    tickets.append(self._submit(call.command, reads_only=call.reads_only))
                if not self._step(deadline):
                    assert seconds is not None
                    return self._timed_out(calls, tickets, Cause.timeout(seconds))
        except BaseException:
            self.abort(Cause.io_error("interrupted"))
            raise
        return [_outcome(ticket) for ticket in tickets]

    def transact(
        self, plan: TransactionPlan, seconds: float | None
    ) -> tuple[Reply, ...] | ClientError:
        """Run a transaction and return its outcome. A timeout closes the connection."""
        deadline = None if seconds is None else time.monotonic() + seconds
        burst: tuple[Command, ...] | None = plan.first_burst()
        try:
            while burst is not None:
                tickets = [self._submit(command, reads_only=False) for command in burst]
                while self._session.unanswered:
                    if not self._step(deadline):
                        assert seconds is not None
                        return plan.interruption(Cause.timeout(seconds))
                burst = plan.next_burst([_outcome(ticket) for ticket in tickets])
        finally:
            if burst is not None or plan.must_close:
                self.abort(Cause.io_error("a transaction was left in an unknown state"))
        assert plan.outcome is not None, "ended without an outcome"
        return plan.outcome

    def abort(self, cause: Cause) -> None:
        """Close the connection. What is unanswered ends as interrupted."""
        self._session.lose(cause)
        self._deliver()
        self._output = memoryview(b"")
        self._selector.close()
        self._socket.close()

    def _submit(self, command: Command, *, reads_only: bool) -> Ticket[_Slot]:
        ticket = self._session.submit(_Slot(), command, reads_only=reads_only)
        if self._session.lost is not None:
            self._deliver()
        return ticket

    def _timed_out(
        self, calls: Sequence[Call[object] | RawCommand], tickets: list[Ticket[_Slot]], cause: Cause
    ) -> list[Outcome]:
        now = time.monotonic()
        outcomes: list[Outcome] = []
        for ticket in tickets:
            settled = ticket.waiter.outcome
            if settled is None:
                outcomes.append(self._session.interruption(ticket, cause))
                self._session.abandon(ticket, now)
            else:
                outcomes.append(settled)
        self._deliver()
        return outcomes + [cause.not_sent() for _ in calls[len(tickets) :]]

    def _step(self, deadline: float | None) -> bool:
        """Write what can be written, then wait for input once. Return false at the deadline."""
        self._write()
        if self._session.lost is not None or (
            self._session.is_ready and not self._session.unanswered
        ):
            return True
        if not self._wait(deadline):
            return False
        self._read()
        return True

    def _wait(self, deadline: float | None) -> bool:
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._output else 0)
        if self._selector.get_key(self._socket).events != events:
            self._selector.modify(self._socket, events)
        if deadline is None:
            return bool(self._selector.select())
        return bool(self._selector.select(max(0.0, deadline - time.monotonic())))

    def _write(self) -> None:
        try:
            while self._output or (self._session.is_ready and self._session.has_waiting):
                if not self._output:
                    self._output = memoryview(self._session.take_output(_WRITE_BYTES_MAX))
                    self._deliver()
                if self._output:
                    self._output = self._output[self._socket.send(self._output) :]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return
        except OSError as error:
            # What the server still had to say explains more than our broken pipe.
            self._read()
            self.abort(Cause.io_error(describe_os_error(error)))

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self.abort(Cause.io_error(describe_os_error(error)))
            return
        if data:
            self._session.receive_data(data)
        else:
            self._session.receive_eof()
        if self._session.lost is None:
            self._deliver()
        else:
            self.abort(self._session.lost)

    def _deliver(self) -> None:
        for slot, outcome in self._session.take_settled():
            slot.outcome = outcome


def dial(settings: Settings, login: tuple[str, str] | None) -> SocketLink:
    """Return a connection that is ready for calls: name, TCP, TLS, hello, login in one timeout.

    Raise `ConnectError`, a `ServerError` when the login is refused, `InvalidCallError` when it
    cannot be put on the wire, and `ConfigurationError` for unusable names and files.
    """
    deadline = time.monotonic() + settings.connect_timeout_seconds
    try:
        sock = _open_socket(settings, deadline)
        try:
            link = SocketLink(sock, settings)
        except BaseException:
            sock.close()
            raise
        try:
            link.greet(deadline)
            if login is not None:
                _log_in(link, login, deadline)
        except BaseException:
            link.abort(Cause.io_error("given up while connecting"))
            raise
    except ClientError:
        raise
    except (OSError, ValueError) as error:
        raise dial_error(error, settings) from error
    return link


def _open_socket(settings: Settings, deadline: float) -> socket.socket:
    context = None if settings.tls is None else tls_context(settings.tls)
    sock = _connected_socket(settings.host, settings.port, deadline)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            sock = context.wrap_socket(sock, server_hostname=settings.host)
        sock.setblocking(False)  # noqa: FBT003 - the name of the method says what it means
    except BaseException:
        sock.close()
        raise
    return sock


def _connected_socket(host: str, port: int, deadline: float) -> socket.socket:
    """Try the addresses of the host in turn. Raise the error of the last one.

    Each may take its share of the time that is left, so that one that does not answer neither
    holds up the caller beyond the deadline nor keeps the others from being tried.
    """
    failure: OSError | None = None
    addresses = look_up(host, port, max(0.0, deadline - time.monotonic()))
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        left_seconds = deadline - time.monotonic()
        if left_seconds <= 0:
            raise TimeoutError from failure
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left_seconds / (len(addresses) - tried))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError("the name of the host has no address")


def _log_in(link: SocketLink, login: tuple[str, str], deadline: float) -> None:
    auth = RawCommand(Auth(*login))
    (outcome,) = link.exchange_all([auth], max(0.0, deadline - time.monotonic()))
    if isinstance(outcome, CallTimeoutError | NotSentTimeoutError):
        # What has run out is the time to connect; how much was left of it helps nobody.
        raise TimeoutError from outcome
    failure = login_failure(outcome)
    if failure is not None:
        raise failure
    check_login(outcome)


def _outcome(ticket: Ticket[_Slot]) -> Outcome:
    assert ticket.waiter.outcome is not None, "not settled"
    return ticket.waiter.outcome
