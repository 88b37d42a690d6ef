"""The invariant of the sans-IO connection, against hostile peers.

Whatever arrives, however it is cut into pieces: a list of events and no exception; a violation is
the last event; the pieces make no difference; and no more than one frame is ever buffered.
"""

from __future__ import annotations

import itertools
from struct import pack
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from vaylix_protocol import (
    Capabilities,
    Clear,
    Command,
    Connection,
    ConnectionBroken,
    ConnectionClosed,
    ConnectionSettings,
    DbSize,
    Event,
    Exec,
    Exists,
    Get,
    Incr,
    List,
    MGet,
    Multi,
    Ok,
    ReplicationFetch,
    Reply,
    ReplyKind,
    Request,
    Response,
    Role,
    Scan,
    Set,
    Value,
)
from vaylix_protocol._reply_codec import encode_response
from vaylix_protocol.testing import (
    ConnectedPair,
    commands,
    drip,
    feed,
    replies,
    replies_of_kind,
    request_ids,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FRAME_BYTES = 2048
SETTINGS = ConnectionSettings(max_frame_bytes=MAX_FRAME_BYTES)


def frame(body: bytes, flags: int = 0) -> bytes:
    return pack(">4sBBII", b"VTP2", 2, flags, len(body), crc32(body)) + body


def new_server() -> Connection:
    return Connection(Role.SERVER, SETTINGS)


def open_server() -> Connection:
    return ConnectedPair(server_settings=SETTINGS).server


def open_client() -> Connection:
    client = ConnectedPair(client_settings=SETTINGS).client
    for number in range(4):
        client.send_request(bytes([number]) * 16, Get(b"k"))
    return client


def new_client() -> Connection:
    client = Connection(Role.CLIENT, SETTINGS)
    client.hello()
    return client


CONNECTIONS = st.sampled_from([new_server, open_server, new_client, open_client])


def describe(events: list[Event]) -> list[str]:
    return [
        event.error.described if isinstance(event, ConnectionBroken) else repr(event)
        for event in events
    ]


def check_invariant(
    create: Callable[[], Connection], stream: bytes, cuts: list[int]
) -> list[Event]:
    """Feed `stream` whole, in pieces and byte by byte; return the events after checks."""
    whole, pieces, bytewise = create(), create(), create()
    events = feed(whole, stream) + whole.receive_eof()
    pieces_events: list[Event] = []
    positions = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for start, stop in itertools.pairwise(positions):
        pieces_events += feed(pieces, stream[start:stop])
        assert pieces.buffered_bytes < 14 + 8 * 1024 * 1024
        if pieces.negotiation is not None:
            assert pieces.buffered_bytes < 14 + MAX_FRAME_BYTES
    pieces_events += pieces.receive_eof()

    assert describe(events) == describe(pieces_events)
    assert describe(events) == describe(drip(bytewise, stream) + bytewise.receive_eof())
    ends = [isinstance(event, ConnectionBroken | ConnectionClosed) for event in events]
    assert ends.count(True) == (0 if whole.is_rejected and not any(ends) else 1)
    assert not any(ends[:-1])
    assert whole.receive_data(b"") == []
    return events


cut_points = st.lists(st.integers(0, 5000), max_size=8)


@given(CONNECTIONS, st.binary(max_size=200), cut_points)
def test_random_bytes(create: Callable[[], Connection], stream: bytes, cuts: list[int]) -> None:
    check_invariant(create, stream, cuts)


@given(
    CONNECTIONS,
    st.lists(st.tuples(st.binary(max_size=80), st.booleans()), max_size=6),
    cut_points,
)
def test_random_bodies_in_valid_frames(
    create: Callable[[], Connection], bodies: list[tuple[bytes, bool]], cuts: list[int]
) -> None:
    stream = b"".join(frame(body, flags=flag) for body, flag in bodies)

    check_invariant(create, stream, cuts)


@given(
    st.sampled_from([open_server, open_client]),
    st.lists(
        st.tuples(st.integers(0, 7), request_ids(), st.integers(1, 0x49), st.binary(max_size=60)),
        max_size=5,
    ),
    cut_points,
)
def test_random_payloads_behind_valid_prefixes(
    create: Callable[[], Connection],
    requests: list[tuple[int, bytes, int, bytes]],
    cuts: list[int],
) -> None:
    stream = b"".join(
        frame(bytes([flags]) + request_id + bytes([opcode]) + payload)
        for flags, request_id, opcode, payload in requests
    )

    check_invariant(create, stream, cuts)


@st.composite
def damaged_streams(draw: st.DrawFn) -> bytes:
    """Valid requests with a few bytes changed, removed or put in."""
    client = ConnectedPair(
        client_settings=ConnectionSettings(compression_threshold_bytes=draw(st.integers(0, 60)))
    ).client
    sent = draw(st.lists(st.tuples(request_ids(), commands()), min_size=1, max_size=4))
    stream = bytearray(b"".join(client.send_request(*request) for request in sent))
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, len(stream) - 1))
        match draw(st.integers(0, 2)):
            case 0:
                stream[position] = draw(st.integers(0, 255))
            case 1:
                del stream[position]
            case 2:
                stream.insert(position, draw(st.integers(0, 255)))
    return bytes(stream)


@given(damaged_streams(), cut_points)
def test_damaged_requests(stream: bytes, cuts: list[int]) -> None:
    check_invariant(open_server, stream, cuts)


@given(damaged_streams())
def test_damage_inside_a_compressed_body_with_a_right_checksum(stream: bytes) -> None:
    body = zstandard.compress(stream)
    damaged = bytearray(body)
    damaged[len(damaged) // 2] ^= 0x55

    check_invariant(open_server, frame(bytes(damaged), flags=1), [20])


@given(st.lists(replies(), max_size=4), st.integers(0, 300), st.integers(0, 255))
def test_damaged_responses(sent: list[Reply], position: int, damage: int) -> None:
    stream = b""
    for number, reply in enumerate(sent):
        body = bytearray(encode_response(bytes([number]) * 16, reply))
        # The first byte that may differ is the status, or else the ids would not match.
        body[16 + position % (len(body) - 16)] ^= damage
        stream += frame(bytes(body))

    check_invariant(open_client, stream, [position])


QUEUED: tuple[Command, ...] = (Get(b"k"), MGet((b"a", b"b")), Scan(0), Set(b"k", b"v"), List())
COMMANDS: dict[ReplyKind, Command] = {
    ReplyKind.OK: Clear(),
    ReplyKind.VALUE: Get(b"k"),
    ReplyKind.BOOL: Exists(b"k"),
    ReplyKind.COUNT: DbSize(),
    ReplyKind.INTEGER: Incr(b"n"),
    ReplyKind.ENTRIES: List(),
    ReplyKind.STRINGS: MGet((b"a", b"b")),
    ReplyKind.SCAN: Scan(0),
    ReplyKind.EXEC_RESULTS: Exec(),
    ReplyKind.JSON: ReplicationFetch(b"{}"),
}
RESPONSE_ID = bytes([255]) * 16


def client_that_waits_for(kind: ReplyKind) -> Connection:
    """Return a client whose only open request is answered by `kind`, EXEC in a transaction."""
    pair = ConnectedPair(client_settings=SETTINGS)
    if kind is ReplyKind.EXEC_RESULTS:
        for number, command in enumerate((Multi(), *QUEUED)):
            pair.client.send_request(bytes([number]) * 16, command)
            reply = Value(b"QUEUED") if number else Ok()
            pair.client.receive_data(pair.server.send_reply(bytes([number]) * 16, reply))
    pair.client.send_request(RESPONSE_ID, COMMANDS[kind])
    return pair.client


@st.composite
def damaged_payloads(draw: st.DrawFn) -> tuple[ReplyKind, bytes]:
    """A kind of reply, and status and payload of a response: random, or a little damaged."""
    kind = draw(st.sampled_from(list(COMMANDS)))
    if draw(st.booleans()):
        return kind, bytes([draw(st.integers(0, 3))]) + draw(st.binary(max_size=60))
    payload = bytearray(encode_response(RESPONSE_ID, draw(replies_of_kind(kind)))[16:])
    for _ in range(draw(st.integers(0, 2))):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
    return kind, bytes(payload[: draw(st.integers(1, len(payload)))])


@given(damaged_payloads(), st.booleans(), cut_points)
@settings(max_examples=600)
def test_damaged_responses_to_every_kind_of_command(
    damaged: tuple[ReplyKind, bytes], is_compressed: bool, cuts: list[int]
) -> None:
    kind, payload = damaged
    body = RESPONSE_ID + payload
    stream = frame(zstandard.compress(body), 1) if is_compressed else frame(body)

    events = check_invariant(lambda: client_that_waits_for(kind), stream, cuts)

    assert isinstance(events[0], Response | ConnectionBroken)
    if isinstance(events[0], Response):
        assert events[0].request_id == RESPONSE_ID
        # What was read in full is what would be written, so nothing was invented or passed over.
        assert encode_response(RESPONSE_ID, events[0].reply) == body


def test_valid_requests_before_the_damage_are_delivered() -> None:
    pair = ConnectedPair()
    good = pair.client.send_request(bytes(16), Set(b"k", b"v"))

    events = pair.server.receive_data(good + good + b"HTTP/1.1 200 OK")

    assert [type(event) for event in events] == [Request, Request, ConnectionBroken]
    assert pair.server.receive_data(good) == []
    assert pair.server.buffered_bytes == 0


@pytest.mark.parametrize("opcode", [opcode for opcode in range(256) if not 1 <= opcode <= 0x49])
def test_unknown_opcodes_break_the_connection(opcode: int) -> None:
    (event,) = open_server().receive_data(frame(bytes(17) + bytes([opcode])))

    assert isinstance(event, ConnectionBroken)
    assert event.error.message == f"unknown opcode: 0x{opcode:02x}"


@pytest.mark.parametrize("flags", range(256))
def test_only_three_metadata_flags_are_known(flags: int) -> None:
    body = bytes([flags]) + bytes(16) + b"\x14" + bytes(8 * (flags & 1) + 4 * (flags & 4))
    body += bytes(8 * (flags & 2))

    (event,) = open_server().receive_data(frame(body))

    assert isinstance(event, Request if flags < 8 else ConnectionBroken)


@given(st.integers(0, 2**64 - 1))
def test_unknown_capabilities_are_dropped(capabilities: int) -> None:
    body = b"\xf0\x02" + bytes(4) + pack(">QBIB", capabilities, 1, 4096, 0)
    server = new_server()

    server.receive_data(frame(body))

    negotiation = server.negotiation
    assert negotiation is not None
    assert negotiation.capabilities == Capabilities(capabilities & 0x1F)
    assert negotiation.max_frame_bytes == MAX_FRAME_BYTES


@given(commands(), st.integers(1, 40))
def test_cut_payloads_are_errors_of_the_request_only(command: Command, cut: int) -> None:
    pair = ConnectedPair(client_settings=ConnectionSettings(compression_threshold_bytes=2**20))
    body = pair.client.send_request(bytes(16), command)[14:]
    shortened = frame(body[: max(18, len(body) - cut)])
    follower = pair.client.send_request(bytes(16), Get(b"next"))

    events = pair.server.receive_data(shortened + follower)

    assert [type(event) for event in events] == [Request, Request]
    assert isinstance(events[1], Request)
    assert events[1].command == Get(b"next")
