"""Directories that are built whole: from a state and the entries behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vaylix_storage import (
    Batch,
    DataDirectory,
    FileKeyProvider,
    HardState,
    Keyring,
    Keyspace,
    Log,
    LogBase,
    LogOptions,
)
from vaylix_storage._builder import (
    BuiltDirectory,
    NewHistory,
    Section,
    build_directory,
    keyspace_section,
    read_back,
)
from vaylix_storage._manifest import load_manifest
from vaylix_storage._snapshot_format import SnapshotMeta
from vaylix_storage._staging import finish_building, is_unfinished, remove_built
from vaylix_storage.commands import Set
from vaylix_storage.errors import CorruptionError, FileSystemError, StorageError
from vaylix_storage.testing import MemoryVfs, SimulatedCrash, Survival, counting_random_bytes

NEW = Path("/new")
META = SnapshotMeta(41, 7, 1000, 2000)
STATE = [(b"part one", 1), (b"part two", 2)]


def make_batch(first_index: int, payload: bytes = b"payload") -> Batch:
    return Batch.create(
        first_index=first_index, count=3, term=8, kind=1, timestamp_ms=1001, payload=payload
    )


def provider_of(vfs: MemoryVfs) -> FileKeyProvider:
    return FileKeyProvider(
        NEW / "storage.key", vfs=vfs, random_bytes=counting_random_bytes(vfs.generation + 100)
    )


def keyspace_of(**pairs: bytes) -> Keyspace:
    keyspace = Keyspace()
    commands = [Set(key.encode(), value) for key, value in pairs.items()]
    keyspace.apply(commands, 1, want_results=False)
    return keyspace


def build(
    vfs: MemoryVfs,
    *batches: Batch,
    meta: SnapshotMeta = META,
    hard_state: HardState | None = None,
    finish: bool = True,
) -> BuiltDirectory:
    return build_directory(
        NEW,
        NewHistory(
            meta,
            [keyspace_section(keyspace_of(a=b"1", b=b"2")), Section("state", STATE)],
            batches,
            hard_state,
        ),
        vfs=vfs,
        provider=provider_of(vfs),
        random_bytes=counting_random_bytes(vfs.generation),
        finish=finish,
    )


def open_log(vfs: MemoryVfs, meta: SnapshotMeta = META) -> Log:
    """Open the directory as a node does, and return its log."""
    directory = DataDirectory.open(NEW, vfs=vfs)
    keyring = Keyring.load(NEW / "keyring.bin", vfs=vfs, provider=provider_of(vfs))
    manifest = load_manifest(
        NEW / "manifest.bin", vfs=vfs, keyring=keyring, timeline=directory.timeline
    )
    assert manifest.current is not None
    assert manifest.current.installed
    assert manifest.current.meta == meta
    assert directory.log_has_begun
    options = LogOptions(
        timeline=directory.timeline,
        must_exist=True,
        base=LogBase(meta.index, meta.term, installed=False),
    )
    return Log.open(directory.wal_path, vfs=vfs, keyring=keyring, options=options)


def read_sections(vfs: MemoryVfs) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    read_back(
        NEW,
        vfs=vfs,
        provider=provider_of(vfs),
        take=lambda name, plain: found.setdefault(name, []).append(plain),
    )
    return found


def test_a_directory_holds_its_state_and_the_log_begins_behind_it() -> None:
    vfs = MemoryVfs()
    built = build(vfs)
    vfs.power_cut()
    assert built.last_index == 41
    assert read_sections(vfs)["state"] == [plain for plain, _ in STATE]
    assert [part.item_count for part in built.snapshot.sections] == [2, 3]
    vfs.power_cut()
    log = open_log(vfs)
    assert (log.first_index, log.last_index) == (42, 41)
    assert log.hard_state == HardState(term=7, commit=41)
    log.append([make_batch(42)])
    log.sync()


def test_batches_follow_the_state() -> None:
    vfs = MemoryVfs()
    large = bytes(700_000)
    batches = [make_batch(42, large), make_batch(45, large), make_batch(48)]
    built = build(vfs, *batches)
    assert built.last_index == 50
    vfs.power_cut()
    log = open_log(vfs)
    assert list(log.read(42)) == batches
    assert log.hard_state == HardState(term=8, commit=50)


def test_the_hard_state_may_be_given() -> None:
    vfs = MemoryVfs()
    build(vfs, make_batch(42), hard_state=HardState(9, b"me", 43))
    assert open_log(vfs).hard_state == HardState(9, b"me", 43)


def test_an_empty_history_is_a_history() -> None:
    vfs = MemoryVfs()
    meta = SnapshotMeta(0, 0, 0, 5)
    build(vfs, meta=meta)
    log = open_log(vfs, meta)
    assert (log.first_index, log.last_index) == (1, 0)


def test_every_directory_has_a_history_of_its_own() -> None:
    first, second = MemoryVfs(), MemoryVfs()
    second.kill()
    one, other = build(first).identity, build(second).identity
    ids = {one.cluster_id, one.node_id, one.timeline}
    assert len(ids | {other.cluster_id, other.node_id, other.timeline}) == 6


def test_an_existing_directory_is_refused() -> None:
    vfs = MemoryVfs()
    build(vfs)
    before = {path: vfs.content(NEW / path) for path in vfs.list_directory(NEW)}
    with pytest.raises(FileSystemError, match="already"):
        build(vfs)
    assert {path: vfs.content(NEW / path) for path in vfs.list_directory(NEW)} == before


def test_batches_that_do_not_follow_are_refused() -> None:
    vfs = MemoryVfs()
    with pytest.raises(StorageError, match="cannot follow"):
        build(vfs, make_batch(43))
    assert is_unfinished(NEW, vfs)
    with pytest.raises(FileSystemError, match="never finished"):
        DataDirectory.open(NEW, vfs=vfs)
    remove_built(NEW, vfs)
    build(vfs, make_batch(42))


def test_sections_that_fail_leave_an_unfinished_directory() -> None:
    def failing() -> Iterator[tuple[bytes, int]]:
        yield b"good", 1
        raise CorruptionError("the source is damaged")

    vfs = MemoryVfs()
    with pytest.raises(CorruptionError, match="source"):
        build_directory(
            NEW,
            NewHistory(META, [Section("state", failing())]),
            vfs=vfs,
            provider=provider_of(vfs),
        )
    assert is_unfinished(NEW, vfs)
    remove_built(NEW, vfs)
    build(vfs)


def test_damage_is_noticed_when_it_is_read_back() -> None:
    vfs = MemoryVfs()
    built = build(vfs, finish=False)
    content = bytearray(vfs.content(built.snapshot.path))
    content[300] ^= 1
    vfs.overwrite(built.snapshot.path, bytes(content))
    with pytest.raises(CorruptionError):
        read_sections(vfs)


def test_more_may_be_added_before_it_is_finished() -> None:
    vfs = MemoryVfs()
    build(vfs, finish=False)
    assert is_unfinished(NEW, vfs)
    finish_building(NEW, vfs)
    open_log(vfs)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (Survival.NOTHING, Survival.NOTHING),
        (Survival.EVERYTHING, Survival.EVERYTHING),
        (Survival.FIRST_HALF, Survival.EVERYTHING),
        (Survival.EVERYTHING, Survival.FIRST_HALF),
        (Survival.ODD_SECTORS, Survival.EVEN_SECTORS),
    ],
)
@pytest.mark.parametrize("how", [MemoryVfs.crash_at, MemoryVfs.fail_at])
def test_a_stop_at_every_call_leaves_nothing_that_looks_whole_and_is_not(
    how: object, data: Survival, names: Survival
) -> None:
    assert callable(how)
    call = 0
    is_finished = False
    while not is_finished:
        call += 1
        vfs = MemoryVfs()
        how(vfs, call)
        try:
            build(vfs, make_batch(42))
            is_finished = True
        except (SimulatedCrash, StorageError):
            pass
        vfs.power_cut(data, names)
        if not vfs.exists(NEW / "node.json") or is_unfinished(NEW, vfs):
            # Building it again is possible, whatever was left.
            remove_built(NEW, vfs)
            build(vfs, make_batch(42))
            vfs.power_cut()
        assert list(open_log(vfs).read(42)) == [make_batch(42)]
        vfs.kill()
        assert read_sections(vfs)["state"] == [plain for plain, _ in STATE]
    assert call > 30
