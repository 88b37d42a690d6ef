"""The chain: each record names the hash of the one before it (VTP2 server section 8.2).

A chain that verifies is whole in itself: no record was changed, left out, put in or moved, unless
everything behind it was hashed anew. Two things it cannot show: records missing at its end, and a
chain made anew from some record on. Those are what checkpoints are for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vaylix_audit._event import (
    GENESIS_HASH,
    LINE_BYTES_MAX,
    NOT_TEXT,
    AuditRecord,
    decode_record,
    hash_record,
)
from vaylix_audit.errors import AuditError, BrokenChainError, InvalidLineError, InvalidTextError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = [
    "GENESIS",
    "ChainHead",
    "ChainProblem",
    "ChainReport",
    "Line",
    "has_unwritten_sector",
    "next_record",
    "problem_error",
    "split_lines",
    "verify_chain",
]

# A disk writes sectors of this size whole or not at all.
_SECTOR_BYTES: Final = 512
_ZEROS: Final = re.compile(rb"\x00+")


@dataclass(frozen=True, slots=True)
class ChainHead:
    """A place in a chain: the last record so far, its hash, and the bytes up to its end.

    `size_bytes` counts the newline of that record even where it is missing.
    """

    sequence: int
    event_hash: str
    size_bytes: int


# The place before the first record.
GENESIS: Final = ChainHead(0, GENESIS_HASH, 0)


@dataclass(frozen=True, slots=True)
class ChainProblem:
    """The first line that does not continue the chain.

    `line` counts from 1, `offset` is where it begins, in bytes. `looks_torn` says that a crash can
    have left it so: the last line ends too early, or a sector in it was never written.
    """

    line: int
    offset: int
    reason: str
    looks_torn: bool


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What verifying has found: the place up to which the chain is whole, and what follows there.

    `ends_with_newline` is False only when the last record of a whole chain lacks its newline.
    """

    head: ChainHead
    problem: ChainProblem | None
    ends_with_newline: bool

    @property
    def record_count(self) -> int:
        """Number of records that are in order."""
        return self.head.sequence


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its newline, and where it begins in bytes.

    One that is longer than allowed comes as its beginning, with `is_too_long`, and is the last.
    """

    content: bytes
    offset: int
    is_ended: bool
    is_too_long: bool = False

    @property
    def end(self) -> int:
        """Offset behind the newline."""
        return self.offset + len(self.content) + 1


def split_lines(chunks: Iterable[bytes], *, line_bytes_max: int = LINE_BYTES_MAX) -> Iterator[Line]:
    """Cut pieces of any size into lines, never holding more than one line and one piece."""
    pending = bytearray()
    offset = 0
    for chunk in chunks:
        start = 0
        while start < len(chunk):
            end = chunk.find(b"\n", start)
            pending += chunk[start : len(chunk) if end < 0 else end]
            if len(pending) > line_bytes_max:
                yield Line(bytes(pending[:_SECTOR_BYTES]), offset, end >= 0, is_too_long=True)
                return
            if end < 0:
                break
            yield Line(bytes(pending), offset, is_ended=True)
            offset += len(pending) + 1
            pending.clear()
            start = end + 1
    if pending:
        yield Line(bytes(pending), offset, is_ended=False)


def verify_chain(
    chunks: Iterable[bytes],
    *,
    on_record: Callable[[AuditRecord, ChainHead], None] | None = None,
    line_bytes_max: int = LINE_BYTES_MAX,
) -> ChainReport:
    """Verify a whole log, from its first record to the first problem.

    `chunks` are its bytes in order, in pieces of any size: lines with their line ends, or blocks of
    a file; `verify_file` opens one. Memory is bounded by the largest piece and `line_bytes_max`.
    `on_record` is told of each record that is in order, and its place. Never raises by itself.
    """
    head = GENESIS
    is_ended = True
    for line in split_lines(chunks, line_bytes_max=line_bytes_max):
        try:
            record = next_record(line, head, line_bytes_max)
        except InvalidLineError as error:
            problem = ChainProblem(
                line=head.sequence + 1,
                offset=line.offset,
                reason=error.what,
                looks_torn=_looks_torn(line, is_cut=error.is_cut),
            )
            return ChainReport(head, problem, ends_with_newline=True)
        head = ChainHead(record.sequence, record.event_hash, line.end)
        is_ended = line.is_ended
        if on_record is not None:
            on_record(record, head)
    return ChainReport(head, None, ends_with_newline=is_ended)


def next_record(line: Line, head: ChainHead, line_bytes_max: int = LINE_BYTES_MAX) -> AuditRecord:
    """Return the record of a line if it is the one behind `head`; InvalidLineError otherwise."""
    if line.is_too_long:
        raise InvalidLineError(f"line is longer than {line_bytes_max} bytes")
    record = decode_record(line.content)
    if record.sequence != head.sequence + 1:
        raise InvalidLineError(f"expected sequence {head.sequence + 1}, found {record.sequence}")
    if record.previous_hash != head.event_hash:
        raise InvalidLineError("previous hash mismatch")
    if record.event_hash != hash_record(record):
        raise InvalidLineError("event hash mismatch")
    return record


def _looks_torn(line: Line, *, is_cut: bool) -> bool:
    if line.is_too_long:
        # Nobody writes such a line, and what is behind its beginning was not looked at.
        return False
    return (is_cut and not line.is_ended) or has_unwritten_sector(line)


def has_unwritten_sector(line: Line) -> bool:
    """Say whether part of a line has the zeros of a sector that never reached the disk.

    When the power fails, a file may have its new length but not all of its new sectors. JSON has
    no byte zero, so zeros up to the end of a sector or of the file are the trace of that.
    """
    for zeros in _ZEROS.finditer(line.content):
        reaches_border = (line.offset + zeros.end()) % _SECTOR_BYTES == 0
        reaches_end = not line.is_ended and zeros.end() == len(line.content)
        if reaches_border or reaches_end:
            return True
    return False


def problem_error(problem: ChainProblem, path: Path | None = None) -> AuditError:
    """Return the error of the catalogue that stands for a problem."""
    remedy = f"restore the file from a copy, or look at byte {problem.offset} and repair it by hand"
    if problem.reason == NOT_TEXT:
        return InvalidTextError(problem.reason, path=path, remedy=remedy)
    return BrokenChainError(f"line {problem.line}: {problem.reason}", path=path, remedy=remedy)
