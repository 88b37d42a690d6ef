"""What decoding takes at most, so that whoever makes a message knows what its readers take."""

from __future__ import annotations

__all__ = [
    "BATCHES_MAX",
    "CHUNK_BYTES_MAX",
    "NAME_BYTES_MAX",
    "PAYLOAD_BYTES_MAX",
    "SEMANTICS_VERSION_MAX",
]

# Batches in one append.
BATCHES_MAX = 65_536
# The data of one piece of a snapshot.
CHUNK_BYTES_MAX = 16 * 1024 * 1024
# The name of a node or of a group, in UTF-8: a vote has this much room on the disk.
NAME_BYTES_MAX = 255
# The payload of one batch.
PAYLOAD_BYTES_MAX = 16 * 1024 * 1024
# A version of the semantics: four bytes in its entry.
SEMANTICS_VERSION_MAX = 2**32 - 1
