"""The golden logs of the published server: read as it reads them, written as it writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vaylix_audit import (
    GENESIS,
    AuditLog,
    AuditRecord,
    ChainHead,
    HmacSigner,
    decode_record,
    encode_record,
    problem_error,
    verify_chain,
    verify_file,
)
from vaylix_audit.errors import AuditError
from vaylix_audit.testing import MemoryFileSystem

DATA = Path(__file__).parent / "data" / "audit"
CASES = json.loads((DATA / "cases.json").read_text(encoding="utf-8"))
SIGNER = HmacSigner(b"k" * 32)
PATH = Path("/data/audit.log")
# A crash leaves these, and so does the reference: here a start repairs them.
REPAIRED = {"torn_last_line.log": 5, "torn_by_sigterm.log": 22}


def reference_line(error: AuditError) -> str:
    return f"[{error.code}] {error.name}: {error.message}"


def open_copy(content: bytes) -> tuple[MemoryFileSystem, AuditLog]:
    system = MemoryFileSystem()
    system.overwrite(PATH, content)
    return system, AuditLog.open(PATH, signer=SIGNER, file_system=system, now_ms=lambda: 0)


def test_all_golden_logs_are_in_the_list_of_cases() -> None:
    assert {case["file"] for case in CASES} == {path.name for path in DATA.glob("*.log")}
    assert len(CASES) == 22


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"])
def test_a_log_is_judged_in_the_words_of_the_reference(case: dict[str, object]) -> None:
    path = DATA / str(case["file"])
    content = path.read_bytes()
    assert content.count(b"\n") == case["lines"]
    reference = case["reference"]
    assert isinstance(reference, dict)
    report = verify_file(path)
    if reference["starts"]:
        assert report.problem is None
        assert report.record_count == content.count(b'"event_hash"')
        assert report.ends_with_newline == (content[-1:] in {b"\n", b""})
    else:
        assert report.problem is not None
        assert reference_line(problem_error(report.problem)) == reference["stderr"]
        assert report.record_count == report.problem.line - 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"])
def test_a_log_is_opened_where_the_reference_starts_or_a_crash_has_torn_it(
    case: dict[str, object],
) -> None:
    name = str(case["file"])
    content = (DATA / name).read_bytes()
    reference = case["reference"]
    assert isinstance(reference, dict)
    if not reference["starts"] and name not in REPAIRED:
        with pytest.raises(AuditError) as caught:
            open_copy(content)
        assert reference_line(caught.value) == reference["stderr"]
        assert caught.value.remedy
        assert caught.value.path == PATH
        return
    system, log = open_copy(content)
    whole = content[: content.rindex(b"\n") + 1] if name in REPAIRED else content
    expected = whole if whole.endswith(b"\n") or not whole else whole + b"\n"
    assert system.content(PATH) == expected
    assert log.head.sequence == REPAIRED.get(name, expected.count(b"\n"))
    assert (log.report.kept_path is not None) == (name in REPAIRED)
    if log.report.kept_path is not None:
        assert whole + system.content(log.report.kept_path) == content


@pytest.mark.parametrize("size", [1, 7, 512, 4096, 100_000])
def test_a_log_may_come_in_pieces_of_any_size(size: int) -> None:
    content = (DATA / "audit.log").read_bytes()
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    records: list[tuple[AuditRecord, ChainHead]] = []
    report = verify_chain(pieces, on_record=lambda record, head: records.append((record, head)))
    assert report == verify_file(DATA / "audit.log")
    assert (report.record_count, report.head.size_bytes) == (33, len(content))
    assert records[-1][1] == report.head
    assert [record.sequence for record, _ in records] == list(range(1, 34))


def test_records_are_written_byte_for_byte_as_the_reference_writes_them() -> None:
    lines = (DATA / "audit.log").read_bytes().splitlines(keepends=True)
    assert len(lines) == 33
    for line in lines:
        assert encode_record(decode_record(line)) == line


def test_appending_the_events_of_the_golden_log_makes_the_same_file() -> None:
    content = (DATA / "audit.log").read_bytes()
    events = [decode_record(line).event for line in content.splitlines()]
    system = MemoryFileSystem()
    log = AuditLog.open(PATH, signer=SIGNER, file_system=system)
    records = log.append(events[:1]) + log.append(events[1:])
    assert system.content(PATH) == content
    assert b"".join(encode_record(record) for record in records) == content
    assert log.head == verify_file(DATA / "audit.log").head
    assert log.durable_head == GENESIS


def test_a_start_goes_on_where_the_reference_stopped() -> None:
    content = (DATA / "no_final_newline.log").read_bytes()
    system, log = open_copy(content)
    log.append([decode_record(content.splitlines()[0]).event])
    log.close()
    assert system.content(PATH).startswith(content + b"\n")
    assert verify_chain([system.content(PATH)]).record_count == 7
