"""Every point of a history can be brought back, and nothing that came after it."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaylix_storage import Batch, BatchKind, HardState
from vaylix_storage.errors import CorruptionError, DirectoryLockedError, RestorePointError
from vaylix_storage.offline import Point, RestoreOptions, Window, inspect, restore, window_of
from vaylix_storage.offline.history import History
from vaylix_storage.offline.past_testing import (
    ARCHIVE,
    SOURCE,
    TARGET,
    PastWriter,
    files_below,
    open_engine,
    provider_of,
    restore_to,
    small_history,
    state_of,
)
from vaylix_storage.testing import MemoryVfs

STEPS = st.lists(
    st.one_of(
        st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=4),
        st.just("snapshot"),
        st.just("restart"),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_every_entry_of_any_history_can_be_restored(steps: list[list[bytes] | str]) -> None:
    vfs = MemoryVfs()
    writer = PastWriter(vfs)
    for place, step in enumerate(steps):
        if isinstance(step, list):
            writer.append(step, place + 1)
        elif step == "snapshot":
            writer.snapshot()
        else:
            writer.close()
            writer.engine = open_engine(vfs)
    writer.close()
    for index, state in enumerate(writer.states):
        restore_to(vfs, Point(sequence=index), force=True)
        assert state_of(vfs, TARGET) == state
    with pytest.raises(RestorePointError):
        restore_to(vfs, Point(sequence=len(writer.states)), force=True)


def test_a_time_means_the_last_entry_at_or_before_it() -> None:
    vfs = MemoryVfs()
    writer = small_history(vfs)
    for time_ms, index in ((10, 3), (15, 3), (20, 6), (79, 21), (80, 24), (10_000, 24)):
        restore_to(vfs, Point(timestamp_ms=time_ms), force=True)
        assert state_of(vfs, TARGET) == writer.states[index]


def reach_of(history: History) -> Window:
    """Return the window, which there has to be."""
    window = window_of(history)
    assert window is not None
    return window


def test_the_window_is_read_from_the_records() -> None:
    vfs = MemoryVfs()
    small_history(vfs)
    provider = provider_of(vfs, SOURCE)
    whole = reach_of(inspect(SOURCE, vfs=vfs, provider=provider, archive=ARCHIVE))
    assert (whole.earliest, whole.latest, whole.latest_timestamp_ms) == (0, 24, 80)
    alone = reach_of(inspect(SOURCE, vfs=vfs, provider=provider))
    assert alone.earliest == 18
    with pytest.raises(RestorePointError, match="18 to 24"):
        restore(
            SOURCE,
            TARGET,
            Point(sequence=4),
            vfs=vfs,
            provider=provider,
            target_provider=lambda path: provider_of(vfs, path),
            options=RestoreOptions(now_ms=1),
        )


def test_a_restore_begins_a_new_history_and_leaves_the_source_alone() -> None:
    vfs = MemoryVfs()
    small_history(vfs)
    before = files_below(vfs, SOURCE)
    restore_to(vfs, Point(sequence=10))
    assert files_below(vfs, SOURCE) == before
    old, new = open_engine(vfs), open_engine(vfs, TARGET)
    identities = (old.directory.identity, new.directory.identity)
    assert len({identity.timeline for identity in identities}) == 2
    assert len({identity.cluster_id for identity in identities}) == 2
    assert len({identity.node_id for identity in identities}) == 2
    assert old.keyring.active_key_id != new.keyring.active_key_id


def test_a_directory_in_use_is_refused() -> None:
    vfs = MemoryVfs()
    small_history(vfs)
    engine = open_engine(vfs)
    with pytest.raises(DirectoryLockedError):
        restore_to(vfs, Point(sequence=1))
    engine.close()


def unconfirmed_history(vfs: MemoryVfs) -> PastWriter:
    """Return a history of a cluster whose last entries are not known to be committed."""
    writer = PastWriter(vfs)
    configuration = Batch.create(
        first_index=1, count=1, term=0, kind=BatchKind.CONFIGURATION, timestamp_ms=1, payload=b""
    )
    writer.engine.log.append([configuration], HardState(term=0, commit=1))
    writer.states.append({})
    writer.times.append(1)
    writer.append([b"a", b"a"], 2)
    writer.engine.log.append((), HardState(term=0, commit=3))
    writer.append([b"b"], 3)
    writer.close()
    return writer


def test_what_is_not_known_to_be_committed_is_restored_only_when_asked_for() -> None:
    vfs = MemoryVfs()
    unconfirmed_history(vfs)
    window = reach_of(inspect(SOURCE, vfs=vfs, provider=provider_of(vfs, SOURCE)))
    assert (window.latest, window.unconfirmed) == (3, 1)
    with pytest.raises(RestorePointError, match="include-unconfirmed"):
        restore_to(vfs, Point(sequence=4))
    restore_to(vfs, Point(timestamp_ms=100), force=True)
    engine = open_engine(vfs, TARGET)
    assert engine.log.last_index == 3
    engine.close()
    restore_to(vfs, Point(sequence=4), include_unconfirmed=True, force=True)
    # The new history has one voter: what it writes is committed once it is on the disk.
    assert next(open_engine(vfs, TARGET).log.read(1)).kind == BatchKind.NOOP
    vfs.kill()
    engine = open_engine(vfs, TARGET)
    engine.log.append([noop(5)])
    engine.close()
    window = reach_of(inspect(TARGET, vfs=vfs, provider=provider_of(vfs, TARGET)))
    assert (window.latest, window.unconfirmed) == (5, 0)


def noop(index: int) -> Batch:
    return Batch.create(
        first_index=index, count=1, term=0, kind=BatchKind.NOOP, timestamp_ms=10**6, payload=b""
    )


# Holes and damage


def history_of(vfs: MemoryVfs, *, live: bool = False) -> History:
    provider = provider_of(vfs, SOURCE)
    return inspect(SOURCE, vfs=vfs, provider=provider, archive=ARCHIVE, live=live)


def damage(vfs: MemoryVfs, path: Path, offset: int) -> None:
    content = bytearray(vfs.content(path))
    content[offset] ^= 1
    vfs.overwrite(path, bytes(content))


def archived(vfs: MemoryVfs, suffix: str) -> list[Path]:
    files = [path for path in files_below(vfs, ARCHIVE) if path.suffix == suffix]
    return sorted(files, key=lambda path: int(path.stem.partition("-")[0]))


def long_history(vfs: MemoryVfs) -> PastWriter:
    """Return a closed history of 20 batches of 2, the most of it archived, every fourth 10 ms."""
    writer = PastWriter(vfs)
    for number in range(1, 21):
        writer.append([b"a", b"%d" % number], number * 10)
        if number % 4 == 0:
            writer.snapshot()
    writer.close()
    return writer


def test_a_hole_in_the_archive_is_a_hole_in_the_window_and_nothing_else() -> None:
    vfs = MemoryVfs()
    writer = long_history(vfs)
    segments = archived(vfs, ".wal")
    first, _, last = segments[len(segments) // 2].stem.partition("-")
    vfs.remove(segments[len(segments) // 2])
    history = history_of(vfs)
    intervals = history.intervals(40)
    assert not history.problems
    assert len(intervals) == 2
    assert (intervals[0].earliest, intervals[0].latest) == (0, int(first) - 1)
    assert (intervals[1].earliest, intervals[1].latest) == (intervals[1].earliest, 40)
    assert intervals[1].earliest >= int(last)
    reachable = [index for part in intervals for index in range(part.earliest, part.latest + 1)]
    for index, state in enumerate(writer.states):
        if index in reachable:
            restore_to(vfs, Point(sequence=index), force=True)
            assert state_of(vfs, TARGET) == state
        else:
            with pytest.raises(RestorePointError, match=f"0 to {int(first) - 1}, "):
                restore_to(vfs, Point(sequence=index), force=True)
        # Of a time in the hole nobody knows how far it reached.
        is_known = index in reachable and (index == 40 or index + 1 in reachable)
        time_ms = writer.times[index]
        if is_known and (index == 40 or writer.times[index + 1] > time_ms):
            restore_to(vfs, Point(timestamp_ms=time_ms), force=True)
            assert state_of(vfs, TARGET) == state
        elif index not in reachable and writer.times[index] < intervals[1].earliest_timestamp_ms:
            with pytest.raises(RestorePointError, match="name an entry"):
                restore_to(vfs, Point(timestamp_ms=time_ms), force=True)


def test_a_damaged_archive_is_of_use_up_to_the_damage() -> None:
    vfs = MemoryVfs()
    writer = long_history(vfs)
    segment = archived(vfs, ".wal")[0]
    last = int(segment.stem.partition("-")[2])
    damage(vfs, segment, len(vfs.content(segment).rstrip(b"\0")) - 30)
    history = history_of(vfs)
    (problem,) = history.problems[:1]
    assert str(segment) in problem
    good = history.intervals(40)[0].latest
    assert 0 < good < last
    restore_to(vfs, Point(sequence=good))
    assert state_of(vfs, TARGET) == writer.states[good]
    with pytest.raises(RestorePointError):
        restore_to(vfs, Point(sequence=good + 1), force=True)


def test_without_a_damaged_snapshot_an_older_one_serves() -> None:
    vfs = MemoryVfs()
    writer = long_history(vfs)
    (current,) = [path for path in files_below(vfs, SOURCE) if path.suffix == ".snapshot"]
    damage(vfs, current, 300)
    newest = archived(vfs, ".snapshot")[-1]
    assert any(str(current) in problem for problem in history_of(vfs).problems)
    result = restore_to(vfs, Point(sequence=40))
    assert result.snapshot_sequence == int(newest.stem)
    assert any(str(current) in problem for problem in result.problems)
    assert state_of(vfs, TARGET) == writer.states[40]
    vfs.remove(newest)
    for path in archived(vfs, ".wal") + archived(vfs, ".snapshot"):
        vfs.remove(path)
    with pytest.raises(CorruptionError, match="snapshot"):
        restore_to(vfs, Point(sequence=40), force=True)


def test_histories_are_never_mixed() -> None:
    vfs = MemoryVfs()
    writer = long_history(vfs)
    other = MemoryVfs()
    long_history(other)
    timeline = next(path for path in files_below(vfs, ARCHIVE)).relative_to(ARCHIVE).parts[0]
    # The same names and numbers, of another history and its own keys.
    foreign = "ab" * 16
    for path, content in files_below(other, ARCHIVE).items():
        target = ARCHIVE / foreign / Path(*path.relative_to(ARCHIVE).parts[1:])
        vfs.make_directory(target.parent)
        vfs.create(target).close()
        body = bytearray(content)
        place = 32 if path.suffix == ".wal" else 48
        body[place : place + 16] = bytes.fromhex(foreign)
        body[252:256] = zlib.crc32(body[:252]).to_bytes(4, "little")
        vfs.overwrite(target, bytes(body))
    history = history_of(vfs)
    assert history.other_timelines == (foreign,)
    assert history.timeline.hex() == timeline
    assert not history.problems
    restore_to(vfs, Point(sequence=3))
    assert state_of(vfs, TARGET) == writer.states[3]
    # The archive of another node, under the same timeline, contradicts the directory.
    own = SOURCE / "wal" / names_in(vfs)[0]
    twin = ARCHIVE / timeline / "wal" / own.name
    vfs.create(twin).close()
    vfs.overwrite(twin, vfs.content(own) + b"\0")
    with pytest.raises(CorruptionError, match="other content"):
        history_of(vfs)


@pytest.mark.parametrize("moment", range(1, 20))
def test_an_old_copy_reaches_as_far_as_the_archive(moment: int) -> None:
    """The node went on after the copy, so the archive has more of the copy's newest segment."""
    vfs = MemoryVfs()
    writer = PastWriter(vfs)
    copied: dict[Path, bytes] = {}
    for number in range(1, 21):
        writer.append([b"a", b"%d" % number], number * 10)
        if number == moment:
            copied = files_below(vfs, SOURCE)
        if number % 4 == 0:
            writer.snapshot()
    writer.close()
    for path in files_below(vfs, SOURCE):
        vfs.remove(path)
    for path, content in copied.items():
        vfs.create(path).close()
        vfs.overwrite(path, content)
    history = history_of(vfs)
    assert history.problems == []
    last = max(int(archived(vfs, ".wal")[-1].stem.partition("-")[2]), 2 * moment)
    (interval,) = history.intervals(40)
    assert (interval.earliest, interval.latest) == (0, last)
    for index in range(last + 1):
        restore_to(vfs, Point(sequence=index), force=True)
        assert state_of(vfs, TARGET) == writer.states[index]


def test_an_archive_that_begins_otherwise_than_the_newest_segment_contradicts_it() -> None:
    vfs = MemoryVfs()
    PastWriter(vfs).append([b"a"], 1)
    vfs.kill()
    own = SOURCE / "wal" / "active-1.wal"
    timeline = history_of(vfs).timeline.hex()
    twin = ARCHIVE / timeline / "wal" / "1-9.wal"
    vfs.make_directory(twin.parent)
    vfs.create(twin).close()
    content = bytearray(vfs.content(own))
    content[300] ^= 1
    vfs.overwrite(twin, bytes(content))
    with pytest.raises(CorruptionError, match="other content"):
        history_of(vfs)


def names_in(vfs: MemoryVfs) -> list[str]:
    names = vfs.list_directory(SOURCE / "wal")
    return [name for name in names if name[0].isdigit()]


@pytest.mark.parametrize("which", ["newest", "oldest", "all"])
def test_a_directory_that_has_lost_segments_has_no_window(which: str) -> None:
    """Weakness 19 of the published server: it would have restored what is left."""
    vfs = MemoryVfs()
    writer = PastWriter(vfs)
    for number in range(1, 13):
        writer.append([b"a", b"%d" % number], number * 10)
    writer.close()
    wal = sorted(vfs.list_directory(SOURCE / "wal"), key=_first_index)
    for name in {"newest": wal[-1:], "oldest": wal[:1], "all": wal}[which]:
        vfs.remove(SOURCE / "wal" / name)
    with pytest.raises(CorruptionError, match="missing"):
        history_of(vfs)
    with pytest.raises(CorruptionError, match="missing"):
        restore_to(vfs, Point(sequence=1))
    assert not vfs.exists(TARGET)


def test_a_log_that_is_lost_with_its_mark_is_missed_all_the_same() -> None:
    """A snapshot says that there was one, as it does at a start, even if no manifest names it."""
    vfs = MemoryVfs()
    writer = PastWriter(vfs)
    for number in range(1, 13):
        writer.append([b"a", b"%d" % number], number * 10)
    writer.snapshot()
    writer.close()
    for name in vfs.list_directory(SOURCE / "wal"):
        vfs.remove(SOURCE / "wal" / name)
    vfs.remove(SOURCE / "wal.begun")
    vfs.remove(SOURCE / "manifest.bin")
    with pytest.raises(CorruptionError, match="missing"):
        history_of(vfs)


def _first_index(name: str) -> int:
    return int(
        name.removesuffix(".wal").removeprefix("active-").removeprefix("closed-").split("-")[0]
    )


def test_a_directory_in_use_can_be_inspected_but_not_restored() -> None:
    vfs = MemoryVfs()
    small_history(vfs)
    before = files_below(vfs, SOURCE)
    calls = vfs.call_count
    assert reach_of(history_of(vfs)).latest == 24
    assert vfs.call_count == calls
    assert files_below(vfs, SOURCE) == before
    engine = open_engine(vfs)
    calls = vfs.call_count
    assert reach_of(history_of(vfs, live=True)).latest == 24
    assert vfs.call_count == calls
    with pytest.raises(DirectoryLockedError, match="vaylix storage copy"):
        history_of(vfs)
    engine.close()


def test_the_source_is_locked_all_the_while() -> None:
    vfs = MemoryVfs()
    small_history(vfs)
    seen: list[str] = []

    def progress(what: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        seen.append(what)
        with pytest.raises(DirectoryLockedError):
            open_engine(vfs)

    restore_to(vfs, Point(sequence=20), progress=progress)
    assert set(seen) == {"reading", "restoring a snapshot", "restoring entries", "verifying"}
    open_engine(vfs).close()


def test_progress_is_told_step_by_step_in_every_phase() -> None:
    vfs = MemoryVfs()
    long_history(vfs)
    seen: dict[str, list[tuple[int, int]]] = {}

    def progress(what: str, done: int, total: int) -> None:
        seen.setdefault(what, []).append((done, total))

    restore_to(vfs, Point(sequence=15), progress=progress)
    assert list(seen) == ["reading", "restoring a snapshot", "restoring entries", "verifying"]
    for steps in seen.values():
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1], "it reaches its end"
    # Behind the snapshot of entry 8 come three batches of two, and one that is cut in half.
    assert [done for done, _ in seen["restoring entries"]] == [2, 4, 6, 7]
    assert seen["verifying"] == [(done, 8) for done in (0, 1, 3, 5, 7, 8)]
