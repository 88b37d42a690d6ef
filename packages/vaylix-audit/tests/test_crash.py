"""Crash safety, exhaustively.

Goal: whatever call is the last one before a crash, and whatever part of the un-synced bytes and
names survives, the next start succeeds and finds a prefix of what was appended, with every record
that was synced. Method: a workload runs on a simulated disk; it is stopped before, or fails in,
each of its calls in turn. `History` knows what may be found after. The last tests plant known
mistakes and show that they are found.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vaylix_audit import AuditEvent, AuditLog, AuditRecord, ChainHead, HmacSigner, verify_chain
from vaylix_audit._event import chain_event
from vaylix_audit._files import File
from vaylix_audit.errors import AuditError
from vaylix_audit.testing import MemoryFileSystem, SimulatedCrash, Survival

PATH = Path("/data/audit/audit.log")
CHECKPOINTS = PATH.with_name("audit.checkpoints")
SIGNER = HmacSigner(b"k" * 32)

# Survival of data and of names.
SURVIVALS = [
    (Survival.NOTHING, Survival.NOTHING),
    (Survival.EVERYTHING, Survival.EVERYTHING),
    (Survival.EVERYTHING, Survival.NOTHING),
    (Survival.NOTHING, Survival.EVERYTHING),
    (Survival.FIRST_HALF, Survival.FIRST_HALF),
    (Survival.EVEN_SECTORS, Survival.EVERYTHING),
    (Survival.ODD_SECTORS, Survival.EVERYTHING),
    (Survival.LENGTHS, Survival.EVERYTHING),
]


class History:
    """What a log may hold: a prefix, long enough, of what was appended."""

    def __init__(self) -> None:
        self.appended: list[AuditRecord] = []
        self.synced_count = 0

    def append(self, log: AuditLog, count: int, size: int = 20) -> None:
        number = len(self.appended)
        events = [
            AuditEvent(event_type="x" * size, timestamp_ms=number + place) for place in range(count)
        ]
        before = log.head
        try:
            self.appended.extend(log.append(events))
        except (AuditError, SimulatedCrash):
            # It may be there, in part or as a whole, or not at all.
            self.appended.extend(_records_of(events, before))
            raise

    def sync(self, log: AuditLog) -> None:
        log.sync()
        self.acknowledge(log)

    def acknowledge(self, log: AuditLog) -> None:
        self.synced_count = log.durable_head.sequence

    def check(self, system: MemoryFileSystem, log: AuditLog) -> None:
        """Check what a start has found. It is said to be durable, so it counts as synced."""
        found: list[AuditRecord] = []
        report = verify_chain(
            [system.content(PATH)], on_record=lambda record, _: found.append(record)
        )
        assert report.problem is None
        assert report.head == log.head == log.durable_head == log.last_checkpoint.head
        assert found == self.appended[: len(found)], "not a prefix of what was appended"
        assert len(found) >= self.synced_count, "a synced record is lost"
        self.appended = found
        self.acknowledge(log)


def _records_of(events: list[AuditEvent], before: ChainHead) -> list[AuditRecord]:
    """Return the records that these events would have become behind `before`."""
    records: list[AuditRecord] = []
    sequence, previous = before.sequence, before.event_hash
    for event in events:
        record, _ = chain_event(event, sequence + 1, previous)
        records.append(record)
        sequence, previous = record.sequence, record.event_hash
    return records


def open_log(system: MemoryFileSystem) -> AuditLog:
    return AuditLog.open(
        PATH, signer=SIGNER, checkpoint_every=4, file_system=system, now_ms=lambda: 5
    )


def workload(system: MemoryFileSystem, history: History) -> None:
    log = open_log(system)
    history.check(system, log)
    history.append(log, 3)
    history.sync(log)
    history.append(log, 4, size=900)
    history.append(log, 1)
    history.sync(log)  # and a checkpoint
    history.append(log, 2, size=300)
    log.checkpoint()
    history.acknowledge(log)
    history.append(log, 1, size=2000)
    log.close()
    history.acknowledge(log)
    log = open_log(system)
    history.check(system, log)
    history.append(log, 3, size=700)
    history.sync(log)
    history.append(log, 5, size=400)


def repairs(system: MemoryFileSystem, history: History) -> None:
    """Open a log that has something torn in both files, then one that lacks both newlines."""
    log = open_log(system)
    history.append(log, 6, size=300)
    history.sync(log)
    history.append(log, 2)
    log.close()
    history.acknowledge(log)
    system.overwrite(PATH, system.content(PATH) + b'{"audit_version":1,"seq' + b"x" * 1500)
    system.overwrite(CHECKPOINTS, system.content(CHECKPOINTS)[:-20])
    log = open_log(system)
    assert len(log.report.messages()) == 2
    history.check(system, log)
    log.close()
    for path in (PATH, CHECKPOINTS):
        system.overwrite(path, system.content(path)[:-1])
    log = open_log(system)
    assert len(log.report.messages()) == 1
    history.check(system, log)
    history.append(log, 1)
    history.sync(log)


def continue_after(system: MemoryFileSystem, history: History) -> None:
    """Start, append, sync, stop hard, start again."""
    log = open_log(system)
    history.check(system, log)
    history.append(log, 2, size=600)
    history.sync(log)
    history.append(log, 1)
    system.power_cut()
    history.check(system, open_log(system))


Workload = Callable[[MemoryFileSystem, History], None]


def stop_at_every_call(
    work: Workload,
    stop: Callable[[MemoryFileSystem, int], None],
    after: Callable[[MemoryFileSystem], None],
) -> int:
    """Run a workload that is stopped in each of its calls in turn; return how many there are."""
    call = 0
    while True:
        call += 1
        system, history = MemoryFileSystem(), History()
        stop(system, call)
        try:
            work(system, history)
        except (AuditError, SimulatedCrash):
            after(system)
            continue_after(system, history)
        else:
            assert system.call_count < call
            return call - 1


WORKLOADS = pytest.mark.parametrize("work", [workload, repairs], ids=lambda work: work.__name__)


@WORKLOADS
@pytest.mark.parametrize(("data", "names"), SURVIVALS)
def test_a_power_cut_before_any_call_loses_nothing_that_was_synced(
    work: Workload, data: Survival, names: Survival
) -> None:
    calls = stop_at_every_call(
        work, MemoryFileSystem.crash_at, lambda system: system.power_cut(data, names)
    )
    assert calls > 25


@WORKLOADS
def test_a_kill_before_any_call_loses_nothing_that_was_synced(work: Workload) -> None:
    stop_at_every_call(work, MemoryFileSystem.crash_at, MemoryFileSystem.kill)


@WORKLOADS
@pytest.mark.parametrize(("data", "names"), SURVIVALS)
def test_a_power_cut_after_a_call_that_fails_loses_nothing_that_was_synced(
    work: Workload, data: Survival, names: Survival
) -> None:
    stop_at_every_call(work, MemoryFileSystem.fail_at, lambda system: system.power_cut(data, names))


@WORKLOADS
def test_a_restart_after_a_call_that_fails_shows_only_what_stays(work: Workload) -> None:
    # `continue_after` pulls the plug after the restart: what it has shown must still be there.
    stop_at_every_call(work, MemoryFileSystem.fail_at, MemoryFileSystem.kill)


@WORKLOADS
def test_a_write_that_is_cut_short_changes_nothing(work: Workload) -> None:
    whole, history = MemoryFileSystem(), History()
    work(whole, history)
    for call in range(1, whole.call_count + 1):
        system = MemoryFileSystem()
        system.cut_short_at(call)
        work(system, History())
        for path in (PATH, CHECKPOINTS):
            assert system.content(path) == whole.content(path)


def test_a_power_cut_during_the_start_after_a_power_cut_changes_nothing() -> None:
    def crash_then_repair(system: MemoryFileSystem, history: History) -> None:
        log = open_log(system)
        history.append(log, 6, size=500)
        history.sync(log)
        history.append(log, 3, size=700)
        system.power_cut(Survival.ODD_SECTORS)
        log = open_log(system)
        assert log.report.check.torn is not None
        history.check(system, log)

    for data, names in SURVIVALS:
        for stop in (MemoryFileSystem.crash_at, MemoryFileSystem.fail_at):
            # A new call begins before the power cut, which forgets what was planned to fail.
            call = 0
            while True:
                call += 1
                system, history = MemoryFileSystem(), History()
                if not _stop_in_the_second_start(system, history, stop, call):
                    break
                system.power_cut(data, names)
                continue_after(system, history)
            assert call > 5
    crash_then_repair(MemoryFileSystem(), History())


def _stop_in_the_second_start(
    system: MemoryFileSystem,
    history: History,
    stop: Callable[[MemoryFileSystem, int], None],
    call: int,
) -> bool:
    log = open_log(system)
    history.append(log, 6, size=500)
    history.sync(log)
    history.append(log, 3, size=700)
    system.power_cut(Survival.ODD_SECTORS)
    stop(system, system.call_count + call)
    try:
        history.check(system, open_log(system))
    except (AuditError, SimulatedCrash):
        return True
    return False


# Planted bugs: each of them is found


def run_everything() -> None:
    for work in (workload, repairs):
        for data, names in SURVIVALS:
            stop_at_every_call(
                work,
                MemoryFileSystem.crash_at,
                lambda system, data=data, names=names: system.power_cut(data, names),  # type: ignore[misc]
            )
        stop_at_every_call(work, MemoryFileSystem.fail_at, MemoryFileSystem.kill)


def test_forgetting_to_sync_the_directory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFileSystem, "sync_directory", lambda *_: None)
    with pytest.raises((AuditError, AssertionError)):
        run_everything()


def test_a_checkpoint_before_the_sync_of_the_log_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def sync_late(log: AuditLog, every: int) -> None:
        log._checkpoints.write_if_due(log.head, every)
        log._file.sync()
        log._durable_head = log.head

    monkeypatch.setattr(AuditLog, "_sync", sync_late)
    with pytest.raises(AuditError):
        run_everything()


def test_trusting_the_page_cache_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_sync(file: File, _start: int, _end: int) -> None:
        file.sync()

    monkeypatch.setattr("vaylix_audit._repair._write_again", only_sync)
    with pytest.raises((AuditError, AssertionError)):
        run_everything()


def test_a_start_that_leaves_a_torn_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(file: File, _check: object, **_: object) -> None:
        file.sync()

    monkeypatch.setattr("vaylix_audit._log.repair_log", leave)
    with pytest.raises((AuditError, AssertionError)):
        run_everything()
