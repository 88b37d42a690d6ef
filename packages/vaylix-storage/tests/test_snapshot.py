"""Snapshot files: round trip, every kind of damage, bounds, and bytes that never change.

`data/snapshot4` was written by `write_golden` below. A change of these bytes is a change of the
storage format: it needs a new version number, not a new golden file.
"""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from vaylix_storage import Keyring, RealVfs
from vaylix_storage._snapshot import SnapshotInfo, SnapshotReader, SnapshotWriter
from vaylix_storage._snapshot_format import (
    PLAIN_BYTES_MAX,
    SNAPSHOT_HEADER_BYTES,
    DataPacker,
    SectionCounts,
    SnapshotCipher,
    SnapshotEnd,
    SnapshotHeader,
    SnapshotMeta,
    encode_end,
    encode_header,
    encode_section,
)
from vaylix_storage.errors import (
    CorruptionError,
    FileSystemError,
    ForeignFormatError,
    KeyringError,
    StorageError,
)
from vaylix_storage.testing import (
    MemoryVfs,
    SimulatedCrash,
    Survival,
    counting_random_bytes,
    fixed_keyring,
)

GOLDEN = Path(__file__).parent / "data" / "snapshot4" / "77.snapshot"
DIRECTORY = Path("/data/snapshots")
PATH = DIRECTORY / "77.snapshot"
TIMELINE = b"t" * 16
STORAGE_KEY = b"s" * 32
META = SnapshotMeta(77, 3, 1_700_000_000_000, 1_700_000_000_500)
# Too irregular to be compressed, so that no release of zstd can come to other bytes.
NOISE = [hashlib.sha256(b"%d" % number).digest() for number in range(4)]
Sections = list[tuple[str, list[bytes]]]
GOLDEN_SECTIONS: Sections = [("keyspace", NOISE[:3]), ("nothing", []), ("access", NOISE[3:])]


def new_vfs() -> MemoryVfs:
    vfs = MemoryVfs()
    vfs.make_directory(DIRECTORY)
    return vfs


def new_writer(vfs: MemoryVfs) -> SnapshotWriter:
    return SnapshotWriter.create(
        PATH,
        META,
        vfs=vfs,
        keyring=fixed_keyring(),
        timeline=TIMELINE,
        random_bytes=counting_random_bytes(),
    )


def write(vfs: MemoryVfs, sections: Sections) -> SnapshotInfo:
    writer = new_writer(vfs)
    for name, chunks in sections:
        writer.begin_section(name)
        for chunk in chunks:
            writer.add(chunk, len(chunk))
    return writer.finish()


def open_reader(vfs: MemoryVfs) -> SnapshotReader:
    return SnapshotReader.open(PATH, vfs=vfs, keyring=fixed_keyring(), timeline=TIMELINE)


def flat(sections: Sections) -> list[tuple[str, bytes]]:
    return [(name, chunk) for name, chunks in sections for chunk in chunks]


def vfs_with(content: bytes) -> MemoryVfs:
    vfs = new_vfs()
    vfs.create(PATH)
    vfs.overwrite(PATH, content)
    return vfs


def read_all(content: bytes) -> list[tuple[str, bytes]]:
    reader = open_reader(vfs_with(content))
    try:
        return list(reader.chunks())
    finally:
        reader.close()


def write_golden() -> bytes:
    vfs = new_vfs()
    write(vfs, GOLDEN_SECTIONS)
    return vfs.content(PATH)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=10), st.lists(st.binary(min_size=1, max_size=300), max_size=4)
    )
)
def test_what_is_written_is_read(content: dict[str, list[bytes]]) -> None:
    vfs = new_vfs()
    sections = list(content.items())
    info = write(vfs, sections)
    reader = open_reader(vfs)
    assert list(reader.chunks()) == flat(sections)
    counts = tuple(
        SectionCounts(name, len(chunks), sum(map(len, chunks))) for name, chunks in sections
    )
    assert (reader.meta, reader.sections, reader.end_tag, reader.key_id, reader.size_bytes) == (
        info.meta,
        info.sections,
        info.end_tag,
        info.key_id,
        info.size_bytes,
    )
    assert info.sections == counts
    assert info.meta == META
    assert info.size_bytes == len(vfs.content(PATH))
    reader.close()
    reader.close()


def test_the_bytes_never_change() -> None:
    assert write_golden() == GOLDEN.read_bytes()


def test_a_second_reader_made_from_the_document_reads_the_golden_file() -> None:
    """It shares no code with the first."""
    data = GOLDEN.read_bytes()
    assert data[:16] == b"VAYLIXS4" + struct.pack("<HHI", 4, 256, 0)
    assert struct.unpack_from("<QQQQ", data, 16) == (77, 3, 1_700_000_000_000, 1_700_000_000_500)
    assert data[48:80] == TIMELINE + b"k" * 16
    salt = data[80:112]
    assert not any(data[112:236])
    assert zlib.crc32(data[:252]) == struct.unpack_from("<I", data, 252)[0]
    info = b"vaylix storage format 4 snapshot"
    aead = AESGCM(HKDF(SHA256(), 32, salt, info).derive(STORAGE_KEY))
    tag = aead.encrypt(bytes(12), b"", data[:236])
    assert tag == data[236:252]
    offset, number, plain = 256, 0, b""
    names: list[str] = []
    found: list[tuple[str, bytes]] = []
    while True:
        number += 1
        sealed_bytes, crc = struct.unpack_from("<II", data, offset)
        place = struct.pack("<Q", offset)
        assert zlib.crc32(salt + place + data[offset : offset + 4]) == crc
        sealed = data[offset + 8 : offset + 8 + sealed_bytes]
        additional = place + tag + data[offset : offset + 8]
        body = aead.decrypt(number.to_bytes(12, "big"), sealed, additional)
        tag = sealed[-16:]
        offset += 8 + sealed_bytes
        if body[0] == 2:
            break
        if body[0] == 3:
            assert body[1] == len(names)
            names.append(body[2:].decode())
        else:
            kind, section, plain_bytes = struct.unpack_from("<BBI", body)
            chunk = zstandard.decompress(body[6:])
            assert (kind, section, plain_bytes) == (1, len(names) - 1, len(chunk))
            found.append((names[-1], chunk))
            plain += chunk
    assert offset == len(data)
    assert msgspec.msgpack.decode(body[1:]) == [
        [["keyspace", 3, 96], ["nothing", 0, 0], ["access", 1, 32]],
        len(plain),
        hashlib.sha256(plain).digest(),
    ]
    assert found == flat(GOLDEN_SECTIONS)


# Damage


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_is_found(flip: int) -> None:
    content = write_golden()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= flip
        with pytest.raises((CorruptionError, KeyringError)) as caught:
            read_all(bytes(damaged))
        assert caught.value.path == PATH
        if isinstance(caught.value, CorruptionError):
            assert caught.value.offset is not None
            assert caught.value.offset <= place
            assert caught.value.remedy


def test_every_cut_is_found() -> None:
    content = write_golden()
    for length in range(len(content)):
        with pytest.raises(CorruptionError) as caught:
            read_all(content[:length])
        assert (caught.value.path, caught.value.offset is None) == (PATH, False)


def test_bytes_behind_the_end_are_found() -> None:
    content = write_golden()
    with pytest.raises(CorruptionError, match="bytes follow") as caught:
        read_all(content + b"\0")
    assert caught.value.offset == len(content)


def test_chunks_cannot_change_places_nor_come_from_another_snapshot() -> None:
    content = write_golden()
    (size,) = struct.unpack_from("<I", content, 256)
    second = 256 + 8 + size
    chunk_bytes = 8 + struct.unpack_from("<I", content, second)[0]
    first, other = (content[second + n * chunk_bytes :][:chunk_bytes] for n in (0, 1))
    assert len(first) == len(other)
    swapped = content.replace(first + other, other + first)
    assert swapped != content
    with pytest.raises(CorruptionError):
        read_all(swapped)
    dropped = content.replace(first, b"")
    with pytest.raises(CorruptionError):
        read_all(dropped)


def test_another_history_is_refused_unless_all_are_welcome() -> None:
    vfs = vfs_with(write_golden())
    with pytest.raises(ForeignFormatError, match="another history") as caught:
        SnapshotReader.open(PATH, vfs=vfs, keyring=fixed_keyring(), timeline=b"u" * 16)
    assert caught.value.path == PATH
    reader = SnapshotReader.open(PATH, vfs=vfs, keyring=fixed_keyring(), timeline=None)
    assert reader.timeline == TIMELINE


def test_a_missing_key_and_a_wrong_key_are_told_apart() -> None:
    vfs = vfs_with(write_golden())
    for keyring, error in [
        (Keyring(b"x" * 16, {b"x" * 16: STORAGE_KEY}), KeyringError),
        (Keyring(b"k" * 16, {b"k" * 16: b"w" * 32}), CorruptionError),
    ]:
        with pytest.raises(error) as caught:
            SnapshotReader.open(PATH, vfs=vfs, keyring=keyring, timeline=TIMELINE)
        assert isinstance(caught.value, StorageError)
        assert caught.value.path == PATH


def test_a_later_version_is_refused_as_foreign() -> None:
    content = bytearray(write_golden()[:252])
    content[8] = 5
    with pytest.raises(ForeignFormatError, match="version 5"):
        read_all(bytes(content) + struct.pack("<I", zlib.crc32(content)))


def test_a_missing_file_is_an_error_of_the_file_system() -> None:
    with pytest.raises(FileSystemError):
        open_reader(new_vfs())


# Snapshots that nobody but a broken writer with the right key could write


def forge(*bodies: bytes) -> bytes:
    header = SnapshotHeader(META, TIMELINE, b"k" * 16, b"z" * 32)
    cipher = SnapshotCipher(STORAGE_KEY, header.salt)
    content, tag = encode_header(header, cipher)
    for number, body in enumerate(bodies, 1):
        chunk = cipher.seal(body, number=number, offset=len(content), previous_tag=tag)
        content += chunk
        tag = chunk[-16:]
    return content


def end_of(plain: bytes, *sections: SectionCounts) -> bytes:
    return encode_end(SnapshotEnd(sections, len(plain), hashlib.sha256(plain).digest()))


def data_body(plain: bytes, said_bytes: int, section: int = 0) -> bytes:
    return struct.pack("<BBI", 1, section, said_bytes) + zstandard.compress(plain)


def test_a_forged_snapshot_is_read_when_it_is_right() -> None:
    plain = b"x" * 50
    counts = SectionCounts("s", 1, 1)
    forged = forge(encode_section(0, "s"), data_body(plain, 50), end_of(plain, counts))
    assert read_all(forged) == [("s", plain)]


SECTION = encode_section(0, "s")
DATA = DataPacker().pack(0, b"x")


@pytest.mark.parametrize(
    "bodies",
    [
        [b"\x00"],
        [b"\x04more"],
        [b"\x01"],
        [b"\x02"],
        [b"\x02\xc1"],
        [b"\x03"],
        [b"\x03\x00"],
        [b"\x03\x00\xff"],
        [b"\x03\x00" + b"n" * 256],
        [encode_section(1, "s")],
        [SECTION, encode_section(1, "s")],
        [DATA],
        [SECTION, DataPacker().pack(1, b"x")],
        [SECTION, encode_section(1, "t"), DATA],
        [SECTION, data_body(b"x", 0)],
        [SECTION, data_body(b"", 0)],
        [SECTION, data_body(b"xx", 1)],
        [SECTION, data_body(b"x", 2)],
        [SECTION, data_body(b"x", PLAIN_BYTES_MAX + 1)],
        [SECTION, data_body(b"x", 1) + b"\0"],
        [SECTION, data_body(b"x", 1)[:-1]],
        [SECTION, b"\x01\x00\x01\0\0\0no zstd"],
        [SECTION, DATA, end_of(b"x")],
        [SECTION, DATA, end_of(b"x", SectionCounts("t", 1, 1))],
        [SECTION, DATA, end_of(b"x", SectionCounts("s", 2, 1))],
        [SECTION, DATA, end_of(b"y", SectionCounts("s", 1, 1))],
        [SECTION, DATA, end_of(b"xx", SectionCounts("s", 1, 1))],
        [end_of(b""), end_of(b"")],
    ],
)
def test_what_makes_no_sense_is_corruption(bodies: list[bytes]) -> None:
    with pytest.raises(CorruptionError) as caught:
        read_all(forge(*bodies))
    assert caught.value.offset


def without_content_size(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(plain)


@pytest.mark.parametrize(
    "payload",
    [
        zstandard.compress(bytes(200_000_000)),  # says so
        without_content_size(bytes(200_000_000)),  # does not
        b"\x28\xb5\x2f\xfd\xa0\xff\xff\xff\x7f" + zstandard.compress(b"x")[9:],  # lies
    ],
    ids=["honest", "silent", "lying"],
)
@pytest.mark.parametrize("said_bytes", [1, PLAIN_BYTES_MAX, 2**32 - 1])
def test_a_bomb_takes_no_memory(payload: bytes, said_bytes: int) -> None:
    content = forge(SECTION, struct.pack("<BBI", 1, 0, said_bytes) + payload)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptionError):
            read_all(content)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_chunk_that_claims_to_be_huge_takes_no_memory() -> None:
    salt, place = b"z" * 32, struct.pack("<Q", 256)
    for size in (16, 40_000_000, 2**32 - 1):
        start = struct.pack("<I", size)
        header = start + struct.pack("<I", zlib.crc32(salt + place + start))
        tracemalloc.start()
        try:
            with pytest.raises(CorruptionError) as caught:
                read_all(forge() + header + bytes(100))
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()
        assert caught.value.offset == 256


def test_reading_and_writing_hold_a_chunk_and_not_the_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "1.snapshot"
    keyring, vfs = fixed_keyring(), RealVfs()
    chunk = hashlib.shake_128(b"noise").digest(1_000_000)
    tracemalloc.start()
    try:
        writer = SnapshotWriter.create(path, META, vfs=vfs, keyring=keyring, timeline=TIMELINE)
        writer.begin_section("s")
        for _ in range(20):
            writer.add(chunk, 1)
        assert writer.finish().size_bytes > 20_000_000
        reader = SnapshotReader.open(path, vfs=vfs, keyring=keyring, timeline=TIMELINE)
        assert sum(len(plain) for _, plain in reader.chunks()) == 20_000_000
        reader.close()
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_the_largest_chunk_fits_whatever_is_in_it() -> None:
    packer = DataPacker()
    largest = hashlib.shake_128(b"noise").digest(PLAIN_BYTES_MAX)
    body = packer.pack(0, largest)
    cipher = SnapshotCipher(STORAGE_KEY, b"z" * 32)
    chunk = cipher.seal(body, number=1, offset=256, previous_tag=b"t" * 16)
    assert cipher.sealed_bytes(chunk[:8], 256) == len(chunk) - 8
    assert packer.unpack(body) == (0, largest)
    with pytest.raises(ValueError, match="a chunk has"):
        packer.pack(0, largest + b"x")


# Writing


def test_misuse_is_refused() -> None:
    vfs = new_vfs()
    writer = new_writer(vfs)
    with pytest.raises(ValueError, match="belongs to a section"):
        writer.add(b"x", 1)
    writer.begin_section("s")
    bad: list[Callable[[], None]] = [
        lambda: writer.add(b"", 0),
        lambda: writer.begin_section("s"),
        lambda: writer.begin_section(""),
        lambda: writer.begin_section("n" * 256),
    ]
    for action in bad:
        with pytest.raises(ValueError, match=r"a chunk has|another section|the name of"):
            action()
    writer.finish()
    writer.abandon()
    assert vfs.list_directory(DIRECTORY) == [PATH.name], "giving up afterwards changes nothing"
    with pytest.raises(ValueError, match="finished"):
        writer.begin_section("t")


def test_giving_up_leaves_nothing() -> None:
    vfs = new_vfs()
    writer = new_writer(vfs)
    assert vfs.list_directory(DIRECTORY) == [PATH.name + ".tmp"]
    writer.abandon()
    writer.abandon()
    assert vfs.list_directory(DIRECTORY) == []


def test_a_snapshot_is_there_whole_or_not_at_all_wherever_it_stops() -> None:
    call = 0
    finished = False
    while not finished:
        call += 1
        for data in Survival:
            for names in (Survival.NOTHING, Survival.FIRST_HALF, Survival.EVERYTHING):
                vfs = new_vfs()
                vfs.crash_at(vfs.call_count + call)
                try:
                    write(vfs, GOLDEN_SECTIONS)
                    finished = True
                except SimulatedCrash:
                    pass
                vfs.power_cut(data, names)
                if vfs.exists(PATH):
                    assert list(open_reader(vfs).chunks()) == flat(GOLDEN_SECTIONS)
                else:
                    assert not finished
                write(vfs, GOLDEN_SECTIONS)
    assert call > 10


def test_a_failing_call_is_an_error_and_leaves_nothing_in_the_way_of_the_next_attempt() -> None:
    call = 0
    finished = False
    while not finished:
        call += 1
        vfs = new_vfs()
        vfs.fail_at(vfs.call_count + call)
        writer = None
        try:
            writer = new_writer(vfs)
            writer.begin_section("s")
            writer.add(b"x", 1)
            writer.finish()
            finished = True
        except FileSystemError:
            pass
        if writer is not None:
            writer.abandon()
        assert vfs.exists(PATH) == finished
        if writer is not None:
            assert vfs.list_directory(DIRECTORY) == ([PATH.name] if finished else [])
    assert call > 6


def test_the_header_has_its_size() -> None:
    assert len(forge()) == SNAPSHOT_HEADER_BYTES
