"""Reading the segments of a damaged log one by one, each as far as it can be read.

`recover` says whether a log is good, and stops at the first thing that is not. Here each segment
stands alone: its header says who it is, its successor how much of it counts, and every frame is
checked against the one before. What remains is what was lost between the segments, which is
`recover`'s to find.
"""

from __future__ import annotations

import errno
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from vaylix_storage._catalog import NameKind, SegmentInfo, parse_segment_name
from vaylix_storage._format import BodyKind, FormatError, Predecessor, parse_body
from vaylix_storage._recovery import RecoveryOutcome, judge_end, read_segment_header
from vaylix_storage._segment import FramePosition, FrameReader
from vaylix_storage.errors import (
    RESTORE_REMEDY,
    CorruptionError,
    ForeignFormatError,
    KeyringError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vaylix_storage._batch import HardState
    from vaylix_storage._format import Body
    from vaylix_storage._keyring import Keyring
    from vaylix_storage._segment import Frame
    from vaylix_storage._vfs import File, Vfs

__all__ = ["SegmentWalk", "Segments", "is_unreadable", "read_segments"]

_NAME_ORDER = (NameKind.ACTIVE, NameKind.CLOSED, NameKind.SEALED)


def is_unreadable(error: OSError) -> bool:
    """Tell whether the disk has lost what it was asked for: damage, like any other."""
    return error.errno == errno.EIO


class Segments(msgspec.Struct):
    """The segments of a directory whose headers are good, by number and as a chain.

    `chain` is what can be followed from the newest one backwards, oldest first; it is whole only
    if `recover` says so. `counted` says, by number, how much of a segment counts for its successor.
    """

    chain: list[SegmentInfo]
    counted: dict[int, Predecessor]
    superseded: list[SegmentInfo]
    errors: list[StorageError]


def read_segments(directory: Path, *, vfs: Vfs, keyring: Keyring, timeline: bytes) -> Segments:
    """Read the headers of all segments. Raises OSError, but not for one that is damaged."""
    infos: dict[int, SegmentInfo] = {}
    errors: list[StorageError] = []
    found = [
        (name, parsed)
        for name in vfs.list_directory(directory)
        if (parsed := parse_segment_name(name)) is not None
    ]
    # Of two names of one segment, the one that it gets later counts; see `recover`.
    for name, (first_index, _) in sorted(found, key=lambda item: _NAME_ORDER.index(item[1][1])):
        path = directory / name
        try:
            info = read_segment_header(path, first_index, vfs, keyring, timeline)
        except (CorruptionError, ForeignFormatError) as error:
            errors.append(error)
        except KeyringError as error:
            errors.append(KeyringError(error.reason, path=path, remedy=error.remedy))
        except OSError as error:
            if not is_unreadable(error):
                raise
            errors.append(_corrupt(path, 0, f"it cannot be read: {error}"))
        else:
            infos[info.header.number] = info
    chain: list[SegmentInfo] = []
    counted: dict[int, Predecessor] = {}
    number = max(infos, default=0)
    while number in infos:
        info = infos[number]
        chain.append(info)
        predecessor = info.header.predecessor
        if predecessor is None or predecessor.number >= number:
            break
        counted[predecessor.number] = predecessor
        number = predecessor.number
    chain.reverse()
    numbers = {info.header.number for info in chain}
    others = [info for number, info in sorted(infos.items()) if number not in numbers]
    return Segments(chain, counted, others, errors)


class SegmentWalk:
    """The frames of one segment, in order, as far as they are good.

    While `frames` is iterated, `good_end` is where the last good frame ends, `next_index` what the
    entry behind it would have, and `hard_state` the last one seen. When it has ended without an
    error, `outcome` says how the newest segment ends, and `left_out_bytes` what recovery would
    leave out behind `good_end`.
    """

    def __init__(self, info: SegmentInfo, counted: Predecessor | None) -> None:
        self.info = info
        self._counted = counted
        self.good_end: FramePosition = info.start
        self.next_index = info.first_index
        self.hard_state: HardState | None = None
        self.is_closed = False
        self.outcome: RecoveryOutcome | None = None
        self.left_out_bytes = 0
        self.file_bytes = 0
        self._last_term = 0

    @property
    def is_begun(self) -> bool:
        """Whether the frame with the hard state that every segment begins with was there."""
        return self.hard_state is not None

    def frames(self, vfs: Vfs) -> Iterator[tuple[Frame, Body]]:
        """Yield each frame with what is in it. Raises CorruptionError, OSError."""
        with closing(vfs.open(self.info.path)) as file:
            self.file_bytes = file.size()
            limit = self.file_bytes if self._counted is None else self._counted.counted_bytes
            reader = FrameReader(file, self.info.cipher, self.info.start, limit)
            try:
                yield from self._follow(reader)
                self._check_end(file, reader)
            except OSError as error:
                if not is_unreadable(error):
                    raise
                reason = f"it cannot be read: {error}"
                raise _corrupt(self.info.path, self.good_end.offset, reason) from error

    def _follow(self, reader: FrameReader) -> Iterator[tuple[Frame, Body]]:
        info = self.info
        while (frame := reader.next_frame()) is not None:
            try:
                body = parse_body(frame.body)
            except FormatError as error:
                raise _corrupt(info.path, frame.position.offset, str(error)) from error
            self._check_order(frame, body)
            info.extend(frame.position, frame.end, body.batches)
            self.good_end = frame.end
            self.hard_state = body.hard_state or self.hard_state
            yield frame, body
            if self._counted is None and body.kind is BodyKind.CLOSING:
                self.is_closed = True
                return

    def _check_order(self, frame: Frame, body: Body) -> None:
        next_index, last_term = self.next_index, self._last_term
        for batch in body.batches:
            if batch.first_index != next_index or not batch.count:
                reason = f"entry {batch.first_index} follows entry {next_index - 1}"
                raise _corrupt(self.info.path, frame.position.offset, reason)
            if batch.term < last_term:
                reason = f"term {batch.term} follows term {last_term}"
                raise _corrupt(self.info.path, frame.position.offset, reason)
            next_index, last_term = batch.last_index + 1, batch.term
        self.next_index, self._last_term = next_index, last_term

    def _check_end(self, file: File, reader: FrameReader) -> None:
        info, position = self.info, reader.position
        if self._counted is None:
            self.outcome, self.left_out_bytes = judge_end(
                file, info, reader, self.file_bytes, is_closed=self.is_closed
            )
            if not self.is_begun:
                reason = "the frame with the hard state that every segment begins with is missing"
                raise _corrupt(info.path, position.offset, reason)
        elif (position.offset, position.previous_tag) != (
            self._counted.counted_bytes,
            self._counted.tag,
        ):
            reason = reader.damage or "the segment does not end where its successor says"
            raise _corrupt(info.path, position.offset, reason)


def _corrupt(path: Path, offset: int, reason: str) -> CorruptionError:
    return CorruptionError(reason, path=path, offset=offset, remedy=RESTORE_REMEDY)
