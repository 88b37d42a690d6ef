"""What recovery has opened and checked, kept in memory for whoever replays the log next.

A start goes through the log twice: recovery checks every frame, and then the state is built from
the batches behind the snapshot. To open a small frame costs more than to apply what is in it. So
recovery keeps those batches, encoded as they were in the frames, and the first read takes them from
here. There is a bound; what is beyond it is read from the segments, as by any later read.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from vaylix_storage._format import decode_batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vaylix_storage._batch import Batch
    from vaylix_storage._format import Body

__all__ = ["KEPT_BYTES_MAX", "KeptBatches"]

# As much as the body of the largest frame, for which there has to be room anyway.
KEPT_BYTES_MAX: Final = 64 * 1024 * 1024
# Small pieces are joined to blocks of this size or more: then they take no more memory than they
# have bytes. A read decodes one block at a time.
_BLOCK_BYTES: Final = 64 * 1024


class KeptBatches:
    """The batches behind entry `after_index`, as far as their bytes are within `bytes_max`.

    Once filled it does not change, so any thread may read it.
    """

    __slots__ = ("_after_index", "_block", "_block_bytes", "_blocks", "_bytes_left", "last_index")

    def __init__(self, after_index: int, bytes_max: int) -> None:
        self._after_index = after_index
        self._bytes_left = bytes_max
        self._blocks: list[bytes] = []
        # The pieces of the block that is being filled.
        self._block: list[bytes] = []
        self._block_bytes = 0
        # Of the last entry that is held; `after_index` if none is.
        self.last_index = after_index

    def add(self, data: bytes, body: Body, last_index: int) -> None:
        """Keep what continues the log up to `last_index`; `data` is what `body` was parsed from.

        What has no room ends the run: nothing behind it is kept either.
        """
        if last_index <= self.last_index:
            return
        size = len(data) - body.batches_start
        self._bytes_left -= size
        if self._bytes_left < 0:
            return
        self.last_index = last_index
        self._block.append(data[body.batches_start :])
        self._block_bytes += size
        if self._block_bytes >= _BLOCK_BYTES:
            self._blocks.append(b"".join(self._block))
            self._block.clear()
            self._block_bytes = 0

    def holds(self, index: int) -> bool:
        """Tell whether an entry is held."""
        return self._after_index < index <= self.last_index

    def read(self, first_index: int, last_index: int) -> Iterator[Batch]:
        """Return an iterator over the batches that hold entries between two indexes."""
        blocks = (*self._blocks, b"".join(self._block))
        return chain.from_iterable(_decode(block, first_index, last_index) for block in blocks)


def _decode(block: bytes, first_index: int, last_index: int) -> Sequence[Batch]:
    """Return the batches of a block, without those that are not wanted."""
    batches = decode_batches(block, 0)
    if batches and first_index <= batches[0].first_index and batches[-1].last_index <= last_index:
        return batches
    return [
        batch
        for batch in batches
        if first_index <= batch.last_index and batch.first_index <= last_index
    ]
