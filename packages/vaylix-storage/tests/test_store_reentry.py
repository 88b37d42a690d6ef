"""Calls in the middle of a call, by signal handlers, finalizers and clocks.

A signal handler runs between two instructions of the main thread, so a trace function stands in for
it here that is called before every single instruction of the store in turn.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest

from vaylix_storage import Store
from vaylix_storage.errors import StorageBusyError, StorageError
from vaylix_storage.testing import MemoryVfs

if TYPE_CHECKING:
    from _typeshed import TraceFunction

PATH = Path("/data")
START = 1_700_000_000_000
DUMP = "/backups/dump.json"
WAIT_SECONDS = 20.0


def open_store(vfs: MemoryVfs, now_ms: Callable[[], int] = lambda: START) -> Store:
    return Store.open(PATH, vfs=vfs, now_ms=now_ms)


def use_a_batch(store: Store) -> None:
    with store.batch() as batch:
        batch.set(b"k", b"batch")
        batch.incr(b"n")


CALLS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get(b"k"),
    "get_many": lambda store: store.get_many(b"k", b"n"),
    "ttl": lambda store: store.ttl(b"k"),
    "len": len,
    "sequence": lambda store: store.sequence,
    "scan": lambda store: list(store.scan(count=1)),
    "set": lambda store: store.set(b"k", b"set", ttl_ms=5),
    "incr": lambda store: store.incr(b"n"),
    "delete": lambda store: store.delete(b"k"),
    "clear": lambda store: store.clear(),
    "batch": use_a_batch,
    "snapshot": lambda store: store.snapshot(),
    "backup": lambda store: store.backup(DUMP),
    "restore": lambda store: store.restore_backup(DUMP),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def is_of_the_store(frame: FrameType) -> bool:
    return Path(frame.f_code.co_filename).name.startswith(("store.", "_store_"))


@contextmanager
def at_instruction(number: int, act: Callable[[], None]) -> Iterator[list[int]]:
    """Act before the instruction of the store of this number; yields how many there were."""
    count = [0]

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        if not is_of_the_store(frame):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count[0] += 1
            if count[0] == number:
                sys.settrace(None)
                act()
                sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


@EVERY_CALL
@pytest.mark.parametrize("inner", ["incr", "snapshot"])
def test_a_call_within_a_call_is_carried_out_or_refused_and_never_waits(
    call: Callable[[Store], object], inner: str
) -> None:
    vfs = MemoryVfs()
    store = open_store(vfs)
    store.set(b"k", b"v")
    store.backup(DUMP)
    done = refused = number = 0

    def handle() -> None:
        nonlocal done, refused
        try:
            if inner == "incr":
                store.incr(b"inner")
            else:
                store.set(b"inner", b"%d" % done)
                store.snapshot()
        except StorageBusyError:
            refused += 1
        else:
            done += 1

    while True:
        number += 1
        with at_instruction(number, handle) as count:
            call(store)
        if count[0] < number:
            break
    assert done
    assert refused
    state = {key: store.get(key) for key in store.scan()}
    vfs.power_cut()
    store = open_store(vfs)
    assert {key: store.get(key) for key in store.scan()} == state


def test_a_signal_handler_that_calls_the_store_gets_an_error() -> None:
    heard: list[str] = []
    vfs = MemoryVfs()

    def now_ms() -> int:
        # The clock is asked in the middle of a call.
        signal.raise_signal(signal.SIGUSR1)
        return START

    def handle(_number: int, _frame: object) -> None:
        for inner in (lambda: len(store), store.close, store.snapshot):
            try:
                inner()
            except StorageBusyError as error:
                heard.append(str(error))

    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        store = open_store(vfs, now_ms)
        signal.signal(signal.SIGUSR1, handle)
        assert store.set(b"k", b"v")
        assert store.get(b"k") == b"v"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(heard) == 6
    store.close()
    assert open_store(vfs).get(b"k") == b"v"


def test_a_clock_that_calls_the_store_gets_an_error() -> None:
    vfs = MemoryVfs()
    stores: list[Store] = []

    def now_ms() -> int:
        return START + sum(len(store) for store in stores)

    store = open_store(vfs, now_ms)
    stores.append(store)
    for misuse in (lambda: store.get(b"k"), lambda: store.set(b"k", b"v")):
        with pytest.raises(StorageBusyError, match="in the middle") as caught:
            misuse()
        assert caught.value.remedy
    stores.clear()
    assert store.get(b"k") is None
    store.set(b"k", b"v")


def test_a_handler_does_not_wait_for_a_snapshot_that_waits_for_it() -> None:
    """The other thread is through with all but the last step, for which it needs the lock."""
    has_begun, go_on = threading.Event(), threading.Event()

    class SlowVfs(MemoryVfs):
        def rename(self, source: Path, target: Path) -> None:
            if target.name.endswith(".snapshot") and not go_on.is_set():
                has_begun.set()
                assert go_on.wait(WAIT_SECONDS)
            super().rename(source, target)

    errors: list[StorageError] = []

    def now_ms() -> int:
        if has_begun.is_set() and not go_on.is_set():
            go_on.set()
            try:
                store.snapshot()
            except StorageBusyError as error:
                errors.append(error)
        return START

    store = open_store(SlowVfs(), now_ms)
    thread = threading.Thread(target=store.snapshot)
    thread.start()
    assert has_begun.wait(WAIT_SECONDS)
    store.set(b"k", b"v")
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    assert len(errors) == 1
    assert store.get(b"k") == b"v"
