"""The batch: the unit that is proposed, persisted, sent, acknowledged, committed and cut.

A batch holds `count` entries of the log in one opaque payload. It is made by one leader, at one
position, in one term, and is never split or merged afterwards. So two logs that hold the same
index in the same term hold the same batch there, boundaries included; everything that speaks of
batches instead of entries rests on this.
"""

import struct
import zlib
from enum import IntEnum
from typing import Annotated, Self

import msgspec

from vaylix_replication._limits import NAME_BYTES_MAX, PAYLOAD_BYTES_MAX
from vaylix_replication.errors import InvalidNameError

__all__ = [
    "Batch",
    "BatchKind",
    "Identifier",
    "Number",
    "batch_cost_bytes",
    "check_name",
    "find_fault",
]

_NUMBER_MAX = 2**63 - 1
_COUNT_MAX = 2**32 - 1
_KIND_MAX = 255

# A counter of the protocol: an index, a term, a round, a number of bytes.
Number = Annotated[int, msgspec.Meta(ge=0, le=_NUMBER_MAX)]
# The name of a node or of a group; `check_name` tells the rest.
Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_BYTES_MAX)]

# What a batch weighs beyond its payload, in memory and on the wire, rounded up.
_OVERHEAD_BYTES = 64
_HEADER = struct.Struct(">QIQBQ")


class BatchKind(IntEnum):
    """The kinds that the core itself understands; it carries any other kind without looking."""

    NOOP = 0
    CONFIGURATION = 3
    SEMANTICS = 4


class Batch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """`count` entries from `first_index` on, proposed in `term` at `timestamp_ms`.

    `kind` is a `BatchKind` or a number of the application's own. `checksum` is an identity: equal
    index and term with another checksum is corruption (VTP replication 19.1).
    """

    first_index: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    count: Annotated[int, msgspec.Meta(ge=1, le=_COUNT_MAX)]
    term: Number
    kind: Annotated[int, msgspec.Meta(ge=0, le=_KIND_MAX)]
    timestamp_ms: Number
    payload: Annotated[bytes, msgspec.Meta(max_length=PAYLOAD_BYTES_MAX)]
    checksum: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]

    @property
    def last_index(self) -> int:
        """Index of the last entry of the batch."""
        return self.first_index + self.count - 1

    @classmethod
    def create(
        cls,
        *,
        first_index: int,
        term: int,
        kind: int,
        payload: bytes,
        count: int = 1,
        timestamp_ms: int = 0,
    ) -> Self:
        """Make a batch and compute its checksum."""
        header = _HEADER.pack(first_index, count, term, kind, timestamp_ms)
        checksum = zlib.crc32(payload, zlib.crc32(header))
        return cls(first_index, count, term, kind, timestamp_ms, payload, checksum)

    def verify(self) -> bool:
        """Tell whether the checksum fits the rest: CRC-32 of the header fields, then the payload.

        The header is first_index u64, count u32, term u64, kind u8, timestamp_ms u64, big endian.
        """
        header = _HEADER.pack(self.first_index, self.count, self.term, self.kind, self.timestamp_ms)
        return zlib.crc32(self.payload, zlib.crc32(header)) == self.checksum


def check_name(name: str) -> None:
    """Raise `InvalidNameError` unless a name is 1 to 255 bytes of UTF-8."""
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"the name {name!a} is not valid Unicode") from error
    if not 1 <= size_bytes <= NAME_BYTES_MAX:
        raise InvalidNameError(
            f"a name must have 1 to {NAME_BYTES_MAX} bytes of UTF-8, not {size_bytes}"
        )


def find_fault(batch: Batch) -> str | None:
    """Return why no peer could read a batch, None if every peer can."""
    if len(batch.payload) > PAYLOAD_BYTES_MAX:
        return f"its payload has {len(batch.payload)} bytes, more than {PAYLOAD_BYTES_MAX}"
    if not 1 <= batch.count <= _COUNT_MAX:
        return f"its count is {batch.count}"
    if not 0 <= batch.kind <= _KIND_MAX:
        return f"its kind is {batch.kind}"
    if not 0 <= batch.timestamp_ms <= _NUMBER_MAX:
        return f"its time is {batch.timestamp_ms}"
    if not batch.verify():
        return "its checksum does not fit"
    return None


def batch_cost_bytes(batch: Batch) -> int:
    """Return what a batch counts for in every bound that is given in bytes."""
    return len(batch.payload) + _OVERHEAD_BYTES
