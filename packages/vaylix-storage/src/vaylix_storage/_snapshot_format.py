"""Storage format 4: the bytes of a snapshot. Pure: no files, no clock, no randomness.

A snapshot is a header of 256 bytes, then chunks without gaps; the last is the end chunk. All
numbers are little endian. `docs/storage-format.md` has the same as pictures.

Header:

    0    8  magic "VAYLIXS4"
    8    2  format version, 4
    10   2  header bytes, 256
    12   4  zero
    16   8  index of the last entry the state holds
    24   8  term of that entry
    32   8  timestamp of that entry, ms
    40   8  when the snapshot was made, ms
    48  16  timeline: the history this state belongs to
    64  16  id of the storage key
    80  32  salt
    112 124 zero
    236 16  tag over the bytes before
    252  4  CRC-32 of the bytes before

Chunk:

    0    4  sealed bytes: length of body and tag
    4    4  CRC-32 of the salt, the offset of the chunk (8 bytes), and the 4 bytes before
    8    n  body, sealed with AES-256-GCM; the tag is its last 16 bytes

The key of a snapshot is HKDF-SHA-256 of the storage key with the salt. Nonces count: the header is
number 0, chunks are 1, 2, 3 ... The additional data of a chunk are its offset, the tag of the chunk
before it (of the header, for the first) and its own first 8 bytes, so that no chunk can be moved,
dropped or swapped.

Body, by its first byte:

    1   data: section number 1, plain bytes 4, then one zstd frame that says its content size
    2   end: MessagePack [[[name, chunks, items], ...], plain bytes, SHA-256 of all plain data]
    3   beginning of a section: section number 1, then its name in UTF-8

Sections are numbered from 0 and stand one after the other.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import Annotated, Final

import msgspec
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vaylix_storage._batch import ENTRY_BYTES_MAX
from vaylix_storage._format import KEY_BYTES, FormatError, VersionError

__all__ = [
    "CHUNK_HEADER_BYTES",
    "PLAIN_BYTES_MAX",
    "SECTIONS_MAX",
    "SNAPSHOT_HEADER_BYTES",
    "ChunkKind",
    "DataPacker",
    "SectionCounts",
    "SnapshotCipher",
    "SnapshotEnd",
    "SnapshotHeader",
    "SnapshotMeta",
    "encode_end",
    "encode_header",
    "encode_section",
    "parse_end",
    "parse_header",
    "parse_section",
]

SNAPSHOT_HEADER_BYTES: Final = 256
CHUNK_HEADER_BYTES: Final = 8
SECTIONS_MAX: Final = 255
SECTION_NAME_BYTES_MAX: Final = 255
# One entry of a keyspace must fit: its key and its value may come from two batches, by RENAME.
PLAIN_BYTES_MAX: Final = 2 * ENTRY_BYTES_MAX + 1024 * 1024

_MAGIC: Final = b"VAYLIXS4"
_FORMAT_VERSION: Final = 4
_TAG_BYTES: Final = 16
# What cannot be compressed gets a little longer (zstd: by a 256th and some bytes).
_SEALED_BYTES_MAX: Final = PLAIN_BYTES_MAX + PLAIN_BYTES_MAX // 128 + 4096
_HEADER: Final = struct.Struct("<8sHH4xQQQQ16s16s32s124x")
_U32: Final = struct.Struct("<I")
_OFFSET: Final = struct.Struct("<Q")
_DATA: Final = struct.Struct("<BBI")
_HKDF_CONTEXT: Final = b"vaylix storage format 4 snapshot"
_LEVEL: Final = 3

_Count = Annotated[int, msgspec.Meta(ge=0)]


class ChunkKind(IntEnum):
    """What a chunk is for."""

    DATA = 1
    END = 2
    SECTION = 3


class SnapshotMeta(msgspec.Struct, frozen=True):
    """Which state a snapshot holds: that after entry `index`, which has this term and time.

    `timestamp_ms` is that of the last entry, `created_at_ms` when the snapshot was made; Unix time.
    """

    index: int
    term: int
    timestamp_ms: int
    created_at_ms: int


class SnapshotHeader(msgspec.Struct, frozen=True):
    """What a snapshot says about itself before its first chunk."""

    meta: SnapshotMeta
    timeline: bytes
    key_id: bytes
    salt: bytes


class SectionCounts(msgspec.Struct, frozen=True, array_like=True):
    """How many chunks and items (as the writer counts them) a section has."""

    name: str
    chunk_count: _Count
    item_count: _Count


class SnapshotEnd(msgspec.Struct, frozen=True, array_like=True):
    """What the end chunk says."""

    sections: tuple[SectionCounts, ...]
    plain_bytes: _Count
    sha256: bytes


class SnapshotCipher:
    """Seals and opens the chunks of one snapshot."""

    __slots__ = ("_aead", "_salt_crc")

    def __init__(self, storage_key: bytes, salt: bytes) -> None:
        key = HKDF(SHA256(), KEY_BYTES, salt, _HKDF_CONTEXT).derive(storage_key)
        self._aead = AESGCM(key)
        self._salt_crc = zlib.crc32(salt)

    def header_tag(self, header: bytes) -> bytes:
        """Return the tag of a header, of which only the bytes before the tag count."""
        return self._aead.encrypt(bytes(12), b"", header[: _HEADER.size])

    def seal(self, body: bytes, *, number: int, offset: int, previous_tag: bytes) -> bytes:
        """Return the whole chunk for a body."""
        size = _U32.pack(len(body) + _TAG_BYTES)
        place = _OFFSET.pack(offset)
        header = size + _U32.pack(zlib.crc32(place + size, self._salt_crc))
        return header + self._aead.encrypt(
            number.to_bytes(12, "big"), body, place + previous_tag + header
        )

    def sealed_bytes(self, header: bytes, offset: int) -> int:
        """Return the size that the header of a chunk at `offset` gives; FormatError if bad."""
        if len(header) < CHUNK_HEADER_BYTES:
            raise FormatError("the snapshot ends without its end chunk")
        place = _OFFSET.pack(offset)
        if zlib.crc32(place + header[:4], self._salt_crc) != _U32.unpack_from(header, 4)[0]:
            raise FormatError("the header of a chunk is damaged")
        size: int = _U32.unpack_from(header)[0]
        if not _TAG_BYTES < size <= _SEALED_BYTES_MAX:
            raise FormatError(f"a chunk cannot have {size} bytes")
        return size

    def open(
        self, header: bytes, sealed: bytes, *, number: int, offset: int, previous_tag: bytes
    ) -> bytes:
        """Return the body of a chunk; FormatError if it is not what was written here."""
        additional = _OFFSET.pack(offset) + previous_tag + header
        try:
            return self._aead.decrypt(number.to_bytes(12, "big"), sealed, additional)
        except InvalidTag:
            raise FormatError("the tag of a chunk does not fit") from None


class DataPacker:
    """Compresses and decompresses the bodies of data chunks. One thread at a time."""

    __slots__ = ("_compressor", "_decompressor")

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self._decompressor = zstandard.ZstdDecompressor()

    def pack(self, section: int, plain: bytes) -> bytes:
        """Return the body of a data chunk."""
        if not 0 < len(plain) <= PLAIN_BYTES_MAX:
            raise ValueError(f"a chunk has 1 to {PLAIN_BYTES_MAX} bytes, not {len(plain)}")
        start = _DATA.pack(ChunkKind.DATA, section, len(plain))
        return start + self._compressor.compress(plain)

    def unpack(self, body: bytes) -> tuple[int, bytes]:
        """Return section number and plain data; FormatError if bad.

        Whatever the body holds, no more memory is used than its size and that of one chunk: both
        sizes it gives must agree, and be possible, before anything is decompressed.
        """
        if len(body) < _DATA.size:
            raise FormatError("a chunk is too short")
        _, section, plain_bytes = _DATA.unpack_from(body)
        payload = memoryview(body)[_DATA.size :]
        if not 0 < plain_bytes <= PLAIN_BYTES_MAX:
            raise FormatError(f"a chunk cannot hold {plain_bytes} bytes")
        try:
            if zstandard.frame_content_size(payload) != plain_bytes:
                raise FormatError("a chunk does not hold as many bytes as it says")
            plain = self._decompressor.decompress(
                payload, max_output_size=plain_bytes, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise FormatError(f"a chunk cannot be decompressed: {error}") from error
        if len(plain) != plain_bytes:
            raise FormatError("a chunk does not hold as many bytes as it says")
        return section, plain


def encode_header(header: SnapshotHeader, cipher: SnapshotCipher) -> tuple[bytes, bytes]:
    """Return the 256 bytes of a header, and its tag."""
    meta = header.meta
    authenticated = _HEADER.pack(
        _MAGIC,
        _FORMAT_VERSION,
        SNAPSHOT_HEADER_BYTES,
        meta.index,
        meta.term,
        meta.timestamp_ms,
        meta.created_at_ms,
        header.timeline,
        header.key_id,
        header.salt,
    )
    tag = cipher.header_tag(authenticated)
    checked = authenticated + tag
    return checked + _U32.pack(zlib.crc32(checked)), tag


def parse_header(data: bytes) -> tuple[SnapshotHeader, bytes]:
    """Return a header and its tag, which the caller must compare; FormatError if bad."""
    if len(data) < SNAPSHOT_HEADER_BYTES:
        raise FormatError("the header of the snapshot is incomplete")
    if not data.startswith(_MAGIC):
        raise FormatError("this is not a snapshot of storage format 4")
    checked = data[: SNAPSHOT_HEADER_BYTES - 4]
    if zlib.crc32(checked) != _U32.unpack_from(data, SNAPSHOT_HEADER_BYTES - 4)[0]:
        raise FormatError("the header of the snapshot is damaged")
    _, version, header_bytes, *numbers, timeline, key_id, salt = _HEADER.unpack_from(data)
    if (version, header_bytes) != (_FORMAT_VERSION, SNAPSHOT_HEADER_BYTES):
        raise VersionError(f"the snapshot has format version {version}, not {_FORMAT_VERSION}")
    header = SnapshotHeader(SnapshotMeta(*numbers), timeline, key_id, salt)
    return header, data[_HEADER.size : _HEADER.size + _TAG_BYTES]


def encode_section(section: int, name: str) -> bytes:
    """Return the body of the chunk that begins a section."""
    encoded = name.encode()
    if not 0 < len(encoded) <= SECTION_NAME_BYTES_MAX:
        raise ValueError(f"the name of a section has 1 to {SECTION_NAME_BYTES_MAX} bytes")
    return bytes((ChunkKind.SECTION, section)) + encoded


def parse_section(body: bytes) -> tuple[int, str]:
    """Return the number and the name of a section that begins; FormatError if bad."""
    if not 0 < len(body) - 2 <= SECTION_NAME_BYTES_MAX:
        raise FormatError("the name of a section is too short or too long")
    try:
        return body[1], body[2:].decode()
    except UnicodeDecodeError as error:
        raise FormatError("the name of a section is not text") from error


def encode_end(end: SnapshotEnd) -> bytes:
    """Return the body of the end chunk."""
    return bytes((ChunkKind.END,)) + msgspec.msgpack.encode(end)


def parse_end(body: bytes) -> SnapshotEnd:
    """Return what an end chunk says; FormatError if bad."""
    try:
        return msgspec.msgpack.decode(body[1:], type=SnapshotEnd)
    except msgspec.MsgspecError as error:
        raise FormatError(f"the end chunk is malformed: {error}") from error
