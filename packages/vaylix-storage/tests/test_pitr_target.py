"""Where a restore goes: nothing is lost there, whatever is in the way and whenever it stops."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from vaylix_storage import Batch
from vaylix_storage.errors import (
    CorruptionError,
    DirectoryLockedError,
    FileSystemError,
    RestoreTargetError,
    StorageError,
)
from vaylix_storage.offline import Point, RestoreOptions, pitr, restore
from vaylix_storage.offline._restored_target import RestoreTarget
from vaylix_storage.offline.past_testing import (
    ARCHIVE,
    SOURCE,
    TARGET,
    PastWriter,
    files_below,
    open_engine,
    provider_of,
    restore_to,
    small_history,
    state_of,
)
from vaylix_storage.testing import SURVIVALS, MemoryVfs, SimulatedCrash, Survival

STAGING = Path("/node/restored.restoring")


def put_aside(vfs: MemoryVfs) -> list[Path]:
    names = vfs.list_subdirectories(TARGET.parent)
    return [TARGET.parent / name for name in names if ".replaced" in name]


def test_a_target_with_data_is_refused_or_put_aside_and_a_dry_run_does_nothing() -> None:
    vfs = MemoryVfs()
    writer = small_history(vfs)
    calls = vfs.call_count
    result = restore_to(vfs, Point(sequence=5), dry_run=True)
    assert (result.sequence, result.is_done) == (5, False)
    assert vfs.call_count == calls
    restore_to(vfs, Point(sequence=5))
    with pytest.raises(RestoreTargetError, match="not empty") as refusal:
        restore_to(vfs, Point(sequence=6))
    assert refusal.value.code == "ENG-011"
    restore_to(vfs, Point(sequence=6), force=True)
    assert state_of(vfs, TARGET) == writer.states[6]
    (old,) = put_aside(vfs)
    assert state_of(vfs, old) == writer.states[5]


def test_an_empty_target_is_used_and_nothing_is_left_beside_it() -> None:
    vfs = MemoryVfs()
    writer = small_history(vfs)
    vfs.make_directory(TARGET)
    vfs.create(TARGET / "LOCK").close()
    restore_to(vfs, Point(sequence=5))
    assert state_of(vfs, TARGET) == writer.states[5]
    assert vfs.list_subdirectories(TARGET.parent) == ["archive", "data", "restored"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", [".", "notes.txt", "deep/notes.txt", "storage.key"])
def test_only_a_data_directory_is_put_aside(name: str, force: bool) -> None:
    vfs = MemoryVfs()
    small_history(vfs)
    vfs.make_directory((TARGET / name).parent)
    vfs.create(TARGET / name).close()
    before = files_below(vfs, SOURCE.parent)
    with pytest.raises(RestoreTargetError, match="no data directory of Vaylix") as refusal:
        restore_to(vfs, Point(sequence=5), force=force)
    assert refusal.value.remedy is not None
    assert "--force" not in refusal.value.remedy
    assert files_below(vfs, SOURCE.parent) == before


@pytest.mark.parametrize("lost", ["node.json", "keyring.bin", "wal.begun"])
def test_a_damaged_directory_is_put_aside_like_a_whole_one(lost: str) -> None:
    vfs = MemoryVfs()
    writer = small_history(vfs)
    restore_to(vfs, Point(sequence=5))
    vfs.unlink(TARGET / lost)
    with pytest.raises(RestoreTargetError, match="not empty"):
        restore_to(vfs, Point(sequence=6))
    restore_to(vfs, Point(sequence=6), force=True)
    assert state_of(vfs, TARGET) == writer.states[6]
    assert len(put_aside(vfs)) == 1


def test_a_directory_of_an_older_format_is_put_aside() -> None:
    vfs = MemoryVfs()
    small_history(vfs)
    vfs.make_directory(TARGET)
    vfs.create(TARGET / "snapshot.bin").close()
    restore_to(vfs, Point(sequence=6), force=True)
    assert [vfs.list_directory(path) for path in put_aside(vfs)] == [["snapshot.bin"]]


def test_a_target_in_use_is_refused() -> None:
    vfs = MemoryVfs()
    small_history(vfs)
    restore_to(vfs, Point(sequence=5))
    engine = open_engine(vfs, TARGET)
    with pytest.raises(DirectoryLockedError):
        restore_to(vfs, Point(sequence=6), force=True)
    engine.close()
    assert not vfs.exists(STAGING)


@pytest.mark.parametrize(
    "target",
    [SOURCE, SOURCE / "inside", SOURCE.parent, ARCHIVE, ARCHIVE / "new", Path("/node/x/../data")],
)
def test_a_target_must_not_be_the_source_or_the_archive_or_hold_them(target: Path) -> None:
    """Weakness 15 of the published server."""
    vfs = MemoryVfs()
    small_history(vfs)
    before = files_below(vfs, SOURCE.parent)
    with pytest.raises(RestoreTargetError, match="cannot lie in"):
        restore(
            SOURCE,
            target,
            Point(sequence=1),
            vfs=vfs,
            provider=provider_of(vfs, SOURCE),
            target_provider=lambda path: provider_of(vfs, path),
            options=RestoreOptions(now_ms=1, archive=ARCHIVE, force=True),
        )
    assert files_below(vfs, SOURCE.parent) == before


def test_planted_comparison_of_paths_as_texts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug, weakness 15: another way to write the path of the source is another path."""
    real_check = RestoreTarget.check

    def check_texts(target: RestoreTarget, sources: Iterable[Path], *, force: bool) -> None:
        real_check(target, [source for source in sources if source == target._given], force=force)

    monkeypatch.setattr(RestoreTarget, "check", check_texts)
    test_a_target_must_not_be_the_source_or_the_archive_or_hold_them(SOURCE)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_target_must_not_be_the_source_or_the_archive_or_hold_them(Path("/node/x/../data"))


def test_planted_replacement_without_being_told_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug, weakness 15: what is in the way is always put out of it."""
    real_check = RestoreTarget.check
    monkeypatch.setattr(
        RestoreTarget, "check", lambda one, sources, **_: real_check(one, sources, force=True)
    )
    real_take = RestoreTarget.take_place
    monkeypatch.setattr(
        RestoreTarget, "take_place", lambda one, now_ms, **_: real_take(one, now_ms, force=True)
    )
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_target_with_data_is_refused_or_put_aside_and_a_dry_run_does_nothing()


def test_what_only_has_the_name_of_a_half_built_directory_is_left_alone() -> None:
    vfs = MemoryVfs()
    small_history(vfs)
    vfs.make_directory(STAGING)
    vfs.create(STAGING / "thesis.txt").close()
    with pytest.raises(RestoreTargetError, match="taken"):
        restore_to(vfs, Point(sequence=5))
    assert vfs.exists(STAGING / "thesis.txt")


def test_a_mount_point_is_refused_before_any_work() -> None:
    vfs = MemoryVfs()
    small_history(vfs)
    vfs.make_directory(TARGET)
    vfs.mount_points.add(TARGET)
    with pytest.raises(RestoreTargetError, match="mount point"):
        restore_to(vfs, Point(sequence=5))
    assert not vfs.exists(STAGING)


def test_too_little_space_is_said_before_anything_is_written() -> None:
    vfs = MemoryVfs()
    small_history(vfs)
    calls = vfs.call_count
    with pytest.raises(FileSystemError, match="only 1000 are free"):
        restore_to(vfs, Point(sequence=5), free_bytes=lambda _path: 1000)
    assert vfs.call_count == calls
    restore_to(vfs, Point(sequence=5), free_bytes=lambda _path: 1 << 30)


def test_an_entry_that_is_not_written_as_it_was_read_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vfs = MemoryVfs()
    small_history(vfs)
    original = pitr._Restore._batches

    def altered(self: pitr._Restore) -> list[Batch]:
        batches = list(original(self))
        last = batches[-1]
        batches[-1] = Batch.create(
            first_index=last.first_index,
            count=last.count,
            term=last.term,
            kind=last.kind,
            timestamp_ms=last.timestamp_ms,
            payload=last.payload[:-1],
        )
        return batches

    monkeypatch.setattr(pitr._Restore, "_batches", altered)
    with pytest.raises(CorruptionError, match="not what is read back"):
        restore_to(vfs, Point(sequence=20))
    assert not vfs.exists(TARGET)
    assert not vfs.exists(STAGING)


def prepare(*, has_target: bool) -> tuple[MemoryVfs, PastWriter]:
    vfs = MemoryVfs()
    writer = small_history(vfs)
    if has_target:
        restore_to(vfs, Point(sequence=5))
    # What was removed there need not be gone yet, and could come back by itself.
    vfs.power_cut(Survival.EVERYTHING, Survival.EVERYTHING)
    return vfs, writer


@pytest.mark.parametrize("has_target", [False, True], ids=["new", "forced"])
def test_a_crash_at_any_call_leaves_the_old_target_or_none_or_a_whole_one(
    *, has_target: bool
) -> None:
    call = 0
    finished = False
    while not finished:
        call += 1
        for survival in SURVIVALS:
            vfs, writer = prepare(has_target=has_target)
            before = files_below(vfs, SOURCE)
            vfs.crash_at(vfs.call_count + call)
            try:
                restore_to(vfs, Point(sequence=20), force=has_target)
                finished = True
            except SimulatedCrash:
                pass
            vfs.power_cut(*survival)
            assert files_below(vfs, SOURCE) == before
            check_after_crash(vfs, writer, has_target=has_target, finished=finished)
    assert call > 20


def check_after_crash(
    vfs: MemoryVfs, writer: PastWriter, *, has_target: bool, finished: bool
) -> None:
    is_new = False
    if vfs.exists(TARGET):
        state = state_of(vfs, TARGET)
        is_new = state == writer.states[20]
        assert is_new or (has_target and state == writer.states[5])
    elif has_target:
        # Only for a moment; and then nothing starts afresh under that name.
        (old,) = put_aside(vfs)
        assert state_of(vfs, old) == writer.states[5]
    if not vfs.exists(TARGET) and vfs.exists(STAGING):
        with pytest.raises(FileSystemError, match="interrupted"):
            open_engine(vfs, TARGET)
        assert not vfs.exists(TARGET)
    assert is_new or not finished
    if not finished:
        restore_to(vfs, Point(sequence=20), force=True)
        assert state_of(vfs, TARGET) == writer.states[20]
        assert not vfs.exists(STAGING)


@pytest.mark.parametrize("has_target", [False, True], ids=["new", "forced"])
def test_a_call_that_fails_leaves_the_old_target_or_a_whole_new_one(*, has_target: bool) -> None:
    call = 0
    finished = False
    while not finished:
        call += 1
        vfs, writer = prepare(has_target=has_target)
        before = files_below(vfs, SOURCE)
        vfs.fail_at(vfs.call_count + call)
        count = vfs.call_count
        try:
            restore_to(vfs, Point(sequence=20), force=has_target)
            finished = vfs.call_count < count + call
        except StorageError:
            pass
        vfs.kill()
        assert files_below(vfs, SOURCE) == before
        if vfs.exists(TARGET):
            state = state_of(vfs, TARGET)
            assert state == writer.states[20] or (has_target and state == writer.states[5])
        else:
            assert not has_target
        restore_to(vfs, Point(sequence=21), force=True)
        assert state_of(vfs, TARGET) == writer.states[21]
    assert call > 20
