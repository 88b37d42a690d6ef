"""Where a store lets a backup be written: where it harms neither data nor backups of others."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vaylix_storage import RealVfs, Store
from vaylix_storage.errors import (
    BackupFileError,
    BackupNameError,
    BackupPathError,
    ForeignBackupError,
    StorageError,
)
from vaylix_storage.logical_backup import BackupDirectory, BackupHeader, DocumentWriter
from vaylix_storage.testing import MemoryVfs


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


def test_a_backup_of_a_store_never_gets_the_name_of_a_sidecar(tmp_path: Path) -> None:
    with Store.open(tmp_path / "data") as store:
        with pytest.raises(BackupNameError) as caught:
            store.backup(tmp_path / "c.manifest.json")
        assert caught.value.remedy
        assert [path.name for path in tmp_path.iterdir()] == ["data"]
        store.backup(tmp_path / "c")


def test_a_backup_never_goes_among_the_files_of_another_store(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with Store.open(other) as store:
        store.set(b"k", b"other")
        store.snapshot()
    before = contents(other)
    with Store.open(tmp_path / "data") as store:
        store.set(b"k", b"v")
        for path in (*before, other / "new.json", other / "wal" / "new.json"):
            with pytest.raises(BackupPathError, match="files of another data directory") as caught:
                store.backup(path)
            assert str(other / "backups") in str(caught.value.remedy)
        assert contents(other) == before
        store.backup(other / "backups" / "dump.json")
    with Store.open(other) as store:
        assert store.get(b"k") == b"other"


def test_only_an_earlier_backup_of_the_same_store_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "backups"
    dump, text = place / "dump.json", place / "notes.txt"
    with Store.open(tmp_path / "other") as store:
        store.set(b"k", b"other")
        store.backup(dump)
        store.set(b"k", b"newer")
        store.backup(dump)
    BackupDirectory(place, vfs=RealVfs()).write("of-a-server.json", *document())
    text.write_bytes(b"do not lose me")
    before = contents(place)
    with Store.open(tmp_path / "data") as store:
        store.set(b"k", b"v")
        for path in (dump, place / "of-a-server.json", text):
            with pytest.raises(
                ForeignBackupError, match="no earlier backup of this store"
            ) as caught:
                store.backup(path)
            assert "another path" in str(caught.value.remedy)
            assert isinstance(caught.value, StorageError)
        assert contents(place) == before
        # Taken is also a name whose sidecar would have a taken one.
        dump.rename(place / "x.json.manifest.json")
        with pytest.raises(ForeignBackupError):
            store.backup(place / "x.json")
        dump.with_name("dump.json.manifest.json").unlink()
        store.backup(dump)
        assert store.restore_backup(dump) == 1
        assert store.get(b"k") == b"v"


def test_a_backup_that_another_store_finishes_meanwhile_is_kept(tmp_path: Path) -> None:
    def slowly(pieces: list[bytes]) -> Iterator[bytes]:
        yield pieces[0]
        BackupDirectory(tmp_path, vfs=RealVfs()).write("dump.json", *document("b" * 32))
        yield pieces[1]

    directory = BackupDirectory(tmp_path, vfs=RealVfs())
    writer, pieces = document("a" * 32)
    with pytest.raises(ForeignBackupError):
        directory.write("dump.json", writer, slowly(pieces))
    assert b'"source_node_id": "bbbb' in (tmp_path / "dump.json.manifest.json").read_bytes()
    assert directory.verify("dump.json", 0).entry_count == 0


def test_a_dump_that_a_crash_has_left_without_its_sidecar_is_replaced(tmp_path: Path) -> None:
    dump = tmp_path / "dump.json"
    with Store.open(tmp_path / "data") as store:
        store.backup(dump)
        dump.with_name("dump.json.manifest.json").unlink()
        store.set(b"k", b"v")
        store.backup(dump)
        assert store.restore_backup(dump) == 1


def test_a_sidecar_of_a_store_is_none_of_the_business_of_servers(tmp_path: Path) -> None:
    with Store.open(tmp_path / "data") as store:
        store.set(b"k", b"v")
        store.backup(tmp_path / "dump.json")
    directory = BackupDirectory(tmp_path, vfs=RealVfs())
    assert directory.verify("dump.json", 0).entries == 1
    directory.write("dump.json", *document())
    assert directory.verify("dump.json", 0).entries == 0


@pytest.mark.parametrize("owner", [b"5", b"null", b'""', b'"' + b"0" * 32 + b'"'])
def test_a_sidecar_that_names_no_owner_or_another_one_is_kept_and_still_fits(
    tmp_path: Path, owner: bytes
) -> None:
    sidecar = tmp_path / "dump.json.manifest.json"
    with Store.open(tmp_path / "data") as store:
        store.backup(tmp_path / "dump.json")
        before, name, _ = sidecar.read_bytes().partition(b'"source_node_id": ')
        sidecar.write_bytes(before + name + owner + b"}")
        with pytest.raises(ForeignBackupError):
            store.backup(tmp_path / "dump.json")
        assert store.restore_backup(tmp_path / "dump.json") == 0


def document(owner: str | None = None) -> tuple[DocumentWriter, list[bytes]]:
    writer = DocumentWriter(BackupHeader(created_at_ms=1, source_sequence=1), owner)
    return writer, [writer.begin(), writer.end()]


def test_a_place_that_cannot_be_looked_at_is_a_file_error() -> None:
    class Unsearchable(MemoryVfs):
        def exists(self, path: Path) -> bool:
            if path.parent == Path("/backups"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return super().exists(path)

    with (
        Store.open("/data", vfs=Unsearchable()) as store,
        pytest.raises(BackupFileError, match="Permission denied"),
    ):
        store.backup("/backups/dump.json")


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
