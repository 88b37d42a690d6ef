"""What one end sends, the other end receives: for any command, metadata and reply."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from vaylix_protocol import (
    NO_METADATA,
    Bool,
    Command,
    Compression,
    ConnectionBroken,
    ConnectionSettings,
    Event,
    ExecResults,
    Get,
    GetRun,
    Integer,
    Json,
    Metadata,
    MGet,
    NotFound,
    Ok,
    Opcode,
    Ping,
    Reply,
    ReplyKind,
    Request,
    Response,
    Set,
    SetRun,
    Strings,
    Value,
    commands,
    reply_kind_of,
)
from vaylix_protocol._fields import LAYOUTS
from vaylix_protocol._frames import FrameReader, FrameWriter
from vaylix_protocol._reply_codec import decode_reply, encode_response, split_response
from vaylix_protocol._request_codec import decode_request, decode_requests
from vaylix_protocol.testing import (
    ConnectedPair,
    drip,
    metadata,
    replies,
    replies_of_kind,
    request_ids,
)
from vaylix_protocol.testing import commands as any_command

SETTINGS = [
    ConnectionSettings(compression=Compression.NONE),
    ConnectionSettings(compression_threshold_bytes=0),
    ConnectionSettings(compression_threshold_bytes=32),
]


@given(request_ids(), any_command(), metadata(), st.sampled_from(SETTINGS))
def test_requests_arrive_as_they_were_sent(
    request_id: bytes, command: Command, extra: Metadata, settings: ConnectionSettings
) -> None:
    pair = ConnectedPair(client_settings=settings)

    (event,) = pair.server.receive_data(pair.client.send_request(request_id, command, extra))

    assert isinstance(event, Request)
    assert (event.request_id, event.command, event.metadata) == (request_id, command, extra)


@given(st.lists(st.tuples(request_ids(), any_command()), max_size=6))
def test_pipelined_requests_arrive_in_order_however_they_are_cut(
    requests: list[tuple[bytes, Command]],
) -> None:
    pair = ConnectedPair()
    stream = b"".join(pair.client.send_request(*request) for request in requests)
    other = ConnectedPair().server

    whole, dripped = pair.server.receive_data(stream), drip(other, stream, 3)

    assert whole == dripped
    assert [(e.request_id, e.command) for e in whole if isinstance(e, Request)] == requests


@given(request_ids(), any_command(), st.data(), st.sampled_from(SETTINGS))
def test_replies_arrive_as_they_were_sent(
    request_id: bytes, command: Command, data: st.DataObject, settings: ConnectionSettings
) -> None:
    kinds = [reply_kind_of(command), ReplyKind.NOT_FOUND, ReplyKind.ERROR]
    reply = data.draw(st.sampled_from(kinds).flatmap(replies_of_kind))
    if isinstance(command, MGet) and isinstance(reply, Strings):
        # As many as were asked for; anything else is a violation.
        reply = Strings((b"value",) * len(command.keys))
    if isinstance(reply, ExecResults):
        # Nothing was queued, so there can be no results.
        reply = ExecResults(())
    pair = ConnectedPair(server_settings=settings)
    pair.client.send_request(request_id, command)

    events = pair.client.receive_data(pair.server.send_reply(request_id, reply))

    assert events == [Response(request_id, reply)]


@given(request_ids(), replies())
def test_every_kind_of_reply_survives_encoding(request_id: bytes, reply: Reply) -> None:
    identifier, status, reader = split_response(encode_response(request_id, reply))

    assert identifier == request_id
    assert decode_reply(status, reader, reply.kind) == reply


@given(request_ids(), st.binary(max_size=2000), st.integers(-(2**63), 2**63 - 1), st.booleans())
def test_quick_senders_agree_with_the_careful_one(
    request_id: bytes, data: bytes, number: int, flag: bool
) -> None:
    for settings in SETTINGS:
        server = ConnectedPair(server_settings=settings).server
        quick = [
            server.send_ok(request_id),
            server.send_not_found(request_id),
            server.send_value(request_id, data),
            server.send_bool(request_id, flag),
            server.send_integer(request_id, number),
        ]
        replies_sent: list[Reply] = [Ok(), NotFound(), Value(data), Bool(flag), Integer(number)]
        assert quick == [server.send_reply(request_id, reply) for reply in replies_sent]


@given(st.lists(st.tuples(request_ids(), st.none() | st.binary(max_size=99)), max_size=8))
def test_senders_of_many_agree_with_the_careful_one(rows: list[tuple[bytes, bytes | None]]) -> None:
    ids, values = [row[0] for row in rows], [row[1] for row in rows]
    for settings in SETTINGS:
        server = ConnectedPair(server_settings=settings).server
        oks = [server.send_reply(request_id, Ok()) for request_id in ids]
        found = [
            server.send_reply(request_id, NotFound() if value is None else Value(value))
            for request_id, value in rows
        ]
        assert server.send_oks(ids) == b"".join(oks)
        assert server.send_values(ids, values) == b"".join(found)


@pytest.mark.parametrize("id_bytes", [0, 15, 17])
def test_senders_of_many_take_no_wrong_request_id(id_bytes: int) -> None:
    server, wrong = ConnectedPair().server, [bytes(16), bytes(id_bytes)]
    with pytest.raises(AssertionError):
        server.send_oks(wrong)
    with pytest.raises(AssertionError):
        server.send_values(wrong, [b"v", b"v"])
    with pytest.raises(AssertionError):
        server.send_values([bytes(16)], [b"v", b"v"])


def test_every_opcode_has_one_command_and_one_layout() -> None:
    opcodes = [command.opcode for command in LAYOUTS]

    assert sorted(opcodes) == list(range(0x01, 0x4A))
    for command, fields in LAYOUTS.items():
        assert getattr(commands, command.__name__) is command
        assert len(command.__struct_fields__) == len(fields)


def test_json_fills_the_whole_payload() -> None:
    (body,) = FrameReader().read(
        ConnectedPair().server.send_reply(bytes(16), Json(b'{"accepted":true}'))
    )

    assert body == bytes(17) + b'{"accepted":true}'


@given(
    st.sampled_from([0x03, 0x06]),
    st.integers(0, 12),
    st.binary(max_size=12),
    st.integers(0, 12),
    st.binary(max_size=12),
    st.sampled_from([b"", bytes(4), bytes(5), bytes(6), b"\0\2" + bytes(11)]),
)
def test_the_short_way_through_get_and_set_agrees_with_the_long_one(
    opcode: int, key_bytes: int, key: bytes, value_bytes: int, value: bytes, options: bytes
) -> None:
    payload = pack(">H", key_bytes) + key
    if opcode == 0x06:
        payload += pack(">I", value_bytes) + value + options
    body = bytes(17) + bytes([opcode]) + payload
    events: list[Event] = []

    decode_requests([body], events, groups_runs=False)

    assert events == [decode_request(body)]


@given(st.lists(st.tuples(request_ids(), any_command()), max_size=12), st.integers(1, 400))
def test_runs_hold_the_same_requests(
    requests: list[tuple[bytes, Command]], piece_bytes: int
) -> None:
    pair = ConnectedPair(server_settings=ConnectionSettings(groups_runs=True))
    stream = b"".join(pair.client.send_request(*request) for request in requests)
    plain = ConnectedPair().server

    events = drip(pair.server, stream, piece_bytes)

    assert flat(events) == plain.receive_data(stream)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """GETs and SETs of which most are plain and whole; of the others one thing is odd."""
    odd = draw(
        st.sampled_from(["", "", "", "", "flags", "opcode", "key", "value", "options", "text"])
    )
    opcode = 0x02 if odd == "opcode" else draw(st.sampled_from([0x03, 0x06]))
    key = b"\xff" if odd == "text" else draw(st.sampled_from([b"", b"k", b"key"]))
    value = draw(st.binary(max_size=6))
    off_by = draw(st.sampled_from([1, -1, 300]))
    payload = pack(">H", max(0, len(key) + off_by * (odd == "key"))) + key
    if opcode == 0x06:
        payload += pack(">I", max(0, len(value) + off_by * (odd == "value"))) + value
        wrong = st.sampled_from([bytes(4), bytes(6), b"\1" + bytes(4)])
        payload += draw(wrong) if odd == "options" else bytes(5)
    flags = draw(st.sampled_from([4, 64])) if odd == "flags" else 0
    return bytes((flags,)) + draw(request_ids()) + bytes((opcode,)) + payload


@effort(max_examples=1000)
@given(st.lists(bodies(), max_size=6), st.integers(1, 400), st.data())
def test_runs_are_judged_like_single_requests(
    requests: list[bytes], piece_bytes: int, data: st.DataObject
) -> None:
    """Whatever comes, also damaged in one byte: the same requests and the same end."""
    stream = bytearray().join(FrameWriter().frame(body) for body in requests)
    if stream and data.draw(st.sampled_from([True, False])):
        stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    wanted = ConnectionSettings(groups_runs=True, max_frame_bytes=32)
    grouping = ConnectedPair(server_settings=wanted).server
    single = ConnectedPair(server_settings=ConnectionSettings(max_frame_bytes=32)).server

    assert flat(drip(grouping, bytes(stream), piece_bytes)) == flat(
        single.receive_data(bytes(stream))
    )


@pytest.mark.parametrize("body_bytes", range(20))
def test_a_frame_that_ends_too_soon_is_not_completed_by_what_follows(body_bytes: int) -> None:
    """A GET of an empty key, of which a part stands behind the frame."""
    get = bytes((0,)) + b"r" * 16 + bytes((Opcode.GET, 0, 0))
    stream = FrameWriter().frame(get[:body_bytes]) + get[body_bytes:]
    grouping = ConnectedPair(server_settings=ConnectionSettings(groups_runs=True)).server
    single = ConnectedPair().server

    assert flat(grouping.receive_data(stream)) == flat(single.receive_data(stream))


SETS = [
    bytes((0,)) + bytes([n]) * 16 + bytes((Opcode.SET, 0, 1, 65 + n)) + b"\0\0\0\2vw" + bytes(5)
    for n in range(6)
]


def judge(stream: bytes) -> list[object]:
    """Return what a server makes of a stream in runs, having checked it against one without."""
    grouping = ConnectedPair(server_settings=ConnectionSettings(groups_runs=True)).server
    single = ConnectedPair().server
    events = flat(grouping.receive_data(stream))
    assert events == flat(single.receive_data(stream))
    return events


@pytest.mark.parametrize("is_checksum_right", [True, False])
def test_each_byte_of_a_set_in_a_pipeline_is_judged(is_checksum_right: bool) -> None:
    frames = [FrameWriter().frame(body) for body in SETS]
    assert len(judge(b"".join(frames))) == len(frames)
    for position in range(len(SETS[4] if is_checksum_right else frames[4])):
        for change in (1, 2, 4, 128):
            changed = list(frames)
            if is_checksum_right:
                body = bytearray(SETS[4])
                body[position] ^= change
                changed[4] = FrameWriter().frame(bytes(body))
            else:
                frame = bytearray(frames[4])
                frame[position] ^= change
                changed[4] = bytes(frame)
            assert judge(b"".join(changed))[:4] == judge(b"".join(frames[:4]))


def test_a_pipeline_of_sets_may_be_cut_anywhere() -> None:
    stream = b"".join(FrameWriter().frame(body) for body in SETS)
    whole = judge(stream)
    for cut in range(len(stream)):
        grouping = ConnectedPair(server_settings=ConnectionSettings(groups_runs=True)).server
        events = grouping.receive_data(stream[:cut]) + grouping.receive_data(stream[cut:])
        assert flat(events) == whole


def flat(events: list[Event]) -> list[object]:
    """Take runs apart, and reduce the end of a broken stream to its code."""
    parts: list[object] = []
    for event in events:
        if isinstance(event, GetRun | SetRun):
            parts += event.requests()
        elif isinstance(event, ConnectionBroken):
            parts.append(event.error.described)
        else:
            parts.append(event)
    return parts


def test_plain_gets_and_sets_come_in_runs() -> None:
    pair = ConnectedPair(server_settings=ConnectionSettings(groups_runs=True))
    names = [bytes([number]) * 16 for number in range(7)]
    get, put = Get(b"k"), Set(b"k", b"v")
    sent: list[Command] = [get, get, put, put, put, get, Ping(None)]
    stream = b"".join(map(pair.client.send_request, names, sent))

    events = pair.server.receive_data(stream)

    assert events[:2] == [
        GetRun(names[:2], [b"k"] * 2),
        SetRun(names[2:5], [b"k"] * 3, [b"v"] * 3),
    ]
    assert events[2:] == [
        GetRun(names[5:6], [b"k"]),
        Request(names[6], Ping(None), NO_METADATA, 1),
    ]
