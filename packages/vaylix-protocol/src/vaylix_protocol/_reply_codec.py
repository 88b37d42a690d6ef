"""Response bodies: request id, status, payload (VTP2 sections 7 and 8).

Nothing in a response says what its payload is, so a decoder needs the kind that the command leads
it to expect. Results of EXEC carry tags instead.

A frame that compression made tiny can stand for millions of tiny items, and as objects they take a
multiple of their bytes. So the count of a list is judged before anything of it is read:

- More items than there are bytes for them are TRN-007.
- How many strings answer an MGET, and how many results an EXEC, is known; any other number is
  TRN-008. Results without a transaction are as many as none.
- A page of SCAN has at most as many keys as can be asked for, 65 535.
- Entries are as many as there are. They take at least 6 bytes each, so a frame holds at most 1.4
  million, about 100 MiB as objects; a client that finds this too much negotiates smaller frames.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from vaylix_protocol._constants import REQUEST_ID_BYTES, U16_MAX, ReplyKind, Status
from vaylix_protocol._primitives import (
    Reader,
    write_bool,
    write_i64,
    write_key16,
    write_text16,
    write_text32,
    write_u32,
    write_u64,
    write_value,
)
from vaylix_protocol._replies import (
    Bool,
    CountReply,
    Entries,
    ErrorReply,
    ExecResults,
    Integer,
    Json,
    NotFound,
    Ok,
    Queued,
    Reply,
    ScanPage,
    Strings,
    Value,
)
from vaylix_protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    _Read: TypeAlias = Callable[[Reader, "Expected"], Reply]

__all__ = [
    "NO_STRINGS",
    "QUEUED_BODY",
    "Expected",
    "decode_reply",
    "encode_response",
    "split_response",
]

# How many strings the reply must have for each command that it answers: several for EXEC, else
# one. It is the number of keys of an MGET, and of no use for any other command (NO_STRINGS).
Expected: TypeAlias = tuple[int, ...] | None
NO_STRINGS: Final = -1

_PREFIX_BYTES: Final = REQUEST_ID_BYTES + 1
# The length of an empty key; with that of an empty value; the flag of an absent string; a tag.
_KEY_BYTES_MIN: Final = 2
_ENTRY_BYTES_MIN: Final = 6
_STRING_BYTES_MIN: Final = 1
_RESULT_BYTES_MIN: Final = 1
QUEUED_BODY: Final = write_value(b"QUEUED")

_STATUSES: Final = tuple(Status)

_OK: Final = Ok()
_NOT_FOUND: Final = NotFound()


def split_response(body: bytes) -> tuple[bytes, Status, Reader]:
    """Return request id, status and a reader at the payload; raise TRN-007 or TRN-003."""
    if len(body) < _PREFIX_BYTES:
        raise RemoteProtocolError.of(ErrorCode.TRN_007)
    status = body[REQUEST_ID_BYTES]
    if status >= len(_STATUSES):
        raise RemoteProtocolError.of(ErrorCode.TRN_003, status=status)
    return body[:REQUEST_ID_BYTES], _STATUSES[status], Reader(body, _PREFIX_BYTES)


def decode_reply(
    status: Status, reader: Reader, kind: ReplyKind, expected: Expected = None
) -> Reply:
    """Read the payload of a response to a command whose successful reply is of `kind`.

    Raise RemoteProtocolError for a payload of another form.
    """
    reply: Reply
    if status is Status.NOT_FOUND:
        reply = _NOT_FOUND
    elif status is Status.ERROR:
        reply = ErrorReply(reader.text16(), reader.text16(), reader.text32())
    else:
        reply = _READERS[kind](reader, expected)
    reader.end()
    return reply


def _read_count(reader: Reader, item_bytes_min: int) -> int:
    """Take the number of items of a list that there are bytes for."""
    count = reader.u32()
    if count * item_bytes_min > reader.left_bytes:
        raise RemoteProtocolError.of(ErrorCode.TRN_007)
    return count


def _read_entries(reader: Reader, _: Expected) -> Entries:
    count = _read_count(reader, _ENTRY_BYTES_MIN)
    return Entries(tuple([(reader.key16(), reader.value()) for _ in range(count)]))


def _read_strings(reader: Reader, expected: Expected) -> Strings:
    count = _read_count(reader, _STRING_BYTES_MIN)
    if expected is not None and count != expected[0]:
        raise RemoteProtocolError.of(ErrorCode.TRN_008)
    return Strings(tuple([reader.value() if reader.flag() else None for _ in range(count)]))


def _read_scan_page(reader: Reader, _: Expected) -> ScanPage:
    if reader.left_bytes < 12:
        raise RemoteProtocolError.of(ErrorCode.TRN_007)
    cursor = reader.u64()
    count = _read_count(reader, _KEY_BYTES_MIN)
    if count > U16_MAX:
        raise RemoteProtocolError.of(ErrorCode.TRN_008)
    return ScanPage(cursor, tuple([reader.key16() for _ in range(count)]))


def _read_exec_results(reader: Reader, expected: Expected) -> ExecResults:
    count = _read_count(reader, _RESULT_BYTES_MIN)
    if expected is None:
        return ExecResults(tuple([_read_exec_result(reader, None) for _ in range(count)]))
    if count != len(expected):
        raise RemoteProtocolError.of(ErrorCode.TRN_008)
    return ExecResults(tuple([_read_exec_result(reader, (keys,)) for keys in expected]))


def _read_exec_result(reader: Reader, expected: Expected) -> Reply:
    tag = reader.u8()
    if tag >= len(_EXEC_READERS):
        raise RemoteProtocolError.of(ErrorCode.TRN_008)
    return _EXEC_READERS[tag](reader, expected)


def _read_lone_bool(reader: Reader, _: Expected) -> Bool:
    # A missing byte is TRN-008 here, not TRN-007: the payload is an empty OK (VTP2 section 7).
    if reader.left_bytes == 0:
        raise RemoteProtocolError.of(ErrorCode.TRN_008)
    return Bool(reader.flag())


# The forms of a payload that can also be a result of EXEC, by their tag there (VTP2 section 8).
_TAGGED: Final[tuple[tuple[ReplyKind, _Read], ...]] = (
    (ReplyKind.OK, lambda _reader, _: _OK),
    (ReplyKind.NOT_FOUND, lambda _reader, _: _NOT_FOUND),
    (ReplyKind.VALUE, lambda reader, _: Value(reader.value())),
    (ReplyKind.BOOL, lambda reader, _: Bool(reader.flag())),
    (ReplyKind.COUNT, lambda reader, _: CountReply(reader.u64())),
    (ReplyKind.INTEGER, lambda reader, _: Integer(reader.i64())),
    (ReplyKind.ENTRIES, _read_entries),
    (ReplyKind.STRINGS, _read_strings),
    (ReplyKind.SCAN, _read_scan_page),
)
_EXEC_READERS: Final = tuple(read for _, read in _TAGGED)
_EXEC_TAGS: Final[Mapping[ReplyKind, int]] = MappingProxyType(
    {kind: tag for tag, (kind, _) in enumerate(_TAGGED)}
)
_READERS: Final[Mapping[ReplyKind, _Read]] = MappingProxyType(
    {
        **dict(_TAGGED),
        ReplyKind.BOOL: _read_lone_bool,
        ReplyKind.EXEC_RESULTS: _read_exec_results,
        ReplyKind.JSON: lambda reader, _: Json(reader.rest()),
    }
)


def encode_response(request_id: bytes, reply: Reply) -> bytes:
    """Return the body of a response.

    An error whose code or name is too long is replaced by the substitute of VTP2 section 7. Raise
    LocalProtocolError for anything else that its field cannot hold: TRN-008, TRN-012.
    """
    assert len(request_id) == REQUEST_ID_BYTES
    if isinstance(reply, ErrorReply):
        return request_id + b"\x01" + _write_error(reply)
    if isinstance(reply, NotFound):
        return request_id + b"\x02"
    return request_id + b"\x00" + _write_payload(reply)


def _write_error(reply: ErrorReply) -> bytes:
    try:
        return write_text16(reply.code) + write_text16(reply.name) + write_text32(reply.message)
    except LocalProtocolError:
        return (
            write_text16(ErrorCode.TRN_011.code)
            + write_text16("Remote Error Encoding Failure")
            + write_text32("failed to encode structured error payload")
        )


def _write_payload(reply: Reply) -> bytes:  # noqa: C901 - one branch for each kind
    if isinstance(reply, Ok | NotFound):
        return b""
    if isinstance(reply, Value):
        return write_value(reply.data)
    if isinstance(reply, Bool):
        return write_bool(reply.value)
    if isinstance(reply, CountReply):
        return write_u64(reply.value)
    if isinstance(reply, Integer):
        return write_i64(reply.value)
    if isinstance(reply, Entries):
        pairs = [write_key16(key) + write_value(value) for key, value in reply.pairs]
        return write_u32(len(pairs)) + b"".join(pairs)
    if isinstance(reply, Strings):
        values = [_write_nullable(value) for value in reply.values]
        return write_u32(len(values)) + b"".join(values)
    if isinstance(reply, ScanPage):
        keys = [write_key16(key) for key in reply.keys]
        return write_u64(reply.cursor) + write_u32(len(keys)) + b"".join(keys)
    if isinstance(reply, ExecResults):
        results = [_write_exec_result(result) for result in reply.results]
        return write_u32(len(results)) + b"".join(results)
    if isinstance(reply, Json):
        return reply.data
    assert isinstance(reply, Queued)
    return QUEUED_BODY


def _write_nullable(value: bytes | None) -> bytes:
    return b"\x00" if value is None else b"\x01" + write_value(value)


def _write_exec_result(reply: Reply) -> bytes:
    tag = _EXEC_TAGS.get(reply.kind)
    if tag is None:
        raise LocalProtocolError.of(ErrorCode.TRN_008)
    return bytes((tag,)) + _write_payload(reply)
