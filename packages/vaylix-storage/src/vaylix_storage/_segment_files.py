"""The files of a log directory: starting a segment, sealing names, and reading ranges back.

The order of calls in `start` and `tidy` is what makes a crash between any two of them harmless:

1. staging file created, written, synced     a crash leaves a staging file, which nobody reads
2. renamed to its name, directory synced     from here on it is the newest segment
3. superseded files unlinked, older segments renamed to their sealed names, directory synced
                                             all can be repeated: recovery goes by the headers

The last step is done before the log is used: from then on, a directory whose newest segment has a
sealed name has lost one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaylix_storage._catalog import (
    STAGING_NAME,
    SegmentInfo,
    active_name,
    closed_name,
    sealed_name,
)
from vaylix_storage._format import (
    FormatError,
    Predecessor,
    SegmentCipher,
    SegmentHeader,
    encode_body,
    parse_body,
)
from vaylix_storage._segment import FramePosition, FrameReader, SegmentWriter
from vaylix_storage.errors import CorruptionError, FileSystemError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from vaylix_storage._batch import Batch, HardState
    from vaylix_storage._keyring import Keyring
    from vaylix_storage._vfs import Vfs

__all__ = ["SegmentFiles"]

_SALT_BYTES: Final = 32


class SegmentFiles:
    """Makes, names and reads the segments of one directory. All methods raise OSError."""

    __slots__ = ("_directory", "_keyring", "_next_number", "_random_bytes", "_timeline", "_vfs")

    def __init__(
        self,
        directory: Path,
        *,
        vfs: Vfs,
        keyring: Keyring,
        timeline: bytes,
        random_bytes: Callable[[int], bytes],
        next_number: int,
    ) -> None:
        self._directory = directory
        self._vfs = vfs
        self._keyring = keyring
        self._timeline = timeline
        self._random_bytes = random_bytes
        self._next_number = next_number

    def start(
        self,
        predecessor: SegmentInfo | None,
        first_index: int,
        hard_state: HardState,
        carried: Iterable[Sequence[Batch]],
    ) -> tuple[SegmentInfo, SegmentWriter]:
        """Start a segment that holds the frames to be carried over and the hard state.

        When this returns, the segment is on the disk and its predecessor counts as far as its
        `end` says.
        """
        header = SegmentHeader(
            self._next_number,
            first_index,
            self._timeline,
            self._keyring.active_key_id,
            self._random_bytes(_SALT_BYTES),
            None if predecessor is None else _as_predecessor(predecessor),
        )
        self._next_number += 1
        cipher = SegmentCipher(self._keyring.key(header.key_id), header.salt)
        path = self._directory / active_name(first_index)
        staging = self._directory / STAGING_NAME
        if self._vfs.exists(staging):
            self._vfs.unlink(staging)
        writer = SegmentWriter(self._vfs.create(staging), header, cipher)
        info = SegmentInfo(path, header, cipher, writer.position)
        self._fill(info, writer, hard_state, carried)
        writer.sync()
        self._vfs.rename(staging, path)
        self._vfs.sync_directory(self._directory)
        return info, writer

    def _fill(
        self,
        info: SegmentInfo,
        writer: SegmentWriter,
        hard_state: HardState,
        carried: Iterable[Sequence[Batch]],
    ) -> None:
        """Write what every segment begins with: carried frames, then one with the hard state.

        The carried frames are synced first, so that the last frame can vouch for them.
        """
        start = writer.position
        for batches in carried:
            writer.append(encode_body(batches))
            info.extend(start, writer.position, batches)
            start = writer.position
        if info.has_entries:
            writer.sync()
        writer.append(encode_body((), hard_state))
        info.extend(start, writer.position, ())

    def tidy(self, sealed: Iterable[SegmentInfo], superseded: Iterable[Path], newest: Path) -> None:
        """Remove files that no longer count, and give older segments their sealed names."""
        for path in superseded:
            if path != newest and self._vfs.exists(path):
                self._vfs.unlink(path)
        for info in sealed:
            self._rename(info, sealed_name(info.first_index, info.last_index))
        self._vfs.sync_directory(self._directory)

    def remove(self, info: SegmentInfo) -> None:
        """Remove the oldest segment, durably."""
        self._vfs.unlink(info.path)
        self._vfs.sync_directory(self._directory)

    def name_closed(self, info: SegmentInfo) -> None:
        """Give the last segment the name of a clean stop, durably."""
        self._rename(info, closed_name(info.first_index, info.last_index))
        self._vfs.sync_directory(self._directory)

    def _rename(self, info: SegmentInfo, name: str) -> None:
        path = self._directory / name
        if path != info.path:
            self._vfs.rename(info.path, path)
            info.path = path

    def read_frames(
        self, info: SegmentInfo, start: FramePosition, end: FramePosition
    ) -> Iterator[tuple[FramePosition, FramePosition, tuple[Batch, ...]]]:
        """Yield start, end and batches of the frames between two positions; holds one buffer."""
        try:
            file = self._vfs.open(info.path)
        except OSError as error:
            raise FileSystemError(f"cannot be read: {error}", path=info.path) from error
        try:
            reader = FrameReader(file, info.cipher, start, end.offset)
            while (frame := reader.next_frame()) is not None:
                try:
                    batches = parse_body(frame.body).batches
                except FormatError as error:
                    raise _corrupt(info.path, frame.position.offset, str(error)) from error
                yield frame.position, frame.end, batches
            if reader.position != end:
                reason = reader.damage or "the segment has changed since it was opened"
                raise _corrupt(info.path, reader.position.offset, reason)
        except OSError as error:
            raise FileSystemError(f"cannot be read: {error}", path=info.path) from error
        finally:
            file.close()


def _as_predecessor(info: SegmentInfo) -> Predecessor:
    return Predecessor(info.header.number, info.end.offset, info.end.previous_tag)


def _corrupt(path: Path, offset: int, reason: str) -> CorruptionError:
    return CorruptionError(
        reason, path=path, offset=offset, remedy="stop this node and verify its storage"
    )
