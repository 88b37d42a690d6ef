"""The worked examples of VTP2 section 17, byte for byte, from a client and a server of ours."""

from __future__ import annotations

import pytest

from vaylix_protocol import (
    Auth,
    Bool,
    ClientHello,
    Command,
    Compression,
    Connection,
    ConnectionSettings,
    CountReply,
    Del,
    Entries,
    ErrorCode,
    Exec,
    ExecResults,
    Exists,
    Expiration,
    Get,
    Incr,
    Integer,
    List,
    Metadata,
    MGet,
    Multi,
    NotFound,
    Ok,
    Ping,
    Rename,
    ReplicationVote,
    Reply,
    Request,
    Response,
    Role,
    Scan,
    ScanPage,
    Set,
    SetCondition,
    Strings,
    TimeUnit,
    Value,
    error_reply,
)
from vaylix_protocol._frames import FrameWriter
from vaylix_protocol.testing import SERVER_ID, ConnectedPair

HEADER = "56545032 02 "
ALICE = b"alice".hex()
VOTE = (
    b'{"term":2,"candidate_node_id":"n2","candidate_addr":"10.0.0.2:9173","last_log_index":7,'
    b'"last_log_term":1,"prevote":true}'
)


def wire(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def request_id(number: int) -> bytes:
    return bytes.fromhex(f"0198c0de0000700080000000000000{number:02x}")


def plain_pair() -> ConnectedPair:
    return ConnectedPair(client_settings=ConnectionSettings(compression=Compression.NONE))


def client_with(**settings: object) -> Connection:
    return Connection(Role.CLIENT, ConnectionSettings(client_version="0.9.0", **settings))  # type: ignore[arg-type]


HELLO_WITH_ZSTD = wire(
    HEADER + "00 00000026 727fc440 f0 02 000d 7661796c69782d636c69656e74 0005 302e392e30"
    "000000000000001f 01 00800000 01"
)
HELLO_WITHOUT = wire(
    HEADER + "00 00000026 ce242773 f0 02 000d 7661796c69782d636c69656e74 0005 302e392e30"
    "000000000000001f 00 00800000 00"
)


def take_hello(server: Connection, frame: bytes) -> ClientHello:
    (hello,) = server.receive_data(frame)
    assert isinstance(hello, ClientHello)
    return hello


def test_examples_1_and_2_client_hellos() -> None:
    assert client_with(auth_intent=True).hello() == HELLO_WITH_ZSTD
    assert client_with(compression=Compression.NONE).hello() == HELLO_WITHOUT


def test_examples_3_and_4_server_hellos() -> None:
    with_zstd = Connection(Role.SERVER, ConnectionSettings())
    hello = take_hello(with_zstd, HELLO_WITH_ZSTD)
    small = client_with(compression=Compression.NONE, max_frame_bytes=65536).hello()
    without = Connection(Role.SERVER, ConnectionSettings())
    small_hello = take_hello(without, small)

    assert with_zstd.accept(hello, SERVER_ID) == wire(
        HEADER + "00 00000023 ef051865 f1 02 000000000000001f 01 00800000"
        "0198c0de000070008000000000000051 00 00 00 00"
    )
    assert without.accept(small_hello, SERVER_ID) == wire(
        HEADER + "00 00000023 3d74f648 f1 02 000000000000001e 00 00010000"
        "0198c0de000070008000000000000051 00 00 00 00"
    )


def test_example_5_rejection() -> None:
    server = Connection(Role.SERVER, ConnectionSettings())
    body = b"\xf0\x03" + HELLO_WITH_ZSTD[16:]
    frame = FrameWriter().frame(body)
    hello = take_hello(server, frame)

    assert server.accept(hello, SERVER_ID) == wire(
        HEADER + "00 00000084 3acd1935 f1 02 0000000000000000 00 00800000"
        "00000000000000000000000000000000 01 01 0007 54524e2d303134"
        "01 001b 50726f746f636f6c204e65676f74696174696f6e204661696c6564"
        "01 0039 70726f746f636f6c206e65676f74696174696f6e206661696c65643a20"
        "756e737570706f727465642070726f746f636f6c2076657273696f6e"
    )


REQUESTS = [
    (
        request_id(0x01),
        Auth("vaylix", "vaylix"),
        (
            "00 00000024 541775d3 00 0198c0de000070008000000000000001"
            "01 0006 7661796c6978 00000006 7661796c6978"
        ),
    ),
    (
        request_id(0x02),
        Ping(),
        "00 00000013 d2844b6e 00 0198c0de000070008000000000000002 02 00",
    ),
    (
        request_id(0x03),
        Set(b"name", b"alice"),
        (
            "00 00000026 c76b7719 00 0198c0de000070008000000000000003"
            "06 0004 6e616d65 00000005 616c696365 00 00 00 00 00"
        ),
    ),
    (
        request_id(0x04),
        Set(
            b"name",
            b"alice",
            SetCondition.NX,
            Expiration(TimeUnit.SECONDS, 60),
            return_previous=True,
        ),
        (
            "00 0000002e 46e89a14 00 0198c0de000070008000000000000004"
            "06 0004 6e616d65 00000005 616c696365 01 01 000000000000003c 00 01 00"
        ),
    ),
    (
        request_id(0x05),
        Set(b"k", b"\x00\xff", expiration=Expiration(TimeUnit.MILLISECONDS, 1500), if_version=3),
        (
            "00 00000030 35352b07 00 0198c0de000070008000000000000005"
            "06 0001 6b 00000002 00ff 00 02 00000000000005dc 00 00 01 0000000000000003"
        ),
    ),
    (
        request_id(0x06),
        Get(b"name"),
        "00 00000018 51ddf758 00 0198c0de000070008000000000000006 03 0004 6e616d65",
    ),
    (
        request_id(0x08),
        MGet((b"a", b"b")),
        "00 0000001a d479de32 00 0198c0de000070008000000000000008 0a 0002 0001 61 0001 62",
    ),
    (
        request_id(0x09),
        Scan(0, "u:*", 10),
        (
            "00 00000023 6167a503 00 0198c0de000070008000000000000009"
            "13 0000000000000000 01 0003 753a2a 01 000a"
        ),
    ),
    (
        request_id(0x0B),
        Exec(),
        "00 00000012 da6e55bc 00 0198c0de00007000800000000000000b 1d",
    ),
    (
        request_id(0x11),
        Rename(b"a", b"b"),
        "00 0000001a 6dedd708 00 0198c0de000070008000000000000011 11 0001 61 00000001 62",
    ),
    (
        request_id(0x15),
        ReplicationVote(VOTE),
        "00 0000008a c1482968 00 0198c0de000070008000000000000015 46" + VOTE.hex(),
    ),
]


@pytest.mark.parametrize(("identifier", "command", "text"), REQUESTS)
def test_requests_are_encoded_as_in_the_examples(
    identifier: bytes, command: Command, text: str
) -> None:
    pair = plain_pair()

    frame = pair.client.send_request(identifier, command)

    assert frame == wire(HEADER + text)
    (event,) = pair.server.receive_data(frame)
    assert isinstance(event, Request)
    assert (event.request_id, event.command) == (identifier, command)


def test_example_13_all_metadata() -> None:
    pair = plain_pair()
    metadata = Metadata(5000, request_id(0x99), 1)

    assert pair.client.send_request(request_id(0x0A), Get(b"name"), metadata) == wire(
        HEADER + "00 00000038 59e46952 07 0198c0de00007000800000000000000a 03"
        "0000000000001388 0198c0de000070008000000000000099 0000000000000001 0004 6e616d65"
    )


def test_example_8_a_compressed_ping_is_read() -> None:
    frame = wire(
        HEADER + "01 0000001c 8f8607e4 28b52ffd2013990000000198c0de0000700080000000000000020200"
    )

    (event,) = plain_pair().server.receive_data(frame)

    assert isinstance(event, Request)
    assert (event.request_id, event.command) == (request_id(0x02), Ping())


MIXED_RESULTS = ExecResults(
    (Ok(), NotFound(), Value(b"alice"), Bool(True), CountReply(1), Integer(-2))
)
STRUCTURED_RESULTS = ExecResults(
    (Entries(((b"k", b"v"),)), Strings((b"x", None)), ScanPage(7, (b"k1",)))
)
QUEUED: dict[ExecResults, tuple[Command, ...]] = {
    MIXED_RESULTS: (Set(b"k", b"v"), *[Get(b"name")] * 2, Exists(b"k"), Del((b"k",)), Incr(b"n")),
    STRUCTURED_RESULTS: (List(), MGet((b"a", b"b")), Scan(0)),
}
RESPONSES = [
    (
        request_id(0x01),
        Auth("vaylix", "vaylix"),
        Ok(),
        "00 00000011 ed73ef1f 0198c0de000070008000000000000001 00",
    ),
    (
        request_id(0x02),
        Ping(),
        Value(b"PONG"),
        "00 00000019 409d3835 0198c0de000070008000000000000002 00 00000004 504f4e47",
    ),
    (
        request_id(0x05),
        Set(b"k", b"", if_version=3),
        Bool(True),
        "00 00000012 2fe909dd 0198c0de000070008000000000000005 00 01",
    ),
    (
        request_id(0x06),
        Get(b"name"),
        Value(b"alice"),
        "00 0000001a 2080a343 0198c0de000070008000000000000006 00 00000005" + ALICE,
    ),
    (
        request_id(0x06),
        Get(b"name"),
        NotFound(),
        "00 00000011 4c3c18f4 0198c0de000070008000000000000006 02",
    ),
    (
        request_id(0x07),
        Get(b"name"),
        error_reply(ErrorCode.SRV_007),
        (
            "00 00000058 f95a1d37 0198c0de000070008000000000000007 01 0007 5352562d303037"
            "0017 41757468656e7469636174696f6e205265717569726564"
            "00000021 636c69656e742061757468656e7469636174696f6e206973207265717569726564"
        ),
    ),
    (
        request_id(0x08),
        MGet((b"a", b"b")),
        Strings((b"1", None)),
        "00 0000001c e5c37319 0198c0de000070008000000000000008 00 00000002 01 00000001 31 00",
    ),
    (
        request_id(0x09),
        Scan(0),
        ScanPage(10, (b"u:1", b"u:2")),
        (
            "00 00000027 3881a204 0198c0de000070008000000000000009"
            "00 000000000000000a 00000002 0003 753a31 0003 753a32"
        ),
    ),
    (
        request_id(0x0B),
        Exec(),
        MIXED_RESULTS,
        (
            "00 00000035 89c206df 0198c0de00007000800000000000000b 00 00000006 00 01"
            "02 00000005 616c696365 03 01 04 0000000000000001 05 fffffffffffffffe"
        ),
    ),
    (
        request_id(0x0B),
        Exec(),
        STRUCTURED_RESULTS,
        (
            "00 0000003f caab62c8 0198c0de00007000800000000000000b 00 00000003"
            "06 00000001 0001 6b 00000001 76 07 00000002 01 00000001 78 00"
            "08 0000000000000007 00000001 0002 6b31"
        ),
    ),
    (
        request_id(0x0C),
        Incr(b"n"),
        Integer(-2),
        "00 00000019 ae3ced42 0198c0de00007000800000000000000c 00 fffffffffffffffe",
    ),
]


def queue(pair: ConnectedPair, commands: tuple[Command, ...]) -> None:
    """Open a transaction and queue commands in it."""
    for number, command in enumerate((Multi(), *commands)):
        pair.client.send_request(bytes([number]) * 16, command)
        reply = Value(b"QUEUED") if number else Ok()
        pair.client.receive_data(pair.server.send_reply(bytes([number]) * 16, reply))


@pytest.mark.parametrize(("identifier", "command", "reply", "text"), RESPONSES)
def test_replies_are_encoded_as_in_the_examples(
    identifier: bytes, command: Command, reply: Reply, text: str
) -> None:
    pair = plain_pair()
    if isinstance(reply, ExecResults):
        queue(pair, QUEUED[reply])
    pair.client.send_request(identifier, command)

    frame = pair.server.send_reply(identifier, reply)

    assert frame == wire(HEADER + text)
    assert pair.client.receive_data(frame) == [Response(identifier, reply)]
