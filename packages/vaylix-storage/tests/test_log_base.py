"""A log that begins behind a snapshot: what may be missing, and what is reported as lost."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from vaylix_storage import (
    Batch,
    HardState,
    Keyring,
    Log,
    LogBase,
    LogOptions,
    SegmentStat,
    SyncPolicy,
    Vfs,
    _recovery,
)
from vaylix_storage._catalog import SegmentInfo
from vaylix_storage._format import HEADER_BYTES, parse_header
from vaylix_storage.errors import CorruptionError, LogClosedError, LogOrderError, LogPoisonedError
from vaylix_storage.testing import MemoryVfs, counting_random_bytes, fixed_keyring

DIRECTORY = Path("/data/wal")


def open_log(
    vfs: MemoryVfs,
    base: LogBase | None = None,
    *,
    must_exist: bool = False,
    policy: SyncPolicy = SyncPolicy.SYNC,
) -> Log:
    return Log.open(
        DIRECTORY,
        vfs=vfs,
        keyring=fixed_keyring(),
        options=LogOptions(
            timeline=b"t" * 16, base=base, must_exist=must_exist, sync_policy=policy
        ),
        random_bytes=counting_random_bytes(vfs.generation),
    )


def make_batch(first_index: int, term: int = 1) -> Batch:
    return Batch.create(
        first_index=first_index,
        count=2,
        term=term,
        kind=1,
        timestamp_ms=first_index * 10,
        payload=b"p" * 100,
    )


def snapshot_at(index: int, term: int = 1, *, installed: bool = False) -> LogBase:
    return LogBase(index, term, installed)


def log_of_segments(vfs: MemoryVfs, count: int, *, is_open: bool = True) -> list[Batch]:
    """Write segments of one batch, that is two entries, each; the last may be closed."""
    log = open_log(vfs)
    batches = [make_batch(2 * number + 1) for number in range(count)]
    for batch in batches:
        log.rotate()
        log.append([batch], HardState(3, b"me", 0))
        log.sync()
    if is_open:
        vfs.kill()
    else:
        log.close()
    return batches


def first_index_of(name: str) -> int:
    return int(
        name.removesuffix(".wal").replace("active-", "").replace("closed-", "").split("-")[0]
    )


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("base_index", range(9))
def test_every_set_of_missing_segments_is_reported_or_within_the_base(
    base_index: int, *, is_open: bool
) -> None:
    """Weakness 19: with any segment missing, an old server went on from a wrong state."""
    base = snapshot_at(base_index) if base_index else None
    for lost in itertools.product([False, True], repeat=4):
        vfs = MemoryVfs()
        batches = log_of_segments(vfs, 4, is_open=is_open)
        names = sorted(vfs.list_directory(DIRECTORY), key=first_index_of)
        for name, is_lost in zip(names, lost, strict=True):
            if is_lost:
                vfs.remove(DIRECTORY / name)
        oldest = lost.index(False) if False in lost else 4
        is_right = not any(lost[oldest:]) and 2 * oldest <= base_index and oldest < 4
        if is_right or not (any(lost) or base_index):
            log = open_log(vfs, base, must_exist=True)
            assert list(log.read(log.first_index)) == batches[oldest:]
            assert log.first_index == 2 * oldest + 1
            continue
        files = {name: vfs.content(DIRECTORY / name) for name in vfs.list_directory(DIRECTORY)}
        with pytest.raises(CorruptionError) as caught:
            open_log(vfs, base, must_exist=True)
        assert caught.value.path is not None
        assert caught.value.offset is not None
        assert caught.value.remedy
        assert files == {
            name: vfs.content(DIRECTORY / name) for name in vfs.list_directory(DIRECTORY)
        }, "nothing may be changed"


@pytest.mark.parametrize("base_index", [0, 3, 5])
def test_planted_blindness_for_missing_segments_is_found(
    base_index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted bug, weakness 19: the log begins where its oldest file does, whatever is lost."""
    real_begin = _recovery._begin

    def begin_anywhere(segments: list[SegmentInfo], base: LogBase | None) -> object:
        if segments and segments[0].first_index > (0 if base is None else base.index) + 1:
            base = snapshot_at(segments[0].first_index - 1)
        return real_begin(segments, base)

    monkeypatch.setattr(_recovery, "_begin", begin_anywhere)
    monkeypatch.setattr(_recovery, "_may_be_the_oldest", lambda *_: True)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_every_set_of_missing_segments_is_reported_or_within_the_base(base_index, is_open=True)


def test_the_report_says_which_entries_are_missing() -> None:
    vfs = MemoryVfs()
    log_of_segments(vfs, 4)
    for name in ("1-2.wal", "3-4.wal"):
        vfs.remove(DIRECTORY / name)
    with pytest.raises(CorruptionError, match="number 2, which comes before, is missing"):
        open_log(vfs, snapshot_at(3))
    with pytest.raises(CorruptionError, match="number 2, which comes before, is missing"):
        open_log(vfs)
    log = open_log(vfs, snapshot_at(4))
    log.rotate()
    log.remove_before(7)
    vfs.kill()
    with pytest.raises(CorruptionError, match="which comes before, is missing"):
        open_log(vfs, snapshot_at(4))


def test_a_log_that_ends_before_its_snapshot_is_refused() -> None:
    vfs = MemoryVfs()
    log_of_segments(vfs, 2)
    with pytest.raises(CorruptionError, match="ends with entry 4, but the snapshot holds entry 5"):
        open_log(vfs, snapshot_at(5))
    with pytest.raises(CorruptionError, match="ends with entry 0, but the snapshot holds entry 5"):
        open_log(MemoryVfs(), snapshot_at(5))


def test_a_log_of_another_term_than_its_snapshot_is_refused() -> None:
    vfs = MemoryVfs()
    log_of_segments(vfs, 2)
    with pytest.raises(CorruptionError, match="of term 1 in the log and of term 2"):
        open_log(vfs, snapshot_at(2, term=2))
    log = open_log(vfs, snapshot_at(4))
    log.rotate()
    log.remove_before(5)
    log.append([make_batch(5)])
    log.sync()
    vfs.kill()
    with pytest.raises(CorruptionError, match="term 1 follows term 2"):
        open_log(vfs, snapshot_at(4, term=2))


@pytest.mark.parametrize(("index", "term"), [(9, 1), (9, 7), (3, 2), (4, 7)])
def test_an_installed_snapshot_that_the_log_does_not_match_replaces_it(
    index: int, term: int
) -> None:
    vfs = MemoryVfs()
    log_of_segments(vfs, 2)
    base = snapshot_at(index, term, installed=True)
    log = open_log(vfs, base, must_exist=True)
    assert (log.first_index, log.last_index, log.durable_index) == (index + 1, index, index)
    assert log.term_of(index) == term
    assert log.hard_state == HardState(3, b"me", 0)
    assert log.recovery.was_reset
    assert log.recovery.entry_count == 0
    assert vfs.list_directory(DIRECTORY) == [f"active-{index + 1}.wal"]
    with pytest.raises(LogOrderError):
        log.append([make_batch(index + 1, term - 1)])
    log.append([make_batch(index + 1, term)])
    log.close()
    log = open_log(vfs, base)
    assert list(log.read(index + 1)) == [make_batch(index + 1, term)]
    assert not log.recovery.was_reset


def test_an_installed_snapshot_that_the_log_matches_keeps_what_follows() -> None:
    vfs = MemoryVfs()
    batches = log_of_segments(vfs, 3)
    log = open_log(vfs, snapshot_at(3, installed=True))
    assert list(log.read(1)) == batches
    assert not log.recovery.was_reset


def test_a_new_log_begins_behind_an_installed_snapshot_unless_there_was_a_log() -> None:
    log = open_log(MemoryVfs(), snapshot_at(7, 3, installed=True))
    assert (log.first_index, log.last_index) == (8, 7)
    assert log.term_of(7) == 3
    with pytest.raises(CorruptionError, match="the log of this node is missing"):
        open_log(MemoryVfs(), snapshot_at(7, 3, installed=True), must_exist=True)


def test_a_log_that_was_reset_needs_its_snapshot() -> None:
    vfs = MemoryVfs()
    log = open_log(vfs)
    log.append([make_batch(1)], HardState(2, b"me", 1))
    log.reset(40, 5)
    assert (log.first_index, log.last_index, log.durable_index) == (41, 40, 40)
    assert log.term_of(40) == 5
    assert list(log.read(41)) == []
    assert vfs.list_directory(DIRECTORY) == ["active-41.wal"]
    for index in (39, 41):
        with pytest.raises(LogOrderError):
            log.term_of(index)
    for index in (39, 41):
        with pytest.raises(LogOrderError):
            log.truncate_after(index)
    log.append([make_batch(41, 5)])
    log.close()
    for base in (None, snapshot_at(39, 5), snapshot_at(39, 5, installed=True)):
        with pytest.raises(CorruptionError, match="are missing"):
            open_log(vfs, base)
    log = open_log(vfs, snapshot_at(40, 5, installed=True))
    assert log.hard_state == HardState(2, b"me", 1)
    assert log.last_index == 42


def test_a_reset_within_the_log_and_to_its_beginning() -> None:
    vfs = MemoryVfs()
    log = open_log(vfs)
    log.append([make_batch(1), make_batch(3)])
    log.reset(2, 1)
    assert (log.first_index, log.last_index) == (3, 2)
    log.reset(0, 0)
    log.append([make_batch(1)])
    log.close()
    assert list(open_log(vfs).read(1)) == [make_batch(1)]
    for index, term in ((-1, 0), (0, -1)):
        with pytest.raises(LogOrderError):
            open_log(MemoryVfs()).reset(index, term)


def test_an_empty_active_segment_that_begins_elsewhere_is_refused() -> None:
    """Weakness 20: it was accepted, and after one write the directory could not be opened."""
    for base in (None, snapshot_at(2)):
        vfs = MemoryVfs()
        log_of_segments(vfs, 1, is_open=False)
        open_log(vfs)
        vfs.kill()
        content = vfs.content(DIRECTORY / "active-3.wal")
        vfs.remove(DIRECTORY / "active-3.wal")
        file = vfs.create(DIRECTORY / "active-9.wal")
        file.write_at(0, content)
        file.sync()
        with pytest.raises(CorruptionError, match="the segment begins with entry 3"):
            open_log(vfs, base)


def test_planted_trust_in_the_name_of_an_empty_segment_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planted bug, weakness 20: what the name says is not compared with what the file says."""
    real_read = _recovery.read_segment_header

    def read_anyhow(
        path: Path, _first_index: int, vfs: Vfs, keyring: Keyring, timeline: bytes
    ) -> SegmentInfo:
        header, _ = parse_header(vfs.open(path).read_at(0, HEADER_BYTES))
        return real_read(path, header.first_index, vfs, keyring, timeline)

    monkeypatch.setattr(_recovery, "read_segment_header", read_anyhow)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_an_empty_active_segment_that_begins_elsewhere_is_refused()


def test_only_sealed_segments_before_the_index_are_removed() -> None:
    vfs = MemoryVfs()
    batches = log_of_segments(vfs, 4)
    log = open_log(vfs)
    assert log.remove_before(2) == []
    assert log.remove_before(6) == [DIRECTORY / "1-2.wal", DIRECTORY / "3-4.wal"]
    assert (log.first_index, log.last_index) == (5, 8)
    assert list(log.read(5)) == batches[2:]
    assert log.term_of(4) == 1, "the one before the first is still known"
    for index in (3, 9):
        with pytest.raises(LogOrderError):
            log.term_of(index)
    with pytest.raises(LogOrderError):
        log.read(4)
    log.rotate()
    assert log.remove_before(10**9) == [DIRECTORY / "5-6.wal", DIRECTORY / "7-8.wal"]
    assert vfs.list_directory(DIRECTORY) == ["active-9.wal"]
    assert (log.first_index, log.last_index) == (9, 8)
    log.append([make_batch(9)])
    assert log.remove_before(10**9) == [], "the active segment stays"
    log.close()
    log = open_log(vfs, snapshot_at(8))
    assert list(log.read(9)) == [make_batch(9)]
    assert log.recovery.entry_count == 2


def test_a_failed_removal_stops_the_log() -> None:
    """The removal may come undone; a further one would leave a hole."""
    for call in (1, 2):
        vfs = MemoryVfs()
        log_of_segments(vfs, 4)
        log = open_log(vfs)
        vfs.fail_at(vfs.call_count + call)
        with pytest.raises(LogPoisonedError):
            log.remove_before(5)
        with pytest.raises(LogPoisonedError):
            log.remove_before(5)
        vfs.power_cut()
        assert open_log(vfs).first_index == 1


def test_a_rotation_without_entries_does_nothing() -> None:
    vfs = MemoryVfs()
    log = open_log(vfs)
    calls = vfs.call_count
    log.rotate()
    assert vfs.call_count == calls
    log.append([make_batch(1)])
    log.rotate()
    log.rotate()
    assert vfs.list_directory(DIRECTORY) == ["1-2.wal", "active-3.wal"]
    log.close()
    for action in (log.rotate, lambda: log.reset(1, 1), lambda: log.remove_before(1)):
        with pytest.raises(LogClosedError):
            action()


def test_entries_of_the_snapshot_are_never_cut() -> None:
    vfs = MemoryVfs()
    log_of_segments(vfs, 3)
    log = open_log(vfs, snapshot_at(4))
    with pytest.raises(LogOrderError):
        log.truncate_after(2)
    log.truncate_after(4)
    assert log.last_index == 4


def facts(stat: SegmentStat) -> tuple[str, int, int, int, int, int, bool]:
    return (
        stat.path.name,
        stat.number,
        stat.first_index,
        stat.last_index,
        stat.first_timestamp_ms,
        stat.last_timestamp_ms,
        stat.is_sealed,
    )


def test_segments_are_described_without_reading_them() -> None:
    vfs = MemoryVfs()
    log_of_segments(vfs, 2, is_open=False)
    log = open_log(vfs)
    log.append([make_batch(5), make_batch(7), make_batch(9)])
    sealed = [("1-2.wal", 1, 1, 2, 10, 10, True), ("3-4.wal", 2, 3, 4, 30, 30, True)]
    assert [facts(stat) for stat in log.segments()] == [
        *sealed,
        ("active-5.wal", 3, 5, 10, 50, 90, False),
    ]
    assert sum(stat.size_bytes for stat in log.segments()) == log.size_bytes
    assert {stat.key_id for stat in log.segments()} == {fixed_keyring().active_key_id}
    log.append([make_batch(11)])
    log.truncate_after(10)  # the end of a frame
    assert [facts(stat) for stat in log.segments()[2:]] == [
        ("5-10.wal", 3, 5, 10, 50, 90, True),
        ("active-11.wal", 4, 11, 10, 0, 0, False),
    ]
    log.truncate_after(6)  # inside a frame
    expected = [*sealed, ("active-5.wal", 5, 5, 6, 50, 50, False)]
    assert [facts(stat) for stat in log.segments()] == expected
    log.close()
    assert [facts(stat) for stat in open_log(vfs).segments()] == [
        *sealed,
        ("5-6.wal", 5, 5, 6, 50, 50, True),
        ("active-7.wal", 6, 7, 6, 0, 0, False),
    ]
