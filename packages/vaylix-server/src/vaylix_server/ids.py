"""UUID version 7 (RFC 9562 section 5.7): time first, then chance."""

from __future__ import annotations

__all__ = ["uuid7"]


def uuid7(unix_ms: int, chance: bytes) -> bytes:
    """Return 16 bytes made of 48 bits of time and 74 of the 80 random bits in `chance`."""
    assert len(chance) == 10
    value = (unix_ms & (2**48 - 1)) << 80 | int.from_bytes(chance, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return value.to_bytes(16, "big")
