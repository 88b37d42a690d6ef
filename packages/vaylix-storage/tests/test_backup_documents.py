"""Logical backups as documents: the recorded vectors, and both ways of reading them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vaylix_storage import Keyspace
from vaylix_storage.commands import Set
from vaylix_storage.errors import (
    BackupEncodingError,
    BackupFormatError,
    BackupVerificationError,
    BackupVersionError,
    StorageError,
)
from vaylix_storage.logical_backup import (
    BackupDocument,
    BackupEntry,
    BackupHeader,
    DocumentWriter,
    EntryLimits,
    Sidecar,
    VerifyReport,
    check_document,
    parse_document,
    restore_batches,
    verify_document,
)
from vaylix_storage.logical_backup import _parser as parser

DATA = Path(__file__).parent / "data" / "logical_backup"
NOW = 1_800_000_000_000
U64_MAX = 2**64 - 1
HEAD = '{"version":2,"created_at_ms":1,"source_engine_version":3,"source_sequence":5,"entries":['


class Outcome(msgspec.Struct):
    ok: bool
    count: int | None = None
    code: str | None = None
    entries: dict[str, str] | None = None


class RestoreCase(msgspec.Struct):
    name: str
    document: str
    sha256: str
    restore_check: Outcome
    backup_verify: Outcome
    restore: Outcome
    keys_after: list[tuple[str, str, int | None, int]]


class VerifyResult(msgspec.Struct):
    kind: str
    entries: dict[str, str] | None = None
    code: str | None = None
    message: str | None = None


class ManifestCase(msgspec.Struct):
    name: str
    manifest: dict[str, int | str] | str | None
    dump_changed: bool
    result: VerifyResult


class RecordedEntry(msgspec.Struct):
    key: str
    value: str
    expires_at_ms: int | None
    version: int


class RecordedDocument(msgspec.Struct):
    file: str
    manifest: str
    byte_len: int
    sha256: str
    entries: list[RecordedEntry]
    source_sequence: int
    verify_from: dict[str, str]
    restore_check: dict[str, int | str]


def lines_of(name: str) -> list[bytes]:
    return (DATA / name).read_bytes().rstrip(b"\n").split(b"\n")


RESTORE_CASES = [msgspec.json.decode(x, type=RestoreCase) for x in lines_of("restore_cases.jsonl")]
MANIFEST_CASES = [
    msgspec.json.decode(x, type=ManifestCase) for x in lines_of("manifest_cases.jsonl")
]
DOCUMENTS = msgspec.json.decode((DATA / "documents.json").read_bytes(), type=list[RecordedDocument])
# Values that are not base64 are refused by CHECK and VERIFY as well, not only by RESTORE.
CHECKED_MORE_STRICTLY = {
    "v2_bad_base64_char",
    "v2_no_padding",
    "v2_nonzero_trailing_bits",
    "v2_base64_whitespace",
    "v2_base64_url_alphabet",
}


def entries_of(document: RecordedDocument) -> list[BackupEntry]:
    return [
        BackupEntry(e.key.encode(), bytes.fromhex(e.value), e.expires_at_ms, e.version)
        for e in document.entries
    ]


def write(header: BackupHeader, entries: list[BackupEntry], step: int) -> tuple[bytes, Sidecar]:
    writer = DocumentWriter(header)
    pieces = [writer.begin()]
    pieces += [writer.feed(entries[at : at + step]) for at in range(0, len(entries), step)]
    pieces.append(writer.end())
    return b"".join(pieces), writer.sidecar()


@pytest.mark.parametrize("recorded", DOCUMENTS, ids=lambda d: d.file)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_documents_and_sidecars_are_written_byte_for_byte(
    recorded: RecordedDocument, step: int
) -> None:
    expected = (DATA / recorded.file).read_bytes()
    header = parse_document(expected).header
    document, sidecar = write(header, entries_of(recorded), step)
    assert document == expected
    assert sidecar.encode() == (DATA / recorded.manifest).read_bytes()


@pytest.mark.parametrize("recorded", DOCUMENTS, ids=lambda d: d.file)
def test_recorded_documents_are_read(recorded: RecordedDocument) -> None:
    data = (DATA / recorded.file).read_bytes()
    document = parse_document(data)
    assert document.entries == entries_of(recorded)
    assert document.header.source_sequence == recorded.source_sequence
    recorded_at = document.header.created_at_ms
    assert check_document(document, recorded_at) == recorded.restore_check["value"]
    report = verify_document(data, recorded_at, (DATA / recorded.manifest).read_bytes())
    assert dict(report.pairs()) == recorded.verify_from
    assert list(dict(report.pairs())) == ["status", "entries", "entry_count", "sha256"]


def keys_of(keyspace: Keyspace, now_ms: int) -> list[tuple[str, str, int | None, int]]:
    """Return what readers find, as the vectors have it."""
    held = keyspace.table.entries()
    assert keyspace.mget(list(held), now_ms) == tuple(entry.value for entry in held.values())
    assert keyspace.key_count(now_ms) == len(held)
    return [
        (key.decode(), entry.value.hex(), entry.expires_at_ms or None, entry.version)
        for key, entry in sorted(held.items())
    ]


@pytest.mark.parametrize("case", RESTORE_CASES, ids=lambda c: c.name)
def test_recorded_restores_and_checks(case: RestoreCase) -> None:
    """What is restored replaces all keys; what is refused leaves the one that was there."""
    keyspace = Keyspace()
    keyspace.apply([Set(b"sentinel", b"s")], NOW, want_results=False)
    data = case.document.encode()
    code, count = None, None
    try:
        document = parse_document(data)
        for commands in restore_batches(document, now_ms=NOW, restore_id=b"restore1"):
            count = keyspace.apply(commands, NOW, want_results=True)[-1]
    except StorageError as error:
        code = error.code
    assert keys_of(keyspace, NOW) == case.keys_after
    assert not keyspace.is_being_restored
    assert (code, count) == (case.restore.code, case.restore.count)
    if code is None:
        assert check_document(parse_document(data), NOW) == count
    else:
        assert outcome(lambda: check_document(parse_document(data), NOW)) == code
    is_stricter = case.name in CHECKED_MORE_STRICTLY
    assert is_stricter == (case.restore_check.ok and not case.restore.ok)


@pytest.mark.parametrize("case", RESTORE_CASES, ids=lambda c: c.name)
def test_recorded_verifications(case: RestoreCase) -> None:
    expected = case.backup_verify
    if case.name in CHECKED_MORE_STRICTLY:
        expected = Outcome(ok=False, code="ENG-004")
    code, pairs = None, None
    try:
        pairs = dict(verify_document(case.document.encode(), NOW).pairs())
    except StorageError as error:
        code = error.code
    assert (code, pairs) == (expected.code, expected.entries)


@pytest.mark.parametrize(
    "case", [c for c in MANIFEST_CASES if c.manifest is not None], ids=lambda c: c.name
)
def test_recorded_sidecars(case: ManifestCase) -> None:
    data = (DATA / "v2_simple.json").read_bytes()
    if case.dump_changed:
        appended = "newline" in case.name
        data = data + b"\n" if appended else data.replace(b'"b"', b'"c"')
    manifest = case.manifest
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    message, pairs = None, None
    try:
        pairs = dict(verify_document(data, NOW, text.encode()).pairs())
    except BackupVerificationError as error:
        message = error.message
    assert pairs == case.result.entries
    parser_text = case.name in {"field_missing", "not_json"}
    assert parser_text or message == case.result.message
    assert (message is None) == (case.result.code is None)


def test_weakness_25_check_and_verify_decode_the_values_that_a_restore_would_write() -> None:
    text = HEAD + '{"key":"a","value_base64":"!!","expires_at_ms":50,"version":1}]}'
    document = parse_document(text.encode())
    with pytest.raises(BackupFormatError, match="entry 0: field `value_base64`"):
        check_document(document, 49)
    with pytest.raises(BackupFormatError):
        verify_document(text.encode(), 49)
    assert check_document(document, 50) == 0
    assert verify_document(text.encode(), 50).entry_count == 1


def test_planted_check_that_does_not_decode_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug, weakness 25: whatever stands for a value will do until it is restored."""
    monkeypatch.setattr(parser, "_decode_base64", str.encode)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_weakness_25_check_and_verify_decode_the_values_that_a_restore_would_write()


def test_limits_hold_for_every_entry_that_a_restore_would_write() -> None:
    text = (
        HEAD + '{"key":"ab","value_base64":"MTIz","expires_at_ms":null,"version":1},'
        '{"key":"c","value_base64":"","expires_at_ms":50,"version":1}]}'
    )
    document = parse_document(text.encode())
    at_the_bound = EntryLimits(key_bytes_max=2, value_bytes_max=3)
    assert check_document(document, 49, at_the_bound) == 2
    for limits, now_ms, fault in (
        (EntryLimits(1, 3), 49, "entry 0: key 'ab': the key has 2 bytes, 1 are allowed"),
        (EntryLimits(2, 2), 49, "entry 0: key 'ab': the value has 3 bytes, 2 are allowed"),
    ):
        with pytest.raises(BackupFormatError) as failure:
            check_document(document, now_ms, limits)
        assert failure.value.reason == fault
        with pytest.raises(BackupFormatError):
            verify_document(text.encode(), now_ms, limits=limits)
        with pytest.raises(BackupFormatError):
            restore_batches(document, now_ms=now_ms, restore_id=bytes(16), limits=limits)
    expired = BackupDocument(document.header, [BackupEntry(b"abc", b"", 50, 1)], {})
    assert check_document(expired, 50, at_the_bound) == 0
    with pytest.raises(BackupFormatError):
        check_document(expired, 49, at_the_bound)


STRICT = [
    ('{"key":"\\ud83d\\udd11","value_base64":"","version":1}', None),
    ('{"key":"\\ud83d","value_base64":"","version":1}', "lone surrogate"),
    ('{"key":"\\ud83dx\\udd11","value_base64":"","version":1}', "lone surrogate"),
    ('{"key":"\\udd11\\ud83d","value_base64":"","version":1}', "lone surrogate"),
    ('{"key":"\\ud83d\\n","value_base64":"","version":1}', "lone surrogate"),
    ('{"key":"\\\\ud83d","value_base64":"","version":1}', None),
    ('{"key":"a","value_base64":"","version":1,"\\udfff":0}', "lone surrogate"),
    ('{"key":"a","value_base64":"","version":1,"x":[1.5,-0,1e999,[],{"x":null}]}', None),
    ('{"key":"a","value_base64":"","version":1,"x":' + "9" * 5000 + "}", None),
    ('{"key":"a","value_base64":"","version":1,"x":-Infinity}', "JSON"),
    ('{"key":"a","value_base64":"","version":1,"x":1,"x":2}', None),
    ('{"key":"a","value_base64":"","version":-0}', "version"),
    ('{"key":"a","value_base64":"","version":true}', "version"),
    ('{"key":"a","value_base64":"","version":18446744073709551615}', None),
    ('{"key":"a","value_base64":"","version":18446744073709551616}', "range"),
    (
        '{"key":"a","value_base64":"","expires_at_ms":null,"version":18446744073709551616}',
        "range",
    ),
    ('{"key":"a","value_base64":"","expires_at_ms":false,"version":1}', "expires"),
    ('{"key":"a\t","value_base64":"","version":1}', "control"),
    ('["a","",null,1]', "object"),
    ('{"key":"a","value_base64":"","version":1},', "line 1"),
]


@pytest.mark.parametrize(("entry", "fault"), STRICT)
def test_the_reader_is_strict(entry: str, fault: str | None) -> None:
    text = f"{HEAD}{entry}]}}"
    if fault is None:
        assert len(parse_document(text.encode()).entries) == 1
        return
    with pytest.raises(BackupFormatError, match=fault):
        parse_document(text.encode())


def test_text_that_is_not_utf8_is_not_json() -> None:
    with pytest.raises(BackupFormatError):
        parse_document(HEAD.encode() + b'{"key":"\xff"}]}')
    with pytest.raises(BackupVerificationError):
        verify_document(b"\xff", NOW)


def test_nesting_without_end_is_refused_and_not_a_crash() -> None:
    with pytest.raises(BackupFormatError, match="nested too deeply"):
        parse_document(b"[" * 200_000)


def test_a_key_that_is_no_text_cannot_be_backed_up() -> None:
    writer = DocumentWriter(BackupHeader(created_at_ms=1, source_sequence=1))
    with pytest.raises(BackupEncodingError, match="not UTF-8"):
        writer.feed([BackupEntry(b"\xff", b"", None, 1)])


def test_messages_are_those_of_the_catalogue() -> None:
    with pytest.raises(BackupVersionError) as unknown:
        parse_document(HEAD.replace("2", "7", 1).encode() + b"]}")
    assert unknown.value.message == "unsupported storage format for logical backup"
    with pytest.raises(BackupFormatError) as broken:
        parse_document(b"")
    assert broken.value.message.startswith("snapshot deserialization failed: ")
    with pytest.raises(BackupVerificationError) as unverified:
        verify_document(b"[]", NOW)
    assert unverified.value.message.startswith("backup verification failed: ")


NUMBERS = st.integers(0, U64_MAX)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ENTRIES = st.dictionaries(
    KEYS.map(str.encode), st.tuples(st.binary(max_size=5), st.none() | NUMBERS, NUMBERS), max_size=5
).map(lambda found: [BackupEntry(key, *rest) for key, rest in sorted(found.items())])
HEADERS = st.builds(
    BackupHeader,
    created_at_ms=NUMBERS,
    source_engine_version=st.integers(0, 2**32 - 1),
    source_sequence=NUMBERS,
)


@settings(deadline=None)
@given(header=HEADERS, entries=ENTRIES)
@example(BackupHeader(created_at_ms=0, source_sequence=0), [BackupEntry(b'},{"key":"', b"", 1, 1)])
def test_what_is_written_is_read_back_by_both_readers(
    header: BackupHeader, entries: list[BackupEntry]
) -> None:
    data, sidecar = write(header, entries, 2)
    expected = BackupDocument(header, entries, {})
    assert parser._read_written(data) == expected
    assert parse_document(data + b" ") == expected
    assert verify_document(data, 0, sidecar.encode()).entry_count == len(entries)
    document = {
        "version": header.version,
        "created_at_ms": header.created_at_ms,
        "source_engine_version": header.source_engine_version,
        "source_sequence": header.source_sequence,
    }
    json_head = json.dumps(document, ensure_ascii=False, separators=(",", ":"))[:-1]
    assert data.startswith(json_head.encode() + b',"entries":[')


@settings(max_examples=300, deadline=None)
@given(
    entries=ENTRIES.filter(bool), place=st.integers(0), change=st.sampled_from(b'0{}[],:"\\ =x-1.e')
)
def test_the_quick_reader_never_accepts_what_the_strict_one_refuses(
    entries: list[BackupEntry], place: int, change: int
) -> None:
    data = bytearray(write(BackupHeader(created_at_ms=1, source_sequence=2), entries, 9)[0])
    data[place % len(data)] = change
    quick = parser._read_written(bytes(data))
    try:
        # The white space at the end keeps the quick reader away.
        strict = parse_document(bytes(data) + b" ")
    except StorageError:
        strict = None
    assert quick is None or quick == strict


def test_long_documents_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [BackupEntry(b"k%03d" % n, b"v" * n, n or None, n) for n in range(300)]
    data, _ = write(BackupHeader(created_at_ms=1, source_sequence=2), entries, 50)
    for piece_bytes in (1, 64, 700):
        monkeypatch.setattr(parser, "_PIECE_BYTES", piece_bytes)
        found = parser._read_written(data)
        assert found is not None
        assert found.entries == entries


def test_the_report_says_what_the_published_server_says() -> None:
    assert VerifyReport(1, 2, "ab").pairs() == [
        ("status", "ok"),
        ("entries", "1"),
        ("entry_count", "2"),
        ("sha256", "ab"),
    ]


def test_every_flipped_byte_and_every_cut_of_a_dump_is_found_by_its_sidecar() -> None:
    data = (DATA / "v2_simple.json").read_bytes()
    sidecar = (DATA / "v2_simple.json.manifest.json").read_bytes()
    damaged = [data[:length] for length in range(len(data))]
    damaged += [
        data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
        for place in range(len(data))
        for flip in (0x01, 0x20, 0x80)
    ]
    for changed in damaged:
        with pytest.raises(BackupVerificationError):
            verify_document(changed, NOW, sidecar)


PIECES_OF_JSON = [
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b" ", b"-", b"0", b"1.5", b"1e9", b"null"),
    *(b'"key":', b'"version":', b'"entries":[', b"\\ud800", b"\\u0041", b"\xff", b"NaN", b"\x00"),
    *(HEAD.encode(), b'{"key":"a","value_base64":"","version":1}', b"]}"),
]


@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES_OF_JSON), max_size=12))
def test_garbage_is_a_document_or_an_error_of_this_package(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    assert outcome(lambda: parse_document(data)) in {None, "ENG-004", "ENG-009"}
    assert outcome(lambda: verify_document(data, NOW)) in {None, "ENG-004", "SRV-029"}


def outcome(work: Callable[[], object]) -> str | None:
    try:
        work()
    except StorageError as error:
        return error.code
    return None
