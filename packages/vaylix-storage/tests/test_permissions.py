"""What other users could read is found, closed where it is ours, and reported."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vaylix_storage import DataDirectory, FileKeyProvider, Log, LogOptions, RealVfs
from vaylix_storage._permissions import ModeFinding, find_loose_modes, tighten_modes
from vaylix_storage.errors import FileSystemError
from vaylix_storage.testing import MemoryVfs


def modes(findings: list[ModeFinding]) -> dict[str, int]:
    return {finding.path.name: finding.mode for finding in findings}


def data_directory(path: Path) -> RealVfs:
    """What a start makes: identity, key, keyring, log; and snapshots beside it."""
    vfs = RealVfs()
    directory = DataDirectory.open(path, vfs=vfs)
    provider = FileKeyProvider(path / "storage.key", vfs=vfs)
    keyring = directory.open_keyring(provider, created_at_ms=1)
    options = LogOptions(timeline=directory.timeline)
    Log.open(directory.wal_path, vfs=vfs, keyring=keyring, options=options).close()
    directory.mark_log_begun()
    vfs.make_directory(path / "snapshots")
    vfs.create(path / "snapshots" / "1.snapshot").close()
    directory.close()
    return vfs


def test_what_a_start_makes_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        vfs = data_directory(tmp_path / "data")
    finally:
        os.umask(old)
    assert find_loose_modes(tmp_path / "data", vfs=vfs) == []


def test_everything_that_is_too_open_is_found_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "data"
    vfs = data_directory(path)
    everything = [path, *path.rglob("*")]
    assert len(everything) == 10
    for file in everything:
        file.chmod(0o755 if file.is_dir() else 0o644)
    findings = find_loose_modes(path, vfs=vfs)
    assert {finding.path for finding in findings} == set(everything)
    assert {finding.mode for finding in findings} == {0o755, 0o644}
    assert all(finding.is_own for finding in findings)
    assert tighten_modes(findings, vfs=vfs) == []
    assert find_loose_modes(path, vfs=vfs) == []
    for file in everything:
        assert vfs.mode(file) == (0o700 if file.is_dir() else 0o600)


def test_only_what_is_ours_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "data"
    vfs = data_directory(path)
    (path / "a" / "b").mkdir(parents=True)
    ours = [path / "backups", path / "backups" / "deep", path / "backups" / "deep" / "dump.json"]
    ours[1].mkdir(parents=True)
    ours[2].write_bytes(b"")
    ours += [path / "manifest.bin.tmp", path / "wal" / "next.tmp"]
    theirs = [path / "run.sh", path / "a" / "b" / "c", path / "wal" / "x", path / "snapshots" / "y"]
    for file in (*theirs, *ours[3:]):
        file.write_bytes(b"")
    theirs += [path / "a", path / "a" / "b"]
    for file in (*ours, *theirs):
        file.chmod(0o755)
    findings = find_loose_modes(path, vfs=vfs)
    assert {finding.path for finding in findings} == set(ours)
    assert tighten_modes(findings, vfs=vfs) == []
    assert {vfs.mode(file) for file in theirs} == {0o755}


def test_a_key_file_elsewhere_is_looked_at_through_links(tmp_path: Path) -> None:
    vfs = RealVfs()
    for name in ("data", "keys"):
        vfs.make_directory(tmp_path / name)
    key = tmp_path / "keys" / "real.key"
    key.write_bytes(b"")
    key.chmod(0o640)
    link = tmp_path / "data" / "storage.key"
    link.symlink_to(key)
    assert find_loose_modes(tmp_path / "data", vfs=vfs) == []
    (finding,) = find_loose_modes(
        tmp_path / "data", vfs=vfs, others=[link, tmp_path / "keys" / "none"]
    )
    assert finding.path == link
    assert tighten_modes([finding], vfs=vfs) == []
    assert vfs.mode(key) == 0o600


def test_no_right_is_given_that_was_not_there(tmp_path: Path) -> None:
    vfs = RealVfs()
    file = tmp_path / "f"
    file.write_bytes(b"")
    for before, after in ((0o440, 0o400), (0o777, 0o600), (0o400, 0o400), (0o600, 0o600)):
        file.chmod(before)
        tighten_modes(find_loose_modes(tmp_path / "none", vfs=vfs, others=[file]), vfs=vfs)
        assert vfs.mode(file) == after


def test_a_finding_says_what_to_do() -> None:
    finding = ModeFinding(Path("/data/it's"), 0o644, 0o600, is_own=True)
    assert str(finding) == (
        "/data/it's has mode 0644, which lets other users in; "
        """close it: chmod 600 '/data/it'"'"'s'"""
    )
    other = ModeFinding(Path("/data"), 0o750, 0o700, is_own=False)
    assert "belongs to another user" in str(other)
    assert other.remedy == "chmod 700 /data"


class OthersVfs(MemoryVfs):
    """A disk on which files with this name belong to another user."""

    def is_own(self, path: Path) -> bool:
        return super().is_own(path) and path.name != "keyring.bin"


def test_what_belongs_to_others_or_cannot_be_changed_is_left_and_reported() -> None:
    vfs = OthersVfs()
    vfs.make_directory(Path("/d"))
    for name in ("node.json", "keyring.bin"):
        vfs.create(Path("/d", name)).close()
        vfs.set_mode(Path("/d", name), 0o644)
    findings = find_loose_modes(Path("/d"), vfs=vfs)
    assert modes(findings) == {"node.json": 0o644, "keyring.bin": 0o644}
    vfs.fail_at(vfs.call_count + 1, errno.EROFS)
    assert modes(tighten_modes(findings, vfs=vfs)) == {"node.json": 0o644, "keyring.bin": 0o644}
    assert modes(tighten_modes(findings, vfs=vfs)) == {"keyring.bin": 0o644}
    assert vfs.mode(Path("/d/node.json")) == 0o600
    vfs.unlink(Path("/d/node.json"))
    assert modes(tighten_modes(findings, vfs=vfs)) == {"keyring.bin": 0o644}, "gone is closed"


def test_a_directory_that_cannot_be_listed_is_an_error() -> None:
    vfs = MemoryVfs()
    vfs.make_directory(Path("/d"))
    vfs.create(Path("/d/f")).close()
    assert find_loose_modes(Path("/none"), vfs=vfs) == []
    with pytest.raises(FileSystemError):
        find_loose_modes(Path("/d/f"), vfs=vfs)
