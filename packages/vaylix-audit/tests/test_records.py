"""One record and its line: bytes, hashes, and what is no record."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaylix_audit import (
    GENESIS_HASH,
    LINE_BYTES_MAX,
    AuditEvent,
    AuditRecord,
    AuditStatus,
    decode_record,
    encode_record,
    hash_record,
)
from vaylix_audit._event import chain_event
from vaylix_audit.errors import InvalidEventError, InvalidLineError

DATA = Path(__file__).parent / "data" / "audit"
U64_MAX = 2**64 - 1

MAINTENANCE = AuditEvent(
    event_type="maintenance_mode", timestamp_ms=1700000000000, details={"enabled": "true"}
)
FAILED_LOGIN = AuditEvent(
    event_type="auth",
    timestamp_ms=1700000000500,
    connection_id=7,
    peer="127.0.0.1:50123",
    request_id=UUID("018bcfe5-6800-7000-8000-000000000001"),
    opcode="AUTH",
    status=AuditStatus.ERROR,
    error_code="SRV-008",
    latency_ms=41,
    details={"username": 'zoë "q"\t', "result": "error"},
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.integers(0, U64_MAX)
events = st.builds(
    AuditEvent,
    event_type=texts,
    timestamp_ms=numbers,
    details=st.dictionaries(texts, texts, max_size=4),
    opcode=texts,
    status=st.sampled_from(AuditStatus),
    error_code=st.none() | texts,
    latency_ms=numbers,
    connection_id=numbers,
    peer=st.none() | texts,
    username=st.none() | texts,
    request_id=st.uuids(),
)


def line_with(**changes: object) -> bytes:
    """Return a line of a golden log with some fields changed, or left out where None is given."""
    fields = json.loads((DATA / "audit.log").read_bytes().splitlines()[0])
    fields.update(changes)
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def reason_of(line: bytes) -> tuple[str, bool]:
    with pytest.raises(InvalidLineError) as caught:
        decode_record(line)
    return caught.value.what, caught.value.is_cut


def test_the_first_record_of_the_contract_has_its_bytes_and_hash() -> None:
    record, line = chain_event(MAINTENANCE, 1, GENESIS_HASH)
    expected = (
        '{"audit_version":1,"sequence":1,"previous_hash":"' + "0" * 64 + '","event_hash":"'
        "9b9041b5cd17bd40a0ffce81b25c0d6b3965a51e8a377a605da5e7895fc8254c"
        '","hash_algorithm":"sha256","timestamp_ms":1700000000000,"connection_id":0,"peer":null,'
        '"username":null,"request_id":"00000000-0000-0000-0000-000000000000","opcode":"RUNTIME",'
        '"status":"ok","error_code":null,"latency_ms":0,"event_type":"maintenance_mode",'
        '"details":{"enabled":"true"}}\n'
    )
    assert line.decode() == expected
    # 395 bytes are hashed; the field of the hash has 80, the newline one.
    assert len(line) == 395 + len('"event_hash":"",') + 64 + 1
    assert decode_record(line) == record
    assert hash_record(record) == record.event_hash


def test_the_second_record_of_the_contract_has_its_length_and_hash() -> None:
    first, _ = chain_event(MAINTENANCE, 1, GENESIS_HASH)
    second, line = chain_event(FAILED_LOGIN, 2, first.event_hash)
    assert second.event_hash == "3c704952fa8d8a7b18ddbb9b1f8d0d06c7c089931256b6a8be94a638b0648e55"
    assert len(line) == 428 + len('"event_hash":"",') + 64 + 1


@given(events, st.integers(1, U64_MAX))
def test_any_event_comes_back_and_is_spelled_as_json_dumps_spells_it(
    event: AuditEvent, sequence: int
) -> None:
    record, line = chain_event(event, sequence, GENESIS_HASH)
    assert decode_record(line) == record
    assert encode_record(record) == line
    assert record == AuditRecord(event, sequence, GENESIS_HASH, hash_record(record))
    parsed = json.loads(line)
    text = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False)
    assert text.encode() + b"\n" == line
    assert list(parsed["details"]) == sorted(event.details)


def test_control_characters_have_short_escapes_or_lower_case_hexadecimal_ones() -> None:
    event = AuditEvent(event_type='"\\\b\f\n\r\t\x1f\x7f/é', timestamp_ms=0)
    line = chain_event(event, 1, GENESIS_HASH)[1].decode()
    assert '"event_type":"\\"\\\\\\b\\f\\n\\r\\t\\u001f\x7f/é"' in line


def test_details_cannot_be_changed_afterwards() -> None:
    details = {"a": "1"}
    event = AuditEvent(event_type="x", timestamp_ms=0, details=details)
    details["a"] = "2"
    assert event.details == {"a": "1"}
    with pytest.raises(TypeError):
        event.details["a"] = "3"  # type: ignore[index]
    assert len({event, AuditEvent(event_type="x", timestamp_ms=0, details={"a": "1"})}) == 1


@pytest.mark.parametrize("name", ["timestamp_ms", "connection_id", "latency_ms"])
@pytest.mark.parametrize("number", [-1, U64_MAX + 1, 1.5, True])
def test_a_number_outside_of_64_bits_is_not_written(name: str, number: object) -> None:
    fields: dict[str, object] = {"event_type": "x", "timestamp_ms": 0, name: number}
    with pytest.raises(InvalidEventError, match="64 bits"):
        chain_event(AuditEvent(**fields), 1, GENESIS_HASH)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["event_type", "opcode", "peer", "username", "error_code"])
def test_text_that_is_none_is_not_written(name: str) -> None:
    for text, reason in (("\ud800", "lone surrogate"), (7, "no text")):
        fields: dict[str, object] = {"event_type": "x", "timestamp_ms": 0, name: text}
        with pytest.raises(InvalidEventError, match=reason):
            chain_event(AuditEvent(**fields), 1, GENESIS_HASH)  # type: ignore[arg-type]


def test_the_longest_line_is_written_and_read_and_no_longer_one() -> None:
    spare = LINE_BYTES_MAX + 1 - len(chain_event(MAINTENANCE, 1, GENESIS_HASH)[1])
    for excess in (0, 1):
        value = "true" + "x" * (spare + excess)
        event = AuditEvent(
            event_type="maintenance_mode", timestamp_ms=1700000000000, details={"enabled": value}
        )
        if excess:
            with pytest.raises(InvalidEventError, match="16777216 bytes"):
                chain_event(event, 1, GENESIS_HASH)
        else:
            _, line = chain_event(event, 1, GENESIS_HASH)
            assert len(line) == LINE_BYTES_MAX + 1
            assert decode_record(line).event == event


def test_every_line_that_was_cut_is_known_as_such() -> None:
    # Line 2 has escapes of both kinds and characters of two and four bytes.
    content = (DATA / "audit.log").read_bytes()
    for line in content.splitlines()[:4]:
        for size in range(1, len(line)):
            reason, is_cut = reason_of(line[:size])
            assert is_cut, line[:size]
            assert reason.startswith(("EOF while parsing a", "stream did not contain valid UTF-8"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "empty audit log line"),
        (b" \t\r", "empty audit log line"),
        (b"hello", "expected value at line 1 column 1"),
        (b"{} x", "trailing characters at line 1 column 4"),
        (b'{"a" 1}', "expected `:` at line 1 column 6"),
        (b'{"a":1 "b"}', "expected `,` or `}` at line 1 column 8"),
        ('{"é":x'.encode(), "expected value at line 1 column 7"),
        (b"{1:2}", "key must be a string at line 1 column 2"),
        (b'{"a":"\\q"}', "invalid escape at line 1 column 7"),
        (b'{"a":"\\uXYZW"}', "invalid escape at line 1 column 8"),
        (b'{"a":NaN}', "NaN is not a JSON value"),
        (b'{"a":"\\ud800"}', "lone leading surrogate in hex escape"),
        (b'{"a":"\\udc00"}', "lone leading surrogate in hex escape"),
        (b"[" * 100_000, "recursion limit exceeded"),
        (b"[]", "the line is not an object"),
        (b"\xff{}", "stream did not contain valid UTF-8"),
        (b'x"\xc3', "stream did not contain valid UTF-8"),
        (line_with(latency_ms=...), "missing field `latency_ms`"),
        (line_with(latency_ms=-1), "field `latency_ms` is not an unsigned number of 64 bits"),
        (line_with(latency_ms=1.0), "field `latency_ms` is not an unsigned number of 64 bits"),
        (line_with(latency_ms=True), "field `latency_ms` is not an unsigned number of 64 bits"),
        (line_with(latency_ms=2**64), "field `latency_ms` is not an unsigned number of 64 bits"),
        (line_with(latency_ms=10**30), "field `latency_ms` is not an unsigned number of 64 bits"),
        (line_with(peer=3), "field `peer` is not a string"),
        (line_with(opcode=None), "field `opcode` is not a string"),
        (line_with(status="OK"), "unknown status `OK`"),
        (line_with(request_id="A" * 32), "field `request_id` is not a UUID in lower case"),
        (line_with(details=[]), "field `details` is not an object"),
        (line_with(details={"a": 1}), "field `details` is not an object of strings"),
        (line_with()[:-1] + b',"sequence":1}', "duplicate field `sequence`"),
        (line_with(audit_version=2, hash_algorithm="md5"), "unsupported audit version 2"),
        (line_with(hash_algorithm="md5", sequence=9), "unsupported hash algorithm md5"),
        (line_with(audit_version=2, status=1), "field `status` is not a string"),
    ],
)
def test_a_line_that_is_no_record_is_refused_with_the_first_reason(
    line: bytes, reason: str
) -> None:
    found, is_cut = reason_of(line)
    assert found.startswith(reason)
    assert not is_cut


def test_of_two_equal_details_the_last_counts_and_unknown_fields_do_not() -> None:
    line = line_with(extra={"sequence": [1.5, None, "\u0000"]})
    assert decode_record(line) == decode_record(line_with())
    twice = line.replace(b'"details": {', b'"details": {"result":"other",')
    assert decode_record(twice) == decode_record(line)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_garbage_is_refused_and_nothing_else(line: bytes) -> None:
    with pytest.raises(InvalidLineError):
        decode_record(line)
