"""The window that is shown is the one that can be restored, also where files are lost or damaged.

Each file of a small directory in turn is lost, or damaged in its header, its middle and its end.
Then every point inside the window gives the state of that time, and every other one is refused.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from vaylix_storage.errors import (
    CorruptionError,
    RestorePointError,
    StorageError,
)
from vaylix_storage.offline import Point, inspect, window_of
from vaylix_storage.offline.history import History
from vaylix_storage.offline.past_testing import (
    ARCHIVE,
    SOURCE,
    TARGET,
    PastWriter,
    State,
    files_below,
    provider_of,
    restore_to,
    state_of,
)
from vaylix_storage.testing import MemoryVfs

# Where a bit of a file is flipped, as a share of its size; None takes the file away.
PLACES = (None, 0.01, 0.5, 0.9)


def history(*, snapshots: int, segments: int, has_archive: bool) -> PastWriter:
    """Return a closed history of 12 entries with snapshots of 4 and 8, as far as they are kept."""
    vfs = MemoryVfs()
    writer = PastWriter(vfs, keep=segments, snapshots=snapshots)
    for number in range(1, 7):
        writer.append([b"a", b"%d" % number], number * 10)
        if number in {2, 4}:
            writer.snapshot()
    writer.close()
    for path in () if has_archive else archived(vfs):
        vfs.remove(path)
    return writer


def archived(vfs: MemoryVfs) -> list[Path]:
    return [*files_below(vfs, ARCHIVE)] if vfs.exists(ARCHIVE) else []


def inspected(vfs: MemoryVfs) -> History | StorageError:
    try:
        return inspect(SOURCE, vfs=vfs, provider=provider_of(vfs, SOURCE), archive=ARCHIVE)
    except StorageError as error:
        return error


def restored(vfs: MemoryVfs, point: Point) -> State | StorageError:
    try:
        restore_to(vfs, point, force=True)
    except StorageError as error:
        return error
    return state_of(vfs, TARGET)


def lose_or_damage(vfs: MemoryVfs, path: Path, place: float | None) -> None:
    if place is None:
        vfs.remove(path)
        return
    content = bytearray(vfs.content(path))
    # What is reserved for later, and not written, is no part of it.
    content[int(len(content.rstrip(b"\0")) * place)] ^= 1
    vfs.overwrite(path, bytes(content))


def check_points(writer: PastWriter, vfs: MemoryVfs) -> set[int]:
    """Restore to every point, compare with the window, and return what is in it."""
    found = inspected(vfs)
    inside: set[int] = set()
    window = window_of(found) if isinstance(found, History) else None
    if window is not None:
        inside |= {*range(window.earliest, window.latest + 1)}
        for part in window.earlier:
            inside |= {*range(part.earliest, part.latest + 1)}
    for index in range(len(writer.states) + 1):
        state = restored(vfs, Point(sequence=index))
        if index in inside:
            assert state == writer.states[index], f"entry {index}"
            continue
        assert isinstance(state, StorageError), f"entry {index} is not in the window"
        if isinstance(found, StorageError):
            assert type(state) is type(found)
        elif window is None:
            assert isinstance(state, CorruptionError)
        elif isinstance(state, RestorePointError):
            assert f"the window is {window}, " in str(state)
        else:
            assert f"the window is {window}" in (state.remedy or "")
    for time_ms in range(0, 70, 5):
        state = restored(vfs, Point(timestamp_ms=time_ms))
        expected = writer.states[sum(entry_ms <= time_ms for entry_ms in writer.times[1:])]
        assert isinstance(state, StorageError) or state == expected, f"{time_ms} ms"
    return inside


@pytest.mark.parametrize(
    ("snapshots", "segments", "has_archive", "reach"),
    [
        (1, 0, False, {*range(8, 13)}),
        (2, 0, False, {4, *range(8, 13)}),
        # Nothing goes, so there is nothing to archive.
        (2, 9, False, {*range(13)}),
        (1, 0, True, {*range(13)}),
        (2, 0, True, {*range(13)}),
    ],
)
def test_what_is_shown_can_be_restored_and_nothing_else(
    snapshots: int, segments: int, reach: set[int], *, has_archive: bool
) -> None:
    writer = history(snapshots=snapshots, segments=segments, has_archive=has_archive)
    whole = check_points(writer, copy.deepcopy(writer.vfs))
    assert whole == reach
    paths = [path for path in files_below(writer.vfs, SOURCE) if path.name != "LOCK"]
    kinds = {"node.json", "keyring.bin", "manifest.bin", "storage.key", "8.snapshot"}
    assert kinds <= {path.name for path in paths}
    for path in (*paths, *archived(writer.vfs)):
        for place in PLACES:
            vfs = copy.deepcopy(writer.vfs)
            lose_or_damage(vfs, path, place)
            try:
                assert check_points(writer, vfs) <= whole
            except BaseException as error:
                error.add_note(f"{path} " + ("lost" if place is None else f"damaged at {place}"))
                raise


@pytest.mark.parametrize("place", PLACES)
def test_without_its_only_snapshot_a_directory_has_no_window(place: float | None) -> None:
    writer = history(snapshots=1, segments=0, has_archive=False)
    vfs, path = writer.vfs, SOURCE / "snapshots" / "8.snapshot"
    lose_or_damage(vfs, path, place)
    found = inspected(vfs)
    assert isinstance(found, History)
    assert window_of(found) is None
    (problem,) = found.problems
    assert str(path) in problem
    assert "copy" in problem or "backup" in problem
    # What the manifest and the log still prove.
    assert [(part.meta.index, part.meta.timestamp_ms) for part in found.lost_snapshots] == [(8, 40)]
    assert (found.segments[0].first_index, found.last_index) == (9, 12)
    for index in range(14):
        error = restored(vfs, Point(sequence=index))
        assert isinstance(error, CorruptionError)
        assert str(path) in str(error)
        assert "window is" not in str(error)
    assert isinstance(restored(vfs, Point(timestamp_ms=1000)), CorruptionError)


def test_a_time_behind_which_entries_are_lost_is_not_known() -> None:
    """Of the time of entry 12, all that is left is older: that was not the state then."""
    writer = history(snapshots=1, segments=0, has_archive=True)
    vfs = writer.vfs
    vfs.remove(SOURCE / "snapshots" / "8.snapshot")
    segments = [path for path in archived(vfs) if path.suffix == ".wal"]
    vfs.remove(max(segments, key=lambda path: int(path.stem.partition("-")[0])))
    found = inspected(vfs)
    assert isinstance(found, History)
    window = window_of(found)
    assert window is not None
    assert 4 <= window.latest < 8
    assert found.index_at(1000, found.committed_index) is None
    assert isinstance(restored(vfs, Point(timestamp_ms=1000)), CorruptionError)
    assert restored(vfs, Point(sequence=window.latest)) == writer.states[window.latest]


def test_an_empty_directory_can_be_restored_as_such() -> None:
    vfs = MemoryVfs()
    PastWriter(vfs).close()
    found = inspected(vfs)
    assert isinstance(found, History)
    window = window_of(found)
    assert window is not None
    assert (window.earliest, window.latest, window.unconfirmed) == (0, 0, 0)
    assert restored(vfs, Point(sequence=0)) == {}
