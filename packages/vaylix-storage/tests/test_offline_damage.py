"""Every byte of a small directory flipped, and every length cut.

Goal: `verify` and a start agree. What is damaged is detected, with file and offset, or it is
harmless; it is never silently other data or another identity, and never an exception of another
kind. Only what no single node can know, the end of a log that was not stopped cleanly, may be
missing, and then it is a prefix.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from vaylix_storage._directory import NodeIdentity, read_identity
from vaylix_storage.errors import CorruptionError, ForeignFormatError, KeyringError, StorageError
from vaylix_storage.offline import State, Verification, verify_directory
from vaylix_storage.offline.testing import Sample
from vaylix_storage.testing import MemoryVfs

Files = dict[Path, bytes]
Pairs = dict[bytes, bytes]


class Original(NamedTuple):
    """A directory, and the state after each number of batches."""

    files: Files
    states: list[Pairs]
    identity: NodeIdentity


def fill(sample: Sample, batch_count: int, *, clean: bool) -> None:
    """Write the first batches of: two, a snapshot, two, a snapshot, two."""
    engine = sample.open(segment_bytes_max=300)
    for number in range(batch_count):
        if number in {2, 4}:
            sample.snapshot(engine)
        sample.append(engine, size=8)
    if clean:
        engine.close()
    else:
        engine.abandon()


@cache
def original(*, clean: bool) -> Original:
    sample = Sample()
    fill(sample, 6, clean=clean)
    files = sample.files()
    identity = read_identity(sample.path, sample.vfs)
    states = []
    for count in range(7):
        sample = Sample()
        fill(sample, count, clean=clean)
        states.append(sample.contents())
    return Original(files, states, identity)


def disk_with(files: Files) -> Sample:
    vfs = MemoryVfs()
    sample = Sample(vfs=vfs, seed=8)
    for path, content in files.items():
        vfs.make_directory(path.parent)
        vfs.create(path)
        vfs.overwrite(path, content)
    return sample


def look(sample: Sample) -> Verification | StorageError:
    """Verify; return what that says."""
    try:
        return verify_directory(sample.path, vfs=sample.vfs, provider=sample.provider())
    except StorageError as error:
        return error


def start(sample: Sample) -> Pairs | StorageError:
    """Start as a node does; return all keys, or the refusal."""
    try:
        return sample.contents()
    except StorageError as error:
        return error


def check_problems(found: Verification, damaged: Path, size: int) -> None:
    """The damage is reported where it is."""
    assert found.problems
    problem = found.problems[0]
    assert problem.path == damaged
    if problem.code == "ENG-009":
        # Its number of the format: nobody knows what another format says, and where.
        assert damaged.name == "node.json"
        return
    assert problem.offset is not None
    assert 0 <= problem.offset <= size
    assert problem.remedy


def check(files: Files, damaged: Path, whole: Original, *, may_lose: bool) -> None:
    """Damage one file and compare the verdict with what a start does."""
    sample = disk_with(files)
    found = look(sample)
    assert sample.files() == files
    if isinstance(found, KeyringError):
        assert damaged.name == "storage.key"
        assert isinstance(start(sample), KeyringError)
        return
    if isinstance(found, StorageError):
        assert found.path == damaged
        assert isinstance(start(sample), type(found))
        return
    started = start(sample)
    if found.state is State.CORRUPT:
        check_problems(found, damaged, max(len(files[damaged]), len(whole.files[damaged])))
        if isinstance(started, StorageError):
            assert isinstance(started, CorruptionError | ForeignFormatError)
            assert started.path == damaged
        else:
            # A start does not need the older snapshot, but a restore to a point in time might.
            assert damaged.name == "4.snapshot"
            assert started == whole.states[-1]
        return
    assert not isinstance(started, StorageError), started
    assert read_identity(sample.path, sample.vfs) == whole.identity
    assert started in (whole.states[5:] if may_lose else whole.states[-1:])
    if started != whole.states[-1]:
        assert found.ending != "clean end"


@pytest.mark.parametrize(("clean", "flip"), [(True, 0x01), (True, 0x80), (False, 0x10)])
def test_every_flipped_byte_is_detected_or_harmless(*, clean: bool, flip: int) -> None:
    whole = original(clean=clean)
    for path, content in whole.files.items():
        for offset in range(len(content)):
            damaged = bytearray(content)
            damaged[offset] ^= flip
            try:
                check({**whole.files, path: bytes(damaged)}, path, whole, may_lose=False)
            except BaseException as error:
                error.add_note(f"{path} at byte {offset}")
                raise


@pytest.mark.parametrize("clean", [True, False])
def test_every_cut_length_is_detected_or_harmless(*, clean: bool) -> None:
    whole = original(clean=clean)
    for path, content in whole.files.items():
        may_lose = not clean and path.name.startswith("active-")
        for length in range(len(content)):
            try:
                files = {**whole.files, path: content[:length]}
                check(files, path, whole, may_lose=may_lose)
            except BaseException as error:
                error.add_note(f"{path} cut to {length} bytes")
                raise


def test_the_directory_has_one_of_everything() -> None:
    names = [path.name for path in original(clean=True).files]
    assert {"node.json", "keyring.bin", "manifest.bin", "4.snapshot", "8.snapshot"} < {*names}
    assert sum(name.endswith(".wal") for name in names) >= 4
    assert len(original(clean=False).states[-1]) == 7
