from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaylix_client._ids import RequestIds
from vaylix_client._session import Cause, Session, Ticket, TicketState
from vaylix_client._settings import Settings
from vaylix_client._wire import new_connection
from vaylix_client.errors import InvalidCallError, NotSentError, OutcomeUnknownError
from vaylix_protocol import (
    Capabilities,
    ClientHello,
    Compression,
    Connection,
    ConnectionSettings,
    ErrorCode,
    Get,
    Reply,
    Request,
    Role,
    ServerHello,
    Set,
    Status,
    Value,
    error_reply,
)

if TYPE_CHECKING:
    from vaylix_client._session import Outcome
    from vaylix_protocol import Command, LocalCommand

SERVER_ID = bytes(16)


class Peer:
    """A session and the server's end of it, wired together by hand."""

    def __init__(self) -> None:
        self.session: Session[str] = Session(
            new_connection(Settings()), RequestIds(lambda: 0, seed=0)
        )
        self.server = Connection(Role.SERVER, ConnectionSettings())
        for event in self.server.receive_data(self.session.hello()):
            assert isinstance(event, ClientHello)
            self.session.receive_data(self.server.accept(event, SERVER_ID))
        assert self.session.is_ready

    def arrived(self, output: bytes) -> list[Request]:
        return [e for e in self.server.receive_data(output) if isinstance(e, Request)]

    def answer(self, request: Request, reply: Reply) -> None:
        self.session.receive_data(self.server.send_reply(request.request_id, reply))

    def settled(self) -> dict[str, Outcome]:
        return dict(self.session.take_settled())


def test_requests_of_one_turn_leave_as_one_and_answers_find_their_waiters() -> None:
    peer = Peer()
    for name in ("a", "b", "c"):
        peer.session.submit(name, Get(name.encode()), reads_only=True)
    requests = peer.arrived(peer.session.take_output(1 << 20))
    assert [request.command for request in requests] == [Get(b"a"), Get(b"b"), Get(b"c")]
    for request in requests:
        assert isinstance(request.command, Get)
        peer.answer(request, Value(request.command.key.upper()))
    assert peer.settled() == {"a": Value(b"A"), "b": Value(b"B"), "c": Value(b"C")}
    assert peer.session.unanswered == 0


def test_output_stops_at_its_bound_and_the_rest_is_still_not_sent() -> None:
    peer = Peer()
    tickets = [
        peer.session.submit(str(n), Set(b"k", bytes(400)), reads_only=False) for n in range(3)
    ]
    assert len(peer.arrived(peer.session.take_output(401))) == 1
    assert [ticket.state for ticket in tickets] == [
        TicketState.SENT,
        TicketState.WAITING,
        TicketState.WAITING,
    ]
    assert peer.session.has_waiting


def test_an_abandoned_request_that_waits_never_leaves() -> None:
    peer = Peer()
    kept = peer.session.submit("kept", Get(b"kept"), reads_only=True)
    given_up = peer.session.submit("gone", Get(b"gone"), reads_only=True)
    peer.session.abandon(given_up, now=1.0)
    (request,) = peer.arrived(peer.session.take_output(1 << 20))
    assert request.command == Get(b"kept")
    assert kept.state is TicketState.SENT
    assert isinstance(peer.settled()["gone"], NotSentError)
    assert peer.session.oldest_abandonment() is None


def test_the_late_reply_of_an_abandoned_request_is_its_own() -> None:
    peer = Peer()
    late = peer.session.submit("late", Get(b"late"), reads_only=True)
    first, *_ = peer.arrived(peer.session.take_output(1 << 20))
    peer.session.abandon(late, now=7.0)
    assert peer.session.oldest_abandonment() == 7.0
    peer.session.submit("next", Get(b"next"), reads_only=True)
    second, *_ = peer.arrived(peer.session.take_output(1 << 20))
    peer.answer(first, Value(b"late"))
    peer.answer(second, Value(b"next"))
    assert peer.settled() == {"late": Value(b"late"), "next": Value(b"next")}
    assert peer.session.oldest_abandonment() is None


def test_of_abandoned_requests_the_first_that_is_unanswered_is_the_oldest() -> None:
    peer = Peer()
    tickets = [peer.session.submit(str(n), Get(b"k"), reads_only=True) for n in range(3)]
    requests = peer.arrived(peer.session.take_output(1 << 20))
    ages = []
    for now, ticket in ((1.0, tickets[2]), (2.0, tickets[0]), (3.0, tickets[1])):
        peer.session.abandon(ticket, now)
        peer.session.abandon(ticket, now + 0.5)
        ages.append(peer.session.oldest_abandonment())
    for request in requests:
        peer.answer(request, Value(b"x"))
        ages.append(peer.session.oldest_abandonment())
    assert ages == [1.0, 1.0, 1.0, 1.0, 1.0, None]


@pytest.mark.parametrize("is_sent", [True, False], ids=["sent", "waiting"])
@pytest.mark.parametrize("is_last_first", [True, False], ids=["last first", "first first"])
def test_giving_up_everything_takes_a_few_looks_at_each_request(
    monkeypatch: pytest.MonkeyPatch, *, is_sent: bool, is_last_first: bool
) -> None:
    count = 500
    peer = Peer()
    tickets = [peer.session.submit(str(n), Get(b"k"), reads_only=True) for n in range(count)]
    if is_sent:
        peer.session.take_output(1 << 20)
    looks = count_looks_at_tickets(monkeypatch)
    for now, ticket in enumerate(reversed(tickets) if is_last_first else tickets):
        peer.session.abandon(ticket, float(now))
        assert peer.session.oldest_abandonment() == (0.0 if is_sent else None)
    assert count < len(looks) < 20 * count


def count_looks_at_tickets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with every read of a ticket's state, and every comparison."""
    looks: list[str] = []

    def watched(name: str) -> property:
        slot = vars(Ticket)[name]

        def read(ticket: Ticket[str]) -> object:
            looks.append(name)
            return slot.__get__(ticket)

        return property(read, slot.__set__)

    def is_equal(ticket: Ticket[str], other: object) -> bool:
        looks.append("==")
        return ticket is other

    for name in ("state", "abandoned_at"):
        monkeypatch.setattr(Ticket, name, watched(name))
    monkeypatch.setattr(Ticket, "__eq__", is_equal)
    return looks


def test_a_request_that_cannot_be_encoded_fails_alone() -> None:
    peer = Peer()
    peer.session.submit("before", Get(b"a"), reads_only=True)
    peer.session.submit("broken", Get(bytes(70_000)), reads_only=True)
    peer.session.submit("after", Get(b"b"), reads_only=True)
    requests = peer.arrived(peer.session.take_output(1 << 20))
    assert [request.command for request in requests] == [Get(b"a"), Get(b"b")]
    outcomes = peer.settled()
    assert isinstance(outcomes["broken"], InvalidCallError)
    for request in requests:
        peer.answer(request, Value(b"x"))
    assert peer.settled() == {"before": Value(b"x"), "after": Value(b"x")}


def test_an_encoder_that_fails_unforeseen_keeps_the_bytes_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send_request = Connection.send_request

    def fail_for_broken(
        self: Connection, request_id: bytes, command: Command | LocalCommand
    ) -> bytes:
        if command == Get(b"broken"):
            raise struct.error
        return send_request(self, request_id, command)

    monkeypatch.setattr(Connection, "send_request", fail_for_broken)
    peer = Peer()
    for name in ("before", "broken", "after"):
        peer.session.submit(name, Get(name.encode()), reads_only=True)
    requests = peer.arrived(peer.session.take_output(1 << 20))
    assert [request.command for request in requests] == [Get(b"before"), Get(b"after")]
    outcomes = peer.settled()
    assert list(outcomes) == ["broken"]
    assert isinstance(outcomes["broken"], InvalidCallError)


def test_the_end_of_the_connection_tells_not_sent_from_unknown() -> None:
    peer = Peer()
    peer.session.submit("write", Set(b"k", b"v"), reads_only=False)
    peer.session.submit("read", Get(b"k"), reads_only=True)
    peer.session.take_output(1 << 20)
    peer.session.submit("waits", Set(b"k", b"v"), reads_only=False)
    peer.session.receive_eof()
    peer.session.submit("late", Get(b"k"), reads_only=True)
    outcomes = peer.settled()
    write, read = outcomes["write"], outcomes["read"]
    assert isinstance(write, OutcomeUnknownError)
    assert "outcome unknown" in str(write)
    assert write.code == "TRN-007"
    assert not write.retryable
    assert isinstance(read, OutcomeUnknownError)
    assert read.retryable, "repeating a read does no harm"
    for name in ("waits", "late"):
        error = outcomes[name]
        assert isinstance(error, NotSentError)
        assert error.retryable


def test_an_answer_with_the_id_of_nobody_ends_the_connection() -> None:
    peer = Peer()
    peer.session.submit("a", Get(b"a"), reads_only=True)
    peer.arrived(peer.session.take_output(1 << 20))
    peer.session.receive_data(peer.server.send_reply(bytes(16), Value(b"x")))
    error = peer.settled()["a"]
    assert isinstance(error, OutcomeUnknownError)
    assert error.code == "CLI-006"
    assert peer.session.lost is not None


def test_garbage_and_half_answers_end_the_connection() -> None:
    for bad, code in ((b"HTTP/1.1 400 Bad Request\r\n", "TRN-001"), (b"VTP2\x02", "TRN-007")):
        peer = Peer()
        peer.session.submit("a", Get(b"a"), reads_only=True)
        peer.arrived(peer.session.take_output(1 << 20))
        peer.session.receive_data(bad)
        peer.session.receive_eof()
        error = peer.settled()["a"]
        assert isinstance(error, OutcomeUnknownError)
        assert error.code == code


def test_only_the_first_cause_is_told() -> None:
    peer = Peer()
    peer.session.lose(Cause.io_error("first"))
    peer.session.lose(Cause.io_error("second"))
    peer.session.receive_data(b"ignored")
    peer.session.receive_eof()
    assert peer.session.lost == Cause.io_error("first")


STEPS = st.lists(st.sampled_from(["submit", "flush", "answer", "abandon"]), max_size=60)


@given(steps=STEPS, choices=st.lists(st.integers(0, 2**16), min_size=60, max_size=60))
def test_no_interleaving_shifts_a_reply(steps: list[str], choices: list[int]) -> None:
    """Every waiter gets the answer to its own question, whatever is given up on the way."""
    peer = Peer()
    tickets = []
    unanswered: list[Request] = []
    outcomes: dict[str, Outcome] = {}
    for number, (step, choice) in enumerate(zip(steps, choices, strict=False)):
        if step == "submit":
            command = Get(str(number).encode())
            tickets.append(peer.session.submit(str(number), command, reads_only=True))
        elif step == "flush":
            unanswered += peer.arrived(peer.session.take_output(choice % 200 + 1))
        elif step == "answer" and unanswered:
            request = unanswered.pop(0)
            assert isinstance(request.command, Get)
            peer.answer(request, Value(request.command.key))
        elif step == "abandon" and tickets:
            peer.session.abandon(tickets[choice % len(tickets)], now=float(number))
        for waiter, outcome in peer.session.take_settled():
            assert waiter not in outcomes
            outcomes[waiter] = outcome
    for waiter, outcome in outcomes.items():
        assert isinstance(outcome, NotSentError) or outcome == Value(waiter.encode())
    assert len(outcomes) + peer.session.unanswered == len(tickets)


def test_a_rejection_is_told_in_the_words_of_the_server() -> None:
    session: Session[str] = Session(new_connection(Settings()), RequestIds(lambda: 0, seed=0))
    server = Connection(Role.SERVER, ConnectionSettings())
    server.receive_data(session.hello())
    session.receive_data(server.reject(error_reply(ErrorCode.SRV_003)))
    assert not session.is_ready
    assert session.lost == Cause(
        "SRV-003",
        "Connection Slot Pool Closed",
        "server rejected startup: connection slot pool is closed",
    )


def test_a_rejection_without_a_reason_is_trn_014() -> None:
    hello = ServerHello(2, Capabilities(0), Compression.NONE, 0, SERVER_ID, Status.ERROR)
    assert Cause.rejection(hello) == Cause(
        "TRN-014",
        "Protocol Negotiation Failed",
        "transport failure: protocol negotiation failed: server rejected startup",
    )


def test_nothing_is_sent_before_the_hello() -> None:
    session: Session[str] = Session(new_connection(Settings()), RequestIds(lambda: 0, seed=0))
    session.submit("a", Get(b"a"), reads_only=True)
    with pytest.raises(AssertionError, match="before the hello"):
        session.take_output(1)
