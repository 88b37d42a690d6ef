"""The log as its callers see it: order, bounds, rotation, cuts, reading."""

from __future__ import annotations

import itertools
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from vaylix_storage import (
    ENTRY_BYTES_MAX,
    Batch,
    BatchKind,
    HardState,
    Log,
    LogOptions,
    RealVfs,
    RecoveryOutcome,
    SyncPolicy,
)
from vaylix_storage.errors import (
    CorruptionError,
    EntryTooLargeError,
    FileSystemError,
    LogClosedError,
    LogOrderError,
)
from vaylix_storage.testing import MemoryVfs, counting_random_bytes, fixed_keyring

DIRECTORY = Path("/data/wal")


def open_log(vfs: MemoryVfs, *, segment_bytes_max: int = 1500) -> Log:
    return Log.open(
        DIRECTORY,
        vfs=vfs,
        keyring=fixed_keyring(),
        options=LogOptions(timeline=b"t" * 16, segment_bytes_max=segment_bytes_max),
        random_bytes=counting_random_bytes(vfs.generation),
    )


def make_batch(first_index: int, *, count: int = 1, term: int = 1, payload: bytes = b"p") -> Batch:
    return Batch.create(
        first_index=first_index,
        count=count,
        term=term,
        kind=BatchKind.KEYSPACE,
        timestamp_ms=first_index,
        payload=payload,
    )


def test_a_new_log_is_empty() -> None:
    log = open_log(MemoryVfs())
    assert (log.first_index, log.last_index, log.durable_index) == (1, 0, 0)
    assert log.hard_state == HardState()
    assert list(log.read(1)) == []
    assert log.recovery.outcome is RecoveryOutcome.CLEAN_END
    assert log.recovery.key_id == fixed_keyring().active_key_id


def test_batches_come_back_as_they_were() -> None:
    vfs = MemoryVfs()
    log = open_log(vfs)
    batches = [
        make_batch(1, count=3, payload=b""),
        make_batch(4, term=2, payload=bytes(range(256))),
        Batch.create(first_index=5, count=1, term=9, kind=200, timestamp_ms=2**62, payload=b"x"),
    ]
    log.append(batches)
    log.sync()
    log.close()
    log = open_log(vfs)
    assert list(log.read(1)) == batches
    assert [log.term_of(index) for index in range(1, 6)] == [1, 1, 1, 2, 9]
    assert log.recovery.batch_count == 3
    assert log.recovery.entry_count == 5


def test_an_append_is_one_write_and_a_sync_is_one_sync() -> None:
    vfs = MemoryVfs()
    log = open_log(vfs, segment_bytes_max=0)
    calls = vfs.call_count
    log.append([make_batch(index) for index in range(1, 500)], HardState(1, b"v", 0))
    assert vfs.call_count == calls + 1
    log.sync()
    assert vfs.call_count == calls + 2


def test_entries_and_a_changed_vote_share_one_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under every policy; without a change, a policy that does not sync does not."""
    calls: list[str] = []

    def counted(name: str) -> Callable[..., int]:
        real: Callable[..., int] = getattr(os, name)

        def call(*rest: object) -> int:
            calls.append(name)
            return real(*rest)

        return call

    for name in ("pwrite", "fdatasync", "fsync"):
        monkeypatch.setattr(os, name, counted(name))
    for policy in SyncPolicy:
        options = LogOptions(timeline=b"t" * 16, sync_policy=policy)
        log = Log.open(
            tmp_path / policy.name, vfs=RealVfs(), keyring=fixed_keyring(), options=options
        )
        state = HardState(1, b"me", 0)
        for term, vote in ((1, b"me"), (1, b"you"), (2, b"you"), (3, b"")):
            state = HardState(term, vote, log.last_index)
            calls.clear()
            batches = [make_batch(log.last_index + 1 + n, term=term) for n in range(3)]
            log.append(batches, state)
            assert calls == ["pwrite"]
            log.sync()
            assert calls == ["pwrite", "fdatasync"]
            assert log.durable_index == log.last_index
        calls.clear()
        log.append([make_batch(log.last_index + 1, term=3)], replace(state, commit=1))
        log.sync()
        assert calls == ["pwrite"] + ["fdatasync"] * (policy is SyncPolicy.SYNC)
        log.close()


def test_durable_is_what_was_synced() -> None:
    log = open_log(MemoryVfs())
    log.append([make_batch(1)])
    assert (log.last_index, log.durable_index) == (1, 0)
    log.sync()
    assert log.durable_index == 1


@pytest.mark.parametrize(
    "batch",
    [
        make_batch(2),
        make_batch(4),
        make_batch(3, term=1),
        Batch(3, 0, 5, 1, 0, b"", 0),
    ],
    ids=["repeat", "gap", "falling term", "without entries"],
)
def test_batches_out_of_order_are_refused_before_anything_is_written(batch: Batch) -> None:
    vfs = MemoryVfs()
    log = open_log(vfs)
    log.append([make_batch(1, count=2, term=3)])
    calls = vfs.call_count
    with pytest.raises(LogOrderError):
        log.append([batch])
    assert (log.last_index, vfs.call_count) == (2, calls)
    log.append([make_batch(3, term=3)])


def test_a_batch_with_a_wrong_checksum_is_refused() -> None:
    good = make_batch(1)
    log = open_log(MemoryVfs())
    with pytest.raises(CorruptionError):
        log.append([Batch(1, 1, 1, 1, 1, b"q", good.checksum)])
    assert log.last_index == 0


def test_the_largest_entry_fits_and_one_byte_more_does_not() -> None:
    vfs = MemoryVfs()
    log = open_log(vfs)
    calls = vfs.call_count
    with pytest.raises(EntryTooLargeError):
        log.append([make_batch(1, payload=bytes(ENTRY_BYTES_MAX + 1))])
    assert vfs.call_count == calls
    largest = make_batch(1, payload=bytes(ENTRY_BYTES_MAX))
    log.append([largest])
    log.sync()
    vfs.kill()
    assert list(open_log(vfs).read(1)) == [largest]


def test_an_append_beyond_one_frame_is_refused() -> None:
    log = open_log(MemoryVfs())
    payload = bytes(ENTRY_BYTES_MAX)
    with pytest.raises(EntryTooLargeError):
        log.append([make_batch(index, payload=payload) for index in range(1, 5)])
    assert log.last_index == 0


def test_planted_bounds_that_only_reading_knows_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug, weakness 6: an entry is looked at when it has been written already."""
    monkeypatch.setattr("vaylix_storage._log.check_append", lambda *_: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_the_largest_entry_fits_and_one_byte_more_does_not()


def test_a_vote_of_255_bytes_fits_and_256_do_not() -> None:
    log = open_log(MemoryVfs())
    log.append([], HardState(1, b"v" * 255, 0))
    with pytest.raises(ValueError, match="255"):
        log.append([], HardState(1, b"v" * 256, 0))
    assert log.hard_state.vote == b"v" * 255


def test_segments_end_at_their_bound_and_get_sealed_names() -> None:
    vfs = MemoryVfs()
    log = open_log(vfs, segment_bytes_max=1000)
    for index in range(1, 10):
        log.append([make_batch(index, payload=bytes(300))])
        log.sync()
    assert vfs.list_directory(DIRECTORY) == [
        "1-2.wal",
        "3-4.wal",
        "5-6.wal",
        "7-8.wal",
        "active-9.wal",
    ]
    assert log.segment_count == 5
    assert log.size_bytes == sum(
        len(vfs.content(DIRECTORY / name)) for name in vfs.list_directory(DIRECTORY)
    )
    log.close()
    assert vfs.list_directory(DIRECTORY)[-1] == "closed-9-9.wal"


def test_an_append_says_beforehand_whether_it_will_end_a_segment() -> None:
    log = open_log(MemoryVfs(), segment_bytes_max=1000)
    foretold, ended = [], []
    for index in range(1, 10):
        foretold.append(not log.appends_at_once)
        count = log.segment_count
        log.append([make_batch(index, payload=bytes(300))])
        ended.append(log.segment_count > count)
    assert foretold == ended
    assert ended.count(True) == 4


def test_segments_without_entries_are_removed() -> None:
    vfs = MemoryVfs()
    for _ in range(5):
        log = open_log(vfs)
        log.append([], HardState(3, b"me", 0))
        log.close()
    assert vfs.list_directory(DIRECTORY) == ["closed-1-0.wal"]
    log = open_log(vfs)
    assert vfs.list_directory(DIRECTORY) == ["active-1.wal"]
    assert log.hard_state == HardState(3, b"me", 0)
    assert log.segment_count == 1


@pytest.mark.parametrize("index", [-1, 8, 9, 2, 6])
def test_a_cut_outside_the_log_or_inside_a_batch_is_refused(index: int) -> None:
    vfs = MemoryVfs()
    log = open_log(vfs)
    log.append([make_batch(1), make_batch(2, count=2), make_batch(4)])
    log.append([make_batch(5, count=3)])
    calls = vfs.call_count
    with pytest.raises(LogOrderError):
        log.truncate_after(index)
    assert (log.last_index, vfs.call_count) == (7, calls)


def test_a_cut_at_the_end_changes_nothing() -> None:
    vfs = MemoryVfs()
    log = open_log(vfs)
    log.append([make_batch(1)])
    calls = vfs.call_count
    log.truncate_after(1)
    assert (log.last_index, vfs.call_count) == (1, calls)


@pytest.mark.parametrize("index", range(13))
def test_a_cut_anywhere_is_durable(index: int) -> None:
    """Frames of three batches, several segments; each batch border is cut once."""
    vfs = MemoryVfs()
    log = open_log(vfs, segment_bytes_max=900)
    batches = [make_batch(first_index, payload=bytes(200)) for first_index in range(1, 13)]
    for start in range(0, 12, 3):
        log.append(batches[start : start + 3])
        log.sync()
    log.truncate_after(index)
    assert log.last_index == log.durable_index == index
    vfs.power_cut()
    log = open_log(vfs)
    assert list(log.read(1)) == batches[:index]
    log.append([make_batch(index + 1, term=2)])
    log.close()
    assert list(open_log(vfs).read(1)) == [*batches[:index], make_batch(index + 1, term=2)]


def test_reading_starts_at_the_batch_that_holds_the_index() -> None:
    log = open_log(MemoryVfs())
    batches = [make_batch(first, count=3, payload=bytes(100)) for first in range(1, 31, 3)]
    for batch in batches:
        log.append([batch])
    for index in range(1, 31):
        assert next(log.read(index)) == batches[(index - 1) // 3]
    assert list(log.read(31)) == []
    for index in (0, 32):
        with pytest.raises(LogOrderError):
            log.read(index)


def test_reading_ends_at_the_given_index_or_size() -> None:
    log = open_log(MemoryVfs())
    batches = [make_batch(first, payload=bytes(100)) for first in range(1, 21)]
    log.append(batches[:5])
    log.append(batches[5:])
    assert list(log.read(4, last_index=6)) == batches[3:6]
    assert list(log.read(1, last_index=99)) == batches
    assert list(log.read(1, bytes_max=1)) == batches[:1]
    assert list(log.read(1, bytes_max=300)) == batches[:3]
    assert list(log.read(1, bytes_max=301)) == batches[:4]


def test_reading_may_go_on_while_the_log_grows() -> None:
    log = open_log(MemoryVfs())
    log.append([make_batch(1)])
    log.append([make_batch(2)])
    reading = log.read(1)
    assert next(reading) == make_batch(1)
    for index in range(3, 40):
        log.append([make_batch(index, payload=bytes(100))])
    assert list(reading) == [make_batch(2)]


def test_terms_outside_the_log_are_refused() -> None:
    log = open_log(MemoryVfs())
    log.append([make_batch(1)])
    for index in (0, 2):
        with pytest.raises(LogOrderError):
            log.term_of(index)


def test_a_closed_log_refuses_and_closes_once() -> None:
    vfs = MemoryVfs()
    log = open_log(vfs)
    log.append([make_batch(1)])
    log.close()
    calls = vfs.call_count
    log.close()
    assert vfs.call_count == calls
    actions: list[Callable[[], None]] = [lambda: log.append([make_batch(2)]), log.sync]
    for action in actions:
        with pytest.raises(LogClosedError):
            action()


def test_a_file_system_error_at_open_is_a_storage_error() -> None:
    vfs = MemoryVfs()
    vfs.fail_at(1)
    with pytest.raises(FileSystemError) as caught:
        open_log(vfs)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_timeline_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="timeline"):
        Log.open(
            DIRECTORY, vfs=MemoryVfs(), keyring=fixed_keyring(), options=LogOptions(timeline=b"")
        )


def test_every_segment_has_its_own_key() -> None:
    """The same batch in two segments has nothing in common on the disk."""
    vfs = MemoryVfs()
    log = open_log(vfs)
    log.append([make_batch(1, payload=bytes(64))])
    log.truncate_after(0)
    first = vfs.content(DIRECTORY / "active-1.wal")
    log.append([make_batch(1, payload=bytes(64))])
    log.truncate_after(0)
    log.append([make_batch(1, payload=bytes(64))])
    second = vfs.content(DIRECTORY / "active-1.wal")
    bodies = first[272:], second[272:]
    assert not any(
        one in bodies[1] for one in (bodies[0][n : n + 16] for n in range(len(bodies[0]) - 16))
    )


def test_reading_from_the_middle_of_a_large_segment() -> None:
    """Marks are kept every MiB or so; reading must be right between and at them."""
    log = open_log(MemoryVfs(), segment_bytes_max=0)
    batches = [make_batch(index, payload=bytes([index]) * 100_000) for index in range(1, 41)]
    for batch in batches:
        log.append([batch])
    for index in itertools.chain(range(1, 41, 7), [40]):
        assert list(log.read(index)) == batches[index - 1 :]
    log.truncate_after(25)
    assert list(log.read(20)) == batches[19:25]


def test_the_log_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weakness 12 of the published server: writing, opening and reading take buffers only.

    What a start keeps for the first reader is among them, and has a bound as well.
    """
    monkeypatch.setattr("vaylix_storage._recovery.KEPT_BYTES_MAX", 2 * 1024 * 1024)
    options = LogOptions(timeline=b"t" * 16, segment_bytes_max=16 * 1024 * 1024)
    payload = bytes(100_000)
    tracemalloc.start()
    try:
        log = Log.open(tmp_path, vfs=RealVfs(), keyring=fixed_keyring(), options=options)
        for index in range(1, 501):
            log.append([make_batch(index, payload=payload)])
        assert log.size_bytes > 50_000_000
        assert sum(batch.count for batch in log.read(1)) == 500
        log.close()
        log = Log.open(tmp_path, vfs=RealVfs(), keyring=fixed_keyring(), options=options)
        assert sum(batch.count for batch in log.read(1)) == 500
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
        log.close()
    finally:
        tracemalloc.stop()


def test_a_copy_of_a_live_directory_opens(tmp_path: Path) -> None:
    """On the real file system: what a kill leaves, reserved space included."""
    options = LogOptions(timeline=b"t" * 16, segment_bytes_max=5000)
    live = tmp_path / "live"
    log = Log.open(live, vfs=RealVfs(), keyring=fixed_keyring(), options=options)
    batches = [make_batch(index, payload=bytes(300)) for index in range(1, 61)]
    for batch in batches:
        log.append([batch])
        log.sync()
    assert log.segment_count > 3
    shutil.copytree(live, tmp_path / "copy")
    log.close()
    copy = Log.open(tmp_path / "copy", vfs=RealVfs(), keyring=fixed_keyring(), options=options)
    assert list(copy.read(1)) == batches
    assert copy.recovery.outcome is RecoveryOutcome.UNCLEAN_END
    assert copy.recovery.recopied_frames == 1
    copy.truncate_after(10)
    copy.close()
    copy = Log.open(tmp_path / "copy", vfs=RealVfs(), keyring=fixed_keyring(), options=options)
    assert list(copy.read(1)) == batches[:10]
    copy.close()


def test_a_large_unsynced_tail_is_found_and_written_again() -> None:
    """The point up to which a segment was synced lies between two marks, far from both ends."""
    vfs = MemoryVfs()
    log = open_log(vfs, segment_bytes_max=0)
    batches = [make_batch(index, payload=bytes([index]) * 100_000) for index in range(1, 61)]
    for batch in batches:
        log.append([batch])
        if batch.first_index == 25:
            log.sync()
    vfs.kill()
    log = open_log(vfs)
    assert log.recovery.recopied_frames == 35
    assert list(log.read(1)) == batches
    assert list(log.read(1)) == batches, "the segments hold something else"
    assert vfs.list_directory(DIRECTORY) == ["1-25.wal", "active-26.wal"]


def test_space_is_reserved_ahead_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaylix_storage._segment.PREALLOCATE_BYTES", 10_000)
    vfs = MemoryVfs(reserves_space=True)
    log = open_log(vfs)
    calls = vfs.call_count
    log.append([make_batch(1)])
    assert vfs.call_count == calls + 1, "the space for it was there"
    assert len(vfs.content(DIRECTORY / "active-1.wal")) > 10_000 > log.size_bytes
    for index in range(2, 20):
        log.append([make_batch(index, payload=bytes(200))])
    assert log.segment_count > 2
    log.close()
    names = vfs.list_directory(DIRECTORY)
    assert log.size_bytes == sum(len(vfs.content(DIRECTORY / name)) for name in names)


def test_an_abandoned_log_holds_no_file_and_is_found_like_after_a_kill(tmp_path: Path) -> None:
    options = LogOptions(timeline=b"t" * 16)
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    log = Log.open(tmp_path, vfs=RealVfs(), keyring=fixed_keyring(), options=options)
    log.append([make_batch(1)])
    log.abandon()
    log.abandon()
    assert len(list(descriptors.iterdir())) == before
    with pytest.raises(LogClosedError):
        log.append([make_batch(log.last_index + 1)])
    log = Log.open(tmp_path, vfs=RealVfs(), keyring=fixed_keyring(), options=options)
    assert log.recovery.outcome is RecoveryOutcome.UNCLEAN_END
    assert list(log.read(1)) == [make_batch(1)]
    log.close()
    log.abandon()
    assert len(list(descriptors.iterdir())) == before
