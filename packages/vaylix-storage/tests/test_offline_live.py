"""Looking at a directory while its owner goes on writing, between any two reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vaylix_storage.offline import (
    DumpDamage,
    DumpEntry,
    State,
    Verification,
    dump_log,
    inspect,
    verify_directory,
)
from vaylix_storage.offline._read_only import ReadOnlyVfs
from vaylix_storage.offline.testing import Sample
from vaylix_storage.testing import MemoryVfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vaylix_storage import Vfs
    from vaylix_storage._vfs import File


class BusyVfs(ReadOnlyVfs):
    """Calls `meanwhile` after every read of a segment."""

    def __init__(self, vfs: Vfs, meanwhile: Callable[[], None]) -> None:
        super().__init__(vfs)
        self.meanwhile = meanwhile
        self.show: Callable[[Path, bytes, int], bytes] = lambda _path, data, _offset: data

    def open(self, path: Path) -> File:
        file = super().open(path)
        return BusyFile(file, self, path) if path.suffix == ".wal" else file


class BusyFile:
    """A segment that changes behind each read."""

    def __init__(self, file: File, vfs: BusyVfs, path: Path) -> None:
        self._file = file
        self._vfs = vfs
        self._path = path
        self.size = file.size
        self.close = file.close
        self.write_at = file.write_at
        self.allocate = file.allocate
        self.give_back = file.give_back
        self.sync = file.sync

    def read_at(self, offset: int, size: int) -> bytes:
        data = self._vfs.show(self._path, self._file.read_at(offset, size), offset)
        self._vfs.meanwhile()
        return data


@pytest.fixture
def sample() -> Sample:
    sample = Sample(vfs=MemoryVfs(reserves_space=True))
    sample.fill(clean=True)
    return sample


def verify(sample: Sample, vfs: Vfs) -> Verification:
    return verify_directory(sample.path, vfs=vfs, provider=sample.provider(), live=True)


def test_a_log_that_grows_with_every_read_is_clean(sample: Sample) -> None:
    engine = sample.open(segment_bytes_max=1 << 20)
    busy = BusyVfs(sample.vfs, lambda: sample.append(engine))
    found = verify(sample, busy)
    assert (found.state, found.problems) == (State.CLEAN, ())
    assert found.report.newest_sequence is not None
    assert found.report.newest_sequence > 16


def test_a_log_whose_files_change_with_every_read_is_clean(sample: Sample) -> None:
    """Rotation, a snapshot and retention come in the middle of everything."""
    engine = sample.open(segment_bytes_max=5000)
    calls = 0

    def meanwhile() -> None:
        nonlocal calls
        calls += 1
        sample.append(engine)
        if calls % 25 == 0:
            sample.snapshot(engine)
            engine.log.remove_before(engine.log.last_index)

    found = verify(sample, BusyVfs(sample.vfs, meanwhile))
    assert (found.state, found.problems) == (State.CLEAN, ())
    assert calls > 25


@pytest.mark.parametrize("shown", [0, 1, 8, 15, 16, 17, 100, 300, 511, 512, 700, 1999])
def test_a_frame_that_is_being_written_is_no_damage(sample: Sample, shown: int) -> None:
    """At the first look, only the beginning of the last frame is there, and then all of it."""
    engine = sample.open(segment_bytes_max=1 << 20)
    sample.append(engine, 2)
    path = next(path for path in sample.files() if path.name.startswith("active-"))
    offset = len(sample.memory.content(path).rstrip(b"\0"))
    sample.append(engine, size=2000)
    looks = 0

    def show(seen: Path, data: bytes, at: int) -> bytes:
        nonlocal looks
        if seen != path or looks > 1 or at + len(data) <= offset + shown:
            return data
        looks += 1
        kept = max(offset + shown - at, 0)
        return data[:kept] + bytes(len(data) - kept)

    busy = BusyVfs(sample.vfs, lambda: None)
    busy.show = show
    found = verify(sample, busy)
    assert (found.state, found.problems) == (State.CLEAN, ())
    assert looks == 2
    assert found.report.newest_sequence in {20, 22}


def test_damage_is_found_although_the_log_grows_behind_it(sample: Sample) -> None:
    engine = sample.open(segment_bytes_max=1 << 20)
    sample.append(engine, 3)
    path = next(path for path in sample.files() if path.name.startswith("active-"))
    content = bytearray(sample.memory.content(path))
    content[700] ^= 1
    sample.memory.overwrite(path, bytes(content))
    found = verify(sample, BusyVfs(sample.vfs, lambda: sample.append(engine)))
    assert found.state is State.CORRUPT
    assert [problem.path for problem in found.problems] == [path]


def test_a_dump_shows_the_log_as_it_was_when_it_began(sample: Sample) -> None:
    engine = sample.open(segment_bytes_max=5000)
    records = dump_log(
        sample.path,
        vfs=BusyVfs(sample.vfs, lambda: sample.append(engine)),
        provider=sample.provider(),
        live=True,
    )
    indexes = []
    for record in records:
        assert not isinstance(record, DumpDamage), record
        if isinstance(record, DumpEntry):
            indexes.append(record.index)
            if record.index == 5:
                sample.snapshot(engine)
                engine.log.remove_before(engine.log.last_index)
    assert indexes == list(range(1, len(indexes) + 1))
    assert len(indexes) >= 16


def test_what_can_be_restored_can_be_asked_while_it_changes(sample: Sample) -> None:
    engine = sample.open(segment_bytes_max=5000)
    busy = BusyVfs(sample.vfs, lambda: sample.append(engine))
    history = inspect(sample.path, vfs=busy, provider=sample.provider(), live=True)
    busy.meanwhile = lambda: None
    sample.snapshot(engine)
    engine.log.remove_before(engine.log.last_index)
    assert history.problems == []
    last = history.intervals(history.committed_index)[-1]
    assert (last.earliest, last.latest >= 16) == (0, True)
