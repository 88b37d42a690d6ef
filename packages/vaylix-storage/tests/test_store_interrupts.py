"""An interrupt anywhere in a call leaves a store that goes on, or one that says it has stopped.

Python raises KeyboardInterrupt where a function begins and where a call returns. A profile function
is called just there, so one stands in for the signal, at each of the first hundred places and at
ever fewer of the others: walks over the shards have thousands that are alike.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import pytest

from vaylix_storage import Store
from vaylix_storage.errors import LogClosedError, LogPoisonedError
from vaylix_storage.testing import MemoryVfs

# An interrupt in a generator that is being dropped has nobody to go to.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PATH = Path("/data")
START = 1_700_000_000_000
DUMP = "/backups/dump.json"
WAIT_SECONDS = 20.0
# The simulated disk is not to be torn in the middle of its own steps.
SIMULATION = str(Path("vaylix_storage") / "testing")


def open_store(vfs: MemoryVfs) -> Store:
    return Store.open(PATH, vfs=vfs, now_ms=lambda: START)


def use_a_batch(store: Store) -> None:
    with store.batch() as batch:
        batch.set(b"k", b"batch")
        batch.incr(b"n")


CALLS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get(b"k"),
    "scan": lambda store: list(store.scan(count=1)),
    "set": lambda store: store.set(b"k", b"set"),
    "batch": use_a_batch,
    "snapshot": lambda store: store.snapshot(),
    "backup": lambda store: store.backup(DUMP),
    "restore": lambda store: store.restore_backup(DUMP),
    "close": lambda store: store.close(),
}


@contextmanager
def interrupted_at(number: int) -> Iterator[list[int]]:
    """Interrupt the block at the place of this number; yields how many there were."""
    count = [0]

    def profile(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if "vaylix_storage" not in name or SIMULATION in name or event not in ("call", "c_return"):
            return
        count[0] += 1
        if count[0] == number:
            raise KeyboardInterrupt

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield count
    finally:
        sys.setprofile(before)


def use_from_another_thread(store: Store) -> BaseException | None:
    """Return what a write raises; fail if it waits for what never comes."""
    found: list[BaseException | None] = []

    def use() -> None:
        try:
            store.set(b"other", b"v")
            store.snapshot()
            store.backup("/backups/other.json")
        except BaseException as error:  # noqa: BLE001 - it is judged by the test
            found.append(error)
        else:
            found.append(None)

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(WAIT_SECONDS)
    assert found, "a lock was never given back"
    return found[0]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_interrupt_anywhere_leaves_a_store_that_goes_on_or_says_why_not(
    call: Callable[[Store], object],
) -> None:
    vfs = MemoryVfs()
    store = open_store(vfs)
    number = 0
    while True:
        number += 1 + number // 100
        store.set(b"k", b"v")
        store.set(b"n", b"1")
        store.backup(DUMP)
        with suppress(KeyboardInterrupt), interrupted_at(number) as count:
            call(store)
        if count[0] < number:
            break
        error = use_from_another_thread(store)
        assert isinstance(error, LogPoisonedError | LogClosedError | None)
        if error is not None:
            store.close()
            store = open_store(vfs)
        assert store.get(b"k") in (b"v", b"set", b"batch")
    assert number > 5
