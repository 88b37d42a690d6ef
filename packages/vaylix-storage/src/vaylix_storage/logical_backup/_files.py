"""Backup files: where they may lie, and how they come to the disk (VTP2 storage section 12.6).

Paths are judged before anything is touched. A dump is written beside its place, synced and renamed,
so a file with its name is always whole. Its sidecar follows it; the old one goes first. So a crash
leaves the old dump or the new one, with the sidecar that belongs to it or with none, never with
one of the other.
"""

from __future__ import annotations

import os
import re
from codecs import getincrementaldecoder
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TYPE_CHECKING, Final

from vaylix_storage.errors import (
    BackupError,
    BackupFileError,
    BackupNameError,
    BackupPathError,
    BackupVerificationError,
    ForeignBackupError,
)
from vaylix_storage.logical_backup._document import DUMP_HEAD
from vaylix_storage.logical_backup._parser import describe, parse_document, verify_document
from vaylix_storage.logical_backup._sidecar import SIDECAR_SUFFIX, Sidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from vaylix_storage._vfs import File, Vfs
    from vaylix_storage.logical_backup._document import BackupDocument, DocumentWriter, EntryLimits
    from vaylix_storage.logical_backup._parser import VerifyReport

__all__ = ["BackupDirectory", "BackupFile"]

_TOKEN_BYTES: Final = 8
# What a file is called until it is whole; nobody else gives a file such a name.
_STAGING: Final = re.compile(r"\.[0-9a-f]{16}\.tmp")
_SIDECAR_BYTES_MAX: Final = 64 * 1024
_DECODED_BYTES: Final = 1024 * 1024
# Synced piece by piece: a sync of a log meanwhile would have to wait for all that has piled up.
_SYNC_BYTES: Final = 1024 * 1024


class BackupDirectory:
    """A directory that backups are read from and written to, and nothing outside of it.

    It need not exist before the first file is written. Methods may be called by any thread.
    """

    __slots__ = ("_base", "_claimed", "_lock", "_random_bytes", "_vfs")

    def __init__(
        self, base: Path, *, vfs: Vfs, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._base = base
        self._vfs = vfs
        self._random_bytes = random_bytes
        # Dumps that are being written.
        self._claimed: set[Path] = set()
        self._lock = Lock()

    # Paths

    def resolve_for_reading(self, text: str) -> Path:
        """Return the file that a path means; relative ones begin in this directory.

        Raises BackupPathError for one outside, BackupFileError for a missing one.
        """
        path = self._locate(text)
        with _as_backup_error(path):
            path = self._vfs.resolve(path)
            if not self._vfs.exists(path):
                raise BackupFileError("No such file or directory (os error 2)", path=path)
        self._require_inside(path, text)
        return path

    def resolve_for_writing(self, text: str) -> Path:
        """Return where a file would be written. Changes nothing, not even for a good path.

        Raises BackupPathError for a place outside, and for a symbolic link in the place of the dump
        or of its sidecar; BackupNameError for the name of a sidecar.
        """
        path = self._locate(text)
        if path.name.endswith(SIDECAR_SUFFIX):
            raise BackupNameError(
                f"the name {path.name} is kept for the manifest of a backup",
                path=path,
                remedy=f"choose a name that does not end in {SIDECAR_SUFFIX}",
            )
        with _as_backup_error(path):
            parent = self._vfs.resolve(path.parent)
            self._require_inside(parent, text)
            path = parent / path.name
            for target in (path, _sidecar_path(path)):
                if self._vfs.resolve(target) != target:
                    raise BackupPathError(text)
        return path

    def _locate(self, text: str) -> Path:
        path = self._base / text
        if not text or "\0" in text or ".." in text.split("/") or path == self._base:
            raise BackupPathError(text)
        return path

    def _require_inside(self, path: Path, text: str) -> None:
        if not path.is_relative_to(self._vfs.resolve(self._base)):
            raise BackupPathError(text)

    # Reading

    def read_checked(self, text: str) -> BackupDocument:
        """Read the dump for RESTORE FROM and CHECK FROM; its sidecar must fit if there is one.

        Raises what `resolve_for_reading` and `parse_document` raise, BackupFileError, and
        BackupVerificationError.
        """
        path = self.resolve_for_reading(text)
        data = self._read_dump(path)
        with _naming(path):
            document = parse_document(data)
        sidecar = self._read_sidecar(path, text)
        if sidecar is not None:
            actual = describe(data, document.header, len(document.entries))
            with _naming(path):
                Sidecar.parse(sidecar).verify(actual)
        return document

    def verify(self, text: str, now_ms: int, limits: EntryLimits | None = None) -> VerifyReport:
        """Verify a dump that must have a sidecar, for VERIFY FROM.

        Raises what `resolve_for_reading` and `verify_document` raise, and BackupFileError.
        """
        path = self.resolve_for_reading(text)
        data = self._read_dump(path)
        sidecar = self._read_sidecar(path, text)
        if sidecar is None:
            raise BackupFileError(
                "No such file or directory (os error 2)", path=_sidecar_path(path)
            )
        with _naming(path):
            return verify_document(data, now_ms, sidecar, limits)

    def _read_dump(self, path: Path) -> bytes:
        data = self._read(path)
        decoder = getincrementaldecoder("utf-8")()
        try:
            for start in range(0, len(data), _DECODED_BYTES):
                decoder.decode(data[start : start + _DECODED_BYTES])
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise BackupFileError("stream did not contain valid UTF-8", path=path) from error
        return data

    def _read_sidecar(self, path: Path, text: str) -> bytes | None:
        with _as_backup_error(path):
            sidecar_path = self._vfs.resolve(_sidecar_path(path))
            if not self._vfs.exists(sidecar_path):
                return None
        self._require_inside(sidecar_path, text)
        return self._read(sidecar_path, _SIDECAR_BYTES_MAX)

    def _read(self, path: Path, bytes_max: int | None = None) -> bytes:
        with _as_backup_error(path):
            # Opening anything else, such as a pipe, could wait for ever.
            if path.name not in self._vfs.list_directory(path.parent):
                raise BackupFileError("not a regular file", path=path)
            file = self._vfs.open(path)
            try:
                size = file.size()
                return file.read_at(0, size if bytes_max is None else min(size, bytes_max))
            finally:
                file.close()

    # Writing

    def create(self, text: str, *, owner: str | None = None) -> BackupFile:
        """Begin to write a dump; nothing has its name before `BackupFile.commit`.

        For an `owner`, a node id, it replaces nothing but an earlier dump of the same one. Raises
        what `resolve_for_writing` raises, ForeignBackupError, and BackupFileError.
        """
        path = self.resolve_for_writing(text)
        release = self._claim(path)
        try:
            with _as_backup_error(path):
                self._vfs.make_directory(path.parent)
                self._prepare(path, text)
                self._require_own(path, owner)
                token = self._random_bytes(_TOKEN_BYTES).hex()
                return BackupFile(path, token, vfs=self._vfs, release=release)
        except BaseException:
            release()
            raise

    def write(self, text: str, writer: DocumentWriter, pieces: Iterable[bytes]) -> Path:
        """Write a whole dump that `writer` makes in `pieces`, and its sidecar; return where."""
        file = self.create(text, owner=writer.source_node_id)
        try:
            for piece in pieces:
                file.append(piece)
            # Another process, or another store, may have finished one meanwhile.
            with _as_backup_error(file.path):
                self._require_own(file.path, writer.source_node_id)
            file.commit(writer.sidecar())
        except BaseException:
            file.abandon()
            raise
        return file.path

    def _claim(self, path: Path) -> Callable[[], None]:
        """Keep everybody else from writing this dump until what is returned is called."""
        with self._lock:
            if path in self._claimed:
                raise BackupFileError("another backup to this file is under way", path=path)
            self._claimed.add(path)

        def release() -> None:
            with self._lock:
                self._claimed.discard(path)

        return release

    def _require_own(self, path: Path, owner: str | None) -> None:
        """Refuse to replace what is not known to be a dump of `owner`, if any, and its sidecar.

        A crash can have left a dump without a sidecar, which tells nothing about its owner.
        """
        if owner is None:
            return
        sidecar_path = _sidecar_path(path)
        if self._vfs.exists(path) and not self._read(path, len(DUMP_HEAD)).startswith(DUMP_HEAD):
            raise _foreign(path)
        if self._vfs.exists(sidecar_path):
            try:
                sidecar = Sidecar.parse(self._read(sidecar_path, _SIDECAR_BYTES_MAX))
            except BackupVerificationError as error:
                raise _foreign(sidecar_path) from error
            if sidecar.source_node_id != owner:
                raise _foreign(path)

    def _prepare(self, path: Path, text: str) -> None:
        """Refuse to replace what is no file, and remove what crashes have left of this one."""
        if self.resolve_for_writing(text) != path:
            # Somebody changed a directory into a link in the meantime.
            raise BackupPathError(text)
        names = self._vfs.list_directory(path.parent)
        for target in (path, _sidecar_path(path)):
            if target.name not in names and self._vfs.exists(target):
                raise BackupFileError("not a regular file", path=target)
        for name in names:
            stem = _STAGING.sub("", name)
            if stem != name and stem in {path.name, _sidecar_path(path).name}:
                self._vfs.unlink(path.with_name(name))


class BackupFile:
    """A dump on its way to the disk; end it with `commit` or `abandon`. One thread at a time."""

    __slots__ = (
        "_file",
        "_is_ended",
        "_release",
        "_sidecar_staging",
        "_size",
        "_staging",
        "_synced_bytes",
        "_vfs",
        "path",
    )

    def __init__(self, path: Path, token: str, *, vfs: Vfs, release: Callable[[], None]) -> None:
        """For `BackupDirectory.create` only; `token` keeps the temporary names apart."""
        self.path = path
        self._vfs = vfs
        self._release = release
        self._staging = path.with_name(f"{path.name}.{token}.tmp")
        self._sidecar_staging = path.with_name(f"{_sidecar_path(path).name}.{token}.tmp")
        self._size = self._synced_bytes = 0
        self._is_ended = False
        self._file: File | None = vfs.create(self._staging)

    def append(self, piece: bytes) -> None:
        """Write the next bytes. Raises BackupFileError."""
        assert self._file is not None
        if piece:
            with _as_backup_error(self.path):
                self._file.write_at(self._size, piece)
                self._size += len(piece)
                if self._size - self._synced_bytes >= _SYNC_BYTES:
                    self._file.sync()
                    self._synced_bytes = self._size

    def commit(self, sidecar: Sidecar) -> None:
        """Put the dump and its sidecar in place; when this returns, both are on the disk.

        Raises BackupFileError; then the old dump or the new one is in place, and whole.
        """
        assert self._file is not None
        vfs, sidecar_path = self._vfs, _sidecar_path(self.path)
        try:
            with _as_backup_error(self.path):
                self._file.sync()
                self._close()
                _create_file(vfs, self._sidecar_staging, sidecar.encode())
                if vfs.exists(sidecar_path):
                    vfs.unlink(sidecar_path)
                    vfs.sync_directory(self.path.parent)
                vfs.rename(self._staging, self.path)
                # A sidecar must not reach the disk before what it describes.
                vfs.sync_directory(self.path.parent)
                vfs.rename(self._sidecar_staging, sidecar_path)
                vfs.sync_directory(self.path.parent)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove what has no final name; allowed at any time, any number of times."""
        if self._is_ended:
            return
        self._is_ended = True
        with suppress(OSError):
            self._close()
        for staging in (self._staging, self._sidecar_staging):
            with suppress(OSError):
                if self._vfs.exists(staging):
                    self._vfs.unlink(staging)
        self._release()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _foreign(path: Path) -> ForeignBackupError:
    return ForeignBackupError(
        "this is no earlier backup of this store, and is not replaced",
        path=path,
        remedy="choose another path, or move the file away, and its manifest",
    )


def _create_file(vfs: Vfs, path: Path, content: bytes) -> None:
    file = vfs.create(path)
    try:
        file.write_at(0, content)
        file.sync()
    finally:
        file.close()


def _sidecar_path(path: Path) -> Path:
    return path.with_name(path.name + SIDECAR_SUFFIX)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say in which file it was that something is wrong with a document."""
    try:
        yield
    except BackupError as error:
        error.path = error.path or path
        raise


@contextmanager
def _as_backup_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error} (os error {error.errno or 0})"
        raise BackupFileError(reason, path=path) from error
