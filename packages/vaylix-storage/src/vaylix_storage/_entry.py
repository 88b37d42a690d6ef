"""What a key holds: an entry, and the forms in which a shard keeps it."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

__all__ = ["Before", "Entry", "Held", "Shard"]


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """The value of a key, its version from 1 on, and when it expires: absolute, 0 for never.

    It is a struct that the garbage collector does not know. Tuples leave the collector's youngest
    generation only when that is collected, which allocations less releases bring about; writes that
    replace one entry by another never do, until a million of them are looked at in one go.
    """

    value: bytes
    version: Annotated[int, msgspec.Meta(ge=1)]
    expires_at_ms: Annotated[int, msgspec.Meta(ge=0)]


# A small entry that never expires is kept as one string, any other as it is; see `_packing`.
Held: TypeAlias = bytes | Entry
Shard: TypeAlias = dict[bytes, Held]
# What keys of a shard held before they changed; None for keys that were not there.
Before: TypeAlias = dict[bytes, Held | None]
