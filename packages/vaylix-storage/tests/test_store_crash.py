"""The embedded database, crash by crash: a method that returned has happened, another may have.

One workload of everything a store can do is stopped before, or fails in, each of its calls to the
file system in turn. Afterwards the store must hold what it held after the last method that
returned, or what the next one would have made of it; nothing between, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vaylix_storage import RetentionPolicy, Store, SyncPolicy
from vaylix_storage.errors import StorageError
from vaylix_storage.testing import SURVIVALS, MemoryVfs, SimulatedCrash, Survival

PATH = Path("/data")
START = 1_700_000_000_000
DUMP = "/backups/dump.json"
State = dict[bytes, tuple[bytes | None, int]]
Step = Callable[[Store], object]


def open_store(vfs: MemoryVfs, policy: SyncPolicy = SyncPolicy.SYNC) -> Store:
    return Store.open(
        PATH,
        vfs=vfs,
        now_ms=lambda: START,
        sync_policy=policy,
        segment_bytes_max=2000,
        retention=RetentionPolicy(segments_max=1, snapshots_max=2),
        archive_directory=Path("/archive"),
    )


def state_of(store: Store) -> State:
    return {key: (store.get(key), store.version(key)) for key in store.scan()}


def use_a_batch(store: Store) -> None:
    with store.batch() as batch:
        batch.incr(b"n")
        batch.set(b"large", b"y" * 700)
        batch.delete(b"k0")


STEPS: list[Step] = [
    *(lambda store, key=b"k%d" % n: store.set(key, b"v" * 300) for n in range(5)),
    lambda store: store.incr(b"n"),
    lambda store: store.snapshot(),
    lambda store: store.incr(b"n"),
    use_a_batch,
    lambda store: store.backup(DUMP),
    lambda store: store.set(b"large", b"z" * 1900),
    lambda store: store.snapshot(),
    lambda store: store.rename(b"k1", b"k9"),
    lambda store: store.restore_backup(DUMP),
    lambda store: store.incr(b"n"),
    lambda store: store.snapshot(),
    lambda store: store.close(),
]


def states() -> list[State]:
    """Return what a store holds after each number of steps."""
    store = open_store(MemoryVfs())
    found = [state_of(store)]
    for step in STEPS[:-1]:
        step(store)
        found.append(state_of(store))
    return [*found, found[-1]]


STATES = states()


def run(vfs: MemoryVfs, policy: SyncPolicy = SyncPolicy.SYNC) -> tuple[int, bool]:
    """Return how many steps have returned, and whether that is all of them."""
    count = 0
    try:
        store = open_store(vfs, policy)
        for step in STEPS:
            step(store)
            count += 1
    except (SimulatedCrash, StorageError):
        return count, False
    return count, True


def check(vfs: MemoryVfs, count: int) -> None:
    store = open_store(vfs)
    found = state_of(store)
    assert found in STATES[count : count + 2]
    store.incr(b"after")
    store.snapshot()
    vfs.power_cut()
    assert state_of(open_store(vfs)) == found | {b"after": (b"1", 1)}


@pytest.mark.parametrize(("data", "names"), SURVIVALS)
def test_power_cut_at_every_call(data: Survival, names: Survival) -> None:
    call = 0
    finished = False
    while not finished:
        call += 1
        vfs = MemoryVfs()
        vfs.crash_at(call)
        count, finished = run(vfs)
        vfs.power_cut(data, names)
        check(vfs, count)
    assert call > 150


def test_kill_at_every_call_under_the_weakest_policy() -> None:
    call = 0
    finished = False
    while not finished:
        call += 1
        vfs = MemoryVfs()
        vfs.crash_at(call)
        count, finished = run(vfs, SyncPolicy.BUFFERED)
        vfs.kill()
        check(vfs, count)


def test_failure_at_every_call() -> None:
    call = 0
    finished = False
    while not finished:
        call += 1
        vfs = MemoryVfs()
        vfs.fail_at(call)
        count, finished = run(vfs)
        vfs.kill()
        found = state_of(open_store(vfs))
        assert found in STATES[count : count + 2]
        vfs.power_cut()
        assert state_of(open_store(vfs)) == found, "what a start has shown is on the disk"
        vfs.kill()
        check(vfs, STATES.index(found, count))
