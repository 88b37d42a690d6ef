"""Writing and reading snapshots: one file, chunk by chunk, never more than a chunk in memory.

A snapshot is written under a staging name and renamed when it is whole and on the disk; it counts
once the manifest names it. The reader checks each chunk before it hands it out, and the end chunk
before it says that there are no more: so whoever has been through all chunks has the state that was
written, and whoever stops earlier, or at an error, has nothing.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_storage._format import FormatError, VersionError
from vaylix_storage._snapshot_format import (
    CHUNK_HEADER_BYTES,
    SECTIONS_MAX,
    SNAPSHOT_HEADER_BYTES,
    ChunkKind,
    DataPacker,
    SectionCounts,
    SnapshotCipher,
    SnapshotEnd,
    SnapshotHeader,
    SnapshotMeta,
    encode_end,
    encode_header,
    encode_section,
    parse_end,
    parse_header,
    parse_section,
)
from vaylix_storage.errors import (
    FOREIGN_FILE_REMEDY,
    REPAIR_REMEDY,
    RESTORE_REMEDY,
    CorruptionError,
    FileSystemError,
    ForeignFormatError,
    KeyringError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaylix_storage._keyring import Keyring
    from vaylix_storage._vfs import File, Vfs

__all__ = ["SnapshotInfo", "SnapshotReader", "SnapshotWriter"]

_SALT_BYTES: Final = 32
_TAG_BYTES: Final = 16
# Synced piece by piece: a sync of the log meanwhile would have to wait for all that has piled up.
_SYNC_BYTES: Final = 1024 * 1024


class SnapshotInfo(msgspec.Struct, frozen=True):
    """A finished snapshot. `end_tag` tells it from every other one."""

    meta: SnapshotMeta
    path: Path
    size_bytes: int
    end_tag: bytes
    key_id: bytes
    sections: tuple[SectionCounts, ...]


class SnapshotWriter:
    """Writes one snapshot; `SnapshotWriter.create` makes one. One thread at a time, any thread.

    Compression, encryption and writing happen in `add`, outside of the interpreter lock. After an
    error the writer is of no use but for `abandon`.
    """

    __slots__ = (
        "_chunk_count",
        "_cipher",
        "_digest",
        "_file",
        "_header",
        "_is_abandoned",
        "_is_open",
        "_item_count",
        "_name",
        "_number",
        "_offset",
        "_packer",
        "_path",
        "_plain_bytes",
        "_sections",
        "_staging",
        "_synced_bytes",
        "_tag",
        "_vfs",
        "info",
    )

    def __init__(
        self, path: Path, vfs: Vfs, header: SnapshotHeader, cipher: SnapshotCipher
    ) -> None:
        self._path = path
        self._staging = path.with_name(path.name + ".tmp")
        self._vfs = vfs
        self._header = header
        self._cipher = cipher
        self._packer = DataPacker()
        self._digest = hashlib.sha256()
        self._plain_bytes = 0
        # Sections that have ended, and the one that has not.
        self._sections: list[SectionCounts] = []
        self._name: str | None = None
        self._chunk_count = self._item_count = 0
        self._number = self._offset = self._synced_bytes = 0
        self._is_abandoned = False
        # What `finish` has returned.
        self.info: SnapshotInfo | None = None
        encoded, self._tag = encode_header(header, cipher)
        if vfs.exists(self._staging):
            vfs.unlink(self._staging)
        self._file = vfs.create(self._staging)
        self._is_open = True
        try:
            self._write(encoded)
        except BaseException:
            self._close()
            raise

    @classmethod
    def create(
        cls,
        path: Path,
        meta: SnapshotMeta,
        *,
        vfs: Vfs,
        keyring: Keyring,
        timeline: bytes,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> SnapshotWriter:
        """Start to write `path`, which must not exist before `finish`, in a directory that does."""
        key_id = keyring.active_key_id
        header = SnapshotHeader(meta, timeline, key_id, random_bytes(_SALT_BYTES))
        cipher = SnapshotCipher(keyring.key(key_id), header.salt)
        try:
            return cls(path, vfs, header, cipher)
        except OSError as error:
            raise _write_failed(path, error) from error

    @property
    def meta(self) -> SnapshotMeta:
        """What this snapshot holds."""
        return self._header.meta

    @property
    def is_done(self) -> bool:
        """Whether it was finished or abandoned."""
        return self.info is not None or self._is_abandoned

    @property
    def is_abandoned(self) -> bool:
        """Whether it was abandoned before it was finished; any thread."""
        return self._is_abandoned

    def begin_section(self, name: str) -> None:
        """End the section before, if any, and begin another; names differ."""
        self._end_section()
        if len(self._sections) >= SECTIONS_MAX or name in {part.name for part in self._sections}:
            raise ValueError(f"there cannot be another section '{name}'")
        self._write_chunk(encode_section(len(self._sections), name))
        self._name = name

    def add(self, plain: bytes, item_count: int) -> None:
        """Write one chunk of the section, not empty, which holds `item_count` of its items."""
        if self._name is None:
            raise ValueError("a chunk belongs to a section")
        self._write_chunk(self._packer.pack(len(self._sections), plain))
        self._digest.update(plain)
        self._plain_bytes += len(plain)
        self._chunk_count += 1
        self._item_count += item_count

    def finish(self) -> SnapshotInfo:
        """Write the end, put all of it on the disk, and give it its name."""
        self._end_section()
        sections = tuple(self._sections)
        self._write_chunk(
            encode_end(SnapshotEnd(sections, self._plain_bytes, self._digest.digest()))
        )
        try:
            self._file.sync()
            self._close()
            self._vfs.rename(self._staging, self._path)
            self._sync_name()
        except OSError as error:
            raise _write_failed(self._path, error) from error
        self.info = SnapshotInfo(
            self.meta, self._path, self._offset, self._tag, self._header.key_id, sections
        )
        return self.info

    def abandon(self) -> None:
        """Close and remove what was written so far; allowed at any time, any number of times."""
        if self.is_done:
            return
        try:
            self._close()
            if self._vfs.exists(self._staging):
                self._vfs.unlink(self._staging)
        except OSError as error:
            raise _write_failed(self._path, error) from error
        finally:
            # Not before: then another one may take the staging name.
            self._is_abandoned = True

    def _sync_name(self) -> None:
        try:
            self._vfs.sync_directory(self._path.parent)
        except OSError:
            # No manifest names it yet, and it would be in the way of the next attempt.
            with suppress(OSError):
                self._vfs.unlink(self._path)
            raise

    def _end_section(self) -> None:
        if self._name is not None:
            self._sections.append(SectionCounts(self._name, self._chunk_count, self._item_count))
            self._name = None
            self._chunk_count = self._item_count = 0

    def _write_chunk(self, body: bytes) -> None:
        if self.is_done:
            raise ValueError("this snapshot has been finished or abandoned")
        self._number += 1
        chunk = self._cipher.seal(
            body, number=self._number, offset=self._offset, previous_tag=self._tag
        )
        try:
            self._write(chunk)
        except OSError as error:
            raise _write_failed(self._path, error) from error
        self._tag = chunk[-_TAG_BYTES:]

    def _write(self, data: bytes) -> None:
        self._file.write_at(self._offset, data)
        self._offset += len(data)
        if self._offset - self._synced_bytes >= _SYNC_BYTES:
            self._file.sync()
            self._synced_bytes = self._offset

    def _close(self) -> None:
        # Once only: the descriptor may by now belong to somebody else.
        if self._is_open:
            self._is_open = False
            self._file.close()


def _write_failed(path: Path, error: OSError) -> FileSystemError:
    return FileSystemError(f"cannot write the snapshot: {error}", path=path, remedy=REPAIR_REMEDY)


class SnapshotReader:
    """Reads one snapshot; `SnapshotReader.open` makes one. One thread at a time.

    After `chunks` has come to its end, `sections` and `end_tag` say what the end chunk says.
    """

    __slots__ = (
        "_chunk_offset",
        "_cipher",
        "_expected_end_tag",
        "_file",
        "_is_open",
        "_number",
        "_offset",
        "_path",
        "_tag",
        "end_tag",
        "key_id",
        "meta",
        "sections",
        "size_bytes",
        "timeline",
    )

    def __init__(
        self, path: Path, file: File, keyring: Keyring, expected_end_tag: bytes | None
    ) -> None:
        """Check the header; `file` remains the caller's if this raises."""
        self._expected_end_tag = expected_end_tag
        self._path = path
        self._file = file
        self._is_open = True
        # Where the next chunk begins, and the one before.
        self._offset, self._chunk_offset = SNAPSHOT_HEADER_BYTES, 0
        self._number = 0
        data = file.read_at(0, SNAPSHOT_HEADER_BYTES)
        header, self._tag = parse_header(data)
        self._cipher = SnapshotCipher(keyring.key(header.key_id), header.salt)
        if self._cipher.header_tag(data) != self._tag:
            raise FormatError("the header of the snapshot was altered, or its key is another one")
        self.meta = header.meta
        self.key_id = header.key_id
        self.timeline = header.timeline
        self.size_bytes = file.size()
        self.sections: tuple[SectionCounts, ...] = ()
        self.end_tag = b""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        vfs: Vfs,
        keyring: Keyring,
        timeline: bytes | None,
        end_tag: bytes | None = None,
    ) -> SnapshotReader:
        """Open a snapshot and check its header; `timeline` None accepts every history.

        With an `end_tag`, `chunks` fails at the end unless the snapshot is the one that has it.
        Raises CorruptionError, KeyringError, ForeignFormatError, FileSystemError. Changes nothing.
        """
        try:
            file = vfs.open(path)
        except OSError as error:
            raise FileSystemError(f"cannot read the snapshot: {error}", path=path) from error
        try:
            return cls._checked(path, file, keyring, timeline, end_tag)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _checked(
        cls,
        path: Path,
        file: File,
        keyring: Keyring,
        timeline: bytes | None,
        end_tag: bytes | None,
    ) -> SnapshotReader:
        try:
            reader = cls(path, file, keyring, end_tag)
        except VersionError as error:
            raise ForeignFormatError(
                str(error), path=path, remedy="start the release that wrote it"
            ) from error
        except FormatError as error:
            raise CorruptionError(str(error), path=path, offset=0, remedy=RESTORE_REMEDY) from error
        except KeyringError as error:
            raise KeyringError(error.reason, path=path, remedy=error.remedy) from error
        except OSError as error:
            raise FileSystemError(f"cannot read the snapshot: {error}", path=path) from error
        if timeline is not None and reader.timeline != timeline:
            raise ForeignFormatError(
                f"the snapshot belongs to another history ({reader.timeline.hex()})",
                path=path,
                remedy=FOREIGN_FILE_REMEDY,
            )
        return reader

    def chunks(self) -> Iterator[tuple[str, bytes]]:
        """Yield section name and plain data of each chunk, checked, in order; to be used once.

        What was yielded is worth nothing until the iterator has come to its end: then all of the
        snapshot was there. Raises CorruptionError with path and offset, FileSystemError.
        """
        counts = _Counts()
        packer = DataPacker()
        while True:
            try:
                found = self._next_data(counts, packer)
            except FormatError as error:
                raise self.corruption(str(error)) from error
            except OSError as error:
                reason = f"cannot read the snapshot: {error}"
                raise FileSystemError(reason, path=self._path) from error
            if found is None:
                return
            yield found

    def corruption(self, reason: str) -> CorruptionError:
        """Return the error to raise for the chunk that was yielded last: it makes no sense."""
        return CorruptionError(
            reason, path=self._path, offset=self._chunk_offset, remedy=RESTORE_REMEDY
        )

    def close(self) -> None:
        """Close the file; allowed any number of times."""
        if self._is_open:
            self._is_open = False
            self._file.close()

    def _next_data(self, counts: _Counts, packer: DataPacker) -> tuple[str, bytes] | None:
        """Return the next data chunk, or None when the end chunk has been checked."""
        while True:
            body = self._next_body()
            kind = body[0]
            if kind == ChunkKind.DATA:
                section, plain = packer.unpack(body)
                return counts.note(section, plain), plain
            if kind == ChunkKind.END:
                self.sections = counts.check_end(parse_end(body))
                if self._offset != self.size_bytes:
                    self._chunk_offset = self._offset
                    raise FormatError("bytes follow the end chunk")
                if self._expected_end_tag not in (None, self._tag):
                    raise FormatError("this is not the snapshot that the manifest names")
                self.end_tag = self._tag
                return None
            if kind != ChunkKind.SECTION:
                raise FormatError(f"there is no chunk of kind {kind}")
            counts.begin(*parse_section(body))

    def _next_body(self) -> bytes:
        """Read, check and open the next chunk."""
        self._chunk_offset = offset = self._offset
        self._number += 1
        header = self._file.read_at(offset, CHUNK_HEADER_BYTES)
        sealed_bytes = self._cipher.sealed_bytes(header, offset)
        offset += CHUNK_HEADER_BYTES
        # Before reading: memory is spent only on what the file really has.
        if offset + sealed_bytes > self.size_bytes:
            raise FormatError("a chunk is cut short")
        sealed = self._file.read_at(offset, sealed_bytes)
        body = self._cipher.open(
            header,
            sealed,
            number=self._number,
            offset=self._chunk_offset,
            previous_tag=self._tag,
        )
        self._tag = sealed[-_TAG_BYTES:]
        self._offset = offset + sealed_bytes
        return body


class _Counts:
    """What a reader counts, to be compared with what the end chunk says."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._plain_bytes = 0
        self._names: list[str] = []
        self._chunk_counts: list[int] = []

    def begin(self, section: int, name: str) -> None:
        if section != len(self._names) or name in self._names:
            raise FormatError(f"section '{name}' begins at the wrong place")
        self._names.append(name)
        self._chunk_counts.append(0)

    def note(self, section: int, plain: bytes) -> str:
        """Note a data chunk and return the name of its section."""
        if section != len(self._names) - 1:
            raise FormatError("a chunk does not belong to the section it stands in")
        self._digest.update(plain)
        self._plain_bytes += len(plain)
        self._chunk_counts[-1] += 1
        return self._names[-1]

    def check_end(self, end: SnapshotEnd) -> tuple[SectionCounts, ...]:
        """Compare all of it and return the sections."""
        counted = list(zip(self._names, self._chunk_counts, strict=True))
        if [(part.name, part.chunk_count) for part in end.sections] != counted:
            raise FormatError("the end chunk lists other sections than there are")
        if end.plain_bytes != self._plain_bytes or end.sha256 != self._digest.digest():
            raise FormatError("the end chunk does not fit to what comes before")
        return end.sections
