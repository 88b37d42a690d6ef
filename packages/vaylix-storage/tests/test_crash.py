"""Crash safety of the log, exhaustively.

Goal: whatever call is the last one before a crash, and whatever part of the un-synced bytes and
names survives, the next start succeeds and finds what was acknowledged. Method: one workload with
appends, hard states, rotation, a cut, a clean stop and a restart runs on a simulated disk; it is
stopped before, or fails in, each of its calls in turn. `History` knows what may be found after.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from vaylix_storage import Batch, HardState, Log, LogOptions, RecoveryOutcome, SyncPolicy
from vaylix_storage._catalog import Mark, SegmentInfo
from vaylix_storage.errors import LogPoisonedError, StorageError
from vaylix_storage.testing import (
    SURVIVALS,
    MemoryVfs,
    SimulatedCrash,
    Survival,
    counting_random_bytes,
    fixed_keyring,
)

DIRECTORY = Path("/data/wal")
TIMELINE = b"t" * 16

# Survival of data and of names: nothing, everything, one without the other, and in part.


def open_log(vfs: MemoryVfs, policy: SyncPolicy = SyncPolicy.SYNC) -> Log:
    return Log.open(
        DIRECTORY,
        vfs=vfs,
        keyring=fixed_keyring(),
        options=LogOptions(timeline=TIMELINE, sync_policy=policy, segment_bytes_max=2500),
        random_bytes=counting_random_bytes(vfs.generation),
    )


def make_batch(first_index: int, term: int = 1, payload_bytes: int = 600) -> Batch:
    payload = bytes([first_index % 251 + 1]) * payload_bytes
    return Batch.create(
        first_index=first_index,
        count=2,
        term=term,
        kind=1,
        timestamp_ms=first_index,
        payload=payload,
    )


class History:
    """What a log may hold: a prefix, long enough, of what was appended."""

    def __init__(
        self, policy: SyncPolicy = SyncPolicy.SYNC, *, page_cache_lives: bool = False
    ) -> None:
        self.policy = policy
        # Whether what was written counts as promised, synced or not.
        self.page_cache_lives = page_cache_lives
        self.appended: list[Batch] = []
        self.acknowledged_count = 0
        # While a cut is under way, what the log held before it.
        self.before_cut: list[Batch] | None = None
        self.hard_states = [HardState()]

    def append(self, log: Log, batches: list[Batch], hard_state: HardState | None = None) -> None:
        self.appended.extend(batches)
        if hard_state is not None:
            self.hard_states.append(hard_state)
        log.append(batches, hard_state)
        log.sync()
        self.acknowledge(log)

    def acknowledge(self, log: Log) -> None:
        promised = log.last_index if self.page_cache_lives else log.durable_index
        self.acknowledged_count = sum(batch.last_index <= promised for batch in self.appended)
        # Every change of it in here is one of the term, and so is synced under every policy.
        del self.hard_states[:-1]

    def cut(self, log: Log, batch_count: int) -> None:
        self.before_cut = list(self.appended)
        del self.appended[batch_count:]
        self.acknowledged_count = min(self.acknowledged_count, batch_count)
        log.truncate_after(self.appended[-1].last_index)
        self.before_cut = None
        self.acknowledge(log)

    def check(self, log: Log) -> None:
        """Check what a start found. All of it is served from now on, so it counts as promised."""
        found = list(log.read(log.first_index))
        assert list(log.read(log.first_index)) == found, "the segments hold something else"
        uncut = self.appended if self.before_cut is None else self.before_cut
        assert found == uncut[: len(found)], "not a prefix of what was appended"
        assert len(found) >= self.acknowledged_count, "an acknowledged batch is lost"
        if self.before_cut is not None and self.policy is SyncPolicy.SYNC:
            assert found in (self.before_cut, self.appended), "a cut that is half done"
        assert log.hard_state in self.hard_states, "the hard state went back"
        assert log.durable_index == log.last_index
        self.before_cut = None
        self.appended = found
        self.hard_states = [log.hard_state]
        self.acknowledge(log)


def workload(vfs: MemoryVfs, history: History) -> None:
    log = open_log(vfs, history.policy)
    history.check(log)
    history.append(log, [make_batch(1)])
    history.append(log, [make_batch(3), make_batch(5)], HardState(1, b"me", 2))
    history.append(log, [make_batch(7)])
    history.append(log, [make_batch(9)])  # in a second segment
    history.append(log, [make_batch(11), make_batch(13), make_batch(15)])
    history.cut(log, 6)  # inside the last frame
    history.append(log, [make_batch(13, term=2)], HardState(2, b"you", 8))
    history.cut(log, 3)  # into the first segment, at the end of a frame
    log.close()
    log = open_log(vfs, history.policy)
    history.check(log)
    history.append(log, [make_batch(7, term=3, payload_bytes=1500)])
    history.append(log, [], HardState(3, b"", 8))
    history.append(log, [make_batch(9, term=3)])


def continue_after(vfs: MemoryVfs, history: History) -> None:
    """Recover, append, stop hard, recover again."""
    log = open_log(vfs, history.policy)
    history.check(log)
    history.append(log, [make_batch(log.last_index + 1, term=7)])
    vfs.power_cut()
    history.check(open_log(vfs, history.policy))


def start_again(vfs: MemoryVfs, history: History) -> None:
    history.check(open_log(vfs, history.policy))


def stop_at_every_call(
    make_vfs: Callable[[], MemoryVfs],
    stop: Callable[[MemoryVfs], None],
    then: Callable[[MemoryVfs, History], None] = continue_after,
    make_history: Callable[[], History] = History,
) -> None:
    """Run the workload once for each of its calls, stop before that call, and look."""
    call = 0
    finished = False
    while not finished:
        call += 1
        vfs, history = make_vfs(), make_history()
        vfs.crash_at(call)
        try:
            workload(vfs, history)
            finished = True
        except SimulatedCrash:
            pass
        stop(vfs)
        then(vfs, history)


@pytest.fixture(params=[False, True], ids=["plain", "preallocated"])
def make_vfs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[MemoryVfs]:
    reserves_space: bool = request.param
    monkeypatch.setattr("vaylix_storage._segment.PREALLOCATE_BYTES", 4096)

    class Disk(MemoryVfs):
        def __init__(self) -> None:
            super().__init__(reserves_space=reserves_space)

    return Disk


def test_the_workload_makes_enough_calls_to_prove_something() -> None:
    vfs = MemoryVfs()
    workload(vfs, History())
    assert vfs.call_count > 50


@pytest.mark.parametrize(("data", "names"), SURVIVALS)
def test_power_cut_at_every_call(
    make_vfs: type[MemoryVfs], data: Survival, names: Survival
) -> None:
    stop_at_every_call(make_vfs, lambda vfs: vfs.power_cut(data, names))


def test_kill_at_every_call(make_vfs: type[MemoryVfs]) -> None:
    stop_at_every_call(make_vfs, MemoryVfs.kill)


def test_power_cut_after_a_kill_and_a_start(make_vfs: type[MemoryVfs]) -> None:
    """What a start has found and served must survive the power cut that follows."""

    def start_and_cut_power(vfs: MemoryVfs, history: History) -> None:
        start_again(vfs, history)
        vfs.power_cut()
        continue_after(vfs, history)

    stop_at_every_call(make_vfs, MemoryVfs.kill, start_and_cut_power)


def fail_at_every_call(make_vfs: Callable[[], MemoryVfs]) -> None:
    """After a failure nothing more is acknowledged, and neither restart nor power cut hurts."""
    call = 0
    finished = False
    while not finished:
        call += 1
        vfs, history = make_vfs(), History()
        vfs.fail_at(call)
        try:
            workload(vfs, history)
            finished = True
        except StorageError:
            pass
        vfs.kill()
        history.check(open_log(vfs))
        vfs.power_cut()
        continue_after(vfs, history)


def test_failure_at_every_call(make_vfs: type[MemoryVfs]) -> None:
    fail_at_every_call(make_vfs)


def test_crash_during_recovery_at_every_call(make_vfs: type[MemoryVfs]) -> None:
    """A crash while recovering from a crash changes nothing."""
    for survival in (Survival.NOTHING, Survival.FIRST_HALF, Survival.EVERYTHING):
        call = 0
        finished = False
        while not finished:
            call += 1
            vfs, history = make_vfs(), History()
            log = open_log(vfs)
            for first_index in range(1, 9, 2):
                history.append(log, [make_batch(first_index)])
            history.appended.append(make_batch(9, payload_bytes=1200))
            log.append(history.appended[-1:])
            vfs.kill()
            vfs.crash_at(vfs.call_count + call)
            try:
                history.check(open_log(vfs))
                finished = True
            except SimulatedCrash:
                pass
            vfs.power_cut(survival, survival)
            continue_after(vfs, history)


class SkipsDirectorySync(MemoryVfs):
    """Planted bug: names are never made durable."""

    def sync_directory(self, path: Path) -> None:  # noqa: ARG002 - the bug is to ignore it
        self._count_call()


# Each planted bug is shown to be harmless while the page cache lives, so it is the power cut, and
# not some other fault of the test, that finds it.


def test_planted_missing_directory_sync_is_found() -> None:
    stop_at_every_call(SkipsDirectorySync, MemoryVfs.kill, start_again)
    with pytest.raises((AssertionError, StorageError)):
        stop_at_every_call(SkipsDirectorySync, MemoryVfs.power_cut)


def test_planted_missing_file_sync_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaylix_storage._segment.SegmentWriter.sync", lambda _writer: None)
    stop_at_every_call(MemoryVfs, MemoryVfs.kill, start_again)
    with pytest.raises((AssertionError, StorageError)):
        stop_at_every_call(MemoryVfs, MemoryVfs.power_cut)


def test_planted_trust_in_the_page_cache_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: recovery believes in frames that it can read, without writing them again."""
    real_cut = SegmentInfo.cut

    def cut_unless_recovering(info: SegmentInfo, end: Mark) -> None:
        if "_follow_newest" not in {frame.function for frame in inspect.stack(0)[:3]}:
            real_cut(info, end)

    monkeypatch.setattr(SegmentInfo, "cut", cut_unless_recovering)
    stop_at_every_call(MemoryVfs, MemoryVfs.kill, start_again)
    with pytest.raises((AssertionError, StorageError)):
        fail_at_every_call(MemoryVfs)


def test_planted_rename_before_sync_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: the segment gets its name before its content is on the disk."""

    class NamesFirst(MemoryVfs):
        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            self.sync_directory(target.parent)

    monkeypatch.setattr("vaylix_storage._segment.SegmentWriter.sync", lambda _writer: None)
    stop_at_every_call(NamesFirst, MemoryVfs.kill, start_again)
    with pytest.raises((AssertionError, StorageError)):
        stop_at_every_call(NamesFirst, lambda vfs: vfs.power_cut(Survival.NOTHING))


def test_buffered_keeps_a_prefix_whatever_order_the_disk_writes_in(
    make_vfs: type[MemoryVfs],
) -> None:
    """Without syncs, a later frame can reach the disk before an earlier one."""
    for data in Survival:
        vfs, history = make_vfs(), History()
        log = open_log(vfs, SyncPolicy.BUFFERED)
        for first_index in range(1, 9, 2):
            history.appended.append(make_batch(first_index, payload_bytes=480))
            log.append(history.appended[-1:])
            log.sync()
        assert log.durable_index == 0
        vfs.power_cut(data, Survival.EVERYTHING)
        continue_after(vfs, history)


@pytest.mark.parametrize(("data", "names"), SURVIVALS)
def test_buffered_power_cut_at_every_call(
    make_vfs: type[MemoryVfs], data: Survival, names: Survival
) -> None:
    """What the log calls durable is there; what it does not may end at any batch."""
    stop_at_every_call(
        make_vfs,
        lambda vfs: vfs.power_cut(data, names),
        make_history=lambda: History(SyncPolicy.BUFFERED),
    )


def test_buffered_kill_at_every_call_loses_nothing(make_vfs: type[MemoryVfs]) -> None:
    stop_at_every_call(
        make_vfs,
        MemoryVfs.kill,
        start_again,
        lambda: History(SyncPolicy.BUFFERED, page_cache_lives=True),
    )


def test_a_changed_vote_is_durable_under_every_policy() -> None:
    for policy in SyncPolicy:
        vfs = MemoryVfs()
        log = open_log(vfs, policy)
        log.append([make_batch(1)], HardState(4, b"candidate", 0))
        log.sync()
        vfs.power_cut()
        log = open_log(vfs)
        assert log.hard_state == HardState(4, b"candidate", 0)
        assert log.last_index == 2


def test_a_commit_index_alone_costs_no_sync() -> None:
    vfs = MemoryVfs()
    log = open_log(vfs, SyncPolicy.BUFFERED)
    calls = vfs.call_count
    log.append([], HardState(0, b"", 9))
    log.sync()
    assert vfs.call_count == calls + 1  # the write


def test_poisoned_log_refuses_everything_with_the_first_cause() -> None:
    vfs = MemoryVfs()
    log = open_log(vfs)
    log.append([make_batch(1)])
    vfs.fail_at(vfs.call_count + 1)
    with pytest.raises(LogPoisonedError):
        log.sync()
    calls = vfs.call_count
    actions: list[Callable[[], None]] = [
        lambda: log.append([make_batch(3)]),
        log.sync,
        lambda: log.truncate_after(0),
    ]
    for action in actions:
        with pytest.raises(LogPoisonedError) as caught:
            action()
        assert isinstance(caught.value.__cause__, OSError)
    log.close()
    assert vfs.call_count == calls, "a poisoned log must not touch the disk"
    assert log.durable_index == 0


def test_a_log_that_was_interrupted_says_by_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt has no text, and is no cause of itself."""
    log = open_log(MemoryVfs())

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vaylix_storage._segment.SegmentWriter.append", interrupted)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        log.append([make_batch(1)])
    assert interrupt.value.__cause__ is None
    with pytest.raises(LogPoisonedError, match="earlier failure: KeyboardInterrupt"):
        log.append([make_batch(1)])


def test_planted_log_that_goes_on_after_a_failed_sync_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planted bug, weaknesses 10 and 37: a failure is told, and forgotten."""

    def tell(_log: Log, error: BaseException) -> None:
        raise LogPoisonedError(str(error)) from error

    monkeypatch.setattr(Log, "_poison", tell)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_poisoned_log_refuses_everything_with_the_first_cause()


def test_outcomes_are_told_apart() -> None:
    vfs = MemoryVfs()
    log = open_log(vfs)
    log.append([make_batch(1)])
    log.sync()
    log.close()
    log = open_log(vfs)
    assert log.recovery.outcome is RecoveryOutcome.CLEAN_END
    log.append([make_batch(3)])
    vfs.kill()
    log = open_log(vfs)
    assert log.recovery.outcome is RecoveryOutcome.UNCLEAN_END
    assert log.recovery.recopied_frames == 1
    log.append([make_batch(5, payload_bytes=2000)])
    vfs.power_cut(Survival.FIRST_HALF)
    report = open_log(vfs).recovery
    assert report.outcome is RecoveryOutcome.TORN_TAIL
    assert report.left_out_path == DIRECTORY / "active-3.wal"
    assert report.left_out_bytes > 0
    assert report.entry_count == 4


def test_a_clean_stop_is_on_the_disk_with_its_name() -> None:
    vfs = MemoryVfs()
    log = open_log(vfs)
    log.append([make_batch(1)])
    log.close()
    vfs.power_cut()
    assert vfs.list_directory(DIRECTORY) == ["closed-1-2.wal"]
    assert open_log(vfs).recovery.outcome is RecoveryOutcome.CLEAN_END


@pytest.mark.parametrize("kept", [1, 2])
def test_a_cut_makes_what_it_keeps_durable(kept: int) -> None:
    """Also when none of it had been synced, in whole frames and inside one."""
    vfs = MemoryVfs()
    log = open_log(vfs, SyncPolicy.BUFFERED)
    batches = [make_batch(1), make_batch(3), make_batch(5)]
    log.append(batches[:1])
    log.append(batches[1:])
    log.truncate_after(batches[kept - 1].last_index)
    assert log.durable_index == log.last_index
    vfs.power_cut()
    assert list(open_log(vfs).read(1)) == batches[:kept]
