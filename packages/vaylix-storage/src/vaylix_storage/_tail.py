"""What the end of the newest segment means: the theory of torn tails.

A crash can leave the bytes written since the last sync in any state, sector by sector: written or
not. A write that fails can stop anywhere. Neither can change what was there before. So behind the
last good frame there are exactly these cases:

1. Nothing but zeros, or nothing at all: the log ends here.
2. A frame that runs past the end of the file, has a sector that is still zeros, or ends in 16 bytes
   of zeros, where padding should be: *torn*. It was never synced, hence never acknowledged, and is
   left out with everything behind it. So is a bad header without any body behind it.
3. Anything else, such as a whole frame with a wrong tag, or bytes that are no frame header:
   *corruption*. No crash leaves that.

One more rule guards case 2. Frame headers say how far the segment had been synced when they were
written, and headers have a checksum of their own. When one behind the torn frame vouches for it,
the frame was on the disk once, and zeros in it are damage: corruption. Frames behind it that do
not vouch for it are not evidence: without a sync between them, a disk may write the later first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaylix_storage._format import (
    FRAME_ALIGNMENT,
    FRAME_HEADER_BYTES,
    SEALED_BYTES_MAX,
    SECTOR_BYTES,
    FrameHeader,
    SegmentCipher,
)

if TYPE_CHECKING:
    from vaylix_storage._vfs import File

__all__ = ["find_evidence", "is_blank", "is_torn", "written_end"]

_CHUNK_BYTES: Final = 256 * 1024


def is_blank(file: File, offset: int, end: int) -> bool:
    """Tell whether there is nothing but zeros between two offsets."""
    while offset < end:
        data = file.read_at(offset, min(_CHUNK_BYTES, end - offset))
        if data.strip(b"\0"):
            return False
        offset += len(data)
    return True


def is_torn(file: File, cipher: SegmentCipher, offset: int, size: int) -> bool:
    """Tell whether the bad frame at `offset`, in a file of `size` bytes, was not wholly written."""
    body_offset = offset + FRAME_HEADER_BYTES
    if size - offset < FRAME_HEADER_BYTES:
        return True
    header = cipher.parse_frame_header(file.read_at(offset, FRAME_HEADER_BYTES), offset)
    if header is not None and header.sealed_bytes > SEALED_BYTES_MAX:
        return False
    if header is None:
        # A header lies within one sector, so if it was not written, neither was that sector.
        return is_blank(file, offset, min(_next_sector(offset), size)) or is_blank(
            file, body_offset, min(body_offset + FRAME_ALIGNMENT, size)
        )
    end = offset + header.frame_bytes
    return (
        end > size
        or is_blank(file, end - FRAME_ALIGNMENT, end)
        or _has_blank_sector(file, offset, end)
    )


def written_end(file: File, offset: int, size: int) -> int:
    """Return where the last byte that is not zero ends, at least `offset`."""
    while size > offset:
        start = max(size - _CHUNK_BYTES, offset)
        written = file.read_at(start, size - start).rstrip(b"\0")
        if written:
            return start + len(written)
        size = start
    return offset


def find_evidence(file: File, cipher: SegmentCipher, offset: int, size: int) -> int | None:
    """Return where a frame header says that the frame at `offset` had been synced, if any does."""
    place = offset + FRAME_ALIGNMENT
    while place + FRAME_HEADER_BYTES <= size:
        data = file.read_at(place, min(_CHUNK_BYTES, size - place))
        if data.strip(b"\0"):
            for start in range(0, len(data) - FRAME_HEADER_BYTES + 1, FRAME_ALIGNMENT):
                candidate = data[start : start + FRAME_HEADER_BYTES]
                header = cipher.parse_frame_header(candidate, place + start)
                if header is not None and _vouches(header, offset, place + start):
                    return place + start
        place += _CHUNK_BYTES
    return None


def _has_blank_sector(file: File, offset: int, end: int) -> bool:
    """Tell whether the part of some sector that lies between two offsets is zeros."""
    data = file.read_at(offset, end - offset)
    start = 0
    while start < len(data):
        stop = _next_sector(offset + start) - offset
        if not data[start:stop].strip(b"\0"):
            return True
        start = stop
    return False


def _next_sector(offset: int) -> int:
    return (offset // SECTOR_BYTES + 1) * SECTOR_BYTES


def _vouches(header: FrameHeader, offset: int, place: int) -> bool:
    """Tell whether a header at `place` says that the frame at `offset` had been synced.

    One look-alike in 2^32 has a fitting CRC; one that also makes sense is far rarer.
    """
    makes_sense = header.sealed_bytes <= SEALED_BYTES_MAX and header.synced_bytes <= place
    return makes_sense and header.synced_bytes > offset
