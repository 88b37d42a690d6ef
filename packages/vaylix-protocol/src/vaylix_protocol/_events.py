"""What a connection reports: the values that `receive_data` and `receive_eof` return."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from vaylix_protocol._constants import Capabilities, Compression, Status
from vaylix_protocol._replies import Reply
from vaylix_protocol.commands import Command, Get, InvalidPayload, Set
from vaylix_protocol.errors import RemoteProtocolError

__all__ = [
    "NO_METADATA",
    "PLAIN_SET_BYTES",
    "ClientHello",
    "ConnectionBroken",
    "ConnectionClosed",
    "Event",
    "GetRun",
    "Metadata",
    "Request",
    "Response",
    "ServerHello",
    "SetRun",
]

# Payload bytes of a plain GET beside its key, and of a plain SET beside key and value (section 6).
_GET_BYTES: Final = 2
PLAIN_SET_BYTES: Final = 11


class Metadata(msgspec.Struct, frozen=True, gc=False):
    """Optional facts about a request (VTP2 sections 5 and 10); None means absent.

    `trace_id` is 16 raw bytes, the numbers are 64 bits wide. Only two things have an effect on a
    server: a deadline of 0, and the presence of a sequence number inside a transaction.
    """

    deadline_ms: int | None = None
    trace_id: bytes | None = None
    sequence: int | None = None


# A request without metadata carries this very object, so `is NO_METADATA` is a cheap test.
NO_METADATA: Final = Metadata()


class ClientHello(msgspec.Struct, frozen=True, gc=False):
    """First message of a client (VTP2 section 4.1).

    `capabilities` holds all bits that came, unknown ones included.
    """

    protocol_version: int
    client_name: str
    client_version: str
    capabilities: int
    compression: Compression
    max_frame_bytes: int
    auth_intent: bool


class ServerHello(msgspec.Struct, frozen=True, gc=False):
    """Answer to the client hello (VTP2 section 4.4).

    A status other than OK is a rejection, and only then there are code, name and message.
    """

    protocol_version: int
    capabilities: Capabilities
    compression: Compression
    max_frame_bytes: int
    server_id: bytes
    status: Status
    error_code: str | None = None
    error_name: str | None = None
    error_message: str | None = None


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request as the server sees it. `payload_bytes` counts the opcode payload only."""

    request_id: bytes
    command: Command | InvalidPayload
    metadata: Metadata
    payload_bytes: int


class GetRun(msgspec.Struct, frozen=True, gc=False):
    """GETs in a row, one or more, in columns; where `ConnectionSettings.groups_runs` asks for it.

    None of them has metadata, and all keys are ASCII.
    """

    request_ids: list[bytes]
    keys: list[bytes]

    def requests(self) -> list[Request]:
        """Return the same as single requests."""
        return [
            Request(request_id, Get(key), NO_METADATA, _GET_BYTES + len(key))
            for request_id, key in zip(self.request_ids, self.keys, strict=True)
        ]


class SetRun(msgspec.Struct, frozen=True, gc=False):
    """SETs in a row, one or more, in columns; where `ConnectionSettings.groups_runs` asks for it.

    None of them has options or metadata, and all keys are ASCII.
    """

    request_ids: list[bytes]
    keys: list[bytes]
    values: list[bytes]

    def requests(self) -> list[Request]:
        """Return the same as single requests."""
        rows = zip(self.request_ids, self.keys, self.values, strict=True)
        return [
            Request(
                request_id, Set(key, value), NO_METADATA, PLAIN_SET_BYTES + len(key) + len(value)
            )
            for request_id, key, value in rows
        ]


class Response(msgspec.Struct, frozen=True, gc=False):
    """A reply as the client sees it, in the order of the requests."""

    request_id: bytes
    reply: Reply


class ConnectionClosed(msgspec.Struct, frozen=True, gc=False):
    """The peer has finished sending, between two messages. Always the last event."""


class ConnectionBroken(msgspec.Struct, frozen=True):
    """The peer violated the protocol, or was lost inside a message. Always the last event.

    Nothing that comes later is read. Exceptions can be part of reference cycles, so unlike all
    other events this one is known to the garbage collector.
    """

    error: RemoteProtocolError


Event: TypeAlias = (
    ClientHello
    | ServerHello
    | Request
    | GetRun
    | SetRun
    | Response
    | ConnectionClosed
    | ConnectionBroken
)
