"""The log of format 3: segments in `wal/`, or the single file `wal.log` of older releases.

A record is its size (4 bytes, little endian), a CRC-32 of its body (4), and the body: an envelope
around an entry, or the bare entry in a directory without a keyring (storage sections 5.1 to 5.3).

What 0.9 leaves behind when it is killed is told apart from damage. It wrote size, checksum and
body with three calls, so the last record of the file that was being appended to may be cut off,
and a power cut may leave zeros behind it. Both are reported and left out: no such record was ever
acknowledged under the policy that promises to survive it. Everything else that does not fit is
damage, also a size field that points behind the end although a whole envelope stands there.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from vaylix_storage.errors import (
    CorruptionError,
    FileSystemError,
    LogDamageError,
    LostKeyringError,
)
from vaylix_storage.format3._entries import Entry, decode_entry
from vaylix_storage.format3._envelope import ENVELOPE_HEADER_BYTES, ENVELOPE_MAGIC, envelope_size
from vaylix_storage.format3._messagepack import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vaylix_storage._vfs import File, Vfs
    from vaylix_storage.format3._envelope import Envelopes

__all__ = ["LEGACY_LOG_NAME", "Record", "Segment", "list_segments", "lost_keyring", "read_segments"]

LEGACY_LOG_NAME: Final = "wal.log"
_PREFIX_BYTES: Final = 8
_READ_BYTES: Final = 1024 * 1024
_ENVELOPE_START: Final = ENVELOPE_MAGIC + b"\x01\x01"
_NUMBER: Final = "(?:0|[1-9][0-9]{0,19})"
_ACTIVE_NAME: Final = re.compile(rf"active-({_NUMBER})\.wal")
_SEALED_NAME: Final = re.compile(rf"({_NUMBER})-({_NUMBER})\.wal")
# Names that 0.9 reads although it never writes them: to skip one could lose its records.
_LENIENT_NAME: Final = re.compile(r"(?:active-|\+?[0-9]+-)\+?[0-9]+\.wal")
_RESTORE: Final = "bring back the files of the log from a copy, or restore a logical backup"


class Segment(NamedTuple):
    """A file of records. `last` is None for the one that was being appended to."""

    first: int
    last: int | None
    path: Path

    @property
    def is_named_by_entries(self) -> bool:
        """Whether the name says with which entry the file begins."""
        return self.path.name != LEGACY_LOG_NAME


class Record(NamedTuple):
    """An entry, and where it is."""

    entry: Entry
    path: Path
    offset: int


def lost_keyring(path: Path, what: str) -> LostKeyringError:
    """Return the error for sealed data in a directory without a keyring."""
    return LostKeyringError(
        f"keyring.bin is missing, but {what} is sealed",
        path=path,
        offset=0,
        remedy="restore keyring.bin from a copy; without it the data cannot be read",
    )


def list_segments(directory: Path, vfs: Vfs, warn: Callable[[str], None]) -> list[Segment]:
    """Return the segments in their order, the active one last; raises LogDamageError."""
    segments: list[Segment] = []
    try:
        names = vfs.list_directory(directory) if vfs.exists(directory) else []
    except OSError as error:
        raise FileSystemError(f"cannot list: {error}", path=directory) from error
    for name in names:
        path = directory / name
        if match := _ACTIVE_NAME.fullmatch(name):
            segments.append(Segment(int(match[1]), None, path))
        elif match := _SEALED_NAME.fullmatch(name):
            segments.append(Segment(int(match[1]), int(match[2]), path))
        elif _LENIENT_NAME.fullmatch(name):
            raise LogDamageError(
                "the name of a segment is written in an unusual way",
                path=path,
                offset=0,
                remedy="write its numbers without signs and leading zeros",
            )
        elif name.endswith(".wal"):
            warn(f"{path} is no segment and is left out")
    active = [segment for segment in segments if segment.last is None]
    if len(active) > 1:
        raise LogDamageError(
            f"there are {len(active)} active segments",
            path=active[-1].path,
            offset=0,
            remedy="move away the one that does not belong here",
        )
    return sorted(segments, key=lambda segment: (segment.first, segment.last is None))


def read_segments(
    segments: list[Segment], vfs: Vfs, envelopes: Envelopes | None, warn: Callable[[str], None]
) -> Iterator[Record]:
    """Return all records of segments, in order and without a gap.

    Raises LogDamageError (ENG-014), CorruptionError (ENG-007) and what `Envelopes.open` raises.
    """
    previous: int | None = None
    for place, segment in enumerate(segments):
        is_last = place == len(segments) - 1
        reader = _SegmentReader(segment.path, vfs, envelopes, warn)
        is_empty = True
        for record in reader.records(may_be_torn=is_last and segment.last is None):
            sequence = record.entry.sequence
            if previous is not None and sequence != previous + 1:
                raise _damage(record, f"entry {previous + 1} was expected, but {sequence} found")
            if is_empty and segment.is_named_by_entries and sequence != segment.first:
                raise _damage(
                    record, f"the name says that entry {segment.first} is first, it is {sequence}"
                )
            is_empty = False
            previous = sequence
            yield record
        if segment.last is not None and (is_empty or previous != segment.last):
            found = "there is none" if is_empty else f"it is {previous}"
            raise LogDamageError(
                f"the name says that entry {segment.last} is last, but {found}",
                path=segment.path,
                offset=reader.offset,
                remedy=_RESTORE,
            )


def _damage(record: Record, reason: str) -> LogDamageError:
    return LogDamageError(reason, path=record.path, offset=record.offset, remedy=_RESTORE)


class _SegmentReader:
    """Reads one file, record by record. `offset` is where the next one is."""

    def __init__(
        self, path: Path, vfs: Vfs, envelopes: Envelopes | None, warn: Callable[[str], None]
    ) -> None:
        self._path = path
        self._vfs = vfs
        self._envelopes = envelopes
        self._warn = warn
        self.offset = 0

    def records(self, *, may_be_torn: bool) -> Iterator[Record]:
        try:
            file = self._vfs.open(self._path)
            try:
                size = file.size()
                while self.offset < size:
                    body = self._body(file, size - self.offset, may_be_torn=may_be_torn)
                    if body is None:
                        return
                    yield Record(self._decode(body), self._path, self.offset)
                    self.offset += _PREFIX_BYTES + len(body)
            finally:
                file.close()
        except OSError as error:
            raise FileSystemError(f"cannot read: {error}", path=self._path) from error

    def _body(self, file: File, left: int, *, may_be_torn: bool) -> bytes | None:
        """Return the body of the next record, or None if it was never wholly written."""
        prefix = file.read_at(self.offset, _PREFIX_BYTES)
        size = int.from_bytes(prefix[:4], "little")
        if len(prefix) < _PREFIX_BYTES or size > left - _PREFIX_BYTES:
            if not may_be_torn:
                raise self._error("the segment ends inside a record")
            if not self._is_zero_from_here(file, left):
                self._check_torn(file, size, left - _PREFIX_BYTES)
            self._warn_of_tail(left, "of a record that was never wholly written")
            return None
        if size == 0:
            if may_be_torn and self._is_zero_from_here(file, left):
                self._warn_of_tail(left, "of zeros behind the last record")
                return None
            raise self._error("a record has no size")
        body = file.read_at(self.offset + _PREFIX_BYTES, size)
        if zlib.crc32(body) != int.from_bytes(prefix[4:], "little"):
            raise CorruptionError(
                "a record does not fit its checksum",
                path=self._path,
                offset=self.offset,
                remedy=_RESTORE,
            )
        return body

    def _check_torn(self, file: File, size: int, left: int) -> None:
        """Raise unless what is left can be the beginning of a record with this size."""
        if left <= 0:
            return
        if self._envelopes is not None:
            head = file.read_at(self.offset + _PREFIX_BYTES, ENVELOPE_HEADER_BYTES)
            is_whole = len(head) == ENVELOPE_HEADER_BYTES and envelope_size(head) != size
            if is_whole or not _ENVELOPE_START.startswith(head[: len(_ENVELOPE_START)]):
                raise self._error("the size of a record is wrong")
            return
        try:
            decode_entry(file.read_at(self.offset + _PREFIX_BYTES, left))
        except MalformedError:
            return
        raise self._error("the size of a record is wrong")

    def _is_zero_from_here(self, file: File, left: int) -> bool:
        for start in range(self.offset, self.offset + left, _READ_BYTES):
            if any(file.read_at(start, _READ_BYTES)):
                return False
        return True

    def _decode(self, body: bytes) -> Entry:
        if self._envelopes is not None:
            body = self._envelopes.open(
                body, "wal entry", path=self._path, offset=self.offset + _PREFIX_BYTES
            )
        elif body.startswith(ENVELOPE_MAGIC):
            raise lost_keyring(self._path, "the log")
        try:
            return decode_entry(body)
        except MalformedError as error:
            raise self._error(f"a record cannot be decoded: {error}") from error

    def _warn_of_tail(self, size: int, what: str) -> None:
        self._warn(f"{self._path}: {size} bytes {what}, from byte {self.offset}, are left out")

    def _error(self, reason: str) -> LogDamageError:
        return LogDamageError(reason, path=self._path, offset=self.offset, remedy=_RESTORE)
