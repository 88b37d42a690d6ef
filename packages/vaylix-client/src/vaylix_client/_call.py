"""A call: one command together with how its reply becomes a Python value.

Calls are pure values. Building one sends nothing; a client (asyncio, blocking), a pool, a pipeline
or a transaction executes it, and all of them give back the type that the call names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from vaylix_client.errors import ClientError, InvalidCallError, server_error
from vaylix_protocol import (
    Auth,
    Bool,
    CountReply,
    Discard,
    Entries,
    ErrorCode,
    ErrorReply,
    Exec,
    Integer,
    Multi,
    NotFound,
    Ok,
    ScanPage,
    Strings,
    Value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_client._session import Outcome
    from vaylix_protocol import Command, Reply

__all__ = ["MISSING", "Call", "Missing", "Page"]

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Call(Generic[T_co]):
    """A command, the decoder of its reply, and whether it can change anything.

    `decode` raises the `ServerError` that an error reply stands for. `reads_only` is what makes a
    call eligible for `retry_reads`.
    """

    command: Command
    decode: Callable[[Reply], T_co]
    reads_only: bool = False

    def __post_init__(self) -> None:
        # Sent as single calls these would let other calls slip into the transaction.
        if isinstance(self.command, Multi | Exec | Discard):
            raise _refused(self.command, "transaction()")
        # A client has to know who it is: it logs in again, and a pool must not lend the identity.
        if isinstance(self.command, Auth):
            raise _refused(self.command, "auth() of a client")

    def result(self, outcome: Outcome) -> T_co:
        """Return what the call gives back, or raise the error that `outcome` is or stands for."""
        if isinstance(outcome, ClientError):
            raise outcome
        return self.decode(outcome)


def _refused(command: Command, purpose: str) -> InvalidCallError:
    what = f"{type(command).__name__.upper()}, which is what {purpose} is for"
    return InvalidCallError.of(ErrorCode.TRN_004, ErrorCode.TRN_004.message(what=what))


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""What `ttl()` returns for a key that does not exist."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a scan. `cursor` continues it and is opaque; 0 means that this was the last."""

    cursor: int
    keys: list[str]


# The codec decodes a reply strictly as its command demands (VTP2 section 7), so a decoder below
# meets its own kind or an error. Anything else is a bug in this package.


def _unexpected(reply: Reply) -> Exception:
    if isinstance(reply, ErrorReply):
        return server_error(reply)
    return AssertionError(f"the codec let {type(reply).__name__} through")


def nothing(reply: Reply) -> None:
    """OK."""
    if not isinstance(reply, Ok):
        raise _unexpected(reply)


def value(reply: Reply) -> bytes:
    """VALUE that cannot be absent."""
    if isinstance(reply, Value):
        return reply.data
    raise _unexpected(reply)


def optional_value(reply: Reply) -> bytes | None:
    """VALUE, or NOT_FOUND as `None`."""
    if isinstance(reply, Value):
        return reply.data
    if isinstance(reply, NotFound):
        return None
    raise _unexpected(reply)


def text(reply: Reply) -> str:
    """VALUE that is UTF-8 text by definition; damage in it is shown, not raised."""
    return value(reply).decode(errors="backslashreplace")


def flag(reply: Reply) -> bool:
    """BOOL."""
    if isinstance(reply, Bool):
        return reply.value
    raise _unexpected(reply)


def count(reply: Reply) -> int:
    """COUNT."""
    if isinstance(reply, CountReply):
        return reply.value
    raise _unexpected(reply)


def integer(reply: Reply) -> int:
    """INTEGER."""
    if isinstance(reply, Integer):
        return reply.value
    raise _unexpected(reply)


def remaining_seconds(reply: Reply) -> int | Missing | None:
    """INTEGER of TTL: -2 is no key, -1 no expiry (VTP2 section 6)."""
    seconds = integer(reply)
    if seconds == -2:
        return MISSING
    return None if seconds == -1 else seconds


def values(reply: Reply) -> list[bytes | None]:
    """STRINGS, absent ones as `None`."""
    if isinstance(reply, Strings):
        return list(reply.values)
    raise _unexpected(reply)


def entries(reply: Reply) -> dict[str, bytes]:
    """ENTRIES with opaque values, in the order received."""
    if isinstance(reply, Entries):
        return {key.decode(): data for key, data in reply.pairs}
    raise _unexpected(reply)


def text_entries(reply: Reply) -> dict[str, str]:
    """ENTRIES whose values are text by definition; damage is shown, not raised."""
    return {key: data.decode(errors="backslashreplace") for key, data in entries(reply).items()}


def page(reply: Reply) -> Page:
    """SCAN."""
    if isinstance(reply, ScanPage):
        return Page(reply.cursor, [key.decode() for key in reply.keys])
    raise _unexpected(reply)
