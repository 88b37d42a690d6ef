"""The batch: the unit that is appended, sent, acknowledged, committed and cut.

A batch holds `count` commands in one opaque payload. It is made once, at one position, in one
term, and never split or merged afterwards. The log never looks inside, so a thousand small
commands cost it one Python call.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import Annotated, Final

import msgspec

__all__ = ["ENTRY_BYTES_MAX", "IDENTITY", "Batch", "BatchKind", "HardState"]

# The largest payload of one batch (architecture: "no entry exceeds 16 MiB").
ENTRY_BYTES_MAX: Final = 16 * 1024 * 1024
VOTE_BYTES_MAX: Final = 255

# first_index, count, term, kind, timestamp_ms: what the checksum covers before the payload.
IDENTITY: Final = struct.Struct(">QIQBQ")


class BatchKind(IntEnum):
    """What the payload of a batch is for."""

    NOOP = 0
    KEYSPACE = 1
    ACCESS = 2
    CONFIGURATION = 3
    SEMANTICS = 4


class Batch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`count` commands from `first_index` on, proposed in `term` at `timestamp_ms` (Unix time).

    `kind` is a `BatchKind`, or a number of the application's own. `checksum` is the identity of
    the batch: equal index and term with another checksum is corruption.
    """

    first_index: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    count: Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]
    term: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    kind: Annotated[int, msgspec.Meta(ge=0, le=255)]
    timestamp_ms: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    payload: Annotated[bytes, msgspec.Meta(max_length=ENTRY_BYTES_MAX)]
    checksum: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]

    @property
    def last_index(self) -> int:
        """Index of the last command of the batch."""
        return self.first_index + self.count - 1

    @classmethod
    def create(
        cls,
        *,
        first_index: int,
        count: int,
        term: int,
        kind: int,
        timestamp_ms: int,
        payload: bytes,
    ) -> Batch:
        """Make a batch and compute its checksum."""
        identity = IDENTITY.pack(first_index, count, term, kind, timestamp_ms)
        checksum = zlib.crc32(payload, zlib.crc32(identity))
        return cls(first_index, count, term, kind, timestamp_ms, payload, checksum)

    def verify(self) -> bool:
        """Tell whether the checksum fits: CRC-32 over the other fields, then the payload.

        The fields are first_index u64, count u32, term u64, kind u8, timestamp_ms u64, big endian.
        """
        identity = IDENTITY.pack(
            self.first_index, self.count, self.term, self.kind, self.timestamp_ms
        )
        return zlib.crc32(self.payload, zlib.crc32(identity)) == self.checksum


class HardState(msgspec.Struct, frozen=True, gc=False):
    """What a Raft node must not forget: its term, whom it voted for in it, and its commit index.

    `vote` is empty when no vote was given, else up to 255 bytes of the caller's choosing.
    """

    term: int = 0
    vote: bytes = b""
    commit: int = 0
