"""The file system seam: the real one and the simulated one keep the same promises."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vaylix_storage import RealVfs
from vaylix_storage._vfs import create_file_durably, replace_file_durably
from vaylix_storage.testing import MemoryVfs, SimulatedCrash, Survival

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_storage import Vfs


@pytest.fixture(params=["real", "simulated", "simulated with reserved space"])
def vfs(request: pytest.FixtureRequest) -> Vfs:
    if request.param == "real":
        return RealVfs()
    return MemoryVfs(reserves_space=request.param.endswith("space"))


@pytest.fixture
def directory(vfs: Vfs, tmp_path: Path) -> Path:
    path = tmp_path / "a" / "b"
    vfs.make_directory(path)
    vfs.make_directory(path)
    return path


def test_bytes_written_at_an_offset_are_read_back(vfs: Vfs, directory: Path) -> None:
    file = vfs.create(directory / "f")
    file.write_at(0, b"hello")
    file.write_at(7, b"world")
    file.sync()
    assert file.size() == 12
    assert file.read_at(0, 100) == b"hello\0\0world"
    assert file.read_at(3, 3) == b"lo\0"
    assert file.read_at(12, 5) == b""
    file.close()
    reader = vfs.open(directory / "f")
    assert reader.read_at(7, 5) == b"world"
    reader.close()


def test_reserved_space_reads_as_zeros_and_can_be_given_back(vfs: Vfs, directory: Path) -> None:
    file = vfs.create(directory / "f")
    file.write_at(0, b"x")
    if file.allocate(1, 4096):
        assert file.read_at(0, 5) == b"x\0\0\0\0"
        assert file.size() == 4097
    file.give_back(1)
    assert file.size() == 1
    file.close()


def test_creating_is_exclusive_and_opening_needs_a_file(vfs: Vfs, directory: Path) -> None:
    vfs.create(directory / "f").close()
    with pytest.raises(FileExistsError):
        vfs.create(directory / "f")
    with pytest.raises(FileNotFoundError):
        vfs.open(directory / "g")
    with pytest.raises(FileNotFoundError):
        vfs.create(directory / "none" / "f")


def test_names(vfs: Vfs, directory: Path) -> None:
    for name in ("b", "a"):
        vfs.create(directory / name).close()
    assert vfs.list_directory(directory) == ["a", "b"]
    vfs.rename(directory / "a", directory / "b")
    vfs.sync_directory(directory)
    assert vfs.list_directory(directory) == ["b"]
    assert vfs.exists(directory)
    assert not vfs.exists(directory / "a")
    vfs.unlink(directory / "b")
    assert vfs.list_directory(directory) == []
    for action in (vfs.unlink, vfs.list_directory):
        with pytest.raises(FileNotFoundError):
            action(directory / "none")
    with pytest.raises(FileNotFoundError):
        vfs.rename(directory / "none", directory / "c")


def test_directories_are_named_moved_and_removed(vfs: Vfs, directory: Path) -> None:
    vfs.make_directory(directory / "old" / "inner")
    vfs.create(directory / "old" / "f").close()
    assert vfs.list_subdirectories(directory) == ["old"]
    assert vfs.list_directory(directory) == []
    assert vfs.is_directory(directory / "old")
    assert not vfs.is_directory(directory / "old" / "f")
    assert not vfs.is_directory(directory / "none")
    assert not vfs.is_mount_point(directory / "old")
    vfs.rename(directory / "old", directory / "new")
    assert vfs.list_directory(directory / "new") == ["f"]
    assert vfs.list_subdirectories(directory / "new") == ["inner"]
    assert not vfs.exists(directory / "old" / "f")
    with pytest.raises(OSError, match="not empty"):
        vfs.remove_directory(directory / "new")
    vfs.unlink(directory / "new" / "f")
    vfs.remove_directory(directory / "new" / "inner")
    vfs.remove_directory(directory / "new")
    vfs.sync_directory(directory)
    assert not vfs.exists(directory / "new")
    with pytest.raises(FileNotFoundError):
        vfs.remove_directory(directory / "new")


def test_a_rename_replaces_an_empty_directory_only(vfs: Vfs, directory: Path) -> None:
    for name in ("a", "empty", "full"):
        vfs.make_directory(directory / name)
    vfs.create(directory / "full" / "f").close()
    vfs.create(directory / "file").close()
    refusals: list[tuple[str, str, type[OSError]]] = [
        ("a", "full", OSError),
        ("a", "file", NotADirectoryError),
        ("file", "a", IsADirectoryError),
        ("a", "a/below", OSError),
    ]
    for source, target, kind in refusals:
        with pytest.raises(kind):
            vfs.rename(directory / source, directory / target)
    vfs.rename(directory / "full", directory / "empty")
    assert vfs.list_directory(directory / "empty") == ["f"]
    for action in (vfs.unlink, vfs.create):
        with pytest.raises(OSError, match=r"empty|directory|exists"):
            action(directory / "empty")


def test_modes_can_be_read_and_set(vfs: Vfs, directory: Path) -> None:
    vfs.create(directory / "f").close()
    assert vfs.mode(directory / "f") == 0o600
    assert vfs.mode(directory) == 0o700
    vfs.set_mode(directory / "f", 0o644)
    assert vfs.mode(directory / "f") == 0o644
    assert vfs.is_own(directory / "f")
    actions: list[Callable[[Path], object]] = [vfs.mode, vfs.is_own]
    for action in actions:
        with pytest.raises(FileNotFoundError):
            action(directory / "none")


def test_a_lock_excludes_others_until_released(vfs: Vfs, directory: Path) -> None:
    lock = vfs.lock(directory / "LOCK")
    with pytest.raises(BlockingIOError):
        vfs.lock(directory / "LOCK")
    vfs.unlink(directory / "LOCK")
    with pytest.raises(BlockingIOError):
        vfs.lock(directory / "LOCK")
    lock.release()
    vfs.lock(directory / "LOCK").release()


def test_a_shared_lock_creates_nothing_and_keeps_out_only_those_who_write(
    vfs: Vfs, directory: Path
) -> None:
    first, second = (vfs.lock_shared(directory / "LOCK") for _ in range(2))
    assert vfs.list_directory(directory) == []
    first.release()
    first.release()
    with pytest.raises(BlockingIOError):
        vfs.lock(directory / "LOCK")
    second.release()
    lock = vfs.lock(directory / "LOCK")
    with pytest.raises(BlockingIOError):
        vfs.lock_shared(directory / "LOCK")
    lock.release()
    vfs.lock_shared(directory / "LOCK").release()


def test_a_small_file_is_created_whole(vfs: Vfs, directory: Path) -> None:
    vfs.create(directory / "f.tmp").close()
    create_file_durably(vfs, directory / "f", b"content")
    file = vfs.open(directory / "f")
    assert file.read_at(0, 10) == b"content"
    file.close()
    assert vfs.list_directory(directory) == ["f"]


def test_a_failure_or_crash_at_every_call_leaves_all_of_a_small_file_or_none() -> None:
    path = Path("/d/f")
    finished = False
    for call in range(1, 7):
        for arm in (MemoryVfs.crash_at, MemoryVfs.fail_at):
            vfs = MemoryVfs()
            vfs.make_directory(path.parent)
            arm(vfs, vfs.call_count + call)
            try:
                create_file_durably(vfs, path, b"new" * 300)
                finished = True
            except OSError:
                finished = False
                assert not vfs.exists(path), "what failed must not look as if it had not"
            except SimulatedCrash:
                finished = False
            vfs.power_cut(Survival.FIRST_HALF, Survival.FIRST_HALF)
            assert not finished or vfs.exists(path)
            assert not vfs.exists(path) or vfs.content(path) == b"new" * 300
    assert finished, "there are more calls than this test makes fail"


def test_a_small_file_is_replaced_whole(vfs: Vfs, directory: Path) -> None:
    for content in (b"first", b"2nd"):
        replace_file_durably(vfs, directory / "f", content)
        file = vfs.open(directory / "f")
        assert file.read_at(0, 10) == content
        file.close()
    assert vfs.list_directory(directory) == ["f"]


@pytest.mark.parametrize("survival", Survival)
def test_a_failure_or_crash_at_every_call_leaves_the_old_small_file_or_the_new(
    survival: Survival,
) -> None:
    path = Path("/d/f")
    old, new = b"old" * 300, b"new" * 300
    finished = False
    for call in range(1, 7):
        for arm in (MemoryVfs.crash_at, MemoryVfs.fail_at):
            vfs = MemoryVfs()
            vfs.make_directory(path.parent)
            create_file_durably(vfs, path, old)
            arm(vfs, vfs.call_count + call)
            try:
                replace_file_durably(vfs, path, new)
                finished = True
            except OSError:
                finished = False
                assert vfs.content(path) in (old, new), "a failure must not take the file away"
            except SimulatedCrash:
                finished = False
            vfs.power_cut(survival, survival)
            assert vfs.content(path) in ((new,) if finished else (old, new))
            replace_file_durably(vfs, path, new)
            vfs.power_cut()
            assert vfs.content(path) == new
    assert finished, "there are more calls than this test makes fail"


def test_real_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    vfs = RealVfs()
    old = os.umask(0)
    try:
        vfs.make_directory(tmp_path / "d")
        vfs.create(tmp_path / "d" / "f").close()
        vfs.lock(tmp_path / "d" / "LOCK").release()
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "d" / "f").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "d" / "LOCK").stat().st_mode) == 0o600


def test_the_names_of_directories_are_synced_also_when_they_exist(tmp_path: Path) -> None:
    synced: list[Path] = []

    class Recording(RealVfs):
        def sync_directory(self, path: Path) -> None:
            synced.append(path)
            super().sync_directory(path)

    Recording().make_directory(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
    synced.clear()
    Recording().make_directory(tmp_path / "a" / "b")
    assert synced == [tmp_path / "a"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        RealVfs().make_directory(tmp_path / "file" / "below")


def test_symbolic_links_and_directories_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "sub").mkdir()
    assert RealVfs().list_directory(tmp_path) == ["file"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RealVfs().create(tmp_path / "f")
    real_pwrite = os.pwrite

    def pwrite_a_little(descriptor: int, data: bytes, offset: int) -> int:
        return real_pwrite(descriptor, data[:3], offset)

    monkeypatch.setattr(os, "pwrite", pwrite_a_little)
    file.write_at(2, b"0123456789")
    assert file.read_at(2, 10) == b"0123456789"
    monkeypatch.setattr(os, "pwrite", lambda _descriptor, _data, _offset: 0)
    with pytest.raises(OSError, match="no progress"):
        file.write_at(12, b"x")
    file.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_space_that_cannot_be_reserved_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(_descriptor: int, _offset: int, _size: int) -> None:
        raise OSError(error, "no")

    file = RealVfs().create(tmp_path / "f")
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert file.allocate(0, 10) is False
    error = errno.EIO
    with pytest.raises(OSError, match="no"):
        file.allocate(0, 10)
    file.close()


# The simulation must be as hostile as it says.


def file_on(vfs: MemoryVfs) -> Path:
    vfs.make_directory(Path("/d"))
    return Path("/d/f")


def test_unsynced_names_and_bytes_are_lost() -> None:
    vfs = MemoryVfs()
    path = file_on(vfs)
    file = vfs.create(path)
    file.write_at(0, b"x" * 600)
    file.sync()
    vfs.power_cut()
    assert not vfs.exists(path)
    file = vfs.create(path)
    file.write_at(0, b"x" * 600)
    vfs.sync_directory(Path("/d"))
    vfs.power_cut()
    assert vfs.content(path) == b""
    with pytest.raises(SimulatedCrash):
        file.size()


def test_writes_tear_at_sectors() -> None:
    expected = {
        Survival.NOTHING: b"",
        Survival.FIRST_HALF: b"x" * 1024,
        Survival.EVEN_SECTORS: b"x" * 512 + bytes(512) + b"x" * 376,
        Survival.ODD_SECTORS: bytes(512) + b"x" * 512,
        Survival.EVERYTHING: b"x" * 1400,
    }
    for survival, content in expected.items():
        vfs = MemoryVfs()
        path = file_on(vfs)
        file = vfs.create(path)
        vfs.sync_directory(Path("/d"))
        file.write_at(0, b"x" * 1400)
        vfs.power_cut(survival)
        assert vfs.content(path) == content


def test_a_failed_sync_marks_pages_clean() -> None:
    vfs = MemoryVfs()
    path = file_on(vfs)
    file = vfs.create(path)
    vfs.sync_directory(Path("/d"))
    file.write_at(0, b"lost")
    vfs.fail_at(vfs.call_count + 1, errno.EIO)
    with pytest.raises(OSError, match="failed"):
        file.sync()
    file.sync()
    assert vfs.content(path) == b"lost"
    vfs.power_cut()
    assert vfs.content(path) == b""


def test_changing_or_cutting_written_bytes_is_caught() -> None:
    vfs = MemoryVfs()
    file = vfs.create(file_on(vfs))
    file.write_at(0, b"data")
    with pytest.raises(AssertionError):
        file.write_at(3, b"x")
    with pytest.raises(AssertionError):
        file.give_back(3)


def directory_with_files(vfs: MemoryVfs) -> Path:
    """A directory with one file whose name is on the disk, and one whose name is not."""
    path = Path("/d/old")
    vfs.make_directory(path)
    for name in ("synced", "unsynced"):
        file = vfs.create(path / name)
        file.write_at(0, name.encode())
        file.sync()
        if name == "synced":
            vfs.sync_directory(path)
    return path


def test_a_directory_that_moves_keeps_what_is_in_it_synced_or_not() -> None:
    new = Path("/d/new")
    for names, expected in ((Survival.NOTHING, ["synced"]), (Survival.EVERYTHING, None)):
        vfs = MemoryVfs()
        old = directory_with_files(vfs)
        vfs.rename(old, new)
        assert vfs.list_directory(new) == ["synced", "unsynced"]
        vfs.power_cut(Survival.NOTHING, names)
        here = old if names is Survival.NOTHING else new
        assert vfs.list_subdirectories(Path("/d")) == [here.name]
        assert vfs.list_directory(here) == (expected or ["synced", "unsynced"])
    vfs = MemoryVfs()
    vfs.rename(directory_with_files(vfs), new)
    vfs.sync_directory(Path("/d"))
    vfs.power_cut()
    assert vfs.list_subdirectories(Path("/d")) == ["new"]
    assert vfs.list_directory(new) == ["synced"], "the sync was of another directory"
    assert vfs.content(new / "synced") == b"synced"


def test_the_sync_of_a_moved_directory_is_for_what_is_in_it() -> None:
    vfs = MemoryVfs()
    old = directory_with_files(vfs)
    vfs.rename(old, Path("/d/new"))
    vfs.sync_directory(Path("/d/new"))
    vfs.power_cut()
    assert vfs.list_directory(old) == ["synced", "unsynced"]


def test_a_name_that_changes_directories_needs_a_sync_of_both() -> None:
    for synced in (["a"], ["b"], ["a", "b"]):
        vfs = MemoryVfs()
        for name in ("a", "b"):
            vfs.make_directory(Path("/", name))
        vfs.create(Path("/a/f")).close()
        vfs.sync_directory(Path("/a"))
        vfs.rename(Path("/a/f"), Path("/b/f"))
        for name in synced:
            vfs.sync_directory(Path("/", name))
        vfs.power_cut()
        assert vfs.exists(Path("/b/f")) is (len(synced) == 2)
        assert vfs.exists(Path("/a/f")) is (len(synced) == 1)


def test_a_removed_directory_comes_back_unless_its_parent_was_synced() -> None:
    for is_synced in (False, True):
        vfs = MemoryVfs()
        path = directory_with_files(vfs)
        for name in ("synced", "unsynced"):
            vfs.unlink(path / name)
        vfs.remove_directory(path)
        if is_synced:
            vfs.sync_directory(path.parent)
        vfs.power_cut()
        assert vfs.exists(path / "synced") is not is_synced
        assert vfs.exists(path) is not is_synced


def test_the_root_is_a_mount_point_and_what_is_not_there_is_none() -> None:
    vfs = RealVfs()
    assert vfs.is_mount_point(Path("/"))
    assert not vfs.is_mount_point(Path("/no such thing"))
