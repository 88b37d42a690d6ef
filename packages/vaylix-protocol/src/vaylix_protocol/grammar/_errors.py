"""The errors of the language in short form, and its numbers."""

from __future__ import annotations

import enum
import re
from typing import Final

from vaylix_protocol._constants import U64_MAX
from vaylix_protocol.errors import CommandError, ErrorCode

__all__ = ["Conflict", "bad_option", "conflict", "parse_number", "wrong_arity"]

_NUMBER: Final = re.compile(r"\+?[0-9]+")
# The longest number in range has 20 digits; a limit on the text keeps `int` cheap.
_SIGNIFICANT_DIGITS_MAX: Final = 20


class Conflict(enum.Enum):
    """Why options exclude each other, in the words of CMD-006 (commands spec 2.3)."""

    ONE_CONDITION = "only one of NX or XX may be specified"
    CONDITION_WITH_VERSION = "NX or XX cannot be combined with IF VERSION"
    VERSION_WITH_CONDITION = "IF VERSION cannot be combined with NX or XX"
    ONE_VERSION = "IF VERSION can only be specified once"
    ONE_EXPIRATION = "only one of EX or PX may be specified"
    EXPIRATION_WITH_KEEPTTL = "EX or PX cannot be combined with KEEPTTL"
    KEEPTTL_WITH_EXPIRATION = "KEEPTTL cannot be combined with EX or PX"
    ONE_KEEPTTL = "KEEPTTL can only be specified once"
    ONE_GET = "GET can only be specified once"
    ONE_PERSIST = "PERSIST can only be specified once"
    PERSIST_WITH_EXPIRATION = "PERSIST cannot be combined with EX or PX"
    ONE_MATCH = "MATCH can only be specified once"
    ONE_COUNT = "COUNT can only be specified once"

    def message(self, command: str) -> str:
        """Return the message of CMD-006 for `command`."""
        return ErrorCode.CMD_006.message(command=command, detail=self.value)


def wrong_arity(usage: str) -> CommandError:
    """CMD-003 with the usage of a command or of its family."""
    return CommandError.of(ErrorCode.CMD_003, usage=usage)


def bad_option(command: str, option: str) -> CommandError:
    """CMD-005 for an option, or a second keyword, that `command` does not have."""
    return CommandError.of(ErrorCode.CMD_005, command=command, option=option)


def conflict(command: str, why: Conflict) -> CommandError:
    """CMD-006 for options that exclude each other."""
    return CommandError(ErrorCode.CMD_006, why.message(command))


def parse_number(field: str, text: str, maximum: int = U64_MAX) -> int:
    """Return the number in `text`; raise CMD-004 if it is none, or beyond `maximum`."""
    if _NUMBER.fullmatch(text):
        digits = text.lstrip("+").lstrip("0") or "0"
        if len(digits) <= _SIGNIFICANT_DIGITS_MAX and int(digits) <= maximum:
            return int(digits)
    raise CommandError.of(ErrorCode.CMD_004, field=field, value=text)
