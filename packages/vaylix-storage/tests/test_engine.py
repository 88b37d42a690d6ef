"""The directory as a whole: snapshots, manifest, log and retention.

The state of these tests is the list of all batches. A snapshot holds it as one chunk for each
batch, so a start that finds a snapshot and the log behind it can be compared batch by batch.
"""

from __future__ import annotations

import copy
import gc
from pathlib import Path

import pytest

from vaylix_storage import (
    Batch,
    Engine,
    EngineOptions,
    HardState,
    RealVfs,
    RecoveryOutcome,
    RetentionPolicy,
    SnapshotWriter,
    SyncPolicy,
    list_archive,
)
from vaylix_storage.errors import (
    CorruptionError,
    DirectoryLockedError,
    FileSystemError,
    KeyringError,
    LogOrderError,
    StorageBusyError,
    StorageError,
)
from vaylix_storage.testing import (
    SURVIVALS,
    MemoryVfs,
    SimulatedCrash,
    Survival,
)
from vaylix_storage.testing.batch_list import (
    ARCHIVE,
    NOW_MS,
    PATH,
    make_batch,
    meta_of,
    open_engine,
    state_of,
    take_snapshot,
    write_snapshot,
)

SNAPSHOTS = PATH / "snapshots"


class History:
    """What was appended."""

    def __init__(self) -> None:
        self.appended: list[Batch] = []

    def append(self, engine: Engine, count: int = 1) -> None:
        first_index = engine.log.last_index + 1
        batches = [make_batch(first_index + 2 * n) for n in range(count)]
        self.appended += batches
        engine.log.append(batches)
        engine.log.sync()


def filled(vfs: MemoryVfs, count: int = 3) -> tuple[Engine, History]:
    engine, history = open_engine(vfs), History()
    history.append(engine, count)
    return engine, history


def test_a_new_directory_has_no_snapshot_and_everything_it_needs() -> None:
    vfs = MemoryVfs()
    engine = open_engine(vfs)
    assert engine.open_snapshot() is None
    assert list(engine.read_behind_snapshot()) == []
    assert vfs.list_directory(PATH) == [
        "LOCK",
        "keyring.bin",
        "node.json",
        "storage.key",
        "wal.begun",
    ]
    engine.close()
    engine.close()
    assert open_engine(vfs).log.recovery.outcome is RecoveryOutcome.CLEAN_END


def test_the_log_behind_the_snapshot_is_all_that_is_read_again() -> None:
    vfs = MemoryVfs()
    engine, history = filled(vfs)
    take_snapshot(engine, history.appended)
    history.append(engine, 2)
    assert engine.log.first_index == 1
    assert state_of(engine) == history.appended
    engine.log.remove_before(7)
    assert engine.log.first_index == 7
    engine.close()
    engine = open_engine(vfs)
    assert engine.log.term_of(6) == 1
    assert list(engine.read_behind_snapshot()) == history.appended[3:]
    assert state_of(engine) == history.appended


def test_planted_replay_of_what_the_snapshot_holds_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planted bug, weaknesses 1 and 2: all of the log is applied to the snapshot."""
    monkeypatch.setattr(
        Engine, "read_behind_snapshot", lambda engine: engine.log.read(engine.log.first_index)
    )
    with pytest.raises(AssertionError):
        test_the_log_behind_the_snapshot_is_all_that_is_read_again()


def start_two_nodes_that_write(vfs: MemoryVfs) -> None:
    """Start a second node beside the first one, and see that what both acknowledge is kept."""
    one, history = filled(vfs)
    two = open_engine(vfs)
    history.append(one)
    two.log.append([make_batch(two.log.last_index + 1, term=2)])
    two.log.sync()
    vfs.kill()
    assert state_of(open_engine(vfs)) == history.appended


def test_of_two_nodes_the_second_is_refused_and_loses_nothing() -> None:
    vfs = MemoryVfs()
    with pytest.raises(DirectoryLockedError):
        start_two_nodes_that_write(vfs)
    vfs.kill()
    assert len(state_of(open_engine(vfs))) == 3


def test_planted_locks_that_keep_nobody_out_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug, weakness 9: nothing stands in the way of a second node."""

    class NoLock:
        def release(self) -> None:
            pass

    monkeypatch.setattr(MemoryVfs, "lock", lambda _vfs, _path: NoLock())
    with pytest.raises((AssertionError, StorageError)) as lost:
        start_two_nodes_that_write(MemoryVfs())
    assert not isinstance(lost.value, DirectoryLockedError)


def test_a_snapshot_puts_the_log_on_the_disk_under_every_policy() -> None:
    vfs = MemoryVfs()
    options = EngineOptions(sync_policy=SyncPolicy.BUFFERED)
    engine = open_engine(vfs, options)
    engine.log.append([make_batch(1), make_batch(3)])
    take_snapshot(engine, [make_batch(1)])
    assert engine.log.durable_index == 4
    vfs.power_cut()
    assert state_of(open_engine(vfs)) == [make_batch(1), make_batch(3)]


def test_the_log_may_not_be_behind_the_snapshot_nor_of_another_term() -> None:
    engine, history = filled(MemoryVfs())
    with pytest.raises(LogOrderError, match="not reached"):
        take_snapshot(engine, [*history.appended, make_batch(7)])
    with pytest.raises(LogOrderError, match="not of term 9"):
        take_snapshot(engine, [make_batch(5, term=9)])
    assert engine.manifest.current is None


def test_an_older_or_the_same_snapshot_is_refused() -> None:
    engine, history = filled(MemoryVfs())
    writer = engine.create_snapshot(meta_of(history.appended))
    with pytest.raises(StorageBusyError):
        engine.create_snapshot(meta_of(history.appended))
    writer.abandon()
    take_snapshot(engine, history.appended)
    with pytest.raises(StorageBusyError):
        engine.create_snapshot(meta_of(history.appended))
    with pytest.raises(LogOrderError, match="older"):
        engine.create_snapshot(meta_of(history.appended[:2]))


def writers_in_memory(vfs: MemoryVfs) -> int:
    return sum(type(known) is SnapshotWriter and known._vfs is vfs for known in gc.get_objects())


def test_of_snapshots_that_are_given_up_one_after_the_other_only_the_last_is_kept() -> None:
    vfs = MemoryVfs()
    engine, history = filled(vfs)
    for _ in range(10):
        history.append(engine)
        engine.create_snapshot(meta_of(history.appended)).abandon()
        assert writers_in_memory(vfs) == 1
    assert vfs.list_directory(SNAPSHOTS) == []


def test_what_could_not_be_removed_of_a_snapshot_given_up_goes_with_the_next_one() -> None:
    vfs = MemoryVfs()
    engine, history = filled(vfs)
    given_up = engine.create_snapshot(meta_of(history.appended))
    vfs.fail_at(vfs.call_count + 1)
    with pytest.raises(FileSystemError):
        given_up.abandon()
    assert vfs.list_directory(SNAPSHOTS) == ["6.snapshot.tmp"]
    history.append(engine)
    take_snapshot(engine, history.appended)
    assert vfs.list_directory(SNAPSHOTS) == ["8.snapshot"]


def test_a_snapshot_that_is_finished_outlives_others_that_are_given_up() -> None:
    vfs = MemoryVfs()
    engine, history = filled(vfs)
    finished = write_snapshot(engine, history.appended)
    history.append(engine)
    engine.create_snapshot(meta_of(history.appended)).abandon()
    with pytest.raises(StorageBusyError):
        engine.create_snapshot(finished.meta)
    take_snapshot(engine, history.appended[:2], installed=True)
    engine.commit_snapshot(finished)
    assert state_of(engine) == history.appended


def failed_commit(call: int) -> tuple[MemoryVfs, Engine, History] | None:
    """Let the n-th call fail that replaces the manifest; None when there are not so many."""
    vfs = MemoryVfs()
    engine, history = filled(vfs)
    take_snapshot(engine, history.appended)
    history.append(engine)
    info = write_snapshot(engine, history.appended)
    # Otherwise the log would do so within the commit, and its failure is for good.
    engine.log.rotate()
    vfs.fail_at(vfs.call_count + call)
    try:
        engine.commit_snapshot(info)
    except FileSystemError:
        return vfs, engine, history
    return None


def test_after_a_commit_that_failed_the_same_snapshot_or_a_later_one_is_taken() -> None:
    call = 1
    while (same := failed_commit(call)) and (later := failed_commit(call)):
        later[2].append(later[1])
        for vfs, engine, history in (same, later):
            take_snapshot(engine, history.appended)
            names = [f"{entry.meta.index}.snapshot" for entry in engine.manifest.snapshots]
            assert vfs.list_directory(SNAPSHOTS) == sorted(names) == sorted(set(names))
            assert len(names) == 2
            vfs.power_cut()
            assert state_of(open_engine(vfs)) == history.appended
        call += 1
    assert call > 4


@pytest.mark.parametrize(("data", "names"), SURVIVALS)
def test_a_crash_while_it_is_taken_again_leaves_the_state_whole(
    data: Survival, names: Survival
) -> None:
    failing = 1
    while failed_commit(failing) is not None:
        call, finished = 0, False
        while not finished:
            call += 1
            failed = failed_commit(failing)
            assert failed is not None
            vfs, engine, history = failed
            vfs.crash_at(vfs.call_count + call)
            try:
                take_snapshot(engine, history.appended)
                finished = True
            except SimulatedCrash:
                pass
            vfs.power_cut(data, names)
            assert state_of(open_engine(vfs)) == history.appended
        failing += 1
    assert failing > 4


@pytest.mark.parametrize("ahead", [True, False], ids=["ahead", "other term"])
def test_an_installed_snapshot_resets_a_log_that_does_not_match(*, ahead: bool) -> None:
    vfs = MemoryVfs()
    engine, history = filled(vfs)
    engine.log.append([], HardState(5, b"me", 0))
    engine.log.sync()
    peer = [*history.appended, make_batch(7)] if ahead else [make_batch(5, term=4)]
    take_snapshot(engine, peer, installed=True)
    assert engine.log.first_index == peer[-1].last_index + 1
    assert engine.log.last_index == peer[-1].last_index
    assert state_of(engine) == peer
    vfs.power_cut()
    engine = open_engine(vfs)
    assert state_of(engine) == peer
    assert engine.log.hard_state == HardState(5, b"me", 0)


def test_an_installed_snapshot_keeps_a_log_that_matches() -> None:
    engine, history = filled(MemoryVfs())
    take_snapshot(engine, history.appended[:2], installed=True)
    assert list(engine.read_behind_snapshot()) == history.appended[2:]


def test_an_install_that_crashes_anywhere_leaves_the_old_or_the_new_state() -> None:
    peer = [make_batch(index, term=4) for index in (1, 3, 5, 7, 9)]
    call = 0
    finished = False
    while not finished:
        call += 1
        for data, names in SURVIVALS:
            vfs = MemoryVfs()
            engine, history = filled(vfs)
            vfs.crash_at(vfs.call_count + call)
            try:
                take_snapshot(engine, peer, installed=True)
                finished = True
            except SimulatedCrash:
                pass
            vfs.power_cut(data, names)
            engine = open_engine(vfs)
            assert state_of(engine) in ([peer] if finished else [history.appended, peer])
            engine.log.append([make_batch(engine.log.last_index + 1, term=4)])
            engine.log.sync()
            count = len(state_of(engine))
            vfs.power_cut()
            assert len(state_of(open_engine(vfs))) == count
    assert call > 10


def test_a_current_snapshot_that_is_lost_or_damaged_is_found() -> None:
    vfs = MemoryVfs()
    engine, history = filled(vfs)
    take_snapshot(engine, history.appended)
    engine.close()
    path = SNAPSHOTS / "6.snapshot"
    content = vfs.content(path)
    names = vfs.list_directory(PATH / "wal")
    for bad in (content[:-1], content + b"\0", b""):
        vfs.overwrite(path, bad)
        with pytest.raises(CorruptionError) as caught:
            open_engine(vfs)
        assert (caught.value.path, caught.value.offset) == (path, min(len(bad), len(content)))
    flipped = bytearray(content)
    flipped[300] ^= 1
    vfs.overwrite(path, bytes(flipped))
    engine = open_engine(vfs)
    with pytest.raises(CorruptionError):
        state_of(engine)
    engine.abandon()
    vfs.remove(path)
    with pytest.raises(CorruptionError, match="missing") as caught:
        open_engine(vfs)
    assert caught.value.path == path
    assert names


def test_a_snapshot_of_the_same_size_that_is_not_the_one_is_found() -> None:
    vfs = MemoryVfs()
    engine, history = filled(vfs)
    take_snapshot(engine, history.appended)
    path = SNAPSHOTS / "6.snapshot"
    # The same state, written by the same node at another time: each has a tag of its own.
    shadow = copy.deepcopy(vfs)
    shadow.remove(path)
    shadow.remove(PATH / "manifest.bin")
    shadow.kill()
    again = open_engine(shadow)
    take_snapshot(again, history.appended)
    assert len(shadow.content(path)) == len(vfs.content(path))
    vfs.overwrite(path, shadow.content(path))
    with pytest.raises(CorruptionError, match="not the snapshot that the manifest names"):
        state_of(engine)


def test_a_lost_manifest_is_found_once_the_log_does_not_begin_at_the_beginning() -> None:
    vfs = MemoryVfs()
    engine, history = filled(vfs)
    take_snapshot(engine, history.appended)
    engine.log.remove_before(7)
    engine.close()
    vfs.remove(PATH / "manifest.bin")
    with pytest.raises(CorruptionError, match="missing"):
        open_engine(vfs)


def test_a_log_that_lost_what_the_snapshot_stands_on_is_found() -> None:
    vfs = MemoryVfs()
    engine, history = filled(vfs)
    take_snapshot(engine, history.appended)
    engine.close()
    for name in vfs.list_directory(PATH / "wal"):
        vfs.remove(PATH / "wal" / name)
    with pytest.raises(CorruptionError):
        open_engine(vfs)


def test_a_failed_start_gives_up_the_lock_and_changes_nothing() -> None:
    vfs = MemoryVfs()
    engine, history = filled(vfs)
    take_snapshot(engine, history.appended)
    with pytest.raises(DirectoryLockedError):
        open_engine(vfs)
    engine.close()
    keyring = vfs.content(PATH / "keyring.bin")
    vfs.remove(PATH / "keyring.bin")
    names = vfs.list_directory(PATH), vfs.list_directory(SNAPSHOTS)
    with pytest.raises(KeyringError):
        open_engine(vfs)
    assert (vfs.list_directory(PATH), vfs.list_directory(SNAPSHOTS)) == names
    vfs.create(PATH / "keyring.bin")
    vfs.overwrite(PATH / "keyring.bin", keyring)
    assert state_of(open_engine(vfs)) == history.appended


def test_retention_keeps_what_is_needed_and_archives_what_is_not() -> None:
    vfs = MemoryVfs()
    engine, history = filled(vfs)
    assert engine.apply_retention(None, NOW_MS) == [], "without a snapshot all of the log is needed"
    take_snapshot(engine, history.appended)
    history.append(engine, 2)
    engine.log.rotate()
    assert engine.apply_retention(None, NOW_MS, needed_from=3) == []
    first = PATH / "wal" / "1-6.wal"
    content = vfs.content(first), vfs.content(SNAPSHOTS / "6.snapshot")
    assert engine.apply_retention(None, NOW_MS) == [first]
    take_snapshot(engine, history.appended)
    keep_two = RetentionPolicy(segments_max=None, snapshots_max=2)
    assert engine.apply_retention(keep_two, NOW_MS) == []
    assert engine.open_snapshot(engine.manifest.snapshots[0]) is not None
    assert engine.apply_retention(None, NOW_MS) == [
        SNAPSHOTS / "6.snapshot",
        PATH / "wal" / "7-10.wal",
    ]
    (timeline,) = list_archive(ARCHIVE, vfs=vfs)
    assert [archived.last_index for archived in timeline.segments] == [6, 10]
    archived = vfs.content(timeline.segments[0].path), vfs.content(timeline.snapshots[0].path)
    assert archived == content
    vfs.power_cut()
    engine = open_engine(vfs)
    assert [entry.meta.index for entry in engine.manifest.snapshots] == [10]
    assert state_of(engine) == history.appended


def test_what_cannot_be_archived_is_not_removed() -> None:
    vfs = MemoryVfs()
    engine, history = filled(vfs)
    take_snapshot(engine, history.appended[:2])
    take_snapshot(engine, history.appended)
    names = vfs.list_directory(PATH / "wal"), vfs.list_directory(SNAPSHOTS)
    vfs.fail_at(vfs.call_count + 3)
    with pytest.raises(FileSystemError):
        engine.apply_retention(None, NOW_MS)
    assert (vfs.list_directory(PATH / "wal"), vfs.list_directory(SNAPSHOTS)) == names
    vfs.remove(SNAPSHOTS / "4.snapshot")
    assert len(engine.apply_retention(None, NOW_MS)) == 2, "one that is lost holds nothing up"
    engine.close()
    assert state_of(open_engine(vfs)) == history.appended


def test_foreign_files_among_the_snapshots_stay() -> None:
    vfs = MemoryVfs()
    open_engine(vfs).close()
    for name in ("5.snapshot", "6.snapshot.tmp", "05.snapshot", "notes.txt", "snapshot.tmp"):
        vfs.create(SNAPSHOTS / name)
    open_engine(vfs)
    assert vfs.list_directory(SNAPSHOTS) == ["05.snapshot", "notes.txt", "snapshot.tmp"]


def test_it_works_on_a_real_file_system(tmp_path: Path) -> None:
    path = tmp_path / "data"
    engine = Engine.open(path, now_ms=NOW_MS)
    batches = [make_batch(1), make_batch(3)]
    engine.log.append(batches)
    engine.log.sync()
    take_snapshot(engine, batches[:1])
    engine.close()
    engine = Engine.open(path, vfs=RealVfs(), now_ms=NOW_MS)
    assert state_of(engine) == batches
    engine.close()
    modes = {p.stat().st_mode & 0o777 for p in path.rglob("*") if p.is_file()}
    assert modes == {0o600}
