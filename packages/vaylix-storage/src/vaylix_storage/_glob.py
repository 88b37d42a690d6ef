"""The pattern language of SCAN, matched in bounded time (VTP2 commands section 6.6).

`*` is any run of characters, `?` exactly one code point, all else stands for itself. A pattern is
cut at its stars; the first piece is anchored at the start, the last at the end, and each piece in
between is taken at its leftmost place, which is never wrong. So nothing is tried twice: a piece
without `?` is found by the substring search of CPython, which is linear, and a piece with `?` by
shift-and, one step per character of the key. Backtracking, and with it the hostile pattern, does
not exist.
"""

from __future__ import annotations

__all__ = ["Glob"]


class _Piece:
    """A part of a pattern without stars."""

    __slots__ = ("_accept", "_masks", "_wild", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._accept = (1 << len(text)) >> 1
        self._wild = 0
        self._masks: dict[str, int] = {}
        for place, character in enumerate(text):
            if character == "?":
                self._wild |= 1 << place
        if self._wild:
            for place, character in enumerate(text):
                mask = self._masks.get(character, self._wild)
                self._masks[character] = mask | 1 << place

    @property
    def is_wild(self) -> bool:
        return self._wild != 0

    def fits(self, key: str, start: int) -> bool:
        """Tell whether the piece matches at `start`; the key must be long enough."""
        text = self.text
        if not self._wild:
            return key.startswith(text, start)
        there = key[start : start + len(text)]
        return all(mine in ("?", other) for mine, other in zip(text, there, strict=True))

    def find(self, key: str, start: int, end: int) -> int:
        """Return the leftmost place in `key[start:end]` where the piece matches, or -1."""
        if not self._wild:
            return key.find(self.text, start, end)
        state = 0
        masks, wild, accept = self._masks, self._wild, self._accept
        for place in range(start, end):
            # Bit n is set while the last n + 1 characters fit the first n + 1 of the piece.
            state = (state << 1 | 1) & masks.get(key[place], wild)
            if state & accept:
                return place + 1 - len(self.text)
        return -1


class Glob:
    """One pattern, ready to be matched against many keys."""

    __slots__ = ("_has_star", "_head", "_middle", "_tail", "cost_shift")

    def __init__(self, pattern: bytes) -> None:
        texts = pattern.decode(errors="surrogateescape").split("*")
        self._has_star = len(texts) > 1
        self._head = _Piece(texts[0])
        self._tail = _Piece(texts[-1])
        self._middle = [_Piece(text) for text in texts[1:-1] if text]
        # A key of n bytes costs about n >> cost_shift looks at a key.
        self.cost_shift = 3 if any(piece.is_wild for piece in self._middle) else 8

    def matches(self, key: bytes) -> bool:
        """Tell whether the whole key fits the pattern."""
        text = key.decode(errors="surrogateescape")
        head, tail = self._head, self._tail
        if not self._has_star:
            return len(text) == len(head.text) and head.fits(text, 0)
        start = len(head.text)
        end = len(text) - len(tail.text)
        if start > end or not head.fits(text, 0) or not tail.fits(text, end):
            return False
        for piece in self._middle:
            place = piece.find(text, start, end)
            if place < 0:
                return False
            start = place + len(piece.text)
        return True
