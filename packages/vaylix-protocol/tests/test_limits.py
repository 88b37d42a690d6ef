"""Every bound, at the bound and one beyond it."""

from __future__ import annotations

import contextlib
import tracemalloc
from dataclasses import replace
from struct import pack
from zlib import crc32

import pytest
import zstandard

from vaylix_protocol import (
    FRAME_BYTES_MAX,
    Auth,
    Command,
    Compression,
    Connection,
    ConnectionBroken,
    ConnectionClosed,
    ConnectionSettings,
    CountReply,
    CreateRole,
    Del,
    Entries,
    ErrorCode,
    ErrorReply,
    Exec,
    ExecResults,
    Expiration,
    Expire,
    Get,
    GetEx,
    Integer,
    List,
    LocalProtocolError,
    Metadata,
    MGet,
    MSet,
    Multi,
    NotFound,
    Ok,
    Ping,
    Queued,
    RemoteProtocolError,
    Reply,
    ReplyKind,
    Request,
    Response,
    Role,
    Scan,
    ScanPage,
    Set,
    Strings,
    TimeUnit,
    Value,
)
from vaylix_protocol._reply_codec import decode_reply, split_response
from vaylix_protocol.testing import ConnectedPair, feed

REQUEST_ID = bytes(range(16))
PLAIN = ConnectionSettings(compression=Compression.NONE)


def frame(payload: bytes, flags: int = 0) -> bytes:
    return pack(">4sBBII", b"VTP2", 2, flags, len(payload), crc32(payload)) + payload


def plain_pair(**changes: int) -> ConnectedPair:
    return ConnectedPair(client_settings=replace(PLAIN, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("max_frame_bytes", [64, 65536, FRAME_BYTES_MAX])
def test_frames_up_to_the_negotiated_limit_pass_both_ways(max_frame_bytes: int) -> None:
    pair = plain_pair(max_frame_bytes=max_frame_bytes)
    # A SET with a key of one byte takes 30 bytes besides its value, a VALUE 21.
    command = Set(b"k", bytes(max_frame_bytes - 30))

    (request,) = pair.server.receive_data(pair.client.send_request(REQUEST_ID, command))
    (response,) = pair.client.receive_data(
        pair.server.send_reply(REQUEST_ID, ErrorReply("", "", "x" * (max_frame_bytes - 25)))
    )

    assert isinstance(request, Request)
    assert request.command == command
    assert not isinstance(response, ConnectionBroken)


def test_bodies_beyond_the_limit_are_not_sent_and_change_nothing() -> None:
    pair = plain_pair(max_frame_bytes=64, outstanding_max=1)

    with pytest.raises(LocalProtocolError, match="frame too large: 65 bytes"):
        pair.client.send_request(REQUEST_ID, Set(b"k", bytes(35)))

    assert pair.client.send_request(REQUEST_ID, Get(b"k"))


def test_frames_beyond_the_limit_break_the_connection_at_their_header() -> None:
    pair = plain_pair(max_frame_bytes=64)

    (event,) = pair.server.receive_data(frame(bytes(65))[:14])

    assert isinstance(event, ConnectionBroken)
    assert event.error.message == "frame too large: 65 bytes exceeds maximum 64 bytes"


@pytest.mark.parametrize(("length", "is_allowed"), [(8_388_608, True), (8_388_609, False)])
def test_hello_frames_have_the_absolute_limit(length: int, is_allowed: bool) -> None:
    server = Connection(Role.SERVER, ConnectionSettings(max_frame_bytes=64))

    events = server.receive_data(pack(">4sBBII", b"VTP2", 2, 0, length, 0))

    assert (events == []) == is_allowed


def test_decompressed_bodies_have_the_negotiated_limit() -> None:
    pair = plain_pair(max_frame_bytes=1000)
    prefix = bytes(17) + b"\x42"

    (at_limit,) = pair.server.receive_data(frame(zstandard.compress(prefix + bytes(982)), 1))
    (beyond,) = pair.server.receive_data(frame(zstandard.compress(prefix + bytes(983)), 1))

    assert isinstance(at_limit, Request)
    assert at_limit.payload_bytes == 982
    assert isinstance(beyond, ConnectionBroken)
    assert beyond.error.message == (
        "decompressed frame too large: 1001 bytes exceeds maximum 1000 bytes"
    )


def refused_reply(payload: bytes, *sent: Command) -> ConnectionBroken:
    """Send commands, answer all but the last one as in a transaction, and that with `payload`."""
    pair = ConnectedPair()
    for number, command in enumerate(sent):
        pair.client.send_request(bytes([number]) * 16, command)
    for number in range(len(sent) - 1):
        reply = Ok() if number == 0 else Value(b"QUEUED")
        pair.client.receive_data(pair.server.send_reply(bytes([number]) * 16, reply))
    body = bytes([len(sent) - 1]) * 16 + b"\x00" + payload
    tracemalloc.start()
    try:
        (event,) = pair.client.receive_data(frame(zstandard.compress(body), 1))
        assert tracemalloc.get_traced_memory()[1] < 32 << 20, "the frame, not what it stands for"
    finally:
        tracemalloc.stop()
    assert isinstance(event, ConnectionBroken)
    return event


NILS_MAX = 8 * 1024 * 1024 - 64
MANY_NILS = pack(">I", NILS_MAX) + bytes(NILS_MAX)


@pytest.mark.parametrize(
    ("payload", "sent"),
    [
        (MANY_NILS, [MGet((b"a",))]),
        (pack(">I", 0), [MGet((b"a",))]),
        (MANY_NILS, [Multi(), Get(b"a"), Exec()]),
        (pack(">I", 0), [Multi(), Get(b"a"), Exec()]),
        (pack(">IB", 1, 7) + MANY_NILS, [Multi(), MGet((b"a",)), Exec()]),
        (pack(">IB", 1, 7) + MANY_NILS, [Multi(), Get(b"a"), Exec()]),
        (pack(">IBI", 1, 7, 0), [Multi(), Get(b"a"), Exec()]),
        (MANY_NILS, [Exec()]),
        (pack(">QI", 0, 65_536) + bytes(NILS_MAX), [Scan(0)]),
    ],
    ids=[
        *("mget", "mget, none", "exec", "exec, none", "mget in exec", "get in exec", "no mget"),
        *("exec without multi", "scan"),
    ],
)
def test_replies_of_another_number_of_items_than_asked_for_are_refused_unread(
    payload: bytes, sent: list[Command]
) -> None:
    assert refused_reply(payload, *sent).error.error_code is ErrorCode.TRN_008


@pytest.mark.parametrize(
    ("payload", "command"),
    [
        (pack(">I", NILS_MAX // 6 + 1) + bytes(NILS_MAX), List()),
        (pack(">QI", 0, NILS_MAX // 2 + 1) + bytes(NILS_MAX), Scan(0)),
        (pack(">I", NILS_MAX + 1) + bytes(NILS_MAX), MGet((b"a",))),
        (pack(">I", NILS_MAX + 1) + bytes(NILS_MAX), Exec()),
    ],
    ids=["entries", "keys", "strings", "results"],
)
def test_replies_of_more_items_than_there_are_bytes_for_are_refused_unread(
    payload: bytes, command: Command
) -> None:
    assert refused_reply(payload, command).error.error_code is ErrorCode.TRN_007


def test_the_largest_page_that_can_be_asked_for_is_read() -> None:
    pair = ConnectedPair()
    page = ScanPage(7, (b"k",) * 65_535)
    pair.client.send_request(REQUEST_ID, Scan(0, None, 65_535))

    (response,) = pair.client.receive_data(pair.server.send_reply(REQUEST_ID, page))

    assert response == Response(REQUEST_ID, page)


def test_as_many_entries_as_a_frame_can_hold_take_bounded_memory() -> None:
    pair = ConnectedPair()
    pair.client.send_request(REQUEST_ID, List())
    count = (8 * 1024 * 1024 - 17 - 4) // 6
    body = REQUEST_ID + b"\x00" + pack(">I", count) + bytes(6 * count)

    tracemalloc.start()
    try:
        (response,) = pair.client.receive_data(frame(zstandard.compress(body), 1))
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()

    assert isinstance(response, Response)
    assert isinstance(response.reply, Entries)
    assert len(response.reply.pairs) == count


def test_replies_of_the_number_of_items_that_was_asked_for_are_read() -> None:
    pair = ConnectedPair()
    dialogue: list[tuple[Command, Reply]] = [
        (MGet((b"a", b"b")), Strings((None, b"v"))),
        (Multi(), Ok()),
        (MGet((b"a",)), Queued()),
        (Get(b"a"), Queued()),
        (Exec(), ExecResults((Strings((None,)), NotFound()))),
    ]
    for number, (command, _) in enumerate(dialogue):
        pair.client.send_request(bytes([number]) * 16, command)
    for number, (_, reply) in enumerate(dialogue):
        (response,) = pair.client.receive_data(pair.server.send_reply(bytes([number]) * 16, reply))
        assert isinstance(response, Response)
        assert response.reply == reply


def test_a_negotiated_limit_of_zero_is_accepted_and_useless() -> None:
    server = Connection(Role.SERVER, ConnectionSettings())
    hello = b"\xf0\x02" + bytes(4) + pack(">QBIB", 0x1F, 1, 0, 0)
    (event,) = server.receive_data(frame(hello))
    server.accept(event, REQUEST_ID)  # type: ignore[arg-type]

    with pytest.raises(LocalProtocolError, match="exceeds maximum 0 bytes"):
        server.send_ok(REQUEST_ID)


@pytest.mark.parametrize(("data_bytes", "flag"), [(1023 - 21, 0), (1024 - 21, 1)])
def test_the_server_compresses_bodies_from_1024_bytes(data_bytes: int, flag: int) -> None:
    server = ConnectedPair().server

    assert server.send_value(REQUEST_ID, bytes(data_bytes))[5] == flag
    assert server.send_reply(REQUEST_ID, Value(bytes(data_bytes)))[5] == flag


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (PLAIN, ConnectionSettings()),
        (ConnectionSettings(), PLAIN),
    ],
)
def test_nobody_compresses_unless_both_ends_want_it(
    client: ConnectionSettings, server: ConnectionSettings
) -> None:
    pair = ConnectedPair(client_settings=client, server_settings=server)

    assert pair.server.send_value(REQUEST_ID, bytes(5000))[5] == 0
    assert pair.client.send_request(REQUEST_ID, Set(b"k", bytes(5000)))[5] == 0


def test_a_compressed_body_may_not_exceed_the_limit_before_compression_either() -> None:
    pair = ConnectedPair(client_settings=ConnectionSettings(max_frame_bytes=2000))

    assert len(pair.server.send_value(REQUEST_ID, bytes(2000 - 21))) < 100
    with pytest.raises(LocalProtocolError, match="2001 bytes exceeds maximum 2000"):
        pair.server.send_value(REQUEST_ID, bytes(2000 - 20))


KINDS_WITH_A_PAYLOAD = [
    kind
    for kind in ReplyKind
    if kind not in (ReplyKind.NOT_FOUND, ReplyKind.ERROR, ReplyKind.QUEUED)
]
LONG = "x" * 65_536
U64_MAX = 2**64 - 1


@pytest.mark.parametrize(
    "command",
    [
        Get(LONG[:-1].encode()),
        Auth(LONG[:-1], LONG),
        CreateRole("é" * 32_767),
        MGet((b"",) * 65_535),
        MSet(((b"", b""),) * 65_535),
        Expire(b"k", U64_MAX),
        Set(b"k", b"", if_version=U64_MAX),
        Scan(U64_MAX, LONG[:-1], 65_535),
        Ping(LONG.encode()),
        Ping(b""),
        Del(()),
        Get(b""),
    ],
)
def test_fields_at_their_bound_are_sent(command: Command) -> None:
    pair = plain_pair()

    (event,) = pair.server.receive_data(pair.client.send_request(REQUEST_ID, command))

    assert isinstance(event, Request)
    assert event.command == command


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (Get(LONG.encode()), "TRN-008"),
        (Auth(LONG, ""), "TRN-008"),
        (CreateRole("é" * 32_768), "TRN-008"),
        (MGet((b"",) * 65_536), "TRN-008"),
        (MSet(((b"", b""),) * 65_536), "TRN-008"),
        (Expire(b"k", U64_MAX + 1), "TRN-008"),
        (Expire(b"k", -1), "TRN-008"),
        (Scan(0, None, 65_536), "TRN-008"),
        (Scan(0, LONG, None), "TRN-008"),
        (Get(b"\xff"), "TRN-012"),
        (Ping(b"\xff"), "TRN-012"),
        (CreateRole("\ud800"), "TRN-012"),
    ],
)
def test_fields_beyond_their_bound_are_refused(command: Command, code: str) -> None:
    pair = plain_pair(outstanding_max=1)

    with pytest.raises(LocalProtocolError) as caught:
        pair.client.send_request(REQUEST_ID, command)

    assert caught.value.error_code.code == code
    assert pair.client.send_request(REQUEST_ID, Get(b"k")), "nothing waits for a response"


@pytest.mark.parametrize(
    "command",
    [
        Get("k"),  # type: ignore[arg-type]
        Get([]),  # type: ignore[arg-type]
        Auth(b"user", "password"),  # type: ignore[arg-type]
        Expire(b"k", "1"),  # type: ignore[arg-type]
        Expire(b"k", 1.5),  # type: ignore[arg-type]
        Set(b"k", b"v", 1),  # type: ignore[arg-type]
        Set(b"k", b"v", expiration=Expiration(TimeUnit.SECONDS, 1.5)),  # type: ignore[arg-type]
        GetEx(b"k", Expiration(TimeUnit.SECONDS, "1")),  # type: ignore[arg-type]
        GetEx(b"k", Expiration("EX", 1)),  # type: ignore[arg-type]
        MGet((1,)),  # type: ignore[arg-type]
        MSet(((b"k", 1),)),  # type: ignore[arg-type]
    ],
)
def test_fields_of_a_wrong_type_are_a_type_error(command: Command) -> None:
    with pytest.raises(TypeError):
        plain_pair().client.send_request(REQUEST_ID, command)


@pytest.mark.parametrize(
    "reply",
    [
        CountReply(-1),
        CountReply(U64_MAX + 1),
        Integer(2**63),
        Integer(-(2**63) - 1),
        Entries(((LONG.encode(), b""),)),
        ScanPage(0, (b"\xff",)),
    ],
)
def test_replies_that_cannot_be_encoded_are_refused(reply: Reply) -> None:
    with pytest.raises(LocalProtocolError):
        ConnectedPair().server.send_reply(REQUEST_ID, reply)


def test_integers_beyond_64_bits_are_refused_by_the_quick_sender_too() -> None:
    with pytest.raises(LocalProtocolError):
        ConnectedPair().server.send_integer(REQUEST_ID, 2**63)


@pytest.mark.parametrize("reply", [ErrorReply(LONG, "", ""), ErrorReply("", LONG, "")])
def test_errors_that_cannot_be_encoded_are_replaced(reply: ErrorReply) -> None:
    pair = plain_pair()
    pair.client.send_request(REQUEST_ID, Get(b"k"))

    (response,) = pair.client.receive_data(pair.server.send_reply(REQUEST_ID, reply))

    assert response.reply == ErrorReply(  # type: ignore[union-attr]
        "TRN-011",
        "Remote Error Encoding Failure",
        "failed to encode structured error payload",
    )


def test_metadata_numbers_are_64_bits_wide() -> None:
    client = plain_pair().client

    assert client.send_request(REQUEST_ID, Get(b"k"), Metadata(U64_MAX, None, U64_MAX))
    with pytest.raises(LocalProtocolError):
        client.send_request(REQUEST_ID, Get(b"k"), Metadata(deadline_ms=U64_MAX + 1))


def test_requests_without_a_response_are_bounded() -> None:
    pair = plain_pair(outstanding_max=3)
    frames = [pair.client.send_request(bytes([number]) * 16, Ping()) for number in range(3)]

    with pytest.raises(LocalProtocolError, match="too many requests"):
        pair.client.send_request(REQUEST_ID, Ping())

    assert len(pair.server.receive_data(b"".join(frames))) == 3
    pair.client.receive_data(pair.server.send_value(bytes(16), b"PONG"))
    assert pair.client.send_request(REQUEST_ID, Ping())
    with pytest.raises(LocalProtocolError, match="too many requests"):
        pair.client.send_request(REQUEST_ID, Ping())


@pytest.mark.parametrize(
    "payload",
    [b"\xff\xff\xff\xff", bytes(8) + b"\xff\xff\xff\xff", b"\0\0\0\1\x06\xff\xff\xff\xff"],
)
@pytest.mark.parametrize("kind", KINDS_WITH_A_PAYLOAD)
def test_false_counts_cost_no_memory(kind: ReplyKind, payload: bytes) -> None:
    tracemalloc.start()
    try:
        _, status, reader = split_response(bytes(17) + payload)
        # What matters is the peak, below; some kinds do accept some payloads.
        with contextlib.suppress(RemoteProtocolError):
            decode_reply(status, reader, kind)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100_000


def test_one_call_decompresses_a_bounded_amount_and_says_that_there_is_more() -> None:
    server = ConnectedPair().server
    prefix = bytes(17) + b"\x42"
    bomb = frame(zstandard.compress(prefix + bytes(4_000_000)), 1)
    stream = bomb * 7

    first = server.receive_data(stream)
    after_first = (server.has_more, server.buffered_bytes)
    rest = feed(server, b"")

    assert len(first) == 3
    assert after_first == (True, 4 * len(bomb))
    assert len(rest) == 4
    assert (server.has_more, server.buffered_bytes) == (False, 0)


def test_the_end_is_reported_behind_what_is_still_to_come() -> None:
    server = ConnectedPair().server
    bomb = frame(zstandard.compress(bytes(17) + b"\x42" + bytes(8_000_000)), 1)
    first = server.receive_data(bomb * 3)

    second = server.receive_eof()
    rest = feed(server, b"")

    assert [type(event).__name__ for event in first + second + rest] == [
        *["Request"] * 3,
        "ConnectionClosed",
    ]


def test_one_at_a_time_nothing_behind_a_message_is_taken_out() -> None:
    server = ConnectedPair().server
    server.one_at_a_time = True
    bomb = frame(zstandard.compress(bytes(17) + b"\x42" + bytes(8_000_000)), 1)
    stream = frame(bytes(17) + b"\x42") + bomb * 2
    # The last bomb is cut in two.
    first = server.receive_data(stream[:-1])
    held = [(server.has_more, server.buffered_bytes)]
    second = server.receive_data(b"")
    held.append((server.has_more, server.buffered_bytes))
    nothing = server.receive_data(b"")
    held.append((server.has_more, server.buffered_bytes))
    third = server.receive_data(stream[-1:])

    assert [len(first), len(second), len(nothing), len(third)] == [1, 1, 0, 1]
    assert held == [(True, 2 * len(bomb) - 1), (True, len(bomb) - 1), (False, len(bomb) - 1)]
    assert (server.has_more, server.buffered_bytes) == (False, 0)
    assert server.receive_eof() == [ConnectionClosed()]


def test_one_at_a_time_the_end_takes_nothing_out() -> None:
    server = ConnectedPair().server
    server.one_at_a_time = True
    ping = frame(bytes(17) + b"\x42")
    server.receive_data(ping * 3)

    assert server.receive_eof() == []
    assert server.buffered_bytes == 2 * len(ping)
    assert [type(event) for event in feed(server, b"")] == [Request, Request, ConnectionClosed]


def test_one_at_a_time_can_be_changed_between_any_two_calls() -> None:
    server = ConnectedPair().server
    ping, bomb = (
        frame(bytes(17) + b"\x42"),
        frame(zstandard.compress(bytes(17) + b"\x42" + bytes(8_388_608 - 18)), 1),
    )
    counts = [len(server.receive_data(bomb + ping * 5))]
    for one_at_a_time in (True, True, False):
        server.one_at_a_time = one_at_a_time
        counts.append(len(server.receive_data(b"")))
    server.one_at_a_time = True
    counts.append(len(server.receive_data(ping * 2 + b"garbage that is long enough")))
    counts.append(len(server.receive_data(b"")))

    assert counts == [1, 1, 1, 3, 1, 1]
    assert server.has_more
    (broken,) = server.receive_data(b"")
    assert isinstance(broken, ConnectionBroken)
    assert (server.has_more, server.buffered_bytes) == (False, 0)


def test_one_at_a_time_many_small_frames_are_not_copied_for_each() -> None:
    server = ConnectedPair().server
    server.one_at_a_time = True
    count, ping = 10_000, frame(bytes(17) + b"\x42")
    server.receive_data(ping * count)
    peaks: list[int] = []
    tracemalloc.start()
    try:
        while server.has_more:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            assert len(server.receive_data(b"")) == 1
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()

    assert len(peaks) == count - 1
    # The buffer may be moved when it has become half as long, and half as long again.
    assert sum(peak > 10_000 for peak in peaks) < 20


def test_a_frame_in_small_pieces_is_buffered_once() -> None:
    pair = plain_pair()
    stream = pair.client.send_request(REQUEST_ID, Set(b"k", bytes(4_000_000)))
    tracemalloc.start()
    try:
        events = [
            event
            for start in range(0, len(stream), 1000)
            for event in pair.server.receive_data(stream[start : start + 1000])
        ]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(events) == 1
    # The buffer with its growth, its copy as bytes, the body and the value.
    assert peak_bytes < 6 * len(stream)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_frame_bytes": 0},
        {"max_frame_bytes": FRAME_BYTES_MAX + 1},
        {"compression_threshold_bytes": -1},
        {"outstanding_max": 0},
        {"client_name": LONG},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must|at most"):
        ConnectionSettings(**settings)  # type: ignore[arg-type]
