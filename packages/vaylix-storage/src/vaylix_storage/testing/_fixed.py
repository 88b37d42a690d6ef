"""Chance and keys that are the same in every run."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from vaylix_storage._keyring import KEY_ID_BYTES, Keyring

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["counting_random_bytes", "fixed_keyring"]


def counting_random_bytes(seed: int = 0) -> Callable[[int], bytes]:
    """Return a source of bytes that look random and are the same in every run."""
    counter = seed << 32

    def random_bytes(size: int) -> bytes:
        nonlocal counter
        counter += 1
        assert size <= 64
        return blake2b(counter.to_bytes(8, "big"), digest_size=size).digest()

    return random_bytes


def fixed_keyring() -> Keyring:
    """Return a keyring with one well-known key, without any file."""
    key_id = b"k" * KEY_ID_BYTES
    return Keyring(key_id, {key_id: b"s" * 32})
