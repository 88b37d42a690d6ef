"""The directory as a whole, crash by crash: before every call, with each kind of loss.

The state of these tests is the list of all batches. A snapshot holds it as one chunk for each
batch, so a start that finds a snapshot and the log behind it can be compared batch by batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from vaylix_storage import (
    Batch,
    Engine,
    HardState,
    Keyring,
    Manifest,
    Vfs,
)
from vaylix_storage._manifest import load_manifest, store_manifest
from vaylix_storage.errors import (
    StorageError,
)
from vaylix_storage.testing import (
    SURVIVALS,
    MemoryVfs,
    SimulatedCrash,
    Survival,
)
from vaylix_storage.testing.batch_list import (
    NOW_MS,
    PATH,
    make_batch,
    meta_of,
    open_engine,
    state_of,
    take_snapshot,
)

SNAPSHOTS = PATH / "snapshots"


class History:
    """What a directory may hold: a prefix, long enough, of what was appended."""

    def __init__(self) -> None:
        self.appended: list[Batch] = []
        self.acknowledged_count = 0
        self.snapshot_indexes: set[int | None] = {None}

    def append(self, engine: Engine, count: int = 1, hard_state: HardState | None = None) -> None:
        first_index = engine.log.last_index + 1
        batches = [make_batch(first_index + 2 * n) for n in range(count)]
        self.appended += batches
        engine.log.append(batches, hard_state)
        engine.log.sync()
        self.acknowledged_count = len(self.appended)

    def snapshot(self, engine: Engine, count: int) -> None:
        """Snapshot the first batches, with an append in the middle of it."""
        writer = engine.create_snapshot(meta_of(self.appended[:count]))
        writer.begin_section("state")
        for batch in self.appended[:count]:
            writer.add(msgspec.msgpack.encode(batch), 1)
        self.append(engine)
        info = writer.finish()
        self.snapshot_indexes.add(info.meta.index)
        engine.commit_snapshot(info)
        self.snapshot_indexes = {info.meta.index}

    def retain(self, engine: Engine, needed_from: int | None = None) -> None:
        removed = engine.apply_retention(None, NOW_MS, needed_from=needed_from)
        assert removed

    def check(self, engine: Engine) -> None:
        """Check what a start found. All of it is served from now on, so it counts as promised."""
        current = engine.manifest.current
        index = None if current is None else current.meta.index
        assert index in self.snapshot_indexes, "neither the old snapshot nor the new one"
        found = state_of(engine)
        assert found == self.appended[: len(found)], "not a prefix of what was appended"
        assert len(found) >= self.acknowledged_count, "an acknowledged batch is lost"
        self.snapshot_indexes = {index}
        self.appended = found
        self.acknowledged_count = len(found)
        names = {f"{entry.meta.index}.snapshot" for entry in engine.manifest.snapshots}
        assert set(engine._vfs.list_directory(SNAPSHOTS)) == names, "a file that does not count"


def workload(vfs: MemoryVfs, history: History) -> None:
    engine = open_engine(vfs)
    history.check(engine)
    history.append(engine)
    history.append(engine, 2, HardState(1, b"me", 2))
    history.snapshot(engine, 2)
    history.append(engine, 3)
    history.append(engine)
    history.snapshot(engine, 7)
    history.retain(engine, needed_from=9)
    history.append(engine)
    engine.close()
    engine = open_engine(vfs)
    history.check(engine)
    history.append(engine)
    history.snapshot(engine, len(history.appended))
    history.retain(engine)
    history.append(engine)


def continue_after(vfs: MemoryVfs, history: History) -> None:
    """Recover, append, take a snapshot, stop hard, recover again."""
    engine = open_engine(vfs)
    history.check(engine)
    history.append(engine)
    history.snapshot(engine, len(history.appended))
    vfs.power_cut()
    history.check(open_engine(vfs))


def stop_at_every_call(
    make_vfs: Callable[[], MemoryVfs],
    stop: Callable[[MemoryVfs], None],
    then: Callable[[MemoryVfs, History], None] = continue_after,
) -> int:
    """Run the workload once for each of its calls, stop before that call, and look."""
    call = 0
    finished = False
    while not finished:
        call += 1
        vfs, history = make_vfs(), History()
        vfs.crash_at(call)
        try:
            workload(vfs, history)
            finished = True
        except SimulatedCrash:
            pass
        stop(vfs)
        then(vfs, history)
    return call


@pytest.mark.parametrize(("data", "names"), SURVIVALS)
def test_power_cut_at_every_call(data: Survival, names: Survival) -> None:
    assert stop_at_every_call(MemoryVfs, lambda vfs: vfs.power_cut(data, names)) > 100


def test_kill_at_every_call() -> None:
    stop_at_every_call(MemoryVfs, MemoryVfs.kill)


def test_power_cut_after_a_kill_and_a_start() -> None:
    """What a start has found and served must survive the power cut that follows."""

    def start_and_cut_power(vfs: MemoryVfs, history: History) -> None:
        history.check(open_engine(vfs))
        vfs.power_cut()
        continue_after(vfs, history)

    stop_at_every_call(MemoryVfs, MemoryVfs.kill, start_and_cut_power)


def fail_at_every_call() -> None:
    """After a failure nothing more is acknowledged, and neither restart nor power cut hurts."""
    call = 0
    finished = False
    while not finished:
        call += 1
        vfs, history = MemoryVfs(), History()
        vfs.fail_at(call)
        try:
            workload(vfs, history)
            finished = True
        except StorageError:
            pass
        vfs.kill()
        history.check(open_engine(vfs))
        vfs.power_cut()
        continue_after(vfs, history)


def test_failure_at_every_call() -> None:
    fail_at_every_call()


def test_planted_trust_in_a_manifest_that_was_only_read_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planted bug: a start believes what the page cache shows, and cuts the log because of it."""

    def store_changed(path: Path, manifest: Manifest, *, vfs: Vfs, keyring: Keyring) -> None:
        found = load_manifest(path, vfs=vfs, keyring=keyring, timeline=manifest.timeline)
        if found != manifest:
            store_manifest(path, manifest, vfs=vfs, keyring=keyring)

    monkeypatch.setattr("vaylix_storage._engine.store_manifest", store_changed)
    with pytest.raises((AssertionError, StorageError)):
        fail_at_every_call()


def test_failure_at_every_call_of_a_snapshot_that_is_tried_again() -> None:
    """A failed snapshot is no reason to stop: the next one must work, whatever this one left."""
    call = 0
    failed = True
    while failed:
        call += 1
        vfs, history = MemoryVfs(), History()
        engine = open_engine(vfs)
        history.append(engine, 3)
        history.snapshot(engine, 3)
        engine.log.rotate()
        vfs.fail_at(vfs.call_count + call)
        try:
            take_snapshot(engine, history.appended)
            failed = False
        except StorageError:
            failed = True
        vfs.fail_at(0)
        history.snapshot_indexes = {6, 8}
        history.append(engine)
        for data, names in SURVIVALS:
            twin = copy.deepcopy(vfs)
            twin.power_cut(data, names)
            history.check(open_engine(twin))
        history.snapshot(engine, len(history.appended))
        vfs.power_cut()
        history.check(open_engine(vfs))
    assert call > 8


# Planted bugs: each is harmless while the page cache lives, so it is the power cut that finds it.


class SkipsDirectorySync(MemoryVfs):
    """Planted bug: names are never made durable."""

    def sync_directory(self, path: Path) -> None:  # noqa: ARG002 - the bug is to ignore it
        self._count_call()


def start_again(vfs: MemoryVfs, history: History) -> None:
    history.check(open_engine(vfs))


def test_planted_missing_directory_sync_is_found() -> None:
    stop_at_every_call(SkipsDirectorySync, MemoryVfs.kill, start_again)
    with pytest.raises((AssertionError, StorageError)):
        stop_at_every_call(SkipsDirectorySync, MemoryVfs.power_cut)


def test_planted_manifest_before_snapshot_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: the snapshot counts although nobody has put it on the disk."""

    class LazyVfs(MemoryVfs):
        def sync_directory(self, path: Path) -> None:
            if path == SNAPSHOTS:
                self._count_call()
            else:
                super().sync_directory(path)

    stop_at_every_call(LazyVfs, MemoryVfs.kill, start_again)
    with pytest.raises((AssertionError, StorageError)):
        stop_at_every_call(LazyVfs, MemoryVfs.power_cut)


def test_planted_removal_of_the_log_before_the_manifest_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planted bug: what the snapshot makes dispensable goes before the snapshot counts."""
    real_store = Engine._store

    def store_late(engine: Engine, manifest: Manifest) -> None:
        if len(engine.log.segments()) > 1:
            engine.log.remove_before(engine.log.last_index + 1)
        real_store(engine, manifest)

    monkeypatch.setattr(Engine, "_store", store_late)
    with pytest.raises((AssertionError, StorageError)):
        stop_at_every_call(MemoryVfs, MemoryVfs.kill, start_again)
