"""Zstd as VTP2 section 3 wants it: one plain frame out, any well-formed stream in, bounded.

The library alone is not strict enough. It trusts a content size when it allocates, takes the end
of the input for the end of a truncated stream, and skips its window check when the whole output
fits. So there are two ways in:

- A single frame that declares a content size within the limit, which is what every known peer
  sends, is decompressed in one call. The declared size is then an upper bound we agreed to.
- Anything else, and whatever the quick way does not like, is walked block header by block header
  first. The walk finds where the well-formed part ends, without decompressing anything. Then the
  library decompresses that part through a stream reader that is asked for at most limit + 1 bytes.

Sizes of blocks and frames are read from RFC 8878, sections 3.1.1 and 3.1.2.
"""

from __future__ import annotations

from typing import Final

import zstandard

from vaylix_protocol.errors import ErrorCode, RemoteProtocolError

__all__ = ["PIECES_MAX", "WINDOW_BYTES_MAX", "Compressor", "Decompressor"]

WINDOW_BYTES_MAX: Final = 2**27
# Frames and blocks in one payload. Even a body of 8 MiB that was flushed every 128 bytes has no
# more; without a bound, 8 MiB of empty blocks would keep a server busy for a second.
PIECES_MAX: Final = 65_536

# Bits of the frame header descriptor (RFC 8878 section 3.1.1.1.1).
_DICTIONARY_BITS: Final = 0x03
_CHECKSUM_BIT: Final = 0x04
_RESERVED_BIT: Final = 0x08
_SINGLE_SEGMENT_BIT: Final = 0x20

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
# The first byte of a skippable frame is 0x50 to 0x5f, these are the other three.
_SKIPPABLE_MAGIC_TAIL: Final = b"\x2a\x4d\x18"
_LEVEL: Final = 3
_CHUNK_BYTES: Final = 128 * 1024
_RLE_BLOCK: Final = 1


class Compressor:
    """Compresses bodies, reusing one context. Not for use by several threads at a time."""

    __slots__ = ("_context",)

    def __init__(self) -> None:
        self._context: zstandard.ZstdCompressor | None = None

    def compress(self, body: bytes) -> bytes:
        """Return `body` as one zstd frame with its content size and without checksum."""
        if self._context is None:
            # A context takes tens of KiB, which connections that never compress can do without.
            self._context = zstandard.ZstdCompressor(level=_LEVEL)
        return self._context.compress(body)


class Decompressor:
    """Decompresses payloads, reusing one context. Not for use by several threads at a time."""

    __slots__ = ("_context",)

    def __init__(self) -> None:
        self._context: zstandard.ZstdDecompressor | None = None

    def decompress(self, payload: bytes, bytes_max: int) -> bytes:
        """Return the content of `payload`, at most `bytes_max` bytes.

        Raise RemoteProtocolError: TRN-011 for a broken stream, TRN-017 for more content than that.
        """
        if self._context is None:
            self._context = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
        if _fits_in_one_call(payload, bytes_max):
            try:
                return self._context.decompress(payload, allow_extra_data=False)
            except zstandard.ZstdError:
                # Several frames, or a broken one; the slow way tells.
                pass
        return _decompress_strictly(self._context, payload, bytes_max)


def _fits_in_one_call(payload: bytes, bytes_max: int) -> bool:
    if len(payload) < 10 or payload[:4] != _MAGIC:
        return False
    descriptor = payload[4]
    if descriptor == _SINGLE_SEGMENT_BIT:
        # Every frame of at most 255 bytes looks like this, and a client may compress them all.
        return 0 < payload[5] <= bytes_max
    if descriptor & (_DICTIONARY_BITS | _RESERVED_BIT):
        return False
    position = 5
    if not descriptor & _SINGLE_SEGMENT_BIT:
        if descriptor >> 6 == 0 or _window_bytes(payload[5]) > WINDOW_BYTES_MAX:
            return False
        position = 6
    # An empty frame is not worth a call whose result does not tell it from a broken one.
    return 0 < _content_bytes(payload, position, descriptor >> 6) <= bytes_max


def _window_bytes(descriptor: int) -> int:
    base = 1 << (10 + (descriptor >> 3))
    return base + (base >> 3) * (descriptor & 7)


def _content_bytes(payload: bytes, position: int, size_flag: int) -> int:
    if size_flag == 1:
        # Two bytes count from 256, since one byte would do for less.
        return int.from_bytes(payload[position : position + 2], "little") + 256
    return int.from_bytes(payload[position : position + (1 << size_flag)], "little")


def _decompress_strictly(
    context: zstandard.ZstdDecompressor, payload: bytes, bytes_max: int
) -> bytes:
    well_formed_bytes = _Walker(payload).well_formed_bytes()
    reader = context.stream_reader(payload[:well_formed_bytes], read_across_frames=True)
    chunks: list[bytes] = []
    left_bytes = bytes_max + 1
    try:
        while left_bytes and (chunk := reader.read(min(left_bytes, _CHUNK_BYTES))):
            chunks.append(chunk)
            left_bytes -= len(chunk)
    except zstandard.ZstdError:
        raise RemoteProtocolError.of(ErrorCode.TRN_011) from None
    if left_bytes == 0:
        raise RemoteProtocolError.of(ErrorCode.TRN_017, length=bytes_max + 1, maximum=bytes_max)
    if well_formed_bytes != len(payload) or not payload:
        raise RemoteProtocolError.of(ErrorCode.TRN_011)
    return b"".join(chunks)


class _Walker:
    """Walks the frames and blocks of a payload by their headers, without decompressing them."""

    __slots__ = ("_payload", "_pieces_left")

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._pieces_left = PIECES_MAX

    def well_formed_bytes(self) -> int:
        """Return how many bytes at the front of the payload are worth decompressing.

        That is all of them if the payload is nothing but whole frames, and less if not. A frame
        that is cut short counts up to the cut, less one byte, because its content can still break
        the limit. The walk ends, too, behind PIECES_MAX frames and blocks.
        """
        payload = self._payload
        position = 0
        while position < len(payload) and self._pieces_left > 0:
            self._pieces_left -= 1
            if _is_skippable(payload, position):
                stop = position + 8 + int.from_bytes(payload[position + 4 : position + 8], "little")
            else:
                first_block = _first_block(payload, position)
                if first_block is None:
                    return position
                stop = self._frame_stop(first_block, payload[position + 4])
            if stop > len(payload):
                return len(payload) - 1
            position = stop
        return position

    def _frame_stop(self, position: int, descriptor: int) -> int:
        """Return the end of the frame whose blocks start at `position`; it may be too far.

        If there are too many blocks, return the end of the last one that was walked.
        """
        payload = self._payload
        is_last = False
        while not is_last:
            if position + 3 > len(payload):
                return position + 3
            if self._pieces_left == 0:
                return position
            self._pieces_left -= 1
            header = int.from_bytes(payload[position : position + 3], "little")
            is_last = bool(header & 1)
            kind = (header >> 1) & 3
            position += 3 + (1 if kind == _RLE_BLOCK else header >> 3)
        return position + (4 if descriptor & _CHECKSUM_BIT else 0)


def _is_skippable(payload: bytes, position: int) -> bool:
    return (
        payload[position + 1 : position + 4] == _SKIPPABLE_MAGIC_TAIL
        and payload[position] & 0xF0 == 0x50
    )


def _first_block(payload: bytes, position: int) -> int | None:
    """Return where the blocks of a frame start; None if it is no frame that we may decompress."""
    if payload[position : position + 4] != _MAGIC or position + 5 > len(payload):
        return None
    descriptor = payload[position + 4]
    if descriptor & (_DICTIONARY_BITS | _RESERVED_BIT):
        return None
    size_flag = descriptor >> 6
    single_segment = bool(descriptor & _SINGLE_SEGMENT_BIT)
    field = position + 5 + (not single_segment)
    size_bytes = (1 << size_flag) if size_flag or single_segment else 0
    if field + size_bytes > len(payload):
        return None
    if single_segment:
        window_bytes = _content_bytes(payload, field, size_flag)
    else:
        window_bytes = _window_bytes(payload[position + 5])
    return field + size_bytes if window_bytes <= WINDOW_BYTES_MAX else None
