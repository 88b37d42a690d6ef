"""JSON as the published server reads it: stricter than the standard library on every count.

The standard decoder is exact but for what this module adds: no NaN or Infinity, no lone surrogate
escapes, known fields given once, and numbers that are whole, unsigned and in range (`1.0`, `5e0`
and `-0` are none of that). msgspec cannot be used here: it lets the last of two equal fields win.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["U32_MAX", "U64_MAX", "Fields", "JsonError", "JsonObject", "JsonValue", "parse_json"]

U32_MAX: Final = 2**32 - 1
U64_MAX: Final = 2**64 - 1
# Longer numbers are out of every range; `int` would take quadratic time for them.
_DIGITS_MAX: Final = 20

# An escape in a JSON string. Backslashes occur nowhere else in valid JSON.
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_HIGH_SURROGATES: Final = range(0xD800, 0xDC00)
_LOW_SURROGATES: Final = range(0xDC00, 0xE000)


class JsonError(Exception):
    """The text is not JSON, or a field is not what it has to be."""


class _NotWhole:
    """A number that is no unsigned whole number of up to 64 bits."""

    __slots__ = ()


class JsonObject:
    """An object with its fields in the order of the text, equal names and all."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, JsonValue]]) -> None:
        self.pairs = pairs


JsonValue: TypeAlias = "str | int | bool | list[JsonValue] | JsonObject | _NotWhole | None"

_NOT_WHOLE: Final = _NotWhole()


def _whole(text: str) -> JsonValue:
    return _NOT_WHOLE if text[0] == "-" or len(text) > _DIGITS_MAX else int(text)


def _refuse_constant(text: str) -> JsonValue:
    raise JsonError(f"{text} is not a JSON value")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=JsonObject,
    parse_int=_whole,
    parse_float=lambda _: _NOT_WHOLE,
    parse_constant=_refuse_constant,
)


def parse_json(text: str) -> JsonValue:
    """Parse a whole text. Raises JsonError."""
    try:
        value: JsonValue = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg} at line {error.lineno} column {error.colno}") from error
    except RecursionError as error:
        raise JsonError("nested too deeply") from error
    if "\\u" in text:
        _refuse_lone_surrogates(text)
    return value


def _refuse_lone_surrogates(text: str) -> None:
    # Where the escape of a low surrogate has to begin, after a high one.
    due_at = -1
    for escape in _ESCAPE.finditer(text):
        unit = int(escape[1], 16) if escape[1] else 0
        is_low = unit in _LOW_SURROGATES
        if is_low != (escape.start() == due_at) or (due_at >= 0 and not is_low):
            break
        due_at = escape.end() if unit in _HIGH_SURROGATES else -1
    else:
        if due_at < 0:
            return
    raise JsonError("lone surrogate escape")


class Fields:
    """The fields of an object that somebody asks for by name; unknown ones are ignored."""

    __slots__ = ("_object",)

    def __init__(self, value: JsonValue, what: str) -> None:
        """Take a value that has to be an object; `what` it is appears in errors."""
        if not isinstance(value, JsonObject):
            raise JsonError(f"{what} is not an object")
        self._object = value

    def require_once(self, names: Iterable[str]) -> None:
        """Refuse a known field that is given twice."""
        known = set(names)
        seen: set[str] = set()
        for name, _ in self._object.pairs:
            if name in seen:
                raise JsonError(f"duplicate field `{name}`")
            if name in known:
                seen.add(name)

    def text(self, name: str) -> str:
        """Return a string."""
        value = self._find(name)
        if not isinstance(value, str):
            raise JsonError(f"field `{name}` is not a string")
        return value

    def text_or_none(self, name: str) -> str | None:
        """Return a string, or None where there is none."""
        value = next((value for found, value in self._object.pairs if found == name), None)
        return value if isinstance(value, str) else None

    def number(self, name: str, maximum: int = U64_MAX) -> int:
        """Return an unsigned whole number."""
        value = self._find(name)
        # A bool is an int to Python.
        if type(value) is not int:
            raise JsonError(f"field `{name}` is not an unsigned whole number")
        if value > maximum:
            raise JsonError(f"field `{name}` is out of range")
        return value

    def number_or_none(self, name: str) -> int | None:
        """Return an unsigned whole number, or None where it is null or missing."""
        given = any(found == name and value is not None for found, value in self._object.pairs)
        return self.number(name) if given else None

    def array(self, name: str) -> list[JsonValue]:
        """Return an array."""
        value = self._find(name)
        if not isinstance(value, list):
            raise JsonError(f"field `{name}` is not an array")
        return value

    def _find(self, name: str) -> JsonValue:
        for found, value in self._object.pairs:
            if found == name:
                return value
        raise JsonError(f"missing field `{name}`")
