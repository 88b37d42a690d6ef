"""SCAN: walking the keys in the order of their hash (VTP2 commands section 6.6, as amended).

The position of a key is 64 bits: CRC-32 of the key, then 32 bits of BLAKE2b, which only matter
where CRCs are equal. The cursor is the position of the first key not yet looked at. Positions
depend on the key alone, so a cursor means the same on every node and after a restart, and a key
that exists during the whole scan is passed exactly once: writes move no other key.

A call looks at a bounded number of keys and may therefore return a short page; long keys end it
sooner, so that the keys of a page take little more than 1 MiB. All SCANs of a transaction share
one bound, but each looks at one key at least: a cursor always moves.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final
from zlib import crc32

from vaylix_storage._glob import Glob
from vaylix_storage._packing import expiry_of
from vaylix_storage._results import ScanPage
from vaylix_storage._table import SHARD_BITS, SHARD_COUNT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaylix_storage._entry import Shard

__all__ = ["LOOKS_MAX", "PAGE_KEYS_DEFAULT", "scan_page"]

PAGE_KEYS_DEFAULT: Final = 10
# Keys looked at in one call or transaction; also the longest page.
LOOKS_MAX: Final = 4096
# A key on the page counts as one more look for each 256 bytes.
_LOOK_SHIFT: Final = 8
_POSITION_SHIFT: Final = 64 - SHARD_BITS


def scan_page(
    shards: Sequence[Shard],
    cursor: int,
    pattern: bytes | None,
    count: int | None,
    now_ms: int,
    *,
    looks_max: int,
) -> tuple[ScanPage, int]:
    """Return the next page from `cursor` on, and how often it looked at a key.

    A cursor past the end yields the end. `looks_max` counts as one at least.
    """
    wanted = PAGE_KEYS_DEFAULT if count is None else min(max(count, 1), LOOKS_MAX)
    glob = None if pattern is None else Glob(pattern)
    found: list[bytes] = []
    looks = 0
    looks_max = max(looks_max, 1)
    shard_index = _next_filled(shards, cursor >> _POSITION_SHIFT)
    while shard_index < SHARD_COUNT:
        shard = shards[shard_index]
        last_position = -1
        for position, key in _ordered(shard, cursor):
            if (len(found) >= wanted or looks >= looks_max) and position != last_position:
                return ScanPage(position, sorted(found)), looks
            last_position = position
            looks += 1
            expires_at_ms = expiry_of(shard[key])
            if 0 < expires_at_ms <= now_ms:
                continue
            if glob is not None:
                looks += len(key) >> glob.cost_shift
                if not glob.matches(key):
                    continue
            looks += len(key) >> _LOOK_SHIFT
            found.append(key)
        shard_index = _next_filled(shards, shard_index + 1)
        if shard_index < SHARD_COUNT and (len(found) >= wanted or looks >= looks_max):
            return ScanPage(shard_index << _POSITION_SHIFT, sorted(found)), looks
    return ScanPage(0, sorted(found)), looks


def _next_filled(shards: Sequence[Shard], shard_index: int) -> int:
    while shard_index < SHARD_COUNT and not shards[shard_index]:
        shard_index += 1
    return shard_index


def _ordered(shard: Shard, cursor: int) -> list[tuple[int, bytes]]:
    """Return the keys of a shard from `cursor` on with their positions, in order.

    Where all CRCs differ and the cursor has no lower half, the lower halves cannot matter and are
    left 0: BLAKE2b costs ten times what all the rest does.
    """
    hashes = {crc32(key): key for key in shard}
    if len(hashes) == len(shard) and not cursor & 0xFFFFFFFF:
        return sorted((upper << 32, key) for upper, key in hashes.items() if upper << 32 >= cursor)
    positions = ((crc32(key) << 32 | _lower_half(key), key) for key in shard)
    return sorted(item for item in positions if item[0] >= cursor)


def _lower_half(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=4).digest(), "big")
