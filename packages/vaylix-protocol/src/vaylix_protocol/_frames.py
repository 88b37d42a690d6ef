"""Frames: the 14-byte header of VTP2 section 2, the reader of a byte stream, and the writer.

The reader works in batches. It is given whatever the socket had, and hands out the bodies of all
frames in it at once; what is left, less than one frame, waits in a buffer. A header is checked
as soon as it is whole, so the buffer holds at most one header and one payload within the limit.

Compressed frames make one exception. A few hundred bytes can stand for 8 MiB, so a batch also ends
once its decompressed bodies amount to 8 MiB; the rest stays in the buffer, still compressed, and
`has_more` is true. A batch thus expands to less than 16 MiB, whatever the peer sends. Who wants
nothing expanded before it is needed reads one frame at a time.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

from vaylix_protocol._compression import Compressor, Decompressor
from vaylix_protocol._constants import FRAME_BYTES_MAX, Compression
from vaylix_protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "EXPANDED_BYTES_MAX",
    "HEADER",
    "HEADER_BYTES",
    "PLAIN_MARK",
    "FrameReader",
    "FrameWriter",
]

_MAGIC: Final = b"VTP2"
_VERSION: Final = 2
_ZSTD_FLAG: Final = 0x01

# A batch ends when this much has come out of compressed frames; the last one may exceed it.
EXPANDED_BYTES_MAX: Final = FRAME_BYTES_MAX

# Magic, version and flags are compared as one mark; then length and checksum.
HEADER: Final = Struct(">6sII")
HEADER_BYTES: Final = HEADER.size
PLAIN_MARK: Final = _MAGIC + bytes((_VERSION, 0))
_ZSTD_MARK: Final = _MAGIC + bytes((_VERSION, _ZSTD_FLAG))


class FrameReader:
    """Cuts a byte stream into frame bodies.

    `frame_bytes_max` limits payloads and decompressed bodies; it starts at the limit of hello
    frames and may be lowered between two batches. `failure` is set once the stream is broken;
    nothing may be read after that.
    """

    __slots__ = (
        "_buffer",
        "_decompressor",
        "_needed_bytes",
        "failure",
        "frame_bytes_max",
        "has_more",
    )

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed_bytes = HEADER_BYTES
        self._decompressor = Decompressor()
        self.frame_bytes_max = FRAME_BYTES_MAX
        self.failure: RemoteProtocolError | None = None
        self.has_more = False

    @property
    def buffered_bytes(self) -> int:
        """How many bytes wait for the rest of their frame, or for the next batch."""
        return len(self._buffer)

    def stop(self) -> None:
        """Drop what is buffered; there will be no further batch."""
        self._buffer.clear()
        self.has_more = False

    def read(self, data: bytes) -> list[bytes]:
        """Return the bodies of the frames that `data` completes, in order.

        Check `failure` afterwards: bodies before the broken frame are returned all the same.
        """
        return self.read_from(self.join(data), 0)

    def read_one(self, data: bytes) -> list[bytes]:
        """Do what `read` does, but return one body at most; `has_more` if others may follow.

        What follows stays as it came, and in place: many small frames cost no copies of it.
        """
        self._buffer += data
        if len(self._buffer) < self._needed_bytes:
            self.has_more = False
            return []
        length: int = HEADER.unpack_from(self._buffer)[1]
        stop = HEADER_BYTES + length
        first = bytes(self._buffer[:stop])
        del self._buffer[:stop]
        bodies = self.read_from(first, 0)
        self.has_more = bool(bodies) and len(self._buffer) >= HEADER_BYTES
        return bodies

    def join(self, data: bytes) -> bytes:
        """Return what was left over with `data` behind it; empty while that is not one frame."""
        if not self._buffer:
            return data
        self._buffer += data
        if len(self._buffer) < self._needed_bytes:
            return b""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def read_from(self, data: bytes, position: int) -> list[bytes]:
        """Do what `read` does with the joined `data`, from `position` on."""
        assert self.failure is None
        bodies: list[bytes] = []
        self.has_more = False
        if position == len(data):
            return bodies
        try:
            position = self._cut(data, position, bodies)
        except RemoteProtocolError as failure:
            # The traceback would keep the buffers of this call alive.
            self.failure = failure.with_traceback(None)
            self.stop()
        else:
            if position < len(data):
                self._buffer += data[position:] if position else data
        return bodies

    def _cut(self, data: bytes, position: int, bodies: list[bytes]) -> int:
        """Append bodies until `data` is used up; return the position of what is left of it."""
        unpack_header: Callable[[bytes, int], tuple[bytes, int, int]] = HEADER.unpack_from
        append = bodies.append
        limit = self.frame_bytes_max
        end = len(data)
        last_header = end - HEADER_BYTES
        expanded_bytes = 0
        self._needed_bytes = HEADER_BYTES
        while position <= last_header:
            if expanded_bytes >= EXPANDED_BYTES_MAX:
                self.has_more = True
                return position
            mark, length, checksum = unpack_header(data, position)
            if length > limit or (mark not in (PLAIN_MARK, _ZSTD_MARK)):
                _check_header(mark, length, limit)
            start = position + HEADER_BYTES
            stop = start + length
            if stop > end:
                self._needed_bytes = HEADER_BYTES + length
                return position
            body = data[start:stop]
            if crc32(body) != checksum:
                raise RemoteProtocolError.of(
                    ErrorCode.TRN_009, expected=checksum, actual=crc32(body)
                )
            if mark == _ZSTD_MARK:
                body = self._decompressor.decompress(body, limit)
                expanded_bytes += len(body)
            append(body)
            position = stop
        return position


def _check_header(mark: bytes, length: int, limit: int) -> None:
    """Raise for the first check of VTP2 section 2 that the header fails; return if none."""
    version, flags = mark[4], mark[5]
    if mark[:4] != _MAGIC:
        raise RemoteProtocolError.of(ErrorCode.TRN_001)
    if version != _VERSION:
        raise RemoteProtocolError.of(ErrorCode.TRN_005, expected=_VERSION, actual=version)
    if length > FRAME_BYTES_MAX:
        raise RemoteProtocolError.of(ErrorCode.TRN_006, length=length, maximum=FRAME_BYTES_MAX)
    if flags & ~_ZSTD_FLAG:
        raise RemoteProtocolError.of(ErrorCode.TRN_010, flags=flags)
    if length > limit:
        raise RemoteProtocolError.of(ErrorCode.TRN_006, length=length, maximum=limit)


class FrameWriter:
    """Turns bodies into frames. The attributes are what negotiation decides."""

    __slots__ = ("_compressor", "compression", "compression_threshold_bytes", "frame_bytes_max")

    def __init__(self) -> None:
        self._compressor = Compressor()
        self.compression = Compression.NONE
        self.compression_threshold_bytes = 0
        self.frame_bytes_max = FRAME_BYTES_MAX

    @property
    def plain_bytes_max(self) -> int:
        """The size up to which a body is sent as it is, without further checks."""
        if self.compression is Compression.NONE:
            return self.frame_bytes_max
        return min(self.frame_bytes_max, self.compression_threshold_bytes - 1)

    def frame(self, body: bytes) -> bytes:
        """Return `body` as a frame, compressed if that is due.

        Raise LocalProtocolError TRN-006 if the body, or what compression makes of it, is too long.
        """
        self._check_length(len(body))
        if self.compression is Compression.ZSTD and len(body) >= self.compression_threshold_bytes:
            payload = self._compressor.compress(body)
            self._check_length(len(payload))
            return HEADER.pack(_ZSTD_MARK, len(payload), crc32(payload)) + payload
        return HEADER.pack(PLAIN_MARK, len(body), crc32(body)) + body

    def _check_length(self, length: int) -> None:
        if length > self.frame_bytes_max:
            raise LocalProtocolError.of(
                ErrorCode.TRN_006, length=length, maximum=self.frame_bytes_max
            )
