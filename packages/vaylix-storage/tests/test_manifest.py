"""The manifest: golden bytes, round trip, every kind of damage, replacement that crashes."""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaylix_storage import Keyring, SnapshotMeta
from vaylix_storage._manifest import Manifest, ManifestEntry, load_manifest, store_manifest
from vaylix_storage.errors import (
    CorruptionError,
    FileSystemError,
    ForeignFormatError,
    KeyringError,
    StorageError,
)
from vaylix_storage.testing import MemoryVfs, SimulatedCrash, Survival, fixed_keyring

GOLDEN = Path(__file__).parent / "data" / "snapshot4" / "manifest.bin"
PATH = Path("/data/manifest.bin")
TIMELINE = b"t" * 16


def entry_at(index: int, *, installed: bool = False) -> ManifestEntry:
    meta = SnapshotMeta(index, 2, 1_700_000_000_000, 1_700_000_000_500)
    return ManifestEntry(meta, 735, bytes([index % 256]) * 16, b"k" * 16, installed)


MANIFEST = Manifest(TIMELINE, (entry_at(7, installed=True), entry_at(77)))


def new_vfs() -> MemoryVfs:
    vfs = MemoryVfs()
    vfs.make_directory(PATH.parent)
    return vfs


def load(vfs: MemoryVfs) -> Manifest:
    return load_manifest(PATH, vfs=vfs, keyring=fixed_keyring(), timeline=TIMELINE)


def store(vfs: MemoryVfs, manifest: Manifest = MANIFEST) -> None:
    store_manifest(PATH, manifest, vfs=vfs, keyring=fixed_keyring())


def write_golden() -> bytes:
    vfs = new_vfs()
    store(vfs)
    return vfs.content(PATH)


def load_bytes(content: bytes) -> Manifest:
    vfs = new_vfs()
    vfs.create(PATH)
    vfs.overwrite(PATH, content)
    return load(vfs)


def test_without_a_file_there_are_no_snapshots() -> None:
    manifest = load(new_vfs())
    assert manifest == Manifest(TIMELINE)
    assert manifest.current is None


U64 = st.integers(0, 2**64 - 1)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(U64, st.tuples(U64, U64, U64, U64, st.booleans()), max_size=4))
def test_what_is_stored_is_loaded(rows: dict[int, tuple[int, int, int, int, bool]]) -> None:
    entries = tuple(
        ManifestEntry(
            SnapshotMeta(index, term, timestamp_ms, created_at_ms), size, b"e" * 16, b"k" * 16, flag
        )
        for index, (term, timestamp_ms, created_at_ms, size, flag) in sorted(rows.items())
    )
    vfs = new_vfs()
    store(vfs)
    store(vfs, Manifest(TIMELINE, entries))
    manifest = load(vfs)
    assert manifest == Manifest(TIMELINE, entries)
    assert manifest.current == (entries[-1] if entries else None)
    assert vfs.list_directory(PATH.parent) == [PATH.name]


def test_the_bytes_never_change() -> None:
    assert write_golden() == GOLDEN.read_bytes()


def test_a_second_reader_made_from_the_document_reads_the_golden_file() -> None:
    data = GOLDEN.read_bytes()
    magic, body_bytes = struct.unpack_from("<8sI", data)
    body, mac, crc = data[12 : 12 + body_bytes], data[12 + body_bytes : -4], data[-4:]
    assert magic == b"VAYLIXM4"
    assert struct.pack("<I", zlib.crc32(data[:-4])) == crc
    key = hmac.digest(b"s" * 32, b"vaylix manifest mac", "sha256")
    assert hmac.digest(key, data[: 12 + body_bytes], hashlib.sha256) == mac
    times = [1_700_000_000_000, 1_700_000_000_500]
    assert msgspec.msgpack.decode(body) == [
        TIMELINE,
        b"k" * 16,
        [
            [7, 2, *times, 735, b"\x07" * 16, b"k" * 16, True],
            [77, 2, *times, 735, b"M" * 16, b"k" * 16, False],
        ],
    ]


def test_every_flipped_byte_and_every_cut_is_found() -> None:
    content = write_golden()
    damaged = [content[:length] for length in range(len(content))]
    damaged += [content + b"\0", content * 9000]
    for place in range(len(content)):
        for flip in (0x01, 0x80, 0xFF):
            flipped = bytearray(content)
            flipped[place] ^= flip
            damaged.append(bytes(flipped))
    for bad in damaged:
        with pytest.raises(CorruptionError) as caught:
            load_bytes(bad)
        assert (caught.value.path, caught.value.offset is None) == (PATH, False)


def sealed(body: object, magic: bytes = b"VAYLIXM4", key: bytes = b"s" * 32) -> bytes:
    encoded = msgspec.msgpack.encode(body)
    content = magic + struct.pack("<I", len(encoded)) + encoded
    mac_key = hmac.digest(key, b"vaylix manifest mac", hashlib.sha256)
    content += hmac.digest(mac_key, content, hashlib.sha256)
    return content + struct.pack("<I", zlib.crc32(content))


ROW = [7, 1, 2, 3, 4, b"e" * 16, b"k" * 16, False]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (sealed([TIMELINE, b"k" * 16, [ROW]], magic=b"VAYLIXM5"), ForeignFormatError),
        (sealed([b"u" * 16, b"k" * 16, [ROW]]), ForeignFormatError),
        (sealed([TIMELINE, b"k" * 16, [ROW]], key=b"w" * 32), CorruptionError),
        (sealed([TIMELINE, b"x" * 16, [ROW]]), KeyringError),
        (sealed([TIMELINE, b"k" * 16, [ROW, ROW]]), CorruptionError),
        (sealed([TIMELINE, b"k" * 16, [[*ROW, 1]]]), CorruptionError),
        (sealed([TIMELINE, b"k" * 16, [ROW[:-1]]]), CorruptionError),
        (sealed([TIMELINE, b"k" * 16, [[-1, *ROW[1:]]]]), CorruptionError),
        (sealed([b"short", b"k" * 16, []]), CorruptionError),
        (sealed("text"), CorruptionError),
    ],
)
def test_what_makes_no_sense_is_refused(content: bytes, error: type[StorageError]) -> None:
    with pytest.raises(error) as caught:
        load_bytes(content)
    assert caught.value.path == PATH


def test_it_can_be_read_after_the_active_key_has_changed() -> None:
    vfs = new_vfs()
    store(vfs)
    rotated = Keyring(b"n" * 16, {b"n" * 16: b"x" * 32, b"k" * 16: b"s" * 32})
    assert load_manifest(PATH, vfs=vfs, keyring=rotated, timeline=TIMELINE) == MANIFEST


def test_misuse_is_refused() -> None:
    vfs = new_vfs()
    with pytest.raises(ValueError, match="rise"):
        store(vfs, Manifest(TIMELINE, (entry_at(7), entry_at(7))))
    many = tuple(entry_at(index) for index in range(20_000))
    with pytest.raises(ValueError, match="at most"):
        store(vfs, Manifest(TIMELINE, many))
    assert not vfs.exists(PATH)


@pytest.mark.parametrize("data", list(Survival))
@pytest.mark.parametrize("names", list(Survival))
def test_a_crash_leaves_the_old_or_the_new_one(data: Survival, names: Survival) -> None:
    old = Manifest(TIMELINE, (entry_at(7),))
    call = 0
    finished = False
    while not finished:
        call += 1
        vfs = new_vfs()
        store(vfs, old)
        vfs.crash_at(vfs.call_count + call)
        try:
            store(vfs)
            finished = True
        except SimulatedCrash:
            pass
        vfs.power_cut(data, names)
        assert load(vfs) in ([MANIFEST] if finished else [old, MANIFEST])
        store(vfs)
    assert call > 4


def test_a_failing_call_leaves_the_old_or_the_new_one() -> None:
    old = Manifest(TIMELINE, (entry_at(7),))
    call = 0
    finished = False
    while not finished:
        call += 1
        vfs = new_vfs()
        store(vfs, old)
        vfs.fail_at(vfs.call_count + call)
        try:
            store(vfs)
            finished = True
        except FileSystemError:
            pass
        assert load(vfs) in ([MANIFEST] if finished else [old, MANIFEST])
        vfs.power_cut()
        assert load(vfs) in ([MANIFEST] if finished else [old, MANIFEST])
    assert call > 4
