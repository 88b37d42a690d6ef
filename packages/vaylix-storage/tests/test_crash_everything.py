"""The promise as a whole: one workload with everything in it, stopped at each of its calls.

Goal: wherever a migrated directory with rotation, snapshots, retention, cuts and changes of keys
is stopped, it opens again, and holds a prefix of what was appended with all that was acknowledged.
Method: the steps of `STEPS` run on a simulated disk. Each step is stopped before each of its
changing calls, and behind the last, and then the process is killed, or the power is cut with every
part of what was not synced surviving; and each of the calls fails once, which drops what it should
have written. `Machine` notes what was promised up to then and checks it against what the next start
finds. Calls that only read leave the disk as it is, so they need no stop of their own. Ways to stop
that leave the same disk behind are one case.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from vaylix_storage import (
    Batch,
    Engine,
    FileKeyProvider,
    HardState,
    Keyspace,
    Vfs,
    format3,
)
from vaylix_storage._catalog import SegmentInfo
from vaylix_storage._entry import Entry
from vaylix_storage._keyring_changes import drop_keys
from vaylix_storage._keys_in_use import key_ids_in_use
from vaylix_storage._keyspace_snapshot import load_keyspace_chunk
from vaylix_storage._log import Log
from vaylix_storage._segment import SegmentWriter
from vaylix_storage._segment_chain import SegmentChain
from vaylix_storage._staging import walk_files
from vaylix_storage.errors import MigrationRequiredError, StorageError
from vaylix_storage.offline import key_status, rewrap_keys, rotate_keys
from vaylix_storage.testing import MemoryVfs, SimulatedCrash, Survival, counting_random_bytes
from vaylix_storage.testing._simulated_disk import Names
from vaylix_storage.testing.batch_list import ARCHIVE, OPTIONS, make_batch, meta_of

FIXTURE = Path(__file__).parent / "data" / "format3" / "b2_clean_stop_snapshot_only"
FILES = {"backups/deep/one.json": b"{}"} | {
    str(path.relative_to(FIXTURE)): path.read_bytes()
    for path in FIXTURE.rglob("*")
    if path.is_file()
}
# What a migration copies as it is.
CARRIED = ("audit.log", "backups/deep/one.json")
DATA = Path("/srv/data")
ORIGINAL = Path("/srv/data.format3")
KEY_FILE, KEYRING = DATA / "storage.key", DATA / "keyring.bin"
NOW = 2_000_000_000_000
# One source for all machines: no two of them ever seal under the same salt or make the same key.
RANDOM_BYTES = counting_random_bytes()


@pytest.fixture(autouse=True, scope="module")
def make_it_small() -> Iterator[None]:
    """Reserve little space, and derive each key once: that takes 20 ms, a thousand times over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaylix_storage._segment.PREALLOCATE_BYTES", 4096)
        derive_key = functools.cache(format3._envelope.derive_key)
        patch.setattr(format3._envelope, "derive_key", derive_key)
        yield


def provider_of(vfs: Vfs, directory: Path = DATA) -> FileKeyProvider:
    return FileKeyProvider(directory / "storage.key", vfs=vfs, random_bytes=RANDOM_BYTES)


def put_original(vfs: MemoryVfs) -> None:
    for name, content in FILES.items():
        path = DATA / name
        vfs.make_directory(path.parent)
        vfs.create(path).close()
        vfs.sync_directory(path.parent)
        vfs.overwrite(path, content)


@functools.cache
def expected() -> format3.Format3Contents:
    """Return what the directory of 0.9 says, and the new one must say for ever."""
    put_original(vfs := MemoryVfs())
    return format3.read_directory(DATA, vfs=vfs)


@functools.cache
def entries_of(chunks: tuple[bytes, ...]) -> dict[bytes, Entry]:
    keyspace = Keyspace()
    for plain in chunks:
        load_keyspace_chunk(keyspace, plain)
    return keyspace.table.entries()


class Machine:
    """A machine with one directory, what may be found in it after a stop, and what must be."""

    def __init__(self, vfs: MemoryVfs) -> None:
        put_original(vfs)
        self.vfs = vfs
        # That of a step that is under way; no copy is made while there is one.
        self.engine: Engine | None = None
        self.has_failed = False
        self.is_migrated = False
        self.appended: list[Batch] = []
        self.acknowledged_count = 0
        # While a cut is under way, what the log held before it.
        self.before_cut: list[Batch] | None = None
        last_index, last_term = expected().last_sequence, expected().last_term
        self.hard_states = [HardState(term=last_term, commit=last_index)]
        self.snapshot_indexes = {last_index}
        # The log must reach back to this entry.
        self.kept_from = last_index + 1
        # What retention has let go: it must be where it was, or in the archive.
        self.leaving: dict[Path, bytes] = {}
        # Whether each storage key is active, and its wrappings; None while that is being changed.
        self.keys: dict[str, tuple[bool, tuple[str, ...]]] | None = None
        # Wrapping keys that must not come back.
        self.shut_out: set[bytes] = set()
        # The chunks of the migrated keys, as they are in each snapshot.
        self.keyspace: list[bytes] = []

    # What the steps do

    def migrate(self) -> None:
        report = format3.migrate(
            DATA,
            vfs=self.vfs,
            provider_factory=lambda directory: provider_of(self.vfs, directory),
            sections=lambda _: [],
            now_ms=NOW,
            random_bytes=RANDOM_BYTES,
        )
        # A name whose sync has failed never gets to the disk: then it has to be given once more.
        if report.outcome is not format3.MigrationOutcome.CURRENT or not self.has_failed:
            self.is_migrated = True

    def start(self) -> Engine:
        """Open the directory as a node does, after a migration if it says so, and check it."""
        try:
            engine = self.engine = Engine.open(
                DATA,
                vfs=self.vfs,
                provider=provider_of(self.vfs),
                options=OPTIONS,
                now_ms=NOW,
                random_bytes=RANDOM_BYTES,
            )
        except MigrationRequiredError:
            assert not self.is_migrated, "a migration that was acknowledged has come undone"
            self.check_original()
            self.migrate()
            return self.start()
        self.check(engine)
        return engine

    def append(self, engine: Engine, count: int = 1, voted_for: bytes | None = None) -> None:
        """Append batches as one frame; with a vote, in a term of their own."""
        log = engine.log
        hard_state = None
        term = log.hard_state.term
        if voted_for is not None:
            term += 1
            hard_state = HardState(term, voted_for, log.last_index)
            self.hard_states.append(hard_state)
        batches = [make_batch(log.last_index + 1 + 2 * n, term) for n in range(count)]
        self.appended += batches
        log.append(batches, hard_state)
        log.sync()
        self.acknowledge(log)

    def acknowledge(self, log: Log) -> None:
        durable = log.durable_index
        self.acknowledged_count = sum(batch.last_index <= durable for batch in self.appended)
        del self.hard_states[:-1]

    def cut(self, engine: Engine, count: int) -> None:
        """Cut the log behind the first batches of those behind the current snapshot."""
        self.before_cut = list(self.appended)
        del self.appended[count:]
        self.acknowledged_count = min(self.acknowledged_count, count)
        engine.log.truncate_after(self.appended[-1].last_index)
        self.before_cut = None
        self.acknowledge(engine.log)

    def snapshot(self, engine: Engine, count: int) -> None:
        """Snapshot the first batches, with an append in the middle of it."""
        meta = meta_of(self.appended[:count])
        writer = engine.create_snapshot(meta)
        sections = [
            ("keyspace", self.keyspace),
            ("batches", [msgspec.msgpack.encode(batch) for batch in self.appended[:count]]),
        ]
        for name, chunks in sections:
            writer.begin_section(name)
            for plain in chunks:
                writer.add(plain, 1)
        self.append(engine)
        info = writer.finish()
        self.snapshot_indexes.add(meta.index)
        engine.commit_snapshot(info)
        self.snapshot_indexes = {meta.index}

    def retain(self, engine: Engine) -> None:
        plan = engine.plan_retention(None, NOW)
        gone = [engine.snapshot_path(entry.meta.index) for entry in plan.snapshots]
        gone += plan.segments
        self.leaving |= {path: self.vfs.content(path) for path in gone}
        self.kept_from = plan.before
        assert engine.apply_retention(None, NOW) == gone
        assert not any(self.vfs.exists(path) for path in plan.segments)

    @contextmanager
    def change_of_keys(self) -> Iterator[FileKeyProvider]:
        self.keys = None
        provider = provider_of(self.vfs)
        yield provider
        status = key_status(DATA, vfs=self.vfs, provider=provider, archive=ARCHIVE)
        self.keys = {key.key_id: (key.is_active, key.providers) for key in status.keys}

    # What is checked

    def check(self, engine: Engine) -> None:
        """Check what a start found. All of it is served from now on, so it counts as promised."""
        self.check_original()
        for name in CARRIED:
            assert self.vfs.exists(DATA / name), f"{name} was not carried over"
            assert self.vfs.content(DATA / name) == FILES[name], f"{name} has changed"
        index, found = self.read_state(engine)
        assert index in self.snapshot_indexes, "neither the old snapshot nor the new one"
        uncut = self.appended if self.before_cut is None else self.before_cut
        if self.before_cut is not None:
            assert found in (self.before_cut, self.appended), "a cut that is half done"
        assert found == uncut[: len(found)], "not a prefix of what was appended"
        assert len(found) >= self.acknowledged_count, "an acknowledged batch is lost"
        log = engine.log
        assert log.hard_state in self.hard_states, "the hard state went back"
        assert log.durable_index == log.last_index
        self.check_keys(engine)
        self.check_leaving(engine)
        self.before_cut = None
        self.appended = found
        self.hard_states = [log.hard_state]
        self.snapshot_indexes = {index}
        self.acknowledge(log)

    def read_state(self, engine: Engine) -> tuple[int, list[Batch]]:
        """Return the index of the snapshot, and all batches, after a look at the rest."""
        reader = engine.open_snapshot()
        assert reader is not None, "the snapshot that the migration has made is lost"
        self.keyspace = []
        batches: list[Batch] = []
        for name, plain in reader.chunks():
            if name == "keyspace":
                self.keyspace.append(plain)
            else:
                batches.append(msgspec.msgpack.decode(plain, type=Batch))
        reader.close()
        assert entries_of(tuple(self.keyspace)) == expected().entries, "a migrated key has changed"
        log = engine.log
        assert log.first_index <= self.kept_from, "the log does not reach back far enough"
        found = batches + list(engine.read_behind_snapshot())
        held = list(log.read(log.first_index))
        assert held == [batch for batch in found if batch.first_index >= log.first_index]
        return reader.meta.index, found

    def check_original(self) -> None:
        path = ORIGINAL if self.vfs.exists(ORIGINAL) else DATA
        names = {str(file.relative_to(path)) for file in walk_files(path, self.vfs)} - {"LOCK"}
        files = {name: self.vfs.content(path / name) for name in names}
        assert files == FILES, "the original has changed"

    def check_keys(self, engine: Engine) -> None:
        keys = {key.key_id.hex(): (key.is_active, key.providers) for key in engine.keyring.keys}
        assert self.keys in (None, keys), "a change of the keys has come undone"
        self.keys = keys
        needed = key_ids_in_use(DATA, vfs=self.vfs, archive=ARCHIVE)
        assert {key_id.hex() for key_id in needed} <= set(keys), "a needed key is lost"
        assert self.vfs.content(KEY_FILE) not in self.shut_out, "an old wrapping key is back"

    def check_leaving(self, engine: Engine) -> None:
        archive = ARCHIVE / engine.directory.timeline.hex()
        for path, content in self.leaving.items():
            places = (path, archive / path.parent.name / path.name)
            copies = [self.vfs.content(place) for place in places if self.vfs.exists(place)]
            assert copies, f"{path.name} is neither in its place nor in the archive"
            assert all(found == content for found in copies), f"{path.name} has changed"

    # What comes after a stop

    def go_on_after_a_failure(self) -> None:
        """Do what a process does that takes no heed of an error; what it acknowledges counts."""
        self.has_failed = True
        if self.engine is None:
            return
        with suppress(StorageError):
            if self.before_cut is None:
                self.append(self.engine)
            else:
                self.engine.log.append([make_batch(self.engine.log.last_index + 1, 99)])
                raise AssertionError("after a cut that failed the log goes on")
        with suppress(StorageError):
            self.engine.close()

    def recover(self, step: Step) -> None:
        """Start, lose power, do the step again if it is a command, go on, lose power, start."""
        self.start()
        self.vfs.power_cut()
        if step in COMMANDS:
            step(self)
        self.append(self.start(), 2, b"after")
        self.vfs.power_cut()
        self.start()


Step = Callable[[Machine], None]
Arm = Callable[[MemoryVfs, int], None]


# The workload


def run_under_the_first_key(machine: Machine) -> None:
    engine = machine.start()
    machine.append(engine)
    machine.append(engine, 2, b"me")
    machine.snapshot(engine, 2)
    machine.append(engine, 3)  # in a second segment
    machine.append(engine)
    machine.cut(engine, 5)  # inside a frame
    machine.append(engine, 2, b"you")
    machine.cut(engine, 3)  # into an older segment
    machine.append(engine, 4, b"you")
    machine.append(engine)  # in a third segment
    machine.snapshot(engine, len(machine.appended))
    machine.retain(engine)
    machine.append(engine)
    engine.close()


def rotate_the_keys(machine: Machine) -> None:
    vfs = machine.vfs
    with machine.change_of_keys() as provider:
        rotate_keys(
            DATA, vfs=vfs, provider=provider, now_ms=NOW, archive=ARCHIVE, random_bytes=RANDOM_BYTES
        )


def run_until_nothing_needs_the_first_key(machine: Machine) -> None:
    engine = machine.start()
    machine.append(engine, 2)
    machine.snapshot(engine, len(machine.appended))
    machine.retain(engine)
    engine.close()


def let_the_archive_expire(machine: Machine) -> None:
    machine.leaving.clear()
    # Whoever removes them by hand does the rest another time.
    with suppress(OSError):
        for path in list(walk_files(ARCHIVE, machine.vfs)):
            machine.vfs.unlink(path)
            machine.vfs.sync_directory(path.parent)


def drop_the_first_key(machine: Machine) -> None:
    vfs = machine.vfs
    with machine.change_of_keys() as provider:
        needed = key_ids_in_use(DATA, vfs=vfs, archive=ARCHIVE)
        drop_keys(KEYRING, needed, vfs=vfs, provider=provider)


def rewrap_the_keys(machine: Machine) -> None:
    old, old_key = provider_of(machine.vfs), machine.vfs.content(KEY_FILE)
    with machine.change_of_keys():
        rewrap_keys(DATA, vfs=machine.vfs, old=old, new=old.next_key())
    machine.shut_out.add(old_key)


def run_twice(machine: Machine) -> None:
    engine = machine.start()
    machine.append(engine, 2, b"me")
    machine.append(engine, 2)
    machine.cut(engine, len(machine.appended) - 3)
    machine.append(engine, 2, b"you")
    machine.snapshot(engine, len(machine.appended))
    machine.retain(engine)
    engine.close()
    engine = machine.start()
    machine.append(engine, 3)
    machine.append(engine)
    engine.close()


# With the least number of calls, of disks that a stop of them leaves behind, and of ways to stop
# that made a difference: 25 kinds of power cuts, and a kill.
LEAST: dict[Step, tuple[int, int, int]] = {
    Machine.migrate: (90, 270, 4),
    run_under_the_first_key: (150, 900, 26),
    rotate_the_keys: (9, 60, 7),
    run_until_nothing_needs_the_first_key: (80, 600, 20),
    let_the_archive_expire: (12, 55, 4),
    drop_the_first_key: (5, 25, 6),
    rewrap_the_keys: (15, 80, 6),
    run_twice: (110, 800, 20),
}
STEPS = list(LEAST)
# Of the processor. A third of it is used; all steps, with both arms, may take two minutes.
SECONDS_PER_STEP, SECONDS_PER_CALL = 1, 0.09
# Those that an operator gives again after a stop.
COMMANDS = [Machine.migrate, rotate_the_keys, drop_the_first_key, rewrap_the_keys]


def copy_of(machine: Machine) -> Machine:
    copied: Machine = pickle.loads(pickle.dumps(machine))
    return copied


def after(machine: Machine, step: Step) -> Machine:
    machine = copy_of(machine)
    step(machine)
    machine.engine = None
    return machine


@functools.cache
def machine_before(number: int) -> Machine:
    """Return the machine before a step; use a copy of it."""
    if number == 0:
        return Machine(MemoryVfs(reserves_space=True))
    return after(machine_before(number - 1), STEPS[number - 1])


# The proof


def stopped(machine: Machine) -> Iterator[tuple[str, Machine]]:
    """Yield the machine as each way to stop it leaves it, and what was done."""
    machine.engine = None
    frozen = pickle.dumps(machine)
    twin: Machine = pickle.loads(frozen)
    twin.vfs.kill()
    yield "a kill", twin
    seen: set[bytes] = set()
    for data, names in itertools.product(Survival, Survival):
        twin = pickle.loads(frozen)
        twin.vfs.power_cut(data, names)
        disk = pickle.dumps(twin.vfs)
        if disk not in seen:
            seen.add(disk)
            yield f"a power cut ({data.value} of the data, {names.value} of the names)", twin


def stop_at_every_call(before: Machine, step: Step, arm: Arm) -> tuple[int, Counter[str]]:
    """Stop a step at each call, or let that fail, and at its end; count calls, and disks by way."""
    ways: Counter[str] = Counter()
    call_count = after(before, step).vfs.call_count - before.vfs.call_count
    for call in range(1, call_count + 2):
        machine = copy_of(before)
        arm(machine.vfs, machine.vfs.call_count + call)
        is_crash = arm is MemoryVfs.crash_at
        try:
            step(machine)
            assert not is_crash or call > call_count
        except SimulatedCrash:
            assert is_crash
        except StorageError:
            assert not is_crash
            machine.go_on_after_a_failure()
        for how, twin in stopped(machine):
            ways[how] += 1
            try:
                twin.recover(step)
            except (AssertionError, StorageError) as error:
                error.add_note(f"{step.__name__}: {arm.__name__} call {call}, then {how}")
                raise
    return call_count, ways


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("arm", [MemoryVfs.crash_at, MemoryVfs.fail_at])
def test_a_stop_at_any_call_loses_nothing_that_was_promised(step: Step, arm: Arm) -> None:
    before = machine_before(STEPS.index(step))
    began = time.process_time()
    call_count, ways = stop_at_every_call(before, step, arm)
    seconds = time.process_time() - began
    least_calls, least_disks, least_ways = LEAST[step]
    assert call_count >= least_calls
    assert ways.total() >= least_disks
    assert len(ways) >= least_ways
    assert ways["a kill"] == call_count + 1
    assert seconds < SECONDS_PER_STEP + SECONDS_PER_CALL * call_count


# That the proof can fail


def rename_in_vain(names: Names, source: Path, target: Path) -> None:
    RENAME(names, source, target)
    names._pending.pop()


def copy_unsynced(source: Path, target: Path, vfs: Vfs) -> int:
    reader, writer = vfs.open(source), vfs.create(target)
    writer.write_at(0, reader.read_at(0, reader.size()))
    return reader.size()


def sync_again(writer: SegmentWriter) -> None:
    with suppress(OSError):
        SYNC(writer)
    SYNC(writer)


def remove_first(chain: SegmentChain, sealed: list[SegmentInfo], *rest: object) -> None:
    kept = {info.path for info in sealed}
    gone = [info.path for info in (*chain.sealed, chain.active) if info.path not in kept]
    chain._files.tidy((), gone, DATA)
    REPLACE(chain, sealed, *rest)


RENAME: Callable[..., None] = Names.rename
REPLACE: Callable[..., None] = SegmentChain._replace
SYNC: Callable[..., None] = SegmentWriter.sync
CRASH, FAIL = MemoryVfs.crash_at, MemoryVfs.fail_at
Fault = tuple[str, Callable[..., object], Step, Arm]
# Of the disk, of a start, and of what changes something. None shows while nothing stops.
FAULTS: list[Fault] = [
    ("testing._simulated_disk.Names.sync", lambda *_: None, Machine.migrate, CRASH),
    ("testing._simulated_disk.Names.sync", lambda *_: None, run_twice, CRASH),
    ("testing._simulated_disk.Names.rename", rename_in_vain, Machine.migrate, CRASH),
    ("testing._simulated_disk.Names.rename", rename_in_vain, run_twice, CRASH),
    ("testing._simulated_disk.Inode.sync", lambda _: None, Machine.migrate, CRASH),
    ("testing._simulated_disk.Inode.sync", lambda _: None, rewrap_the_keys, CRASH),
    ("testing._simulated_disk.Inode.sync", lambda _: None, run_twice, CRASH),
    ("_recovery._cut_unsynced", lambda *_: None, run_twice, CRASH),
    ("_recovery._cut_unsynced", lambda *_: None, run_twice, FAIL),
    ("_recovery.is_torn", lambda *_: False, run_twice, CRASH),
    ("_directory.settle_keyring", lambda *_, **__: None, rotate_the_keys, FAIL),
    ("_segment.SegmentWriter.sync", sync_again, run_twice, FAIL),
    ("_segment_chain.SegmentChain._replace", remove_first, run_twice, CRASH),
    ("_archive.copy_file", copy_unsynced, run_twice, CRASH),
    ("format3._carrying.copy_file", copy_unsynced, Machine.migrate, CRASH),
]
FAULT_NAMES = [f"{fault[0]}, {fault[2].__name__}, {fault[3].__name__}" for fault in FAULTS]


@pytest.mark.parametrize("fault", FAULTS, ids=FAULT_NAMES)
def test_the_proof_finds(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    target, replacement, step, arm = fault
    before = machine_before(STEPS.index(step))
    monkeypatch.setattr(f"vaylix_storage.{target}", replacement)
    after(before, step).start()
    with pytest.raises((AssertionError, StorageError)) as caught:
        stop_at_every_call(before, step, arm)
    assert caught.value.__notes__, "it must be a stop that shows it"


def test_the_proof_finds_a_key_that_is_dropped_though_the_archive_needs_it() -> None:
    machine = copy_of(machine_before(STEPS.index(let_the_archive_expire)))
    vfs = machine.vfs
    drop_keys(KEYRING, key_ids_in_use(DATA, vfs=vfs), vfs=vfs, provider=provider_of(vfs))
    machine.keys = None
    with pytest.raises(AssertionError, match="a needed key is lost"):
        machine.start()


def test_the_workload_has_every_kind_of_call_and_every_feature() -> None:
    machine = copy_of(machine_before(0))
    seen: set[str] = set()
    key_counts: list[int] = []
    sys.setprofile(lambda frame, _event, _argument: seen.add(frame.f_code.co_qualname))
    try:
        for step in STEPS:
            step(machine)
            key_counts.append(len(machine.keys or ()))
    finally:
        sys.setprofile(None)
    of_disk = {"create", "make_directory", "rename", "unlink", "sync_directory"}
    of_file = {"write_at", "sync", "allocate", "give_back"}
    of_log = {"rotate", "cut", "remove_before", "close_cleanly"}
    assert {f"MemoryVfs.{name}" for name in of_disk} <= seen
    assert {f"_MemoryFile.{name}" for name in of_file} <= seen
    assert {f"SegmentChain.{name}" for name in of_log} <= seen
    assert {"Engine.commit_snapshot", "archive_segment", "archive_snapshot"} <= seen
    assert key_counts == [0, 1, 2, 2, 2, 1, 1, 1]
    assert machine.vfs.call_count > 500
    assert 2 * (SECONDS_PER_STEP * len(STEPS) + SECONDS_PER_CALL * machine.vfs.call_count) < 120
