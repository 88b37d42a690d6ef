"""The states of a connection, and how a client matches replies to requests."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from vaylix_protocol import (
    NO_METADATA,
    Auth,
    Bool,
    Capabilities,
    ClientHello,
    Command,
    Compression,
    Connection,
    ConnectionBroken,
    ConnectionClosed,
    ConnectionSettings,
    Discard,
    ErrorCode,
    ErrorReply,
    Exec,
    ExecResults,
    Exit,
    Get,
    Help,
    LocalCommand,
    LocalProtocolError,
    Multi,
    NotFound,
    Ok,
    Ping,
    Queued,
    RemoteProtocolError,
    Reply,
    Request,
    Response,
    Role,
    ServerHello,
    Set,
    SetCondition,
    Status,
    Value,
    error_reply,
)
from vaylix_protocol._frames import FrameWriter
from vaylix_protocol._hello import encode_server_hello
from vaylix_protocol.testing import SERVER_ID, ConnectedPair

ONE, TWO = b"\x01" * 16, b"\x02" * 16


def broken_code(events: list[object]) -> str:
    last = events[-1]
    assert isinstance(last, ConnectionBroken)
    return last.error.error_code.code


def server_hello(**changes: object) -> bytes:
    hello = ServerHello(2, Capabilities.ALL, Compression.ZSTD, 2**23, SERVER_ID, Status.OK)
    fields = {name: getattr(hello, name) for name in hello.__struct_fields__} | changes
    return FrameWriter().frame(encode_server_hello(ServerHello(**fields)))


def waiting_client() -> Connection:
    client = Connection(Role.CLIENT, ConnectionSettings())
    client.hello()
    return client


# Hellos.


def test_requests_may_follow_the_hello_in_the_same_bytes() -> None:
    pair = ConnectedPair()
    hello = Connection(Role.CLIENT, ConnectionSettings()).hello()
    request = pair.client.send_request(ONE, Get(b"k"))
    server = Connection(Role.SERVER, ConnectionSettings())

    first, second, third = server.receive_data(hello + request + request)

    assert isinstance(first, ClientHello)
    assert second == third == Request(ONE, Get(b"k"), NO_METADATA, 3)
    assert server.accept(first, SERVER_ID)
    assert server.send_not_found(ONE)


def test_a_hello_can_be_accepted_although_garbage_follows_it() -> None:
    server = Connection(Role.SERVER, ConnectionSettings())

    hello, broken = server.receive_data(waiting_client_hello() + b"garbage" * 10)

    assert isinstance(hello, ClientHello)
    assert isinstance(broken, ConnectionBroken)
    assert server.accept(hello, SERVER_ID)


def waiting_client_hello() -> bytes:
    return Connection(Role.CLIENT, ConnectionSettings()).hello()


def test_nothing_is_sent_before_the_hello() -> None:
    client = waiting_client()
    server = Connection(Role.SERVER, ConnectionSettings())
    server.receive_data(waiting_client_hello())

    with pytest.raises(LocalProtocolError, match="hello first"):
        client.send_request(ONE, Ping())
    with pytest.raises(LocalProtocolError, match="hello first"):
        server.send_ok(ONE)
    with pytest.raises(LocalProtocolError, match="hello first"):
        server.send_value(ONE, b"")


def test_a_second_hello_is_read_as_a_broken_request() -> None:
    assert broken_code([*ConnectedPair().server.receive_data(waiting_client_hello())]) == "TRN-008"


def test_a_server_can_turn_a_client_away() -> None:
    server = Connection(Role.SERVER, ConnectionSettings())
    client = waiting_client()
    (hello,) = server.receive_data(waiting_client_hello())
    assert isinstance(hello, ClientHello)

    answer, broken = client.receive_data(server.reject(error_reply(ErrorCode.SRV_003)))

    assert isinstance(answer, ServerHello)
    assert (answer.status, answer.error_code) == (Status.ERROR, "SRV-003")
    assert broken_code([broken]) == "TRN-014"
    assert client.is_rejected
    assert server.is_rejected
    assert server.receive_data(waiting_client_hello()) == []
    with pytest.raises(LocalProtocolError):
        server.send_ok(ONE)


def test_a_client_refuses_another_protocol_version() -> None:
    client = waiting_client()

    _, broken = client.receive_data(server_hello(protocol_version=3))

    assert isinstance(broken, ConnectionBroken)
    assert broken.error.message == (
        "protocol negotiation failed: unsupported server protocol version"
    )


def test_a_server_cannot_raise_what_the_client_has_offered() -> None:
    client = Connection(
        Role.CLIENT, ConnectionSettings(compression=Compression.NONE, max_frame_bytes=100)
    )
    client.hello()

    client.receive_data(server_hello())

    assert client.negotiation is not None
    assert client.negotiation.compression is Compression.NONE
    assert client.negotiation.max_frame_bytes == 100


def test_capability_zstd_is_needed_for_compression() -> None:
    offered = Capabilities.ALL & ~Capabilities.ZSTD
    pair = ConnectedPair(client_settings=ConnectionSettings(capabilities=offered))

    assert pair.server_hello.compression is Compression.NONE
    assert pair.server_hello.capabilities == offered


def test_the_client_states_the_version_of_this_package() -> None:
    assert ConnectionSettings().client_version == version("vaylix-protocol")


# Ends.


@pytest.mark.parametrize("received", [b"", b"VTP2", waiting_client_hello()[:-1]])
def test_an_end_before_the_hello_is_an_unexpected_end(received: bytes) -> None:
    server = Connection(Role.SERVER, ConnectionSettings())
    assert server.receive_data(received) == []

    assert broken_code([*server.receive_eof()]) == "TRN-007"


def test_an_end_between_messages_is_a_clean_one() -> None:
    pair = ConnectedPair()

    assert pair.server.receive_eof() == [ConnectionClosed()]
    assert pair.client.receive_eof() == [ConnectionClosed()]


def test_an_end_inside_a_frame_is_an_unexpected_end() -> None:
    pair = ConnectedPair()
    pair.server.receive_data(pair.client.send_request(ONE, Ping())[:-1])

    assert broken_code([*pair.server.receive_eof()]) == "TRN-007"


def test_replies_can_still_be_sent_after_the_end_of_the_requests() -> None:
    pair = ConnectedPair()
    pair.server.receive_data(pair.client.send_request(ONE, Ping()))
    pair.server.receive_eof()

    assert pair.client.receive_data(pair.server.send_value(ONE, b"PONG")) == [
        Response(ONE, Value(b"PONG"))
    ]


# Requests and replies of a client.


@pytest.mark.parametrize(("command", "what"), [(Help(), "help"), (Exit(), "exit")])
def test_local_commands_cannot_be_sent(command: LocalCommand, what: str) -> None:
    with pytest.raises(
        LocalProtocolError, match=f"unsupported command for transport: {what}"
    ) as caught:
        ConnectedPair().client.send_request(ONE, command)

    assert caught.value.error_code is ErrorCode.TRN_004


def test_a_reply_with_another_id_breaks_the_connection() -> None:
    pair = ConnectedPair()
    pair.client.send_request(ONE, Ping())

    (broken,) = pair.client.receive_data(pair.server.send_value(TWO, b"PONG"))

    assert isinstance(broken, ConnectionBroken)
    assert broken.error.error_code is ErrorCode.CLI_006
    assert broken.error.message == (
        "mismatched response id: expected 01010101-0101-0101-0101-010101010101, "
        "got 02020202-0202-0202-0202-020202020202"
    )


def test_a_reply_without_a_request_breaks_the_connection() -> None:
    pair = ConnectedPair()

    assert broken_code([*pair.client.receive_data(pair.server.send_ok(ONE))]) == "TRN-018"


def test_a_reply_of_another_kind_breaks_the_connection() -> None:
    pair = ConnectedPair()
    pair.client.send_request(ONE, Set(b"k", b"v", SetCondition.NX))

    assert broken_code([*pair.client.receive_data(pair.server.send_ok(ONE))]) == "TRN-008"


def test_the_errors_of_events_hold_no_traceback() -> None:
    pair = ConnectedPair()
    (broken,) = pair.server.receive_data(bytes(20))

    assert isinstance(broken, ConnectionBroken)
    assert isinstance(broken.error, RemoteProtocolError)
    assert broken.error.__traceback__ is None
    assert broken.error.__context__ is None


# Transactions as the client follows them.


def exchange(*dialogue: tuple[Command, Reply]) -> list[Reply]:
    """Send all commands at once, then all replies; return what the client makes of them."""
    pair = ConnectedPair()
    requests, replies = b"", b""
    for number, (command, reply) in enumerate(dialogue):
        request_id = bytes([number]) * 16
        requests += pair.client.send_request(request_id, command)
        replies += pair.server.send_reply(request_id, reply)
    assert len(pair.server.receive_data(requests)) == len(dialogue)
    events = pair.client.receive_data(replies)
    assert all(isinstance(event, Response) for event in events)
    return [event.reply for event in events if isinstance(event, Response)]


QUEUED_TEXT = Value(b"QUEUED")
GET = (Get(b"k"), QUEUED_TEXT)
SET = (Set(b"k", b"v"), QUEUED_TEXT)
MULTI = (Multi(), Ok())
EXEC = (Exec(), ExecResults((Ok(), QUEUED_TEXT)))


def test_a_stored_value_queued_is_a_value_outside_of_transactions() -> None:
    assert exchange(GET, MULTI, GET, SET, EXEC, GET) == [
        QUEUED_TEXT,
        Ok(),
        Queued(),
        Queued(),
        ExecResults((Ok(), QUEUED_TEXT)),
        QUEUED_TEXT,
    ]


@pytest.mark.parametrize(
    "closing",
    [
        (Discard(), Ok()),
        (Exec(), ExecResults((NotFound(),))),
        (Exec(), error_reply(ErrorCode.ENG_016, key="k")),
        (Exec(), error_reply(ErrorCode.SRV_035, n=1, mode="all")),
        (Exec(), error_reply(ErrorCode.SRV_015)),
        (Get(b"k"), error_reply(ErrorCode.SRV_034, seconds=30)),
        (Discard(), error_reply(ErrorCode.SRV_034, seconds=30)),
    ],
)
def test_what_closes_a_transaction(closing: tuple[Command, Reply]) -> None:
    assert exchange(MULTI, GET, closing, GET)[-1] == QUEUED_TEXT


@pytest.mark.parametrize(
    "harmless",
    [
        (Auth("u", "p"), Ok()),
        (Multi(), error_reply(ErrorCode.SRV_014)),
        (Get(b"k"), error_reply(ErrorCode.SRV_017)),
        (Exec(), error_reply(ErrorCode.SRV_037)),
        (Exec(), error_reply(ErrorCode.SRV_036)),
        (Exec(), error_reply(ErrorCode.SRV_012)),
        (Discard(), error_reply(ErrorCode.SRV_033)),
    ],
)
def test_what_leaves_a_transaction_open(harmless: tuple[Command, Reply]) -> None:
    assert exchange(MULTI, GET, harmless, GET)[-1] == Queued()


def test_a_refused_multi_opens_nothing() -> None:
    assert exchange((Multi(), error_reply(ErrorCode.SRV_007)), GET)[-1] == QUEUED_TEXT


def test_not_found_and_errors_fit_any_command() -> None:
    error = ErrorReply("SRV-999", "Unheard Of", "from a newer server")

    assert exchange((Ping(), NotFound()), (Exec(), error), (Set(b"k", b"", SetCondition.XX), error))
    assert exchange((Set(b"k", b"", if_version=0), Bool(True))) == [Bool(True)]
