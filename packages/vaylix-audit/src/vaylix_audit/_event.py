"""What happened, and how it is written down: one compact JSON object per line.

The bytes are those of the published server (VTP2 server section 8.1): fields in a fixed order,
keys of `details` in the order of their code points, hash over everything but the hash itself.
A hash covers values, not their spelling: the order of keys, white space and unknown fields of a
line are not protected by it, and the fields `peer`, `username` and `error_code` may be left out
when they are null.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from uuid import UUID

from vaylix_audit._json import U64_MAX, JsonError, JsonObject, JsonValue, encode_json, parse_json
from vaylix_audit.errors import InvalidEventError, InvalidLineError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "GENESIS_HASH",
    "LINE_BYTES_MAX",
    "NIL_REQUEST",
    "NOT_TEXT",
    "AuditEvent",
    "AuditRecord",
    "AuditStatus",
    "chain_event",
    "decode_record",
    "encode_record",
    "hash_record",
]

# Longest line, without its newline. It bounds what reading a foreign file takes; a payload of 1 MiB
# whose every byte needs an escape of six fits well.
LINE_BYTES_MAX: Final = 16 * 1024 * 1024
# What the first record names as the hash before it.
GENESIS_HASH: Final = "0" * 64
# The request of an event that no request has caused.
NIL_REQUEST: Final = UUID(int=0)
# What the published server says of bytes that are not UTF-8, in a line as in any file.
NOT_TEXT: Final = "stream did not contain valid UTF-8"

_VERSION: Final = 1
_ALGORITHM: Final = "sha256"
_UUID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FIELDS: Final = (
    "audit_version",
    "sequence",
    "previous_hash",
    "event_hash",
    "hash_algorithm",
    "timestamp_ms",
    "connection_id",
    "peer",
    "username",
    "request_id",
    "opcode",
    "status",
    "error_code",
    "latency_ms",
    "event_type",
    "details",
)
_NULLABLE: Final = frozenset({"peer", "username", "error_code"})


class AuditStatus(Enum):
    """How the request ended that an event tells of."""

    OK = "ok"
    ERROR = "error"
    NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Something that happened. All but the first two have the value of what no request has caused.

    `timestamp_ms` is Unix time. `peer` is an address with port, `username` the identity of the
    session when this is written, `error_code` that of the reply. Numbers have 64 bits, unsigned.
    Values are checked when the event is encoded. Never put secrets or stored values in here.
    """

    event_type: str
    timestamp_ms: int
    details: Mapping[str, str] = field(default_factory=dict, hash=False)
    opcode: str = "RUNTIME"
    status: AuditStatus = AuditStatus.OK
    error_code: str | None = None
    latency_ms: int = 0
    connection_id: int = 0
    peer: str | None = None
    username: str | None = None
    request_id: UUID = NIL_REQUEST

    def __post_init__(self) -> None:
        """Keep a copy of the details that nobody can change, in the order of their keys."""
        details = MappingProxyType(dict(sorted(self.details.items())))
        object.__setattr__(self, "details", details)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An event in its place in the chain. Hashes are 64 lower-case hexadecimal digits."""

    event: AuditEvent
    sequence: int
    previous_hash: str
    event_hash: str


def chain_event(event: AuditEvent, sequence: int, previous_hash: str) -> tuple[AuditRecord, bytes]:
    """Return the record of an event in this place, and its line with the newline.

    Raises InvalidEventError for what cannot be written: text with lone surrogates, numbers that do
    not fit into 64 bits, a line beyond `LINE_BYTES_MAX`.
    """
    _check_values(event, sequence)
    hashed = _hashed_text(event, sequence, previous_hash)
    try:
        event_hash = hashlib.sha256(hashed.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise InvalidEventError("the event holds a lone surrogate") from error
    line = _line(hashed, sequence, previous_hash, event_hash)
    if len(line) > LINE_BYTES_MAX + 1:
        raise InvalidEventError(f"the event needs more than {LINE_BYTES_MAX} bytes")
    return AuditRecord(event, sequence, previous_hash, event_hash), line


def encode_record(record: AuditRecord) -> bytes:
    """Return the line of a record, with its newline."""
    hashed = _hashed_text(record.event, record.sequence, record.previous_hash)
    return _line(hashed, record.sequence, record.previous_hash, record.event_hash)


def hash_record(record: AuditRecord) -> str:
    """Compute the hash that the record should have."""
    hashed = _hashed_text(record.event, record.sequence, record.previous_hash)
    return hashlib.sha256(hashed.encode()).hexdigest()


def decode_record(line: bytes) -> AuditRecord:
    """Read a line, with or without its newline; whether it fits a chain is not looked at.

    Raises InvalidLineError. The words for values of a wrong type are our own, the others those of
    the published server.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise _text_error(line, error) from error
    if not text or text.isspace():
        raise InvalidLineError("empty audit log line")
    try:
        return _decode(text)
    except JsonError as error:
        raise InvalidLineError(error.reason, is_cut=error.is_cut) from error


def _text_error(line: bytes, error: UnicodeDecodeError) -> InvalidLineError:
    """Tell a character that was cut in two from bytes that are no text."""
    is_cut = False
    if error.end == len(line) and error.reason == "unexpected end of data":
        try:
            parse_json(line[: error.start].decode())
        except JsonError as before:
            is_cut = before.is_cut
    return InvalidLineError(NOT_TEXT, is_cut=is_cut)


def _hashed_text(event: AuditEvent, sequence: int, previous_hash: str) -> str:
    return encode_json(
        {
            "audit_version": _VERSION,
            "sequence": sequence,
            "previous_hash": previous_hash,
            "hash_algorithm": _ALGORITHM,
            "timestamp_ms": event.timestamp_ms,
            "connection_id": event.connection_id,
            "peer": event.peer,
            "username": event.username,
            "request_id": str(event.request_id),
            "opcode": event.opcode,
            "status": event.status.value,
            "error_code": event.error_code,
            "latency_ms": event.latency_ms,
            "event_type": event.event_type,
            "details": dict(event.details),
        }
    )


def _line(hashed: str, sequence: int, previous_hash: str, event_hash: str) -> bytes:
    # The hash stands behind the one before it; what is hashed is the line without it.
    head = f'{{"audit_version":{_VERSION},"sequence":{sequence},"previous_hash":"{previous_hash}",'
    assert hashed.startswith(head)
    return f'{head}"event_hash":"{event_hash}",{hashed[len(head) :]}\n'.encode()


def _check_values(event: AuditEvent, sequence: int) -> None:
    """Refuse what would be written as a line that nobody can read."""
    for number in (sequence, event.timestamp_ms, event.connection_id, event.latency_ms):
        # A bool is an int to Python, and a float would be written as one.
        if type(number) is not int or not 0 <= number <= U64_MAX:
            raise InvalidEventError(f"{number!r} is no unsigned number of 64 bits")
    nullable = [text for text in (event.peer, event.username, event.error_code) if text is not None]
    texts = [event.event_type, event.opcode, *nullable, *event.details, *event.details.values()]
    for text in texts:
        if not isinstance(text, str):
            raise InvalidEventError(f"{text!r} is no text")


def _decode(text: str) -> AuditRecord:
    fields = _Fields(parse_json(text), len(text.rstrip().encode()))
    version = fields.number("audit_version")
    sequence = fields.number("sequence")
    previous_hash = fields.text("previous_hash")
    event_hash = fields.text("event_hash")
    algorithm = fields.text("hash_algorithm")
    event = AuditEvent(
        timestamp_ms=fields.number("timestamp_ms"),
        connection_id=fields.number("connection_id"),
        peer=fields.text_or_none("peer"),
        username=fields.text_or_none("username"),
        request_id=fields.request_id(),
        opcode=fields.text("opcode"),
        status=fields.status(),
        error_code=fields.text_or_none("error_code"),
        latency_ms=fields.number("latency_ms"),
        event_type=fields.text("event_type"),
        details=fields.details(),
    )
    if version != _VERSION:
        raise InvalidLineError(f"unsupported audit version {version}")
    if algorithm != _ALGORITHM:
        raise InvalidLineError(f"unsupported hash algorithm {algorithm}")
    return AuditRecord(event, sequence, previous_hash, event_hash)


class _Fields:
    """The fields of a line by name. All known ones are there, once; unknown ones are ignored."""

    __slots__ = ("_values",)

    def __init__(self, value: JsonValue, size_bytes: int) -> None:
        if not isinstance(value, JsonObject):
            raise JsonError("the line is not an object")
        self._values: dict[str, JsonValue] = {}
        for name, given in value.pairs:
            if name in self._values and name in _FIELDS:
                raise JsonError(f"duplicate field `{name}`")
            self._values[name] = given
        for name in _FIELDS:
            if name not in self._values and name not in _NULLABLE:
                raise JsonError(f"missing field `{name}` at line 1 column {size_bytes}")

    def number(self, name: str) -> int:
        value = self._values[name]
        # A bool is an int to Python.
        if type(value) is not int:
            raise JsonError(f"field `{name}` is not an unsigned number of 64 bits")
        return value

    def text(self, name: str) -> str:
        value = self._values[name]
        if not isinstance(value, str):
            raise JsonError(f"field `{name}` is not a string")
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self._values.get(name) is None else self.text(name)

    def request_id(self) -> UUID:
        text = self.text("request_id")
        # The class reads more spellings than the one that is hashed.
        if _UUID.fullmatch(text) is None:
            raise JsonError("field `request_id` is not a UUID in lower case")
        return UUID(text)

    def status(self) -> AuditStatus:
        text = self.text("status")
        try:
            return AuditStatus(text)
        except ValueError:
            raise JsonError(f"unknown status `{text}`") from None

    def details(self) -> dict[str, str]:
        value = self._values["details"]
        if not isinstance(value, JsonObject):
            raise JsonError("field `details` is not an object")
        details: dict[str, str] = {}
        for name, given in value.pairs:
            if not isinstance(given, str):
                raise JsonError("field `details` is not an object of strings")
            # Of two equal names the last counts, as it does to the published server.
            details[name] = given
        return details
