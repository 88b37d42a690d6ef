"""Token bucket, lockouts and the gate of inline syncs."""

from __future__ import annotations

import pytest

from vaylix_server.lockout import LockoutPolicy, LockoutTable
from vaylix_server.ratelimit import TokenBucket
from vaylix_server.sync_gate import SyncGate


def test_the_bucket_starts_full_and_refuses_the_next() -> None:
    bucket = TokenBucket(rate=10, burst=3, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]


def test_the_bucket_refills_by_fractions_up_to_its_capacity() -> None:
    bucket = TokenBucket(rate=10, burst=2, now=0.0)
    assert bucket.take(0.0)
    assert bucket.take(0.0)
    assert not bucket.take(0.09)
    assert bucket.take(0.1)
    assert [bucket.take(100.0) for _ in range(3)] == [True, True, False]


POLICY = LockoutPolicy(window_seconds=300, failures_max=5, lockout_seconds=900, records_max=8)


def fail(table: LockoutTable, times: int, *, address: str = "10.0.0.1", now_ms: int = 1) -> bool:
    locked = False
    for _ in range(times):
        locked = table.record_failure("ann", address, now_ms)
    return locked


def test_the_fifth_failure_from_one_address_locks_it_for_the_lockout_time() -> None:
    table = LockoutTable(POLICY)
    assert not fail(table, 4)
    assert not table.is_locked("ann", "10.0.0.1", 1)
    assert fail(table, 1)
    assert table.is_locked("ann", "10.0.0.1", 900_001)
    assert not table.is_locked("ann", "10.0.0.1", 900_002)
    assert not table.is_locked("ann", "10.0.0.2", 1)
    assert not table.is_locked("bob", "10.0.0.1", 1)


def test_three_times_as_many_from_anywhere_lock_the_name() -> None:
    table = LockoutTable(POLICY)
    for number in range(14):
        # Four from each address, so that none of the addresses is locked.
        assert not fail(table, 1, address=f"10.0.0.{number // 4}")
        assert not table.is_locked("ann", "192.0.2.1", 1)
    assert fail(table, 1, address="10.0.0.9")
    assert table.is_locked("ann", "192.0.2.1", 1)


def test_failures_older_than_the_window_do_not_count() -> None:
    table = LockoutTable(POLICY)
    fail(table, 4)
    assert not fail(table, 1, now_ms=300_002)


def test_success_forgets_the_failures() -> None:
    table = LockoutTable(POLICY)
    fail(table, 4)
    table.record_success("ann", "10.0.0.1")
    assert not fail(table, 4)


def test_looking_changes_nothing() -> None:
    table = LockoutTable(POLICY)
    fail(table, 4)
    assert table.active_count(1) == 0
    assert fail(table, 1)
    assert table.active_count(1) == 1


def test_the_table_is_bounded_and_drops_what_was_touched_longest_ago() -> None:
    table = LockoutTable(POLICY)
    fail(table, 5)
    for number in range(3):
        table.record_failure(f"other{number}", "10.0.0.1", 1)
    assert table.is_locked("ann", "10.0.0.1", 1)
    table.record_failure("one more", "10.0.0.1", 1)
    assert not table.is_locked("ann", "10.0.0.1", 1)


def test_the_gate_opens_after_a_window_of_quick_syncs_and_shuts_at_a_slow_one() -> None:
    gate = SyncGate(quick_seconds_max=0.001, window=3)
    for seconds in (0.0001, 0.0009, 0.001, 0.0001, 0.0001):
        gate.record(seconds)
        assert not gate.is_open
    gate.record(0.0001)
    assert gate.is_open
    gate.record(0.5)
    assert not gate.is_open


@pytest.mark.parametrize(
    ("syncs", "is_open"),
    [([0.002] * 500, False), ([0.0005] * 500, True), ([0.0005] * 500 + [0.002] * 5, True)],
)
def test_the_gate_opens_only_for_syncs_that_are_fast_on_average(
    syncs: list[float], is_open: bool
) -> None:
    gate = SyncGate()
    for seconds in syncs:
        gate.record(seconds)
    assert gate.is_open == is_open
