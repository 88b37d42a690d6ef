"""The segments of a directory and of its archive as pieces of one log, with their gaps.

The log of the directory itself has to be good: `recover` is asked, as at a start. What the archive
adds may have holes, and may be damaged: a piece ends where it cannot be read on, and the next one
does not continue it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vaylix_storage._batch import BatchKind
from vaylix_storage._catalog import SegmentInfo
from vaylix_storage._directory import has_log_begun
from vaylix_storage._format import Predecessor
from vaylix_storage._names import WAL_NAME
from vaylix_storage._recovery import LogBase, read_segment_header, recover
from vaylix_storage._vfs import files_are_equal, files_begin_alike
from vaylix_storage.errors import CorruptionError, KeyringError
from vaylix_storage.offline._examination import missing_log
from vaylix_storage.offline._segments import SegmentWalk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaylix_storage._archive import ArchivedTimeline
    from vaylix_storage._batch import Batch
    from vaylix_storage._format import Body
    from vaylix_storage._keyring import Keyring
    from vaylix_storage._vfs import Vfs

__all__ = ["PastLog", "PastSegment", "read_past_log"]


class PastSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment, as far as it can be read; without entries, `last_index` is `first_index` - 1.

    `continues` says that its first entry follows the last one of the segment before it.
    """

    path: Path
    number: int
    first_index: int
    last_index: int
    first_timestamp_ms: int
    last_timestamp_ms: int
    size_bytes: int
    is_archived: bool
    continues: bool


class _Piece(msgspec.Struct):
    """A segment and how much of it counts: to where its successor says, else as its name says."""

    info: SegmentInfo
    counted: Predecessor | None
    # Only of an archived one whose successor is not there: the last entry that counts.
    last_index: int | None

    def walk(self) -> SegmentWalk:
        """Return a walk that begins at the beginning."""
        info = self.info
        fresh = SegmentInfo(info.path, info.header, info.cipher, info.start)
        return SegmentWalk(fresh, self.counted)

    def bodies(self, walk: SegmentWalk, vfs: Vfs) -> Iterator[Body]:
        """Yield what its frames hold. Raises CorruptionError."""
        limit = self.last_index
        if limit is not None and walk.next_index > limit:
            return
        for _, body in walk.frames(vfs):
            yield body
            if limit is not None and walk.next_index > limit:
                return


class PastLog:
    """All segments, by number; `read_past_log` makes one.

    `configuration` says that an entry has changed the membership, `commit` what the newest hard
    state says. `problems` are damages of the archive.
    """

    def __init__(self, vfs: Vfs) -> None:
        self.segments: list[PastSegment] = []
        self.problems: list[str] = []
        self.configuration = False
        self.commit = 0
        self._pieces: list[_Piece] = []
        self._vfs = vfs

    def runs(self) -> list[tuple[int, int]]:
        """Return the first and the last entry of each part without a gap, in order."""
        runs: list[tuple[int, int]] = []
        for part in self.segments:
            if part.continues:
                runs[-1] = (runs[-1][0], part.last_index)
            else:
                runs.append((part.first_index, part.last_index))
        return runs

    def batches(self, run: tuple[int, int], first_index: int, last_index: int) -> Iterator[Batch]:
        """Yield the batches that hold entries of a range within a run. Raises CorruptionError."""
        for part, piece in self._of(run):
            if part.last_index < first_index or part.first_index > last_index:
                continue
            for body in piece.bodies(piece.walk(), self._vfs):
                for batch in body.batches:
                    if batch.last_index >= first_index:
                        yield batch
                    if batch.last_index >= last_index:
                        # What is behind it may be damaged.
                        return

    def parts(self, run: tuple[int, int]) -> Iterator[PastSegment]:
        """Yield the segments of a run."""
        return (part for part, _ in self._of(run))

    def _of(self, run: tuple[int, int]) -> Iterator[tuple[PastSegment, _Piece]]:
        place = -1
        runs = self.runs()
        for part, piece in zip(self.segments, self._pieces, strict=True):
            place += not part.continues
            if runs[place] == run:
                yield part, piece

    def add(self, piece: _Piece, *, is_archived: bool) -> None:
        """Read a piece to its end and note what is in it. Raises CorruptionError for the log."""
        walk = piece.walk()
        first_ms = last_ms = 0
        try:
            for body in piece.bodies(walk, self._vfs):
                for batch in body.batches:
                    first_ms = first_ms or batch.timestamp_ms
                    last_ms = batch.timestamp_ms
                    self.configuration |= batch.kind == BatchKind.CONFIGURATION
                if body.hard_state is not None:
                    self.commit = body.hard_state.commit
        except CorruptionError as error:
            if not is_archived:
                raise
            self.problems.append(str(error))
        if piece.last_index is not None and walk.next_index <= piece.last_index:
            self.problems.append(
                f"{piece.info.path}: it ends with entry {walk.next_index - 1}, not as its name says"
            )
        before = self._pieces[-1].info.header.number if self._pieces else None
        predecessor = piece.info.header.predecessor
        is_linked = predecessor is not None and predecessor.number == before
        first_index = piece.info.first_index
        self._pieces.append(piece)
        self.segments.append(
            PastSegment(
                path=piece.info.path,
                number=piece.info.header.number,
                first_index=first_index,
                last_index=walk.next_index - 1,
                first_timestamp_ms=first_ms,
                last_timestamp_ms=last_ms,
                size_bytes=walk.good_end.offset,
                is_archived=is_archived,
                continues=is_linked and self.segments[-1].last_index == first_index - 1,
            )
        )


def read_past_log(
    path: Path,
    *,
    vfs: Vfs,
    keyring: Keyring,
    timeline: bytes,
    base: LogBase | None,
    archived: ArchivedTimeline | None,
) -> PastLog:
    """Read all segments of a directory and its archive.

    Raises CorruptionError for damage in the directory or a file of the archive that contradicts it;
    ForeignFormatError, KeyringError, OSError.
    """
    log = PastLog(vfs)
    own = _own_segments(path, vfs, keyring, timeline, base)
    newest = own[-1] if own else None
    by_number = {info.header.number: info for info in own}
    known: dict[int, tuple[SegmentInfo, int]] = {}
    for segment in () if archived is None else archived.segments:
        twin = by_number.get(segment.header.number)
        if twin is not None:
            if not _goes_on(segment.path, twin, vfs, is_newest=twin is newest):
                continue
            own.remove(twin)
        with suppress(KeyringError):
            info = read_segment_header(
                segment.path, segment.header.first_index, vfs, keyring, timeline
            )
            known[segment.header.number] = (info, segment.last_index)
            continue
        log.problems.append(f"{segment.path}: the keyring does not hold its key any more")
    infos = sorted([*own, *(info for info, _ in known.values())], key=_number_of)
    successors = {
        info.header.predecessor.number: info.header.predecessor
        for info in infos
        if info.header.predecessor is not None
    }
    for info in infos:
        number = info.header.number
        counted = successors.get(number)
        named = known.get(number)
        last_index = named[1] if named is not None and counted is None else None
        log.add(_Piece(info, counted, last_index), is_archived=named is not None)
    return log


def _goes_on(archived: Path, own: SegmentInfo, vfs: Vfs, *, is_newest: bool) -> bool:
    """Tell whether an archived segment is the same as in the directory, and goes on behind it.

    So it is when the directory is a copy of a node that went on writing. Raises CorruptionError
    when the two are not the same.
    """
    if files_are_equal(vfs, archived, own.path):
        return False
    if is_newest and files_begin_alike(vfs, archived, own.path, own.end.offset):
        return True
    raise CorruptionError(
        f"it has the number of {own.path}, and other content",
        path=archived,
        offset=16,
        remedy="an archive serves one directory: name the one of this directory",
    )


def _number_of(info: SegmentInfo) -> int:
    return info.header.number


def _own_segments(
    path: Path, vfs: Vfs, keyring: Keyring, timeline: bytes, base: LogBase | None
) -> list[SegmentInfo]:
    """Return the segments that a start would let count, oldest first."""
    wal = path / WAL_NAME
    segments: list[SegmentInfo] = []
    next_number = 1
    if vfs.exists(wal):
        recovered = recover(wal, vfs, keyring, timeline, base)
        segments, next_number = recovered.segments, recovered.next_number
    if next_number == 1 and has_log_begun(path, vfs):
        raise missing_log(wal)
    return segments
