"""Storage format 4: the bytes of a segment. Pure: no files, no clock, no randomness.

A segment is a header of 256 bytes, then frames. Each append is one frame. All numbers are little
endian. `docs/storage-format.md` has the same as pictures.

Header:

    0    8  magic "VAYLIXW4"
    8    2  format version, 4
    10   2  header bytes, 256
    12   4  zero
    16   8  segment number: 1, 2, 3 ... in the order of creation
    24   8  first index: what the first entry of this segment has
    32  16  timeline: the history this log belongs to
    48  16  id of the storage key
    64  32  salt
    96   8  predecessor: its segment number, 0 for none
    104  8  predecessor: its counted bytes; what lies behind them does not count
    112 16  predecessor: tag of the last frame that counts, or of its header if none does
    128 108 zero
    236 16  tag over the bytes before
    252  4  CRC-32 of the bytes before

Frame, a multiple of 16 bytes:

    0    4  sealed bytes: length of body and tag
    4    8  synced bytes: how far this segment was known to be on the disk
    12   4  CRC-32 of the salt, the offset of the frame (8 bytes), and the 12 bytes before
    16   n  body, sealed with AES-256-GCM; the tag is its last 16 bytes
    .. 1-16 padding, each byte 0x80 + number of padding bytes

The key of a segment is HKDF-SHA-256 of the storage key with the salt, so each segment has a key of
its own and nonces can count: the header is number 0, frames are 1, 2, 3 ... The additional data of
a frame are its offset, the tag of the frame before it and its own first 16 bytes, so that a frame
cannot be moved, dropped or swapped. A written sector is never all zeros: it holds ciphertext, a
CRC'd header of a frame or its padding. So a sector of zeros is one that was never written.

Body:

    0    1  kind: 1 entries, 2 closing (the last frame of a clean stop)
    1    1  1 if a hard state follows, else 0
    2    2  zero
    4    4  number of batches
    8       hard state: term 8, commit 8, vote bytes 1, vote
    ..      batches: first index 8, count 4, term 8, kind 1, timestamp ms 8, checksum 4,
            payload bytes 4, payload
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vaylix_storage._batch import ENTRY_BYTES_MAX, IDENTITY, VOTE_BYTES_MAX, Batch, HardState

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BATCH_OVERHEAD_BYTES",
    "FRAME_ALIGNMENT",
    "FRAME_BODY_BYTES_MAX",
    "FRAME_HEADER_BYTES",
    "HEADER_BYTES",
    "KEY_BYTES",
    "SEALED_BYTES_MAX",
    "SECTOR_BYTES",
    "Body",
    "BodyKind",
    "FormatError",
    "Frame",
    "FrameHeader",
    "FramePosition",
    "Predecessor",
    "SegmentCipher",
    "SegmentHeader",
    "VersionError",
    "decode_batches",
    "encode_body",
    "encode_header",
    "padding_of",
    "parse_body",
    "parse_header",
]

MAGIC: Final = b"VAYLIXW4"
FORMAT_VERSION: Final = 4
HEADER_BYTES: Final = 256
FRAME_HEADER_BYTES: Final = 16
FRAME_ALIGNMENT: Final = 16
TAG_BYTES: Final = 16
KEY_BYTES: Final = 32
SECTOR_BYTES: Final = 512
# Room for a few full batches in one append; checked before anything is allocated or written.
FRAME_BODY_BYTES_MAX: Final = 4 * ENTRY_BYTES_MAX

SEALED_BYTES_MAX: Final = FRAME_BODY_BYTES_MAX + TAG_BYTES

_HEADER: Final = struct.Struct("<8sHH4xQQ16s16s32sQQ16s108x")
_U32: Final = struct.Struct("<I")
_FRAME: Final = struct.Struct("<IQ")
_CHECKED_FRAME: Final = struct.Struct("<IQI")
_OFFSET: Final = struct.Struct("<Q")
_ADDITIONAL: Final = struct.Struct("<Q16s16s")
_BODY: Final = struct.Struct("<BBHI")
_HARD_STATE: Final = struct.Struct("<QQB")
_BATCH: Final = struct.Struct("<QIQBQII")
# What a batch takes in a body beside its payload.
BATCH_OVERHEAD_BYTES: Final = _BATCH.size
_PADDINGS: Final = tuple(bytes([0x80 + count]) * count for count in range(FRAME_ALIGNMENT + 1))
_HKDF_CONTEXT: Final = b"vaylix storage format 4 segment"


class FormatError(Exception):
    """Bytes that are not what the format says; the reader knows file and offset."""


class VersionError(FormatError):
    """A segment of this family of formats, but of another version."""


class Predecessor(msgspec.Struct, frozen=True, gc=False):
    """Where a segment continues: all but `counted_bytes` of segment `number` is to be ignored."""

    number: int
    counted_bytes: int
    tag: bytes


class SegmentHeader(msgspec.Struct, frozen=True, gc=False):
    """The header of a segment; `predecessor` is None for the first segment of a history."""

    number: int
    first_index: int
    timeline: bytes
    key_id: bytes
    salt: bytes
    predecessor: Predecessor | None


class FrameHeader(msgspec.Struct, frozen=True, gc=False):
    """The first 16 bytes of a frame; `frame_bytes` is the length of the whole, with padding."""

    sealed_bytes: int
    synced_bytes: int
    frame_bytes: int


class FramePosition(msgspec.Struct, frozen=True, gc=False):
    """A place between two frames, with what is needed to read or write on from there."""

    offset: int
    number: int
    previous_tag: bytes


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A frame that was read and found good."""

    position: FramePosition
    end: FramePosition
    synced_bytes: int
    body: bytes


class BodyKind(IntEnum):
    """What a frame is for."""

    ENTRIES = 1
    CLOSING = 2


# Several times faster to ask than the enumeration itself.
_BODY_KINDS: Final = {kind.value: kind for kind in BodyKind}


class Body(msgspec.Struct, frozen=True, gc=False):
    """The content of a frame; its batches begin at byte `batches_start`."""

    kind: BodyKind
    hard_state: HardState | None
    batches: tuple[Batch, ...]
    batches_start: int


def padding_of(sealed_bytes: int) -> bytes:
    """Return the padding that follows, 1 to 16 bytes."""
    return _PADDINGS[FRAME_ALIGNMENT - sealed_bytes % FRAME_ALIGNMENT]


class SegmentCipher:
    """Seals and opens the parts of one segment. Holds the key of that segment only."""

    __slots__ = ("_aead", "_salt_crc")

    def __init__(self, storage_key: bytes, salt: bytes) -> None:
        kdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=_HKDF_CONTEXT)
        self._aead = AESGCM(kdf.derive(storage_key))
        self._salt_crc = crc32(salt)

    def header_tag(self, header: bytes) -> bytes:
        """Return the tag that vouches for the header of the segment, all that is before the tag."""
        return self._aead.encrypt(bytes(12), b"", header[: _HEADER.size])

    def seal(
        self, body: bytes, *, number: int, offset: int, previous_tag: bytes, synced_bytes: int
    ) -> bytes:
        """Return the whole frame for a body."""
        sealed_bytes = len(body) + TAG_BYTES
        start = _FRAME.pack(sealed_bytes, synced_bytes)
        header = start + _U32.pack(crc32(_OFFSET.pack(offset) + start, self._salt_crc))
        additional = _ADDITIONAL.pack(offset, previous_tag, header)
        sealed = self._aead.encrypt(number.to_bytes(12, "big"), body, additional)
        return header + sealed + padding_of(sealed_bytes)

    def parse_frame_header(self, data: bytes, offset: int) -> FrameHeader | None:
        """Return the header of a frame at `offset`, or None when its CRC does not fit."""
        if len(data) != FRAME_HEADER_BYTES:
            return None
        sealed_bytes, synced_bytes, crc = _CHECKED_FRAME.unpack(data)
        if crc32(_OFFSET.pack(offset) + data[:12], self._salt_crc) != crc:
            return None
        frame_bytes = FRAME_HEADER_BYTES + sealed_bytes + FRAME_ALIGNMENT
        frame_bytes -= sealed_bytes % FRAME_ALIGNMENT
        return FrameHeader(sealed_bytes, synced_bytes, frame_bytes)

    def open_frame(self, data: bytes, start: int, position: FramePosition) -> Frame | None:
        """Return the frame of a position, of which `data` has the bytes from `start` on.

        None when it is bad, or not all of it is there.
        """
        offset = position.offset
        body_start = start + FRAME_HEADER_BYTES
        header = data[start:body_start]
        if len(header) != FRAME_HEADER_BYTES:
            return None
        # Nothing is believed of the header that the tag does not prove, so its CRC, which the tag
        # covers too, need not be compared here. It is for those who find that the tag is wrong.
        sealed_bytes, synced_bytes = _FRAME.unpack_from(header)
        body_end = body_start + sealed_bytes
        padding = _PADDINGS[FRAME_ALIGNMENT - sealed_bytes % FRAME_ALIGNMENT]
        end = body_end + len(padding)
        if data[body_end:end] != padding:
            return None
        additional = _ADDITIONAL.pack(offset, position.previous_tag, header)
        number = position.number
        try:
            body = self._aead.decrypt(
                number.to_bytes(12, "big"), data[body_start:body_end], additional
            )
        except InvalidTag:
            return None
        tag = data[body_end - TAG_BYTES : body_end]
        behind = FramePosition(offset + end - start, number + 1, tag)
        return Frame(position, behind, synced_bytes, body)


def encode_header(header: SegmentHeader, cipher: SegmentCipher) -> tuple[bytes, bytes]:
    """Return the 256 bytes of a segment header, and its tag."""
    before = header.predecessor or Predecessor(0, 0, bytes(TAG_BYTES))
    authenticated = _HEADER.pack(
        MAGIC,
        FORMAT_VERSION,
        HEADER_BYTES,
        header.number,
        header.first_index,
        header.timeline,
        header.key_id,
        header.salt,
        before.number,
        before.counted_bytes,
        before.tag,
    )
    tag = cipher.header_tag(authenticated)
    checked = authenticated + tag
    return checked + _U32.pack(crc32(checked)), tag


def parse_header(data: bytes) -> tuple[SegmentHeader, bytes]:
    """Return a segment header and its tag, which the caller must compare; FormatError if bad."""
    if len(data) < HEADER_BYTES:
        raise FormatError("the header of the segment is incomplete")
    if not data.startswith(MAGIC):
        raise FormatError("this is not a segment of storage format 4")
    if crc32(data[: HEADER_BYTES - 4]) != _U32.unpack_from(data, HEADER_BYTES - 4)[0]:
        raise FormatError("the header of the segment is damaged")
    _, version, header_bytes, number, first_index, timeline, key_id, salt, *before = (
        _HEADER.unpack_from(data)
    )
    if (version, header_bytes) != (FORMAT_VERSION, HEADER_BYTES):
        raise VersionError(f"the segment has format version {version}, not {FORMAT_VERSION}")
    predecessor = Predecessor(*before) if before[0] else None
    header = SegmentHeader(number, first_index, timeline, key_id, salt, predecessor)
    return header, data[_HEADER.size : _HEADER.size + TAG_BYTES]


def encode_body(
    batches: Sequence[Batch],
    hard_state: HardState | None = None,
    kind: BodyKind = BodyKind.ENTRIES,
) -> bytes:
    """Return the body of one frame."""
    parts = [_BODY.pack(kind, hard_state is not None, 0, len(batches))]
    if hard_state is not None:
        vote = hard_state.vote
        parts.append(_HARD_STATE.pack(hard_state.term, hard_state.commit, len(vote)))
        parts.append(vote)
    for batch in batches:
        payload = batch.payload
        parts.append(
            _BATCH.pack(
                batch.first_index,
                batch.count,
                batch.term,
                batch.kind,
                batch.timestamp_ms,
                batch.checksum,
                len(payload),
            )
        )
        parts.append(payload)
    return b"".join(parts)


def parse_body(data: bytes) -> Body:
    """Return what a body says; FormatError when it does not add up."""
    try:
        kind, has_hard_state, zero, batch_count = _BODY.unpack_from(data)
        start = _BODY.size
        hard_state = None
        if has_hard_state:
            term, commit, vote_bytes = _HARD_STATE.unpack_from(data, start)
            start += _HARD_STATE.size
            hard_state = HardState(term, data[start : start + vote_bytes], commit)
            start += vote_bytes
        batches = decode_batches(data, start)
        body = Body(_BODY_KINDS[kind], hard_state, tuple(batches), start)
    except (struct.error, KeyError) as error:
        raise FormatError(f"the content of a frame is malformed: {error}") from error
    if zero or has_hard_state > 1 or len(batches) != batch_count:
        raise FormatError("the content of a frame is malformed")
    for batch in batches:
        # As `Batch.verify` does, without a call for each batch of a long log.
        identity = IDENTITY.pack(
            batch.first_index, batch.count, batch.term, batch.kind, batch.timestamp_ms
        )
        if crc32(batch.payload, crc32(identity)) != batch.checksum:
            raise FormatError(f"the checksum of batch {batch.first_index} does not fit")
    return body


def decode_batches(data: bytes, start: int) -> list[Batch]:
    """Return the batches from `start` to the end; their checksums are left to be compared.

    Raises FormatError or struct.error when they do not end there.
    """
    batches = []
    while start < len(data):
        first_index, count, term, kind, timestamp_ms, checksum, payload_bytes = _BATCH.unpack_from(
            data, start
        )
        start += BATCH_OVERHEAD_BYTES
        payload = data[start : start + payload_bytes]
        start += payload_bytes
        batches.append(Batch(first_index, count, term, kind, timestamp_ms, payload, checksum))
    if start != len(data):
        raise FormatError("the content of a frame is malformed")
    return batches


def check_vote(vote: bytes) -> None:
    """Refuse a vote that the format cannot hold."""
    if len(vote) > VOTE_BYTES_MAX:
        raise ValueError(f"a vote has at most {VOTE_BYTES_MAX} bytes, not {len(vote)}")
