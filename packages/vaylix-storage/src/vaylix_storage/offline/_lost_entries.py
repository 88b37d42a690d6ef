"""What can still be read behind a damaged frame: which entries a cut would lose.

A frame opens only with its number and the tag of the frame before it. The tag stands before the
frame, and the number is not far from the last that was good; so frames behind the damage open when
only those before them are damaged. What opens is authentic, but without its predecessors it is of
no use: it only tells how far the log went.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from vaylix_storage._catalog import NameKind, parse_segment_name
from vaylix_storage._format import (
    FRAME_ALIGNMENT,
    FRAME_HEADER_BYTES,
    SEALED_BYTES_MAX,
    TAG_BYTES,
    FormatError,
    parse_body,
)
from vaylix_storage._segment import FramePosition, FrameReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaylix_storage._catalog import SegmentInfo
    from vaylix_storage._vfs import File, Vfs

__all__ = ["last_known_index"]

_CHUNK_BYTES: Final = 256 * 1024
_SMALLEST_FRAME_BYTES: Final = 48
_GUESSES_MAX: Final = 256


def last_known_index(info: SegmentInfo, end: FramePosition, vfs: Vfs) -> int | None:
    """Return the last entry that is known to have been behind `end`, or None. Raises OSError."""
    known: list[int] = []
    parsed = parse_segment_name(info.path.name)
    if parsed is not None and parsed[1] is not NameKind.ACTIVE:
        known.append(int(info.path.name.removesuffix(".wal").rpartition("-")[2]))
    with closing(vfs.open(info.path)) as file:
        known.extend(_indexes(file, info, end))
    return max(known, default=None)


def _indexes(file: File, info: SegmentInfo, end: FramePosition) -> Iterator[int]:
    """Yield the last index of each frame that opens."""
    size = file.size()
    offset, number = end.offset, end.number
    while (place := _next_header(file, info, offset + FRAME_ALIGNMENT, size)) is not None:
        reader = _open_somehow(file, info, place, number, (place - end.offset), size)
        offset = place
        if reader is None:
            continue
        while (frame := reader.next_frame()) is not None:
            number = frame.position.number
            try:
                batches = parse_body(frame.body).batches
            except FormatError:
                continue
            if batches:
                yield batches[-1].last_index
        offset = max(place, reader.position.offset - FRAME_ALIGNMENT)


def _next_header(file: File, info: SegmentInfo, offset: int, size: int) -> int | None:
    """Return where the next bytes are that look like the header of a frame."""
    while offset + FRAME_HEADER_BYTES <= size:
        data = file.read_at(offset, min(_CHUNK_BYTES, size - offset))
        if data.strip(b"\0"):
            for start in range(0, len(data) - FRAME_HEADER_BYTES + 1, FRAME_ALIGNMENT):
                candidate = data[start : start + FRAME_HEADER_BYTES]
                header = info.cipher.parse_frame_header(candidate, offset + start)
                if header is not None and header.sealed_bytes <= SEALED_BYTES_MAX:
                    return offset + start
        offset += _CHUNK_BYTES
    return None


def _open_somehow(
    file: File, info: SegmentInfo, place: int, number: int, skipped_bytes: int, size: int
) -> FrameReader | None:
    """Return a reader at `place` if the frame there opens with some number after `number`."""
    before = file.read_at(place - FRAME_ALIGNMENT - TAG_BYTES, FRAME_ALIGNMENT + TAG_BYTES)
    padding = before[-1] - 0x80
    if not 0 < padding <= FRAME_ALIGNMENT:
        return None
    tag = before[len(before) - padding - TAG_BYTES : len(before) - padding]
    guesses = min(skipped_bytes // _SMALLEST_FRAME_BYTES + 1, _GUESSES_MAX)
    for guess in range(number + 1, number + 1 + guesses):
        position = FramePosition(place, guess, tag)
        if FrameReader(file, info.cipher, position, size).next_frame() is not None:
            return FrameReader(file, info.cipher, position, size)
    return None
