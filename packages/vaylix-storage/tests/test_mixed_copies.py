"""Files of two moments of one directory, as a copy without `copy_directory` may bring together.

Goal: whatever the mixture, a start, `verify`, `inspect` and `restore` refuse it, or they show a
state that the directory really had; never another one. That a whole older state comes up is no
defect: no single directory can know of a newer one.
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaylix_storage.errors import StorageError
from vaylix_storage.offline import Point, inspect, rotate_keys, verify_directory, window_of
from vaylix_storage.offline import State as Verdict
from vaylix_storage.offline.history import History
from vaylix_storage.offline.past_testing import (
    ARCHIVE,
    SOURCE,
    TARGET,
    PastWriter,
    State,
    files_below,
    open_engine,
    provider_of,
    restore_to,
    state_of,
)
from vaylix_storage.testing import MemoryVfs, counting_random_bytes

Files = dict[Path, bytes]
STEPS = "aasarakasaaasakrasaar"
# Kept segments and snapshots: as few as can be, some, and all.
KEPT = [(0, 1), (1, 1), (1, 2), (99, 99)]
# Points of one mixture that are restored, at most.
POINTS_MAX = 6


class Life(NamedTuple):
    """All files of a directory and its archive after each step, and the state at each entry."""

    moments: list[Files]
    states: list[State]


@cache
def life(keep: int, snapshots: int) -> Life:
    """Live through all steps: appends, snapshots, restarts, and new keys."""
    vfs = MemoryVfs()
    writer = PastWriter(vfs, keep=keep, snapshots=snapshots)
    moments = []
    for number, step in enumerate(STEPS):
        if step == "a":
            writer.append([b"a", b"%d" % number, b"b"], (number + 1) * 10)
        elif step == "s":
            writer.snapshot()
        else:
            writer.close()
            if step == "k":
                moments.append(all_files(vfs))
                rotate_keys(
                    SOURCE,
                    vfs=vfs,
                    provider=provider_of(vfs, SOURCE),
                    now_ms=number,
                    archive=ARCHIVE if vfs.exists(ARCHIVE) else None,
                    random_bytes=counting_random_bytes(number),
                )
            moments.append(all_files(vfs))
            writer.engine = open_engine(vfs, keep=keep, snapshots=snapshots)
        moments.append(all_files(vfs))
    return Life(moments, writer.states)


def all_files(vfs: MemoryVfs) -> Files:
    files = files_below(vfs, SOURCE)
    if vfs.exists(ARCHIVE):
        files |= files_below(vfs, ARCHIVE)
    return {path: content for path, content in files.items() if path.name != "LOCK"}


def disk_with(files: Files) -> MemoryVfs:
    vfs = MemoryVfs()
    vfs.make_directory(SOURCE)
    for path, content in files.items():
        vfs.make_directory(path.parent)
        vfs.create(path).close()
        vfs.overwrite(path, content)
    return vfs


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Life, Files]:
    """Take each file as it was at one of two moments, or was not."""
    whole = life(*draw(st.sampled_from(KEPT)))
    numbers = st.integers(0, len(whole.moments) - 1)
    older, newer = whole.moments[draw(numbers)], whole.moments[draw(numbers)]
    has_archive = draw(st.booleans())
    mixed = {}
    for path in sorted({*older, *newer}):
        if path.is_relative_to(ARCHIVE) and not has_archive:
            continue
        chosen = older if draw(st.booleans()) else newer
        if path in chosen:
            mixed[path] = chosen[path]
    return whole, mixed


def started(vfs: MemoryVfs) -> State | StorageError:
    try:
        return state_of(copy.deepcopy(vfs), SOURCE)
    except StorageError as error:
        return error


def verdict(vfs: MemoryVfs) -> Verdict | StorageError:
    try:
        return verify_directory(SOURCE, vfs=vfs, provider=provider_of(vfs, SOURCE)).state
    except StorageError as error:
        return error


def points_of(vfs: MemoryVfs) -> set[int]:
    """Return what `inspect` says that can be restored; nothing, if it refuses."""
    try:
        history = inspect(SOURCE, vfs=vfs, provider=provider_of(vfs, SOURCE), archive=ARCHIVE)
    except StorageError:
        return set()
    assert isinstance(history, History)
    window = window_of(history)
    if window is None:
        return set()
    points = {*range(window.earliest, window.latest + 1)}
    return points.union(*(range(part.earliest, part.latest + 1) for part in window.earlier))


def check(whole: Life, files: Files) -> None:
    vfs = disk_with(files)
    state, found, points = started(vfs), verdict(vfs), points_of(vfs)
    assert isinstance(state, StorageError) or state in whole.states
    if found in {Verdict.CLEAN, Verdict.TORN}:
        assert not isinstance(state, StorageError), "what is called good starts"
    if isinstance(state, StorageError):
        assert found is Verdict.CORRUPT or isinstance(found, StorageError)
    assert points <= {*range(len(whole.states))}
    some = sorted(points)[:: max(1, len(points) // POINTS_MAX)]
    for index in (*some, max(points, default=0)) if points else ():
        restore_to(vfs, Point(sequence=index), force=True)
        assert state_of(vfs, TARGET) == whole.states[index], f"entry {index}"
    for index in sorted({*range(len(whole.states))} - points)[:POINTS_MAX]:
        with pytest.raises(StorageError):
            restore_to(vfs, Point(sequence=index), force=True)


@settings(max_examples=250, deadline=None)
@given(mixtures())
def test_files_of_two_moments_are_refused_or_show_a_state_that_was(
    mixture: tuple[Life, Files],
) -> None:
    check(*mixture)


@pytest.mark.parametrize("kept", KEPT)
def test_one_file_of_another_moment_is_refused_or_shows_a_state_that_was(
    kept: tuple[int, int],
) -> None:
    """The likeliest mixture, looked at in full: each file of a late moment, as it was before."""
    whole = life(*kept)
    late = whole.moments[-1]
    for early in whole.moments[1::4]:
        for path in {*early, *late}:
            files = {**late}
            files.pop(path, None)
            if path in early:
                files[path] = early[path]
            if files != late:
                check(whole, files)


@pytest.mark.parametrize("kept", KEPT)
def test_every_whole_moment_shows_its_own_state(kept: tuple[int, int]) -> None:
    """What is refused above is the mixture, not what it is mixed of."""
    whole = life(*kept)
    for files in whole.moments:
        vfs = disk_with(files)
        assert verdict(vfs) in {Verdict.CLEAN, Verdict.TORN}
        assert started(vfs) in whole.states
    assert started(disk_with(whole.moments[-1])) == whole.states[-1]
