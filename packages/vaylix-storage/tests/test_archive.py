"""The archive: what is removed has been copied before, whatever call is the last before a crash."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path

import pytest

from vaylix_storage import Batch, File, Log, LogBase, LogOptions
from vaylix_storage._archive import archive_segment, archive_snapshot, list_archive
from vaylix_storage._snapshot import SnapshotWriter
from vaylix_storage._snapshot_format import SnapshotMeta
from vaylix_storage.errors import (
    CorruptionError,
    FileSystemError,
    ForeignFormatError,
    StorageError,
)
from vaylix_storage.testing import (
    MemoryVfs,
    SimulatedCrash,
    Survival,
    counting_random_bytes,
    fixed_keyring,
)

WAL = Path("/data/wal")
SNAPSHOTS = Path("/data/snapshots")
ARCHIVE = Path("/archive")
TIMELINE = b"t" * 16


def open_log(vfs: MemoryVfs, base: LogBase | None = None, timeline: bytes = TIMELINE) -> Log:
    return Log.open(
        WAL,
        vfs=vfs,
        keyring=fixed_keyring(),
        options=LogOptions(timeline=timeline, base=base),
        random_bytes=counting_random_bytes(vfs.generation),
    )


def write_log(vfs: MemoryVfs, segment_count: int, timeline: bytes = TIMELINE) -> Log:
    log = open_log(vfs, timeline=timeline)
    for index in range(1, segment_count + 1):
        log.append(
            [
                Batch.create(
                    first_index=index,
                    count=1,
                    term=1,
                    kind=1,
                    timestamp_ms=index,
                    payload=bytes([index]) * 700,
                )
            ]
        )
        log.rotate()
    return log


def write_snapshot(vfs: MemoryVfs, index: int) -> Path:
    vfs.make_directory(SNAPSHOTS)
    writer = SnapshotWriter.create(
        SNAPSHOTS / f"{index}.snapshot",
        SnapshotMeta(index, 1, 5, 6),
        vfs=vfs,
        keyring=fixed_keyring(),
        timeline=TIMELINE,
        random_bytes=counting_random_bytes(99),
    )
    writer.begin_section("keyspace")
    writer.add(b"x" * 3000, 1)
    return writer.finish().path


def archive(vfs: MemoryVfs, path: Path, timeline: bytes = TIMELINE) -> Path:
    copy = archive_snapshot if path.suffix == ".snapshot" else archive_segment
    return copy(path, ARCHIVE, vfs=vfs, timeline=timeline)


def test_an_archive_is_listed_by_timeline_in_the_order_of_the_log() -> None:
    vfs = MemoryVfs()
    assert list_archive(ARCHIVE, vfs=vfs) == ()
    log = write_log(vfs, 11)
    snapshot = write_snapshot(vfs, 4)
    for stat in log.segments()[:-1]:
        assert archive(vfs, stat.path) == ARCHIVE / TIMELINE.hex() / "wal" / stat.path.name
    assert archive(vfs, snapshot) == ARCHIVE / TIMELINE.hex() / "snapshots" / "4.snapshot"
    (timeline,) = list_archive(ARCHIVE, vfs=vfs)
    assert timeline.timeline == TIMELINE
    assert [
        (archived.header.first_index, archived.last_index, archived.size_bytes)
        for archived in timeline.segments
    ] == [(stat.first_index, stat.last_index, stat.size_bytes) for stat in log.segments()[:-1]]
    (archived,) = timeline.snapshots
    assert archived.header.meta == SnapshotMeta(4, 1, 5, 6)
    assert archived.size_bytes == len(vfs.content(snapshot))
    assert timeline.key_ids == {fixed_keyring().active_key_id}
    assert vfs.content(archived.path) == vfs.content(snapshot)
    for copy, stat in zip(timeline.segments, log.segments(), strict=False):
        assert vfs.content(copy.path) == vfs.content(stat.path)


def test_histories_are_not_mixed() -> None:
    vfs, other = MemoryVfs(), b"u" * 16
    paths = [write_log(vfs, 1, other).segments()[0].path, write_snapshot(vfs, 1)]
    for path in zip(paths, (TIMELINE, other), strict=True):
        with pytest.raises(ForeignFormatError, match="another history"):
            archive(vfs, *path)
    archive(vfs, paths[0], other)
    archive(vfs, paths[1])
    found = list_archive(ARCHIVE, vfs=vfs)
    assert [timeline.timeline for timeline in found] == [TIMELINE, other]
    assert [(len(timeline.segments), len(timeline.snapshots)) for timeline in found] == [
        (0, 1),
        (1, 0),
    ]
    stray = ARCHIVE / TIMELINE.hex() / "wal"
    vfs.make_directory(stray)
    vfs.rename(ARCHIVE / other.hex() / "wal" / "1-1.wal", stray / "1-1.wal")
    with pytest.raises(ForeignFormatError, match="another history"):
        list_archive(ARCHIVE, vfs=vfs)


def test_what_is_there_already_is_left_alone_if_it_is_the_same() -> None:
    vfs = MemoryVfs()
    path = write_log(vfs, 1).segments()[0].path
    copy = archive(vfs, path)
    content = vfs.content(copy)
    calls = vfs.call_count
    assert archive(vfs, path) == copy
    assert vfs.call_count == calls + 1, "the sync of the name"
    for other in (content[:-1], content + b"x", content[:900] + b"x" + content[901:]):
        vfs.overwrite(copy, other)
        with pytest.raises(CorruptionError, match="an archive is never changed") as caught:
            archive(vfs, path)
        assert caught.value.path == copy
        assert vfs.content(copy) == other


def test_only_what_will_not_change_can_be_archived() -> None:
    vfs = MemoryVfs()
    log = write_log(vfs, 1)
    with pytest.raises(ValueError, match="sealed"):
        archive(vfs, log.segments()[-1].path)
    with pytest.raises(ValueError, match="finished"):
        archive(vfs, Path("/data/snapshots/01.snapshot"))
    with pytest.raises(FileSystemError):
        archive(vfs, WAL / "7-9.wal")


def test_other_files_are_not_part_of_an_archive_and_damaged_ones_are_reported() -> None:
    vfs = MemoryVfs()
    segment = archive(vfs, write_log(vfs, 1).segments()[0].path)
    snapshot = archive(vfs, write_snapshot(vfs, 1))
    before = list_archive(ARCHIVE, vfs=vfs)
    vfs.make_directory(ARCHIVE / "lost+found")
    for name in ("active-9.wal", "2-3.wal.tmp", "02-3.wal", "1.snapshot.tmp", "README"):
        for directory in (segment.parent, snapshot.parent):
            vfs.create(directory / name).close()
    assert list_archive(ARCHIVE, vfs=vfs) == before
    vfs.rename(segment, segment.with_name("2-2.wal"))
    with pytest.raises(CorruptionError, match="begins with entry 1"):
        list_archive(ARCHIVE, vfs=vfs)
    vfs.rename(segment.with_name("2-2.wal"), segment)
    for path in (segment, snapshot):
        content = vfs.content(path)
        for damaged in (content[:100], content[:50] + b"x" + content[51:]):
            vfs.overwrite(path, damaged)
            with pytest.raises(CorruptionError) as caught:
                list_archive(ARCHIVE, vfs=vfs)
            assert caught.value.path == path
        vfs.overwrite(path, content)


class BadDisk(MemoryVfs):
    """Planted fault: what is read from the archive is not what was written there."""

    is_bad = True

    def open(self, path: Path) -> File:
        file = super().open(path)
        if self.is_bad and path.is_relative_to(ARCHIVE):
            data = bytearray(self.content(path))
            data[-1] ^= 1
            self.overwrite(path, bytes(data))
        return file


def test_a_copy_that_differs_is_not_given_its_name() -> None:
    vfs = BadDisk()
    path = write_log(vfs, 1).segments()[0].path
    with pytest.raises(CorruptionError, match="check the volume"):
        archive(vfs, path)
    vfs.is_bad = False
    assert list_archive(ARCHIVE, vfs=vfs)[0].segments == ()
    assert vfs.content(archive(vfs, path)) == vfs.content(path)


# Crashes


class Mover:
    """Moves a log and a snapshot into the archive, as retention does: first copy, then remove."""

    def __init__(self) -> None:
        self.vfs = MemoryVfs()
        log = write_log(self.vfs, 3)
        log.close()
        self.snapshot = write_snapshot(self.vfs, 2)
        open_log(self.vfs).close()
        self.originals = {
            WAL / name: self.vfs.content(WAL / name)
            for name in self.vfs.list_directory(WAL)
            if name[0].isdigit()
        }
        self.originals[self.snapshot] = self.vfs.content(self.snapshot)

    def move(self) -> None:
        log = open_log(self.vfs, LogBase(3, 1, installed=False))
        for stat in log.segments()[:-1]:
            archive(self.vfs, stat.path)
        log.remove_before(4)
        if self.vfs.exists(self.snapshot):
            archive(self.vfs, self.snapshot)
            self.vfs.unlink(self.snapshot)
            self.vfs.sync_directory(SNAPSHOTS)

    def check(self) -> None:
        """Everything is in its place or in the archive, whole."""
        archived: dict[str, Path] = {}
        for timeline in list_archive(ARCHIVE, vfs=self.vfs):
            archived.update({one.path.name: one.path for one in timeline.segments})
            archived.update({one.path.name: one.path for one in timeline.snapshots})
        for path, content in self.originals.items():
            places = [place for place in (path, archived.get(path.name)) if place is not None]
            found = [self.vfs.content(place) for place in places if self.vfs.exists(place)]
            assert found, f"{path} is lost"
            assert all(one == content for one in found)

    def check_moved(self) -> None:
        self.check()
        assert not any(self.vfs.exists(path) for path in self.originals)
        for directory in (ARCHIVE / TIMELINE.hex()).joinpath("wal"), SNAPSHOTS:
            assert not any(name.endswith(".tmp") for name in self.vfs.list_directory(directory))


def test_nothing_is_lost_by_a_crash_at_any_call() -> None:
    for data, names in itertools.product(Survival, Survival):
        finished = False
        for call in itertools.count(1):
            mover = Mover()
            mover.vfs.crash_at(mover.vfs.call_count + call)
            try:
                mover.move()
                finished = True
            except SimulatedCrash:
                pass
            mover.vfs.power_cut(data, names)
            mover.check()
            mover.move()
            mover.check_moved()
            if finished:
                break


def test_nothing_is_lost_by_a_failure_at_any_call() -> None:
    """Whether the power is cut after it, after the next attempt, or never."""
    for cut_before in (False, True):
        for call in range(1, 500):
            mover = Mover()
            calls = mover.vfs.call_count
            mover.vfs.fail_at(calls + call)
            with suppress(StorageError, OSError):
                mover.move()
            was_reached = mover.vfs.call_count >= calls + call
            mover.vfs.kill()
            if cut_before:
                mover.vfs.power_cut()
            mover.check()
            mover.move()
            mover.vfs.power_cut()
            mover.check()
            if not was_reached:
                assert call > 30
                break
