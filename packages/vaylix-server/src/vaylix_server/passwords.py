"""Argon2id password hashes as PHC strings (server spec 4.3).

Both functions take about 30 ms of one core and must run on a thread of their own, never on the
event loop.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

__all__ = ["DUMMY_HASH", "hash_password", "verify_password"]

_SALT_BYTES = 16
_TAG_BYTES = 32
_ITERATIONS = 2
_LANES = 1
_MEMORY_KIB = 19_456

# The hash of 32 random bytes that were thrown away, made with the parameters above. An unknown user
# is checked against it, so that its refusal takes as long as that of a known one.
DUMMY_HASH = (
    "$argon2id$v=19$m=19456,t=2,p=1$MNoMjyIYAiPfwpZRO0iu8Q"
    "$4xQiY76XMdeN2KhPlazOTLxQBFhicOjOYooUGCQrFl4"
)


def hash_password(password: str, *, salt: bytes | None = None) -> str:
    """Return the PHC string of `password`, salted afresh unless a 16-byte `salt` is given."""
    kdf = Argon2id(
        salt=salt if salt is not None else secrets.token_bytes(_SALT_BYTES),
        length=_TAG_BYTES,
        iterations=_ITERATIONS,
        lanes=_LANES,
        memory_cost=_MEMORY_KIB,
    )
    return kdf.derive_phc_encoded(password.encode())


def verify_password(password: str, phc: str) -> bool:
    """Compare in constant time, with the parameters found in `phc`; a broken `phc` never fits."""
    try:
        Argon2id.verify_phc_encoded(password.encode(), phc)
    except (InvalidKey, ValueError):
        return False
    return True
