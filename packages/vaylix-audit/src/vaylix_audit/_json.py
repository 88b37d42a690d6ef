"""One line of JSON, as strictly as the published server reads it, and in its words.

The standard decoder is exact but for what this module adds: no NaN or Infinity, no lone surrogate
escapes, and numbers that are whole, unsigned and in range (`1.0`, `5e0` and `-0` are none of that).
Where a text ends too early is told apart from a wrong one: only the former can be left by a crash.
"""

from __future__ import annotations

import json
import re
from typing import Final, TypeAlias

__all__ = ["U64_MAX", "JsonError", "JsonObject", "JsonValue", "encode_json", "parse_json"]

U64_MAX: Final = 2**64 - 1
# Longer numbers are out of every range; `int` would take quadratic time for them.
_DIGITS_MAX: Final = 20

# An escape in a JSON string. Backslashes occur nowhere else in valid JSON.
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_HIGH_SURROGATES: Final = range(0xD800, 0xDC00)
_LOW_SURROGATES: Final = range(0xDC00, 0xE000)

# What a text that was cut may end with, where a value or an escape was expected.
_CUT_LITERAL: Final = re.compile(r"-|t|tr|tru|f|fa|fal|fals|n|nu|nul")
# The standard decoder also wants something behind the fourth digit.
_CUT_ESCAPE: Final = re.compile(r"u[0-9a-fA-F]{0,4}")

# What the standard decoder finds, in the words of the published server; the second column is what
# it says when that is the end of the text.
_WORDS: Final = {
    "Expecting value": ("expected value", "a value"),
    "Expecting ',' delimiter": ("expected `,` or `}`", "an object"),
    "Expecting ':' delimiter": ("expected `:`", "an object"),
    "Expecting property name enclosed in double quotes": ("key must be a string", "an object"),
    "Unterminated string starting at": ('expected `"`', "a string"),
    "Invalid \\uXXXX escape": ("invalid escape", "a string"),
    "Invalid \\escape": ("invalid escape", "a string"),
    "Invalid control character at": (
        "control character (\\u0000-\\u001F) found while parsing a string",
        "a string",
    ),
    "Extra data": ("trailing characters", "a value"),
}


class JsonError(Exception):
    """The text is not JSON, or a field is not what it has to be.

    `is_cut` says that more text could have made it right.
    """

    def __init__(self, reason: str, *, is_cut: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_cut = is_cut


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
    if text[0] == "-" or len(text) > _DIGITS_MAX:
        return _NOT_WHOLE
    number = int(text)
    return number if number <= U64_MAX else _NOT_WHOLE


def _refuse_constant(text: str) -> JsonValue:
    raise JsonError(f"{text} is not a JSON value")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=JsonObject,
    parse_int=_whole,
    parse_float=lambda _: _NOT_WHOLE,
    parse_constant=_refuse_constant,
)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode_json(value: dict[str, str | int | dict[str, str] | None]) -> str:
    """Return compact JSON in the order of the fields; non-ASCII, `/` and DEL stay as they are."""
    return _ENCODER.encode(value)


def parse_json(text: str) -> JsonValue:
    """Parse a whole line. Raises JsonError, with the column in bytes."""
    try:
        value: JsonValue = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _in_our_words(error, text) from error
    except RecursionError as error:
        raise JsonError("recursion limit exceeded") from error
    if "\\u" in text:
        _refuse_lone_surrogates(text)
    return value


def _in_our_words(error: json.JSONDecodeError, text: str) -> JsonError:
    reason, unfinished = _WORDS.get(error.msg, (error.msg, "a value"))
    rest = text[error.pos :]
    is_cut = (
        not rest
        or error.msg == "Unterminated string starting at"
        or (error.msg == "Expecting value" and _CUT_LITERAL.fullmatch(rest) is not None)
        or (error.msg == "Invalid \\uXXXX escape" and _CUT_ESCAPE.fullmatch(rest) is not None)
    )
    if is_cut:
        column = len(text.encode())
        return JsonError(f"EOF while parsing {unfinished} at line 1 column {column}", is_cut=True)
    column = len(text[: error.pos].encode()) + 1
    return JsonError(f"{reason} at line 1 column {column}")


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
    raise JsonError("lone leading surrogate in hex escape")
