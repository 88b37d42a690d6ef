"""The embedded database: its rules, its errors, foreign directories, threads."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from vaylix_storage import (
    Batch,
    BatchKind,
    Engine,
    EnvKeyProvider,
    Keyspace,
    RecoveryOutcome,
    RetentionPolicy,
    SnapshotMeta,
    Store,
    SyncPolicy,
    rotate_keyring,
)
from vaylix_storage.commands import SetCondition
from vaylix_storage.errors import (
    BackupEncodingError,
    CommandEncodingError,
    CorruptionError,
    DirectoryLockedError,
    EntryTooLargeError,
    ForeignFormatError,
    IntegerOverflowError,
    LogClosedError,
    LogPoisonedError,
    StorageError,
)
from vaylix_storage.testing import MemoryVfs, counting_random_bytes

PATH = Path("/data")
START = 1_700_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ms = START

    def __call__(self) -> int:
        return self.now_ms


def open_store(
    vfs: MemoryVfs, clock: Clock | None = None, policy: SyncPolicy = SyncPolicy.SYNC
) -> Store:
    return Store.open(PATH, vfs=vfs, now_ms=Clock() if clock is None else clock, sync_policy=policy)


# What the published server got wrong: VTP2 storage section 18, items 1 to 3


def test_a_restart_after_a_snapshot_counts_nothing_twice() -> None:
    vfs = MemoryVfs()
    store = open_store(vfs)
    for _ in range(5):
        store.incr(b"n")
    store.snapshot()
    vfs.kill()
    store = open_store(vfs)
    assert (store.get(b"n"), store.version(b"n")) == (b"5", 5)


def test_a_snapshot_hides_what_cannot_be_applied_again() -> None:
    vfs = MemoryVfs()
    store = open_store(vfs)
    store.incr(b"c")
    store.set(b"c", b"abc")
    store.snapshot()
    vfs.kill()
    assert open_store(vfs).get(b"c") == b"abc"


def test_a_restart_applies_each_entry_at_its_time() -> None:
    vfs, clock = MemoryVfs(), Clock()
    store = open_store(vfs, clock)
    store.set(b"c", b"41", ttl_ms=30)
    clock.now_ms += 31
    assert store.incr(b"c") == 1
    vfs.kill()
    clock.now_ms += 10_000
    assert open_store(vfs, clock).get(b"c") == b"1"


def test_time_never_goes_back_not_even_across_a_restart() -> None:
    vfs, clock = MemoryVfs(), Clock()
    store = open_store(vfs, clock)
    store.set(b"k", b"v", ttl_ms=1000)
    clock.now_ms += 1000
    assert store.get(b"k") is None
    clock.now_ms -= 1000
    assert store.get(b"k") is None, "an expiry that was seen stays"
    store.set(b"other", b"v")
    vfs.kill()
    assert open_store(vfs, clock).get(b"k") is None


# Rules


def test_it_works_in_a_real_directory_and_says_how_it_came_back(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with Store.open(path) as store:
        store.set(b"k", b"v")
        assert store.recovery.outcome is RecoveryOutcome.CLEAN_END
        with pytest.raises(DirectoryLockedError, match="another process, or this one, has"):
            Store.open(path)
        store.snapshot()
        store.backup(tmp_path / "dump.json")
        store.clear()
        assert store.restore_backup(tmp_path / "dump.json") == 1
    with Store.open(str(path)) as store:
        assert b"k" in store
        assert b"other" not in store
        assert store.get_many(b"k", b"other") == [b"v", None]


def test_a_relative_path_means_the_same_wherever_the_process_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    policy = RetentionPolicy(segments_max=0, snapshots_max=1)
    with Store.open("data", archive_directory="archive", retention=policy) as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.set(b"k", b"v")
        store.snapshot()
        store.set(b"k", b"w")
        store.snapshot()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert list((tmp_path / "archive").iterdir())
    with Store.open(tmp_path / "data") as store:
        assert store.get(b"k") == b"w"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_store_is_not_copied(duplicate: Callable[[Store], object]) -> None:
    with pytest.raises(TypeError, match="cannot be copied"):
        duplicate(open_store(MemoryVfs()))


@pytest.mark.parametrize("count", [1, 7])
def test_a_scan_goes_on_whatever_is_changed_between(count: int) -> None:
    store = open_store(MemoryVfs())
    for number in range(50):
        store.set(b"%d" % number, b"v")
    found = []
    for number, key in enumerate(store.scan(count=count)):
        found.append(key)
        store.delete(key)
        store.set(b"new %d" % number, b"v", ttl_ms=1)
        store.snapshot()
    stayed = {b"%d" % number for number in range(50)}
    assert stayed <= {*found}
    assert len({*found}) == len(found)
    keys = store.scan()
    store.clear()
    assert list(keys) == []


def test_a_snapshot_shortens_the_log_as_the_policy_says() -> None:
    vfs = MemoryVfs()
    store = Store.open(
        PATH, vfs=vfs, now_ms=Clock(), retention=RetentionPolicy(segments_max=0, snapshots_max=1)
    )
    meta = store.snapshot()
    for number in range(3):
        store.set(b"k%d" % number, b"v")
        meta = store.snapshot()
        assert store.snapshot() == meta, "nothing new"
    assert len(vfs.list_directory(PATH / "wal")) == 1
    assert vfs.list_directory(PATH / "snapshots") == [f"{meta.index}.snapshot"]
    vfs.power_cut()
    assert sorted(open_store(vfs).scan()) == [b"k0", b"k1", b"k2"]


def test_a_snapshot_is_taken_again_under_a_new_key() -> None:
    vfs = MemoryVfs()
    provider = EnvKeyProvider("KEY", environment={"KEY": "ab" * 32})
    store = Store.open(PATH, vfs=vfs, now_ms=Clock(), key_provider=provider)
    store.set(b"k", b"v")
    first = store.snapshot()
    store.close()
    rotate_keyring(PATH / "keyring.bin", vfs=vfs, provider=provider, created_at_ms=START)
    store = Store.open(PATH, vfs=vfs, now_ms=Clock(), key_provider=provider)
    assert store.snapshot().index == first.index + 1
    store.close()
    store = Store.open(PATH, vfs=vfs, now_ms=Clock(), key_provider=provider)
    assert store.get(b"k") == b"v"


def test_a_batch_that_raises_does_nothing() -> None:
    store = open_store(MemoryVfs())

    def give_up() -> None:
        with store.batch() as batch:
            batch.set(b"k", b"v")
            raise KeyError

    with pytest.raises(KeyError):
        give_up()
    with store.batch() as batch:
        pass
    assert (len(store), batch.results) == (0, ())


def test_a_batch_tells_what_each_of_its_writes_came_to() -> None:
    store = open_store(MemoryVfs())
    store.set(b"a", b"1", ttl_ms=50)
    with store.batch() as batch:
        batch.set(b"a", b"x", condition=SetCondition.NX)
        batch.persist(b"a")
        batch.expire(b"a", 60)
        batch.rename(b"a", b"b")
        batch.decr(b"b")
        batch.delete(b"b", b"c")
    assert batch.results == (False, True, True, True, 0, 1)


def test_numbers_that_do_not_fit_are_refused() -> None:
    store = open_store(MemoryVfs())
    store.set(b"n", b"%d" % (2**63 - 1))
    with pytest.raises(IntegerOverflowError) as caught:
        store.incr(b"n")
    assert caught.value.code == "ENG-016"
    assert store.get(b"n") == b"%d" % (2**63 - 1)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("set", ("text", b"")),
        ("set", (b"", "text")),
        ("set", (b"", bytearray(b"v"))),
        ("get", ("text",)),
        ("get_many", (b"a", "text")),
        ("exists", (None,)),
        ("version", (1,)),
        ("ttl", ("text",)),
        ("delete", (b"a", "text")),
        ("pop", ("text",)),
        ("incr", ("text",)),
        ("decr", ("text",)),
        ("expire", ("text", 1)),
        ("persist", ("text",)),
        ("rename", (b"a", "text")),
        ("rename", ("text", b"a")),
    ],
)
def test_what_is_not_bytes_is_refused(method: str, arguments: tuple[object, ...]) -> None:
    store = open_store(MemoryVfs())
    with pytest.raises(TypeError, match="bytes"):
        getattr(store, method)(*arguments)
    with store.batch() as batch:
        if hasattr(batch, method):
            with pytest.raises(TypeError, match="bytes"):
                getattr(batch, method)(*arguments)
    assert (len(store), batch.results) == (0, ())


@pytest.mark.parametrize("number", [-1, 2**64])
def test_numbers_outside_of_64_bits_are_refused(number: int) -> None:
    store = open_store(MemoryVfs())
    misuses: list[Callable[[], object]] = [
        lambda: store.set(b"a", b"", ttl_ms=number),
        lambda: store.set(b"a", b"", if_version=number),
        lambda: store.expire(b"a", number),
        lambda: next(store.scan(count=number)),
    ]
    for misuse in misuses:
        with pytest.raises(ValueError, match="is not a number from"):
            misuse()


def test_what_is_too_large_is_refused_and_changes_nothing() -> None:
    vfs = MemoryVfs()
    store = open_store(vfs)
    with pytest.raises(EntryTooLargeError):
        store.set(b"k", bytes(16 * 1024 * 1024))
    store.set(b"k", b"small")
    vfs.power_cut()
    assert open_store(vfs).get(b"k") == b"small"


def test_a_closed_store_says_so() -> None:
    store = open_store(MemoryVfs())
    store.set(b"k", b"v")
    keys = store.scan()
    store.close()
    store.close()
    actions: list[Callable[[], object]] = [
        lambda: store.get(b"k"),
        lambda: store.set(b"k", b"v"),
        lambda: len(store),
        lambda: next(keys),
        store.scan,
        store.delete,
        lambda: store.sequence,
        store.__enter__,
        store.snapshot,
        lambda: store.backup("/backups/dump.json"),
        lambda: store.restore_backup("/backups/missing.json"),
    ]
    for action in actions:
        with pytest.raises(LogClosedError, match="has been closed"):
            action()


def test_after_a_failed_write_it_can_be_read_and_not_written() -> None:
    vfs = MemoryVfs()
    store = open_store(vfs)
    store.set(b"k", b"v")
    vfs.fail_at(vfs.call_count + 2)
    with pytest.raises(LogPoisonedError):
        store.set(b"k", b"lost")
    for action in (lambda: store.set(b"k", b"w"), store.snapshot):
        with pytest.raises(LogPoisonedError, match="an earlier failure"):
            action()
    assert store.get(b"k") == b"v"
    store.close()
    assert open_store(vfs).get(b"k") in (b"v", b"lost")


def test_an_interrupt_between_log_and_memory_stops_all_writing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vfs = MemoryVfs()
    store = open_store(vfs)

    def interrupt(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Keyspace, "apply", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.set(b"k", b"v")
    monkeypatch.undo()
    with pytest.raises(LogPoisonedError):
        store.set(b"k", b"w")
    store.close()
    assert open_store(vfs).get(b"k") == b"v", "it was on the disk"


def test_a_backup_needs_text_keys_and_leaves_the_store_usable() -> None:
    store = open_store(MemoryVfs())
    store.set(b"\xff", b"v")
    with pytest.raises(BackupEncodingError):
        store.backup("/backups/dump.json")
    store.snapshot()
    with pytest.raises(StorageError):
        store.restore_backup("/backups/dump.json")


# Directories of others


def server_engine(vfs: MemoryVfs) -> Engine:
    return Engine.open(PATH, vfs=vfs, now_ms=START, random_bytes=counting_random_bytes())


def batch_of(kind: int, payload: bytes, first_index: int = 1) -> Batch:
    return Batch.create(
        first_index=first_index, count=1, term=1, kind=kind, timestamp_ms=START, payload=payload
    )


@pytest.mark.parametrize(
    "batch",
    [
        batch_of(BatchKind.SEMANTICS, b"\x01"),
        batch_of(BatchKind.KEYSPACE, msgspec.msgpack.encode([0, [["", 1]], [[1, b"k", b"v"]]])),
        batch_of(BatchKind.KEYSPACE, msgspec.msgpack.encode([[1, b"k", b"v"]])),
        batch_of(BatchKind.NOOP, b""),
        batch_of(64, msgspec.msgpack.encode(["vaylix store", 2])),
    ],
)
def test_the_log_of_a_server_or_of_a_later_release_is_refused(batch: Batch) -> None:
    vfs = MemoryVfs()
    engine = server_engine(vfs)
    engine.log.append([batch])
    engine.close()
    for _ in range(2):
        with pytest.raises(ForeignFormatError) as caught:
            open_store(vfs)
        assert caught.value.path == PATH
        assert caught.value.remedy
    engine = server_engine(vfs)
    assert list(engine.log.read(1)) == [batch], "nothing was done to it"


@pytest.mark.parametrize(
    "sections",
    [
        [("keyspace", b"\x90")],
        [("access", b"\x90")],
        [],
        [("store", b"\x92\xacvaylix store\x02")],
    ],
)
def test_the_snapshot_of_a_server_is_refused(sections: list[tuple[str, bytes]]) -> None:
    vfs = MemoryVfs()
    engine = server_engine(vfs)
    writer = engine.create_snapshot(SnapshotMeta(9, 1, START, START))
    for name, plain in sections:
        writer.begin_section(name)
        writer.add(plain, 1)
    engine.commit_snapshot(writer.finish(), installed=True)
    engine.close()
    with pytest.raises(ForeignFormatError):
        open_store(vfs)


def test_entries_and_chunks_that_make_no_sense_are_refused_with_their_place() -> None:
    vfs = MemoryVfs()
    open_store(vfs).close()
    engine = server_engine(vfs)
    bad = batch_of(BatchKind.KEYSPACE, b"\x91\x91\x63", first_index=2)
    engine.log.append([bad])
    engine.close()
    with pytest.raises(CommandEncodingError, match="entry 2"):
        open_store(vfs)
    vfs = MemoryVfs()
    engine = server_engine(vfs)
    marker = msgspec.msgpack.encode(["vaylix store", 1])
    for index, (plain, count) in enumerate([(b"\x91\x90", 0), (b"\x90", 7)], 5):
        writer = engine.create_snapshot(SnapshotMeta(index, 1, START, START))
        writer.begin_section("store")
        writer.add(marker, 1)
        writer.begin_section("keyspace")
        writer.add(plain, count)
        engine.commit_snapshot(writer.finish(), installed=True)
        engine.close()
        with pytest.raises(CorruptionError) as caught:
            open_store(vfs)
        assert caught.value.path == PATH / "snapshots" / f"{index}.snapshot"
        engine = server_engine(vfs)


# Threads


def test_any_thread_may_call_anything_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "data"
    store = Store.open(path, sync_policy=SyncPolicy.BUFFERED)
    failures: list[BaseException] = []

    def run(work: Callable[[int], object]) -> threading.Thread:
        def body() -> None:
            try:
                for number in range(60):
                    work(number)
            except BaseException as error:  # noqa: BLE001 - it is reported by the test
                failures.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        return thread

    def use_a_batch(number: int) -> None:
        with store.batch() as batch:
            batch.incr(b"left")
            batch.incr(b"right")
        if number % 20 == 0:
            store.snapshot()
            store.backup(tmp_path / f"dump-{threading.get_ident()}.json")

    def look(number: int) -> None:
        assert len({*store.get_many(b"left", b"right")}) == 1, "half a batch was seen"
        list(store.scan(count=1))

    threads = [run(work) for work in (use_a_batch, use_a_batch, look, look)]
    threads += [run(lambda _: store.incr(b"n")) for _ in range(3)]
    for thread in threads:
        thread.join(60)
    assert failures == []
    store.close()
    with Store.open(path) as store:
        assert (store.get(b"n"), store.get(b"left"), store.get(b"right")) == (
            b"180",
            b"120",
            b"120",
        )
