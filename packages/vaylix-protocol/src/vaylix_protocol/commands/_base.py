"""What the command classes share."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from vaylix_protocol._constants import Opcode, ReplyKind, TimeUnit

__all__ = ["CommandBase", "Expiration"]


class Expiration(msgspec.Struct, frozen=True, gc=False):
    """A time to live of `amount` times `unit`; 0 means that the key is gone at once."""

    unit: TimeUnit
    amount: int


class CommandBase(msgspec.Struct, frozen=True, gc=False):
    """Base of all commands that have an opcode.

    Commands hold nothing but numbers, text, bytes and tuples of these, so they cannot be part of
    a reference cycle. That is why the garbage collector need not know them (`gc=False`), which
    makes them cheaper to create.
    """

    opcode: ClassVar[Opcode]
    reply_kind: ClassVar[ReplyKind]
