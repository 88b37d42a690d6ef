"""What the log keeps in memory about its segments: where things are, not the things."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_storage._segment import FramePosition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaylix_storage._batch import Batch
    from vaylix_storage._format import SegmentCipher, SegmentHeader

__all__ = [
    "STAGING_NAME",
    "Mark",
    "NameKind",
    "SegmentInfo",
    "SegmentStat",
    "TermRuns",
    "active_name",
    "closed_name",
    "parse_segment_name",
    "sealed_name",
]

# The next segment, until its header and first frames are on the disk.
STAGING_NAME: Final = "next.tmp"
_ACTIVE_NAME: Final = re.compile(r"active-([1-9][0-9]{0,19})\.wal")
_CLOSED_NAME: Final = re.compile(r"closed-([1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})\.wal")
_SEALED_NAME: Final = re.compile(r"([1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})\.wal")

# One remembered place per this many bytes of a segment.
_MARK_SPACING_BYTES: Final = 1024 * 1024


class NameKind(Enum):
    """What the name of a segment says about it.

    ACTIVE grows, or did when its process ended. CLOSED was ended by a clean stop and is the last.
    SEALED has a successor: as the newest segment of a directory, it proves that one is missing.
    """

    ACTIVE = "active"
    CLOSED = "closed"
    SEALED = "sealed"


def active_name(first_index: int) -> str:
    """Return the name of the segment that is being appended to."""
    return f"active-{first_index}.wal"


def closed_name(first_index: int, last_index: int) -> str:
    """Return the name of a segment at which the log was closed; without entries, last < first."""
    return f"closed-{first_index}-{last_index}.wal"


def sealed_name(first_index: int, last_index: int) -> str:
    """Return the name of a segment that has a successor."""
    return f"{first_index}-{last_index}.wal"


def parse_segment_name(name: str) -> tuple[int, NameKind] | None:
    """Return first index and kind of a segment's name; None for any other file."""
    for pattern, kind in (
        (_ACTIVE_NAME, NameKind.ACTIVE),
        (_CLOSED_NAME, NameKind.CLOSED),
        (_SEALED_NAME, NameKind.SEALED),
    ):
        if match := pattern.fullmatch(name):
            return int(match[1]), kind
    return None


class SegmentStat(msgspec.Struct, frozen=True, kw_only=True):
    """What can be said about a segment without reading it; the numbers are of what counts of it.

    Without entries, `last_index` is `first_index` - 1 and the times are 0. The times are those of
    the first and the last batch.
    """

    path: Path
    number: int
    first_index: int
    last_index: int
    size_bytes: int
    first_timestamp_ms: int
    last_timestamp_ms: int
    key_id: bytes
    is_sealed: bool


class Mark(msgspec.Struct, frozen=True, gc=False):
    """A place in a segment from which one can read on, and what the entry before it is."""

    position: FramePosition
    last_index: int
    last_timestamp_ms: int


class SegmentInfo:
    """A segment: its file, its key, and where its part that counts ends."""

    __slots__ = (
        "_marks",
        "cipher",
        "end",
        "first_timestamp_ms",
        "header",
        "last_index",
        "last_timestamp_ms",
        "path",
        "start",
    )

    def __init__(
        self, path: Path, header: SegmentHeader, cipher: SegmentCipher, start: FramePosition
    ) -> None:
        self.path = path
        self.header = header
        self.cipher = cipher
        self.start = start
        self.end = start
        self.last_index = header.first_index - 1
        self.first_timestamp_ms = 0
        self.last_timestamp_ms = 0
        # Sparse, and never empty.
        self._marks = [self._first_mark]

    @property
    def first_index(self) -> int:
        """Index of the first entry, or the one that it would have."""
        return self.header.first_index

    @property
    def has_entries(self) -> bool:
        """Tell whether any entry of this segment counts."""
        return self.last_index >= self.header.first_index

    def extend(self, start: FramePosition, end: FramePosition, batches: Sequence[Batch]) -> None:
        """Note a frame at the end."""
        self.end = end
        if not batches:
            return
        if start.offset - self._marks[-1].position.offset >= _MARK_SPACING_BYTES:
            self._marks.append(Mark(start, self.last_index, self.last_timestamp_ms))
        last = batches[-1]
        if self.last_index < self.header.first_index:
            self.first_timestamp_ms = batches[0].timestamp_ms
        self.last_index = last.first_index + last.count - 1
        self.last_timestamp_ms = last.timestamp_ms

    def mark_before(self, index: int) -> Mark:
        """Return a place from which reading on comes to the frame that holds `index`."""
        place = bisect_left(self._marks, index, key=_last_index_of) - 1
        return self._marks[max(place, 0)]

    def mark_before_offset(self, offset: int) -> Mark:
        """Return a place at or before `offset`, or the first there is."""
        place = bisect_right(self._marks, offset, key=_offset_of) - 1
        return self._marks[max(place, 0)]

    def shortened(self, end: Mark) -> SegmentInfo:
        """Return a copy in which nothing counts beyond `end`; see `cut`."""
        copy = SegmentInfo(self.path, self.header, self.cipher, self.start)
        copy.first_timestamp_ms = self.first_timestamp_ms
        copy._marks = self._marks.copy()
        copy.cut(end)
        return copy

    def cut(self, end: Mark) -> None:
        """Let nothing count beyond `end`."""
        while len(self._marks) > 1 and self._marks[-1].position.offset >= end.position.offset:
            self._marks.pop()
        self.end = end.position
        self.last_index = end.last_index
        self.last_timestamp_ms = end.last_timestamp_ms

    def stat(self, *, is_sealed: bool) -> SegmentStat:
        """Return what can be said about this segment now."""
        return SegmentStat(
            path=self.path,
            number=self.header.number,
            first_index=self.first_index,
            last_index=self.last_index,
            size_bytes=self.end.offset,
            first_timestamp_ms=self.first_timestamp_ms if self.has_entries else 0,
            last_timestamp_ms=self.last_timestamp_ms,
            key_id=self.header.key_id,
            is_sealed=is_sealed,
        )

    @property
    def _first_mark(self) -> Mark:
        return Mark(self.start, self.header.first_index - 1, 0)


def _offset_of(mark: Mark) -> int:
    return mark.position.offset


def _last_index_of(mark: Mark) -> int:
    return mark.last_index


class TermRuns:
    """The term of every index, as runs: terms change rarely, entries do not.

    It may begin with the entry before the log, whose term bounds that of the first one.
    """

    __slots__ = ("_starts", "_terms")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._terms: list[int] = []

    @property
    def last_term(self) -> int:
        """Term of the last entry, 0 when none is known."""
        return self._terms[-1] if self._terms else 0

    def note(self, first_index: int, term: int) -> None:
        """Note that entries from `first_index` on have this term."""
        if term != self.last_term or not self._terms:
            self._starts.append(first_index)
            self._terms.append(term)

    def term_of(self, index: int) -> int:
        """Return the term of an index that is known."""
        return self._terms[bisect_right(self._starts, index) - 1]

    def knows(self, index: int) -> bool:
        """Tell whether the term of an index that is not beyond the log is known."""
        return bool(self._starts) and index >= self._starts[0]

    def forget_before(self, index: int) -> None:
        """Forget everything before `index`, which is known."""
        place = bisect_right(self._starts, index) - 1
        del self._starts[:place], self._terms[:place]
        self._starts[0] = max(self._starts[0], index)

    def cut_after(self, index: int) -> None:
        """Forget everything beyond `index`."""
        while self._starts and self._starts[-1] > index:
            self._starts.pop()
            self._terms.pop()
