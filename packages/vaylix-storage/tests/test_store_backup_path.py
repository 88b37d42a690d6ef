"""Where a store lets a backup be written: anywhere but among its own files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vaylix_storage import Store
from vaylix_storage.errors import BackupPathError


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_backup_never_goes_among_the_files_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    store = Store.open(data)
    store.set(b"k", b"v")
    store.snapshot()
    before = contents(data)
    link = tmp_path / "link"
    link.symlink_to(data)
    monkeypatch.chdir(data)
    places = [
        *before,
        data,
        data / "new.json",
        data / "wal" / "new.json",
        data / "unknown" / "new.json",
        data / "backups",
        data / "backups" / ".." / "node.json",
        tmp_path / "elsewhere" / ".." / "data" / "node.json",
        link / "node.json",
        link / "wal" / "new.json",
        Path("node.json"),
        Path("wal/new.json"),
    ]
    assert len(places) > 15
    for place in places:
        for path in (place, os.fspath(place)):
            with pytest.raises(BackupPathError) as caught:
                store.backup(path)
            assert caught.value.remedy
            assert contents(data) == before
    assert not (data / "unknown").exists()
    assert not (data / "backups").exists()
    store.close()
    with Store.open(data) as store:
        assert store.get(b"k") == b"v"


def test_a_directory_of_backups_may_lie_inside_and_others_beside(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Store.open(data) as store:
        store.set(b"k", b"v")
        for path in (
            data / "backups" / "dump.json",
            data / "backups" / "monday" / "dump.json",
            tmp_path / "dump.json",
            tmp_path / "data.json",
            tmp_path / "data-2" / "node.json",
        ):
            store.backup(path)
            assert store.restore_backup(path) == 1
    with Store.open(data) as store:
        assert store.get(b"k") == b"v"


def test_a_link_named_backups_does_not_lead_to_the_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Store.open(data) as store:
        (data / "backups").symlink_to(data / "wal")
        with pytest.raises(BackupPathError):
            store.backup(data / "backups" / "dump.json")
        (data / "backups").unlink()
