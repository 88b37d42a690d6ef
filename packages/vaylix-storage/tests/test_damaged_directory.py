"""Every byte of a whole directory flipped, and every file cut at every length, after a clean stop.

It is detected, with file and offset, or it is harmless; never other data, never another exception.
`verify` and a start agree.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from vaylix_storage import (
    Batch,
    BatchKind,
    Engine,
    EngineOptions,
    FileKeyProvider,
    Keyspace,
    KeyspaceLoader,
    SnapshotMeta,
)
from vaylix_storage._builder import keyspace_section
from vaylix_storage._staging import walk_files
from vaylix_storage.commands import Command, Set, decode_commands, encode_commands
from vaylix_storage.errors import StorageError
from vaylix_storage.offline import State, verify_directory
from vaylix_storage.testing import MemoryVfs, counting_random_bytes

PATH = Path("/node/data")


def provider_of(vfs: MemoryVfs) -> FileKeyProvider:
    return FileKeyProvider(PATH / "storage.key", vfs=vfs, random_bytes=counting_random_bytes(7))


def open_engine(vfs: MemoryVfs) -> Engine:
    return Engine.open(
        PATH,
        vfs=vfs,
        provider=provider_of(vfs),
        options=EngineOptions(segment_bytes_max=500),
        now_ms=1,
        random_bytes=counting_random_bytes(vfs.generation + 1),
    )


def append(engine: Engine, keyspace: Keyspace, key: bytes) -> None:
    commands: list[Command] = [Set(key, b"value of " + key)]
    batch = Batch.create(
        first_index=engine.log.last_index + 1,
        count=1,
        term=0,
        kind=BatchKind.KEYSPACE,
        timestamp_ms=5,
        payload=encode_commands(commands),
    )
    engine.log.append([batch])
    engine.log.sync()
    keyspace.apply(commands, 5, want_results=False)


@pytest.fixture(scope="module")
def whole() -> MemoryVfs:
    """A directory with two segments, a snapshot and a closed end."""
    vfs = MemoryVfs()
    engine, keyspace = open_engine(vfs), Keyspace()
    for key in (b"a", b"b", b"c"):
        append(engine, keyspace, key)
    meta = SnapshotMeta(index=3, term=0, timestamp_ms=5, created_at_ms=5)
    writer = engine.create_snapshot(meta)
    section = keyspace_section(keyspace)
    writer.begin_section(section.name)
    for plain, count in section.chunks:
        writer.add(plain, count)
    engine.commit_snapshot(writer.finish())
    append(engine, keyspace, b"d")
    engine.close()
    return vfs


def state_of(vfs: MemoryVfs) -> list[tuple[bytes, bytes]]:
    engine = open_engine(vfs)
    try:
        keyspace = Keyspace()
        reader = engine.open_snapshot()
        if reader is not None:
            loader = KeyspaceLoader(keyspace)
            for _, plain in reader.chunks():
                loader.add(plain)
            loader.finish()
        for batch in engine.read_behind_snapshot():
            keyspace.apply(decode_commands(batch.payload, batch.count), 5, want_results=False)
        listed = keyspace.list_all(5, 10**9)
        assert isinstance(listed, list)
        return listed
    finally:
        engine.abandon()


EXPECTED = [(key, b"value of " + key) for key in (b"a", b"b", b"c", b"d")]


def check(whole: MemoryVfs, path: Path, content: bytes) -> None:
    """Look at the directory with another content of one file."""
    vfs = copy.deepcopy(whole)
    vfs.overwrite(path, content)
    is_detected = False
    try:
        found = verify_directory(PATH, vfs=vfs, provider=provider_of(vfs))
        is_detected = found.state is State.CORRUPT
        assert all(problem.remedy for problem in found.problems)
        if is_detected:
            named = [problem.offset for problem in found.problems if problem.path == path]
            assert named, "another file is blamed"
            # In a line of JSON there are no places, only values.
            assert None not in named or path.name == "node.json"
    except StorageError as error:
        is_detected = str(path) in str(error)
    try:
        assert state_of(vfs) == EXPECTED
    except StorageError:
        assert is_detected, "a start refuses what verify calls good"


def files(whole: MemoryVfs) -> list[Path]:
    return [path for path in walk_files(PATH, whole) if path.name not in {"LOCK", "wal.begun"}]


def test_the_directory_is_good_as_it_is(whole: MemoryVfs) -> None:
    assert len(files(whole)) == 8
    vfs = copy.deepcopy(whole)
    assert verify_directory(PATH, vfs=vfs, provider=provider_of(vfs)).state is State.CLEAN
    assert state_of(vfs) == EXPECTED


@pytest.mark.parametrize("number", range(8))
def test_every_byte_flipped_is_detected_or_harmless(whole: MemoryVfs, number: int) -> None:
    path = files(whole)[number]
    content = whole.content(path)
    for place in range(len(content)):
        for mask in (0x01, 0x80):
            damaged = bytearray(content)
            damaged[place] ^= mask
            check(whole, path, bytes(damaged))


@pytest.mark.parametrize("number", range(8))
def test_every_cut_is_detected(whole: MemoryVfs, number: int) -> None:
    path = files(whole)[number]
    content = whole.content(path)
    for length in range(len(content)):
        check(whole, path, content[:length])
