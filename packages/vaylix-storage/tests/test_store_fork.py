"""A store across a fork: the child is refused and the parent goes on, whatever the child does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vaylix_storage import Store
from vaylix_storage.errors import DirectoryLockedError, ForeignProcessError

# Newer Pythons warn that a child of a process with threads could wait for one of them for ever.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

WAIT_SECONDS = 30.0
CLOSED_WELL = 77


def in_a_child(work: Callable[[], object]) -> int:
    """Fork, do the work in the child, and return with what it ends: 77 if nothing was raised."""
    child = os.fork()
    if child == 0:
        # One that waits for ever must not outlive the test.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(WAIT_SECONDS))
        try:
            work()
            os._exit(CLOSED_WELL)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def use_a_batch(store: Store) -> None:
    with store.batch() as batch:
        batch.set(b"child", b"v")


CALLS: dict[str, Callable[[Store, Path], object]] = {
    "get": lambda store, _: store.get(b"k"),
    "get_many": lambda store, _: store.get_many(b"k"),
    "exists": lambda store, _: b"k" in store,
    "version": lambda store, _: store.version(b"k"),
    "ttl": lambda store, _: store.ttl(b"k"),
    "scan": lambda store, _: store.scan(),
    "len": lambda store, _: len(store),
    "sequence": lambda store, _: store.sequence,
    "set": lambda store, _: store.set(b"child", b"v"),
    "delete": lambda store, _: store.delete(b"k"),
    "delete none": lambda store, _: store.delete(),
    "pop": lambda store, _: store.pop(b"k"),
    "incr": lambda store, _: store.incr(b"child"),
    "decr": lambda store, _: store.decr(b"child"),
    "expire": lambda store, _: store.expire(b"k", 1),
    "persist": lambda store, _: store.persist(b"k"),
    "rename": lambda store, _: store.rename(b"k", b"child"),
    "clear": lambda store, _: store.clear(),
    "batch": lambda store, _: use_a_batch(store),
    "snapshot": lambda store, _: store.snapshot(),
    "backup": lambda store, path: store.backup(path / "child.json"),
    "restore": lambda store, path: store.restore_backup(path / "dump.json"),
    "enter": lambda store, _: store.__enter__(),
}


def test_a_child_is_told_and_the_parent_goes_on(tmp_path: Path) -> None:
    with Store.open(tmp_path / "data") as store:
        store.set(b"k", b"v")
        store.backup(tmp_path / "dump.json")

        def misuse() -> None:
            for call in CALLS.values():
                with pytest.raises(
                    ForeignProcessError, match="opened in another process"
                ) as caught:
                    call(store, tmp_path)
                assert caught.value.remedy

        for number in range(3):
            assert in_a_child(misuse) == CLOSED_WELL
            store.set(b"after", b"%d" % number)
            store.snapshot()
        assert not (tmp_path / "child.json").exists()
    with Store.open(tmp_path / "data") as store:
        assert {key: store.get(key) for key in store.scan()} == {b"k": b"v", b"after": b"2"}


def test_a_child_that_closes_it_takes_nothing_from_the_parent(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    store.set(b"k", b"v")

    def close_twice() -> None:
        store.close()
        store.close()
        with pytest.raises(ForeignProcessError):
            store.get(b"k")

    assert in_a_child(close_twice) == CLOSED_WELL

    def open_it_too() -> None:
        with pytest.raises(DirectoryLockedError):
            Store.open(tmp_path / "data")

    assert in_a_child(open_it_too) == CLOSED_WELL
    store.set(b"after", b"v")
    store.close()
    with Store.open(tmp_path / "data") as store:
        assert sorted(store.scan()) == [b"after", b"k"]


def test_a_batch_and_a_scan_that_began_before_a_fork_end_with_an_error(tmp_path: Path) -> None:
    with Store.open(tmp_path / "data") as store:
        store.set(b"k", b"v")
        keys = store.scan()
        with store.batch() as batch:
            batch.set(b"first", b"v")

            def misuse() -> None:
                with pytest.raises(ForeignProcessError):
                    next(keys)
                with pytest.raises(ForeignProcessError):
                    batch.set(b"second", b"v")

            assert in_a_child(misuse) == CLOSED_WELL
            batch.incr(b"n")
        assert sorted(keys) == [b"first", b"k", b"n"]

        def leave_the_block() -> None:
            with pytest.raises(ForeignProcessError), store.batch() as inherited:
                inherited.set(b"child", b"v")

        assert in_a_child(leave_the_block) == CLOSED_WELL
        assert b"child" not in store


def test_a_child_does_not_wait_for_a_thread_that_stayed_with_the_parent(tmp_path: Path) -> None:
    has_begun, go_on = threading.Event(), threading.Event()
    main = threading.current_thread()

    def now_ms() -> int:
        if threading.current_thread() is not main:
            has_begun.set()
            assert go_on.wait(WAIT_SECONDS)
        return 1_700_000_000_000

    store = Store.open(tmp_path / "data", now_ms=now_ms)
    thread = threading.Thread(target=store.set, args=(b"k", b"v"))
    thread.start()
    assert has_begun.wait(WAIT_SECONDS)

    def misuse() -> None:
        with pytest.raises(ForeignProcessError):
            store.get(b"k")
        store.close()

    assert in_a_child(misuse) == CLOSED_WELL
    go_on.set()
    thread.join(WAIT_SECONDS)
    assert store.get(b"k") == b"v"
    store.close()


def test_a_child_that_lives_on_does_not_keep_the_directory_locked(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(CLOSED_WELL)
    os.close(reader)
    try:
        store.close()
        with Store.open(tmp_path / "data") as store:
            store.set(b"k", b"v")
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def test_a_process_of_multiprocessing_is_told(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    with Store.open(tmp_path / "data") as store:

        def work() -> None:
            try:
                store.set(b"child", b"v")
            except ForeignProcessError as error:
                answers.put(str(error))
            store.close()

        process = context.Process(target=work)
        process.start()
        assert "opened in another process" in answers.get()
        process.join(WAIT_SECONDS)
        assert process.exitcode == 0
        store.set(b"parent", b"v")
    with Store.open(tmp_path / "data") as store:
        assert list(store.scan()) == [b"parent"]
