"""The data directory, its keyring and its key providers: made once, kept, never made worse."""

from __future__ import annotations

import re
import shutil
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from vaylix_storage import (
    Batch,
    DataDirectory,
    Engine,
    EngineOptions,
    EnvKeyProvider,
    FileKeyProvider,
    Keyring,
    Log,
    LogOptions,
    RealVfs,
    Store,
)
from vaylix_storage._staging import (
    begin_building,
    finish_building,
    is_unfinished,
    remove_built,
    walk_files,
)
from vaylix_storage.errors import (
    CorruptionError,
    DirectoryLockedError,
    FileSystemError,
    ForeignFormatError,
    KeyringError,
    MigrationRequiredError,
    StorageError,
)
from vaylix_storage.testing import MemoryVfs, SimulatedCrash, Survival, counting_random_bytes

DATA = Path("/data")
KEY_FILE = Path("/secrets/storage.key")
FORMAT_3 = Path(__file__).parent / "data" / "format3"


def open_all(vfs: MemoryVfs) -> tuple[DataDirectory, Log]:
    vfs.make_directory(KEY_FILE.parent)
    random_bytes = counting_random_bytes(vfs.generation)
    directory = DataDirectory.open(DATA, vfs=vfs, random_bytes=random_bytes)
    provider = FileKeyProvider(KEY_FILE, vfs=vfs, random_bytes=random_bytes)
    keyring = directory.open_keyring(provider, created_at_ms=1, random_bytes=random_bytes)
    options = LogOptions(timeline=directory.timeline)
    log = Log.open(
        directory.wal_path, vfs=vfs, keyring=keyring, options=options, random_bytes=random_bytes
    )
    return directory, log


def contents(vfs: MemoryVfs) -> dict[str, bytes]:
    return {name: vfs.content(DATA / name) for name in vfs.list_directory(DATA)}


def test_the_identity_is_made_once_and_kept() -> None:
    vfs = MemoryVfs()
    directory, log = open_all(vfs)
    identity = directory.identity
    assert len({identity.cluster_id, identity.node_id, identity.timeline}) == 3
    log.close()
    directory.close()
    vfs.power_cut()
    directory, _ = open_all(vfs)
    assert directory.identity == identity
    assert directory.timeline.hex() == identity.timeline


def test_a_directory_in_use_is_refused_and_left_alone() -> None:
    vfs = MemoryVfs()
    directory, _ = open_all(vfs)
    before = contents(vfs)
    with pytest.raises(DirectoryLockedError):
        DataDirectory.open(DATA, vfs=vfs)
    assert contents(vfs) == before
    directory.close()
    DataDirectory.open(DATA, vfs=vfs).close()


BATCH = Batch.create(first_index=1, count=1, term=1, kind=1, timestamp_ms=1, payload=b"promised")


def write_and_lose_power(vfs: MemoryVfs) -> None:
    """Start, acknowledge a write, and check that nothing it needs is lost with the power."""
    _, log = open_all(vfs)
    log.append([BATCH])
    log.sync()
    vfs.power_cut()
    _, log = open_all(vfs)
    assert list(log.read(1)) == [BATCH]


def first_start_stopped_at_every_call(
    arm: Callable[[MemoryVfs, int], None], then: Callable[[MemoryVfs], None]
) -> None:
    call = 0
    finished = False
    while not finished:
        call += 1
        vfs = MemoryVfs()
        vfs.make_directory(KEY_FILE.parent)
        arm(vfs, vfs.call_count + call)
        try:
            open_all(vfs)
            finished = True
        except (SimulatedCrash, StorageError):
            pass
        then(vfs)
        write_and_lose_power(vfs)
    assert call > 20


@pytest.mark.parametrize("survival", [Survival.NOTHING, Survival.EVERYTHING, Survival.FIRST_HALF])
def test_a_power_cut_at_every_call_of_the_first_start(survival: Survival) -> None:
    first_start_stopped_at_every_call(
        MemoryVfs.crash_at, lambda vfs: vfs.power_cut(survival, survival)
    )


def test_a_kill_at_every_call_of_the_first_start() -> None:
    first_start_stopped_at_every_call(MemoryVfs.crash_at, MemoryVfs.kill)


def test_a_failure_at_every_call_of_the_first_start() -> None:
    first_start_stopped_at_every_call(MemoryVfs.fail_at, MemoryVfs.kill)


def tree(path: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        file: (file.stat().st_mode, b"" if file.is_dir() else file.read_bytes())
        for file in sorted([path, *path.rglob("*")])
    }


@pytest.mark.parametrize("name", ["run.sh", "a/b/c", ".hidden", "wal/x", "snapshots/y", "wal.log2"])
def test_a_foreign_directory_is_refused_unchanged(name: str, tmp_path: Path) -> None:
    file = tmp_path / "data" / name
    file.parent.mkdir(parents=True, mode=0o755)
    file.write_bytes(b"theirs")
    file.chmod(0o755)
    before = tree(tmp_path)
    with pytest.raises(ForeignFormatError, match="no data directory of Vaylix: it holds") as caught:
        Store.open(tmp_path / "data")
    assert name.split("/", maxsplit=1)[0] in caught.value.reason
    assert caught.value.code == "ENG-009"
    assert caught.value.remedy == "choose another directory, or an empty one"
    assert tree(tmp_path) == before


def test_of_many_foreign_names_a_few_are_told(tmp_path: Path) -> None:
    for name in "edcba":
        (tmp_path / name).mkdir()
    with pytest.raises(ForeignFormatError, match=r"it holds a, b, c and 2 more, but no node\.json"):
        DataDirectory.open(tmp_path, vfs=RealVfs())


def test_what_may_be_there_before_the_first_start(tmp_path: Path) -> None:
    (tmp_path / "LOCK").touch()
    (tmp_path / "node.json.tmp").touch()
    (tmp_path / "maintenance.mode").touch()
    (tmp_path / "keys").mkdir()
    for name in ("lost+found", "backups", "archive"):
        (tmp_path / name).mkdir(mode=0o755)
    (tmp_path / "keys" / "my.key").write_bytes(b"ab" * 32 + b"\n")
    vfs = RealVfs()
    engine = Engine.open(
        tmp_path,
        vfs=vfs,
        provider=FileKeyProvider(tmp_path / "keys" / "my.key", vfs=vfs),
        options=EngineOptions(archive_directory=tmp_path / "archive"),
        now_ms=1,
    )
    engine.close()
    assert vfs.mode(tmp_path / "lost+found") == 0o755


def test_a_key_file_of_the_usual_name_may_be_there_first(tmp_path: Path) -> None:
    (tmp_path / "storage.key").write_bytes(b"ab" * 32)
    Store.open(tmp_path).close()


@pytest.mark.parametrize("name", ["wal.begun", "snapshots/7.snapshot"])
def test_a_directory_that_has_lost_its_identity_is_no_new_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    (tmp_path / name).touch()
    before = tree(tmp_path)
    with pytest.raises(CorruptionError, match=r"node\.json is missing"):
        DataDirectory.open(tmp_path, vfs=RealVfs())
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", sorted(path.name for path in FORMAT_3.iterdir() if path.is_dir()))
def test_a_format_3_directory_is_refused_unchanged(name: str, tmp_path: Path) -> None:
    shutil.copytree(FORMAT_3 / name, tmp_path / "data")
    before = sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*"))
    command = f"vaylix storage migrate --data-dir {tmp_path / 'data'}"
    with pytest.raises(MigrationRequiredError, match=re.escape(command)) as caught:
        DataDirectory.open(tmp_path / "data", vfs=RealVfs())
    assert caught.value.code == "ENG-010"
    after = sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*"))
    assert after == before


@pytest.mark.parametrize("suffix", [".migrating", ".format3"])
@pytest.mark.parametrize("is_there", [False, True])
def test_no_fresh_start_where_a_migration_was_interrupted(suffix: str, is_there: bool) -> None:
    vfs = MemoryVfs()
    vfs.make_directory(DATA.with_name(DATA.name + suffix))
    if is_there:
        # As a container runtime does for a missing volume.
        vfs.make_directory(DATA)
    command = f"vaylix storage migrate --data-dir {DATA}"
    with pytest.raises(MigrationRequiredError, match=re.escape(command)):
        DataDirectory.open(DATA, vfs=vfs)
    assert vfs.exists(DATA) == is_there
    assert not vfs.exists(DATA / "LOCK")


def test_what_is_left_of_a_migration_does_not_disturb_a_directory_with_data() -> None:
    vfs = MemoryVfs()
    directory, log = open_all(vfs)
    log.close()
    directory.close()
    vfs.make_directory(DATA.with_name(DATA.name + ".format3"))
    open_all(vfs)


def test_an_unfinished_directory_is_refused_but_by_its_builder() -> None:
    vfs = MemoryVfs()
    begin_building(DATA, vfs)
    DataDirectory.open(DATA, vfs=vfs, is_being_built=True).close()
    with pytest.raises(FileSystemError, match="never finished"):
        DataDirectory.open(DATA, vfs=vfs)
    finish_building(DATA, vfs)
    DataDirectory.open(DATA, vfs=vfs).close()


def test_a_half_removed_directory_is_unfinished_at_every_moment() -> None:
    call = 0
    is_finished = False
    while not is_finished:
        call += 1
        vfs = MemoryVfs()
        open_all(vfs)
        vfs.make_directory(DATA / "more" / "deeper")
        vfs.create(DATA / "more" / "deeper" / "file").close()
        vfs.sync_directory(DATA / "more" / "deeper")
        whole = set(walk_files(DATA, vfs))
        vfs.crash_at(vfs.call_count + call)
        try:
            remove_built(DATA, vfs)
            is_finished = True
        except SimulatedCrash:
            pass
        vfs.power_cut(names=Survival.FIRST_HALF)
        if vfs.exists(DATA) and not is_unfinished(DATA, vfs):
            left = {path for path in walk_files(DATA, vfs) if path.suffix != ".tmp"}
            assert left in (whole, set())
    assert call > 10


def test_a_lost_identity_is_not_mistaken_for_an_older_format() -> None:
    vfs = MemoryVfs()
    open_all(vfs)
    vfs.kill()
    vfs.remove(DATA / "node.json")
    with pytest.raises(CorruptionError, match=r"node\.json is missing"):
        open_all(vfs)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"format": 4, "cluster_id": "x"}'])
def test_a_damaged_identity_is_corruption(content: bytes) -> None:
    vfs = MemoryVfs()
    directory, _ = open_all(vfs)
    directory.close()
    vfs.overwrite(DATA / "node.json", content)
    with pytest.raises(CorruptionError):
        DataDirectory.open(DATA, vfs=vfs)
    # The lock was given up: the next one fails for the same reason, not for being locked.
    with pytest.raises(CorruptionError):
        DataDirectory.open(DATA, vfs=vfs)


def test_an_identity_that_has_rotted_is_refused() -> None:
    """An id with one other digit would be another node, and nothing else could tell."""
    vfs = MemoryVfs()
    identity = DataDirectory.open(DATA, vfs=vfs).identity
    vfs.kill()
    content = vfs.content(DATA / "node.json")
    other = b"1" if content[40:41] == b"0" else b"0"
    vfs.overwrite(DATA / "node.json", content[:40] + other + content[41:])
    with pytest.raises(CorruptionError, match="the checksum does not fit"):
        DataDirectory.open(DATA, vfs=vfs)
    without = content[: content.rindex(b",")] + b"\n}\n"
    vfs.overwrite(DATA / "node.json", without)
    assert DataDirectory.open(DATA, vfs=vfs).identity == identity


def test_a_newer_format_is_refused() -> None:
    vfs = MemoryVfs()
    directory, _ = open_all(vfs)
    directory.close()
    content = vfs.content(DATA / "node.json").replace(b'"format": 4', b'"format": 5')
    vfs.overwrite(DATA / "node.json", content)
    with pytest.raises(ForeignFormatError, match="storage format 5"):
        DataDirectory.open(DATA, vfs=vfs)


def test_modes_are_private(tmp_path: Path) -> None:
    vfs = RealVfs()
    data = tmp_path / "new" / "data"
    directory = DataDirectory.open(data, vfs=vfs)
    keyring = directory.open_keyring(
        FileKeyProvider(data / "storage.key", vfs=vfs), created_at_ms=1
    )
    log = Log.open(
        directory.wal_path,
        vfs=vfs,
        keyring=keyring,
        options=LogOptions(timeline=directory.timeline),
    )
    for path in data.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    log.close()
    directory.close()


def test_a_path_that_is_no_directory_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileSystemError):
        DataDirectory.open(tmp_path / "file", vfs=RealVfs())


# The keyring


def reopen(vfs: MemoryVfs) -> None:
    vfs.kill()
    open_all(vfs)


def test_a_lost_keyring_is_reported_and_not_replaced() -> None:
    vfs = MemoryVfs()
    open_all(vfs)
    vfs.kill()
    vfs.remove(DATA / "keyring.bin")
    before = contents(vfs)
    with pytest.raises(KeyringError, match="keyring is missing"):
        open_all(vfs)
    assert contents(vfs) == before


def test_a_lost_key_file_is_reported_and_not_replaced() -> None:
    vfs = MemoryVfs()
    open_all(vfs)
    vfs.kill()
    vfs.remove(KEY_FILE)
    before = contents(vfs)
    with pytest.raises(KeyringError, match="key file"):
        open_all(vfs)
    assert contents(vfs) == before


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"zz" * 32, b"00" * 33, b"\xff" * 64])
def test_a_key_file_that_holds_no_key_is_reported(content: bytes) -> None:
    vfs = MemoryVfs()
    open_all(vfs)
    vfs.overwrite(KEY_FILE, content)
    with pytest.raises(KeyringError, match="hexadecimal"):
        reopen(vfs)


def test_a_wrong_key_is_reported_before_anything_is_changed() -> None:
    vfs = MemoryVfs()
    open_all(vfs)
    vfs.overwrite(KEY_FILE, b"ab" * 32)
    vfs.kill()
    before = contents(vfs)
    with pytest.raises(KeyringError, match="another key"):
        open_all(vfs)
    assert contents(vfs) == before


def test_every_flipped_byte_and_every_cut_of_the_keyring_is_detected() -> None:
    vfs = MemoryVfs()
    open_all(vfs)
    path = DATA / "keyring.bin"
    provider = FileKeyProvider(KEY_FILE, vfs=vfs)
    content = vfs.content(path)
    damaged = [content[:length] for length in range(len(content))] + [content + b"\0"]
    for offset in range(len(content)):
        flipped = bytearray(content)
        flipped[offset] ^= 0x10
        damaged.append(bytes(flipped))
    for case in damaged:
        vfs.overwrite(path, case)
        with pytest.raises(CorruptionError) as caught:
            Keyring.load(path, vfs=vfs, provider=provider)
        assert caught.value.path == path
        assert caught.value.offset is not None
    vfs.overwrite(path, content)
    Keyring.load(path, vfs=vfs, provider=provider)


def with_crc(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda content: b"VAYLIXK9" + content[8:], ForeignFormatError),
        (lambda content: content[:8] + b"\x01" + content[9:], CorruptionError),
        (lambda content: content[:12] + b"\xc1" + content[13:], CorruptionError),
        # The time at which the key was made: only the HMAC and the wrapping know of it.
        (lambda content: content.replace(b"\x10\x01\xa4", b"\x10\x02\xa4"), KeyringError),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), CorruptionError),
    ],
    ids=["magic", "length", "body", "creation time", "hmac"],
)
def test_a_keyring_that_was_altered_with_care_is_refused(
    change: Callable[[bytes], bytes], error: type[StorageError]
) -> None:
    vfs = MemoryVfs()
    vfs.make_directory(KEY_FILE.parent)
    directory = DataDirectory.open(DATA, vfs=vfs)
    provider = FileKeyProvider(KEY_FILE, vfs=vfs)
    directory.open_keyring(provider, created_at_ms=1, random_bytes=lambda size: b"\x10" * size)
    path = DATA / "keyring.bin"
    content = vfs.content(path)[:-4]
    changed = change(content)
    assert changed != content
    vfs.overwrite(path, with_crc(changed))
    with pytest.raises(error):
        directory.open_keyring(provider, created_at_ms=1)


def test_a_keyring_or_key_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    vfs = RealVfs()
    directory = DataDirectory.open(tmp_path / "data", vfs=vfs)
    (tmp_path / "key").mkdir()
    with pytest.raises(KeyringError, match="key file"):
        directory.open_keyring(FileKeyProvider(tmp_path / "key", vfs=vfs), created_at_ms=1)
    (tmp_path / "data" / "keyring.bin").mkdir()
    provider = FileKeyProvider(tmp_path / "other", vfs=vfs)
    with pytest.raises(FileSystemError, match="keyring"):
        directory.open_keyring(provider, created_at_ms=1)
    directory.close()


def test_the_key_file_may_be_kept_elsewhere() -> None:
    vfs = MemoryVfs()
    vfs.make_directory(KEY_FILE.parent)
    provider = FileKeyProvider(KEY_FILE, vfs=vfs)
    directory = DataDirectory.open(DATA, vfs=vfs)
    made = directory.open_keyring(provider, created_at_ms=1)
    loaded = directory.open_keyring(provider, created_at_ms=2)
    assert made.active_key_id == loaded.active_key_id
    assert made.key(made.active_key_id) == loaded.key(loaded.active_key_id)
    assert sorted(contents(vfs)) == ["LOCK", "keyring.bin", "node.json"]


def test_a_key_file_without_a_directory_is_refused_with_a_remedy(tmp_path: Path) -> None:
    provider = FileKeyProvider(tmp_path / "missing" / "storage.key", vfs=RealVfs())
    with pytest.raises(FileSystemError, match="cannot create the key file") as caught:
        provider.prepare()
    assert caught.value.path == tmp_path / "missing" / "storage.key"
    assert "see that its directory exists" in str(caught.value.remedy)


def test_the_environment_may_hold_the_key() -> None:
    vfs = MemoryVfs()
    directory = DataDirectory.open(DATA, vfs=vfs)
    provider = EnvKeyProvider("KEY", environment={"KEY": "0f" * 32 + "\n"})
    made = directory.open_keyring(provider, created_at_ms=1)
    assert directory.open_keyring(provider, created_at_ms=1).active_key_id == made.active_key_id
    other = EnvKeyProvider("KEY", environment={"KEY": "0e" * 32})
    with pytest.raises(KeyringError, match="another key"):
        directory.open_keyring(other, created_at_ms=1)
    with pytest.raises(KeyringError, match="not set"):
        directory.open_keyring(EnvKeyProvider("KEY", environment={}), created_at_ms=1)


def test_a_missing_variable_is_reported_before_a_keyring_is_made() -> None:
    vfs = MemoryVfs()
    directory = DataDirectory.open(DATA, vfs=vfs)
    with pytest.raises(KeyringError, match="not set"):
        directory.open_keyring(EnvKeyProvider("KEY", environment={}), created_at_ms=1)
    assert not vfs.exists(DATA / "keyring.bin")


def test_another_provider_than_the_one_that_wrapped_is_reported() -> None:
    vfs = MemoryVfs()
    open_all(vfs)
    provider = EnvKeyProvider("KEY", environment={"KEY": "0f" * 32})
    with pytest.raises(KeyringError, match="provider 'env'"):
        Keyring.load(DATA / "keyring.bin", vfs=vfs, provider=provider)


def test_storage_keys_do_not_stand_in_the_keyring_in_the_clear() -> None:
    vfs = MemoryVfs()
    vfs.make_directory(KEY_FILE.parent)
    directory = DataDirectory.open(DATA, vfs=vfs)
    keyring = directory.open_keyring(FileKeyProvider(KEY_FILE, vfs=vfs), created_at_ms=1)
    assert keyring.key(keyring.active_key_id) not in vfs.content(DATA / "keyring.bin")


def test_errors_say_where_and_what_to_do() -> None:
    error = CorruptionError("reason", path=Path("/x"), offset=7, remedy="do this")
    assert str(error) == "/x: reason at byte 7 (do this)"
    assert str(KeyringError("reason")) == "reason"
