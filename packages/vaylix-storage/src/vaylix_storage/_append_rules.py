"""What every log asks of the batches that it is given, before it writes any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaylix_storage._batch import ENTRY_BYTES_MAX
from vaylix_storage._format import BATCH_OVERHEAD_BYTES, FRAME_BODY_BYTES_MAX
from vaylix_storage.errors import CorruptionError, EntryTooLargeError, LogOrderError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaylix_storage._batch import Batch

__all__ = ["check_append"]

# More than a hard state takes in a frame.
_OVERHEAD_BYTES: Final = 512


def check_append(batches: Sequence[Batch], last_index: int, last_term: int) -> None:
    """Check that batches continue a log that ends like this, and fit into one frame.

    Raises EntryTooLargeError, LogOrderError, CorruptionError.
    """
    body_bytes = _OVERHEAD_BYTES
    for batch in batches:
        payload_bytes = len(batch.payload)
        if payload_bytes > ENTRY_BYTES_MAX:
            raise EntryTooLargeError(
                f"a batch of {payload_bytes} bytes exceeds {ENTRY_BYTES_MAX} bytes"
            )
        body_bytes += payload_bytes + BATCH_OVERHEAD_BYTES
        if batch.first_index != last_index + 1 or batch.count < 1 or batch.term < last_term:
            raise LogOrderError(
                f"batch {batch.first_index} of term {batch.term} cannot follow entry "
                f"{last_index} of term {last_term}"
            )
        if not batch.verify():
            raise CorruptionError(f"batch {batch.first_index} does not fit its checksum")
        last_index = batch.last_index
        last_term = batch.term
    if body_bytes > FRAME_BODY_BYTES_MAX:
        raise EntryTooLargeError(
            f"an append of {body_bytes} bytes exceeds {FRAME_BODY_BYTES_MAX} bytes"
        )
