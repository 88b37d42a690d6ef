"""Bounds: dead and cleared keys leave memory step by step, and nothing costs more than its due."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import pytest

from vaylix_storage import Answer, CommandFailure, ExecResult, FailureCode, Keyspace, Result
from vaylix_storage.commands import (
    Clear,
    Command,
    DbSize,
    Decr,
    Exec,
    Incr,
    List,
    Set,
    SetOptions,
)

NOW = 1_700_000_000_000


def run(keyspace: Keyspace, *commands: Command, now_ms: int = NOW) -> list[Result]:
    return keyspace.apply(commands, now_ms, want_results=True)


@pytest.fixture
def keyspace() -> Keyspace:
    return Keyspace()


def fill(keyspace: Keyspace, count: int, ttl_ms: int | None) -> None:
    commands = [Set(b"%d" % number, b"v", SetOptions(ttl_ms=ttl_ms)) for number in range(count)]
    keyspace.apply(commands, NOW, want_results=False)


def test_dead_keys_are_freed_in_bounded_steps(keyspace: Keyspace) -> None:
    fill(keyspace, 3000, ttl_ms=10)
    assert keyspace.expire_step(NOW + 9, 1000) == 0
    assert keyspace.key_count(NOW + 10) == 0
    assert keyspace.table.entry_count == 3000
    assert keyspace.expire_step(NOW + 10, 1000) == 1000
    assert keyspace.table.entry_count == 2000
    while keyspace.expire_step(NOW + 10, 1000):
        pass
    assert (keyspace.table.entry_count, keyspace.table.content_bytes) == (0, 0)
    assert keyspace.expired_count == 3000


def set_as_command(keyspace: Keyspace) -> None:
    run(keyspace, Set(b"x", b"y"), now_ms=NOW + 10)


def set_in_columns(keyspace: Keyspace) -> None:
    keyspace.set_all([b"x"], [b"y"], NOW + 10)


@pytest.mark.parametrize("write", [set_as_command, set_in_columns])
def test_writes_alone_free_dead_keys(keyspace: Keyspace, write: Callable[[Keyspace], None]) -> None:
    fill(keyspace, 3000, ttl_ms=10)
    for _ in range(200):
        write(keyspace)
    assert keyspace.table.entry_count == 1
    assert keyspace.expired_count == 3000


def test_a_large_clear_is_freed_in_bounded_steps(keyspace: Keyspace) -> None:
    fill(keyspace, 9000, ttl_ms=1000)
    assert run(keyspace, Clear(), DbSize()) == [Answer.OK, 0]
    steps = 0
    while freed := keyspace.expire_step(NOW, 500):
        assert freed < 500 + 600
        steps += 1
    assert steps > 10
    assert keyspace.expired_count == 0
    run(keyspace, Set(b"0", b"again"))
    assert keyspace.list_all(NOW, 1000) == [(b"0", b"again")]


def test_a_large_clear_within_an_exec_is_freed_in_bounded_steps_too(keyspace: Keyspace) -> None:
    fill(keyspace, 9000, ttl_ms=1000)
    run(keyspace, Exec((Clear(), Incr(b"n"))))
    steps = 0
    while keyspace.expire_step(NOW, 500):
        steps += 1
    assert steps > 10
    assert keyspace.list_all(NOW, 1000) == [(b"n", b"1")]


@pytest.mark.parametrize("command", [Incr(b"n"), Decr(b"n")])
def test_a_hostile_number_costs_no_more_than_reading_it(command: Incr | Decr) -> None:
    """Zeros in front and a letter behind made a backtracking pattern quadratic."""
    keyspace = Keyspace()
    value = b"0" * 8_000_000 + b"x"
    started = time.process_time()
    results = keyspace.apply([Set(b"n", value), command], 1, want_results=True)
    assert time.process_time() - started < 1
    assert results[1] == CommandFailure(FailureCode.NOT_AN_INTEGER, b"n", b"0" * 256)


def test_all_lists_of_a_transaction_share_one_bound() -> None:
    keyspace = Keyspace(list_bytes_max=1000)
    run(keyspace, Set(b"k", b"v" * 600))
    (result,) = run(keyspace, Exec((List(), List(), Set(b"l", b"w"))))
    assert isinstance(result, ExecResult)
    listed, refused, written = result.results
    assert listed == [(b"k", b"v" * 600)]
    assert refused == CommandFailure(FailureCode.LIST_TOO_LARGE)
    assert written is Answer.OK
    assert run(keyspace, List()) == [[(b"k", b"v" * 600), (b"l", b"w")]]


@pytest.mark.parametrize("ttl_ms", [None, 60_000])
def test_what_is_overwritten_gives_the_collector_nothing_to_look_at(
    keyspace: Keyspace, ttl_ms: int | None
) -> None:
    """A write that takes the place of another allocates nothing on balance, so nothing collects.

    If entries were tracked, as tuples are, all of them would be looked at in one go by the next
    collection of the youngest generation, whenever that comes: 50 ms for a hundred thousand.
    """
    fill(keyspace, 20_000, ttl_ms)
    gc.collect()
    for number in range(20_000):
        run(keyspace, Set(b"%d" % number, b"w", SetOptions(ttl_ms=ttl_ms)), now_ms=NOW + 1)
    assert len(gc.get_objects(generation=0)) < 2 * gc.get_threshold()[0]
    assert not gc.is_tracked(keyspace.table.find(b"7", NOW))
