"""What a command answers: plain Python values, and a few types where none fits.

| wire result | here |
| --- | --- |
| OK, NOT_FOUND | `Answer.OK`, `Answer.NOT_FOUND` |
| VALUE | `bytes` |
| BOOL | `bool` |
| COUNT, INT | `int`; the command tells which |
| STRINGS | `tuple` of `bytes` or None |
| SCAN | `ScanPage` |
| ENTRIES of LIST | `list` of (key, value) |
| EXEC | `ExecResult` |
| ERROR | `CommandFailure` |
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

import msgspec

__all__ = [
    "Answer",
    "CommandFailure",
    "ExecResult",
    "FailureCode",
    "Result",
    "ScanPage",
    "SimpleResult",
]


class Answer(Enum):
    """The two answers without content."""

    OK = "ok"
    NOT_FOUND = "not found"


class FailureCode(Enum):
    """Why a command was refused; the values are codes of the error catalogue."""

    NOT_AN_INTEGER = "ENG-015"
    NUMERIC_OVERFLOW = "ENG-016"
    LIST_TOO_LARGE = "SRV-013"
    NO_SUCH_RESTORE = "ENG-011"


class CommandFailure(msgspec.Struct, frozen=True, gc=False):
    """A command that was refused and changed nothing.

    `key` is the key that it stumbled over and `value` what was found there, if that matters.
    """

    code: FailureCode
    key: bytes = b""
    value: bytes = b""

    @property
    def message(self) -> str:
        """The text of the error, as VTP2 commands section 6.5 words it (without a prefix)."""
        key = self.key.decode(errors="replace")
        if self.code is FailureCode.NOT_AN_INTEGER:
            value = self.value.decode(errors="replace")
            return f"value for key '{key}' is not a valid integer: {value}"
        if self.code is FailureCode.NUMERIC_OVERFLOW:
            return f"numeric overflow for key '{key}'"
        if self.code is FailureCode.NO_SUCH_RESTORE:
            return "invalid storage operation: this restore was given up or has lost a part"
        return "the keyspace is too large for one LIST; use SCAN"


class ScanPage(msgspec.Struct, frozen=True, gc=False):
    """Keys of one SCAN call, sorted, and the cursor of the next call; 0 means the end."""

    cursor: int
    keys: list[bytes]


SimpleResult: TypeAlias = (
    Answer
    | bytes
    | bool
    | int
    | tuple[bytes | None, ...]
    | ScanPage
    | list[tuple[bytes, bytes]]
    | CommandFailure
)


class ExecResult(msgspec.Struct, frozen=True):
    """One result for each command of an EXEC that was carried out."""

    results: tuple[SimpleResult, ...]


Result: TypeAlias = SimpleResult | ExecResult
