"""Crash safety of a log that begins behind a snapshot, exhaustively.

Goal: the log may be rotated, cut, shortened at its beginning, and reset behind a snapshot that came
from elsewhere; whatever call is the last one before a crash, and whatever part of the un-synced
bytes and names survives, the next start finds a log without a gap that continues the snapshot and
holds what was acknowledged. Method: as in `test_crash`. The snapshots themselves are played by a
`LogBase` that is on the disk from the moment it is set, as a manifest is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from vaylix_storage import Batch, HardState, Log, LogBase, LogOptions, SyncPolicy
from vaylix_storage._catalog import SegmentInfo
from vaylix_storage._segment_chain import SegmentChain
from vaylix_storage.errors import StorageError
from vaylix_storage.testing import (
    MemoryVfs,
    SimulatedCrash,
    Survival,
    counting_random_bytes,
    fixed_keyring,
)

DIRECTORY = Path("/data/wal")
SURVIVALS = list(itertools.product(Survival, Survival))


def make_batch(first_index: int, term: int = 1, payload_bytes: int = 600) -> Batch:
    return Batch.create(
        first_index=first_index,
        count=2,
        term=term,
        kind=1,
        timestamp_ms=first_index * 10,
        payload=bytes([first_index % 251 + 1]) * payload_bytes,
    )


class Machine:
    """A log, what it may hold, and the snapshot before it."""

    def __init__(self, vfs: MemoryVfs, policy: SyncPolicy = SyncPolicy.SYNC) -> None:
        self.vfs = vfs
        self.policy = policy
        self.base: LogBase | None = None
        # All entries there ever were, those that were removed or are in a snapshot included, and
        # where they begin. While a change is under way, there may also be those of before.
        self.begin = 1
        self.batches: list[Batch] = []
        self.before: tuple[int, list[Batch]] | None = None
        self.acknowledged = 0
        self.hard_state = HardState()

    def open(self) -> None:
        self.log = Log.open(
            DIRECTORY,
            vfs=self.vfs,
            keyring=fixed_keyring(),
            options=LogOptions(
                timeline=b"t" * 16,
                sync_policy=self.policy,
                segment_bytes_max=1500,
                base=self.base,
                must_exist=self.acknowledged > 0,
            ),
            random_bytes=counting_random_bytes(self.vfs.generation),
        )
        self.check()

    def check(self) -> None:
        log = self.log
        base_index = 0 if self.base is None else self.base.index
        assert log.first_index <= base_index + 1 <= log.last_index + 1, "a gap, or entries lost"
        behind = list(log.read(base_index + 1))
        found = list(log.read(log.first_index))
        assert behind == [batch for batch in found if batch.last_index > base_index]
        states = [(self.begin, self.batches)]
        if self.before is not None:
            states.append(self.before)
        for begin, batches in states:
            held = [batch for batch in batches if batch.first_index >= log.first_index]
            if log.first_index >= begin and found == held[: len(found)]:
                break
        else:
            raise AssertionError("not a prefix of what was appended")
        assert log.last_index >= self.acknowledged, "an acknowledged batch is lost"
        assert log.hard_state == self.hard_state, "the hard state went back"
        assert log.durable_index == log.last_index
        if self.base is not None:
            assert log.term_of(self.base.index) == self.base.term
        stats = log.segments()
        for one, other in itertools.pairwise(stats):
            assert other.first_index == one.last_index + 1
        self.before = None
        self.begin = begin
        self.batches = [batch for batch in batches if batch.last_index <= log.last_index]
        self.acknowledged = log.last_index

    def append(self, count: int, term: int = 1) -> None:
        for _ in range(count):
            self.batches.append(make_batch(self.log.last_index + 1, term))
            self.log.append(self.batches[-1:])
            self.log.sync()
            self.acknowledged = self.log.durable_index

    def rotate(self) -> None:
        self.log.rotate()
        assert self.log.durable_index == self.log.last_index
        self.acknowledged = self.log.last_index

    def snapshot(self, index: int) -> None:
        """Take a snapshot that ends with an entry that is on the disk."""
        assert index <= self.log.durable_index
        self.base = LogBase(index, self.log.term_of(index), installed=False)

    def cut(self, index: int) -> None:
        self.before = (self.begin, list(self.batches))
        self.batches = [batch for batch in self.batches if batch.last_index <= index]
        self.acknowledged = index
        self.log.truncate_after(index)
        self.before = None

    def install(self, index: int, term: int) -> None:
        """Take a snapshot from elsewhere, then let the log begin behind it."""
        self.before = (self.begin, self.batches)
        self.begin, self.batches = index + 1, []
        self.acknowledged = index
        self.base = LogBase(index, term, installed=True)
        self.log.reset(index, term)
        self.before = None


def workload(machine: Machine) -> None:
    machine.open()
    machine.append(5)  # in two segments
    machine.rotate()
    machine.snapshot(6)
    machine.log.remove_before(7)  # keeps the segment that holds entry 6 and others
    machine.append(3, term=2)
    machine.cut(12)
    machine.rotate()
    machine.snapshot(12)
    assert machine.log.remove_before(13)
    assert machine.log.first_index == 13
    machine.append(1, term=2)
    machine.log.close()
    machine.open()
    machine.install(40, 5)
    machine.append(3, term=5)
    machine.install(42, 5)  # within the log, which matches it
    machine.append(1, term=6)


def continue_after(machine: Machine) -> None:
    """Recover, append, stop hard, recover again."""
    machine.open()
    machine.append(1, term=9)
    machine.vfs.power_cut()
    machine.open()
    machine.log.close()
    machine.open()


def stop_at_every_call(
    make_vfs: Callable[[], MemoryVfs],
    stop: Callable[[MemoryVfs], None],
    policy: SyncPolicy = SyncPolicy.SYNC,
) -> None:
    finished = False
    for call in itertools.count(1):
        machine = Machine(make_vfs(), policy)
        machine.vfs.crash_at(call)
        try:
            workload(machine)
            finished = True
        except SimulatedCrash:
            pass
        stop(machine.vfs)
        continue_after(machine)
        if finished:
            break


def test_the_workload_makes_enough_calls_to_prove_something() -> None:
    machine = Machine(MemoryVfs())
    workload(machine)
    assert machine.vfs.call_count > 90


@pytest.mark.parametrize(("data", "names"), SURVIVALS)
def test_power_cut_at_every_call(data: Survival, names: Survival) -> None:
    stop_at_every_call(MemoryVfs, lambda vfs: vfs.power_cut(data, names))


def test_power_cut_at_every_call_with_reserved_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaylix_storage._segment.PREALLOCATE_BYTES", 4096)
    for survival in (Survival.NOTHING, Survival.EVEN_SECTORS):
        stop_at_every_call(
            lambda: MemoryVfs(reserves_space=True),
            lambda vfs, survival=survival: vfs.power_cut(survival, survival),  # type: ignore[misc]
        )


def test_kill_at_every_call() -> None:
    stop_at_every_call(MemoryVfs, MemoryVfs.kill)


def test_failure_at_every_call() -> None:
    """After a failure nothing more is acknowledged, and neither restart nor power cut hurts."""
    finished = False
    for call in itertools.count(1):
        machine = Machine(MemoryVfs())
        machine.vfs.fail_at(call)
        try:
            workload(machine)
            finished = True
        except StorageError:
            pass
        machine.vfs.kill()
        machine.open()
        machine.vfs.power_cut()
        continue_after(machine)
        if finished:
            break


def test_crash_during_the_start_that_resets_the_log_at_every_call() -> None:
    """The manifest names a snapshot from elsewhere, but the log was not reset before the crash."""
    for data, names in SURVIVALS:
        finished = False
        for call in itertools.count(1):
            machine = Machine(MemoryVfs())
            machine.open()
            machine.append(4)
            machine.vfs.kill()
            machine.base = LogBase(40, 5, installed=True)
            machine.begin, machine.batches, machine.acknowledged = 41, [], 40
            machine.vfs.crash_at(machine.vfs.call_count + call)
            try:
                machine.open()
                finished = True
            except SimulatedCrash:
                pass
            machine.vfs.power_cut(data, names)
            continue_after(machine)
            if finished:
                break


def test_a_rotation_makes_everything_durable_under_every_policy() -> None:
    for policy in SyncPolicy:
        machine = Machine(MemoryVfs(), policy)
        machine.open()
        machine.append(1)
        machine.rotate()
        machine.vfs.power_cut()
        machine.open()
        assert machine.log.last_index == 2


class SkipsDirectorySync(MemoryVfs):
    """Planted bug: of the syncs of a directory behind a removal, only the last is made."""

    removed = False

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.removed = path.name[0].isdigit()

    def sync_directory(self, path: Path) -> None:
        if not self.removed:
            super().sync_directory(path)
        self.removed = False


def test_planted_removals_that_are_not_synced_one_by_one_are_found() -> None:
    """A disk may keep the first of two removals back; then there is a hole."""

    def remove_two_and_lose_one(vfs: MemoryVfs) -> None:
        machine = Machine(vfs)
        machine.open()
        machine.append(8)
        machine.rotate()
        machine.snapshot(16)
        machine.log.remove_before(9)
        vfs.power_cut(Survival.NOTHING, Survival.ODD_SECTORS)
        machine.open()

    remove_two_and_lose_one(MemoryVfs())
    with pytest.raises(StorageError):
        remove_two_and_lose_one(SkipsDirectorySync())


def test_planted_reset_that_removes_before_it_writes_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planted bug: the old segments go first, so that a crash between loses the hard state."""
    real_reset = SegmentChain.reset

    def remove_first(chain: SegmentChain, index: int, hard_state: HardState) -> None:
        for info in (*chain.sealed, chain.active):
            chain._files._vfs.unlink(info.path)
        chain._files._vfs.sync_directory(DIRECTORY)
        chain.sealed = []
        real_reset(chain, index, hard_state)

    monkeypatch.setattr(SegmentChain, "reset", remove_first)
    with pytest.raises((AssertionError, StorageError)):
        stop_at_every_call(MemoryVfs, MemoryVfs.power_cut)


# What survives of data and names when the power is cut; None for the end of the process alone.
Stop = tuple[Survival, Survival] | None
STOPS: st.SearchStrategy[Stop] = st.none() | st.sampled_from(SURVIVALS)


class CompactionModel(RuleBasedStateMachine):
    """The same steps in any order, with kills and power cuts between them and within them."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(MemoryVfs())
        # After how many calls, each time counted anew, and how it will be stopped.
        self.stops: list[tuple[int, Stop]] = []
        self.machine.open()
        self.term = 1

    @property
    def base_index(self) -> int:
        return 0 if self.machine.base is None else self.machine.base.index

    def do(self, step: Callable[[], object]) -> None:
        """Do a step; when it is interrupted, start again, which may be interrupted as well."""
        try:
            step()
        except SimulatedCrash:
            self.start_after(self.stops.pop(0)[1])

    def start_after(self, stop: Stop) -> None:
        if stop is None:
            self.machine.vfs.kill()
        else:
            self.machine.vfs.power_cut(*stop)
        self.arm_next()
        self.do(self.machine.open)

    def arm_next(self) -> None:
        vfs = self.machine.vfs
        if self.stops:
            vfs.crash_at(vfs.call_count + self.stops[0][0])

    @rule(stops=st.lists(st.tuples(st.integers(1, 12), STOPS), min_size=1, max_size=3))
    def arm(self, stops: list[tuple[int, Stop]]) -> None:
        """Interrupt the steps to come, those of a start included."""
        self.stops = stops
        self.arm_next()

    @rule(count=st.integers(1, 4), step=st.integers(0, 1))
    def append(self, count: int, step: int) -> None:
        self.term += step
        self.do(lambda: self.machine.append(count, self.term))

    @rule()
    def rotate(self) -> None:
        self.do(self.machine.rotate)

    @precondition(lambda self: self.machine.log.last_index > self.base_index)
    @rule(data=st.data())
    def snapshot_and_remove(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.base_index + 1, self.machine.log.last_index))
        self.machine.snapshot(index)
        before = data.draw(st.integers(0, index + 1))
        self.do(lambda: self.machine.log.remove_before(before))

    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        least = max(self.base_index, self.machine.log.first_index - 1)
        ends = [batch.last_index for batch in self.machine.batches if batch.last_index >= least]
        if ends:
            end = data.draw(st.sampled_from(ends))
            self.do(lambda: self.machine.cut(end))

    @rule(ahead=st.integers(-3, 9))
    def install(self, ahead: int) -> None:
        self.term += 1
        # Nobody installs what is older than a snapshot that is there.
        index = max(self.machine.log.last_index + ahead, self.base_index, 1)
        self.do(lambda: self.machine.install(index, self.term))

    @rule()
    def stop_cleanly(self) -> None:
        def close_and_open() -> None:
            self.machine.log.close()
            self.machine.open()

        self.do(close_and_open)

    @rule(stop=STOPS)
    def stop_hard(self, stop: Stop) -> None:
        self.start_after(stop)

    @invariant()
    def the_log_is_as_the_model_says(self) -> None:
        self.machine.check()


TestCompactionModel = CompactionModel.TestCase
TestCompactionModel.settings = settings(max_examples=80, stateful_step_count=20, deadline=None)


class StoppedBetweenStepsOnly(CompactionModel):
    def arm(self) -> None:
        """Not a rule any more."""


def test_the_model_finds_what_only_a_stop_within_a_step_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planted bug: what a cut or a reset supersedes goes before the new segment is there."""
    real_replace = SegmentChain._replace

    def remove_first(chain: SegmentChain, sealed: list[SegmentInfo], *rest: object) -> None:
        kept = {info.path for info in sealed}
        gone = [info.path for info in (*chain.sealed, chain.active) if info.path not in kept]
        chain._files.tidy((), gone, DIRECTORY)
        real_replace(chain, sealed, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(SegmentChain, "_replace", remove_first)
    few = settings(
        max_examples=60, deadline=None, derandomize=True, database=None, phases=[Phase.generate]
    )
    run_state_machine_as_test(StoppedBetweenStepsOnly, settings=few)
    with pytest.raises((AssertionError, StorageError)):
        run_state_machine_as_test(CompactionModel, settings=few)
