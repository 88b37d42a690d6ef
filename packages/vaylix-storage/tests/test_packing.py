"""The forms in which entries are held: which is used when, and that none loses anything."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaylix_storage import Keyspace
from vaylix_storage._entry import Entry
from vaylix_storage._packing import PACKED_VALUE_BYTES_MAX, pack, unpack
from vaylix_storage.commands import U64_MAX, Set, SetOptions

U64 = st.integers(0, U64_MAX)
LENGTHS = st.integers(0, 40) | st.integers(PACKED_VALUE_BYTES_MAX - 2, PACKED_VALUE_BYTES_MAX + 2)
NOW = 1_700_000_000_000


@given(LENGTHS, st.integers(1, U64_MAX), st.just(0) | U64)
def test_every_entry_comes_back(length: int, version: int, expires_at_ms: int) -> None:
    entry = Entry(b"v" * length, version, expires_at_ms)
    assert unpack(pack(entry)) == entry


@pytest.mark.parametrize(
    ("length", "expires_at_ms", "is_packed"),
    [
        (0, 0, True),
        (PACKED_VALUE_BYTES_MAX, 0, True),
        (PACKED_VALUE_BYTES_MAX + 1, 0, False),
        (0, 1, False),
    ],
)
def test_small_entries_that_stay_are_one_string(
    length: int, expires_at_ms: int, is_packed: bool
) -> None:
    assert isinstance(pack(Entry(b"v" * length, 1, expires_at_ms)), bytes) == is_packed


def test_the_longest_string_is_still_small_to_python() -> None:
    assert sys.getsizeof(pack(Entry(b"v" * PACKED_VALUE_BYTES_MAX, 1, 0))) <= 512


def test_a_large_value_is_never_copied() -> None:
    keyspace, value = Keyspace(), b"v" * (PACKED_VALUE_BYTES_MAX + 1)
    keyspace.set_all([b"k"], [value], NOW)
    assert keyspace.get(b"k", NOW) is value
    assert keyspace.values([b"k"], NOW)[0] is value


@pytest.mark.parametrize("length", [1, PACKED_VALUE_BYTES_MAX + 1])
@pytest.mark.parametrize("options", [None, SetOptions(ttl_ms=1000)])
def test_a_set_in_columns_replaces_every_form(length: int, options: SetOptions | None) -> None:
    keyspace = Keyspace()
    keyspace.apply([Set(b"k", b"old" * length, options)], NOW, want_results=False)
    keyspace.set_all([b"k", b"k"], [b"first", b"v" * length], NOW)
    assert keyspace.table.entries() == {b"k": Entry(b"v" * length, 3, 0)}
    assert keyspace.table.content_bytes == 1 + length
    assert keyspace.table.expiry.items() == []


def test_the_version_of_a_set_in_columns_stops_at_the_largest() -> None:
    keyspace = Keyspace()
    keyspace.table.put(b"k", Entry(b"v", U64_MAX - 1, 0))
    keyspace.set_all([b"k", b"k"], [b"1", b"2"], NOW)
    assert keyspace.version(b"k", NOW) == U64_MAX
