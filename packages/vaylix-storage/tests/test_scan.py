"""SCAN: the promise that holds under writes, its bounds, and the pattern language."""

from __future__ import annotations

import random
import re
import time
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaylix_storage import ExecResult, Keyspace, ScanPage
from vaylix_storage._glob import Glob
from vaylix_storage._scan import LOOKS_MAX
from vaylix_storage.commands import Del, Exec, Scan, Set, SetOptions

NOW = 1_000_000


def keyspace_of(keys: list[bytes], ttl_ms: int | None = None) -> Keyspace:
    keyspace = Keyspace()
    options = None if ttl_ms is None else SetOptions(ttl_ms=ttl_ms)
    keyspace.apply([Set(key, b"v", options) for key in keys], NOW, want_results=False)
    return keyspace


def scan_all(
    keyspace: Keyspace, pattern: bytes | None = None, count: int | None = None, now_ms: int = NOW
) -> list[bytes]:
    found: list[bytes] = []
    cursor = 0
    while True:
        page = keyspace.scan(cursor, pattern, count, now_ms)
        assert page.keys == sorted(page.keys)
        found += page.keys
        cursor = page.cursor
        if cursor == 0:
            return found


def colliding_keys(count: int) -> list[bytes]:
    """Return keys with the same CRC-32: the CRC is linear, so four bytes can undo any change."""
    keys = []
    target = crc32(b"collide")
    for number in range(count):
        prefix = b"%08d" % number
        base = crc32(prefix + bytes(4))
        columns = [crc32(prefix + (1 << bit).to_bytes(4, "little")) ^ base for bit in range(32)]
        keys.append(prefix + _solve(columns, base ^ target).to_bytes(4, "little"))
    assert {crc32(key) for key in keys} == {target}
    return keys


def _solve(columns: list[int], wanted: int) -> int:
    """Return which columns XOR to `wanted`, as a bit mask: elimination over GF(2)."""
    rows = [(column, 1 << bit) for bit, column in enumerate(columns)]
    solution = 0
    for bit in reversed(range(32)):
        pivot = next((row for row in rows if row[0] >> bit & 1), None)
        if pivot is None:
            continue
        rows.remove(pivot)
        rows = [
            (value ^ pivot[0], mask ^ pivot[1]) if value >> bit & 1 else (value, mask)
            for value, mask in rows
        ]
        if wanted >> bit & 1:
            wanted ^= pivot[0]
            solution ^= pivot[1]
    assert wanted == 0
    return solution


@pytest.mark.parametrize("count", [None, 0, 1, 3, 10, 1000, 100_000])
def test_a_scan_returns_every_key_once(count: int | None) -> None:
    keys = [b"key:%d" % number for number in range(700)]
    found = scan_all(keyspace_of(keys), count=count)
    assert sorted(found) == sorted(keys)


def test_pages_hold_what_was_asked_for() -> None:
    keyspace = keyspace_of([b"key:%d" % number for number in range(700)])
    assert len(keyspace.scan(0, None, None, NOW).keys) == 10
    assert len(keyspace.scan(0, None, 0, NOW).keys) == 1
    assert len(keyspace.scan(0, None, 25, NOW).keys) == 25


def test_long_keys_make_short_pages() -> None:
    """A page has to fit into a frame, whatever the keys and the wish of the client."""
    keys = [b"%02d" % number + bytes(60_000) for number in range(100)]
    keyspace, cursor, found = keyspace_of(keys), 0, set[bytes]()
    while True:
        page = keyspace.scan(cursor, None, 65_535, NOW)
        assert 0 < sum(map(len, page.keys)) < 1.2 * 2**20
        found.update(page.keys)
        cursor = page.cursor
        if cursor == 0:
            break
    assert found == set(keys)


def test_the_last_page_ends_the_scan() -> None:
    keyspace = keyspace_of([b"a", b"b"])
    assert keyspace.scan(0, None, 2, NOW).cursor == 0
    assert keyspace.scan(2**64 - 1, None, 10, NOW).keys == []
    assert keyspace.scan(2**64 - 1, None, 10, NOW).cursor == 0
    assert keyspace.scan(2**70, None, 10, NOW).cursor == 0
    assert Keyspace().scan(0, None, 10, NOW).cursor == 0


@settings(max_examples=60, deadline=None)
@given(
    stable=st.sets(st.binary(max_size=6), max_size=60),
    fleeting=st.sets(st.binary(max_size=6), max_size=60),
    seed=st.integers(0, 1000),
    count=st.integers(0, 9),
)
def test_keys_that_stay_are_returned_once_whatever_else_is_written(
    stable: set[bytes], fleeting: set[bytes], seed: int, count: int
) -> None:
    fleeting -= stable
    keyspace = keyspace_of(sorted(stable))
    chance = random.Random(seed)
    found: list[bytes] = []
    cursor = 0
    while True:
        changes = [
            Set(key, b"x") if chance.random() < 0.5 else Del((key,))
            for key in sorted(fleeting)
            if chance.random() < 0.3
        ]
        keyspace.apply(changes, NOW, want_results=False)
        page = keyspace.scan(cursor, None, count, NOW)
        found += page.keys
        cursor = page.cursor
        if cursor == 0:
            break
    assert sorted(key for key in found if key in stable) == sorted(stable)
    assert set(found) <= stable | fleeting


def test_a_cursor_means_the_same_on_another_node() -> None:
    keys = [b"key:%d" % number for number in range(300)]
    one, other = keyspace_of(keys), keyspace_of(keys[::-1])
    cursor = 0
    while True:
        page = one.scan(cursor, None, 7, NOW)
        assert other.scan(cursor, None, 7, NOW) == page
        cursor = page.cursor
        if cursor == 0:
            break


def test_keys_with_equal_crc_are_paged_too() -> None:
    keys = colliding_keys(300)
    keyspace = keyspace_of(keys)
    assert len(keyspace.scan(0, None, 10, NOW).keys) == 10
    found = scan_all(keyspace, count=7)
    assert sorted(found) == sorted(keys)


def test_keys_with_equal_crc_may_go_during_a_scan() -> None:
    """When all but one of them are gone, the cursor in their midst still means the same."""
    keys = colliding_keys(40)
    keyspace = keyspace_of(keys)
    page = keyspace.scan(0, None, 5, NOW)
    rest = [key for key in keys if key not in page.keys]
    keyspace.apply([Del(tuple(page.keys + rest[1:]))], NOW, want_results=False)
    assert keyspace.scan(page.cursor, None, 5, NOW).keys == rest[:1]


def test_dead_keys_are_passed_over() -> None:
    keyspace = keyspace_of([b"dead%d" % number for number in range(50)], ttl_ms=5)
    keyspace.apply([Set(b"alive", b"v")], NOW, want_results=False)
    assert len(scan_all(keyspace)) == 51
    assert scan_all(keyspace, now_ms=NOW + 5) == [b"alive"]


def test_a_call_looks_at_a_bounded_number_of_keys() -> None:
    keyspace = keyspace_of([b"key:%d" % number for number in range(3 * LOOKS_MAX)])
    page = keyspace.scan(0, b"nothing*", 10, NOW)
    assert page.keys == []
    assert page.cursor != 0
    page = keyspace.scan(0, None, 10**9, NOW)
    assert LOOKS_MAX <= len(page.keys) < LOOKS_MAX + 10
    assert len(scan_all(keyspace, b"key:1*")) == sum(
        str(number).startswith("1") for number in range(3 * LOOKS_MAX)
    )


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("", [""], ["a"]),
        ("*", ["", "a", "ab"], []),
        ("a", ["a"], ["", "aa", "A"]),
        ("?", ["a", "ä", "😀"], ["", "ab"]),
        ("a*", ["a", "abc"], ["", "ba"]),
        ("*a", ["a", "cba"], ["ab"]),
        ("ab*ba", ["abba", "abxba"], ["aba"]),
        ("a*b*c", ["abc", "axbxc", "abcbc"], ["acb", "ab"]),
        ("**", ["", "x"], []),
        ("user:?:*", ["user:1:", "user:ä:x"], ["user::x", "user:12:x"]),
        ("*?", ["a", "ab"], [""]),
        ("?*?", ["ab", "abc"], ["a"]),
        ("*a?c*", ["abc", "xxaycz", "aacc"], ["ac", "abbc"]),
        ("[ab]", ["[ab]"], ["a"]),
        ("\\*", ["\\", "\\x"], ["*"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    glob = Glob(pattern.encode())
    assert [key for key in matching if not glob.matches(key.encode())] == []
    assert [key for key in others if glob.matches(key.encode())] == []


@settings(max_examples=500, deadline=None)
@given(pattern=st.text("ab?*ä", max_size=8), key=st.text("abä?", max_size=10))
def test_patterns_mean_what_a_regular_expression_means(pattern: str, key: str) -> None:
    expression = "".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in pattern)
    expected = re.fullmatch(expression, key, re.DOTALL) is not None
    assert Glob(pattern.encode()).matches(key.encode()) is expected


@pytest.mark.parametrize("pattern", [b"*a" * 500 + b"b", b"*" + b"?a" * 500 + b"b*", b"*?" * 500])
def test_hostile_patterns_take_bounded_time(pattern: bytes) -> None:
    glob = Glob(pattern)
    key = b"a" * 1024
    started = time.perf_counter()
    for _ in range(20):
        glob.matches(key)
    # About 1 ms each; a backtracking matcher would not end in a lifetime.
    assert time.perf_counter() - started < 5


def test_keys_that_are_not_utf_8_are_matched_too() -> None:
    assert Glob(b"a?c").matches(b"a\xffc")
    assert Glob(b"*\xff*").matches(b"a\xffc")


def test_all_scans_of_a_transaction_share_one_bound_and_each_moves_on() -> None:
    keyspace = Keyspace()
    keys = [b"%d" % number for number in range(3 * LOOKS_MAX)]
    keyspace.set_all(keys, [b""] * len(keys), NOW)
    seen: list[bytes] = []
    cursor, transactions = 0, 0
    while True:
        scans = (Scan(cursor, None, LOOKS_MAX), Scan(cursor, b"*", LOOKS_MAX))
        (result,) = keyspace.apply([Exec(scans)], NOW, want_results=True)
        assert isinstance(result, ExecResult)
        whole, rest = result.results
        assert isinstance(whole, ScanPage)
        assert isinstance(rest, ScanPage)
        assert len(whole.keys) >= LOOKS_MAX or whole.cursor == 0
        if transactions == 0:
            assert 0 < len(rest.keys) < 10, "the first has used the bound up"
            assert rest.cursor not in (0, cursor)
        seen += whole.keys
        cursor, transactions = whole.cursor, transactions + 1
        if cursor == 0:
            break
    assert sorted(seen) == sorted(keys)
    assert transactions == 3


def test_a_scan_behind_a_transaction_has_a_bound_of_its_own() -> None:
    keyspace = Keyspace()
    keys = [b"%d" % number for number in range(LOOKS_MAX)]
    keyspace.set_all(keys, [b""] * len(keys), NOW)
    whole = Scan(0, None, LOOKS_MAX)
    results = keyspace.apply([Exec((whole,)), whole], NOW, want_results=True)
    assert isinstance(results[1], ScanPage)
    assert len(results[1].keys) == LOOKS_MAX
