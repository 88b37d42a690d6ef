"""Responses and server hellos against frames that were recorded from the published release."""

from __future__ import annotations

import hashlib
from typing import Any

from vaylix_protocol import (
    Bool,
    Capabilities,
    Compression,
    Connection,
    ConnectionBroken,
    ConnectionSettings,
    CountReply,
    Entries,
    ErrorReply,
    ExecResults,
    Integer,
    Json,
    NotFound,
    Ok,
    Reply,
    ReplyKind,
    Role,
    ScanPage,
    ServerHello,
    Status,
    Strings,
    Value,
)
from vaylix_protocol._frames import FrameReader, FrameWriter
from vaylix_protocol._hello import encode_server_hello
from vaylix_protocol._reply_codec import decode_reply, encode_response, split_response

Row = dict[str, Any]


def unhex(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def data(text: str) -> bytes:
    return bytes.fromhex(text)


def pairs_of(entries: list[list[str]]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((key.encode(), data(value)) for key, value in entries)


def reply_of(kind: str, fields: Row) -> Reply:  # noqa: C901 - one case for each kind
    """Build the reply that a row describes."""
    match kind:
        case "OK":
            return Ok()
        case "NOT_FOUND":
            return NotFound()
        case "VALUE":
            return Value(data(fields["value"]))
        case "BOOL":
            return Bool(fields["value"])
        case "COUNT":
            return CountReply(fields["value"])
        case "INTEGER":
            return Integer(fields["value"])
        case "ENTRIES":
            return Entries(pairs_of(fields["entries"]))
        case "STRINGS":
            return Strings(tuple(unhex(value) for value in fields["values"]))
        case "SCAN":
            return ScanPage(fields["next_cursor"], tuple(key.encode() for key in fields["keys"]))
        case "EXEC_RESULTS":
            return ExecResults(tuple(reply_of(item["kind"], item) for item in fields["items"]))
        case "ERROR":
            return ErrorReply(fields["code"], fields["name"], fields["message"])
        case "JSON":
            return Json(fields["json"].encode())
    raise AssertionError(kind)


def body_of(row: Row) -> bytes:
    (body,) = FrameReader().read(bytes.fromhex(row["frame"]))
    return body


def test_response_frames_decode_to_the_recorded_fields(response_row: Row) -> None:
    request_id, status, reader = split_response(body_of(response_row))
    fields = response_row["fields"]

    reply = decode_reply(status, reader, ReplyKind(response_row["kind"]))

    assert request_id.hex() == response_row["request_id"]
    assert status == response_row["status"]
    if isinstance(fields.get("value"), dict):
        assert isinstance(reply, Value)
        digest = hashlib.sha256(reply.data).hexdigest()
        assert fields["value"] == {"length": len(reply.data), "sha256": digest}
    else:
        assert reply == reply_of(response_row["kind"], fields)


def test_uncompressed_responses_encode_to_the_recorded_bytes(plain_response_row: Row) -> None:
    body = body_of(plain_response_row)
    request_id, status, reader = split_response(body)
    reply = decode_reply(status, reader, ReplyKind(plain_response_row["kind"]))

    frame = FrameWriter().frame(encode_response(request_id, reply))

    assert frame.hex() == plain_response_row["frame"]


def test_server_hellos_decode_and_encode_exactly(server_hello_row: Row) -> None:
    fields = server_hello_row["fields"]
    client = Connection(Role.CLIENT, ConnectionSettings())
    client.hello()

    hello, *rest = client.receive_data(bytes.fromhex(server_hello_row["frame"]))

    assert isinstance(hello, ServerHello)
    assert hello == ServerHello(
        fields["protocol_version"],
        Capabilities(fields["accepted_capabilities"]),
        Compression[fields["compression"].upper()],
        fields["max_frame_len"],
        bytes.fromhex(fields["server_id"].replace("-", "")),
        Status(fields["status"]),
        fields["error_code"],
        fields["error_name"],
        fields["error_message"],
    )
    accepted = fields["status"] == 0 and fields["protocol_version"] == 2
    assert bool(rest) == (not accepted)
    assert all(isinstance(event, ConnectionBroken) for event in rest)
    assert FrameWriter().frame(encode_server_hello(hello)).hex() == server_hello_row["frame"]
