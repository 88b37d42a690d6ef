"""Keys, offline: none is lost that anything needs, whenever the change stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vaylix_storage import EnvKeyProvider, FileKeyProvider, KeyProvider
from vaylix_storage.errors import DirectoryLockedError, KeyringError, StorageError
from vaylix_storage.offline import Point, inspect, key_status, rewrap_keys, rotate_keys, window_of
from vaylix_storage.offline.past_testing import (
    ARCHIVE,
    SOURCE,
    TARGET,
    PastWriter,
    open_engine,
    provider_of,
    restore_to,
    small_history,
    state_of,
)
from vaylix_storage.testing import MemoryVfs, SimulatedCrash, Survival, counting_random_bytes

ELSEWHERE = Path("/keys/vaylix.key")
SURVIVALS = [(data, names) for data in Survival for names in Survival]


def rotate(vfs: MemoryVfs, archive: Path | None = ARCHIVE, *, drop: bool = True) -> tuple[str, ...]:
    status = rotate_keys(
        SOURCE,
        vfs=vfs,
        provider=provider_of(vfs, SOURCE),
        now_ms=vfs.call_count,
        archive=archive,
        drop=drop,
        random_bytes=counting_random_bytes(1000 + vfs.call_count),
    )
    return status.dropped


def history_under_three_keys(vfs: MemoryVfs) -> PastWriter:
    """Return a closed history whose archive needs keys that the directory does not need."""
    writer = PastWriter(vfs)
    for number in range(1, 13):
        writer.append([b"a", b"%d" % number, b"a"], number * 10)
        if number % 3 == 0:
            writer.snapshot()
        if number in {4, 8}:
            writer.close()
            rotate(vfs, drop=False)
            writer.engine = open_engine(vfs)
    writer.close()
    return writer


def test_a_key_that_only_the_archive_needs_stays() -> None:
    vfs = MemoryVfs()
    writer = history_under_three_keys(vfs)
    provider = provider_of(vfs, SOURCE)
    alone = key_status(SOURCE, vfs=vfs, provider=provider)
    both = key_status(SOURCE, vfs=vfs, provider=provider, archive=ARCHIVE)
    assert [key.is_in_use for key in alone.keys] == [False, False, True]
    assert [key.is_in_use for key in both.keys] == [True, True, True]
    assert all(Path(file).is_relative_to(ARCHIVE) for file in both.keys[0].used_by)
    assert [key.is_active for key in both.keys] == [False, False, True]
    assert rotate(vfs, Path("/mistyped")) == ()
    # Of four keys the one that was made just now has sealed nothing.
    (unused,) = [key.key_id for key in key_status(SOURCE, vfs=vfs, provider=provider).keys][3:]
    assert rotate(vfs) == (unused,)
    for index in (0, 5, 20, 36):
        restore_to(vfs, Point(sequence=index), force=True)
        assert state_of(vfs, TARGET) == writer.states[index]
    assert set(rotate(vfs, None)) >= {both.keys[0].key_id, both.keys[1].key_id}
    # What is lost now is said, and what is not lost is there.
    history = inspect(SOURCE, vfs=vfs, provider=provider, archive=ARCHIVE)
    assert history.problems
    window = window_of(history)
    assert window is not None
    assert window.latest == 36
    restore_to(vfs, Point(sequence=36), force=True)
    assert state_of(vfs, TARGET) == writer.states[36]


Change = Callable[[MemoryVfs], None]


def rotate_and_drop(vfs: MemoryVfs) -> None:
    rotate(vfs, None)


def rewrap_in_place(vfs: MemoryVfs) -> None:
    old = provider_of(vfs, SOURCE)
    rewrap_keys(SOURCE, vfs=vfs, old=old, new=old.next_key())


def rewrap_elsewhere(vfs: MemoryVfs) -> None:
    vfs.make_directory(ELSEWHERE.parent)
    rewrap_keys(SOURCE, vfs=vfs, old=provider_of(vfs, SOURCE), new=elsewhere(vfs))


def rewrap_by_environment(vfs: MemoryVfs) -> None:
    rewrap_keys(SOURCE, vfs=vfs, old=provider_of(vfs, SOURCE), new=environment())


def elsewhere(vfs: MemoryVfs) -> FileKeyProvider:
    return FileKeyProvider(ELSEWHERE, vfs=vfs, random_bytes=counting_random_bytes(9))


def environment() -> EnvKeyProvider:
    return EnvKeyProvider("KEY", environment={"KEY": "5f" * 32})


def opens(vfs: MemoryVfs, providers: list[KeyProvider]) -> bool:
    """Tell whether all of the directory can be read with one of them."""
    for provider in providers:
        try:
            history = inspect(SOURCE, vfs=vfs, provider=provider)
        except KeyringError:
            continue
        assert history.last_index == 36
        assert not history.problems
        return True
    return False


@pytest.mark.parametrize(
    "change", [rotate_and_drop, rewrap_in_place, rewrap_elsewhere, rewrap_by_environment]
)
def test_a_crash_at_any_call_loses_no_key_and_the_same_call_does_the_rest(change: Change) -> None:
    call = 0
    finished = False
    while not finished:
        call += 1
        for survival in SURVIVALS:
            vfs = MemoryVfs()
            history_under_three_keys(vfs)
            vfs.power_cut(Survival.EVERYTHING, Survival.EVERYTHING)
            vfs.crash_at(vfs.call_count + call)
            try:
                change(vfs)
                finished = True
            except SimulatedCrash:
                pass
            vfs.power_cut(*survival)
            providers: list[KeyProvider] = [provider_of(vfs, SOURCE), elsewhere(vfs), environment()]
            assert opens(vfs, providers)
            try:
                change(vfs)
            except StorageError:
                # The old key opens nothing any more, since it was done.
                assert opens(vfs, providers[1:])
            assert opens(vfs, providers)
    assert call > 4


def test_the_keys_of_a_directory_in_use_are_not_looked_at() -> None:
    vfs = MemoryVfs()
    small_history(vfs)
    engine = open_engine(vfs)
    with pytest.raises(DirectoryLockedError) as caught:
        key_status(SOURCE, vfs=vfs, provider=provider_of(vfs, SOURCE))
    # There is no such option here.
    assert "--live" not in str(caught.value)
    engine.close()
