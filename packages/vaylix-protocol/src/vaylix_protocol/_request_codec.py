"""Request bodies: metadata, request id, opcode, payload (VTP2 sections 5 and 6).

Two kinds of failure are told apart. A broken prefix raises, and ends the connection. A broken
payload becomes an `InvalidPayload` in place of the command, which the session answers with an
error when it is that request's turn.

GET and SET without options are decoded and encoded in line, without a reader or the table of
fields: they are nearly all of the traffic, and a method call for each field would cost more than
everything else together. An object for each costs as much again, so a server can have them in
columns instead.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from vaylix_protocol._constants import REQUEST_ID_BYTES, U16_MAX, Opcode
from vaylix_protocol._events import NO_METADATA, Event, GetRun, Metadata, Request, SetRun
from vaylix_protocol._fields import LAYOUTS, Field
from vaylix_protocol._primitives import Reader, write_u64, write_value
from vaylix_protocol.commands import (
    Command,
    CommandBase,
    Get,
    InvalidPayload,
    Set,
)
from vaylix_protocol.errors import ErrorCode, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["decode_request", "decode_requests", "encode_request"]

_DEADLINE_FLAG: Final = 0x01
_TRACE_FLAG: Final = 0x02
_SEQUENCE_FLAG: Final = 0x04
_KNOWN_FLAGS: Final = _DEADLINE_FLAG | _TRACE_FLAG | _SEQUENCE_FLAG

_PREFIX_BYTES: Final = 18
# Flags, request id, opcode, and the length of the key that most payloads begin with.
_BODY_START: Final = Struct(">B16sBH")
_KEY_OFFSET: Final = _BODY_START.size
_VALUE_LENGTH: Final = Struct(">I")
_LENGTH_BYTES: Final = _VALUE_LENGTH.size
_GET: Final = int(Opcode.GET)
_SET: Final = int(Opcode.SET)
# No condition, no expiration, neither keep_ttl nor return_previous, no version.
_NO_SET_OPTIONS: Final = bytes(5)
_OPTIONS_BYTES: Final = len(_NO_SET_OPTIONS)
# What a plain SET holds behind its key, beside the value.
_SET_TAIL_BYTES: Final = _LENGTH_BYTES + _OPTIONS_BYTES


def _decoders() -> Sequence[tuple[Callable[..., Command], tuple[Field, ...]] | None]:
    table: list[tuple[Callable[..., Command], tuple[Field, ...]] | None] = [None] * 256
    for command_class, fields in LAYOUTS.items():
        table[command_class.opcode] = (command_class, fields)  # type: ignore[assignment]
    return tuple(table)


_DECODERS: Final = _decoders()


def decode_requests(  # noqa: C901, PLR0912 - one flat loop, as calls for each cost too much
    bodies: Iterable[bytes], events: list[Event], *, groups_runs: bool
) -> None:
    """Decode `bodies` in order and append what they are to `events`.

    With `groups_runs`, GETs and SETs without options or metadata are collected in columns, as a
    `GetRun` or `SetRun`; otherwise all are requests.

    Raise RemoteProtocolError for a broken prefix, after the requests before it were appended.
    """
    append, no_metadata = events.append, NO_METADATA
    # Compiled code is quicker when it knows the types of what is unpacked.
    unpack_start: Callable[[bytes], tuple[int, bytes, int, int]] = _BODY_START.unpack_from
    unpack_length: Callable[[bytes, int], tuple[int]] = _VALUE_LENGTH.unpack_from
    # The run that the last event is; at most one of them.
    gets: GetRun | None = None
    sets: SetRun | None = None
    for body in bodies:
        length = len(body)
        if length >= _KEY_OFFSET:
            flags, request_id, opcode, key_bytes = unpack_start(body)
            if flags:
                pass
            elif opcode == _GET and key_bytes == length - _KEY_OFFSET:
                key = body[_KEY_OFFSET:]
                if key.isascii():
                    if not groups_runs:
                        append(Request(request_id, Get(key), no_metadata, length - _PREFIX_BYTES))
                    elif gets is None:
                        sets, gets = None, GetRun([request_id], [key])
                        append(gets)
                    else:
                        gets.request_ids.append(request_id)
                        gets.keys.append(key)
                    continue
            elif opcode == _SET and body[-_OPTIONS_BYTES:] == _NO_SET_OPTIONS:
                key_stop = _KEY_OFFSET + key_bytes
                value_bytes = length - key_stop - _SET_TAIL_BYTES
                # Lengths that do not lead right to the options are for the reader to judge.
                if value_bytes >= 0 and unpack_length(body, key_stop)[0] == value_bytes:
                    key = body[_KEY_OFFSET:key_stop]
                    if key.isascii():
                        value = body[key_stop + _LENGTH_BYTES : -_OPTIONS_BYTES]
                        if not groups_runs:
                            command = Set(key, value)
                            append(
                                Request(request_id, command, no_metadata, length - _PREFIX_BYTES)
                            )
                        elif sets is None:
                            gets, sets = None, SetRun([request_id], [key], [value])
                            append(sets)
                        else:
                            sets.request_ids.append(request_id)
                            sets.keys.append(key)
                            sets.values.append(value)
                        continue
        gets = sets = None
        append(decode_request(body))


def decode_request(body: bytes) -> Request:
    """Decode one request, whatever it is; raise RemoteProtocolError for a broken prefix."""
    if len(body) < _PREFIX_BYTES:
        raise RemoteProtocolError.of(ErrorCode.TRN_007)
    flags, opcode = body[0], body[17]
    if flags & ~_KNOWN_FLAGS:
        raise RemoteProtocolError.of(ErrorCode.TRN_008)
    decoder = _DECODERS[opcode]
    if decoder is None:
        raise RemoteProtocolError.of(ErrorCode.TRN_002, opcode=opcode)
    reader = Reader(body, _PREFIX_BYTES)
    metadata = _read_metadata(reader, flags) if flags else NO_METADATA
    payload_bytes = reader.left_bytes
    construct, fields = decoder
    command: Command | InvalidPayload
    try:
        command = construct(*[field.read(reader) for field in fields])
        reader.end()
    except RemoteProtocolError as error:
        command = InvalidPayload(Opcode(opcode), error.error_code)
    return Request(body[1:17], command, metadata, payload_bytes)


def _read_metadata(reader: Reader, flags: int) -> Metadata:
    return Metadata(
        reader.u64() if flags & _DEADLINE_FLAG else None,
        reader.take(REQUEST_ID_BYTES) if flags & _TRACE_FLAG else None,
        reader.u64() if flags & _SEQUENCE_FLAG else None,
    )


def encode_request(request_id: bytes, command: Command, metadata: Metadata) -> bytes:
    """Return the body of a request.

    Raise LocalProtocolError: TRN-008 for text or a number that its field cannot hold, TRN-012 for
    text that is not UTF-8. Raise TypeError for an attribute of a wrong type.
    """
    assert len(request_id) == REQUEST_ID_BYTES
    if metadata is NO_METADATA:
        body = _encode_quickly(request_id, command)
        if body is not None:
            return body
    flags, fields = (0, b"") if metadata is NO_METADATA else _write_metadata(metadata)
    payload = _write_payload(command)
    return b"".join((bytes((flags,)), request_id, bytes((command.opcode,)), fields, payload))


def _encode_quickly(request_id: bytes, command: Command) -> bytes | None:
    """Return the body of a GET or a SET without options; None for whatever needs more care."""
    if isinstance(command, Get):
        key = command.key
        if type(key) is bytes and len(key) <= U16_MAX and key.isascii():
            return _BODY_START.pack(0, request_id, _GET, len(key)) + key
    elif isinstance(command, Set) and not (
        command.condition
        or command.keep_ttl
        or command.return_previous
        or command.expiration is not None
        or command.if_version is not None
    ):
        key, value = command.key, command.value
        if type(key) is bytes and len(key) <= U16_MAX and key.isascii():
            prefix = _BODY_START.pack(0, request_id, _SET, len(key))
            return prefix + key + write_value(value) + _NO_SET_OPTIONS
    return None


def _write_metadata(metadata: Metadata) -> tuple[int, bytes]:
    flags = 0
    parts: list[bytes] = []
    if metadata.deadline_ms is not None:
        flags |= _DEADLINE_FLAG
        parts.append(write_u64(metadata.deadline_ms))
    if metadata.trace_id is not None:
        assert len(metadata.trace_id) == REQUEST_ID_BYTES
        flags |= _TRACE_FLAG
        parts.append(metadata.trace_id)
    if metadata.sequence is not None:
        flags |= _SEQUENCE_FLAG
        parts.append(write_u64(metadata.sequence))
    return flags, b"".join(parts)


def _write_payload(command: CommandBase) -> bytes:
    return b"".join(
        [
            field.write(getattr(command, name))
            for name, field in zip(command.__struct_fields__, LAYOUTS[type(command)], strict=True)
        ]
    )
