"""Small entries as one string of bytes: the version (8 bytes), then the value.

Why: a million keys are far more than fits the caches of a processor, and what is not there costs a
tenth of a microsecond a piece. An entry whose value and version are objects of their own is three
pieces to read, and to free when it is replaced; a string is one. It takes about 50 bytes less, too.

Entries that expire are rare, and copying a large value costs more than a piece of memory; both stay
as they are. Which form an entry has depends on the entry alone, so equal entries are held alike.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from vaylix_storage._entry import Entry, Held, Shard

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "PACKED_VALUE_BYTES_MAX",
    "VERSION",
    "VERSION_1",
    "VERSION_BYTES",
    "expiry_of",
    "live_value",
    "pack",
    "pack_plain",
    "unpack",
    "unpack_all",
    "value_bytes_of",
    "version_of",
]

# With its version and the 33 bytes of a bytes object still one that CPython calls small, 512 bytes.
PACKED_VALUE_BYTES_MAX: Final = 448

VERSION: Final = Struct("<Q")
VERSION_BYTES: Final = VERSION.size
VERSION_1: Final = VERSION.pack(1)
# Looked up once; and compiled code needs to be told what comes out.
_encode_version: Final[Callable[[int], bytes]] = VERSION.pack
_decode_version: Final[Callable[[bytes], tuple[int]]] = VERSION.unpack_from


def pack(entry: Entry) -> Held:
    """Return the form in which an entry is held."""
    return entry if entry.expires_at_ms else pack_plain(entry.value, entry.version)


def pack_plain(value: bytes, version: int) -> Held:
    """Return the form in which an entry is held that never expires."""
    if len(value) > PACKED_VALUE_BYTES_MAX:
        return Entry(value, version, 0)
    return _encode_version(version) + value


def unpack(held: Held) -> Entry:
    """Return the entry that is held."""
    if isinstance(held, bytes):
        return Entry(held[VERSION_BYTES:], _decode_version(held)[0], 0)
    return held


def unpack_all(shard: Shard) -> dict[bytes, Entry]:
    """Return the entries that a shard holds."""
    return {key: unpack(held) for key, held in shard.items()}


def live_value(held: Held, now_ms: int) -> bytes | None:
    """Return the value of the entry that is held, None if it is dead by now."""
    if isinstance(held, bytes):
        return held[VERSION_BYTES:]
    return None if 0 < held.expires_at_ms <= now_ms else held.value


def value_bytes_of(held: Held) -> int:
    """Return the length of the value of the entry that is held."""
    return len(held) - VERSION_BYTES if isinstance(held, bytes) else len(held.value)


def version_of(held: Held) -> int:
    """Return the version of the entry that is held."""
    return _decode_version(held)[0] if isinstance(held, bytes) else held.version


def expiry_of(held: Held) -> int:
    """Return when the entry that is held expires, 0 for never."""
    return 0 if isinstance(held, bytes) else held.expires_at_ms
