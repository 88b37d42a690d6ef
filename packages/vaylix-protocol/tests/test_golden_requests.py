"""Requests and hellos against frames that were recorded from the published release."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

from vaylix_protocol import (
    NO_METADATA,
    ClientHello,
    Command,
    Compression,
    Connection,
    ConnectionSettings,
    Expiration,
    InvalidPayload,
    Metadata,
    Request,
    Role,
    SetCondition,
    TimeUnit,
)
from vaylix_protocol._frames import FrameWriter
from vaylix_protocol._hello import encode_client_hello
from vaylix_protocol._request_codec import encode_request
from vaylix_protocol.testing import ConnectedPair, drip

Row = dict[str, Any]
HEX_FIELDS = {"value"}
UNIT_NAMES = {TimeUnit.SECONDS: "s", TimeUnit.MILLISECONDS: "ms"}


def as_field(name: str, value: object) -> object:
    """The form that the golden data gives an attribute of a command."""
    if isinstance(value, bytes):
        return value.hex() if name in HEX_FIELDS else value.decode()
    if isinstance(value, Expiration):
        return {"unit": UNIT_NAMES[value.unit], "amount": value.amount}
    if isinstance(value, SetCondition):
        return None if value is SetCondition.NONE else value.name.lower()
    if name == "keys":
        assert isinstance(value, tuple)
        return [key.decode() for key in value]
    if name == "pairs":
        assert isinstance(value, tuple)
        return [[key.decode(), data.hex()] for key, data in value]
    return value


def matches(expected: object, name: str, value: object) -> bool:
    if isinstance(expected, dict) and "sha256" in expected:
        data = value.encode() if isinstance(value, str) else value
        assert isinstance(data, bytes)
        return expected == {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if isinstance(expected, list) and isinstance(value, tuple) and name == "pairs":
        return len(expected) == len(value) and all(
            matches(key, "key", own_key) and matches(data, "value", own_data)
            for (key, data), (own_key, own_data) in zip(expected, value, strict=True)
        )
    return expected == as_field(name, value)


def check_command(command: Command, row: Row) -> None:
    fields = {name: getattr(command, name) for name in command.__struct_fields__}
    if row["opcode"] in (0x42, 0x43):
        assert row["fields"] == {"json": fields["json"].decode()}
    assert fields.keys() == row["fields"].keys()
    for name, value in fields.items():
        assert matches(row["fields"][name], name, value), name


def metadata_of(row: Row) -> Metadata:
    fields = row["metadata"]
    trace_id = None if fields["trace_id"] is None else UUID(fields["trace_id"]).bytes
    return Metadata(fields["deadline_ms"], trace_id, fields["sequence"])


def test_request_frames_decode_to_the_recorded_fields(request_row: Row) -> None:
    frame = bytes.fromhex(request_row["frame"])

    (event,) = ConnectedPair().server.receive_data(frame)

    assert isinstance(event, Request)
    assert event.request_id.hex() == request_row["request_id"]
    assert event.metadata == metadata_of(request_row)
    assert (event.metadata is NO_METADATA) == (request_row["flags"] == 0)
    command = event.command
    assert not isinstance(command, InvalidPayload)
    assert command.opcode == request_row["opcode"]
    check_command(command, request_row)


def test_uncompressed_requests_encode_to_the_recorded_bytes(plain_request_row: Row) -> None:
    frame = bytes.fromhex(plain_request_row["frame"])
    pair = ConnectedPair(client_settings=ConnectionSettings(compression=Compression.NONE))
    (event,) = pair.server.receive_data(frame)
    assert isinstance(event, Request)
    assert not isinstance(event.command, InvalidPayload)

    encoded = pair.client.send_request(event.request_id, event.command, event.metadata)

    if plain_request_row.get("decode_only") and plain_request_row["command"] == "SET":
        assert encoded != frame
        assert pair.server.receive_data(encoded) == [
            Request(event.request_id, event.command, event.metadata, event.payload_bytes + 1)
        ]
    else:
        assert encoded == frame


def test_compressed_requests_have_the_recorded_body(compressed_request_row: Row) -> None:
    (event,) = ConnectedPair().server.receive_data(bytes.fromhex(compressed_request_row["frame"]))
    assert isinstance(event, Request)
    assert not isinstance(event.command, InvalidPayload)

    body = encode_request(event.request_id, event.command, event.metadata)

    assert matches(compressed_request_row["body"], "value", body)


def test_client_hellos_decode_and_encode_exactly(client_hello_row: Row) -> None:
    frame, fields = bytes.fromhex(client_hello_row["frame"]), client_hello_row["fields"]

    (hello,) = Connection(Role.SERVER, ConnectionSettings()).receive_data(frame)

    assert isinstance(hello, ClientHello)
    assert hello == ClientHello(
        fields["protocol_version"],
        fields["client_name"],
        fields["client_version"],
        fields["supported_capabilities"],
        Compression[fields["desired_compression"].upper()],
        fields["max_frame_len"],
        fields["auth_intent"],
    )
    if not client_hello_row["compressed"]:
        assert FrameWriter().frame(encode_client_hello(hello)) == frame


def test_requests_decode_alike_when_they_come_byte_by_byte(request_row: Row) -> None:
    frame = bytes.fromhex(request_row["frame"])
    chunk_bytes = 1 + len(frame) // 20_000

    events = drip(ConnectedPair().server, frame, chunk_bytes)

    assert events == ConnectedPair().server.receive_data(frame)
