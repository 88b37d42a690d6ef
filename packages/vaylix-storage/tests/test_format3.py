"""Directories of Vaylix 0.9: read to exactly what they hold, or reported as what they are.

The directories in `data/format3` were made by the 0.9.0 server; `<name>.expected.json` says what
each of them holds, or what was done to it and what has to be reported.
"""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import cast

import msgspec
import pytest

from vaylix_storage import RealVfs
from vaylix_storage._entry import Entry as StoredEntry
from vaylix_storage.errors import (
    CorruptionError,
    FileSystemError,
    ForeignFormatError,
    KeyringError,
    LogDamageError,
    StorageError,
)
from vaylix_storage.format3 import (
    Entry,
    Format3Contents,
    _reading,
    decode_entry,
    encode_entry,
    entry_identity,
    read_directory,
)
from vaylix_storage.format3._envelope import Envelopes, derive_key
from vaylix_storage.format3._keyring import load_secrets
from vaylix_storage.format3._log import list_segments, read_segments

DATA = Path(__file__).parent / "data"
FIXTURES = DATA / "format3"
NAMES = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())


class Expected:
    """The recorded facts of a fixture."""

    def __init__(self, name: str) -> None:
        text = (FIXTURES / f"{name}.expected.json").read_text(encoding="utf-8")
        self.facts = cast("dict[str, object]", json.loads(text))

    @property
    def is_damaged(self) -> bool:
        return "damage" in self.facts

    @property
    def contents(self) -> dict[str, object] | None:
        """What is to be read: all of it, or what is left without a torn tail."""
        if self.is_damaged:
            return cast("dict[str, object] | None", self.facts["recoverable"])
        return self.facts

    def entries(self) -> dict[bytes, StoredEntry]:
        contents = self.contents
        assert contents is not None
        rows = contents.get("keys_in_storage", contents["live_keys"])
        return {
            cast("str", row["key"]).encode(): StoredEntry(
                bytes.fromhex(cast("str", row["value"])),
                cast("int", row["version"]),
                cast("int", row["expires_at_ms"] or 0),
            )
            for row in cast("list[dict[str, object]]", rows)
        }


EXPECTED = {name: Expected(name) for name in NAMES}
READABLE = [name for name in NAMES if EXPECTED[name].contents is not None]
UNREADABLE = [name for name in NAMES if EXPECTED[name].contents is None]


def read(name: str) -> Format3Contents:
    return read_directory(FIXTURES / name, vfs=RealVfs())


def test_all_fixtures_are_here() -> None:
    assert len(NAMES) == 32
    assert len(READABLE) == 21


@pytest.mark.parametrize("name", READABLE)
def test_a_directory_is_read_to_exactly_what_it_holds(name: str) -> None:
    expected = EXPECTED[name]
    contents = read(name)
    assert contents.entries == expected.entries()
    assert expected.contents is not None
    assert contents.last_sequence == expected.contents["last_sequence"]
    assert contents.is_sealed == expected.facts.get("encrypted", True)
    entries = expected.facts.get("entries")
    if isinstance(entries, list) and entries:
        assert contents.last_term == entries[-1]["term"]
        assert contents.last_timestamp_ms >= entries[-1]["created_at_ms"]


@pytest.mark.parametrize("name", READABLE)
def test_users_and_roles_are_read(name: str) -> None:
    facts = EXPECTED[name].facts
    auth = read(name).auth
    if "users" not in facts:
        assert auth is None
        return
    assert auth is not None
    users = {
        user: {"roles": list(entry.roles), "disabled": entry.disabled}
        for user, entry in auth.users.items()
    }
    roles = {
        role: {
            "permissions": list(entry.permissions),
            "grants": [
                {"permission": grant.permission, "pattern": grant.pattern} for grant in entry.grants
            ],
        }
        for role, entry in auth.roles.items()
    }
    assert users == facts["users"]
    assert roles == facts["roles"]
    assert all(user.password_hash.startswith("$argon2id$") for user in auth.users.values())
    if "bootstrap_admin" in facts:
        assert facts["bootstrap_admin"] == {"username": auth.bootstrap_admin}
        assert auth.version == facts["auth_store_version"]


@pytest.mark.parametrize("name", UNREADABLE)
def test_damage_is_reported_with_its_code_file_offset_and_remedy(name: str) -> None:
    facts = EXPECTED[name].facts
    with pytest.raises(StorageError) as caught:
        read(name)
    error = caught.value
    assert error.code == facts["strict_load"]
    assert error.path is not None
    assert error.offset is not None
    assert error.remedy
    is_key_error = isinstance(error, KeyringError)
    assert is_key_error == (facts["expected"] in {"key_missing_reported", "wrong_key_reported"})
    assert is_key_error != isinstance(error, CorruptionError)


@pytest.mark.parametrize(
    ("name", "file", "offset"),
    [
        ("g_flipped_bit_sealed", "wal/1-4.wal", 344),
        ("g2_tampered_ciphertext_valid_crc", "wal/1-4.wal", 352),
        ("g3_flipped_bit_active_not_last", "wal/active-13.wal", 0),
        ("g4_flipped_bit_active_last", "wal/active-13.wal", 346),
        ("h_missing_middle_segment", "wal/9-12.wal", 0),
        ("h2_two_active_segments", "wal/active-999.wal", 0),
        ("h3_wrong_end_in_name", "wal/1-9.wal", 688),
        ("h4_keyring_lost", "auth.bin", 0),
        ("h5_wrong_secret", "auth.bin", 0),
        ("i2_snapshot_flipped_bit", "snapshot.bin", 58),
        ("i3_snapshot_lost", "snapshot.bin", 0),
    ],
)
def test_damage_is_found_where_it_is(name: str, file: str, offset: int) -> None:
    with pytest.raises(StorageError) as caught:
        read(name)
    assert caught.value.path == FIXTURES / name / file
    assert caught.value.offset == offset


@pytest.mark.parametrize("name", [name for name in READABLE if EXPECTED[name].is_damaged])
def test_a_torn_tail_is_left_out_with_a_warning(name: str) -> None:
    contents = read(name)
    recoverable = EXPECTED[name].contents
    assert recoverable is not None
    file, offset = cast("list[object]", recoverable["torn_at"])
    [warning] = contents.warnings
    assert str(file) in warning
    assert f"byte {offset}" in warning


@pytest.mark.parametrize("name", [name for name in READABLE if not EXPECTED[name].is_damaged])
def test_an_undamaged_directory_gives_no_warning(name: str) -> None:
    warnings = read(name).warnings
    if name == "i_stale_manifest":
        [warning] = warnings
        assert "manifest.bin describes the snapshot of entry 1" in warning
    else:
        assert warnings == ()


@pytest.mark.parametrize("name", [name for name in NAMES if "entries" in EXPECTED[name].facts])
def test_every_entry_that_is_retained_has_its_recorded_identity(name: str) -> None:
    path = FIXTURES / name
    vfs = RealVfs()
    envelopes = Envelopes(load_secrets(path / "keyring.bin", vfs))
    segments = list_segments(path / "wal", vfs, lambda _: None)
    found = [
        {
            "sequence": entry.sequence,
            "term": entry.term,
            "created_at_ms": entry.created_at_ms,
            "crc32": entry_identity(entry)[1],
            "operations": len(entry.operations),
        }
        for entry, _, _ in read_segments(segments, vfs, envelopes, lambda _: None)
    ]
    assert found == EXPECTED[name].facts["entries"]


@pytest.mark.parametrize("name", NAMES)
def test_reading_changes_nothing(name: str, tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / name, tmp_path / "data")
    before = sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*"))
    try:
        read_directory(tmp_path / "data", vfs=RealVfs())
    except StorageError:
        assert name in UNREADABLE
    after = sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*"))
    assert after == before


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reading, "_PROGRESS_BYTES", 400)
    told: list[tuple[int, int]] = []
    path = FIXTURES / "f0_base_for_damage"
    read_directory(path, vfs=RealVfs(), progress=lambda done, total: told.append((done, total)))
    size = sum(file.stat().st_size for file in (path / "wal").iterdir())
    assert len(told) > 4
    assert told[0] == (0, size)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert all(done <= total == size for done, total in told)


# The identity of entries


def vectors(kind: str) -> list[dict[str, object]]:
    lines = (DATA / "entry_checksums.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [cast("dict[str, object]", json.loads(line)) for line in lines]
    return [row for row in rows if row["type"] == kind]


def text_of(row: dict[str, object], name: str) -> str:
    return cast("str", row[name])


def entry_of(row: dict[str, object]) -> Entry:
    """Make an entry from the description of a vector, not from its bytes."""
    operations: list[object] = []
    for operation in cast("list[str | dict[str, dict[str, object]]]", row["operations"]):
        if isinstance(operation, str):
            operations.append(operation)
            continue
        [(name, fields)] = operation.items()
        if "value" in fields:
            fields = {**fields, "value": bytes.fromhex(cast("str", fields["value"]))}
        operations.append({name: fields})
    fields = {name: row[name] for name in ("sequence", "term", "created_at_ms")}
    return msgspec.convert({**fields, "operations": operations}, Entry)


@pytest.mark.parametrize("row", vectors("entry"), ids=lambda row: text_of(row, "name"))
def test_an_entry_is_encoded_as_0_9_does(row: dict[str, object]) -> None:
    entry = entry_of(row)
    encoded = bytes.fromhex(text_of(row, "messagepack"))
    assert encode_entry(entry) == encoded
    assert decode_entry(encoded) == entry
    assert entry_identity(entry) == (row["term"], row["crc32"])


@pytest.mark.parametrize("row", vectors("entry"), ids=lambda row: text_of(row, "name"))
def test_a_record_without_a_seal_is_read(row: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / f"active-{row['sequence']}.wal"
    path.write_bytes(bytes.fromhex(text_of(row, "record")))
    [segment] = list_segments(tmp_path, RealVfs(), lambda _: None)
    [record] = read_segments([segment], RealVfs(), None, lambda _: None)
    assert record.entry == entry_of(row)


@pytest.mark.parametrize("row", vectors("encrypted_record"), ids=lambda row: text_of(row, "name"))
def test_a_sealed_record_is_read(row: dict[str, object], tmp_path: Path) -> None:
    key_id, secret = bytes.fromhex(text_of(row, "key_id")), text_of(row, "secret")
    assert derive_key(secret, bytes.fromhex(text_of(row, "salt"))).hex() == row["derived_key"]
    record = bytes.fromhex(text_of(row, "record"))
    assert zlib.crc32(record[8:]) == row["record_crc32"]
    plain = Envelopes({key_id: secret}).open(record[8:], "wal entry", path=tmp_path, offset=0)
    assert plain.hex() == row["plaintext"]
    assert entry_identity(decode_entry(plain))[1] == row["entry_crc32"]


@pytest.mark.parametrize("row", vectors("crc32"), ids=lambda row: text_of(row, "name"))
def test_the_checksum_is_crc_32(row: dict[str, object]) -> None:
    assert zlib.crc32(bytes.fromhex(text_of(row, "bytes"))) == row["crc32"]


def test_a_path_without_a_directory_of_0_9_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileSystemError, match="no such directory"):
        read_directory(tmp_path / "missing", vfs=RealVfs())
    with pytest.raises(ForeignFormatError, match="no data directory"):
        read_directory(tmp_path, vfs=RealVfs())
    (tmp_path / "wal").mkdir()
    with pytest.raises(ForeignFormatError, match="no data directory"):
        read_directory(tmp_path, vfs=RealVfs())
    (tmp_path / "wal").rmdir()
    (tmp_path / "node.json").write_bytes(b"{}")
    with pytest.raises(ForeignFormatError, match="format 4"):
        read_directory(tmp_path, vfs=RealVfs())
    assert [path.name for path in tmp_path.iterdir()] == ["node.json"]


def test_two_logs_are_refused(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "k_plaintext_no_keyring", tmp_path, dirs_exist_ok=True)
    shutil.copy(FIXTURES / "k2_legacy_wal_log" / "wal.log", tmp_path)
    with pytest.raises(LogDamageError, match="two logs"):
        read_directory(tmp_path, vfs=RealVfs())
