"""One segment file: writing frames at its end, and reading them back one by one.

`SegmentWriter` knows nothing of policies and `FrameReader` nothing of recovery; both only keep the
chain: offset, frame number and the tag of the frame before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaylix_storage._format import (
    FRAME_BODY_BYTES_MAX,
    FRAME_HEADER_BYTES,
    HEADER_BYTES,
    SEALED_BYTES_MAX,
    TAG_BYTES,
    Frame,
    FramePosition,
    SegmentCipher,
    SegmentHeader,
    encode_header,
    padding_of,
)

if TYPE_CHECKING:
    from vaylix_storage._vfs import File

__all__ = ["Frame", "FramePosition", "FrameReader", "SegmentWriter"]

# Space reserved ahead: a sync that need not grow the file is a third cheaper.
PREALLOCATE_BYTES: Final = 4 * 1024 * 1024
# Space that is only reserved is marked as used by the first write into it, and the sync behind that
# write waits for the journal of the file system, with whatever others have put there. Zeros written
# ahead leave nothing but data to a sync. More at a time would make a single sync long.
ZEROED_BYTES_MAX: Final = 256 * 1024
# Behind a frame as large as this the next one would soon be beyond the zeros: they would double
# what is written, and spare little.
_LARGE_FRAME_BYTES: Final = ZEROED_BYTES_MAX // 4
_READ_BYTES: Final = 1024 * 1024


class SegmentWriter:
    """Appends frames to a new segment. One thread at a time."""

    __slots__ = (
        "_allocated_bytes",
        "_can_allocate",
        "_cipher",
        "_file",
        "_zeroed_bytes",
        "position",
        "synced_bytes",
    )

    def __init__(self, file: File, header: SegmentHeader, cipher: SegmentCipher) -> None:
        encoded, tag = encode_header(header, cipher)
        file.write_at(0, encoded)
        self._file = file
        self._cipher = cipher
        self._can_allocate = True
        # Up to where space is reserved, and where it has been written once.
        self._allocated_bytes = self._zeroed_bytes = HEADER_BYTES
        self.position = FramePosition(HEADER_BYTES, 1, tag)
        self.synced_bytes = 0

    def append(self, body: bytes) -> None:
        """Write one frame with one call. The caller bounds the body."""
        assert len(body) <= FRAME_BODY_BYTES_MAX
        position = self.position
        offset, number = position.offset, position.number
        frame = self._cipher.seal(
            body,
            number=number,
            offset=offset,
            previous_tag=position.previous_tag,
            synced_bytes=self.synced_bytes,
        )
        end = offset + len(frame)
        if end > self._allocated_bytes and self._can_allocate:
            self._allocate(offset, len(frame))
        self._file.write_at(offset, frame + self._zeros_behind(end, len(frame)))
        tag_end = FRAME_HEADER_BYTES + len(body) + TAG_BYTES
        self.position = FramePosition(end, number + 1, frame[tag_end - TAG_BYTES : tag_end])

    def sync(self) -> None:
        """Return when all frames are on the disk."""
        self._file.sync()
        self.synced_bytes = self.position.offset

    def finish(self) -> None:
        """Give back unused space and sync: nothing will be appended any more."""
        self._file.give_back(self.position.offset)
        self.sync()

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _zeros_behind(self, end: int, frame_bytes: int) -> bytes:
        """Return the zeros to write behind a frame: none, or as much as the segment holds."""
        is_worth_it = self._can_allocate and frame_bytes < _LARGE_FRAME_BYTES
        if end <= self._zeroed_bytes or not is_worth_it:
            return b""
        zeroed = min(end + min(end, ZEROED_BYTES_MAX), self._allocated_bytes)
        self._zeroed_bytes = max(zeroed, end)
        return bytes(self._zeroed_bytes - end)

    def _allocate(self, offset: int, needed_bytes: int) -> None:
        size = needed_bytes + PREALLOCATE_BYTES
        self._can_allocate = self._file.allocate(offset, size)
        self._allocated_bytes = offset + size


class FrameReader:
    """Reads the frames of a segment in order, with one buffer.

    `next_frame` returns None where there is no good frame; `position` is then where it would be,
    and `damage` says what is wrong there, or is None when the bytes to read have come to an end or
    the next header is zeros.
    """

    __slots__ = ("_buffer", "_buffer_offset", "_cipher", "_file", "_limit", "damage", "position")

    def __init__(
        self, file: File, cipher: SegmentCipher, position: FramePosition, limit: int
    ) -> None:
        self._file = file
        self._cipher = cipher
        self._limit = limit
        self._buffer = b""
        self._buffer_offset = position.offset
        self.position = position
        self.damage: str | None = None

    def next_frame(self) -> Frame | None:
        """Return the frame at `position` and move behind it."""
        position = self.position
        start = position.offset - self._buffer_offset
        frame = self._cipher.open_frame(self._buffer, start, position)
        if frame is None:
            frame = self._load_frame(position)
            if frame is None:
                return None
        self.position = frame.end
        return frame

    def _load_frame(self, position: FramePosition) -> Frame | None:
        """Return a frame that is not wholly in the buffer, or note what is wrong with it."""
        offset = position.offset
        self._load(offset, FRAME_HEADER_BYTES)
        start = self._buffer[:FRAME_HEADER_BYTES]
        if not start.strip(b"\0"):
            return None
        header = self._cipher.parse_frame_header(start, offset)
        if header is None:
            self.damage = "the header of a frame is damaged or incomplete"
            return None
        if header.sealed_bytes > SEALED_BYTES_MAX:
            self.damage = "the length of a frame is beyond every limit"
            return None
        frame_bytes = header.frame_bytes
        if frame_bytes > len(self._buffer):
            self._load(offset, frame_bytes)
        if frame_bytes > len(self._buffer):
            self.damage = "a frame runs past the end of the file"
            return None
        frame = self._cipher.open_frame(self._buffer, 0, position)
        if frame is None:
            padding = self._buffer[FRAME_HEADER_BYTES + header.sealed_bytes : frame_bytes]
            if padding != padding_of(header.sealed_bytes):
                self.damage = "the padding of a frame is damaged"
            else:
                self.damage = "the tag of a fully written frame does not fit"
        return frame

    def _load(self, offset: int, size: int) -> None:
        """Fill the buffer from `offset` on, with `size` bytes or more up to the limit."""
        wanted = min(max(size, _READ_BYTES), self._limit - offset)
        self._buffer = self._file.read_at(offset, max(wanted, 0))
        self._buffer_offset = offset
