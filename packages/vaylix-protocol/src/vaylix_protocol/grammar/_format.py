"""Replies as text for people (commands spec 12.8), the text of HELP (12.9), and its page."""

from __future__ import annotations

import enum
import json
import unicodedata
from typing import TYPE_CHECKING, Final, TypeAlias

from vaylix_protocol._replies import (
    Bool,
    CountReply,
    Entries,
    ErrorReply,
    ExecResults,
    Integer,
    Json,
    NotFound,
    Ok,
    Queued,
    Reply,
    ScanPage,
    Strings,
    Value,
)
from vaylix_protocol.grammar._table import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["OutputMode", "commands_markdown", "format_reply", "help_text"]

Row: TypeAlias = tuple[str, str]

_WIDE: Final = frozenset(("W", "F"))


class OutputMode(enum.Enum):
    """How entries are shown. All other replies look the same in every mode."""

    PLAIN = "plain"
    TABLE = "table"
    JSON = "json"


def format_reply(reply: Reply, mode: OutputMode = OutputMode.PLAIN) -> str:
    """Return `reply` as text, without a newline at the end.

    Data that is not UTF-8 is shown as `0x` and hexadecimal digits, keys and values of entries
    included. Entries are sorted by key, then value; inside EXEC they keep the order of the server.
    """
    if isinstance(reply, ErrorReply):
        return f"ERROR [{reply.code}] {reply.name}: {reply.message}"
    if isinstance(reply, Entries):
        return _format_entries(sorted(_rows(reply)), mode)
    if isinstance(reply, ScanPage):
        return _format_page(reply, empty="(empty)")
    if isinstance(reply, ExecResults):
        return "\n".join(_format_result(result) for result in reply.results)
    return _format_simple(reply)


def help_text() -> str:
    """Return the text of HELP, without a newline at the end."""
    table = _format_table(("command", "usage"), [(spec.name, spec.usage) for spec in COMMANDS])
    return f"Vaylix command help\n\n{table}"


def commands_markdown() -> str:
    """Render the command table as a Markdown table, for the documentation."""
    rows = ["| Command | What it does | Answer |", "| --- | --- | --- |"]
    for spec in COMMANDS:
        usage = spec.usage.replace("|", "\\|")
        summary = spec.summary if spec.alias_of is None else f"The same as `{spec.alias_of}`"
        answer = "" if spec.reply_kind is None else spec.reply_kind.value
        rows.append(f"| `{usage}` | {summary} | {answer} |")
    return "\n".join(rows) + "\n"


def _format_simple(reply: Reply) -> str:
    match reply:
        case Ok():
            return "OK"
        case NotFound():
            return "NOT_FOUND"
        case Queued():
            return "QUEUED"
        case Value(data) | Json(data):
            return _format_data(data)
        case Bool(value):
            return "true" if value else "false"
        case CountReply(value) | Integer(value):
            return str(value)
        case Strings(values):
            return ", ".join("(nil)" if item is None else _format_data(item) for item in values)
    raise TypeError(f"not a reply: {reply!r}")


def _format_data(data: bytes) -> str:
    """Return `data` as text if it is UTF-8, else as `0x` and hexadecimal digits."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"0x{data.hex()}"


def _format_result(reply: Reply) -> str:
    """Format one result of EXEC, where the output mode does not matter."""
    if isinstance(reply, Entries):
        return _format_plain(_rows(reply))
    if isinstance(reply, ScanPage):
        return _format_page(reply, empty="")
    return _format_simple(reply)


def _format_page(page: ScanPage, *, empty: str) -> str:
    keys = ", ".join(_format_data(key) for key in page.keys)
    return f"cursor={page.cursor}, keys=[{keys if page.keys else empty}]"


def _rows(entries: Entries) -> list[Row]:
    return [(_format_data(key), _format_data(value)) for key, value in entries.pairs]


def _format_entries(rows: Sequence[Row], mode: OutputMode) -> str:
    if mode is OutputMode.JSON:
        items = [{"key": key, "value": value} for key, value in rows]
        return json.dumps(items, indent=2, ensure_ascii=False)
    if mode is OutputMode.TABLE:
        return _format_table(("key", "value"), rows)
    return _format_plain(rows)


def _format_plain(rows: Iterable[Row]) -> str:
    return ", ".join(f"{key}={value}" for key, value in rows)


def _format_table(header: Row, rows: Sequence[Row]) -> str:
    everything = [header, *rows]
    left = max(_width(key) for key, _ in everything)
    right = max(_width(value) for _, value in everything)
    lines = [f"{_pad(key, left)} | {_pad(value, right)}" for key, value in everything]
    lines.insert(1, "-" * left + "-+-" + "-" * right)
    return "\n".join(lines)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Return how many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1
