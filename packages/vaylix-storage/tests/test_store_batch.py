"""The life of a batch: in its `with` block, in its thread, once. Anything else is an error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from vaylix_storage import Store, StoreBatch
from vaylix_storage.errors import BatchError, LogClosedError, NotAnIntegerError
from vaylix_storage.testing import MemoryVfs

PATH = Path("/data")
START = 1_700_000_000_000
WAIT_SECONDS = 20.0

METHODS: dict[str, Callable[[StoreBatch], object]] = {
    "set": lambda batch: batch.set(b"k", b"v"),
    "delete": lambda batch: batch.delete(b"k"),
    "incr": lambda batch: batch.incr(b"k"),
    "decr": lambda batch: batch.decr(b"k"),
    "expire": lambda batch: batch.expire(b"k", 1),
    "persist": lambda batch: batch.persist(b"k"),
    "rename": lambda batch: batch.rename(b"k", b"k2"),
    "clear": lambda batch: batch.clear(),
}


def open_store(vfs: MemoryVfs | None = None) -> Store:
    return Store.open(PATH, vfs=MemoryVfs() if vfs is None else vfs, now_ms=lambda: START)


def refuse_all(batch: StoreBatch, reason: str) -> None:
    for method in METHODS.values():
        with pytest.raises(BatchError, match=reason) as caught:
            method(batch)
        assert caught.value.remedy


def test_all_methods_are_tried() -> None:
    names = {name for name in vars(StoreBatch) if not name.startswith("_")}
    assert names - {"results"} == {*METHODS}


def test_a_batch_that_is_over_takes_nothing_more() -> None:
    store = open_store()
    with store.batch() as batch:
        batch.set(b"n", b"1")
    refuse_all(batch, "is over")
    with store.batch() as empty:
        pass
    refuse_all(empty, "is over")
    assert batch.results == (True,)
    assert list(store.scan()) == [b"n"]


def test_a_batch_that_failed_takes_nothing_more() -> None:
    store = open_store()
    store.set(b"text", b"x")
    failed = store.batch()

    def count_text() -> None:
        with failed as batch:
            batch.set(b"k", b"v")
            batch.incr(b"text")

    with pytest.raises(NotAnIntegerError):
        count_text()
    given_up = store.batch()
    with suppress(KeyError), given_up as batch:
        batch.set(b"k", b"v")
        raise KeyError
    for batch in (failed, given_up):
        refuse_all(batch, "is over")
        assert batch.results == ()
    assert list(store.scan()) == [b"text"]


def test_a_batch_without_its_block_takes_nothing() -> None:
    store = open_store()
    refuse_all(store.batch(), "has not begun")


def test_a_batch_is_used_once() -> None:
    store = open_store()
    batch = store.batch()
    with batch:
        batch.incr(b"n")
    with pytest.raises(BatchError, match="is over"), batch:
        pass
    assert store.get(b"n") == b"1"


def test_a_batch_within_itself_is_refused_and_goes_on() -> None:
    store = open_store()
    with store.batch() as batch:
        batch.incr(b"n")
        with pytest.raises(BatchError, match="has begun already"), batch:
            pass
        batch.incr(b"n")
    assert store.get(b"n") == b"2"


def test_a_batch_within_another_one_is_refused_and_that_goes_on() -> None:
    store, other = open_store(), open_store()
    with store.batch() as outer:
        outer.incr(b"n")
        with pytest.raises(BatchError, match="inside of another"), store.batch():
            pass
        with other.batch() as elsewhere:
            elsewhere.incr(b"n")
        outer.incr(b"n")
    with store.batch() as after:
        after.incr(b"n")
    assert (store.get(b"n"), other.get(b"n")) == (b"3", b"1")


def test_a_batch_belongs_to_its_thread() -> None:
    store = open_store()
    errors: list[BaseException] = []

    def use(batch: StoreBatch) -> None:
        try:
            refuse_all(batch, "another thread")
            with store.batch() as own:
                own.incr(b"own")
        except BaseException as error:  # noqa: BLE001 - it is reported by the test
            errors.append(error)

    with store.batch() as batch:
        batch.incr(b"n")
        thread = threading.Thread(target=use, args=(batch,))
        thread.start()
        thread.join(WAIT_SECONDS)
    assert errors == []
    assert (store.get(b"n"), store.get(b"own")) == (b"1", b"1")


def test_a_block_that_ends_in_another_thread_writes_nothing() -> None:
    store = open_store()
    batch = store.batch()
    batch.__enter__()
    batch.incr(b"n")
    errors: list[BatchError] = []

    def leave() -> None:
        try:
            batch.__exit__(None, None, None)
        except BatchError as error:
            errors.append(error)

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join(WAIT_SECONDS)
    assert len(errors) == 1
    assert store.get(b"n") is None
    refuse_all(batch, "is over")


def test_tasks_of_one_thread_may_each_have_a_batch() -> None:
    store = open_store()

    async def use() -> None:
        with store.batch() as batch:
            batch.incr(b"n")
            await asyncio.sleep(0)
            batch.incr(b"n")

    async def use_many() -> None:
        await asyncio.gather(*(use() for _ in range(3)))

    asyncio.run(use_many())
    assert store.get(b"n") == b"6"


def test_writes_beside_a_batch_come_before_it() -> None:
    store = open_store()
    with store.batch() as batch:
        batch.set(b"k", b"batch")
        store.set(b"k", b"beside")
        assert store.get(b"k") == b"beside"
    assert store.get(b"k") == b"batch"


def test_what_is_given_up_inside_a_block_does_not_hold_up_the_rest() -> None:
    store = open_store()
    with store.batch() as batch:
        batch.incr(b"n")
        with suppress(TypeError):
            batch.incr("text")  # type: ignore[arg-type]
        batch.incr(b"n")
    assert (store.get(b"n"), batch.results) == (b"2", (1, 2))


def test_a_store_that_was_closed_takes_no_batch() -> None:
    vfs = MemoryVfs()
    store = open_store(vfs)
    batch = store.batch()

    def close_within() -> None:
        with batch:
            batch.set(b"k", b"v")
            store.close()

    with pytest.raises(LogClosedError):
        close_within()
    for action in (store.batch, batch.clear):
        with pytest.raises((LogClosedError, BatchError)):
            action()
    assert len(open_store(vfs)) == 0
