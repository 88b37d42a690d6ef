"""The three commands with options in any order: SET, GETEX and SCAN (commands spec 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from vaylix_protocol._constants import U16_MAX, SetCondition, TimeUnit
from vaylix_protocol._primitives import encode_text
from vaylix_protocol.commands import Expiration, GetEx, Scan, Set
from vaylix_protocol.grammar._errors import (
    Conflict,
    bad_option,
    conflict,
    parse_number,
    wrong_arity,
)
from vaylix_protocol.grammar._lexer import fold
from vaylix_protocol.grammar._table import USAGE

__all__ = ["parse_getex", "parse_scan", "parse_set"]

Tokens: TypeAlias = Sequence[str]

# Unit, and the name of the number in error messages.
_UNITS: Final = {
    "ex": (TimeUnit.SECONDS, "seconds"),
    "px": (TimeUnit.MILLISECONDS, "milliseconds"),
}
_CONDITIONS: Final = {"nx": SetCondition.NX, "xx": SetCondition.XX}


class _Options:
    """Walks the options of one command from left to right."""

    def __init__(self, command: str, tokens: Tokens) -> None:
        self.command = command
        self._tokens = tokens
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._tokens)

    def take(self) -> str:
        """Take the next token as it was typed; CMD-003 if there is none."""
        if not self:
            raise wrong_arity(USAGE[self.command])
        token = self._tokens[self._position]
        self._position += 1
        return token

    def peek_keyword(self) -> str | None:
        """Return the next token folded, without taking it."""
        return fold(self._tokens[self._position]) if self else None

    def take_expiration(self, keyword: str) -> Expiration:
        """Take the amount that belongs to EX or PX."""
        unit, field = _UNITS[keyword]
        return Expiration(unit, parse_number(field, self.take()))

    def conflict(self, why: Conflict) -> Exception:
        """CMD-006 for this command."""
        return conflict(self.command, why)


def parse_set(tokens: Tokens) -> Set:
    """Parse SET with its options."""
    if len(tokens) < 3:
        raise wrong_arity(USAGE["set"])
    options = _SetOptions(_Options("set", tokens[3:]))
    options.parse()
    return Set(
        encode_text(tokens[1]),
        encode_text(tokens[2]),
        options.condition,
        options.expiration,
        options.keep_ttl,
        options.return_previous,
        options.if_version,
    )


class _SetOptions:
    """What the options of a SET have said so far. Each method below judges one of them."""

    def __init__(self, options: _Options) -> None:
        self._options = options
        self.condition = SetCondition.NONE
        self.expiration: Expiration | None = None
        self.keep_ttl = False
        self.return_previous = False
        self.if_version: int | None = None

    def parse(self) -> None:
        """Take all options."""
        options = self._options
        while options:
            typed = options.take()
            keyword = fold(typed)
            if keyword in _CONDITIONS:
                self._set_condition(_CONDITIONS[keyword])
            elif keyword == "if":
                self._set_version(typed)
            elif keyword in _UNITS:
                self._set_expiration(keyword)
            elif keyword == "keepttl":
                self._set_keep_ttl()
            elif keyword == "get":
                self._set_return_previous()
            else:
                raise bad_option("set", keyword)

    def _set_condition(self, condition: SetCondition) -> None:
        if self.condition is not SetCondition.NONE:
            raise self._options.conflict(Conflict.ONE_CONDITION)
        if self.if_version is not None:
            raise self._options.conflict(Conflict.CONDITION_WITH_VERSION)
        self.condition = condition

    def _set_version(self, typed: str) -> None:
        options = self._options
        if options.peek_keyword() != "version":
            raise bad_option("set", typed)
        options.take()
        if self.condition is not SetCondition.NONE:
            raise options.conflict(Conflict.VERSION_WITH_CONDITION)
        version = parse_number("version", options.take())
        if self.if_version is not None:
            raise options.conflict(Conflict.ONE_VERSION)
        self.if_version = version

    def _set_expiration(self, keyword: str) -> None:
        expiration = self._options.take_expiration(keyword)
        if self.keep_ttl:
            raise self._options.conflict(Conflict.EXPIRATION_WITH_KEEPTTL)
        if self.expiration is not None:
            raise self._options.conflict(Conflict.ONE_EXPIRATION)
        self.expiration = expiration

    def _set_keep_ttl(self) -> None:
        if self.keep_ttl:
            raise self._options.conflict(Conflict.ONE_KEEPTTL)
        if self.expiration is not None:
            raise self._options.conflict(Conflict.KEEPTTL_WITH_EXPIRATION)
        self.keep_ttl = True

    def _set_return_previous(self) -> None:
        if self.return_previous:
            raise self._options.conflict(Conflict.ONE_GET)
        self.return_previous = True


def parse_getex(tokens: Tokens) -> GetEx:
    """Parse GETEX: at most four tokens, so two expirations are an arity error."""
    if not 2 <= len(tokens) <= 4:
        raise wrong_arity(USAGE["getex"])
    options = _Options("getex", tokens[2:])
    expiration: Expiration | None = None
    persist = False
    while options:
        keyword = fold(options.take())
        if keyword == "persist":
            if persist:
                raise options.conflict(Conflict.ONE_PERSIST)
            persist = True
        elif keyword in _UNITS:
            if persist:
                raise options.conflict(Conflict.PERSIST_WITH_EXPIRATION)
            expiration = options.take_expiration(keyword)
        else:
            raise bad_option("getex", keyword)
    return GetEx(encode_text(tokens[1]), expiration, persist)


def parse_scan(tokens: Tokens) -> Scan:
    """Parse SCAN with its options."""
    if len(tokens) < 2:
        raise wrong_arity(USAGE["scan"])
    cursor = parse_number("cursor", tokens[1])
    options = _Options("scan", tokens[2:])
    pattern: str | None = None
    count: int | None = None
    while options:
        keyword = fold(options.take())
        if keyword == "match":
            if pattern is not None:
                raise options.conflict(Conflict.ONE_MATCH)
            pattern = options.take()
        elif keyword == "count":
            if count is not None:
                raise options.conflict(Conflict.ONE_COUNT)
            count = parse_number("count", options.take(), U16_MAX)
        else:
            raise bad_option("scan", keyword)
    return Scan(cursor, pattern, count)
