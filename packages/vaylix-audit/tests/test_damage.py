"""Damage of every kind to a small log: it is detected, or it changes no record.

A cut at the end of a line behind the newest checkpoint is the one thing that leaves no trace.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaylix_audit import (
    AuditEvent,
    AuditLog,
    AuditRecord,
    AuditStatus,
    HmacSigner,
    verify_chain,
)
from vaylix_audit.errors import AuditError, CheckpointError, Loss, LostRecordsError
from vaylix_audit.testing import MemoryFileSystem

PATH = Path("/data/audit.log")
CHECKPOINTS = Path("/data/audit.checkpoints")
SIGNER = HmacSigner(b"k" * 32)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
events = st.builds(
    AuditEvent,
    event_type=texts,
    timestamp_ms=st.integers(0, 2**64 - 1),
    details=st.dictionaries(texts, texts, max_size=2),
    status=st.sampled_from(AuditStatus),
    username=st.none() | texts,
)
batches = st.lists(st.lists(events, max_size=3), max_size=4)


def open_log(system: MemoryFileSystem) -> AuditLog:
    return AuditLog.open(PATH, signer=SIGNER, file_system=system, now_ms=lambda: 5)


def records_of(content: bytes) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    report = verify_chain([content], on_record=lambda record, _: records.append(record))
    assert report.problem is None
    return records


def small_log() -> tuple[bytes, bytes, int]:
    """Return a log of four records, its checkpoints, and the length up to the second record."""
    system = MemoryFileSystem()
    log = open_log(system)
    details = {"name": 'zoë "q"\t', "result": "ok"}
    log.append([AuditEvent(event_type="auth", timestamp_ms=1, details=details)] * 2)
    log.checkpoint()
    length = log.head.size_bytes
    log.append([AuditEvent(event_type="auth", timestamp_ms=2, details=details)] * 2)
    log.sync()
    return system.content(PATH), system.content(CHECKPOINTS), length


LOG, SIGNED, CHECKPOINTED_BYTES = small_log()


def open_damaged(log: bytes, checkpoints: bytes = SIGNED) -> tuple[AuditLog, list[AuditRecord]]:
    system = MemoryFileSystem()
    system.overwrite(PATH, log)
    system.overwrite(CHECKPOINTS, checkpoints)
    opened = open_log(system)
    return opened, records_of(system.content(PATH))


@given(batches)
@settings(deadline=None)
def test_any_events_in_any_batches_come_back(given_batches: list[list[AuditEvent]]) -> None:
    system = MemoryFileSystem()
    written: list[AuditRecord] = []
    with open_log(system) as log:
        for batch in given_batches:
            written.extend(log.append(batch))
    assert [record.event for record in written] == [one for batch in given_batches for one in batch]
    assert records_of(system.content(PATH)) == written
    assert open_log(system).report.messages() == ()


@pytest.mark.parametrize("flip", [0x01, 0x02, 0x20, 0x80, 0xFF])
def test_every_flipped_byte_is_detected_or_changes_no_record(flip: int) -> None:
    original = records_of(LOG)
    unnoticed = 0
    for place in range(len(LOG)):
        damaged = bytearray(LOG)
        damaged[place] ^= flip
        check_damage(bytes(damaged), original, place)
        unnoticed += is_accepted(bytes(damaged))
    # Those in the name of a field that is null: without it the field is null too.
    names = len("peer" + "username" + "error_code")
    assert unnoticed == (4 * names if flip < 0x80 else 0)


@pytest.mark.parametrize("byte", [0x00, 0x0A, 0x20, 0x22, 0x7D])
def test_every_byte_that_was_replaced_is_detected_or_changes_no_record(byte: int) -> None:
    original = records_of(LOG)
    for place in range(len(LOG)):
        damaged = bytearray(LOG)
        damaged[place] = byte
        check_damage(bytes(damaged), original, place)


def is_accepted(damaged: bytes) -> bool:
    try:
        log, _ = open_damaged(damaged)
    except AuditError:
        return False
    return log.report.messages() == ()


def check_damage(damaged: bytes, original: list[AuditRecord], place: int) -> None:
    try:
        log, found = open_damaged(damaged)
    except AuditError:
        return
    if not log.report.messages():
        assert found == original, place
    assert found == original[: len(found)], place
    # What was lost lies behind the checkpoint, looks as a crash would leave it, and was said.
    assert len(found) >= 2
    if found != original:
        assert place >= CHECKPOINTED_BYTES
        assert log.report.kept_path is not None


def test_every_cut_before_the_checkpoint_is_refused_and_every_one_behind_it_is_a_torn_end() -> None:
    original = records_of(LOG)
    silent: list[int] = []
    for size in range(len(LOG)):
        # The newline of the checkpointed record may be missing: the record is whole.
        if size < CHECKPOINTED_BYTES - 1:
            with pytest.raises(LostRecordsError) as caught:
                open_damaged(LOG[:size])
            assert caught.value.loss is (Loss.SHORTENED if size else Loss.EMPTIED)
            continue
        log, found = open_damaged(LOG[:size])
        assert found == original[: len(found)]
        assert len(found) >= 2
        if not log.report.messages():
            silent.append(size)
    borders = [place + 1 for place, byte in enumerate(LOG) if byte == 0x0A]
    assert silent == [border for border in borders if CHECKPOINTED_BYTES <= border < len(LOG)]


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80])
def test_every_flipped_byte_of_the_checkpoints_is_refused_or_said(flip: int) -> None:
    for place in range(len(SIGNED)):
        damaged = bytearray(SIGNED)
        damaged[place] ^= flip
        if place == len(SIGNED) - 1:
            log, _ = open_damaged(LOG, bytes(damaged))
            assert "torn" in log.report.messages()[0]
        else:
            with pytest.raises(CheckpointError):
                open_damaged(LOG, bytes(damaged))


def test_every_cut_of_the_checkpoints_is_said_or_at_the_end_of_one() -> None:
    first = SIGNED.index(b"\n")
    for size in range(1, len(SIGNED)):
        log, found = open_damaged(LOG, SIGNED[:size])
        assert len(found) == 4
        is_whole = size in {first, first + 1, len(SIGNED) - 1}
        assert (log.report.messages() == ()) == is_whole


@given(batches, st.data())
@settings(deadline=None)
def test_damage_to_any_log_that_is_closed_is_refused_or_changes_no_record(
    given_batches: list[list[AuditEvent]], data: st.DataObject
) -> None:
    system = MemoryFileSystem()
    with open_log(system) as log:
        for batch in given_batches:
            log.append(batch)
    content = system.content(PATH)
    if not content:
        return
    original = records_of(content)
    place = data.draw(st.integers(0, len(content) - 1))
    size = data.draw(st.integers(0, len(content) - 1))
    flipped = bytearray(content)
    flipped[place] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(flipped), content[:size]):
        system.kill()
        system.overwrite(PATH, damaged)
        try:
            open_log(system)
        except AuditError:
            continue
        assert records_of(system.content(PATH)) == original
