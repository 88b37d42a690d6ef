"""One end of a VTP2 connection as a state machine without I/O.

Theory of operation
===================
A connection has two directions that live and die on their own.

What comes in goes through these states:

    HELLO ----hello of the peer------------------> OPEN
    HELLO ----hello that must be rejected--------> STOPPED
    HELLO, OPEN ----violation, or end inside a message----> STOPPED, after ConnectionBroken
    OPEN ----end between two messages----> STOPPED, after ConnectionClosed

STOPPED is final: input is ignored and not buffered. A server's end of input does not stop its
output; replies to requests that came before can still be sent.

What goes out needs no states beyond "not yet" and "yes". A client may send its hello once, and
requests after the server's hello has come. A server may send replies after it has accepted the
hello. Before that the size limit of bodies is below zero, so that the quick senders, which look at
nothing but that limit, fall through to the careful one, which then finds the reason.

A server needs no time to think between the hello and what follows it in the same bytes: what is
negotiated depends on the hello and on our settings alone. So the requests behind a hello are
decoded at once, by the negotiated limits, and whether the hello is accepted only decides whether
anybody answers them.

Not here: time-outs, authentication, quotas, and transactions as a server sees them.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

from vaylix_protocol._constants import (
    PROTOCOL_VERSION,
    REQUEST_ID_BYTES,
    VALUE_OVERHEAD_BYTES,
    Role,
    Status,
)
from vaylix_protocol._events import (
    NO_METADATA,
    ClientHello,
    ConnectionBroken,
    ConnectionClosed,
    Event,
    Metadata,
)
from vaylix_protocol._frames import HEADER, PLAIN_MARK, FrameReader, FrameWriter
from vaylix_protocol._hello import (
    Negotiation,
    accept_hello,
    client_hello,
    decode_client_hello,
    decode_server_hello,
    encode_client_hello,
    encode_server_hello,
    negotiate,
    reject_hello,
)
from vaylix_protocol._outstanding import Outstanding
from vaylix_protocol._plain_runs import take_plain_runs
from vaylix_protocol._replies import Bool, ErrorReply, Integer, NotFound, Ok, Reply, Value
from vaylix_protocol._reply_codec import encode_response
from vaylix_protocol._request_codec import decode_requests, encode_request
from vaylix_protocol.commands import Exit, Help
from vaylix_protocol.errors import (
    ErrorCode,
    LocalProtocolError,
    RemoteProtocolError,
    error_reply,
)

if TYPE_CHECKING:
    from vaylix_protocol._settings import ConnectionSettings
    from vaylix_protocol.commands import Command, LocalCommand

__all__ = ["Connection"]

# Bodies of the quick senders: request id and status, then the payload.
_OK_BYTES: Final = REQUEST_ID_BYTES + 1
_BOOL_BYTES: Final = _OK_BYTES + 1
_INTEGER_BYTES: Final = _OK_BYTES + 8
_VALUE_OVERHEAD_BYTES: Final = VALUE_OVERHEAD_BYTES
_VALUE_HEAD: Final = Struct(">BI")
_INTEGER_TAIL: Final = Struct(">Bq")
# The header of a frame in two parts, for many of one length.
_HEADER_START: Final = Struct(">6sI")
_CHECKSUM: Final = Struct(">I")
# Mark and length, checksum, request id, and the zero that says "ok".
_OK_FRAME: Final = Struct(">10sI16sx")


class _Incoming(enum.Enum):
    HELLO = enum.auto()
    OPEN = enum.auto()
    STOPPED = enum.auto()


# To name a member of an enum takes as long as a look into a dict, and each read would do so.
_OPEN: Final = _Incoming.OPEN
_SERVER: Final = Role.SERVER


class Connection:
    """One end of a connection: bytes in, events out; messages in, bytes out.

    Give it everything that the socket delivers, and send everything that it returns, in order. It
    knows no socket, clock or thread; use it from one thread at a time.

    `receive_data` and `receive_eof` never raise because of what the peer sent. A violation is
    reported by `ConnectionBroken`, the last event, after everything that was valid before it.

    What is buffered: less than one frame, that is 14 bytes and `max_frame_bytes` of a payload
    whose header has been checked; with `has_more`, also all that was given and is behind the last
    event, as it came. The events of one call stand for what was buffered and given to it, plus
    less than 16 MiB where the peer compresses; if more would come out, `has_more` is true. As
    objects a list of tiny items takes a multiple of its bytes, up to 100 MiB for entries of 6 bytes
    in a frame of 8 MiB; all other lists are no longer than what can be, or was, asked for.

    While `one_at_a_time` is set, a call returns one message at most, and what stands behind it is
    neither decompressed nor decoded. For owners that may have to stop behind any message and must
    not hold what comes after it. A hello is followed by the first message in the same call.
    """

    __slots__ = (
        "_eof",
        "_incoming",
        "_negotiation",
        "_outstanding",
        "_plain_bytes_max",
        "_plain_value_bytes_max",
        "_reader",
        "_rejected",
        "_role",
        "_said_hello",
        "_settings",
        "_writer",
        "one_at_a_time",
    )

    def __init__(self, role: Role, settings: ConnectionSettings) -> None:
        self._role = role
        self._settings = settings
        self._incoming = _Incoming.HELLO
        self._reader = FrameReader()
        self._writer = FrameWriter()
        self._outstanding = Outstanding(settings.outstanding_max)
        self._negotiation: Negotiation | None = None
        self._said_hello = False
        self._rejected = False
        self._eof = False
        # For the owner to set, see above.
        self.one_at_a_time = False
        self._plain_bytes_max = -1
        self._plain_value_bytes_max = -1

    # State that users may look at.

    @property
    def role(self) -> Role:
        """Which end this is."""
        return self._role

    @property
    def negotiation(self) -> Negotiation | None:
        """What was agreed on; None before the hello of the peer, and if it was rejected."""
        return self._negotiation

    @property
    def is_rejected(self) -> bool:
        """Whether the server has turned the client away, or must do so."""
        return self._rejected

    @property
    def has_more(self) -> bool:
        """Whether `receive_data(b"")` may return further events without further input.

        Compressed input can stand for far more than its size, so one call decompresses a bounded
        amount, and with `one_at_a_time` one frame. Take the events, then call again, before the
        next input.
        """
        return self._reader.has_more

    @property
    def buffered_bytes(self) -> int:
        """How much input waits for the rest of its message, or for the next call."""
        return self._reader.buffered_bytes

    # Input.

    def receive_data(self, data: bytes) -> list[Event]:
        """Return the events that `data` completes, in order."""
        assert not (self._eof and data), "data after the end"
        events: list[Event] = []
        if self._incoming is _OPEN:
            self._read(data, events)
        elif self._incoming is _Incoming.HELLO:
            self._read_hello(data, events)
        return events

    def receive_eof(self) -> list[Event]:
        """Return what follows from the end of the peer's stream.

        With `has_more`, nothing does yet: the end is reported behind the events that are still to
        come from `receive_data`.
        """
        self._eof = True
        return [] if self.has_more else self.receive_data(b"")

    def _read(self, data: bytes, events: list[Event]) -> None:
        reader = self._reader
        groups_runs, position = self._settings.groups_runs, 0
        if self.one_at_a_time:
            bodies = reader.read_one(data)
        else:
            data = reader.join(data)
            if groups_runs and self._role is _SERVER:
                position = take_plain_runs(data, reader.frame_bytes_max, events)
            bodies = reader.read_from(data, position)
        try:
            if not bodies:
                pass
            elif self._role is _SERVER:
                decode_requests(bodies, events, groups_runs=groups_runs)
            else:
                for body in bodies:
                    events.append(self._outstanding.match(body))  # noqa: PERF401 - may raise
        except RemoteProtocolError as failure:
            self._break(failure, events)
            return
        if reader.failure is not None or self._eof:
            self._finish(events)

    def _read_hello(self, data: bytes, events: list[Event]) -> None:
        bodies = self._reader.read_one(data)
        if not bodies:
            self._finish(events)
            return
        try:
            if self._role is Role.SERVER:
                self._take_client_hello(decode_client_hello(bodies[0]), events)
            else:
                self._take_server_hello(bodies[0], events)
        except RemoteProtocolError as failure:
            self._break(failure, events)
            return
        if self._negotiation is not None:
            # What is behind the hello had to wait for the negotiated limits.
            self._read(b"", events)

    def _take_client_hello(self, hello: ClientHello, events: list[Event]) -> None:
        events.append(hello)
        if hello.protocol_version != PROTOCOL_VERSION:
            self._rejected = True
            self._stop()
            return
        self._adopt(negotiate(hello, self._settings))

    def _take_server_hello(self, body: bytes, events: list[Event]) -> None:
        hello = decode_server_hello(body)
        events.append(hello)
        if hello.status is not Status.OK:
            self._rejected = True
            raise RemoteProtocolError.of(ErrorCode.TRN_014, detail="server rejected startup")
        if hello.protocol_version != PROTOCOL_VERSION:
            raise RemoteProtocolError.of(
                ErrorCode.TRN_014, detail="unsupported server protocol version"
            )
        # A server that claims more than we offered does not get it.
        compression = min(hello.compression, self._settings.compression)
        max_frame_bytes = min(hello.max_frame_bytes, self._settings.max_frame_bytes)
        self._adopt(Negotiation(compression, hello.capabilities, max_frame_bytes))
        self._open_output()

    def _adopt(self, negotiation: Negotiation) -> None:
        self._negotiation = negotiation
        self._incoming = _Incoming.OPEN
        self._reader.frame_bytes_max = negotiation.max_frame_bytes

    def _finish(self, events: list[Event]) -> None:
        """Report a broken or ended stream, if that is what it is, behind all other events."""
        reader = self._reader
        if reader.failure is not None:
            self._break(reader.failure, events)
        elif self._eof and not reader.has_more:
            if reader.buffered_bytes or self._incoming is _Incoming.HELLO:
                self._break(RemoteProtocolError.of(ErrorCode.TRN_007), events)
            else:
                self._stop()
                events.append(ConnectionClosed())

    def _break(self, failure: RemoteProtocolError, events: list[Event]) -> None:
        self._stop()
        # The traceback would keep the buffers of this call alive.
        events.append(ConnectionBroken(failure.with_traceback(None)))

    def _stop(self) -> None:
        self._incoming = _Incoming.STOPPED
        self._reader.stop()

    # Output of a client.

    def hello(self) -> bytes:
        """Return the client's hello, the first thing to send."""
        assert self._role is Role.CLIENT
        assert not self._said_hello, "one hello per connection"
        self._said_hello = True
        return self._writer.frame(encode_client_hello(client_hello(self._settings)))

    def send_request(
        self,
        request_id: bytes,
        command: Command | LocalCommand,
        metadata: Metadata = NO_METADATA,
    ) -> bytes:
        """Return the bytes of a request, and remember what its response will be.

        `request_id` is 16 raw bytes, unique among the requests without a response. Raise
        LocalProtocolError, after which nothing has happened: TRN-004 for a local command, TRN-006
        for a request over the negotiated limit, TRN-008 and TRN-012 for fields that cannot be
        encoded, TRN-018 before the server's hello and beyond `outstanding_max`.
        """
        assert self._role is Role.CLIENT
        if isinstance(command, Exit | Help):
            what = type(command).__name__.lower()
            raise LocalProtocolError.of(ErrorCode.TRN_004, what=what)
        self._check_output()
        self._outstanding.check_room()
        frame = self._writer.frame(encode_request(request_id, command, metadata))
        self._outstanding.add(request_id, command)
        return frame

    # Output of a server.

    def accept(self, hello: ClientHello, server_id: bytes) -> bytes:
        """Return the server's hello, which accepts or, by its version, rejects the client.

        `server_id` is 16 raw bytes, new for each connection. See `is_rejected` afterwards; then
        send what was returned and close.
        """
        if hello.protocol_version != PROTOCOL_VERSION:
            detail = "unsupported protocol version"
            return self.reject(error_reply(ErrorCode.TRN_014, detail=detail))
        negotiation = self._negotiation
        assert self._role is Role.SERVER
        assert negotiation is not None, "accept what receive_data has reported"
        assert not self._said_hello, "one hello per connection"
        self._said_hello = True
        frame = self._writer.frame(encode_server_hello(accept_hello(negotiation, server_id)))
        self._open_output()
        return frame

    def reject(self, refusal: ErrorReply) -> bytes:
        """Return a server's hello that turns the client away; nothing more is read or sent."""
        assert self._role is Role.SERVER
        assert not self._said_hello, "one hello per connection"
        self._said_hello = True
        self._rejected = True
        self._negotiation = None
        self._stop()
        return self._writer.frame(encode_server_hello(reject_hello(refusal)))

    def send_reply(self, request_id: bytes, reply: Reply) -> bytes:
        """Return the bytes of any reply.

        Raise LocalProtocolError: TRN-006 for a body over the negotiated limit, after which a
        server closes the connection; TRN-008 and TRN-012 for fields that cannot be encoded.
        """
        assert self._role is Role.SERVER
        self._check_output()
        return self._writer.frame(encode_response(request_id, reply))

    # The quick senders do what `send_reply` does, for the most frequent replies.

    def send_ok(self, request_id: bytes) -> bytes:
        """Return the bytes of `Ok()`; errors as for `send_reply`."""
        if self._plain_bytes_max < _OK_BYTES:
            return self.send_reply(request_id, Ok())
        body = request_id + b"\x00"
        assert len(body) == _OK_BYTES
        return HEADER.pack(PLAIN_MARK, _OK_BYTES, crc32(body)) + body

    def send_not_found(self, request_id: bytes) -> bytes:
        """Return the bytes of `NotFound()`; errors as for `send_reply`."""
        if self._plain_bytes_max < _OK_BYTES:
            return self.send_reply(request_id, NotFound())
        body = request_id + b"\x02"
        assert len(body) == _OK_BYTES
        return HEADER.pack(PLAIN_MARK, _OK_BYTES, crc32(body)) + body

    def send_value(self, request_id: bytes, data: bytes) -> bytes:
        """Return the bytes of `Value(data)`; errors as for `send_reply`."""
        data_bytes = len(data)
        if data_bytes > self._plain_value_bytes_max:
            return self.send_reply(request_id, Value(data))
        body = request_id + _VALUE_HEAD.pack(0, data_bytes) + data
        length = data_bytes + _VALUE_OVERHEAD_BYTES
        assert len(body) == length
        return HEADER.pack(PLAIN_MARK, length, crc32(body)) + body

    def send_bool(self, request_id: bytes, flag: bool) -> bytes:  # noqa: FBT001 - the datum
        """Return the bytes of `Bool(flag)`; errors as for `send_reply`."""
        if self._plain_bytes_max < _BOOL_BYTES:
            return self.send_reply(request_id, Bool(flag))
        body = request_id + (b"\x00\x01" if flag else b"\x00\x00")
        assert len(body) == _BOOL_BYTES
        return HEADER.pack(PLAIN_MARK, _BOOL_BYTES, crc32(body)) + body

    def send_integer(self, request_id: bytes, number: int) -> bytes:
        """Return the bytes of `Integer(number)`; errors as for `send_reply`."""
        if self._plain_bytes_max < _INTEGER_BYTES or not -(2**63) <= number < 2**63:
            return self.send_reply(request_id, Integer(number))
        body = request_id + _INTEGER_TAIL.pack(0, number)
        assert len(body) == _INTEGER_BYTES
        return HEADER.pack(PLAIN_MARK, _INTEGER_BYTES, crc32(body)) + body

    # The same for many requests at a time: what a pipeline of GETs or SETs is answered with.

    def send_oks(self, request_ids: list[bytes]) -> bytes:
        """Return the bytes of `Ok()` for each request, in order; errors as for `send_reply`."""
        if self._plain_bytes_max < _OK_BYTES:
            return b"".join([self.send_ok(request_id) for request_id in request_ids])
        parts: list[bytes] = []
        pack, checksum_of = _OK_FRAME.pack, crc32
        header = _HEADER_START.pack(PLAIN_MARK, _OK_BYTES)
        for request_id in request_ids:
            body = request_id + b"\x00"
            assert len(body) == _OK_BYTES
            parts.append(pack(header, checksum_of(body), request_id))
        return b"".join(parts)

    def send_values(self, request_ids: list[bytes], values: list[bytes | None]) -> bytes:
        """Return the bytes of `Value(data)`, or of `NotFound()` for None, for each request.

        Errors as for `send_reply`; then nothing is returned for any of them.
        """
        plain_value_bytes_max = self._plain_value_bytes_max
        parts: list[bytes] = []
        append, pack_checksum, checksum_of = parts.append, _CHECKSUM.pack, crc32
        # Values in a row often have one length, so what depends on it only is kept.
        known_bytes, header, head = -1, b"", b""
        assert len(request_ids) == len(values)
        for position, request_id in enumerate(request_ids):
            data = values[position]
            if data is None:
                append(self.send_not_found(request_id))
                continue
            data_bytes = len(data)
            if data_bytes != known_bytes:
                if data_bytes > plain_value_bytes_max:
                    append(self.send_value(request_id, data))
                    continue
                known_bytes, head = data_bytes, _VALUE_HEAD.pack(0, data_bytes)
                header = _HEADER_START.pack(PLAIN_MARK, data_bytes + _VALUE_OVERHEAD_BYTES)
            body = request_id + head + data
            assert len(body) == data_bytes + _VALUE_OVERHEAD_BYTES
            append(header)
            append(pack_checksum(checksum_of(body)))
            append(body)
        return b"".join(parts)

    def _open_output(self) -> None:
        """Let messages other than the hello be sent, by the negotiated rules."""
        negotiation = self._negotiation
        assert negotiation is not None
        writer = self._writer
        writer.frame_bytes_max = negotiation.max_frame_bytes
        writer.compression = negotiation.compression
        writer.compression_threshold_bytes = self._settings.compression_threshold_bytes
        self._plain_bytes_max = writer.plain_bytes_max
        self._plain_value_bytes_max = writer.plain_bytes_max - _VALUE_OVERHEAD_BYTES

    def _check_output(self) -> None:
        """Raise LocalProtocolError unless both hellos are through."""
        opened = self._negotiation is not None and self._said_hello
        if not opened:
            raise LocalProtocolError.of(ErrorCode.TRN_018, detail="hello first")
