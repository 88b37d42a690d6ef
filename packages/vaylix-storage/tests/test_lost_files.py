"""Whole parts of a directory are gone: start and `verify` agree, and nothing else is lost by it."""

from __future__ import annotations

from itertools import chain, combinations

import pytest

from vaylix_storage._snapshot_format import SnapshotMeta
from vaylix_storage.errors import CorruptionError
from vaylix_storage.offline import State, verify_directory
from vaylix_storage.offline.testing import NOW_MS, Sample

PARTS = ("wal", "wal.begun", "manifest.bin", "snapshots")
SUBSETS = list(chain.from_iterable(combinations(PARTS, count) for count in range(1, 5)))


def lose(sample: Sample, *names: str) -> None:
    for path in sample.files():
        if path.relative_to(sample.path).parts[0] in names:
            sample.memory.remove(path)
    for name in ("wal", "snapshots"):
        if name in names:
            sample.vfs.remove_directory(sample.path / name)


def state_of(sample: Sample) -> State:
    return verify_directory(sample.path, vfs=sample.vfs, provider=sample.provider()).state


@pytest.mark.parametrize("lost", SUBSETS, ids="+".join)
@pytest.mark.parametrize("clean", [True, False])
def test_a_directory_without_its_data_is_not_begun_anew(lost: tuple[str, ...], clean: bool) -> None:
    sample = Sample()
    sample.fill(clean=clean)
    whole = dict(sample.contents())
    lose(sample, *lost)
    before = sample.files()
    if "wal" not in lost and ("snapshots" not in lost or "manifest.bin" in lost):
        # The log alone holds everything here, and the mark is made again.
        assert state_of(sample) is State.CLEAN
        assert sample.contents() == whole
    elif len(lost) == len(PARTS):
        # A first start that was interrupted early looks like this, so nobody can know.
        assert state_of(sample) is State.CLEAN
        assert sample.contents() == {}
    else:
        assert state_of(sample) is State.CORRUPT
        with pytest.raises(CorruptionError):
            sample.open()
        assert sample.files() == before


@pytest.mark.parametrize("kept", ["manifest.bin", "6.snapshot", "12.snapshot", "16.snapshot.tmp"])
def test_whatever_is_made_after_the_log_shows_that_there_was_one(kept: str) -> None:
    sample = Sample()
    sample.fill(clean=True)
    sample.memory.create(sample.path / "snapshots" / "16.snapshot.tmp").close()
    for path in sample.files():
        is_part = path.relative_to(sample.path).parts[0] in PARTS
        if is_part and path.name != kept:
            sample.memory.remove(path)
    before = sample.files()
    assert kept in {path.name for path in before}
    assert state_of(sample) is State.CORRUPT
    with pytest.raises(CorruptionError):
        sample.open()
    assert sample.files() == before


def test_an_installed_snapshot_does_not_stand_for_a_log_that_is_lost() -> None:
    """What came behind it would be gone without a word."""
    sample = Sample()
    engine = sample.open()
    sample.append(engine, 3)
    writer = engine.create_snapshot(SnapshotMeta(100, 1, NOW_MS, NOW_MS))
    engine.commit_snapshot(writer.finish(), installed=True)
    sample.append(engine, 3)
    engine.close()
    assert state_of(sample) is State.CLEAN
    lose(sample, "wal", "wal.begun")
    before = sample.files()
    assert state_of(sample) is State.CORRUPT
    with pytest.raises(CorruptionError, match="the log of this node is missing"):
        sample.open()
    assert sample.files() == before
