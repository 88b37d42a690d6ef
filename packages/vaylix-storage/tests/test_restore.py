"""Restores in the log: begin, chunks, commit; whole or not at all, and never left behind."""

from __future__ import annotations

import msgspec
import pytest

from vaylix_storage import Answer, CommandFailure, FailureCode, Keyspace, Result
from vaylix_storage import commands as c
from vaylix_storage._batch import ENTRY_BYTES_MAX
from vaylix_storage._entry import Entry
from vaylix_storage._packing import unpack_all
from vaylix_storage._restore import RESTORE_IDLE_MS_MAX
from vaylix_storage.errors import BackupFormatError, EntryTooLargeError
from vaylix_storage.logical_backup import (
    BackupDocument,
    BackupEntry,
    BackupHeader,
    check_document,
    restore_batches,
)

NOW = 1_000_000
ID = b"restore1"
REFUSED = CommandFailure(FailureCode.NO_SUCH_RESTORE)
BEGIN = c.RestoreBegin(ID)


def chunk(*entries: tuple[bytes, bytes, int, int]) -> c.RestoreChunk:
    return c.RestoreChunk(ID, entries)


def apply(keyspace: Keyspace, *commands: c.Command, now_ms: int = NOW) -> list[Result]:
    return keyspace.apply(commands, now_ms, want_results=True)


def held(keyspace: Keyspace) -> dict[bytes, Entry]:
    return keyspace.table.entries()


@pytest.fixture
def keyspace() -> Keyspace:
    keyspace = Keyspace()
    apply(keyspace, c.Set(b"sentinel", b"s"), c.Set(b"dying", b"d", c.SetOptions(ttl_ms=50)))
    return keyspace


def document_of(*entries: BackupEntry) -> BackupDocument:
    return BackupDocument(BackupHeader(created_at_ms=1, source_sequence=1), list(entries), {})


def test_the_live_keyspace_is_untouched_until_the_commit(keyspace: Keyspace) -> None:
    before = held(keyspace)
    assert apply(keyspace, BEGIN, chunk((b"a", b"1", 7, 0), (b"b", b"2", 0, NOW + 9))) == [
        Answer.OK,
        Answer.OK,
    ]
    assert held(keyspace) == before
    assert keyspace.key_count(NOW) == 2
    apply(keyspace, c.Set(b"meanwhile", b"x"), c.Incr(b"a"))
    was_being_restored = keyspace.is_being_restored
    assert was_being_restored
    assert apply(keyspace, c.RestoreCommit(ID, 1)) == [2]
    assert held(keyspace) == {b"a": Entry(b"1", 7, 0), b"b": Entry(b"2", 1, NOW + 9)}
    assert keyspace.key_count(NOW) == 2
    assert keyspace.key_count(NOW + 9) == 1
    assert not keyspace.is_being_restored
    keyspace.expire_step(NOW + 9, 10_000)
    assert held(keyspace) == {b"a": Entry(b"1", 7, 0)}


def test_the_last_of_equal_keys_wins_and_each_counts(keyspace: Keyspace) -> None:
    entries = chunk((b"a", b"1", 9, NOW + 1), (b"a", b"22", 2, 0), (b"a", b"3", 2, NOW))
    assert (
        apply(keyspace, BEGIN, entries, chunk((b"b", b"", 1, 0)), c.RestoreCommit(ID, 2))[-1] == 3
    )
    assert held(keyspace) == {b"a": Entry(b"22", 2, 0), b"b": Entry(b"", 1, 0)}
    assert keyspace.table.expiry.items() == []
    assert keyspace.table.content_bytes == 4


def test_one_moment_decides_for_all_chunks_which_entries_are_dead(keyspace: Keyspace) -> None:
    apply(keyspace, BEGIN)
    apply(keyspace, chunk((b"a", b"1", 1, NOW + 1), (b"b", b"1", 1, NOW)), now_ms=NOW + 5)
    assert apply(keyspace, c.RestoreCommit(ID, 1), now_ms=NOW + 5) == [1]
    assert keyspace.key_count(NOW + 5) == 0


def test_a_restore_of_nothing_empties_the_keyspace(keyspace: Keyspace) -> None:
    assert apply(keyspace, BEGIN, c.RestoreCommit(ID, 0))[-1] == 0
    assert held(keyspace) == {}


def test_what_has_no_begin_is_refused_and_changes_nothing(keyspace: Keyspace) -> None:
    before = held(keyspace)
    assert apply(keyspace, chunk((b"a", b"", 1, 0)), c.RestoreCommit(ID, 0)) == [REFUSED, REFUSED]
    apply(keyspace, BEGIN, chunk())
    other = (c.RestoreChunk(b"other", ((b"a", b"", 1, 0),)), c.RestoreCommit(b"other", 1))
    assert apply(keyspace, *other) == [REFUSED, REFUSED]
    assert held(keyspace) == before
    assert keyspace.is_being_restored
    assert REFUSED.message.startswith("invalid storage operation: ")


def test_a_restore_that_has_lost_a_chunk_does_not_commit(keyspace: Keyspace) -> None:
    before = held(keyspace)
    apply(keyspace, BEGIN, chunk((b"a", b"", 1, 0)))
    assert apply(keyspace, c.RestoreCommit(ID, 2)) == [REFUSED]
    assert held(keyspace) == before
    assert not keyspace.is_being_restored


def test_another_begin_drops_an_unfinished_restore(keyspace: Keyspace) -> None:
    apply(keyspace, BEGIN, chunk((b"a", b"", 1, 0)))
    apply(keyspace, c.RestoreBegin(b"2"), chunk((b"a", b"", 1, 0)))
    assert apply(keyspace, c.RestoreCommit(ID, 1)) == [REFUSED]
    assert apply(keyspace, c.RestoreCommit(b"2", 0)) == [0]
    assert held(keyspace) == {}


def test_clear_does_not_touch_a_restore(keyspace: Keyspace) -> None:
    apply(keyspace, BEGIN, chunk((b"a", b"1", 1, 0)), c.Clear())
    assert held(keyspace) == {}
    assert apply(keyspace, c.RestoreCommit(ID, 1)) == [1]
    assert held(keyspace) == {b"a": Entry(b"1", 1, 0)}


def test_a_restore_that_nobody_continues_is_given_up(keyspace: Keyspace) -> None:
    def begun() -> Keyspace:
        keyspace = Keyspace()
        apply(keyspace, BEGIN)
        apply(keyspace, chunk((b"a", b"1", 1, 0)), now_ms=NOW + 1)
        return keyspace

    end = NOW + 1 + RESTORE_IDLE_MS_MAX
    for keyspace in (begun(), begun()):
        apply(keyspace, c.Get(b"a"), now_ms=end - 1)
        keyspace.expire_step(end - 1, 1)
        assert keyspace.is_being_restored
    apply(keyspace := begun(), c.Get(b"a"), now_ms=end)
    assert not keyspace.is_being_restored
    assert apply(keyspace, c.RestoreCommit(ID, 1), now_ms=end) == [REFUSED]
    keyspace = begun()
    keyspace.expire_step(end, 1)
    assert not keyspace.is_being_restored
    keyspace = begun()
    keyspace.set_all([b"a"], [b"1"], end)
    assert not keyspace.is_being_restored
    keyspace = begun()
    assert apply(keyspace, chunk(), now_ms=end) == [REFUSED]


def test_what_a_restore_replaces_or_leaves_is_freed_in_small_steps() -> None:
    keyspace = Keyspace()
    entries = tuple((b"%d" % n, b"v", 1, NOW * 2) for n in range(20_000))
    for _ in range(2):
        apply(keyspace, BEGIN, c.RestoreChunk(ID, entries), c.RestoreCommit(ID, 1))
    apply(keyspace, BEGIN, c.RestoreChunk(ID, entries), c.RestoreBegin(b"2"))
    freed = []
    while count := keyspace.expire_step(NOW, 100):
        freed.append(count)
    assert sum(freed) > 40_000
    assert max(freed) < 1000
    assert keyspace.table._retired == []
    assert keyspace.key_count(NOW) == 20_000


def test_a_restore_does_not_disturb_a_walk(keyspace: Keyspace) -> None:
    before = held(keyspace)
    walk = keyspace.begin_walk()
    apply(keyspace, BEGIN, chunk((b"a", b"1", 1, 0)), c.RestoreCommit(ID, 1))
    apply(keyspace, c.Set(b"a", b"2"), c.Set(b"sentinel", b"2"))
    found: dict[bytes, Entry] = {}
    while (shard := walk.next_shard()) is not None:
        found |= unpack_all(shard)
    assert found == before


# From documents to batches


def test_a_small_document_is_one_batch(keyspace: Keyspace) -> None:
    document = document_of(
        BackupEntry(b"a", b"1", None, 0),
        BackupEntry(b"b", b"", NOW, 1),
        BackupEntry(b"c", b"", 0, 1),
    )
    batches = list(restore_batches(document, now_ms=NOW, restore_id=ID))
    assert batches == [[BEGIN, chunk((b"a", b"1", 0, 0)), c.RestoreCommit(ID, 1)]]
    assert apply(keyspace, *batches[0])[-1] == 1 == check_document(document, NOW)
    assert list(restore_batches(document_of(), now_ms=NOW, restore_id=ID)) == [
        [BEGIN, c.RestoreCommit(ID, 0)]
    ]


def test_a_large_document_is_many_batches_of_bounded_size(keyspace: Keyspace) -> None:
    sizes = [0, 600_000, 600_000, 3_000_000, 1, 2] + [10] * 5000
    entries = [BackupEntry(b"%d" % n, b"x" * size, None, n) for n, size in enumerate(sizes)]
    results: list[Result] = []
    batch_count = 0
    for commands in restore_batches(document_of(*entries), now_ms=NOW, restore_id=ID):
        payload = c.encode_commands(commands)
        for command in commands:
            if isinstance(command, c.RestoreChunk):
                assert len(command.entries) <= 2048
                assert len(command.entries) == 1 or len(payload) < 1_100_000 + 2048 * 20
        results = apply(keyspace, *c.decode_commands(payload, len(commands)))
        batch_count += 1
    assert batch_count == 6
    assert results[-1] == len(sizes)
    assert held(keyspace) == {e.key: Entry(e.value, e.version or 1, 0) for e in entries}


def test_what_cannot_be_restored_is_refused_before_anything_is_logged() -> None:
    large = BackupEntry(b"k", bytes(ENTRY_BYTES_MAX), None, 1)
    with pytest.raises(EntryTooLargeError):
        restore_batches(document_of(large), now_ms=NOW, restore_id=ID)
    bad = msgspec.structs.replace(
        document_of(BackupEntry(b"k", b"", NOW + 1, 1)), bad_values={0: "entry 0"}
    )
    with pytest.raises(BackupFormatError):
        restore_batches(bad, now_ms=NOW, restore_id=ID)
    assert len(list(restore_batches(bad, now_ms=NOW + 1, restore_id=ID))) == 1
