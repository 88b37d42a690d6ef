"""What a start keeps in memory for the first read: it is what the segments say, within a bound.

Method: a first read is compared with a second one, which comes from the segments; that it did come
from memory is seen by damaging the files in between, or by counting how often they are opened.
"""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from vaylix_storage import Batch, HardState, Log, LogBase, LogOptions, RecoveryOutcome
from vaylix_storage._format import BATCH_OVERHEAD_BYTES, encode_body, parse_body
from vaylix_storage._kept_batches import KEPT_BYTES_MAX, KeptBatches
from vaylix_storage._vfs import File
from vaylix_storage.errors import CorruptionError
from vaylix_storage.testing import MemoryVfs, counting_random_bytes, fixed_keyring

DIRECTORY = Path("/data/wal")
PAYLOAD_BYTES = 63
KEPT_BATCH_BYTES = BATCH_OVERHEAD_BYTES + PAYLOAD_BYTES


class CountingVfs(MemoryVfs):
    """A simulated disk that counts how often a file was opened."""

    opened_count = 0

    def open(self, path: Path) -> File:
        self.opened_count += 1
        return super().open(path)


def open_log(vfs: MemoryVfs, base: LogBase | None = None) -> Log:
    return Log.open(
        DIRECTORY,
        vfs=vfs,
        keyring=fixed_keyring(),
        options=LogOptions(timeline=b"t" * 16, segment_bytes_max=700, base=base),
        random_bytes=counting_random_bytes(vfs.generation),
    )


def make_batch(first_index: int, *, term: int = 1) -> Batch:
    """Make a batch of two entries."""
    return Batch.create(
        first_index=first_index,
        count=2,
        term=term,
        kind=1,
        timestamp_ms=first_index,
        payload=b"p" * PAYLOAD_BYTES,
    )


BATCHES = [make_batch(index) for index in range(1, 25, 2)]
LAST_INDEX = BATCHES[-1].last_index


def write_log(vfs: MemoryVfs, *, synced_count: int = len(BATCHES)) -> Log:
    """Write frames of one to three batches into several segments."""
    log = open_log(vfs)
    position = 0
    for size in itertools.cycle((1, 2, 3)):
        if position == len(BATCHES):
            return log
        log.append(BATCHES[position : position + size], HardState(1, b"me", position))
        position = min(position + size, len(BATCHES))
        if position <= synced_count:
            log.sync()
    raise AssertionError("cycles never end")


def damage_everything(vfs: MemoryVfs) -> None:
    """Alter the first frame of every segment."""
    for name in vfs.list_directory(DIRECTORY):
        content = bytearray(vfs.content(DIRECTORY / name))
        content[280] ^= 1
        vfs.overwrite(DIRECTORY / name, bytes(content))


def body_of(*batches: Batch) -> bytes:
    return encode_body(batches)


def test_the_first_read_opens_no_segment_and_the_second_does() -> None:
    vfs = CountingVfs()
    write_log(vfs).close()
    log = open_log(vfs)
    assert log.segment_count > 2
    opened = vfs.opened_count
    assert list(log.read(1)) == BATCHES
    assert vfs.opened_count == opened
    assert list(log.read(1)) == BATCHES
    assert vfs.opened_count == opened + log.segment_count - 1


@pytest.mark.parametrize("kept_count", range(len(BATCHES) + 1))
@pytest.mark.parametrize("missing", [0, 1])
def test_with_room_for_a_part_the_rest_comes_from_the_segments(
    monkeypatch: pytest.MonkeyPatch, kept_count: int, missing: int
) -> None:
    bytes_max = kept_count * KEPT_BATCH_BYTES - missing
    monkeypatch.setattr("vaylix_storage._recovery.KEPT_BYTES_MAX", bytes_max)
    vfs = MemoryVfs()
    write_log(vfs).close()
    for first_index in range(1, LAST_INDEX + 2):
        for last_index in (first_index - 1, first_index, first_index + 7, None):
            log = open_log(vfs)
            first = list(log.read(first_index, last_index=last_index))
            assert first == list(log.read(first_index, last_index=last_index))
            log.close()


def test_what_has_just_room_is_kept_and_a_byte_more_is_not() -> None:
    bodies = [body_of(*BATCHES[:2]), body_of(BATCHES[2]), body_of(BATCHES[3])]
    for bytes_max, kept_index in (
        (4 * KEPT_BATCH_BYTES, 8),
        (4 * KEPT_BATCH_BYTES - 1, 6),
        (3 * KEPT_BATCH_BYTES, 6),
        (3 * KEPT_BATCH_BYTES - 1, 4),
        (2 * KEPT_BATCH_BYTES - 1, 0),
        (0, 0),
    ):
        kept = KeptBatches(0, bytes_max)
        for data, last_index in zip(bodies, (4, 6, 8), strict=True):
            kept.add(data, parse_body(data), last_index)
        assert kept.last_index == kept_index
        assert list(kept.read(1, 8)) == BATCHES[: kept_index // 2]
        assert [kept.holds(index) for index in range(10)] == [
            0 < index <= kept_index for index in range(10)
        ]


def test_nothing_is_kept_behind_what_had_no_room() -> None:
    """Or there would be a gap: the second body is too large, the third would fit."""
    kept = KeptBatches(0, 3 * KEPT_BATCH_BYTES)
    for batches in (BATCHES[:1], BATCHES[1:4], BATCHES[4:5]):
        data = body_of(*batches)
        kept.add(data, parse_body(data), batches[-1].last_index)
    assert list(kept.read(1, LAST_INDEX)) == BATCHES[:1]


def test_small_pieces_take_no_more_memory_than_their_bound() -> None:
    assert KEPT_BYTES_MAX == 64 * 1024 * 1024
    bytes_max = 2 * 1024 * 1024
    tracemalloc.start()
    try:
        kept = KeptBatches(0, bytes_max)
        index = 0
        while kept.last_index == index:
            index += 1
            batch = Batch.create(
                first_index=index, count=1, term=1, kind=1, timestamp_ms=1, payload=b""
            )
            data = body_of(batch)
            kept.add(data, parse_body(data), index)
        assert index > bytes_max // BATCH_OVERHEAD_BYTES
        # The block that is being filled is in pieces.
        assert tracemalloc.get_traced_memory()[0] < bytes_max + 4 * 64 * 1024
        assert sum(batch.count for batch in kept.read(1, index)) == index - 1
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("base_index", range(0, LAST_INDEX + 1, 2))
def test_what_is_behind_the_snapshot_is_kept(base_index: int) -> None:
    vfs = MemoryVfs()
    write_log(vfs).close()
    log = open_log(vfs, LogBase(base_index, 1, installed=False) if base_index else None)
    damage_everything(vfs)
    assert list(log.read(base_index + 1)) == BATCHES[base_index // 2 :]


def test_what_the_snapshot_holds_is_not_kept() -> None:
    vfs = MemoryVfs()
    write_log(vfs).close()
    log = open_log(vfs, LogBase(2, 1, installed=False))
    damage_everything(vfs)
    with pytest.raises(CorruptionError):
        list(log.read(1))


@pytest.mark.parametrize("synced_count", range(len(BATCHES) + 1))
def test_what_is_written_again_is_kept_once(synced_count: int) -> None:
    vfs = MemoryVfs()
    write_log(vfs, synced_count=synced_count)
    vfs.kill()
    log = open_log(vfs)
    assert log.recovery.outcome is RecoveryOutcome.UNCLEAN_END
    assert list(log.read(1)) == BATCHES
    assert list(log.read(1)) == BATCHES
    assert log.recovery.recopied_frames > 0


def test_a_torn_frame_is_not_kept() -> None:
    vfs = MemoryVfs()
    write_log(vfs)
    vfs.kill()
    path = DIRECTORY / vfs.list_directory(DIRECTORY)[-1]
    vfs.overwrite(path, vfs.content(path).rstrip(b"\0")[:-40])
    log = open_log(vfs)
    assert log.recovery.outcome is RecoveryOutcome.TORN_TAIL
    held = list(log.read(1))
    assert held == BATCHES[: len(held)]
    assert len(held) < len(BATCHES)
    assert list(log.read(1)) == held


def test_nothing_is_kept_of_a_log_that_a_snapshot_replaces() -> None:
    vfs = MemoryVfs()
    write_log(vfs).close()
    log = open_log(vfs, LogBase(6, 9, installed=True))
    assert log.recovery.was_reset
    assert list(log.read(7)) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda log: log.append([make_batch(LAST_INDEX + 1)]), [*BATCHES, make_batch(25)]),
        (lambda log: log.rotate(), BATCHES),
        (lambda log: log.truncate_after(4), BATCHES[:2]),
        (lambda log: log.remove_before(log.segments()[1].first_index), BATCHES[3:]),
        (lambda log: log.reset(50, 2), []),
    ],
    ids=["append", "rotate", "truncate_after", "remove_before", "reset"],
)
def test_a_change_ends_what_is_kept(change: Callable[[Log], object], expected: list[Batch]) -> None:
    vfs = CountingVfs()
    write_log(vfs).close()
    log = open_log(vfs)
    change(log)
    opened = vfs.opened_count
    assert list(log.read(log.first_index)) == expected
    assert vfs.opened_count > opened or not expected


def test_the_first_read_may_go_on_while_the_log_grows() -> None:
    vfs = MemoryVfs()
    write_log(vfs).close()
    log = open_log(vfs)
    reading = log.read(1)
    assert next(reading) == BATCHES[0]
    log.append([make_batch(LAST_INDEX + 1)])
    assert list(reading) == BATCHES[1:]
