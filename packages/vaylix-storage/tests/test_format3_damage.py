"""Whatever stands in a directory of 0.9, reading it ends with contents or a StorageError.

And what can be told apart is: a flipped byte or a cut of a sealed log is reported or is a torn
tail, never other contents.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vaylix_storage._entry import Entry as StoredEntry
from vaylix_storage.errors import (
    CorruptionError,
    ForeignFormatError,
    InvalidIntegerError,
    KeyringError,
    LogDamageError,
    ManifestDamageError,
    NumericOverflowError,
    SnapshotDamageError,
    StorageError,
)
from vaylix_storage.format3 import (
    Entry,
    Format3Contents,
    _envelope,
    decode_entry,
    encode_entry,
    read_directory,
)
from vaylix_storage.format3._messagepack import MalformedError
from vaylix_storage.testing import MemoryVfs

FIXTURES = Path(__file__).parent / "data" / "format3"
OLD = Path("/old")


@pytest.fixture(autouse=True, scope="module")
def derive_each_key_once() -> Iterator[None]:
    """Deriving a key takes 20 ms, and these tests read the same files thousands of times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_envelope, "derive_key", functools.cache(_envelope.derive_key))
        yield


def load(name: str) -> MemoryVfs:
    """Put a fixture onto a simulated disk, as `/old`."""
    vfs = MemoryVfs()
    for path in sorted((FIXTURES / name).rglob("*")):
        if path.is_file():
            put(vfs, str(path.relative_to(FIXTURES / name)), path.read_bytes())
    return vfs


def put(vfs: MemoryVfs, name: str, content: bytes) -> None:
    path = OLD / name
    vfs.make_directory(path.parent)
    if not vfs.exists(path):
        vfs.create(path).close()
    vfs.overwrite(path, content)


def read(vfs: MemoryVfs) -> Format3Contents:
    return read_directory(OLD, vfs=vfs)


def record(entry: Entry) -> bytes:
    body = encode_entry(entry)
    return struct.pack("<II", len(body), zlib.crc32(body)) + body


def entry(sequence: int, *operations: object, created_at_ms: int = 1000) -> Entry:
    fields = {"sequence": sequence, "created_at_ms": created_at_ms, "operations": operations}
    return msgspec.convert(fields, Entry)


def put_log(vfs: MemoryVfs, *entries: Entry, name: str = "wal/active-1.wal") -> None:
    put(vfs, name, b"".join(record(entry) for entry in entries))


def set_key(key: str, value: bytes, version: int = 1) -> object:
    return {"Set": {"key": key, "value": value, "version": version}}


def outcome(vfs: MemoryVfs) -> Format3Contents | StorageError:
    try:
        return read(vfs)
    except StorageError as error:
        return error


def is_prefix_of(found: Format3Contents, whole: Format3Contents) -> bool:
    return found.last_sequence <= whole.last_sequence and found.entries.items() <= (
        whole.entries.items()
    )


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("f0_base_for_damage", "wal/active-13.wal"),
        ("f0_base_for_damage", "wal/1-4.wal"),
        ("k_plaintext_no_keyring", "wal/active-4.wal"),
        ("k2_legacy_wal_log", "wal.log"),
    ],
)
def test_every_cut_of_a_segment_is_a_reported_torn_tail_or_damage(name: str, file: str) -> None:
    vfs = load(name)
    whole = read(vfs)
    content = vfs.content(OLD / file)
    borders = {0, *_borders(content)}
    for size in range(len(content)):
        put(vfs, file, content[:size])
        if file == "wal/1-4.wal":
            with pytest.raises(LogDamageError) as caught:
                read(vfs)
            assert caught.value.path == OLD / file
            assert caught.value.offset == max(border for border in borders if border <= size)
            continue
        found = read(vfs)
        # A cut between two records of the last file cannot be known.
        assert len(found.warnings) == (size not in borders)
        if name == "f0_base_for_damage":
            assert is_prefix_of(found, whole)
        assert found.last_sequence < whole.last_sequence


def _borders(content: bytes) -> list[int]:
    offset, borders = 0, []
    while offset < len(content):
        offset += 8 + int.from_bytes(content[offset : offset + 4], "little")
        borders.append(offset)
    return borders


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("f0_base_for_damage", "wal/active-13.wal"),
        ("f0_base_for_damage", "wal/1-4.wal"),
        ("b2_clean_stop_snapshot_only", "snapshot.bin"),
        ("k_plaintext_no_keyring", "wal/active-4.wal"),
        ("a2_no_auth_single_segment", "keyring.bin"),
        ("c_users_roles", "auth.bin"),
    ],
)
@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_every_flipped_byte_is_reported_or_harmless(name: str, file: str, bit: int) -> None:
    vfs = load(name)
    whole = read(vfs)
    content = vfs.content(OLD / file)
    # Every salt of its own costs one derivation of a key, so the salts are flipped in one place.
    salts = set(_salt_offsets(content)) if file != "keyring.bin" else set()
    # Likewise every secret.
    secret = range(30, 94) if file == "keyring.bin" else range(0)
    for offset in range(len(content)):
        if offset in salts or offset in secret[1:]:
            continue
        flipped = bytearray(content)
        flipped[offset] ^= bit
        put(vfs, file, bytes(flipped))
        found = outcome(vfs)
        if isinstance(found, StorageError):
            assert found.path is not None
            assert found.offset is not None
        else:
            assert found.entries == whole.entries
            assert found.auth == whole.auth


def _salt_offsets(content: bytes) -> list[int]:
    offsets: list[int] = []
    start = content.find(b"VXE1")
    while start >= 0:
        offsets.extend(range(start + 23, start + 38))
        start = content.find(b"VXE1", start + 1)
    return offsets


@pytest.mark.parametrize("file", ["snapshot.bin", "manifest.bin", "keyring.bin", "auth.bin"])
def test_every_cut_of_the_other_files_is_reported(file: str) -> None:
    vfs = load("b_snapshot_and_wal")
    content = vfs.content(OLD / file)
    for size in range(len(content)):
        put(vfs, file, content[:size])
        with pytest.raises(StorageError) as caught:
            read(vfs)
        assert caught.value.path is not None


FILES = ["wal/active-1.wal", "wal.log", "snapshot.bin", "manifest.bin", "keyring.bin", "auth.bin"]
GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=100).map(
        lambda body: struct.pack("<II", len(body), zlib.crc32(body)) + body
    ),
    st.binary(max_size=100).map(lambda body: b"VXE1\x01\x01" + bytes(32) + body),
)


@given(files=st.dictionaries(st.sampled_from(FILES), GARBAGE, min_size=1))
@settings(max_examples=400, deadline=None)
def test_garbage_never_gives_anything_but_a_storage_error(files: dict[str, bytes]) -> None:
    vfs = MemoryVfs()
    for name, content in files.items():
        put(vfs, name, content)
    outcome(vfs)


@given(st.binary(max_size=300))
@example(b"\x91" * 100_000)
@example(b"\x81\xa1a" * 100_000)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
@settings(max_examples=300, deadline=None)
def test_garbage_is_no_entry(data: bytes) -> None:
    with suppress(MalformedError):
        decode_entry(data)


# The dialect (storage section 16.1)


def pack(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


SET = {"Set": {"key": "k", "value": b"\x00\xff", "version": 3}}


@pytest.mark.parametrize(
    "value",
    [
        {"sequence": 1, "term": 2, "created_at_ms": 3, "operations": [SET]},
        {"operations": [SET], "created_at_ms": 3, "later": [{}], "term": 2, "sequence": 1},
        [1, 2, 3, [SET]],
        [1, 2, 3, [{"Set": ["k", b"\x00\xff", 3]}]],
        [1, 2, 3, [{"Set": {"key": "k", "value": [0, 255], "version": 3}}], "later"],
    ],
)
def test_an_entry_is_read_in_every_form(value: object) -> None:
    expected = msgspec.structs.replace(entry(1, SET, created_at_ms=3), term=2)
    assert decode_entry(pack(value)) == expected
    assert decode_entry(pack(value) + b"behind it") == expected


def test_what_may_be_missing_has_its_default() -> None:
    found = decode_entry(
        pack({"sequence": 1, "created_at_ms": 2, "operations": [{"Set": ["k", "text"]}]})
    )
    assert found.term == 0
    [operation] = found.operations
    assert operation == msgspec.convert(set_key("k", b"text"), type(operation))


@pytest.mark.parametrize(
    "operation",
    [
        "Clear",
        {"Delete": ["k"]},
        {"Persist": ["k"]},
        {"Expire": ["k", 7]},
        {"CheckInteger": ["k", -1]},
    ],
)
def test_every_operation_may_be_positional(operation: object) -> None:
    named = operation
    if isinstance(operation, dict):
        [(name, payload)] = operation.items()
        names = ("key", "expires_at_ms" if name == "Expire" else "delta")
        fields = dict(zip(names, payload, strict=False))
        named = {name: fields}
    assert decode_entry(pack([1, 0, 2, [operation]])) == entry(1, named, created_at_ms=2)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        [1, 0, 2],
        {"sequence": 1, "created_at_ms": 2},
        [-1, 0, 2, []],
        [True, 0, 2, []],
        [1.0, 0, 2, []],
        [1, 0, 2, ["Flush"]],
        [1, 0, 2, [{}]],
        [1, 0, 2, [{"Set": ["k", b""], "Delete": ["k"]}]],
        [1, 0, 2, [{"Rename": ["k"]}]],
        [1, 0, 2, [{"Set": ["k", [256]]}]],
        [1, 0, 2, [{"Set": ["k", [True]]}]],
        [1, 0, 2, [{"CheckInteger": ["k", 2**63]}]],
        [1, 0, 2, [{"Delete": [b"k"]}]],
    ],
)
def test_what_is_no_entry_is_refused(value: object) -> None:
    with pytest.raises(MalformedError):
        decode_entry(pack(value))


def test_a_text_that_is_not_utf_8_is_refused() -> None:
    bad = pack([1, 0, 2, [{"Delete": ["kk"]}]]).replace(b"kk", b"k\xff")
    with pytest.raises(MalformedError, match="UTF-8"):
        decode_entry(bad)
    named = pack({"sequence": 1, "created_at_ms": 2, "operations": [{"Delete": {"key": "kk"}}]})
    with pytest.raises(MalformedError, match="UTF-8"):
        decode_entry(named.replace(b"kk", b"k\xff"))


METADATA = {
    "version": 3,
    "created_at_ms": 1,
    "updated_at_ms": 5,
    "last_snapshot_at_ms": None,
    "last_applied_sequence": 9,
}


def stored(value: object, expires_at_ms: object = None, version: int = 1) -> dict[str, object]:
    return {"value": value, "expires_at_ms": expires_at_ms, "version": version}


@pytest.mark.parametrize(
    ("data", "more"),
    [
        ({"k": stored(b"v", 7, 1), "l": stored(b"w")}, {}),
        ({"k": [b"v", 7, 1], "l": [b"w"]}, {}),
        ({"k": {"value": "v", "expires_at_ms": 7}, "l": {"value": [119]}}, {}),
        # Format 2.
        ({"k": "v", "l": "w"}, {"expirations": {"k": 7}}),
    ],
)
@pytest.mark.parametrize("metadata", [METADATA, list(METADATA.values())])
def test_a_snapshot_is_read_in_every_form(
    data: object, more: dict[str, object], metadata: object
) -> None:
    vfs = MemoryVfs()
    put(vfs, "snapshot.bin", pack({"data": data, "metadata": metadata, **more}))
    put(vfs, "wal/active-10.wal", b"")
    contents = read(vfs)
    assert contents.entries == {b"k": StoredEntry(b"v", 1, 7), b"l": StoredEntry(b"w", 1, 0)}
    assert (contents.last_sequence, contents.last_timestamp_ms) == (9, 5)
    assert contents.warnings == ()


@pytest.mark.parametrize(
    "state",
    [b"", b"\xc1", pack([{}, METADATA]), pack({"data": {}}), pack({"data": {}, "metadata": {}})],
)
def test_a_snapshot_that_cannot_be_decoded_is_reported(state: bytes) -> None:
    vfs = MemoryVfs()
    put(vfs, "snapshot.bin", state)
    with pytest.raises(SnapshotDamageError) as caught:
        read(vfs)
    assert caught.value.code == "ENG-004"


def manifest_of(state: bytes, **changes: int) -> bytes:
    fields = {
        "storage_format_version": 3,
        "engine_version": 3,
        "last_snapshot_sequence": 9,
        "last_snapshot_at_ms": 5,
        "snapshot_size_bytes": len(state),
        "snapshot_checksum": zlib.crc32(state),
    }
    return pack({**fields, **changes})


STATE = pack({"data": {"k": stored(b"v")}, "metadata": METADATA})


def test_an_unsealed_snapshot_needs_a_manifest_that_agrees() -> None:
    vfs = MemoryVfs()
    put(vfs, "snapshot.bin", STATE)
    put(vfs, "manifest.bin", manifest_of(STATE))
    assert read(vfs).entries == {b"k": StoredEntry(b"v", 1, 0)}
    put(vfs, "snapshot.bin", STATE.replace(b"\xc4\x01v", b"\xc4\x01w"))
    with pytest.raises(CorruptionError) as caught:
        read(vfs)
    assert caught.value.code == "ENG-007"
    # The crash between the two renames: the snapshot is newer.
    put(vfs, "manifest.bin", manifest_of(b"", last_snapshot_sequence=8))
    assert "describes the snapshot of entry 8" in read(vfs).warnings[0]


def test_a_manifest_of_format_2_is_not_looked_at() -> None:
    vfs = MemoryVfs()
    state = pack({"data": {"k": "v"}, "expirations": {}, "metadata": METADATA})
    put(vfs, "snapshot.bin", state)
    put(vfs, "manifest.bin", manifest_of(b"", storage_format_version=2))
    contents = read(vfs)
    assert contents.entries == {b"k": StoredEntry(b"v", 1, 0)}
    assert "storage format 2" in contents.warnings[0]


def test_a_manifest_that_cannot_be_used_is_reported() -> None:
    vfs = MemoryVfs()
    put(vfs, "snapshot.bin", STATE)
    put(vfs, "manifest.bin", manifest_of(STATE, storage_format_version=4))
    with pytest.raises(ForeignFormatError):
        read(vfs)
    put(vfs, "manifest.bin", pack({"storage_format_version": 3}))
    with pytest.raises(ManifestDamageError) as caught:
        read(vfs)
    assert caught.value.code == "ENG-006"


def test_a_rollback_to_an_older_snapshot_is_noticed() -> None:
    vfs = load("b_snapshot_and_wal")
    older = load("b_snapshot_and_wal")
    put(vfs, "manifest.bin", manifest_of(b"", last_snapshot_sequence=10**6))
    with pytest.raises(CorruptionError, match="knows of entry 1000000"):
        read(vfs)
    read(older)


@pytest.mark.parametrize(
    ("operations", "error", "code"),
    [
        (
            [set_key("k", b"abc"), {"CheckInteger": {"key": "k", "delta": 1}}],
            InvalidIntegerError,
            15,
        ),
        (
            [set_key("k", b" 1"), {"CheckInteger": {"key": "k", "delta": 1}}],
            InvalidIntegerError,
            15,
        ),
        (
            [set_key("k", b"9223372036854775808"), {"CheckInteger": {"key": "k", "delta": -1}}],
            InvalidIntegerError,
            15,
        ),
        (
            [set_key("k", b"9223372036854775807"), {"CheckInteger": {"key": "k", "delta": 1}}],
            NumericOverflowError,
            16,
        ),
    ],
)
def test_a_log_that_counts_with_no_number_is_reported(
    operations: list[object], error: type[StorageError], code: int
) -> None:
    vfs = MemoryVfs()
    put_log(vfs, entry(1, set_key("a", b"")), entry(2, *operations))
    with pytest.raises(error) as caught:
        read(vfs)
    assert caught.value.code == f"ENG-0{code}"
    assert caught.value.path == OLD / "wal/active-1.wal"
    assert caught.value.offset == len(record(entry(1, set_key("a", b""))))


@pytest.mark.parametrize(
    ("text", "number"), [(b"+5", b"6"), (b"-1", b"0"), (b"-0", b"1"), (b"0" * 5000 + b"7", b"8")]
)
def test_counting_takes_the_decimals_that_0_9_took(text: bytes, number: bytes) -> None:
    vfs = MemoryVfs()
    add = {"CheckInteger": {"key": "k", "delta": 1}}
    put_log(vfs, entry(1, set_key("k", text), {"Expire": {"key": "k", "expires_at_ms": 9999}}, add))
    assert read(vfs).entries == {b"k": StoredEntry(number, 2, 0)}


def test_a_wrong_key_is_told_from_altered_data() -> None:
    vfs = load("a2_no_auth_single_segment")
    content = vfs.content(OLD / "keyring.bin")
    at = content.find(b"\xd9\x40") + 2
    put(vfs, "keyring.bin", content[:at] + b"0" * 64 + content[at + 64 :])
    with pytest.raises(KeyringError, match="secret is wrong"):
        read(vfs)


def test_a_key_that_the_keyring_does_not_hold_is_named() -> None:
    vfs = load("a2_no_auth_single_segment")
    other = load("j_rotated_keyring")
    put(vfs, "keyring.bin", other.content(OLD / "keyring.bin"))
    with pytest.raises(ForeignFormatError, match="keyring does not hold") as caught:
        read(vfs)
    assert caught.value.code == "ENG-009"
