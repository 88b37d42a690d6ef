"""The two hello messages, and what follows from them (VTP2 section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_protocol._constants import (
    FRAME_BYTES_MAX,
    PROTOCOL_VERSION,
    REQUEST_ID_BYTES,
    Capabilities,
    Compression,
    Status,
)
from vaylix_protocol._events import ClientHello, ServerHello
from vaylix_protocol._primitives import (
    Reader,
    write_bool,
    write_text16,
    write_u32,
    write_u64,
)
from vaylix_protocol.errors import ErrorCode, RemoteProtocolError

if TYPE_CHECKING:
    from vaylix_protocol._replies import ErrorReply
    from vaylix_protocol._settings import ConnectionSettings

__all__ = [
    "Negotiation",
    "accept_hello",
    "client_hello",
    "decode_client_hello",
    "decode_server_hello",
    "encode_client_hello",
    "encode_server_hello",
    "negotiate",
    "reject_hello",
]

_CLIENT_KIND: Final = 0xF0
_SERVER_KIND: Final = 0xF1
_CLIENT_TAIL_BYTES: Final = 8 + 1 + 4 + 1
_SERVER_HELLO_BYTES_MIN: Final = 1 + 1 + 8 + 1 + 4 + 16 + 1


class Negotiation(msgspec.Struct, frozen=True, gc=False):
    """What both ends have agreed on. `max_frame_bytes` counts for both directions."""

    compression: Compression
    capabilities: Capabilities
    max_frame_bytes: int


def negotiate(hello: ClientHello, settings: ConnectionSettings) -> Negotiation:
    """Decide as a server what a connection will use (VTP2 section 4.3, steps 2 to 5)."""
    capabilities = Capabilities(hello.capabilities & Capabilities.ALL)
    compression = Compression.ZSTD
    if (
        settings.compression is Compression.NONE
        or hello.compression is Compression.NONE
        or not capabilities & Capabilities.ZSTD
    ):
        compression = Compression.NONE
        capabilities &= ~Capabilities.ZSTD
    max_frame_bytes = min(hello.max_frame_bytes, settings.max_frame_bytes)
    return Negotiation(compression, capabilities, max_frame_bytes)


def client_hello(settings: ConnectionSettings) -> ClientHello:
    """Return the hello that a client with these settings sends."""
    return ClientHello(
        PROTOCOL_VERSION,
        settings.client_name,
        settings.client_version,
        int(settings.capabilities),
        settings.compression,
        settings.max_frame_bytes,
        settings.auth_intent,
    )


def accept_hello(negotiation: Negotiation, server_id: bytes) -> ServerHello:
    """Return the hello of a server that takes the client."""
    return ServerHello(
        PROTOCOL_VERSION,
        negotiation.capabilities,
        negotiation.compression,
        negotiation.max_frame_bytes,
        server_id,
        Status.OK,
    )


def reject_hello(refusal: ErrorReply) -> ServerHello:
    """Return the hello of a server that turns the client away."""
    return ServerHello(
        PROTOCOL_VERSION,
        Capabilities.NONE,
        Compression.NONE,
        FRAME_BYTES_MAX,
        bytes(REQUEST_ID_BYTES),
        Status.ERROR,
        refusal.code,
        refusal.name,
        refusal.message,
    )


def encode_client_hello(hello: ClientHello) -> bytes:
    """Return the body of a client hello."""
    return b"".join(
        (
            bytes((_CLIENT_KIND, hello.protocol_version)),
            write_text16(hello.client_name),
            write_text16(hello.client_version),
            write_u64(hello.capabilities),
            bytes((hello.compression,)),
            write_u32(hello.max_frame_bytes),
            write_bool(hello.auth_intent),
        )
    )


def decode_client_hello(body: bytes) -> ClientHello:
    """Read the body of a client hello. The version is not judged here (VTP2 section 4.1)."""
    reader = Reader(body)
    if len(body) < 2:
        raise RemoteProtocolError.of(ErrorCode.TRN_007)
    if reader.u8() != _CLIENT_KIND:
        raise RemoteProtocolError.of(ErrorCode.TRN_018, detail="expected client hello")
    protocol_version = reader.u8()
    client_name = reader.text16()
    client_version = reader.text16()
    if reader.left_bytes < _CLIENT_TAIL_BYTES:
        raise RemoteProtocolError.of(ErrorCode.TRN_007)
    hello = ClientHello(
        protocol_version,
        client_name,
        client_version,
        reader.u64(),
        _compression(reader),
        reader.u32(),
        reader.flag(),
    )
    reader.end()
    return hello


def encode_server_hello(hello: ServerHello) -> bytes:
    """Return the body of a server hello."""
    assert len(hello.server_id) == REQUEST_ID_BYTES
    return b"".join(
        (
            bytes((_SERVER_KIND, hello.protocol_version)),
            write_u64(hello.capabilities),
            bytes((hello.compression,)),
            write_u32(hello.max_frame_bytes),
            hello.server_id,
            bytes((hello.status,)),
            _optional(hello.error_code),
            _optional(hello.error_name),
            _optional(hello.error_message),
        )
    )


def decode_server_hello(body: bytes) -> ServerHello:
    """Read the body of a server hello. Status and version are not judged here."""
    reader = Reader(body)
    if len(body) < _SERVER_HELLO_BYTES_MIN:
        raise RemoteProtocolError.of(ErrorCode.TRN_007)
    if reader.u8() != _SERVER_KIND:
        raise RemoteProtocolError.of(ErrorCode.TRN_018, detail="expected server hello")
    hello = ServerHello(
        reader.u8(),
        Capabilities(reader.u64() & Capabilities.ALL),
        _compression(reader),
        reader.u32(),
        reader.take(REQUEST_ID_BYTES),
        _status(reader),
        _optional_text(reader),
        _optional_text(reader),
        _optional_text(reader),
    )
    reader.end()
    return hello


def _compression(reader: Reader) -> Compression:
    value = reader.u8()
    if value > Compression.ZSTD:
        raise RemoteProtocolError.of(ErrorCode.TRN_015, detail="unknown compression mode")
    return Compression(value)


def _status(reader: Reader) -> Status:
    value = reader.u8()
    if value > Status.NOT_FOUND:
        raise RemoteProtocolError.of(ErrorCode.TRN_003, status=value)
    return Status(value)


def _optional(text: str | None) -> bytes:
    return b"\x00" if text is None else b"\x01" + write_text16(text)


def _optional_text(reader: Reader) -> str | None:
    return reader.text16() if reader.flag() else None
