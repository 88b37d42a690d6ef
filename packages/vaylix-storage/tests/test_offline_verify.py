"""`verify`: what it finds in a whole, a torn and a damaged directory, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from vaylix_storage import EnvKeyProvider, KeyProvider, RealVfs
from vaylix_storage.errors import (
    DirectoryLockedError,
    FileSystemError,
    ForeignFormatError,
    KeyringError,
    MigrationRequiredError,
)
from vaylix_storage.offline import RateLimited, State, StorageReport, Verification, verify_directory
from vaylix_storage.offline.testing import NOW_MS, Sample
from vaylix_storage.testing import MemoryVfs


@pytest.fixture
def sample() -> Sample:
    return Sample()


def verify(
    sample: Sample, provider: KeyProvider | None = None, *, live: bool = False
) -> Verification:
    before = sample.files()
    found = verify_directory(
        sample.path, vfs=sample.vfs, provider=provider or sample.provider(), live=live
    )
    assert sample.files() == before
    return found


def damage(sample: Sample, path: Path, offset: int) -> None:
    content = bytearray(sample.memory.content(path))
    content[offset] ^= 0x01
    sample.memory.overwrite(path, bytes(content))


def test_a_directory_that_was_stopped_cleanly(sample: Sample) -> None:
    sample.fill(clean=True)
    found = verify(sample)
    assert (found.state, found.problems, found.notes) == (State.CLEAN, (), ())
    assert found.ending == "clean end"
    assert found.commit_index == 16
    assert found.report.lines() == [
        "snapshot_present=true",
        "storage_format_version=4",
        "snapshot_size_bytes=489",
        "last_snapshot_sequence=12",
        f"last_snapshot_at_ms={NOW_MS + 500}",
        "wal_segment_count=5",
        "sealed_wal_segment_count=4",
        "active_wal_segment_count=1",
        "active_wal_start_sequence=13",
        "oldest_retained_sequence=1",
        "newest_sequence=16",
        "wal_size_bytes=2928",
    ]
    assert [snapshot.items for snapshot in found.report.snapshots] == [
        {"keyspace": 4},
        {"keyspace": 7},
    ]
    times = [
        (segment.first_index, segment.last_index, segment.first_timestamp_ms - NOW_MS)
        for segment in found.report.segments
    ]
    assert times == [(1, 4, 1), (5, 6, 5), (7, 10, 7), (11, 12, 11), (13, 16, 13)]
    assert msgspec.json.decode(found.as_json())["report"]["segments"][0]["path"].endswith("1-4.wal")


def test_entries_count_that_are_not_known_to_be_on_the_disk() -> None:
    """The active segment is read to its end, whatever its frames say of syncs."""
    sample = Sample(vfs=MemoryVfs(reserves_space=True))
    sample.fill(clean=False)
    report = verify(sample).report
    assert report.newest_sequence == 16
    assert report.segments[-1].last_timestamp_ms == NOW_MS + 15
    assert report.segments[-1].file_bytes > 4 * 1024 * 1024 > report.segments[-1].size_bytes


def test_the_report_of_nothing() -> None:
    assert StorageReport().lines() == [
        "snapshot_present=false",
        "storage_format_version=4",
        "snapshot_size_bytes=0",
        "last_snapshot_sequence=0",
        "last_snapshot_at_ms=none",
        "wal_segment_count=0",
        "sealed_wal_segment_count=0",
        "active_wal_segment_count=0",
        "active_wal_start_sequence=1",
        "oldest_retained_sequence=none",
        "newest_sequence=none",
        "wal_size_bytes=0",
    ]


def test_a_start_that_wrote_nothing_is_clean(sample: Sample) -> None:
    sample.open().abandon()
    found = verify(sample)
    assert found.state is State.CLEAN
    assert found.report.newest_sequence is None


def test_a_torn_tail_is_what_a_start_leaves_out(sample: Sample) -> None:
    sample.fill(clean=False)
    path = sample.wal / "active-13.wal"
    sample.memory.overwrite(path, sample.memory.content(path)[:-20])
    found = verify(sample)
    assert found.state is State.TORN
    assert found.left_out is not None
    assert (found.left_out.path, found.left_out.offset) == (path, 480)
    assert found.report.newest_sequence == 14
    recovery = sample.open().log.recovery
    assert recovery.left_out_path == path
    assert (recovery.left_out_offset, recovery.left_out_bytes) == (
        found.left_out.offset,
        found.left_out.bytes,
    )


def test_everything_that_is_damaged_is_found_not_only_the_first(sample: Sample) -> None:
    sample.fill(clean=True)
    places = {
        sample.path / "snapshots" / "6.snapshot": 300,
        sample.path / "snapshots" / "12.snapshot": 40,
        sample.wal / "1-4.wal": 500,
        sample.wal / "5-6.wal": 30,
        sample.wal / "11-12.wal": 400,
        sample.wal / "closed-13-16.wal": 600,
    }
    for path, offset in places.items():
        damage(sample, path, offset)
    found = verify(sample)
    assert found.state is State.CORRUPT
    assert {problem.path for problem in found.problems} >= places.keys() - {sample.wal / "1-4.wal"}
    for problem in found.problems:
        assert problem.offset is not None
        assert problem.offset <= places.get(problem.path, 10**9)
        assert problem.code == "ENG-007"
        assert problem.remedy


def test_a_lost_keyring_is_damage_and_a_wrong_key_is_not(sample: Sample) -> None:
    sample.fill(clean=True)
    wrong = EnvKeyProvider("K", environment={"K": "00" * 32})
    with pytest.raises(KeyringError, match="is not wrapped by the provider 'env'"):
        verify(sample, wrong)
    sample.memory.overwrite(sample.path / "storage.key", b"00" * 32)
    with pytest.raises(KeyringError, match="holds another key"):
        verify(sample)
    sample.memory.remove(sample.path / "keyring.bin")
    (problem,) = verify(sample).problems
    assert problem.path == sample.path / "keyring.bin"


@pytest.mark.parametrize(
    ("lost", "reported"),
    [
        ("node.json", "node.json"),
        ("snapshots/6.snapshot", "snapshots/6.snapshot"),
        ("snapshots/12.snapshot", "snapshots/12.snapshot"),
        ("wal/7-10.wal", "wal/11-12.wal"),
        ("wal/closed-13-16.wal", "wal/11-12.wal"),
    ],
)
def test_a_lost_file_is_found(sample: Sample, lost: str, reported: str) -> None:
    sample.fill(clean=True)
    sample.memory.remove(sample.path / lost)
    found = verify(sample)
    assert found.state is State.CORRUPT
    assert found.problems[0].path == sample.path / reported


def test_a_lost_log_is_found(sample: Sample) -> None:
    sample.fill(clean=True)
    for path in sample.files():
        if path.parent == sample.wal:
            sample.memory.remove(path)
    (problem,) = verify(sample).problems
    assert "missing" in problem.reason


def test_strays_and_leftovers_are_notes(sample: Sample) -> None:
    sample.fill(clean=True)
    for name in ("wal/next.tmp", "snapshots/99.snapshot", "snapshots/7.snapshot.tmp", "letter.txt"):
        file = sample.vfs.create(sample.path / name)
        file.close()
    sample.vfs.set_mode(sample.path / "keyring.bin", 0o644)
    found = verify(sample)
    assert found.state is State.CLEAN
    noted = "\n".join(found.notes)
    for name in ("next.tmp", "99.snapshot", "7.snapshot.tmp", "letter.txt", "0644"):
        assert noted.count(name) == 1
    assert len(found.notes) == 5


def test_a_directory_in_use_is_refused_unless_live(sample: Sample) -> None:
    sample.fill(clean=True)
    engine = sample.open()
    with pytest.raises(DirectoryLockedError, match="--live"):
        verify(sample)
    found = verify(sample, live=True)
    assert found.state is State.CLEAN
    assert "in use" in found.notes[-1]
    engine.close()
    assert verify(sample).state is State.CLEAN


def test_a_live_directory_may_change_while_it_is_looked_at(sample: Sample) -> None:
    """Retention, rotation and a snapshot come in the middle."""
    sample.fill(clean=True)
    engine = sample.open()
    calls = 0

    def meanwhile(what: str, done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls in {8, 20}:
            sample.append(engine, 4)
            sample.snapshot(engine)
            engine.log.remove_before(engine.log.last_index)

    found = verify_directory(
        sample.path, vfs=sample.vfs, provider=sample.provider(), live=True, progress=meanwhile
    )
    assert calls > 20
    assert (found.state, found.problems) == (State.CLEAN, ())


def test_damage_is_found_in_a_live_directory(sample: Sample) -> None:
    sample.fill(clean=True)
    sample.open()
    damage(sample, sample.wal / "7-10.wal", 400)
    found = verify(sample, live=True)
    assert found.state is State.CORRUPT


def test_what_is_no_data_directory_is_refused(sample: Sample) -> None:
    """Weakness 14: a mistyped path must not verify, and nothing may be created there."""
    with pytest.raises(FileSystemError, match="no such directory"):
        verify_directory(sample.path, vfs=sample.vfs, provider=sample.provider())
    assert not sample.vfs.exists(sample.path)
    sample.vfs.make_directory(sample.path)
    with pytest.raises(ForeignFormatError, match="no data directory"):
        verify(sample)
    sample.vfs.create(sample.path / "snapshot.bin").close()
    with pytest.raises(MigrationRequiredError, match="vaylix storage migrate"):
        verify(sample)


def test_it_works_on_a_read_only_directory_of_the_real_disk(tmp_path: Path) -> None:
    sample = Sample(tmp_path / "data", RealVfs())
    sample.fill(clean=True)
    (sample.path / "LOCK").unlink()
    for path in [sample.path, *sample.path.rglob("*")]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    assert verify(sample).state is State.CLEAN
    for path in (sample.path, sample.wal, sample.path / "snapshots"):
        path.chmod(0o700)


def test_progress_begins_ends_and_keeps_its_pace(sample: Sample) -> None:
    sample.fill(clean=True)
    seen: list[tuple[str, int, int]] = []
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.01
        return now

    progress = RateLimited(lambda *step: seen.append(step), clock, interval_s=0.1)
    verify_directory(sample.path, vfs=sample.vfs, provider=sample.provider(), progress=progress)
    total = seen[0][2]
    assert seen[0] == ("verifying", 0, total)
    assert seen[-1] == ("verifying", total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert len(seen) < 20
