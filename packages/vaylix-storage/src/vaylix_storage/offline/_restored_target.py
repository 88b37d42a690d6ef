"""Where a restore goes: what may be there before, and how the new directory takes its place.

    <target>.restoring        is built, read back and finished under this name;
    <target>.replaced-<time>  then an old target gets this one, and stays,
    <target>                  and the new directory takes its place.

Only a data directory is put aside like that, whole or damaged: what else has the name of the target
may be named by mistake.

So at any moment the target is missing, the old directory or the whole new one. Where it is missing
beside a `.restoring`, nothing starts afresh (`_staging.refuse_unfinished`); doing the restore again
begins anew, since the source is still there.
"""

from __future__ import annotations

from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Final

from vaylix_storage._directory import older_format_names
from vaylix_storage._names import IDENTITY_NAME
from vaylix_storage._staging import (
    RESTORING_SUFFIX,
    is_bare,
    is_empty,
    is_unfinished,
    remove_built,
    sibling,
)
from vaylix_storage.errors import (
    CorruptionError,
    DirectoryLockedError,
    FileSystemError,
    RestoreTargetError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vaylix_storage._vfs import Lock, Vfs

__all__ = ["REPORT_NAME", "RestoreTarget"]

# Says of a directory that it was restored, and from what; nothing reads it after that.
REPORT_NAME: Final = "restore.json"
_REPLACED: Final = ".replaced"


class _Found(Enum):
    NOTHING = "nothing"
    EMPTY = "empty"
    DATA = "data"
    FOREIGN = "foreign"


class RestoreTarget:
    """The target of one restore. Raises OSError throughout."""

    def __init__(self, path: Path, vfs: Vfs) -> None:
        self._given = path
        self._vfs = vfs
        # Beside what a link leads to, not beside the link.
        self._path = vfs.resolve(path)
        self.staging = sibling(path, RESTORING_SUFFIX, vfs)

    def check(self, sources: Iterable[Path], *, force: bool) -> None:
        """Raise unless a restore may go here; changes nothing."""
        vfs = self._vfs
        for source in sources:
            real = vfs.resolve(source)
            for path in (self._path, self.staging):
                if real.is_relative_to(path) or path.is_relative_to(real):
                    raise RestoreTargetError(
                        f"a restore cannot lie in {source}, nor that in it",
                        path=self._given,
                        remedy="choose another target",
                    )
        if vfs.exists(self.staging) and not self._is_ours():
            raise RestoreTargetError(
                "the name that the restore needs while it is built is taken",
                path=self.staging,
                remedy="take it away, or give it another name",
            )
        if vfs.is_mount_point(self._path):
            raise RestoreTargetError(
                "the target is a mount point, which cannot be renamed",
                path=self._given,
                remedy="restore into a directory below it",
            )
        found = self._find()
        if found is _Found.NOTHING:
            return
        self._refuse_foreign(found)
        if found is _Found.DATA and not force:
            raise RestoreTargetError(
                "the target is not empty",
                path=self._given,
                remedy="choose one that does not exist, or say --force to put it aside",
            )
        self._lock().release()

    def clear_staging(self) -> None:
        """Remove what an earlier attempt has left."""
        if self._vfs.exists(self.staging):
            remove_built(self.staging, self._vfs)

    def take_place(self, now_ms: int, *, force: bool) -> Path | None:
        """Give the finished directory its name; return where an old one is kept."""
        vfs, found = self._vfs, self._find()
        if found is _Found.NOTHING:
            self._rename_into_place()
            return None
        self._refuse_foreign(found)
        if found is _Found.DATA and not force:
            raise RestoreTargetError(
                "the target was filled meanwhile", path=self._given, remedy="choose another one"
            )
        lock = self._lock()
        try:
            if found is _Found.EMPTY:
                if vfs.exists(self._path / "LOCK"):
                    vfs.unlink(self._path / "LOCK")
                self._rename_into_place()
                return None
            return self._replace(now_ms)
        finally:
            lock.release()

    def _replace(self, now_ms: int) -> Path:
        vfs, parent = self._vfs, self._path.parent
        replaced = self._path.with_name(f"{self._path.name}{_REPLACED}-{now_ms}")
        if vfs.exists(replaced):
            raise RestoreTargetError("the name for the old target is taken", path=replaced)
        self._rename(self._path, replaced)
        try:
            vfs.sync_directory(parent)
            self._rename_into_place()
        except (FileSystemError, OSError):
            # The old directory must not be missing because of that.
            with suppress(OSError):
                if not vfs.exists(self._path):
                    vfs.rename(replaced, self._path)
                    vfs.sync_directory(parent)
            raise
        return replaced

    def _rename_into_place(self) -> None:
        self._rename(self.staging, self._path)
        self._vfs.sync_directory(self._path.parent)

    def _rename(self, path: Path, name: Path) -> None:
        try:
            self._vfs.rename(path, name)
        except OSError as error:
            raise FileSystemError(
                f"the directory cannot be renamed: {error}",
                path=path,
                remedy="if it is a mount point, restore into a directory below it",
            ) from error

    def _find(self) -> _Found:
        vfs, path = self._vfs, self._path
        if not vfs.exists(path):
            return _Found.NOTHING
        if not vfs.is_directory(path):
            return _Found.FOREIGN
        if is_empty(path, vfs):
            return _Found.EMPTY
        return _Found.DATA if _is_data_directory(path, vfs) else _Found.FOREIGN

    def _refuse_foreign(self, found: _Found) -> None:
        if found is _Found.FOREIGN:
            raise RestoreTargetError(
                "the target is no data directory of Vaylix, so it is not put aside",
                path=self._given,
                remedy="choose a target that does not exist, or take this one away yourself",
            )

    def _is_ours(self) -> bool:
        vfs, path = self._vfs, self.staging
        return vfs.is_directory(path) and (
            is_unfinished(path, vfs) or is_bare(path, vfs) or vfs.exists(path / REPORT_NAME)
        )

    def _lock(self) -> Lock:
        """Keep others out of what is there, without creating anything in it."""
        try:
            return self._vfs.lock_shared(self._path / "LOCK")
        except BlockingIOError as error:
            raise DirectoryLockedError(
                "another process, or this one, has the target open",
                path=self._given,
                remedy="stop or close what uses it, or choose another target",
            ) from error


def _is_data_directory(path: Path, vfs: Vfs) -> bool:
    """Tell whether a directory is one of Vaylix, of whatever format and in whatever state."""
    if is_unfinished(path, vfs) or vfs.exists(path / IDENTITY_NAME):
        return True
    try:
        return bool(older_format_names(path, vfs))
    except CorruptionError:
        # It has lost its identity.
        return True
