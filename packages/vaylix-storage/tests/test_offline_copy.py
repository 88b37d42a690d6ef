"""`copy`: a consistent copy of a directory, whatever happens to it meanwhile."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from vaylix_storage import EnvKeyProvider, FileKeyProvider, RealVfs
from vaylix_storage._staging import is_unfinished
from vaylix_storage._vfs import File
from vaylix_storage.errors import CorruptionError, FileSystemError, KeyringError
from vaylix_storage.offline import CopyResult, Progress, State, copy_directory, no_progress
from vaylix_storage.offline._read_only import ContentFile
from vaylix_storage.offline.testing import NOW_MS, Sample
from vaylix_storage.testing import SimulatedCrash, Survival

TARGET = Path("/copy")


@pytest.fixture
def sample() -> Sample:
    return Sample()


def copy(sample: Sample, target: Path = TARGET, progress: Progress = no_progress) -> CopyResult:
    return copy_directory(
        sample.path, target, vfs=sample.vfs, provider_for=sample.provider, progress=progress
    )


@pytest.mark.parametrize("clean", [True, False])
def test_a_copy_is_the_same_node_with_the_same_data(sample: Sample, *, clean: bool) -> None:
    sample.fill(clean=clean)
    before = sample.files()
    result = copy(sample)
    assert sample.files() == before
    assert result.verification.state is State.CLEAN
    assert not [note for note in result.verification.notes if "no file of Vaylix" in note]
    assert result.verification.path == TARGET
    assert all(part.path.startswith("/copy/") for part in result.verification.report.segments)
    copied = {path.relative_to(TARGET): data for path, data in sample.files(TARGET).items()}
    assert copied == {
        path.relative_to(sample.path): data for path, data in before.items() if path.name != "LOCK"
    }
    assert sample.contents(TARGET) == sample.contents()


def test_reserved_space_is_not_copied() -> None:
    sample = Sample()
    sample.memory.reserves_space = True
    sample.fill(clean=False)
    assert copy(sample).size_bytes < 10_000
    assert sample.contents(TARGET) == sample.contents()


def test_what_lies_beside_the_data_is_left_behind_and_named(sample: Sample) -> None:
    sample.fill(clean=True)
    for name in ("audit.log", "backups/dump.json", "wal/next.tmp", "snapshots/9.snapshot"):
        sample.vfs.make_directory((sample.path / name).parent)
        sample.vfs.create(sample.path / name).close()
    result = copy(sample)
    assert result.left_behind == ("audit.log", "backups")
    assert not {"audit.log", "dump.json", "next.tmp", "9.snapshot"} & {
        path.name for path in sample.files(TARGET)
    }


@pytest.mark.parametrize("moment", range(1, 60, 3))
def test_a_directory_may_change_all_the_while(moment: int) -> None:
    """Appends, rotations, snapshots and retention come between any two steps of the copy."""
    sample = Sample()
    sample.fill(clean=True)
    engine = sample.open()
    acknowledged = engine.log.last_index
    calls = 0
    is_disturbing = False
    real_open = sample.memory.open

    def disturb() -> None:
        nonlocal calls, is_disturbing
        calls += 1
        # The engine opens files as well, but nobody disturbs its own work.
        if calls % moment == 0 and calls < 200 and not is_disturbing:
            is_disturbing = True
            sample.append(engine, 2)
            if calls % 2:
                sample.snapshot(engine)
                engine.log.remove_before(engine.log.last_index - 3)
            is_disturbing = False

    def opening(path: Path) -> object:
        disturb()
        return real_open(path)

    sample.memory.open = opening  # type: ignore[method-assign, assignment]
    result = copy(sample, progress=lambda *_: disturb())
    assert result.verification.state is not State.CORRUPT
    assert (result.verification.report.newest_sequence or 0) >= acknowledged
    calls = 1000
    keys = sample.contents(TARGET)
    newest = result.verification.report.newest_sequence or 0
    assert keys.keys() == {b"key %d" % first for first in range(1, newest + 1, 2)} | {b"n"}


def test_a_snapshot_that_goes_meanwhile_is_not_taken_for_lost(sample: Sample) -> None:
    sample.fill(clean=True)
    engine = sample.open()
    oldest = sample.path / "snapshots" / "6.snapshot"
    real_open = sample.memory.open
    is_first = True

    def opening(path: Path) -> object:
        nonlocal is_first
        if path == oldest and is_first:
            # The manifest that names it has been read already.
            is_first = False
            sample.append(engine)
            sample.snapshot(engine)
            engine.apply_retention(None, NOW_MS)
            assert not sample.vfs.exists(oldest)
        return real_open(path)

    sample.memory.open = opening  # type: ignore[method-assign, assignment]
    result = copy(sample)
    assert not is_first
    assert result.verification.state is not State.CORRUPT
    assert result.verification.report.newest_sequence == engine.log.last_index
    # It is lost, where the manifest goes on to name it.
    engine.close()
    newest = sample.path / "snapshots" / f"{result.verification.report.newest_sequence}.snapshot"
    sample.memory.remove(newest)
    with pytest.raises(CorruptionError, match="the snapshot is missing") as caught:
        copy(sample, Path("/second"))
    assert caught.value.path == newest


def test_a_write_that_is_under_way_is_not_in_the_copy(sample: Sample) -> None:
    sample.fill(clean=False)
    path = sample.wal / "active-13.wal"
    sample.memory.overwrite(path, sample.memory.content(path)[:-40])
    result = copy(sample)
    assert result.verification.state is State.TORN
    assert len(sample.contents(TARGET)) == 8


def test_a_damaged_directory_is_not_copied(sample: Sample) -> None:
    sample.fill(clean=True)
    path = sample.wal / "7-10.wal"
    content = bytearray(sample.memory.content(path))
    content[400] ^= 1
    sample.memory.overwrite(path, bytes(content))
    with pytest.raises(CorruptionError) as caught:
        copy(sample)
    assert caught.value.path == path
    assert not sample.vfs.exists(TARGET)
    assert sample.vfs.list_subdirectories(Path("/")) == ["data"]


def test_a_key_that_is_kept_elsewhere_stays_there(sample: Sample) -> None:
    sample.fill(clean=True)
    sample.vfs.make_directory(Path("/keys"))
    sample.vfs.rename(sample.path / "storage.key", Path("/keys/k"))
    with pytest.raises(KeyringError):
        copy(sample)
    provider = FileKeyProvider(Path("/keys/k"), vfs=sample.vfs)
    result = copy_directory(sample.path, TARGET, vfs=sample.vfs, provider_for=lambda _: provider)
    assert not result.has_key
    assert not sample.vfs.exists(TARGET / "storage.key")
    wrong = EnvKeyProvider("K", environment={"K": "00" * 32})
    with pytest.raises(KeyringError):
        copy_directory(sample.path, Path("/second"), vfs=sample.vfs, provider_for=lambda _: wrong)
    assert not sample.vfs.exists(Path("/second"))


def test_the_target_must_be_empty_and_elsewhere(sample: Sample) -> None:
    sample.fill(clean=True)
    for target in (sample.path, sample.path / "copy", Path("/")):
        with pytest.raises(FileSystemError, match="cannot lie in"):
            copy(sample, target)
    sample.vfs.make_directory(TARGET)
    copy(sample)
    with pytest.raises(FileSystemError, match="not empty"):
        copy(sample)
    sample.vfs.make_directory(Path("/other.copying/mine"))
    with pytest.raises(FileSystemError, match="is taken"):
        copy(sample, Path("/other"))


@pytest.mark.parametrize("cut", [None, *Survival])
def test_a_crash_at_every_call_leaves_nothing_that_looks_whole(cut: Survival | None) -> None:
    call = 0
    while True:
        call += 1
        sample = Sample()
        sample.fill(clean=True)
        vfs = sample.memory
        vfs.power_cut()
        before = sample.files()
        vfs.crash_at(vfs.call_count + call)
        try:
            copy(sample)
            break
        except SimulatedCrash:
            pass
        if cut is None:
            vfs.kill()
        else:
            vfs.power_cut(data=cut, names=cut)
        assert sample.files() == before
        if vfs.exists(TARGET) and not is_unfinished(TARGET, vfs):
            assert len(sample.contents(TARGET)) == 9
            continue
        copy(sample)
        vfs.power_cut()
        assert len(sample.contents(TARGET)) == 9
        assert not vfs.exists(Path("/copy.copying"))
    assert call > 40


@pytest.mark.parametrize("call", range(1, 60, 7))
def test_a_failing_disk_leaves_no_target(sample: Sample, call: int) -> None:
    sample.fill(clean=True)
    sample.memory.fail_at(sample.memory.call_count + call)
    try:
        copy(sample)
    except FileSystemError:
        assert not sample.vfs.exists(TARGET) or is_unfinished(TARGET, sample.vfs)
        copy(sample)
    assert len(sample.contents(TARGET)) == 9


@pytest.mark.parametrize("call", [1, 8, 20, 30])
def test_a_full_disk_is_told_of_the_target(sample: Sample, call: int) -> None:
    sample.fill(clean=True)
    sample.memory.fail_at(sample.memory.call_count + call, errno.ENOSPC)
    with pytest.raises(FileSystemError, match="the copy cannot be written") as caught:
        copy(sample)
    assert caught.value.path == TARGET
    assert caught.value.remedy is not None
    assert "--target-dir" in caught.value.remedy


def test_what_cannot_be_read_is_told_of_the_source(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.fill(clean=True)
    path = sample.wal / "7-10.wal"
    real_open = sample.vfs.open

    class Unreadable(ContentFile):
        def read_at(self, offset: int, size: int) -> bytes:
            del offset, size
            raise OSError(errno.EIO, "the disk is broken")

    def open_file(asked: Path) -> File:
        return Unreadable(bytes(1000)) if asked == path else real_open(asked)

    monkeypatch.setattr(sample.vfs, "open", open_file)
    with pytest.raises(FileSystemError, match="the disk is broken") as caught:
        copy(sample)
    assert caught.value.path == path
    assert not sample.vfs.exists(TARGET)


def test_a_real_directory_is_copied_while_a_thread_writes(tmp_path: Path) -> None:
    sample = Sample(tmp_path / "data", RealVfs())
    engine = sample.open(segment_bytes_max=20_000)
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            while not stop.is_set():
                sample.append(engine, 20, size=300)
                if engine.log.last_index % 400 == 0:
                    sample.snapshot(engine)
                    engine.log.remove_before(engine.log.last_index - 100)
        except BaseException as error:  # noqa: BLE001 - the test must see it
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            acknowledged = engine.log.last_index
            target = tmp_path / f"copy{number}"
            result = copy(sample, target)
            assert (result.verification.report.newest_sequence or 0) >= acknowledged
            assert sample.contents(target)
    finally:
        stop.set()
        writer.join()
    assert failures == []
    engine.close()
