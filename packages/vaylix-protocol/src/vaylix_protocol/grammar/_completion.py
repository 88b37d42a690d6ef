"""What a line editor wants to know while a command is being typed (commands spec 12.6)."""

from __future__ import annotations

from vaylix_protocol.grammar._lexer import fold
from vaylix_protocol.grammar._table import COMMANDS, USAGE

__all__ = ["command_phrase", "completions", "usage_hint"]


def completions(line: str) -> tuple[str, ...]:
    """Return the keywords that can stand at the end of `line`, sorted.

    Only words of the command table are offered, never operands. The last word, if no space follows
    it yet, is taken as the beginning of a keyword.
    """
    words = fold(line).split()
    prefix = words.pop() if words and not line[-1].isspace() else ""
    position = len(words)
    return tuple(
        sorted(
            {
                spec.keywords[position]
                for spec in COMMANDS
                if len(spec.keywords) > position
                and list(spec.keywords[:position]) == words
                and spec.keywords[position].startswith(prefix)
            }
        )
    )


def usage_hint(line: str) -> str:
    """Return what the usage has behind the command name that `line` consists of, else nothing."""
    name = " ".join(fold(line).split())
    usage = USAGE.get(name)
    return "" if usage is None else usage[len(name) :].lstrip()


def command_phrase(line: str) -> str:
    """Return the part of `line` that is a command name, the longest one that fits, else nothing.

    The words of the name are separated by single spaces, and the line goes on with a space or ends.
    """
    folded = fold(line) + " "
    names = (spec.name for spec in COMMANDS if folded.startswith(f"{spec.name} "))
    return line[: len(max(names, key=len, default=""))]
