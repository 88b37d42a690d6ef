"""Which segments count, and every way in which that changes.

The segments before the active one are sealed: nothing is appended to them, and they are on the
disk as far as they count. Four changes are possible, and each is one file operation that a crash
sees as done or not done:

- `rotate` starts a segment behind the active one, which is complete;
- `cut` starts a segment whose header says that less of an older one counts;
- `reset` starts a segment that names no predecessor, so that nothing before it counts;
- `remove_before` takes the oldest segment away, and then the next.

The first three are `SegmentFiles.start`. In the last, the directory is synced after each removal,
so that what is left has no hole whatever the disk does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_storage._catalog import Mark
from vaylix_storage.errors import LogOrderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vaylix_storage._batch import Batch, HardState
    from vaylix_storage._catalog import SegmentInfo, SegmentStat
    from vaylix_storage._segment import SegmentWriter
    from vaylix_storage._segment_files import SegmentFiles

__all__ = ["SegmentChain"]


class SegmentChain:
    """The segments of an open log, oldest first, and the writer of the last. Raises OSError."""

    __slots__ = ("_files", "active", "sealed", "writer")

    def __init__(
        self,
        files: SegmentFiles,
        sealed: list[SegmentInfo],
        active: SegmentInfo,
        writer: SegmentWriter,
    ) -> None:
        self._files = files
        # Each of them has entries.
        self.sealed = sealed
        self.active = active
        self.writer = writer

    @property
    def first_index(self) -> int:
        """Index of the first entry, or that the first one would have."""
        return self.sealed[0].first_index if self.sealed else self.active.first_index

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments that count."""
        return sum(info.end.offset for info in self.sealed) + self.writer.position.offset

    def stats(self) -> tuple[SegmentStat, ...]:
        """Return what can be said about each segment without reading it."""
        sealed = [info.stat(is_sealed=True) for info in self.sealed]
        return (*sealed, self.active.stat(is_sealed=False))

    def rotate(self, hard_state: HardState) -> None:
        """End the active segment, which has entries; all of them are on the disk then."""
        old_info, old_writer = self.active, self.writer
        old_writer.finish()
        self.active, self.writer = self._files.start(
            old_info, old_info.last_index + 1, hard_state, ()
        )
        old_writer.close()
        self.sealed.append(old_info)
        self._files.tidy((old_info,), (), self.active.path)

    def cut(self, index: int, hard_state: HardState) -> None:
        """Start a segment after `index`, which is before the last index, durably.

        LogOrderError, with nothing changed, when `index` is inside a batch.
        """
        infos = [*self.sealed, self.active]
        sealed = [info for info in infos if info.first_index <= index]
        carried: list[Batch] = []
        if sealed:
            end, carried = self._find_cut(sealed[-1], index)
            if sealed[-1] is self.active:
                # What will count of it has to be on the disk before the new segment says so.
                self.writer.finish()
            # A copy: if what follows fails, what has been appended stays readable.
            sealed[-1] = sealed[-1].shortened(end)
            if not sealed[-1].has_entries:
                sealed.pop()
        first_index = carried[0].first_index if carried else index + 1
        self._replace(sealed, first_index, hard_state, carried)

    def reset(self, index: int, hard_state: HardState) -> None:
        """Forget all entries; the next one is `index` + 1."""
        self._replace([], index + 1, hard_state, [])

    def _replace(
        self,
        sealed: list[SegmentInfo],
        first_index: int,
        hard_state: HardState,
        carried: list[Batch],
    ) -> None:
        """Start a segment behind `sealed`, and remove all others."""
        old_writer = self.writer
        infos = [*self.sealed, self.active]
        predecessor = sealed[-1] if sealed else None
        self.active, self.writer = self._files.start(
            predecessor, first_index, hard_state, [carried] if carried else ()
        )
        old_writer.close()
        self.sealed = sealed
        kept = {info.path for info in sealed}
        superseded = [info.path for info in infos if info.path not in kept]
        self._files.tidy(sealed, superseded, self.active.path)

    def remove_before(self, index: int) -> list[Path]:
        """Remove the sealed segments without an entry from `index` on; return their paths."""
        removed = []
        while self.sealed and self.sealed[0].last_index < index:
            info = self.sealed.pop(0)
            self._files.remove(info)
            removed.append(info.path)
        return removed

    def close_cleanly(self) -> None:
        """Give the active segment, which has got its closing frame, the name of a clean stop."""
        self.writer.finish()
        self._files.name_closed(self.active)

    def read(self, first_index: int, last_index: int) -> Iterator[Batch]:
        """Yield the batches that hold entries between two indexes of the log, of now."""
        infos = [
            info
            for info in (*self.sealed, self.active)
            if info.last_index >= first_index and last_index >= info.first_index
        ]
        return _read(self._files, infos, first_index, last_index)

    def _find_cut(self, info: SegmentInfo, index: int) -> tuple[Mark, list[Batch]]:
        """Return where a segment stops to count, and which batches of the next frame still do."""
        before = info.mark_before(index)
        for start, end, batches in self._files.read_frames(info, before.position, info.end):
            if not batches:
                continue
            last = batches[-1]
            if last.last_index < index:
                before = Mark(end, last.last_index, last.timestamp_ms)
                continue
            kept = [batch for batch in batches if batch.last_index <= index]
            if not kept or kept[-1].last_index != index:
                raise LogOrderError(f"cannot cut after entry {index}: it is inside a batch")
            if len(kept) == len(batches):
                return Mark(end, index, last.timestamp_ms), []
            return Mark(start, before.last_index, before.last_timestamp_ms), kept
        raise AssertionError("an entry of a segment is in one of its frames")


def _read(
    files: SegmentFiles, infos: list[SegmentInfo], first_index: int, last_index: int
) -> Iterator[Batch]:
    for info in infos:
        start = info.mark_before(first_index).position
        for _, _, batches in files.read_frames(info, start, info.end):
            for batch in batches:
                if batch.first_index > last_index:
                    return
                if batch.last_index >= first_index:
                    yield batch
