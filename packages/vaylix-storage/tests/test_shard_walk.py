"""The consistent walk and the keyspace section; the model of the keyspace has the main property."""

from __future__ import annotations

import gc
import sys
import time
from zlib import crc32

import msgspec
import pytest

from vaylix_storage import Keyspace
from vaylix_storage._entry import Entry
from vaylix_storage._keyspace_snapshot import (
    CHUNK_BYTES,
    KeyspaceDump,
    KeyspaceLoader,
    load_keyspace_chunk,
)
from vaylix_storage._table import SHARD_COUNT, SHARD_SHIFT
from vaylix_storage.commands import Clear, Command, Del, Exec, Incr, Set, SetOptions
from vaylix_storage.errors import CorruptionError, StorageBusyError

NOW = 1_700_000_000_000
Entries = dict[bytes, Entry]


def filled(key_count: int, value: bytes = b"v", options: SetOptions | None = None) -> Keyspace:
    keyspace = Keyspace()
    commands = [Set(b"key:%d" % number, value, options) for number in range(key_count)]
    keyspace.apply(commands, NOW, want_results=False)
    return keyspace


def held_by(keyspace: Keyspace) -> Entries:
    return keyspace.table.entries()


def rest_of(dump: KeyspaceDump) -> list[tuple[bytes, int]]:
    chunks = []
    while (chunk := dump.next_chunk()) is not None:
        chunks.append(chunk)
    return chunks


def loaded_from(chunks: list[tuple[bytes, int]]) -> Keyspace:
    keyspace = Keyspace()
    for plain, key_count in chunks:
        assert load_keyspace_chunk(keyspace, plain) == key_count
    return keyspace


@pytest.mark.parametrize(
    "commands",
    [
        [Clear()],
        [Clear(), Set(b"key:1", b"new")],
        [Exec((Clear(), Set(b"key:1", b"new"), Incr(b"key:2")))],  # fails, and is undone
        [Exec((Clear(), Set(b"key:1", b"new"), Incr(b"n")))],
        [Set(b"key:%d" % number, b"new") for number in range(6000)],
        [Del(tuple(b"key:%d" % number for number in range(6000)))],
    ],
    ids=["clear", "clear and set", "undone", "done", "set all", "delete all"],
)
@pytest.mark.parametrize("key_count", [300, 6000])
def test_the_dump_shows_the_beginning_whatever_happens(
    key_count: int, commands: list[Command]
) -> None:
    keyspace = filled(key_count)
    at_begin = held_by(keyspace)
    dump = KeyspaceDump(keyspace.begin_walk(), key_count * 6)
    chunks = [chunk for chunk in (dump.next_chunk(), dump.next_chunk()) if chunk is not None]
    assert len(chunks) == 2
    keyspace.apply(commands, NOW, want_results=False)
    chunks += rest_of(dump)
    assert len(chunks) > 2
    assert held_by(loaded_from(chunks)) == at_begin


def test_dead_keys_may_be_reclaimed_during_the_dump() -> None:
    keyspace = filled(3000, options=SetOptions(ttl_ms=10))
    at_begin = held_by(keyspace)
    dump = KeyspaceDump(keyspace.begin_walk(), 1000)
    chunks = []
    while (chunk := dump.next_chunk()) is not None:
        chunks.append(chunk)
        keyspace.expire_step(NOW + 10, 200)
    loaded = loaded_from(chunks)
    assert held_by(loaded) == at_begin
    assert loaded.key_count(NOW + 9) == 3000
    assert loaded.key_count(NOW + 10) == 0
    assert loaded.expire_step(NOW + 10, 10_000) == 3000


def test_a_keyspace_can_be_replaced_during_the_dump() -> None:
    keyspace, shadow = filled(3000), filled(10, b"other")
    at_begin, in_shadow = held_by(keyspace), held_by(shadow)
    dump = KeyspaceDump(keyspace.begin_walk())
    keyspace.replace_with(shadow)
    keyspace.apply([Set(b"key:1", b"changed")], NOW, want_results=False)
    assert held_by(loaded_from(rest_of(dump))) == at_begin
    assert held_by(keyspace) == in_shadow | {b"key:1": Entry(b"changed", 2, 0)}
    assert keyspace.expire_step(NOW, 100_000) >= 3000, "what was replaced is freed bit by bit"


def test_two_walks_at_a_time_are_refused() -> None:
    keyspace = filled(10)
    walk = keyspace.begin_walk()
    with pytest.raises(StorageBusyError):
        KeyspaceDump(keyspace.begin_walk())
    walk.close()
    walk.close()
    assert walk.next_shard() is None
    KeyspaceDump(keyspace.begin_walk()).close()
    assert len(rest_of(KeyspaceDump(keyspace.begin_walk()))) == 1
    assert rest_of(KeyspaceDump(keyspace.begin_walk()))


def test_a_closed_walk_holds_nothing_and_frees_bit_by_bit() -> None:
    keyspace = filled(6000)
    key, shard = next((next(iter(shard)), shard) for shard in keyspace.table.shards if shard)
    references = sys.getrefcount(shard)
    walk = keyspace.begin_walk()
    keyspace.apply([Clear()], NOW, want_results=False)
    walk.close()
    while keyspace.expire_step(NOW, 100):
        pass
    assert sys.getrefcount(shard) == references - 1, "the table has let go of it as well"
    assert key in shard


def test_a_write_copies_a_shard_once_and_only_ahead_of_the_walk() -> None:
    keyspace = filled(6000)
    table = keyspace.table
    walk = keyspace.begin_walk()
    first = walk.next_shard()
    assert first is table.shards[walk.shard_index], "an untouched shard is shown as it is"
    keyspace.apply([Set(next(iter(first)), b"new")], NOW, want_results=False)
    ahead = next(shard for shard in table.shards[walk.shard_index + 1 :] if shard)
    before = dict(ahead)
    keyspace.apply([Set(key, b"new") for key in list(ahead)], NOW, want_results=False)
    keyspace.apply([Set(key, b"newer") for key in list(ahead)], NOW, want_results=False)
    assert walk.next_shard() == before


def test_a_shard_larger_than_a_chunk_is_spread() -> None:
    keyspace = filled(3, b"x" * (2 * CHUNK_BYTES))
    rivals = [
        key for key in (b"%d" % n for n in range(1_000_000)) if crc32(key) >> SHARD_SHIFT == 7
    ][:200]
    keyspace.apply([Set(key, b"y" * 3000) for key in rivals], NOW, want_results=False)
    at_begin = held_by(keyspace)
    dump = KeyspaceDump(keyspace.begin_walk())
    chunks = []
    while (chunk := dump.next_chunk()) is not None:
        assert len(chunk[0]) < 5 * CHUNK_BYTES
        chunks.append(chunk)
        keyspace.apply([Set(key, b"") for key in at_begin], NOW, want_results=False)
    assert len(chunks) > 10
    assert held_by(loaded_from(chunks)) == at_begin


def test_an_empty_keyspace_has_no_chunks() -> None:
    assert rest_of(KeyspaceDump(Keyspace().begin_walk())) == []


def chunk_of(*pieces: tuple[int, object]) -> bytes:
    return msgspec.msgpack.encode(pieces)


def shard_of(key: bytes) -> int:
    return crc32(key) >> SHARD_SHIFT


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"\xc1",
        b"\x90\x90",
        chunk_of((shard_of(b"a") ^ 1, {b"a": (b"", 1, 0)})),
        chunk_of((SHARD_COUNT, {b"a": (b"", 1, 0)})),
        chunk_of((shard_of(b"a"), {b"a": (b"", 0, 0)})),
        chunk_of((shard_of(b"a"), {b"a": (b"", 1, -1)})),
        chunk_of((shard_of(b"a"), {"a": (b"", 1, 0)})),
        chunk_of((shard_of(b"a"), {b"a": (b"", 1)})),
        chunk_of((shard_of(b"a"), {b"a": (b"", 1, 0)}), (shard_of(b"a"), {b"a": (b"", 1, 0)})),
        chunk_of((shard_of(b"key:1"), {b"key:1": (b"", 1, 0)})),
    ],
)
def test_what_is_no_chunk_of_this_keyspace_is_corruption(plain: bytes) -> None:
    keyspace = filled(2)
    with pytest.raises(CorruptionError):
        load_keyspace_chunk(keyspace, plain)


def test_the_largest_numbers_survive() -> None:
    most = 2**64 - 1
    plain = chunk_of((shard_of(b"a"), {b"a": (b"v", most, most)}))
    keyspace = Keyspace()
    loader = KeyspaceLoader(keyspace)
    loader.add(plain)
    loader.finish()
    assert loader.key_count == 1
    assert keyspace.version(b"a", NOW) == most
    assert rest_of(KeyspaceDump(keyspace.begin_walk())) == [(plain, 1)]


def test_beginning_does_not_touch_the_keys() -> None:
    """Beginning costs the same for every number of keys; the bound is far above what it takes."""
    keyspace = filled(100_000)
    gc.disable()
    try:
        best = min(_seconds_to_begin(keyspace) for _ in range(20))
    finally:
        gc.enable()
    assert best < 0.001


def _seconds_to_begin(keyspace: Keyspace) -> float:
    started = time.perf_counter()
    walk = keyspace.begin_walk()
    seconds = time.perf_counter() - started
    walk.close()
    return seconds
