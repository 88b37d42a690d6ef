"""A tolerant MessagePack reader, for what the strict and fast one does not take.

Format 3 was written by a library that reads more than it writes (storage section 16.1): structures
also as positional arrays, byte values also as text or as arrays of numbers, and bytes after the
value. `msgspec` decodes the usual form; where it refuses, `decode_value` has the last word.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "MalformedError",
    "Value",
    "as_bytes",
    "as_fields",
    "as_list",
    "as_map",
    "as_signed",
    "as_text",
    "as_unsigned",
    "decode_value",
]

Value: TypeAlias = "bool | int | float | str | bytes | list[Value] | dict[str, Value] | None"

# Deeper than anything that was ever written, and no danger to the stack.
_DEPTH_MAX: Final = 32
_U64_MAX: Final = 2**64 - 1
_I64_MAX: Final = 2**63 - 1
_I64_MIN: Final = -(2**63)


class MalformedError(ValueError):
    """The bytes are not what they should be; the caller says which file and where."""


class _Reader:
    """Reads values from a buffer, one after the other."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        end = self._offset + size
        if end > len(self._data):
            raise MalformedError("the data end inside a value")
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def unsigned(self, size: int) -> int:
        """Return the next number, big endian."""
        return int.from_bytes(self.take(size), "big")

    def signed(self, size: int) -> int:
        """Return the next number in two's complement, big endian."""
        return int.from_bytes(self.take(size), "big", signed=True)

    def text(self, size: int) -> str:
        """Return the next `size` bytes as text."""
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise MalformedError(f"a text is not UTF-8: {error}") from error

    def value(self, depth: int) -> Value:
        """Return the next value."""
        if depth > _DEPTH_MAX:
            raise MalformedError("values are nested too deeply")
        tag = self.unsigned(1)
        if tag < 0x80:
            return tag
        if tag < 0x90:
            return self.map(tag & 0x0F, depth)
        if tag < 0xA0:
            return self.array(tag & 0x0F, depth)
        if tag < 0xC0:
            return self.text(tag & 0x1F)
        if tag >= 0xE0:
            return tag - 0x100
        try:
            read = _READERS[tag]
        except KeyError:
            raise MalformedError(f"unexpected tag {tag:#04x}") from None
        return read(self, depth)

    def array(self, count: int, depth: int) -> list[Value]:
        """Return `count` values."""
        return [self.value(depth + 1) for _ in range(count)]

    def map(self, count: int, depth: int) -> dict[str, Value]:
        """Return `count` pairs with names; of one name, the last counts."""
        pairs: dict[str, Value] = {}
        for _ in range(count):
            name = self.value(depth + 1)
            if not isinstance(name, str):
                raise MalformedError("the name of a field is not text")
            pairs[name] = self.value(depth + 1)
        return pairs


_READERS: Final[dict[int, Callable[[_Reader, int], Value]]] = {
    0xC0: lambda _r, _d: None,
    0xC2: lambda _r, _d: False,
    0xC3: lambda _r, _d: True,
    0xC4: lambda r, _d: r.take(r.unsigned(1)),
    0xC5: lambda r, _d: r.take(r.unsigned(2)),
    0xC6: lambda r, _d: r.take(r.unsigned(4)),
    0xCA: lambda r, _d: float(struct.unpack(">f", r.take(4))[0]),
    0xCB: lambda r, _d: float(struct.unpack(">d", r.take(8))[0]),
    0xCC: lambda r, _d: r.unsigned(1),
    0xCD: lambda r, _d: r.unsigned(2),
    0xCE: lambda r, _d: r.unsigned(4),
    0xCF: lambda r, _d: r.unsigned(8),
    0xD0: lambda r, _d: r.signed(1),
    0xD1: lambda r, _d: r.signed(2),
    0xD2: lambda r, _d: r.signed(4),
    0xD3: lambda r, _d: r.signed(8),
    0xD9: lambda r, _d: r.text(r.unsigned(1)),
    0xDA: lambda r, _d: r.text(r.unsigned(2)),
    0xDB: lambda r, _d: r.text(r.unsigned(4)),
    0xDC: lambda r, d: r.array(r.unsigned(2), d),
    0xDD: lambda r, d: r.array(r.unsigned(4), d),
    0xDE: lambda r, d: r.map(r.unsigned(2), d),
    0xDF: lambda r, d: r.map(r.unsigned(4), d),
}


def decode_value(data: bytes) -> Value:
    """Return the first value in `data`; what follows it is ignored. Raises MalformedError."""
    return _Reader(data).value(0)


def as_fields(value: Value, names: tuple[str, ...]) -> dict[str, Value]:
    """Return the fields of a structure, written as a map or as an array in the order of `names`.

    What is not there is not in the result.
    """
    if isinstance(value, list):
        return dict(zip(names, value, strict=False))
    return as_map(value)


def as_map(value: Value) -> dict[str, Value]:
    """Return a map."""
    if not isinstance(value, dict):
        raise MalformedError("a map was expected")
    return value


def as_list(value: Value) -> list[Value]:
    """Return an array."""
    if not isinstance(value, list):
        raise MalformedError("an array was expected")
    return value


def as_unsigned(value: Value) -> int:
    """Return a number of 64 bits without a sign."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _U64_MAX:
        raise MalformedError("a number from 0 to 2**64 - 1 was expected")
    return value


def as_signed(value: Value) -> int:
    """Return a number of 64 bits with a sign."""
    if isinstance(value, bool) or not isinstance(value, int) or not _I64_MIN <= value <= _I64_MAX:
        raise MalformedError("a number from -2**63 to 2**63 - 1 was expected")
    return value


def as_text(value: Value) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise MalformedError("a text was expected")
    return value


def as_bytes(value: Value) -> bytes:
    """Return a byte value, written as bytes, as text, or as an array of numbers."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    numbers = as_list(value)
    if not all(type(n) is int and 0 <= n <= 255 for n in numbers):
        raise MalformedError("bytes were expected")
    return bytes(n for n in numbers if isinstance(n, int))
