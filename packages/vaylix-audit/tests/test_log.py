"""The audit log: appending, syncing, failing, closing; and what it refuses to open."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vaylix_audit import (
    CHECKPOINT_EVERY,
    GENESIS,
    AuditEvent,
    AuditLog,
    ChainHead,
    HmacSigner,
    RealFileSystem,
    check_log,
    checkpoints_path,
    verify_chain,
    verify_file,
)
from vaylix_audit._files import File, read_pieces, write_whole
from vaylix_audit.errors import (
    AuditError,
    AuditLogClosedError,
    AuditLogFailedError,
    AuditLogInUseError,
    BrokenChainError,
    FileSystemError,
    InvalidEventError,
)
from vaylix_audit.testing import MemoryFileSystem

PATH = Path("/data/audit.log")
CHECKPOINTS = Path("/data/audit.checkpoints")
SIGNER = HmacSigner(b"k" * 32)


def event(number: int) -> AuditEvent:
    return AuditEvent(event_type="command", timestamp_ms=number, opcode="SET")


def open_log(
    system: MemoryFileSystem, *, every: int = CHECKPOINT_EVERY, expected: ChainHead | None = None
) -> AuditLog:
    return AuditLog.open(
        PATH,
        signer=SIGNER,
        expected=expected,
        checkpoint_every=every,
        file_system=system,
        now_ms=lambda: 77,
    )


def test_a_batch_is_one_write_and_a_sync_is_one_sync() -> None:
    system = MemoryFileSystem()
    log = open_log(system)
    before = system.call_count
    records = log.append([event(number) for number in range(100)])
    assert system.call_count == before + 1
    assert [record.sequence for record in records] == list(range(1, 101))
    assert (log.head.sequence, log.durable_head) == (100, GENESIS)
    log.sync()
    assert system.call_count == before + 2
    assert log.durable_head == log.head == verify_chain([system.content(PATH)]).head
    log.sync()
    assert log.append([]) == ()
    assert system.call_count == before + 2


def test_what_was_synced_survives_a_power_cut_and_the_chain_goes_on() -> None:
    system = MemoryFileSystem()
    log = open_log(system)
    log.append([event(1), event(2)])
    log.sync()
    log.append([event(3)])
    head = log.durable_head
    system.power_cut()
    log = open_log(system)
    assert log.head == log.durable_head == head
    assert log.report.messages() == ()
    log.append([event(4)])
    assert verify_chain([system.content(PATH)]).record_count == 3


def test_a_write_that_is_cut_short_is_finished() -> None:
    system = MemoryFileSystem()
    log = open_log(system)
    system.cut_short_at(system.call_count + 1)
    before = system.call_count
    log.append([event(1), event(2)])
    assert system.call_count == before + 2
    assert verify_chain([system.content(PATH)]).head == log.head


def test_a_write_that_makes_no_progress_is_a_failure() -> None:
    class Stuck:
        def write_at(self, offset: int, _data: bytes) -> int:
            return 2 if offset == 0 else 0

    with pytest.raises(OSError, match="no progress"):
        write_whole(Stuck(), 0, b"abcd")  # type: ignore[arg-type]


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_the_first_failure_ends_the_log(call: int) -> None:
    system = MemoryFileSystem()
    log = open_log(system, every=1)

    def use() -> None:
        log.append([event(1)])  # one write
        log.sync()  # a sync; a checkpoint, which is a write and a sync

    system.fail_at(system.call_count + call)
    with pytest.raises(AuditLogFailedError, match="cannot be written any more") as caught:
        use()
    first = caught.value.__cause__
    assert isinstance(first, OSError)
    assert (caught.value.code, caught.value.path) == ("SRV-004", PATH)
    assert caught.value.remedy is not None
    calls = system.call_count
    uses: list[Callable[[], object]] = [use, log.sync, log.checkpoint]
    for again in uses:
        with pytest.raises(AuditLogFailedError) as caught:
            again()
        assert caught.value.__cause__ is first
    log.close()
    assert system.call_count == calls, "nothing is tried again"
    assert open_log(system).head.sequence == (0 if call == 1 else 1)


@pytest.mark.parametrize("call", ["write_at", "sync"])
def test_an_interrupt_ends_the_log_and_goes_its_way(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    log = open_log(MemoryFileSystem())

    def use() -> None:
        log.append([event(1)])
        log.sync()

    monkeypatch.setattr(f"vaylix_audit.testing._memory_file_system._MemoryFile.{call}", interrupt)
    with pytest.raises(KeyboardInterrupt):
        use()
    with pytest.raises(AuditLogFailedError, match="any more: KeyboardInterrupt"):
        log.sync()


def test_closing_tells_of_a_sync_that_fails_and_closes_all_the_same() -> None:
    system = MemoryFileSystem()
    log = open_log(system)
    log.append([event(1)])
    system.fail_at(system.call_count + 1)
    with pytest.raises(AuditLogFailedError):
        log.close()
    log.close()
    open_log(system)


def test_a_closed_log_takes_nothing() -> None:
    system = MemoryFileSystem()
    with open_log(system) as log:
        log.append([event(1)])
    uses: list[Callable[[], object]] = [lambda: log.append([event(2)]), log.sync, log.checkpoint]
    for use in uses:
        with pytest.raises(AuditLogClosedError):
            use()
    assert log.head == log.durable_head == log.last_checkpoint.head


def test_an_event_that_cannot_be_written_takes_its_batch_along_and_no_more() -> None:
    system = MemoryFileSystem()
    log = open_log(system)
    with pytest.raises(InvalidEventError):
        log.append([event(1), event(-1)])
    assert system.content(PATH) == b""
    log.append([event(2)])
    assert log.head.sequence == 1


@pytest.mark.parametrize("change", [b"", b"more than there was"])
def test_a_file_whose_length_somebody_has_changed_ends_the_log(change: bytes) -> None:
    system = MemoryFileSystem()
    log = open_log(system)
    log.append([event(1)])
    system.overwrite(PATH, change and system.content(PATH) + change)
    with pytest.raises(AuditLogFailedError, match="somebody else has changed the file"):
        log.append([event(2)])


def test_a_second_log_of_the_same_file_is_refused_until_the_first_is_closed() -> None:
    system = MemoryFileSystem()
    log = open_log(system)
    with pytest.raises(AuditLogInUseError) as caught:
        open_log(system)
    assert caught.value.remedy is not None
    log.close()
    open_log(system).close()


def test_a_file_that_appears_while_a_log_is_made_is_not_taken_over() -> None:
    class Late(MemoryFileSystem):
        def exists(self, path: Path) -> bool:
            return super().exists(path.with_name("other"))

    system = Late()
    system.overwrite(PATH, b"somebody else's")
    with pytest.raises(AuditLogInUseError):
        open_log(system)
    assert system.content(PATH) == b"somebody else's"


def test_a_log_that_is_refused_is_neither_changed_nor_kept_open() -> None:
    system = MemoryFileSystem()
    system.overwrite(PATH, b"no log\n")
    for _ in range(2):
        with pytest.raises(BrokenChainError, match="line 1: expected value"):
            open_log(system)
    assert system.paths() == [PATH]
    assert system.content(PATH) == b"no log\n"


def test_an_interval_of_no_records_and_a_name_for_checkpoints_are_refused() -> None:
    with pytest.raises(ValueError, match="one record or more"):
        open_log(MemoryFileSystem(), every=0)
    with pytest.raises(ValueError, match="is the name of a file of checkpoints"):
        checkpoints_path(CHECKPOINTS)


def test_an_endless_line_is_refused_without_being_held() -> None:
    produced = 0

    def endless() -> object:
        nonlocal produced
        while True:
            produced += 1
            yield b"x" * 1000

    report = verify_chain(endless(), line_bytes_max=10_000)  # type: ignore[arg-type]
    assert report.problem is not None
    assert report.problem.reason == "line is longer than 10000 bytes"
    assert not report.problem.looks_torn
    assert produced == 11


@pytest.mark.parametrize(("size", "is_too_long"), [(1000, False), (1001, True)])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_the_bound_of_a_line_is_exact(size: int, is_too_long: bool, end: bytes) -> None:
    report = verify_chain([b"x" * size + end], line_bytes_max=1000)
    assert report.problem is not None
    assert report.problem.reason.startswith("line is longer") == is_too_long


# On the file system of the machine


def test_files_and_directories_are_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where" / "audit.log"
    old_mask = os.umask(0)
    try:
        with AuditLog.open(path, signer=SIGNER) as log:
            log.append([event(1)])
        path.write_bytes(path.read_bytes() + b'{"cut')
        AuditLog.open(path, signer=SIGNER).close()
    finally:
        os.umask(old_mask)
    modes = {
        found.name.partition("torn")[0]: stat.S_IMODE(found.stat().st_mode)
        for found in (tmp_path / "some").rglob("*")
    }
    assert modes == {
        "where": 0o700,
        "audit.log": 0o600,
        "audit.checkpoints": 0o600,
        "audit.log.": 0o600,
    }
    assert stat.S_IMODE((tmp_path / "some").stat().st_mode) == 0o700


def test_a_log_on_the_disk_is_locked_and_goes_on_after_closing(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = AuditLog.open(path, signer=SIGNER)
    log.append([event(1)])
    with pytest.raises(AuditLogInUseError, match="another process, or this one, has") as caught:
        AuditLog.open(path, signer=SIGNER)
    assert caught.value.remedy == "stop or close what uses it, or choose another file"
    assert check_log(path, signer=SIGNER).unprotected_count == 1
    log.close()
    log = AuditLog.open(path, signer=SIGNER)
    log.append([event(2)])
    log.sync()
    log.close()
    assert verify_file(path).head == log.head
    assert log.last_checkpoint.timestamp_ms > 1_700_000_000_000


def test_one_thread_may_append_while_another_syncs(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = AuditLog.open(path, signer=SIGNER, checkpoint_every=10)
    is_done = threading.Event()
    failures: list[Exception] = []

    def sync_all_the_time() -> None:
        try:
            while not is_done.is_set():
                log.sync()
                assert log.durable_head.sequence <= log.head.sequence
        except (AuditError, AssertionError) as error:
            failures.append(error)

    thread = threading.Thread(target=sync_all_the_time)
    thread.start()
    for number in range(300):
        log.append([event(number)])
    is_done.set()
    thread.join()
    log.close()
    assert failures == []
    assert verify_file(path).head == log.head == check_log(path, signer=SIGNER).head
    assert log.head.sequence == 300


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "audit.log"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(FileSystemError) as caught:
            verify_file(path)
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(FileSystemError):
            AuditLog.open(path, signer=SIGNER)
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_missing_file_cannot_be_verified_and_checking_makes_none(tmp_path: Path) -> None:
    path = tmp_path / "no" / "audit.log"
    with pytest.raises(FileSystemError, match="No such file"):
        verify_file(path)
    assert check_log(path, signer=SIGNER).is_missing
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_somebody_made_is_synced_if_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []

    def note(self: RealFileSystem, path: Path) -> None:
        synced.append(path)
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(RealFileSystem, "sync_directory", note)
    RealFileSystem().make_directory(tmp_path)
    assert synced == [tmp_path.parent]


def test_a_file_that_is_one_endless_line_is_refused_soon(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with path.open("wb") as file:
        file.truncate(2**40)
    report = verify_file(path)
    assert report.problem is not None
    assert report.problem.reason == "line is longer than 16777216 bytes"
    with pytest.raises(BrokenChainError, match="line 1: line is longer"):
        AuditLog.open(path, signer=SIGNER)


# Syncs records one by one and says so; it does not end by itself.
WRITER = """
import itertools, pathlib, sys
from vaylix_audit import AuditEvent, AuditLog, HmacSigner
log = AuditLog.open(pathlib.Path(sys.argv[1]), signer=HmacSigner(b"k" * 32), checkpoint_every=3)
for number in itertools.count():
    log.append([AuditEvent(event_type="x" * 500, timestamp_ms=number)] * 2)
    log.sync()
    print(log.durable_head.sequence, flush=True)
"""


def test_a_process_that_is_killed_leaves_what_it_has_synced(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    synced = 0
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        with writer, writer.stdout as said:
            for _ in range(20):
                synced = int(said.readline())
            writer.kill()
        with AuditLog.open(path, signer=SIGNER) as log:
            assert log.head.sequence >= synced
            synced = log.head.sequence
    assert verify_file(path).record_count == synced >= 120


def test_reading_stops_where_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4096)
    file: File = RealFileSystem().open_to_read(path)
    assert b"".join(read_pieces(file)) == path.read_bytes()
    assert b"".join(read_pieces(file, 5, 700_000)) == path.read_bytes()[5:700_000]
    file.close()


def test_every_error_tells_what_where_and_what_to_do() -> None:
    error = AuditError("disk on fire", path=PATH, remedy="put it out")
    assert str(error) == "/data/audit.log: filesystem I/O failed: disk on fire (put it out)"
    assert str(BrokenChainError("line 3: x")) == (
        "audit log hash chain verification failed: line 3: x"
    )
