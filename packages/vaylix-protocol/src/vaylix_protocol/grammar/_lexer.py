"""From a line of text to tokens (commands spec 1).

A token is a word or a quoted string; afterwards the two are interchangeable. Case folding is ASCII
only, here and everywhere in the language: `str.lower` would turn the Kelvin sign into a k.
"""

from __future__ import annotations

import re
from typing import Final

from vaylix_protocol.errors import CommandError, ErrorCode

__all__ = ["fold", "tokenize"]

_SEPARATORS: Final = " \t\n\r"
_WORD: Final = re.compile(r'[^ \t\n\r"]+')
# Up to the next quote that is not escaped; a backslash takes any character along.
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_UPPER_TO_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def fold(text: str) -> str:
    """Return `text` with the letters A to Z in lower case."""
    return text.translate(_UPPER_TO_LOWER)


def tokenize(line: str) -> list[str]:
    """Split `line` into tokens; raise CommandError CMD-008 if a quoted string does not end."""
    tokens: list[str] = []
    position = 0
    while position < len(line):
        if line[position] in _SEPARATORS:
            position += 1
        elif line[position] == '"':
            quoted = _QUOTED.match(line, position)
            if quoted is None:
                start = len(line[:position].encode(errors="surrogatepass"))
                raise CommandError.of(ErrorCode.CMD_008, start=start)
            tokens.append(_ESCAPE.sub(_unescape, quoted[1]))
            position = quoted.end()
        else:
            word = _WORD.match(line, position)
            assert word is not None
            tokens.append(word[0])
            position = word.end()
    return tokens


def _unescape(escape: re.Match[str]) -> str:
    character = escape[1]
    if character == "n":
        return "\n"
    if character == "t":
        return "\t"
    return character
