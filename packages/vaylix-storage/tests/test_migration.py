"""Migrations from 0.9: all of it comes along, the original stays, and no stop loses anything."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from vaylix_storage import Batch, DataDirectory, FileKeyProvider, Keyspace, RealVfs, Vfs
from vaylix_storage._builder import read_back
from vaylix_storage._engine import Engine
from vaylix_storage._entry import Entry
from vaylix_storage._keyspace_snapshot import load_keyspace_chunk
from vaylix_storage._staging import walk_files
from vaylix_storage.errors import (
    CorruptionError,
    DirectoryLockedError,
    EntryTooLargeError,
    FileSystemError,
    ForeignFormatError,
    MigrationRequiredError,
    StorageError,
)
from vaylix_storage.format3 import (
    Format3Auth,
    Format3Contents,
    MigrationHooks,
    MigrationOutcome,
    MigrationReport,
    Section,
    _carrying,
    _envelope,
    migrate,
    read_directory,
)
from vaylix_storage.testing import (
    SURVIVALS,
    MemoryVfs,
    SimulatedCrash,
    Survival,
    counting_random_bytes,
)

FIXTURES = Path(__file__).parent / "data" / "format3"
NAMES = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())
DATA = Path("/srv/data")
NEW = Path("/srv/data.migrating")
ORIGINAL = Path("/srv/data.format3")
NOW_MS = 2_000_000_000_000
SMALL = "b2_clean_stop_snapshot_only"


@pytest.fixture(autouse=True, scope="module")
def derive_each_key_once() -> Iterator[None]:
    """Deriving a key takes 20 ms, and these tests read the same files thousands of times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_envelope, "derive_key", functools.cache(_envelope.derive_key))
        yield


def access_sections(contents: Format3Contents) -> Iterable[Section]:
    """Encode users and roles, as a server would."""
    if contents.auth is None:
        return []
    return [Section("access", [(msgspec.json.encode(contents.auth), len(contents.auth.users))])]


def provider_in(directory: Path, vfs: Vfs) -> FileKeyProvider:
    return FileKeyProvider(directory / "storage.key", vfs=vfs)


def run(
    path: Path,
    vfs: Vfs,
    *,
    sections: Callable[[Format3Contents], Iterable[Section]] = access_sections,
    hooks: MigrationHooks | None = None,
    seed: int = 0,
) -> MigrationReport:
    return migrate(
        path,
        vfs=vfs,
        provider_factory=lambda directory: provider_in(directory, vfs),
        sections=sections,
        now_ms=NOW_MS,
        random_bytes=counting_random_bytes(seed),
        hooks=hooks,
    )


def load(
    name: str, more: dict[str, bytes] | None = None, disk: type[MemoryVfs] = MemoryVfs
) -> MemoryVfs:
    """Put a fixture onto a simulated disk, with further files."""
    vfs = disk()
    files = {
        str(path.relative_to(FIXTURES / name)): path.read_bytes()
        for path in (FIXTURES / name).rglob("*")
        if path.is_file()
    }
    for file, content in (files | (more or {})).items():
        put(vfs, DATA / file, content)
    return vfs


def put(vfs: MemoryVfs, path: Path, content: bytes) -> None:
    vfs.make_directory(path.parent)
    vfs.create(path).close()
    vfs.sync_directory(path.parent)
    vfs.overwrite(path, content)


def files_of(path: Path, vfs: MemoryVfs) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): vfs.content(file)
        for file in walk_files(path, vfs)
        if file.name != "LOCK"
    }


def contents_of(path: Path, vfs: Vfs) -> tuple[dict[bytes, Entry], int, bytes]:
    """Return keys, last index and access section of a migrated directory."""
    keyspace = Keyspace()
    access = b""

    def take(name: str, plain: bytes) -> None:
        nonlocal access
        if name == "keyspace":
            load_keyspace_chunk(keyspace, plain)
        else:
            access += plain

    _, last_index = read_back(path, vfs=vfs, provider=provider_in(path, vfs), take=take)
    entries = keyspace.table.entries()
    return entries, last_index, access


# What comes along


@pytest.mark.parametrize("name", NAMES)
def test_every_directory_migrates_to_what_it_holds_or_is_left_alone(
    name: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(FIXTURES / name, data)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    vfs = RealVfs()
    try:
        expected = read_directory(data, vfs=vfs)
    except StorageError as error:
        with pytest.raises(type(error)):
            run(data, vfs)
        assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
        return
    report = run(data, vfs)
    assert report.outcome is MigrationOutcome.MIGRATED
    assert report.key_count == len(expected.entries)
    assert report.warnings == expected.warnings
    original = tmp_path / "data.format3"
    assert {
        data / path.relative_to(original): path.read_bytes()
        for path in original.rglob("*")
        if path.is_file()
    } == before
    entries, last_index, access = contents_of(data, vfs)
    assert entries == expected.entries
    assert last_index == expected.last_sequence
    if expected.auth is None:
        assert access == b""
    else:
        assert msgspec.json.decode(access, type=Format3Auth) == expected.auth
    facts = json.loads((FIXTURES / f"{name}.expected.json").read_text(encoding="utf-8"))
    recorded = facts if "keys_in_storage" in facts else facts["recoverable"]
    assert len(entries) == len(recorded.get("keys_in_storage", recorded["live_keys"]))


def test_a_node_can_start_in_what_was_migrated_and_go_on() -> None:
    vfs = load("b_snapshot_and_wal")
    expected = read_directory(DATA, vfs=vfs)
    run(DATA, vfs)
    vfs.power_cut()
    engine = Engine.open(DATA, vfs=vfs, provider=provider_in(DATA, vfs), now_ms=NOW_MS)
    assert engine.log.first_index == expected.last_sequence + 1
    assert engine.log.hard_state.commit == expected.last_sequence
    reader = engine.open_snapshot()
    assert reader is not None
    assert reader.meta.timestamp_ms == expected.last_timestamp_ms
    assert [name for name, _ in reader.chunks()] == ["keyspace", "access"]
    batch = Batch.create(
        first_index=engine.log.last_index + 1,
        count=1,
        term=expected.last_term,
        kind=1,
        timestamp_ms=NOW_MS,
        payload=b"new",
    )
    engine.log.append([batch])
    engine.log.sync()
    vfs.power_cut()
    engine = Engine.open(DATA, vfs=vfs, provider=provider_in(DATA, vfs), now_ms=NOW_MS)
    assert list(engine.read_behind_snapshot()) == [batch]


def test_what_is_neither_data_nor_users_is_copied_or_named() -> None:
    more = {
        "audit.log": b"line\n",
        "maintenance.mode": b"maintenance=on\n",
        "backups/one.json": b"{}",
        "backups/deep/er/two.json": bytes(3 * 1024 * 1024),
        "history.txt": b"GET k\n",
        "tls/key.pem": b"secret",
        "snapshot.bin.tmp": b"stale",
    }
    vfs = load("a2_no_auth_single_segment", more)
    report = run(DATA, vfs)
    vfs.power_cut()
    new = files_of(DATA, vfs)
    for name in ("audit.log", "maintenance.mode", "backups/one.json", "backups/deep/er/two.json"):
        assert new[name] == more[name]
    assert report.carried_over == ("audit.log", "backups", "maintenance.mode")
    assert report.left_behind == ("cluster-state.json", "history.txt", "tls")
    assert not {"history.txt", "tls/key.pem", "snapshot.bin.tmp", "auth.bin"} & set(new)


def test_the_report_is_kept_in_the_new_directory() -> None:
    vfs = load("c_users_roles")
    report = run(DATA, vfs)
    assert (report.user_count, report.role_count, report.key_count) == (5, 5, 1)
    assert report.original == str(ORIGINAL)
    kept = msgspec.json.decode(vfs.content(DATA / "migration.json"), type=MigrationReport)
    assert kept == report


def test_versions_of_0_become_1_as_a_restore_makes_them() -> None:
    # Restores of 0.9 raise them, so only a foreign writer could have left one.
    snapshot = msgspec.msgpack.encode(
        {
            "data": {"k": {"value": b"v", "version": 0}},
            "metadata": {"last_applied_sequence": 1},
        }
    )
    vfs = MemoryVfs()
    put(vfs, DATA / "snapshot.bin", snapshot)
    run(DATA, vfs)
    assert contents_of(DATA, vfs)[0] == {b"k": Entry(b"v", 1, 0)}


def test_an_empty_directory_of_0_9_migrates() -> None:
    vfs = MemoryVfs()
    put(vfs, DATA / "wal" / "active-1.wal", b"")
    report = run(DATA, vfs)
    assert (report.key_count, report.last_sequence) == (0, 0)
    assert contents_of(DATA, vfs) == ({}, 0, b"")


def test_8_what_is_new_is_private(tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(FIXTURES / "c_users_roles", data)
    (data / "backups").mkdir(mode=0o755, exist_ok=True)
    (data / "backups" / "one.json").write_bytes(b"{}")
    run(data, RealVfs())
    for path in (data, *data.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_link_is_migrated_where_it_leads(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    shutil.copytree(FIXTURES / SMALL, volume / "real")
    (tmp_path / "data").symlink_to(volume / "real")
    (volume / "real" / "backups").symlink_to(tmp_path)
    report = run(tmp_path / "data", RealVfs())
    assert sorted(path.name for path in volume.iterdir()) == ["real", "real.format3"]
    assert (tmp_path / "data" / "node.json").exists()
    assert any("backups is a link" in warning for warning in report.warnings)


def test_progress_is_told_phase_by_phase() -> None:
    told: list[tuple[str, int, int]] = []
    vfs = load("f0_base_for_damage")
    run(DATA, vfs, hooks=MigrationHooks(progress=lambda *args: told.append(args)))
    assert list(dict.fromkeys(phase for phase, _, _ in told)) == [
        "reading",
        "writing",
        "copying",
        "verifying",
    ]
    assert all(0 <= done <= total for _, done, total in told)


# What is refused


def test_a_directory_of_the_current_format_is_reported_and_left_alone() -> None:
    vfs = load(SMALL)
    run(DATA, vfs)
    before, calls = files_of(DATA, vfs), vfs.call_count
    assert run(DATA, vfs).outcome is MigrationOutcome.CURRENT
    assert files_of(DATA, vfs) == before
    # Its name is synced once more.
    assert vfs.call_count == calls + 1


def test_a_directory_in_use_is_refused_and_left_alone() -> None:
    vfs = load(SMALL)
    lock = vfs.lock(DATA / "LOCK")
    before = files_of(DATA, vfs)
    with pytest.raises(DirectoryLockedError):
        run(DATA, vfs)
    assert files_of(DATA, vfs) == before
    assert not vfs.exists(NEW)
    lock.release()
    run(DATA, vfs)


@pytest.mark.parametrize("taken", [NEW, ORIGINAL])
def test_a_name_that_is_taken_is_reported(taken: Path) -> None:
    vfs = load(SMALL)
    put(vfs, taken / "precious", b"!")
    with pytest.raises(FileSystemError, match="taken") as caught:
        run(DATA, vfs)
    assert caught.value.path == taken
    assert files_of(taken, vfs) == {"precious": b"!"}


def test_a_mount_point_is_refused_before_any_work() -> None:
    vfs = load(SMALL)
    vfs.mount_points.add(DATA)
    before = files_of(DATA, vfs)
    with pytest.raises(FileSystemError, match="mount point") as caught:
        run(DATA, vfs)
    assert caught.value.path == DATA
    assert files_of(DATA, vfs) == before
    assert not vfs.exists(NEW)


def test_what_is_no_directory_of_0_9_is_refused() -> None:
    vfs = MemoryVfs()
    vfs.make_directory(DATA.parent)
    with pytest.raises(FileSystemError, match="no such directory"):
        run(DATA, vfs)
    vfs.make_directory(DATA)
    with pytest.raises(ForeignFormatError, match="no data directory"):
        run(DATA, vfs)
    put(vfs, DATA / "photo.jpg", b"")
    with pytest.raises(ForeignFormatError, match="no data directory"):
        run(DATA, vfs)


def test_too_little_space_is_noticed_before_anything_is_written() -> None:
    vfs = load("a2_no_auth_single_segment", {"backups/one": bytes(1000)})
    calls = vfs.call_count
    with pytest.raises(FileSystemError, match="only 1000000 are free"):
        run(DATA, vfs, hooks=MigrationHooks(free_bytes=lambda _: 1_000_000))
    assert vfs.call_count <= calls + 2
    assert not vfs.exists(DATA / "LOCK")
    run(DATA, vfs, hooks=MigrationHooks(free_bytes=lambda _: 1 << 30))


def test_an_old_server_that_goes_on_writing_is_noticed() -> None:
    vfs = load(SMALL)

    def write(_contents: Format3Contents) -> Iterable[Section]:
        [name] = [name for name in vfs.list_directory(DATA / "wal") if "active" in name]
        vfs.overwrite(DATA / "wal" / name, b"more")
        return []

    with pytest.raises(FileSystemError, match="has changed"):
        run(DATA, vfs, sections=write)
    assert not vfs.exists(NEW)
    assert not vfs.exists(ORIGINAL)


def test_what_does_not_come_back_as_it_was_is_no_migration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vfs = load(SMALL)
    real = Keyspace.begin_walk

    def forgetful(keyspace: Keyspace) -> object:
        keyspace.table.drop(next(iter(keyspace.table.entries())))
        return real(keyspace)

    monkeypatch.setattr(Keyspace, "begin_walk", forgetful)
    with pytest.raises(CorruptionError, match="not what is read back"):
        run(DATA, vfs)
    assert not vfs.exists(NEW)
    assert not vfs.exists(ORIGINAL)


# Stops


def loaded(disk: type[MemoryVfs] = MemoryVfs) -> MemoryVfs:
    more = {"maintenance.mode": b"on\n", "backups/deep/one.json": b"{}"}
    return load(SMALL, more, disk)


def check_after_a_stop(vfs: MemoryVfs, before: dict[str, bytes]) -> None:
    """Check that nothing is lost and nothing starts afresh; finish, and check the result."""
    old = DATA if not vfs.exists(DATA / "node.json") and vfs.exists(DATA) else ORIGINAL
    assert files_of(old, vfs) == before
    if vfs.exists(DATA / "node.json"):
        DataDirectory.open(DATA, vfs=vfs).close()
    else:
        with pytest.raises(MigrationRequiredError, match="vaylix storage migrate"):
            DataDirectory.open(DATA, vfs=vfs)
    run(DATA, vfs, seed=vfs.generation)
    vfs.power_cut()
    if not vfs.exists(DATA):
        # The last sync had failed: the disk never got the new name, and no later sync tells it.
        with pytest.raises(MigrationRequiredError):
            DataDirectory.open(DATA, vfs=vfs)
        assert run(DATA, vfs).outcome is MigrationOutcome.COMPLETED
        vfs.power_cut()
    assert files_of(ORIGINAL, vfs) == before
    assert not vfs.exists(NEW)
    expected = read_directory(ORIGINAL, vfs=vfs)
    entries, last_index, access = contents_of(DATA, vfs)
    assert entries == expected.entries
    assert last_index == expected.last_sequence
    assert msgspec.json.decode(access, type=Format3Auth) == expected.auth
    assert files_of(DATA, vfs)["backups/deep/one.json"] == b"{}"


def stop_at_every_call(
    arm: Callable[[MemoryVfs, int], None],
    restart: Callable[[MemoryVfs], None],
    make: Callable[[], MemoryVfs] = loaded,
) -> int:
    call = 0
    is_finished = False
    while not is_finished:
        call += 1
        vfs = make()
        before = files_of(DATA, vfs)
        arm(vfs, vfs.call_count + call)
        try:
            run(DATA, vfs)
            is_finished = True
        except (SimulatedCrash, StorageError):
            pass
        restart(vfs)
        check_after_a_stop(vfs, before)
    return call


@pytest.mark.parametrize(("data", "names"), SURVIVALS)
def test_a_power_cut_at_every_call_loses_nothing(data: Survival, names: Survival) -> None:
    assert stop_at_every_call(MemoryVfs.crash_at, lambda vfs: vfs.power_cut(data, names)) > 60


def test_a_kill_at_every_call_loses_nothing() -> None:
    assert stop_at_every_call(MemoryVfs.crash_at, MemoryVfs.kill) > 60


@pytest.mark.parametrize("restart", [MemoryVfs.kill, MemoryVfs.power_cut])
def test_a_failure_of_every_call_loses_nothing(restart: Callable[[MemoryVfs], None]) -> None:
    assert stop_at_every_call(MemoryVfs.fail_at, restart) > 60


class DiskWithoutOrder(MemoryVfs):
    """Planted: the two renames are not kept apart by a sync."""

    def sync_directory(self, path: Path) -> None:
        if path != DATA.parent:
            super().sync_directory(path)


def test_a_swap_that_is_not_synced_is_found() -> None:
    with pytest.raises((AssertionError, StorageError, FileNotFoundError)):
        stop_at_every_call(
            MemoryVfs.crash_at,
            lambda vfs: vfs.power_cut(names=Survival.ODD_SECTORS),
            lambda: loaded(DiskWithoutOrder),
        )


def test_copies_that_are_not_synced_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def copy_carelessly(source: Path, target: Path, vfs: Vfs) -> int:
        reader, writer = vfs.open(source), vfs.create(target)
        writer.write_at(0, reader.read_at(0, reader.size()))
        return reader.size()

    monkeypatch.setattr(_carrying, "copy_file", copy_carelessly)
    with pytest.raises(AssertionError):
        stop_at_every_call(MemoryVfs.crash_at, MemoryVfs.power_cut)


def stopped_at(call: int, restart: Callable[[MemoryVfs], None]) -> MemoryVfs:
    vfs = loaded()
    vfs.crash_at(vfs.call_count + call)
    with pytest.raises(SimulatedCrash):
        run(DATA, vfs)
    restart(vfs)
    return vfs


@functools.cache
def second_rename() -> int:
    """Return the call that ends the state with the fewest ways out: no data directory."""
    calls = (call for call in itertools.count(40) if not is_there(call))
    return next(calls)


def is_there(call: int) -> bool:
    vfs = stopped_at(call, MemoryVfs.kill)
    return vfs.exists(DATA)


@pytest.mark.parametrize(
    "restart", [MemoryVfs.kill, lambda vfs: vfs.power_cut(names=Survival.EVERYTHING)]
)
@pytest.mark.parametrize("names", [Survival.NOTHING, Survival.EVEN_SECTORS, Survival.ODD_SECTORS])
def test_a_second_stop_while_an_interrupted_migration_is_finished_loses_nothing(
    restart: Callable[[MemoryVfs], None], names: Survival
) -> None:
    before = files_of(DATA, loaded())
    for call in range(1, 6):
        vfs = stopped_at(second_rename(), restart)
        assert (vfs.exists(DATA), vfs.exists(NEW), vfs.exists(ORIGINAL)) == (False, True, True)
        vfs.crash_at(vfs.call_count + call)
        with suppress(SimulatedCrash):
            assert run(DATA, vfs).outcome is MigrationOutcome.COMPLETED
        vfs.power_cut(names=names)
        check_after_a_stop(vfs, before)


def test_a_container_that_makes_the_missing_directory_anew_does_no_harm() -> None:
    vfs = loaded()
    run(DATA, vfs)
    vfs.rename(DATA, NEW)
    vfs.make_directory(DATA)
    with pytest.raises(MigrationRequiredError):
        DataDirectory.open(DATA, vfs=vfs)
    assert run(DATA, vfs).outcome is MigrationOutcome.COMPLETED
    assert vfs.exists(DATA / "node.json")


def test_an_original_alone_is_reported() -> None:
    vfs = loaded()
    vfs.rename(DATA, ORIGINAL)
    with pytest.raises(FileSystemError, match="an original in") as caught:
        run(DATA, vfs)
    assert "rename it" in str(caught.value)


def test_a_value_that_no_batch_can_hold_is_reported_with_its_key() -> None:
    snapshot = msgspec.msgpack.encode(
        {
            "data": {"large": {"value": bytes(16 * 1024 * 1024), "version": 1}},
            "metadata": {"last_applied_sequence": 1},
        }
    )
    vfs = MemoryVfs()
    put(vfs, DATA / "snapshot.bin", snapshot)
    with pytest.raises(EntryTooLargeError, match="large"):
        run(DATA, vfs)
    assert not vfs.exists(NEW)


def test_a_current_directory_that_lost_its_identity_is_not_taken_for_an_old_one() -> None:
    vfs = load(SMALL)
    run(DATA, vfs)
    vfs.remove(DATA / "node.json")
    with pytest.raises(CorruptionError, match=r"node\.json is missing"):
        run(DATA, vfs)
