"""One connection under asyncio: a thin driver around the sans-IO session.

No task per request. A call submits to the session and waits for a future; all requests of one
loop turn leave in one write; the futures are resolved from `data_received`. While the transport
says that its buffer is full, requests stay in the session as "not sent".
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, cast

from vaylix_client._gate import Gate
from vaylix_client._os_errors import describe_os_error
from vaylix_client._session import Cause, Session
from vaylix_client.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from vaylix_client._call import Call
    from vaylix_client._ids import RequestIds
    from vaylix_client._session import Outcome, Ticket
    from vaylix_client._settings import Settings
    from vaylix_client._transaction import TransactionPlan
    from vaylix_protocol import Command, Connection, Reply

__all__ = ["Link"]

# Encoded at a time. Large enough for one write per loop turn in all ordinary cases, small enough
# to notice between two writes that the transport's buffer has filled up.
_WRITE_BYTES_MAX: Final = 1 << 20
_CLOSE_SECONDS: Final = 1.0


class _Waiter:
    """Who waits for a ticket. Futures carry errors as results, so none goes unretrieved."""

    __slots__ = ("future", "is_counted")

    def __init__(self, future: asyncio.Future[Outcome], *, is_counted: bool) -> None:
        self.future = future
        self.is_counted = is_counted


class Link(asyncio.Protocol):
    """Belongs to one event loop. Create it through `_dial.dial`."""

    def __init__(self, settings: Settings, connection: Connection, ids: RequestIds) -> None:
        self._loop = asyncio.get_running_loop()
        self._call_seconds = settings.call_timeout_seconds
        self._late_seconds = settings.late_reply_seconds
        self._session: Session[_Waiter] = Session(connection, ids)
        self._gate = Gate(settings.in_flight_max)
        self._transport: asyncio.Transport | None = None
        self._is_writable = True
        self._flush_is_scheduled = False
        self._late_timer: asyncio.TimerHandle | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self.ready: asyncio.Future[Cause | None] = self._loop.create_future()
        """Resolved by the server's hello, or by what came instead of it."""
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Resolved when the transport is gone."""

    @property
    def is_usable(self) -> bool:
        """Whether calls can be submitted."""
        return self._session.lost is None

    async def exchange(self, command: Command, *, reads_only: bool) -> Outcome:
        """Send one command and return its outcome. Errors are returned, not raised."""
        deadline = self._deadline()
        if not self._gate.try_enter():
            refusal = await self._turn(self._gate.enter(), deadline)
            if refusal is not None:
                return refusal
        return await self._outcome(self._submit(command, reads_only=reads_only), deadline)

    async def exchange_all(self, calls: Sequence[Call[object]]) -> list[Outcome]:
        """Send many commands without waiting in between, and return all outcomes in order.

        One timeout counts for all of them together. On cancellation all are given up.
        """
        deadline = self._deadline()
        tickets: list[Ticket[_Waiter]] = []
        refusals: list[Outcome] = []
        try:
            for call in calls:
                if not self._gate.try_enter():
                    refusal = await self._turn(self._gate.enter(), deadline)
                    if refusal is not None:
                        refusals = [refusal] * (len(calls) - len(tickets))
                        break
                tickets.append(self._submit(call.command, reads_only=call.reads_only))
            return [await self._outcome(ticket, deadline) for ticket in tickets] + refusals
        except BaseException:
            for ticket in tickets:
                self._abandon(ticket)
            raise

    async def transact(self, plan: TransactionPlan) -> tuple[Reply, ...] | ClientError:
        """Run a transaction alone on this connection and return its outcome.

        The conversation is a task of its own. When the caller is cancelled or runs out of time it
        goes on until the connection is in a known state again, so that neither a half-open
        transaction nor a closed connection hits other callers.
        """
        deadline = self._deadline()
        refusal = await self._turn(self._gate.own(), deadline)
        if refusal is not None:
            return refusal
        task = self._loop.create_task(self._converse(plan))
        self._conversations.add(task)
        task.add_done_callback(self._conversations.discard)
        try:
            seconds = None if deadline is None else max(0.0, deadline - self._loop.time())
            await asyncio.wait({task}, timeout=seconds)
        finally:
            if not task.done():
                plan.abandon()
                self._loop.call_later(self._late_seconds, self._give_up_on, task)
        if not task.done():
            return plan.interruption(self._timeout_cause())
        assert plan.outcome is not None, "a conversation that was cancelled"
        return plan.outcome

    async def close(self) -> None:
        """Close the connection. Calls without an answer end as interrupted."""
        self._end(Cause.io_error("connection closed by this client"))
        conversations = set(self._conversations)
        if conversations:
            await asyncio.wait(conversations)
        if self._transport is not None:
            await asyncio.wait({self.closed}, timeout=_CLOSE_SECONDS)
            # A TLS peer that does not answer the goodbye must not hold us up.
            self._transport.abort()

    def abort(self, cause: Cause) -> None:
        """Give the connection up at once."""
        self._end(cause)
        if self._transport is not None:
            self._transport.abort()

    # Callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the server."""
        # Not an assertion: uvloop's transports do not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        raw_socket = transport.get_extra_info("socket")
        if raw_socket is not None and raw_socket.family in {socket.AF_INET, socket.AF_INET6}:
            raw_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.write(self._session.hello())

    def data_received(self, data: bytes) -> None:
        """Resolve the calls whose replies have come."""
        self._session.receive_data(data)
        self._after_input()

    def eof_received(self) -> bool:
        """Interrupt what is unanswered; returning false lets the transport close."""
        self._session.receive_eof()
        self._after_input()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Interrupt what is unanswered."""
        if isinstance(exc, OSError):
            self._end(Cause.io_error(describe_os_error(exc)))
        else:
            self._end(Cause.end_of_stream() if exc is None else Cause.io_error(str(exc)))
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Keep requests back; the transport's buffer is full."""
        self._is_writable = False

    def resume_writing(self) -> None:
        """Send what was kept back."""
        self._is_writable = True
        self._flush()

    # Inner workings

    def _deadline(self) -> float | None:
        return None if self._call_seconds is None else self._loop.time() + self._call_seconds

    def _timeout_cause(self) -> Cause:
        assert self._call_seconds is not None
        return Cause.timeout(self._call_seconds)

    async def _turn(
        self, waiting: Coroutine[None, None, None], deadline: float | None
    ) -> ClientError | None:
        try:
            async with asyncio.timeout_at(deadline):
                await waiting
        except ClientError as refusal:
            return refusal
        except TimeoutError:
            return self._timeout_cause().not_sent()
        return None

    def _submit(
        self, command: Command, *, reads_only: bool, is_counted: bool = True
    ) -> Ticket[_Waiter]:
        waiter = _Waiter(self._loop.create_future(), is_counted=is_counted)
        ticket = self._session.submit(waiter, command, reads_only=reads_only)
        if self._session.lost is not None:
            self._deliver()
        elif not self._flush_is_scheduled:
            self._flush_is_scheduled = True
            self._loop.call_soon(self._flush)
        return ticket

    def _flush(self) -> None:
        self._flush_is_scheduled = False
        while self._is_writable and self._session.has_waiting:
            assert self._transport is not None
            output = self._session.take_output(_WRITE_BYTES_MAX)
            if output:
                # May call pause_writing before it returns.
                self._transport.write(output)
        self._deliver()

    async def _outcome(self, ticket: Ticket[_Waiter], deadline: float | None) -> Outcome:
        future = ticket.waiter.future
        if future.done():
            return future.result()
        timer = None if deadline is None else self._loop.call_at(deadline, self._expire, ticket)
        try:
            return await future
        except BaseException:
            self._abandon(ticket)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _expire(self, ticket: Ticket[_Waiter]) -> None:
        if not ticket.waiter.future.done():
            interruption = self._session.interruption(ticket, self._timeout_cause())
            ticket.waiter.future.set_result(interruption)
            self._abandon(ticket)

    def _abandon(self, ticket: Ticket[_Waiter]) -> None:
        self._session.abandon(ticket, self._loop.time())
        self._deliver()
        self._watch_late_replies()

    def _watch_late_replies(self) -> None:
        """Give the connection up when the reply of an abandoned call stays away for too long."""
        oldest = self._session.oldest_abandonment()
        if oldest is None or self._late_timer is not None:
            return
        self._late_timer = self._loop.call_at(oldest + self._late_seconds, self._late_check)

    def _late_check(self) -> None:
        self._late_timer = None
        oldest = self._session.oldest_abandonment()
        if oldest is not None and oldest + self._late_seconds <= self._loop.time():
            self.abort(Cause.io_error(f"no reply {self._late_seconds:g} s after its call ended"))
        else:
            self._watch_late_replies()

    async def _converse(self, plan: TransactionPlan) -> None:
        burst: tuple[Command, ...] | None = plan.first_burst()
        try:
            while burst is not None:
                tickets = [
                    self._submit(command, reads_only=False, is_counted=False) for command in burst
                ]
                burst = plan.next_burst([await ticket.waiter.future for ticket in tickets])
        finally:
            # Left by an exception only when the loop shuts down and cancels everything.
            if burst is not None or plan.must_close:
                self.abort(Cause.io_error("a transaction was left in an unknown state"))
            self._gate.disown()

    def _give_up_on(self, conversation: asyncio.Task[None]) -> None:
        if not conversation.done():
            self.abort(Cause.io_error("a transaction that was given up got no reply"))

    def _after_input(self) -> None:
        self._deliver()
        if self._session.is_ready and not self.ready.done():
            self.ready.set_result(None)
        if self._session.lost is not None:
            self._end(self._session.lost)

    def _deliver(self) -> None:
        for waiter, outcome in self._session.take_settled():
            if waiter.is_counted:
                self._gate.leave()
            if not waiter.future.done():
                waiter.future.set_result(outcome)

    def _end(self, cause: Cause) -> None:
        """Settle everything once; the first cause is the one that is told."""
        self._session.lose(cause)
        assert self._session.lost is not None
        self._gate.close(self._session.lost.not_sent)
        self._deliver()
        if not self.ready.done():
            self.ready.set_result(self._session.lost)
        if self._late_timer is not None:
            self._late_timer.cancel()
            self._late_timer = None
        if self._transport is not None:
            self._transport.close()
