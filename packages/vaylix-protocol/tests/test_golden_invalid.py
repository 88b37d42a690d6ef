"""Malformed input: every row that the codec decides ends as recorded.

Left to the tests of the server, because its settings or its state decide: SRV codes, deadlines,
the payload limit, and the reply over the limit. Here those rows must decode to a request.
"""

from __future__ import annotations

from typing import Any

import pytest

from vaylix_protocol import (
    Clear,
    ClientHello,
    Command,
    Compression,
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
    InvalidPayload,
    List,
    LocalProtocolError,
    MGet,
    Multi,
    Ok,
    ReplyKind,
    Request,
    Role,
    Scan,
    Value,
)
from vaylix_protocol.testing import SERVER_ID, ConnectedPair, drip, feed

Row = dict[str, Any]


def connection_for(row: Row) -> Connection:
    if row["phase"] == "hello":
        return Connection(Role.SERVER, ConnectionSettings())
    if row["phase"] == "server_hello":
        client = Connection(Role.CLIENT, ConnectionSettings())
        client.hello()
        return client
    settings = ConnectionSettings(
        compression=Compression.NONE,
        max_frame_bytes=row.get("client_max_frame_len", 8 * 1024 * 1024),
    )
    return ConnectedPair(client_settings=settings).server


def run(row: Row) -> list[Event]:
    connection = connection_for(row)
    events = feed(connection, bytes.fromhex(row["bytes"]))
    if row["half_close_after"]:
        events += connection.receive_eof()
    return events


def is_decided_by_the_server(row: Row) -> bool:
    code = row["expected"].get("code") or ""
    # The one row about a reply that is too long for its connection.
    is_reply = row["name"] == "session_reply_over_negotiated_limit"
    return code.startswith("SRV") or code == "TRN-016" or is_reply


def test_invalid_input_has_the_recorded_outcome(invalid_stream_row: Row) -> None:
    expected = invalid_stream_row["expected"]
    events = run(invalid_stream_row)
    last = events[-1] if events else None
    match expected["action"]:
        case _ if is_decided_by_the_server(invalid_stream_row):
            assert isinstance(last, Request)
            assert not isinstance(last.command, InvalidPayload)
        case "close_without_reply" | "client_error":
            check_broken(last, expected, half_closed=invalid_stream_row["half_close_after"])
        case "error_reply_stay_open":
            assert isinstance(last, Request)
            assert isinstance(last.command, InvalidPayload)
            assert last.command.error_code.code == expected["code"]
            assert last.command.error_code.message() == expected["message"]
        case "rejection_hello_then_close":
            check_rejected(invalid_stream_row, last, expected)
        case "accept":
            assert isinstance(last, ClientHello)
        case "ok_reply_stay_open":
            assert isinstance(last, Request)
            assert not isinstance(last.command, InvalidPayload)
        case action:
            pytest.fail(f"unknown action {action}")


def check_broken(last: Event | None, expected: Row, *, half_closed: bool) -> None:
    if half_closed and isinstance(last, ConnectionClosed):
        assert expected["code"] == "TRN-007"
        return
    assert isinstance(last, ConnectionBroken)
    assert last.error.error_code.code == expected["code"]
    if "message" in expected:
        assert last.error.message == expected["message"]


def check_rejected(row: Row, last: Event | None, expected: Row) -> None:
    server = connection_for(row)
    assert server.receive_data(bytes.fromhex(row["bytes"])) == [last]
    assert isinstance(last, ClientHello)
    client = Connection(Role.CLIENT, ConnectionSettings())
    client.hello()

    hello, broken = client.receive_data(server.accept(last, SERVER_ID))

    assert server.is_rejected
    assert (hello.error_code, hello.error_message) == (  # type: ignore[union-attr]
        expected["code"],
        expected["message"],
    )
    assert isinstance(broken, ConnectionBroken)


RESPONSE_ID = bytes.fromhex("0198c0de0000700080000000000000ee")
COMMANDS: dict[ReplyKind, Command] = {
    ReplyKind.OK: Clear(),
    ReplyKind.ERROR: Clear(),
    ReplyKind.VALUE: Get(b"k"),
    ReplyKind.BOOL: Exists(b"k"),
    ReplyKind.COUNT: DbSize(),
    ReplyKind.INTEGER: Incr(b"k"),
    ReplyKind.ENTRIES: List(),
    ReplyKind.SCAN: Scan(0),
}


def client_that_waits_for(row: Row) -> Connection:
    """Return a client that has sent what the response of the row would answer."""
    kind = ReplyKind(row["decode_as"])
    pair = ConnectedPair()
    # How many items there are in a list follows from the request; one if no request has so many.
    count = int.from_bytes(bytes.fromhex(row["bytes"])[31:35], "big")
    count = count if count < 10 else 1
    if kind is ReplyKind.EXEC_RESULTS:
        before: list[Command] = [Multi(), *[MGet((b"k",))] * count]
        for number, command in enumerate(before):
            pair.client.send_request(bytes([number]) * 16, command)
        for number in range(len(before)):
            reply = Value(b"QUEUED") if number else Ok()
            pair.client.receive_data(pair.server.send_reply(bytes([number]) * 16, reply))
        pair.client.send_request(RESPONSE_ID, Exec())
    elif kind is ReplyKind.STRINGS:
        pair.client.send_request(RESPONSE_ID, MGet((b"k",) * count))
    else:
        pair.client.send_request(RESPONSE_ID, COMMANDS[kind])
    return pair.client


@pytest.mark.parametrize("chunk_bytes", [None, 1], ids=["whole", "byte by byte"])
def test_invalid_responses_are_refused_as_recorded(
    invalid_response_row: Row, chunk_bytes: int | None
) -> None:
    client = client_that_waits_for(invalid_response_row)
    stream = bytes.fromhex(invalid_response_row["bytes"])
    expected = invalid_response_row["expected"]

    events = drip(client, stream, chunk_bytes or len(stream)) + client.receive_eof()

    assert expected["action"] == "client_error"
    (event,) = events
    assert isinstance(event, ConnectionBroken)
    assert event.error.error_code.code == expected["code"]
    assert event.error.message == expected["message"]


def test_input_that_comes_in_drips_ends_alike(invalid_stream_row: Row) -> None:
    stream = bytes.fromhex(invalid_stream_row["bytes"])
    chunk_bytes = 1 + len(stream) // 10_000
    whole, dripped = connection_for(invalid_stream_row), connection_for(invalid_stream_row)

    assert describe(drip(dripped, stream, chunk_bytes)) == describe(feed(whole, stream))


def describe(events: list[Event]) -> list[str]:
    return [
        event.error.described if isinstance(event, ConnectionBroken) else repr(event)
        for event in events
    ]


def test_a_reply_over_the_negotiated_limit_is_refused_locally() -> None:
    pair = ConnectedPair(client_settings=ConnectionSettings(max_frame_bytes=64))
    request_id = bytes(16)

    assert len(pair.server.send_value(request_id, bytes(64 - 21))) == 14 + 64
    with pytest.raises(LocalProtocolError, match="65 bytes exceeds maximum 64") as caught:
        pair.server.send_reply(request_id, Value(bytes(64 - 20)))

    assert caught.value.error_code.code == "TRN-006"
