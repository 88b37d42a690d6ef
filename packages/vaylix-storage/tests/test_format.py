"""The bytes on disk: frozen by golden files, and read by a second reader made from the document.

`data/format4` was written by `write_golden` below. A change of these bytes is a change of the
storage format: it needs a new version number, not a new golden file.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vaylix_storage import Batch, BatchKind, HardState, Log, LogOptions
from vaylix_storage._format import BodyKind, FormatError, encode_body, parse_body
from vaylix_storage.testing import MemoryVfs, counting_random_bytes, fixed_keyring

GOLDEN = Path(__file__).parent / "data" / "format4"
DIRECTORY = Path("/data/wal")
STORAGE_KEY = b"s" * 32
TIMELINE = b"t" * 16

BATCHES = [
    Batch.create(
        first_index=index,
        count=2,
        term=3,
        kind=BatchKind.KEYSPACE,
        timestamp_ms=1_700_000_000_000 + index,
        payload=b"payload %d" % index * 10,
    )
    for index in (1, 3, 5)
]


def write_golden() -> MemoryVfs:
    """Write two segments and a cut inside a frame, and stop cleanly."""
    vfs = MemoryVfs()
    log = Log.open(
        DIRECTORY,
        vfs=vfs,
        keyring=fixed_keyring(),
        options=LogOptions(timeline=TIMELINE),
        random_bytes=counting_random_bytes(),
    )
    log.append(BATCHES[:1], HardState(3, b"node", 1))
    log.sync()
    log.append(BATCHES[1:])
    log.sync()
    log.truncate_after(4)
    log.append([], HardState(3, b"node", 4))
    log.close()
    return vfs


def test_the_bytes_never_change() -> None:
    vfs = write_golden()
    names = vfs.list_directory(DIRECTORY)
    assert names == sorted(path.name for path in GOLDEN.iterdir())
    for name in names:
        assert vfs.content(DIRECTORY / name) == (GOLDEN / name).read_bytes(), name


def test_the_golden_files_are_read() -> None:
    vfs = MemoryVfs()
    vfs.make_directory(DIRECTORY)
    for path in GOLDEN.iterdir():
        file = vfs.create(DIRECTORY / path.name)
        file.write_at(0, path.read_bytes())
        file.close()
    log = Log.open(
        DIRECTORY, vfs=vfs, keyring=fixed_keyring(), options=LogOptions(timeline=TIMELINE)
    )
    assert list(log.read(1)) == BATCHES[:2]
    assert log.hard_state == HardState(3, b"node", 4)


class SecondReader:
    """A reader made from docs/storage-format.md alone; it shares no code with the first."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        assert self.data[:12] == b"VAYLIXW4" + struct.pack("<HH", 4, 256)
        assert zlib.crc32(self.data[:252]) == struct.unpack_from("<I", self.data, 252)[0]
        self.number, self.first_index = struct.unpack_from("<QQ", self.data, 16)
        self.salt = self.data[64:96]
        self.predecessor, self.counted = struct.unpack_from("<QQ", self.data, 96)
        self.predecessor_tag = self.data[112:128]
        info = b"vaylix storage format 4 segment"
        key = HKDF(SHA256(), 32, self.salt, info).derive(STORAGE_KEY)
        self.aead = AESGCM(key)
        self.header_tag = self.aead.encrypt(bytes(12), b"", self.data[:236])
        assert self.header_tag == self.data[236:252]

    def bodies(self, end: int) -> tuple[list[bytes], bytes]:
        """Return the bodies up to an offset, and the tag of the last."""
        offset, number, tag = 256, 1, self.header_tag
        bodies = []
        while offset < end:
            sealed_bytes, synced_bytes, crc = struct.unpack_from("<IQI", self.data, offset)
            place = struct.pack("<Q", offset)
            start = self.data[offset : offset + 16]
            assert zlib.crc32(self.salt + place + start[:12]) == crc
            assert synced_bytes <= offset
            sealed = self.data[offset + 16 : offset + 16 + sealed_bytes]
            nonce = number.to_bytes(12, "big")
            bodies.append(self.aead.decrypt(nonce, sealed, place + tag + start))
            padding_bytes = 16 - sealed_bytes % 16
            offset += 16 + sealed_bytes
            assert self.data[offset : offset + padding_bytes] == bytes(
                [0x80 + padding_bytes] * padding_bytes
            )
            offset += padding_bytes
            number, tag = number + 1, sealed[-16:]
        assert offset == end
        return bodies, tag


def batches_of(body: bytes) -> list[tuple[int, int, int, int, int, bytes]]:
    _, has_hard_state, _, count = struct.unpack_from("<BBHI", body)
    offset = 8
    if has_hard_state:
        offset += 17 + body[offset + 16]
    batches = []
    for _ in range(count):
        fields = struct.unpack_from("<QIQBQII", body, offset)
        offset += 37
        payload = body[offset : offset + fields[6]]
        offset += fields[6]
        assert zlib.crc32(struct.pack(">QIQBQ", *fields[:5]) + payload) == fields[5]
        batches.append((*fields[:5], payload))
    assert offset == len(body)
    return batches


def test_a_second_reader_made_from_the_document_reads_the_golden_files() -> None:
    first, second = (SecondReader(GOLDEN / name) for name in ("1-2.wal", "closed-3-4.wal"))
    assert (first.number, first.predecessor, first.first_index) == (1, 0, 1)
    assert (second.number, second.predecessor, second.first_index) == (2, 1, 3)
    old_bodies, tag = first.bodies(second.counted)
    assert tag == second.predecessor_tag
    assert second.counted < len(first.data), "what was cut is still there, and does not count"
    new_bodies, _ = second.bodies(len(second.data))
    assert new_bodies[-1] == b"\x02" + bytes(7), "the closing frame of a clean stop"
    found = [batch for body in old_bodies + new_bodies for batch in batches_of(body)]
    assert found == [
        (b.first_index, b.count, b.term, b.kind, b.timestamp_ms, b.payload) for b in BATCHES[:2]
    ]


def test_every_cut_and_extension_of_a_body_is_malformed() -> None:
    body = encode_body(BATCHES, HardState(1, b"v", 2))
    assert parse_body(body).batches == tuple(BATCHES)
    for length in range(len(body)):
        with pytest.raises(FormatError):
            parse_body(body[:length])
    with pytest.raises(FormatError):
        parse_body(body + b"\0")


@pytest.mark.parametrize("start", [b"\0", b"\3", b"\1\2", b"\1\0\1"])
def test_unknown_kinds_and_flags_are_malformed(start: bytes) -> None:
    body = start + encode_body([], HardState(), BodyKind.ENTRIES)[len(start) :]
    with pytest.raises(FormatError):
        parse_body(body)
