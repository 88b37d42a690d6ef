"""Request ids: time-ordered UUIDs (version 7) that are unique within one connection.

Layout (RFC 9562, section 5.7), most significant bit first: 48 bits Unix milliseconds, 4 bits
version, 12 bits fixed per connection, 2 bits variant, 62 bits counter. The counter alone makes an
id unique on its connection; it starts at a random number so that ids of different connections
differ too. Servers never look inside an id (VTP2 section 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RequestIds"]

_VERSION_7 = 7 << 76
_VARIANT = 0b10 << 62
_COUNTER_MASK = (1 << 62) - 1
_MILLISECONDS_MASK = (1 << 48) - 1


class RequestIds:
    """Makes the ids of one connection.

    `unix_milliseconds` is the clock, `seed` any random number: both come from outside, so that
    this class is deterministic. Ids of one instance never repeat and never decrease.
    """

    __slots__ = ("_counter", "_fixed", "_latest_milliseconds", "_unix_milliseconds")

    def __init__(self, unix_milliseconds: Callable[[], int], seed: int) -> None:
        self._unix_milliseconds = unix_milliseconds
        self._latest_milliseconds = 0
        self._fixed = _VERSION_7 | ((seed >> 61) & 0xFFF) << 64 | _VARIANT
        # The top bit stays clear, so that two to the power of 61 ids fit before it would wrap.
        self._counter = seed & (_COUNTER_MASK >> 1)

    def next_id(self) -> bytes:
        """Return the next id: 16 bytes, network order."""
        now = max(self._latest_milliseconds, self._unix_milliseconds())
        self._latest_milliseconds = now
        self._counter += 1
        assert self._counter <= _COUNTER_MASK, "2**61 requests on one connection"
        number = (now & _MILLISECONDS_MASK) << 80 | self._fixed | self._counter
        return number.to_bytes(16, "big")
