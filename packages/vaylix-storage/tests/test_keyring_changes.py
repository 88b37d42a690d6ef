"""Rotating, rewrapping and dropping storage keys; whatever call is the last one before a crash."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from vaylix_storage import (
    Batch,
    DataDirectory,
    EnvKeyProvider,
    FileKeyProvider,
    KeyProvider,
    Keyring,
    Log,
    LogOptions,
    RealVfs,
)
from vaylix_storage._archive import archive_segment
from vaylix_storage._keyring_changes import drop_keys, rewrap_keyring, rotate_keyring
from vaylix_storage._keys_in_use import key_ids_in_use
from vaylix_storage._manifest import Manifest, store_manifest
from vaylix_storage._snapshot import SnapshotWriter
from vaylix_storage._snapshot_format import SnapshotMeta
from vaylix_storage.errors import CorruptionError, FileSystemError, KeyringError, StorageError
from vaylix_storage.testing import (
    MemoryVfs,
    SimulatedCrash,
    Survival,
    counting_random_bytes,
)

PATH = Path("/data/keyring.bin")
KEY_FILE = Path("/data/storage.key")
ENVIRONMENT = {"KEY": "ab" * 32, "OTHER": "cd" * 32}


class Disk(MemoryVfs):
    """A disk with a directory, and one source of random bytes for all who use it."""

    def __init__(self) -> None:
        super().__init__()
        self.random_bytes = counting_random_bytes(7)
        for name in ("/data", "/keys"):
            self.make_directory(Path(name))


def file_provider(vfs: Disk, path: Path = KEY_FILE) -> FileKeyProvider:
    return FileKeyProvider(path, vfs=vfs, random_bytes=vfs.random_bytes)


def env_provider(vfs: Disk, variable: str = "KEY") -> EnvKeyProvider:
    return EnvKeyProvider(variable, environment=ENVIRONMENT, random_bytes=vfs.random_bytes)


def create(vfs: Disk, provider: KeyProvider) -> Keyring:
    return Keyring.create(
        PATH, vfs=vfs, provider=provider, created_at_ms=1, random_bytes=vfs.random_bytes
    )


def rotate(vfs: Disk, provider: KeyProvider) -> Keyring:
    return rotate_keyring(
        PATH, vfs=vfs, provider=provider, created_at_ms=2, random_bytes=vfs.random_bytes
    )


def load(vfs: Disk, provider: KeyProvider) -> Keyring:
    return Keyring.load(PATH, vfs=vfs, provider=provider)


def secrets(keyring: Keyring) -> dict[bytes, bytes]:
    return {info.key_id: keyring.key(info.key_id) for info in keyring.keys}


def test_keys_are_described_without_being_told() -> None:
    vfs = Disk()
    keyring = create(vfs, file_provider(vfs))
    (info,) = keyring.keys
    assert (info.key_id, info.created_at_ms) == (keyring.active_key_id, 1)
    assert (info.providers, info.is_active) == (("file",), True)
    rotated = rotate(vfs, file_provider(vfs))
    assert [info.is_active for info in rotated.keys] == [False, True]
    assert [info.created_at_ms for info in rotated.keys] == [1, 2]


def test_a_rotation_adds_a_key_and_keeps_the_old_ones() -> None:
    vfs = Disk()
    old = create(vfs, file_provider(vfs))
    new = rotate(vfs, file_provider(vfs))
    assert new.active_key_id != old.active_key_id
    assert new.key(old.active_key_id) == old.key(old.active_key_id)
    assert new.key(new.active_key_id) != old.key(old.active_key_id)
    assert secrets(load(vfs, file_provider(vfs))) == secrets(new)


def test_only_retired_keys_that_nothing_names_are_dropped() -> None:
    vfs = Disk()
    provider = file_provider(vfs)
    first = create(vfs, provider).active_key_id
    second = rotate(vfs, provider).active_key_id
    third = rotate(vfs, provider).active_key_id
    before = vfs.content(PATH)
    assert drop_keys(PATH, frozenset({first, second}), vfs=vfs, provider=provider) == []
    assert vfs.content(PATH) == before
    assert drop_keys(PATH, frozenset({second}), vfs=vfs, provider=provider) == [first]
    assert [info.key_id for info in load(vfs, provider).keys] == [second, third]
    assert drop_keys(PATH, frozenset(), vfs=vfs, provider=provider) == [second]
    assert [info.key_id for info in load(vfs, provider).keys] == [third]
    assert drop_keys(PATH, frozenset(), vfs=vfs, provider=provider) == []


def test_the_keys_in_use_are_those_that_anything_names() -> None:
    """A segment, a snapshot, the manifest, a file that nothing names, and an archive."""
    vfs = Disk()
    data = Path("/data")
    assert key_ids_in_use(data, vfs=vfs) == frozenset()
    keyring = create(vfs, file_provider(vfs))
    first = keyring.active_key_id
    log = Log.open(data / "wal", vfs=vfs, keyring=keyring, options=LogOptions(timeline=b"t" * 16))
    log.append([Batch.create(first_index=1, count=1, term=1, kind=1, timestamp_ms=1, payload=b"")])
    log.close()
    assert key_ids_in_use(data, vfs=vfs) == {first}
    keyring = rotate(vfs, file_provider(vfs))
    log = Log.open(data / "wal", vfs=vfs, keyring=keyring, options=LogOptions(timeline=b"t" * 16))
    second = keyring.active_key_id
    assert key_ids_in_use(data, vfs=vfs) == {first, second}
    archive_segment(log.segments()[0].path, Path("/archive"), vfs=vfs, timeline=b"t" * 16)
    log.remove_before(2)
    assert key_ids_in_use(data, vfs=vfs) == {second}
    assert key_ids_in_use(data, vfs=vfs, archive=Path("/archive")) == {first, second}
    third = rotate(vfs, file_provider(vfs))
    vfs.make_directory(data / "snapshots")
    writer = SnapshotWriter.create(
        data / "snapshots" / "1.snapshot",
        SnapshotMeta(1, 1, 1, 1),
        vfs=vfs,
        keyring=third,
        timeline=b"t" * 16,
    )
    writer.finish()
    assert key_ids_in_use(data, vfs=vfs) == {second, third.active_key_id}
    fourth = rotate(vfs, file_provider(vfs))
    manifest = Manifest(b"t" * 16)
    store_manifest(data / "manifest.bin", manifest, vfs=vfs, keyring=fourth)
    assert fourth.active_key_id in key_ids_in_use(data, vfs=vfs)
    for path in ("wal/active-2.wal", "snapshots/1.snapshot", "manifest.bin"):
        content = vfs.content(data / path)
        vfs.overwrite(data / path, content[:50])
        with pytest.raises(CorruptionError) as caught:
            key_ids_in_use(data, vfs=vfs)
        assert caught.value.path == data / path
        vfs.overwrite(data / path, content)


@pytest.mark.parametrize("marker", ["node.json", "keyring.bin"])
@pytest.mark.parametrize("place", ["wal/key", "snapshots/key", "wal/deeper/key", "link/key"])
def test_no_key_file_is_made_among_segments_or_snapshots(
    tmp_path: Path, place: str, marker: str
) -> None:
    """A start would take it for one of them, or for damage."""
    (tmp_path / "wal" / "deeper").mkdir(parents=True)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "link").symlink_to("snapshots")
    (tmp_path / marker).touch()
    provider = FileKeyProvider(tmp_path / place, vfs=RealVfs())
    with pytest.raises(FileSystemError, match="among the segments and snapshots") as caught:
        provider.prepare()
    assert caught.value.remedy
    assert not provider.path.exists()
    # Elsewhere, these are no more than names.
    (tmp_path / marker).unlink()
    provider.prepare()
    assert provider.path.exists()


# Ways to rewrap: how the keyring was made, and how it is to be wrapped.
Ways = Callable[[Disk], tuple[KeyProvider, KeyProvider, KeyProvider]]


def file_to_env(vfs: Disk) -> tuple[KeyProvider, KeyProvider, KeyProvider]:
    return file_provider(vfs), env_provider(vfs), env_provider(vfs)


def env_to_file(vfs: Disk) -> tuple[KeyProvider, KeyProvider, KeyProvider]:
    return env_provider(vfs), file_provider(vfs), file_provider(vfs)


def env_to_env(vfs: Disk) -> tuple[KeyProvider, KeyProvider, KeyProvider]:
    return env_provider(vfs), env_provider(vfs, "OTHER"), env_provider(vfs, "OTHER")


def file_to_file(vfs: Disk) -> tuple[KeyProvider, KeyProvider, KeyProvider]:
    other = file_provider(vfs, Path("/keys/other.key"))
    return file_provider(vfs), other, other


def same_file(vfs: Disk) -> tuple[KeyProvider, KeyProvider, KeyProvider]:
    provider = file_provider(vfs)
    return provider, provider.next_key(), provider


def same_file_elsewhere(vfs: Disk) -> tuple[KeyProvider, KeyProvider, KeyProvider]:
    provider = file_provider(vfs, Path("/keys/storage.key"))
    return provider, provider.next_key(), provider


WAYS = [file_to_env, env_to_file, env_to_env, file_to_file, same_file, same_file_elsewhere]


def prepare(ways: Ways) -> tuple[Disk, Keyring]:
    vfs = Disk()
    create(vfs, ways(vfs)[0])
    return vfs, rotate(vfs, ways(vfs)[0])


def rewrap(vfs: Disk, ways: Ways) -> Keyring:
    old, new, _ = ways(vfs)
    return rewrap_keyring(PATH, vfs=vfs, old_provider=old, new_provider=new)


def check_rewrapped(vfs: Disk, ways: Ways, before: Keyring, old_key: bytes | None) -> None:
    old, _, final = ways(vfs)
    keyring = load(vfs, final)
    assert secrets(keyring) == secrets(before)
    assert keyring.active_key_id == before.active_key_id
    assert [info.providers for info in keyring.keys] == [(final.name,)] * 2
    if old_key is None:
        with pytest.raises(KeyringError):
            load(vfs, old)
    else:
        (path,) = (path for path in (KEY_FILE, Path("/keys/storage.key")) if vfs.exists(path))
        assert vfs.content(path) != old_key
        assert not vfs.exists(path.with_name(path.name + ".new"))


def key_content(vfs: Disk, ways: Ways) -> bytes | None:
    if ways not in (same_file, same_file_elsewhere):
        return None
    return vfs.content(KEY_FILE if ways is same_file else Path("/keys/storage.key"))


@pytest.mark.parametrize("ways", WAYS)
def test_a_rewrap_keeps_the_keys_and_shuts_the_old_wrapping_out(ways: Ways) -> None:
    vfs, before = prepare(ways)
    old_key = key_content(vfs, ways)
    after = rewrap(vfs, ways)
    assert secrets(after) == secrets(before)
    vfs.power_cut()
    check_rewrapped(vfs, ways, before, old_key)


def opens(vfs: Disk, provider: KeyProvider, before: Keyring) -> bool:
    try:
        return secrets(load(vfs, provider)) == secrets(before)
    except KeyringError:
        return False


def check_that_it_opens(vfs: Disk, ways: Ways, before: Keyring) -> None:
    old, new, final = ways(vfs)
    if ways in (same_file, same_file_elsewhere):
        assert opens(vfs, final, before), "the server starts with what it started with before"
    else:
        assert opens(vfs, old, before) or opens(vfs, new, before)


@pytest.mark.parametrize("ways", WAYS)
def test_a_rewrap_survives_a_crash_at_every_call_and_goes_on(ways: Ways) -> None:
    for data, names in itertools.product(Survival, Survival):
        finished = False
        for call in itertools.count(1):
            vfs, before = prepare(ways)
            old_key = key_content(vfs, ways)
            vfs.crash_at(vfs.call_count + call)
            try:
                rewrap(vfs, ways)
                finished = True
            except SimulatedCrash:
                pass
            vfs.power_cut(data, names)
            check_that_it_opens(vfs, ways, before)
            if finished:
                break
            rewrap(vfs, ways)
            check_rewrapped(vfs, ways, before, old_key)


@pytest.mark.parametrize("ways", WAYS)
def test_a_rewrap_survives_a_failure_at_every_call_and_goes_on(ways: Ways) -> None:
    """Whether the power is cut before it goes on, after, or never."""
    for cut_before, cut_after in itertools.product([False, True], repeat=2):
        finished = False
        for call in itertools.count(1):
            vfs, before = prepare(ways)
            old_key = key_content(vfs, ways)
            vfs.fail_at(vfs.call_count + call)
            try:
                rewrap(vfs, ways)
                finished = True
            except FileSystemError:
                pass
            check_that_it_opens(vfs, ways, before)
            if cut_before:
                vfs.power_cut()
                check_that_it_opens(vfs, ways, before)
            if finished:
                break
            rewrap(vfs, ways)
            if cut_after:
                vfs.power_cut()
            check_rewrapped(vfs, ways, before, old_key)


@pytest.mark.parametrize("ways", [same_file, same_file_elsewhere])
def test_a_rewrap_that_goes_on_survives_a_crash_at_every_call(ways: Ways) -> None:
    """Two crashes, or a failure and a crash, at any two calls."""
    for arm in (MemoryVfs.crash_at, MemoryVfs.fail_at):
        for first, second in itertools.product(range(1, 18), range(1, 22)):
            vfs, before = prepare(ways)
            arm(vfs, vfs.call_count + first)
            with suppress(SimulatedCrash, FileSystemError):
                rewrap(vfs, ways)
            vfs.kill()
            vfs.crash_at(vfs.call_count + second)
            with suppress(SimulatedCrash):
                rewrap(vfs, ways)
            vfs.power_cut()
            check_that_it_opens(vfs, ways, before)
            rewrap(vfs, ways)
            assert secrets(load(vfs, ways(vfs)[2])) == secrets(before)
    vfs, _ = prepare(ways)
    calls = vfs.call_count
    rewrap(vfs, ways)
    assert vfs.call_count - calls < 18, "there are more calls than this test stops at"


@pytest.mark.parametrize("change", ["rotate", "drop"])
def test_other_changes_survive_a_crash_or_failure_at_every_call(change: str) -> None:
    for data, names in itertools.product(Survival, Survival):
        for arm in (MemoryVfs.crash_at, MemoryVfs.fail_at):
            finished = False
            for call in itertools.count(1):
                vfs, before = prepare(file_to_env)
                provider = file_provider(vfs)
                arm(vfs, vfs.call_count + call)
                try:
                    if change == "rotate":
                        rotate(vfs, provider)
                    else:
                        drop_keys(PATH, frozenset(), vfs=vfs, provider=provider)
                    finished = True
                except (SimulatedCrash, FileSystemError):
                    pass
                vfs.power_cut(data, names)
                after = load(vfs, provider)
                if change == "rotate":
                    assert secrets(before).items() <= secrets(after).items()
                    assert len(after.keys) == 3 or not finished
                else:
                    assert secrets(after).items() <= secrets(before).items()
                    assert after.active_key_id == before.active_key_id
                    assert len(after.keys) == 1 or not finished
                if finished:
                    break


def test_a_rotated_key_that_a_power_cut_could_take_is_not_used() -> None:
    """After a failed rotation and a start, data is sealed; the key must not go after that."""
    for call in range(1, 6):
        vfs = Disk()
        provider = file_provider(vfs)
        create(vfs, provider)
        directory = DataDirectory.open(Path("/data/node"), vfs=vfs)
        made = directory.open_keyring(provider, created_at_ms=1, random_bytes=vfs.random_bytes)
        vfs.fail_at(vfs.call_count + call)
        with pytest.raises(FileSystemError):
            rotate_keyring(
                directory.path / "keyring.bin", vfs=vfs, provider=provider, created_at_ms=2
            )
        vfs.kill()
        directory = DataDirectory.open(Path("/data/node"), vfs=vfs)
        used = directory.open_keyring(provider, created_at_ms=3).active_key_id
        vfs.power_cut()
        directory = DataDirectory.open(Path("/data/node"), vfs=vfs)
        keyring = directory.open_keyring(provider, created_at_ms=4)
        assert keyring.key(used)
        assert keyring.key(made.active_key_id)


def contents(vfs: Disk) -> dict[Path, bytes]:
    return {
        directory / name: vfs.content(directory / name)
        for directory in (Path("/data"), Path("/keys"))
        for name in vfs.list_directory(directory)
    }


def test_a_wrong_or_lost_key_is_found_before_anything_is_changed() -> None:
    for spoil in ("wrong", "lost", "malformed"):
        vfs, _ = prepare(file_to_env)
        vfs.remove(KEY_FILE)
        if spoil != "lost":
            file = vfs.create(KEY_FILE)
            file.write_at(0, b"12" * 32 if spoil == "wrong" else b"no key")
        before = contents(vfs)
        changes: list[Callable[[], object]] = [
            lambda vfs=vfs: rotate(vfs, file_provider(vfs)),  # type: ignore[misc]
            lambda vfs=vfs: rewrap(vfs, file_to_env),  # type: ignore[misc]
            lambda vfs=vfs: rewrap(vfs, file_to_file),  # type: ignore[misc]
            lambda vfs=vfs: rewrap(vfs, same_file),  # type: ignore[misc]
            lambda vfs=vfs: drop_keys(  # type: ignore[misc]
                PATH, frozenset(), vfs=vfs, provider=file_provider(vfs)
            ),
        ]
        for change in changes:
            with pytest.raises(KeyringError):
                change()
            assert contents(vfs) == before


def test_a_new_provider_that_does_not_work_changes_nothing() -> None:
    class Forgetful(EnvKeyProvider):
        def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
            return super().unwrap(wrapped, context)[::-1]

    vfs, before = prepare(file_to_env)
    files = contents(vfs)
    for provider in (
        Forgetful("KEY", environment=ENVIRONMENT, random_bytes=vfs.random_bytes),
        EnvKeyProvider("NONE", environment=ENVIRONMENT),
    ):
        with pytest.raises(KeyringError):
            rewrap_keyring(PATH, vfs=vfs, old_provider=file_provider(vfs), new_provider=provider)
        assert contents(vfs) == files
    assert secrets(load(vfs, file_provider(vfs))) == secrets(before)


def test_a_key_that_the_provider_cannot_open_is_found_at_the_start() -> None:
    """Not only when a segment names it: then something may have been changed."""
    vfs = Disk()
    create(vfs, file_provider(vfs))
    with pytest.raises(KeyringError, match="is not wrapped by the provider 'env'"):
        load(vfs, env_provider(vfs))


@pytest.mark.parametrize("change", [rotate, lambda vfs, _: rewrap(vfs, file_to_env)])
def test_a_damaged_keyring_is_not_changed(
    change: Callable[[Disk, KeyProvider], object],
) -> None:
    whole = prepare(file_to_env)[0].content(PATH)
    for place in range(0, len(whole), 7):
        vfs, _ = prepare(file_to_env)
        damaged = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        vfs.overwrite(PATH, damaged)
        with pytest.raises((CorruptionError, StorageError)) as caught:
            change(vfs, file_provider(vfs))
        assert caught.value.path == PATH
        assert vfs.content(PATH) == damaged


def test_a_linked_key_file_stays_a_link(tmp_path: Path) -> None:
    """The key must not move to the volume of the data."""
    vfs = RealVfs()
    for name in ("data", "keys"):
        vfs.make_directory(tmp_path / name)
    provider = FileKeyProvider(tmp_path / "keys" / "real.key", vfs=vfs)
    provider.prepare()
    link = tmp_path / "data" / "storage.key"
    link.symlink_to(tmp_path / "keys" / "real.key")
    provider = FileKeyProvider(link, vfs=vfs)
    path = tmp_path / "data" / "keyring.bin"
    before = Keyring.create(path, vfs=vfs, provider=provider, created_at_ms=1)
    content = link.read_bytes()
    rewrap_keyring(path, vfs=vfs, old_provider=provider, new_provider=provider.next_key())
    provider.settle()
    assert link.is_symlink()
    assert link.read_bytes() != content
    assert vfs.list_directory(tmp_path / "keys") == ["real.key"]
    assert vfs.list_directory(tmp_path / "data") == ["keyring.bin"]
    assert secrets(Keyring.load(path, vfs=vfs, provider=provider)) == secrets(before)
