"""`repair`: what it gives up, what it says before, what it keeps, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from vaylix_storage.errors import CorruptionError, DirectoryLockedError, FileSystemError
from vaylix_storage.offline import (
    RepairPlan,
    RepairResult,
    State,
    repair_directory,
    verify_directory,
)
from vaylix_storage.offline.testing import NOW_MS, Sample
from vaylix_storage.testing import SimulatedCrash, Survival

COPIES = Path(f"/data.repair-{NOW_MS}")


@pytest.fixture
def sample() -> Sample:
    return Sample()


def damage(sample: Sample, name: str, offset: int) -> None:
    path = sample.path / name
    content = bytearray(sample.memory.content(path))
    content[offset] ^= 0x01
    sample.memory.overwrite(path, bytes(content))


def repair(sample: Sample, *, agree: bool = True, now_ms: int = NOW_MS) -> RepairResult:
    seen: list[RepairPlan] = []

    def confirm(plan: RepairPlan) -> bool:
        seen.append(plan)
        return agree

    result = repair_directory(
        sample.path, vfs=sample.vfs, provider=sample.provider(), confirm=confirm, now_ms=now_ms
    )
    assert seen == ([] if result.plan is None else [result.plan])
    return result


def refusal(sample: Sample) -> CorruptionError:
    before = sample.files()
    with pytest.raises(CorruptionError) as caught:
        repair(sample)
    assert sample.files() == before
    assert not sample.vfs.exists(COPIES)
    assert caught.value.remedy
    return caught.value


def state_of(sample: Sample) -> State:
    return verify_directory(sample.path, vfs=sample.vfs, provider=sample.provider()).state


def keys_until(index: int) -> set[bytes]:
    """Return the keys that entries up to an index have set."""
    return {b"key %d" % first for first in range(1, index + 1, 2)} | {b"n"}


@pytest.mark.parametrize("clean", [True, False])
def test_a_damaged_tail_is_cut_where_the_damage_begins(*, clean: bool) -> None:
    """The frames of the newest segment begin at 256 (hard state), 320, 480 and, if clean, 640."""
    name = "wal/closed-13-16.wal" if clean else "wal/active-13.wal"
    for offset in range(325, 688 if clean else 640, 5):
        sample = Sample()
        sample.fill(clean=clean)
        damage(sample, name, offset)
        before = sample.files()
        assert state_of(sample) is State.CORRUPT
        result = repair(sample)
        assert result.is_done
        assert result.plan is not None
        tail = result.plan.tail
        assert tail is not None
        kept = 12 if offset < 480 else 14 if offset < 640 else 16
        assert (tail.first_index, tail.commit_index) == (kept + 1, kept)
        assert tail.offset == {12: 320, 14: 480, 16: 640}[kept]
        if clean or offset < 440:
            # The name of a clean stop tells it, or the frame behind the damaged one, which opens
            # if the tag at the end of the damaged one is whole.
            assert tail.last_index == 16
        assert result.verification.state is State.CLEAN
        assert result.verification.report == result.plan.result.report
        # Whatever went is beside it, as it was.
        assert sample.memory.content(COPIES / name) == before[sample.path / name]
        assert sample.contents().keys() == keys_until(kept)


def test_entries_behind_several_damaged_frames_are_found(sample: Sample) -> None:
    engine = sample.open(segment_bytes_max=0)
    sample.append(engine, 8)
    engine.abandon()
    for offset in (324, 500, 660):
        damage(sample, "wal/active-1.wal", offset)
    plan = repair(sample).plan
    assert plan is not None
    assert plan.tail is not None
    assert (plan.tail.first_index, plan.tail.last_index) == (1, 16)
    assert "entries 1 to 16" in plan.lines()[0]


def test_a_lost_closing_frame_costs_nothing(sample: Sample) -> None:
    sample.fill(clean=True)
    path = sample.wal / "closed-13-16.wal"
    sample.memory.overwrite(path, sample.memory.content(path)[:640])
    result = repair(sample)
    assert result.plan is not None
    assert "no entry that is known" in result.plan.lines()[0]
    assert sample.contents().keys() == keys_until(16)


def test_bytes_behind_a_clean_stop_are_cut_and_it_stays_a_clean_stop(sample: Sample) -> None:
    sample.fill(clean=True)
    path = sample.wal / "closed-13-16.wal"
    sample.memory.overwrite(path, sample.memory.content(path) + b"garbage")
    assert repair(sample).verification.ending == "clean end"
    assert sample.contents().keys() == keys_until(16)


@pytest.mark.parametrize("names", [("6",), ("12",), ("6", "12")])
def test_damaged_snapshots_are_forgotten_when_the_log_has_it_all(
    sample: Sample, names: tuple[str, ...]
) -> None:
    sample.fill(clean=True)
    for name in names:
        damage(sample, f"snapshots/{name}.snapshot", 300)
    before = sample.files()
    result = repair(sample)
    assert result.plan is not None
    assert [str(snapshot.index) for snapshot in result.plan.snapshots] == list(names)
    assert len(result.verification.report.snapshots) == 2 - len(names)
    assert result.verification.notes == ()
    assert sample.contents().keys() == keys_until(16)
    for name in names:
        kept = sample.memory.content(COPIES / "snapshots" / f"{name}.snapshot")
        assert kept == before[sample.path / "snapshots" / f"{name}.snapshot"]
    assert sample.memory.content(COPIES / "manifest.bin") == before[sample.path / "manifest.bin"]


def test_a_missing_snapshot_is_forgotten_as_well(sample: Sample) -> None:
    sample.fill(clean=True)
    sample.memory.remove(sample.path / "snapshots" / "12.snapshot")
    assert repair(sample).is_done
    assert sample.contents().keys() == keys_until(16)


def test_both_at_once(sample: Sample) -> None:
    sample.fill(clean=True)
    damage(sample, "snapshots/12.snapshot", 300)
    damage(sample, "wal/closed-13-16.wal", 500)
    plan = repair(sample).plan
    assert plan is not None
    assert len(plan.lines()) == 3
    assert sample.contents().keys() == keys_until(14)


def test_nothing_happens_without_consent(sample: Sample) -> None:
    sample.fill(clean=True)
    damage(sample, "snapshots/12.snapshot", 300)
    before = sample.files()
    result = repair(sample, agree=False)
    assert (result.is_done, result.verification.state) == (False, State.CORRUPT)
    assert sample.files() == before
    assert not sample.vfs.exists(COPIES)


def test_what_is_whole_or_torn_needs_no_repair(sample: Sample) -> None:
    sample.fill(clean=False)
    assert repair(sample).plan is None
    path = sample.wal / "active-13.wal"
    sample.memory.overwrite(path, sample.memory.content(path)[:-20])
    result = repair(sample)
    assert result.plan is None
    assert result.verification.state is State.TORN


def test_a_repair_needs_the_directory_for_itself(sample: Sample) -> None:
    sample.fill(clean=True)
    sample.open()
    with pytest.raises(DirectoryLockedError) as caught:
        repair(sample)
    # There is no such option here.
    assert "--live" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("wal/7-10.wal", 400),
        ("wal/7-10.wal", 20),
        ("wal/closed-13-16.wal", 20),
        ("wal/closed-13-16.wal", 280),
        ("manifest.bin", 100),
        ("keyring.bin", 50),
        ("node.json", 40),
    ],
)
def test_a_hole_is_refused_with_a_remedy(sample: Sample, name: str, offset: int) -> None:
    sample.fill(clean=True)
    damage(sample, name, offset)
    error = refusal(sample)
    assert error.path == sample.path / name


def test_a_lost_newest_segment_is_refused(sample: Sample) -> None:
    sample.fill(clean=True)
    sample.memory.remove(sample.wal / "closed-13-16.wal")
    assert refusal(sample).path == sample.wal / "11-12.wal"


def test_a_snapshot_that_is_the_only_way_to_the_data_is_refused(sample: Sample) -> None:
    sample.fill(clean=True)
    engine = sample.open()
    engine.log.remove_before(13)
    engine.close()
    for name in ("6", "12"):
        damage(sample, f"snapshots/{name}.snapshot", 300)
    refusal(sample)


def test_a_cut_below_the_snapshot_is_refused(sample: Sample) -> None:
    """The log must reach the end of the snapshot, so nothing of it can be spared."""
    engine = sample.open(segment_bytes_max=0)
    sample.append(engine, 2)
    sample.snapshot(engine)
    engine.close()
    name = next(path.name for path in sample.files() if path.name.startswith("closed-"))
    sample.memory.remove(sample.wal / name)
    damage(sample, "wal/1-4.wal", 400)
    sample.vfs.rename(sample.wal / "1-4.wal", sample.wal / "active-1.wal")
    refusal(sample)


def test_the_copies_never_replace_others(sample: Sample) -> None:
    sample.fill(clean=True)
    damage(sample, "snapshots/12.snapshot", 300)
    sample.vfs.make_directory(COPIES)
    with pytest.raises(FileSystemError, match="name is taken"):
        repair(sample)


@pytest.mark.parametrize("cut", [None, *Survival])
@pytest.mark.parametrize("failing", [False, True])
def test_a_crash_at_every_call_can_be_repaired(*, cut: Survival | None, failing: bool) -> None:
    """Before the change all is as it was, and at every moment a copy holds what has changed."""
    call = 0
    while True:
        call += 1
        sample = Sample()
        sample.fill(clean=True)
        damage(sample, "snapshots/12.snapshot", 300)
        damage(sample, "wal/closed-13-16.wal", 500)
        before = sample.files()
        vfs = sample.memory
        vfs.power_cut()
        first_call = vfs.call_count
        (vfs.fail_at if failing else vfs.crash_at)(first_call + call)
        try:
            repair(sample)
            break
        except (SimulatedCrash, FileSystemError):
            pass
        if cut is None:
            vfs.kill()
        else:
            vfs.power_cut(data=cut, names=cut)
        after = sample.files()
        for path, content in before.items():
            if after.get(path) != content:
                assert vfs.content(COPIES / path.relative_to(sample.path)) == content
        result = repair(sample, now_ms=NOW_MS + 1)
        assert result.verification.state is not State.CORRUPT
        assert sample.contents().keys() == keys_until(14)
    assert call > 20
