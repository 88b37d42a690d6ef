"""Reading a log directory back: which bytes count, and how it came to its end.

Nothing here changes a file. The segments form a chain: each header names its predecessor and says
how much of it counts. The segment with the highest number is the newest; what its chain does not
reach has been superseded. Names are for people, with two exceptions: a *newest* segment under the
name of a clean stop must end in its closing frame, and one under a sealed name had a successor,
which is missing.

Outcomes, and no fourth:

- `CLEAN_END`: the closing frame of a clean stop is the last thing in the log.
- `UNCLEAN_END`: whole frames to the end, but no clean stop.
- `TORN_TAIL`: as before, and behind the last whole frame something that was never fully written.

Everything else is a CorruptionError (`_tail` has the theory).

The log may begin behind a snapshot, its *base*: then segments that lie wholly within the base may
have been removed, the oldest first. So the predecessor of the oldest segment may be missing, if the
base reaches to its first entry and nothing older is there. The log must reach the end of the base,
and agree with it about the term there; if not, something is lost. Only an *installed* base, which
came from elsewhere, may be ahead of the log or at odds with it: then the log was about to be reset,
and none of it counts but its hard state.

Frames behind the last point that is known to be synced were read from the page cache, which
proves nothing: after a failed fsync it shows what the disk never got. They count, but they are
`unsynced`: the caller must write them to a new segment, and sync that, before it relies on them.
Names are no different: only frames that were appended after a segment was begun prove that its name
has been synced, so until there are any, all of it is unsynced.
"""

from __future__ import annotations

from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_storage._batch import HardState
from vaylix_storage._catalog import Mark, NameKind, SegmentInfo, TermRuns, parse_segment_name
from vaylix_storage._format import (
    HEADER_BYTES,
    Body,
    BodyKind,
    FormatError,
    SegmentCipher,
    VersionError,
    parse_body,
    parse_header,
)
from vaylix_storage._kept_batches import KEPT_BYTES_MAX, KeptBatches
from vaylix_storage._segment import Frame, FramePosition, FrameReader
from vaylix_storage._tail import find_evidence, is_blank, is_torn, written_end
from vaylix_storage._vfs import files_are_equal
from vaylix_storage.errors import (
    FOREIGN_FILE_REMEDY,
    RESTORE_REMEDY,
    CorruptionError,
    ForeignFormatError,
)

if TYPE_CHECKING:
    from vaylix_storage._keyring import Keyring
    from vaylix_storage._vfs import File, Vfs

__all__ = [
    "LogBase",
    "RecoveredLog",
    "RecoveryOutcome",
    "judge_end",
    "read_segment_header",
    "recover",
    "terms_after",
]

_NAME_ORDER: Final = (NameKind.ACTIVE, NameKind.CLOSED, NameKind.SEALED)


class RecoveryOutcome(Enum):
    """How the log came to its end."""

    CLEAN_END = "clean end"
    UNCLEAN_END = "unclean end"
    TORN_TAIL = "torn tail"


class LogBase(msgspec.Struct, frozen=True, gc=False):
    """The end of a snapshot: entries up to `index`, the last of which is of `term`, are in it.

    `installed` says that the snapshot came from a peer or a restore, so that the log of before is
    of no use unless it reaches and matches it.
    """

    index: int
    term: int
    installed: bool


class RecoveredLog(msgspec.Struct):
    """What was found. `segments` are the chain in order; the last may have no entries.

    `is_reset` says that an installed base has put an end to all entries that were found.
    """

    segments: list[SegmentInfo]
    superseded: list[Path]
    terms: TermRuns
    hard_state: HardState
    outcome: RecoveryOutcome
    batch_count: int
    entry_count: int
    # Of the newest segment: where its whole frames end, and the bytes behind that were left out.
    whole_end: FramePosition | None
    left_out_bytes: int
    # What the next entry and the next segment will have.
    next_index: int
    next_number: int
    # The batches behind the base, as far as there is room, for whoever replays them.
    kept: KeptBatches
    is_reset: bool = False

    @property
    def newest(self) -> SegmentInfo | None:
        """The segment that was written last; None in a new directory."""
        return self.segments[-1] if self.segments else None


def terms_after(index: int, term: int) -> TermRuns:
    """Return what is known of terms when the log begins behind entry `index`."""
    terms = TermRuns()
    if index > 0:
        terms.note(index, term)
    return terms


class _Replay:
    """The state that is carried from frame to frame through the whole log."""

    def __init__(self, first_index: int, terms: TermRuns, kept: KeptBatches) -> None:
        self.next_index = first_index
        self.batch_count = 0
        self.hard_state = HardState()
        self.terms = terms
        self.kept = kept
        # -1 as long as no term is known, since the first one has to be noted even if it is 0.
        self._last_term = terms.last_term if terms.knows(first_index - 1) else -1

    def follow(self, info: SegmentInfo, frame: Frame) -> Body:
        """Check that a frame continues the log and note it."""
        try:
            body = parse_body(frame.body)
        except FormatError as error:
            raise _corrupt(info.path, frame.position.offset, str(error)) from error
        batches = body.batches
        for batch in batches:
            first_index, term = batch.first_index, batch.term
            if first_index != self.next_index or not batch.count:
                reason = f"entry {first_index} follows entry {self.next_index - 1}"
                raise _corrupt(info.path, frame.position.offset, reason)
            if term != self._last_term:
                if term < self._last_term:
                    reason = f"term {term} follows term {self._last_term}"
                    raise _corrupt(info.path, frame.position.offset, reason)
                self.terms.note(first_index, term)
                self._last_term = term
            self.next_index = first_index + batch.count
        self.batch_count += len(batches)
        if body.hard_state is not None:
            self.hard_state = body.hard_state
        info.extend(frame.position, frame.end, batches)
        self.kept.add(frame.body, body, self.next_index - 1)
        return body


def recover(
    directory: Path, vfs: Vfs, keyring: Keyring, timeline: bytes, base: LogBase | None = None
) -> RecoveredLog:
    """Read and check every byte that counts. Raises CorruptionError, KeyringError, OSError."""
    infos = [
        read_segment_header(directory / name, first_index, vfs, keyring, timeline)
        for name in vfs.list_directory(directory)
        if (first_index := _first_index_of(name)) is not None
    ]
    segments = _link(_without_twins(infos, vfs), base)
    members = {info.path for info in segments}
    replay = _begin(segments, base)
    first_index = replay.next_index
    recovered = RecoveredLog(
        segments=segments,
        superseded=[info.path for info in infos if info.path not in members],
        terms=replay.terms,
        hard_state=replay.hard_state,
        outcome=RecoveryOutcome.CLEAN_END,
        batch_count=0,
        entry_count=0,
        whole_end=None,
        left_out_bytes=0,
        next_index=first_index,
        next_number=segments[-1].header.number + 1 if segments else 1,
        kept=replay.kept,
    )
    for info, successor in pairwise(segments):
        _check_first_index(info, replay)
        _follow_sealed(info, successor, vfs, replay)
    if segments:
        _check_first_index(segments[-1], replay)
        _follow_newest(segments[-1], vfs, replay, recovered)
    recovered.hard_state = replay.hard_state
    recovered.batch_count = replay.batch_count
    recovered.entry_count = replay.next_index - first_index
    recovered.next_index = replay.next_index
    if base is not None:
        _compare(recovered, first_index, base, directory)
    return recovered


def _begin(segments: list[SegmentInfo], base: LogBase | None) -> _Replay:
    """Check that nothing is missing between the base and the oldest segment."""
    base_index, base_term = (0, 0) if base is None else (base.index, base.term)
    if segments:
        first_index = segments[0].first_index
    else:
        first_index = base_index + 1 if base is not None and base.installed else 1
    if first_index > base_index + 1:
        reason = f"entries {base_index + 1} to {first_index - 1} are missing"
        if base is not None:
            reason = f"{reason}: the snapshot ends with entry {base_index}"
        raise _corrupt(segments[0].path, 24, reason)
    begins_at_base = first_index == base_index + 1
    terms = terms_after(base_index, base_term) if begins_at_base else TermRuns()
    return _Replay(first_index, terms, KeptBatches(base_index, KEPT_BYTES_MAX))


def _compare(recovered: RecoveredLog, first_index: int, base: LogBase, directory: Path) -> None:
    """Check that the log reaches the end of its base and agrees with it."""
    last_index = recovered.next_index - 1
    if last_index < base.index:
        reason = (
            f"the log ends with entry {last_index}, but the snapshot holds entry {base.index}: "
            "the segments between are missing"
        )
    elif first_index <= base.index and recovered.terms.term_of(base.index) != base.term:
        reason = (
            f"entry {base.index} is of term {recovered.terms.term_of(base.index)} in the log and "
            f"of term {base.term} in the snapshot"
        )
    else:
        return
    if not base.installed:
        newest, end = recovered.newest, recovered.whole_end
        if newest is None or end is None:
            raise _corrupt(directory, 0, reason)
        raise _corrupt(newest.path, end.offset, reason)
    recovered.superseded.extend(info.path for info in recovered.segments)
    recovered.segments = []
    recovered.terms = terms_after(base.index, base.term)
    recovered.batch_count = recovered.entry_count = 0
    recovered.whole_end = None
    recovered.next_index = base.index + 1
    recovered.kept = KeptBatches(base.index, 0)
    recovered.is_reset = True


def _first_index_of(name: str) -> int | None:
    parsed = parse_segment_name(name)
    return None if parsed is None else parsed[0]


def _corrupt(path: Path, offset: int, reason: str) -> CorruptionError:
    return CorruptionError(reason, path=path, offset=offset, remedy=RESTORE_REMEDY)


def read_segment_header(
    path: Path, first_index: int, vfs: Vfs, keyring: Keyring, timeline: bytes
) -> SegmentInfo:
    """Return what the header of a segment says, checked, with no frame noted yet.

    Raises CorruptionError, ForeignFormatError, KeyringError, OSError.
    """
    file = vfs.open(path)
    try:
        data = file.read_at(0, HEADER_BYTES)
    finally:
        file.close()
    try:
        header, tag = parse_header(data)
    except VersionError as error:
        raise ForeignFormatError(
            str(error), path=path, remedy="start the release that wrote it"
        ) from error
    except FormatError as error:
        raise _corrupt(path, 0, str(error)) from error
    cipher = SegmentCipher(keyring.key(header.key_id), header.salt)
    if cipher.header_tag(data) != tag:
        raise _corrupt(path, 0, "the header of the segment was altered")
    if header.timeline != timeline:
        raise ForeignFormatError(
            f"the segment belongs to another history ({header.timeline.hex()})",
            path=path,
            remedy=FOREIGN_FILE_REMEDY,
        )
    if header.first_index != first_index:
        raise _corrupt(path, 24, f"the segment begins with entry {header.first_index}")
    return SegmentInfo(path, header, cipher, FramePosition(HEADER_BYTES, 1, tag))


def _without_twins(infos: list[SegmentInfo], vfs: Vfs) -> list[SegmentInfo]:
    """Return the segments with one name each: the latest of those that a segment is ever given.

    A rename whose sync failed can be half undone by a power cut, and then both names are there.
    """
    found: dict[int, SegmentInfo] = {}
    for info in sorted(infos, key=_name_order):
        twin = found.get(info.header.number)
        if twin is not None and not files_are_equal(vfs, info.path, twin.path):
            raise _corrupt(info.path, 16, f"{twin.path.name} has the same number")
        found[info.header.number] = info
    return list(found.values())


def _name_order(info: SegmentInfo) -> int:
    parsed_name = parse_segment_name(info.path.name)
    assert parsed_name is not None
    return _NAME_ORDER.index(parsed_name[1])


def _link(infos: list[SegmentInfo], base: LogBase | None) -> list[SegmentInfo]:
    """Return the chain that ends in the newest segment, oldest first."""
    if not infos:
        return []
    by_number = {info.header.number: info for info in infos}
    chain = [by_number[max(by_number)]]
    while (predecessor := chain[-1].header.predecessor) is not None:
        previous = by_number.get(predecessor.number)
        if predecessor.number >= chain[-1].header.number:
            previous = None
        elif previous is None and _may_be_the_oldest(chain[-1], by_number, base):
            break
        if previous is None:
            reason = f"segment number {predecessor.number}, which comes before, is missing"
            raise _corrupt(chain[-1].path, 96, reason)
        chain.append(previous)
    chain.reverse()
    return chain


def _may_be_the_oldest(
    info: SegmentInfo, by_number: dict[int, SegmentInfo], base: LogBase | None
) -> bool:
    """Tell whether what came before a segment can have been removed because the base holds it."""
    is_within_base = base is not None and 1 < info.first_index <= base.index + 1
    return is_within_base and min(by_number) == info.header.number


def _check_first_index(info: SegmentInfo, replay: _Replay) -> None:
    if info.first_index != replay.next_index:
        reason = f"entry {info.first_index} follows entry {replay.next_index - 1}"
        raise _corrupt(info.path, 24, reason)


def _follow_sealed(info: SegmentInfo, successor: SegmentInfo, vfs: Vfs, replay: _Replay) -> None:
    """Follow the frames of a segment that has a successor: each must be there, whole."""
    predecessor = successor.header.predecessor
    assert predecessor is not None
    file = vfs.open(info.path)
    try:
        reader = FrameReader(file, info.cipher, info.start, predecessor.counted_bytes)
        while (frame := reader.next_frame()) is not None:
            replay.follow(info, frame)
    finally:
        file.close()
    position = reader.position
    if position.offset != predecessor.counted_bytes or position.previous_tag != predecessor.tag:
        reason = reader.damage or "the segment does not end where its successor says"
        raise _corrupt(info.path, position.offset, reason)


def _follow_newest(info: SegmentInfo, vfs: Vfs, replay: _Replay, recovered: RecoveredLog) -> None:
    """Follow the frames of the newest segment, decide how it ends, and find what was synced."""
    file = vfs.open(info.path)
    try:
        size = file.size()
        reader = FrameReader(file, info.cipher, info.start, size)
        synced_bytes = 0
        is_begun = is_closed = False
        while not is_closed and (frame := reader.next_frame()) is not None:
            if is_begun and frame.synced_bytes > synced_bytes:
                synced_bytes = frame.synced_bytes
            body = replay.follow(info, frame)
            is_begun |= body.hard_state is not None
            is_closed = body.kind is BodyKind.CLOSING
        recovered.whole_end = reader.position
        recovered.outcome, recovered.left_out_bytes = judge_end(
            file, info, reader, size, is_closed=is_closed
        )
        _cut_unsynced(info, file, synced_bytes)
    finally:
        file.close()
    if not is_begun:
        # It was on the disk before the segment got its name, with all that was carried over.
        reason = "the frame with the hard state that every segment begins with is missing"
        raise _corrupt(info.path, reader.position.offset, reason)


def _cut_unsynced(info: SegmentInfo, file: File, synced_bytes: int) -> None:
    """Let the segment count only as far as it is known to be synced."""
    mark = info.mark_before_offset(synced_bytes)
    reader = FrameReader(file, info.cipher, mark.position, info.end.offset)
    while reader.position.offset < synced_bytes and (frame := reader.next_frame()) is not None:
        batches = parse_body(frame.body).batches
        if batches:
            mark = Mark(frame.end, batches[-1].last_index, batches[-1].timestamp_ms)
    info.cut(msgspec.structs.replace(mark, position=reader.position))


def judge_end(
    file: File, info: SegmentInfo, reader: FrameReader, size: int, *, is_closed: bool
) -> tuple[RecoveryOutcome, int]:
    """Return the outcome and the number of bytes left out, or raise CorruptionError."""
    offset = reader.position.offset
    parsed_name = parse_segment_name(info.path.name)
    assert parsed_name is not None
    if parsed_name[1] is NameKind.SEALED:
        raise _corrupt(info.path, offset, "the segment that followed this one is missing")
    blank = reader.damage is None and is_blank(file, offset, size)
    if is_closed:
        if blank:
            return RecoveryOutcome.CLEAN_END, 0
        raise _corrupt(info.path, offset, "bytes follow the closing frame of a clean stop")
    if parsed_name[1] is NameKind.CLOSED:
        reason = reader.damage or "the closing frame of a clean stop is missing"
        raise _corrupt(info.path, offset, reason)
    if blank:
        return RecoveryOutcome.UNCLEAN_END, 0
    if not is_torn(file, info.cipher, offset, size):
        raise _corrupt(info.path, offset, reader.damage or "a frame is damaged")
    evidence = find_evidence(file, info.cipher, offset, size)
    if evidence is not None:
        reason = f"a frame is blank that the frame at byte {evidence} says was synced"
        raise _corrupt(info.path, offset, reason)
    return RecoveryOutcome.TORN_TAIL, written_end(file, offset, size) - offset
