"""Weakness 38 of 0.9 (storage section 18): what a crash leaves, and what somebody takes away.

The published server accepts a last line without newline, glues the next record to it, and fails at
the start after that; and it says nothing about a log that was emptied, deleted or shortened. Each
rule is first shown to fail with the old behaviour planted.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vaylix_audit import (
    GENESIS,
    AuditEvent,
    AuditLog,
    ChainHead,
    HmacSigner,
    Signer,
    check_log,
    verify_chain,
)
from vaylix_audit import _inspection as inspection_module
from vaylix_audit import _repair as repair_module
from vaylix_audit._files import File
from vaylix_audit.errors import AuditError, AuditLogFailedError, Loss, LostRecordsError
from vaylix_audit.testing import MemoryFileSystem

DATA = Path(__file__).parent / "data" / "audit"
PATH = Path("/data/audit.log")
CHECKPOINTS = Path("/data/audit.checkpoints")
SIGNER = HmacSigner(b"k" * 32)


def event(number: int) -> AuditEvent:
    return AuditEvent(event_type="command", timestamp_ms=number)


def open_log(system: MemoryFileSystem, expected: ChainHead | None = None) -> AuditLog:
    return AuditLog.open(PATH, signer=SIGNER, expected=expected, file_system=system)


def start_twice(content: bytes) -> int:
    """Start on this file, append, start again; return the number of records found then."""
    system = MemoryFileSystem()
    system.overwrite(PATH, content)
    with open_log(system) as log:
        log.append([event(1)])
    with open_log(system) as log:
        assert log.report.messages() == ()
        return log.head.sequence


def written_log(count: int = 9) -> MemoryFileSystem:
    system = MemoryFileSystem()
    with open_log(system) as log:
        log.append([event(number) for number in range(count)])
    return system


@pytest.mark.parametrize(
    ("name", "records"),
    [("no_final_newline.log", 6), ("torn_last_line.log", 5), ("torn_by_sigterm.log", 22)],
)
def test_weakness_38_a_log_without_a_final_newline_survives_two_starts(
    name: str, records: int
) -> None:
    assert start_twice((DATA / name).read_bytes()) == records + 1


@pytest.mark.parametrize("name", ["no_final_newline.log", "torn_last_line.log"])
def test_weakness_38_a_start_that_repairs_nothing_is_found_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def skip_repair(file: File, check: object, **_: object) -> None:
        file.sync()

    monkeypatch.setattr("vaylix_audit._log.repair_log", skip_repair)
    with pytest.raises((AuditError, AssertionError)):
        start_twice((DATA / name).read_bytes())


def test_weakness_38_a_record_glued_to_an_unfinished_line_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As 0.9: no repair, and the next record goes to wherever the file ends.
    def skip_repair(file: File, check: object, **_: object) -> None:
        file.sync()

    def append_to_the_end(file: File, _offset: int, data: bytes) -> None:
        file.write_at(file.size(), data)

    monkeypatch.setattr("vaylix_audit._log.repair_log", skip_repair)
    monkeypatch.setattr("vaylix_audit._log.write_whole", append_to_the_end)
    monkeypatch.setattr(AuditLog, "_check_length", lambda _: None)
    with pytest.raises(AuditError, match="line 6: trailing characters at line 1 column 526"):
        start_twice((DATA / "no_final_newline.log").read_bytes())


def test_weakness_38_a_torn_end_is_kept_aside_and_said() -> None:
    content = (DATA / "torn_last_line.log").read_bytes()
    system = MemoryFileSystem()
    system.overwrite(PATH, content)
    report = open_log(system).report
    assert report.kept_path is not None
    whole = content[: content.rindex(b"\n") + 1]
    assert system.content(PATH) == whole
    assert whole + system.content(report.kept_path) == content
    message = report.messages()[0]
    assert message.startswith("audit log: line 6 was torn (EOF while parsing a string at line 1")
    assert str(report.kept_path) in message
    assert "100 bytes" in message


def take_away(system: MemoryFileSystem, how: Loss) -> None:
    lines = system.content(PATH).splitlines(keepends=True)
    match how:
        case Loss.MISSING:
            system.remove(PATH)
        case Loss.EMPTIED:
            system.overwrite(PATH, b"")
        case Loss.SHORTENED:
            system.overwrite(PATH, b"".join(lines[:-1]))
        case Loss.REPLACED:
            other = written_log(8)
            system.overwrite(PATH, other.content(PATH))
            other.remove(CHECKPOINTS)
            with open_log(other) as log:
                log.append([event(7), event(7)])
            system.overwrite(PATH, other.content(PATH))


WORDS = {
    Loss.MISSING: "the log is missing, but record 9 has a signed checkpoint",
    Loss.EMPTIED: "the log is empty, but record 9 has a signed checkpoint",
    Loss.SHORTENED: "the log ends at record 8, but record 9 has a signed checkpoint",
    Loss.REPLACED: "record 9 has a signed checkpoint, but the log holds another",
}


@pytest.mark.parametrize("loss", Loss, ids=lambda loss: loss.value)
def test_weakness_38_a_log_that_lost_records_is_reported(loss: Loss) -> None:
    system = written_log()
    take_away(system, loss)
    before = {path: system.content(path) for path in system.paths()}
    with pytest.raises(LostRecordsError) as caught:
        open_log(system)
    error = caught.value
    assert (error.loss, error.code, error.path) == (loss, "SRV-028", PATH)
    assert error.message == "audit log hash chain verification failed: " + WORDS[loss]
    assert error.remedy is not None
    assert "restore the log" in error.remedy
    with pytest.raises(LostRecordsError, match=WORDS[loss]):
        check_log(PATH, signer=SIGNER, file_system=system)
    assert {path: system.content(path) for path in system.paths()} == before


@pytest.mark.parametrize("loss", Loss, ids=lambda loss: loss.value)
def test_weakness_38_a_start_that_does_not_compare_is_found_out(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ignore_checkpoints(
        log: File | None,
        _checkpoints: File | None,
        *,
        path: Path,
        signer: Signer,
        expected: ChainHead | None,
    ) -> inspection_module.Inspection:
        assert expected is None
        return inspection_module.inspect(log, None, path=path, signer=signer, expected=None)

    monkeypatch.setattr("vaylix_audit._log.inspect", ignore_checkpoints)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_weakness_38_a_log_that_lost_records_is_reported(loss)


def test_weakness_38_a_cut_inside_the_last_checkpointed_record_is_reported() -> None:
    system = written_log()
    content = system.content(PATH)
    start = content[:-1].rindex(b"\n") + 1
    for size in range(start, len(content) - 1):
        system.overwrite(PATH, content[:size])
        with pytest.raises(LostRecordsError, match="the log ends at record 8, but record 9"):
            open_log(system)
    # Without its newline the record is whole.
    system.overwrite(PATH, content[:-1])
    assert open_log(system).head.sequence == 9
    assert system.content(PATH) == content


def test_weakness_38_what_the_caller_remembers_replaces_lost_checkpoints() -> None:
    system = written_log()
    log = open_log(system)
    head = log.head
    log.close()
    for path in (PATH, CHECKPOINTS):
        system.remove(path)
    # Both files together: without help from outside this is a first start.
    assert check_log(PATH, signer=SIGNER, file_system=system).is_missing
    for expected, words in (
        (head, "but record 9 is known to have been in it"),
        (GENESIS, "but it was there before"),
    ):
        with pytest.raises(LostRecordsError, match=f"the log is missing, {words}") as caught:
            open_log(system, expected)
        assert caught.value.loss is Loss.MISSING
    older = written_log(8)
    with pytest.raises(LostRecordsError, match="ends at record 8, but record 9 is known"):
        open_log(older, head)
    older.kill()
    with open_log(older) as log:
        log.append([event(99)])
    with pytest.raises(LostRecordsError, match="is known to have been in it, but the log holds"):
        open_log(older, head)


def test_weakness_38_both_files_put_back_to_an_older_state_is_noticed_by_memory_only() -> None:
    system = written_log()
    older = {path: system.content(path) for path in system.paths()}
    with open_log(system) as log:
        log.append([event(9)])
    for path, content in older.items():
        system.overwrite(path, content)
    with pytest.raises(LostRecordsError, match="ends at record 9, but record 10 is known"):
        open_log(system, log.head)
    system.kill()
    assert open_log(system).head.sequence == 9


def test_weakness_38_what_was_appended_behind_the_last_checkpoint_can_go_unnoticed() -> None:
    system = written_log()
    whole = system.content(PATH)
    log = open_log(system)
    log.append([event(9)])
    log.sync()
    system.power_cut()
    assert check_log(PATH, signer=SIGNER, file_system=system).unprotected_count == 1
    system.overwrite(PATH, whole)
    assert open_log(system).head.sequence == 9


def test_weakness_38_a_failed_sync_is_made_good_by_the_next_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start_after_a_failed_sync() -> int:
        system = written_log()
        log = open_log(system)
        log.append([event(9)])
        system.fail_at(system.call_count + 1)
        with pytest.raises(AuditLogFailedError):
            log.sync()
        system.kill()
        found = open_log(system).durable_head
        assert found.sequence == 10
        system.power_cut()
        assert open_log(system).head == found, "a record that was durable is gone"
        return verify_chain([system.content(PATH)]).record_count

    assert start_after_a_failed_sync() == 10
    monkeypatch.setattr(repair_module, "_write_again", lambda *_: None)
    with pytest.raises((AuditError, AssertionError)):
        start_after_a_failed_sync()
