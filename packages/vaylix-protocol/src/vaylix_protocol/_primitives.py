"""The primitive encodings of VTP2 section 1: one reader of them all, one function to write each.

What is read comes from the peer, so a violation is a RemoteProtocolError. What is written comes
from our own caller, so a value that does not fit is a LocalProtocolError. Lengths and counts are
checked against the bytes that are left before anything is taken or allocated.
"""

from __future__ import annotations

import struct
from typing import Final

from vaylix_protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError

__all__ = [
    "Reader",
    "check_utf8",
    "encode_text",
    "write_bool",
    "write_i64",
    "write_key16",
    "write_key32",
    "write_text16",
    "write_text32",
    "write_u16",
    "write_u32",
    "write_u64",
    "write_value",
]

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_I64: Final = struct.Struct(">q")


def check_utf8(data: bytes) -> bytes:
    """Return `data` if it is UTF-8, else raise TRN-012."""
    if not data.isascii():
        _decode(data)
    return data


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError.of(ErrorCode.TRN_012) from None


class Reader:
    """A cursor over one message body.

    Each method takes its field off the front, or raises RemoteProtocolError: TRN-007 if the body
    is too short, TRN-008 for a flag or tag with another value than the allowed ones, TRN-012 for
    text that is not UTF-8. `end` raises TRN-008 if something is left.
    """

    __slots__ = ("_body", "_position")

    def __init__(self, body: bytes, position: int = 0) -> None:
        self._body = body
        self._position = position

    @property
    def left_bytes(self) -> int:
        """How many bytes have not been taken yet."""
        return len(self._body) - self._position

    def rewound(self, left_bytes: int) -> Reader:
        """Return a reader of the same body that has `left_bytes` left."""
        return Reader(self._body, len(self._body) - left_bytes)

    def take(self, length: int) -> bytes:
        """Take `length` bytes as they are."""
        start = self._position
        stop = start + length
        if stop > len(self._body):
            raise RemoteProtocolError.of(ErrorCode.TRN_007)
        self._position = stop
        return self._body[start:stop]

    def rest(self) -> bytes:
        """Take everything that is left."""
        return self.take(self.left_bytes)

    def end(self) -> None:
        """Check that nothing is left."""
        if self._position != len(self._body):
            raise RemoteProtocolError.of(ErrorCode.TRN_008)

    def u8(self) -> int:
        """Take a number of 8 bits."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Take a number of 16 bits."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """Take a number of 32 bits."""
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        """Take a number of 64 bits."""
        return int.from_bytes(self.take(8), "big")

    def i64(self) -> int:
        """Take a signed number of 64 bits."""
        return int.from_bytes(self.take(8), "big", signed=True)

    def flag(self) -> bool:
        """Take a boolean; also tells whether an optional field is present."""
        value = self.u8()
        if value > 1:
            raise RemoteProtocolError.of(ErrorCode.TRN_008)
        return value == 1

    def key16(self) -> bytes:
        """Take UTF-8 with a length of 16 bits, as bytes."""
        return check_utf8(self.take(self.u16()))

    def key32(self) -> bytes:
        """Take UTF-8 with a length of 32 bits, as bytes."""
        return check_utf8(self.take(self.u32()))

    def text16(self) -> str:
        """Take text with a length of 16 bits."""
        return _decode(self.take(self.u16()))

    def text32(self) -> str:
        """Take text with a length of 32 bits."""
        return _decode(self.take(self.u32()))

    def value(self) -> bytes:
        """Take opaque bytes with a length of 32 bits."""
        return self.take(self.u32())


def write_u16(value: int) -> bytes:
    """Write a number of 16 bits; TRN-008 if it does not fit."""
    return _pack(_U16, value)


def write_u32(value: int) -> bytes:
    """Write a number of 32 bits; TRN-008 if it does not fit."""
    return _pack(_U32, value)


def write_u64(value: int) -> bytes:
    """Write a number of 64 bits; TRN-008 if it does not fit."""
    return _pack(_U64, value)


def write_i64(value: int) -> bytes:
    """Write a signed number of 64 bits; TRN-008 if it does not fit."""
    return _pack(_I64, value)


def _pack(layout: struct.Struct, value: int) -> bytes:
    try:
        return layout.pack(value)
    except struct.error:
        # Callers without a type checker hand over a float or a str as well.
        if not isinstance(value, int):
            raise TypeError(f"expected int, got {type(value).__name__}") from None
        raise LocalProtocolError.of(ErrorCode.TRN_008) from None


def write_bool(value: bool) -> bytes:  # noqa: FBT001 - the flag is the datum
    """Write a boolean."""
    return b"\x01" if value else b"\x00"


def write_value(data: bytes) -> bytes:
    """Write opaque bytes with a length of 32 bits; TRN-008 if they are too long."""
    return write_u32(len(data)) + data


def write_key16(key: bytes) -> bytes:
    """Write UTF-8 with a length of 16 bits; TRN-012 if it is not UTF-8, TRN-008 if too long."""
    _check_own_utf8(key)
    return write_u16(len(key)) + key


def write_key32(key: bytes) -> bytes:
    """Write UTF-8 with a length of 32 bits; TRN-012 if it is not UTF-8."""
    _check_own_utf8(key)
    return write_u32(len(key)) + key


def write_text16(text: str) -> bytes:
    """Write text with a length of 16 bits; TRN-008 if it is too long."""
    data = encode_text(text)
    return write_u16(len(data)) + data


def write_text32(text: str) -> bytes:
    """Write text with a length of 32 bits."""
    data = encode_text(text)
    return write_u32(len(data)) + data


def encode_text(text: str) -> bytes:
    """Encode as UTF-8; TRN-012 for a lone surrogate, which has no encoding."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError.of(ErrorCode.TRN_012) from None


def _check_own_utf8(key: bytes) -> None:
    if key.isascii():
        return
    try:
        key.decode()
    except UnicodeDecodeError:
        raise LocalProtocolError.of(ErrorCode.TRN_012) from None
