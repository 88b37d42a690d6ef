"""Directories that are built aside and then take their place.

A directory that is being built holds a file `UNFINISHED` from before its first file to after its
last; whoever finds one knows that it is worth nothing but can be built again. A migration builds
`<path>.migrating`, renames the old `<path>` to `<path>.format3`, and the new one to `<path>`. A
restore builds `<path>.restoring`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaylix_storage._vfs import Vfs, create_file_durably
from vaylix_storage.errors import FileSystemError, MigrationRequiredError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "MIGRATING_SUFFIX",
    "ORIGINAL_SUFFIX",
    "RESTORING_SUFFIX",
    "UNFINISHED_NAME",
    "begin_building",
    "copy_file",
    "finish_building",
    "is_bare",
    "is_empty",
    "is_unfinished",
    "migrate_command",
    "refuse_unfinished",
    "remove_built",
    "sibling",
    "walk_files",
]

UNFINISHED_NAME: Final = "UNFINISHED"
MIGRATING_SUFFIX: Final = ".migrating"
ORIGINAL_SUFFIX: Final = ".format3"
RESTORING_SUFFIX: Final = ".restoring"
_COPY_BYTES: Final = 1024 * 1024


def migrate_command(path: Path) -> str:
    """Return what to type to migrate a directory, or to go on with a migration."""
    return f"vaylix storage migrate --data-dir {path}"


def sibling(path: Path, suffix: str, vfs: Vfs) -> Path:
    """Return the path beside a directory; beside what it links to, if it is a link."""
    resolved = vfs.resolve(path)
    if not resolved.name:
        raise FileSystemError("there is nothing beside the root directory", path=path)
    return resolved.with_name(resolved.name + suffix)


def refuse_unfinished(path: Path, vfs: Vfs) -> None:
    """Raise unless a node may start here: no half-built directory, no half-made swap.

    Raises FileSystemError, MigrationRequiredError, and OSError.
    """
    if is_unfinished(path, vfs):
        raise FileSystemError(
            "this directory was never finished: what built it was interrupted",
            path=path / UNFINISHED_NAME,
            remedy="start the migration or the restore again; it begins anew",
        )
    if vfs.exists(path) and not is_empty(path, vfs):
        return
    if not vfs.resolve(path).name:
        return
    for suffix in (MIGRATING_SUFFIX, ORIGINAL_SUFFIX):
        beside = sibling(path, suffix, vfs)
        if vfs.exists(beside):
            raise MigrationRequiredError(
                f"there are no data here, but {beside.name} beside it: a migration was interrupted",
                path=path,
                remedy=f"`{migrate_command(path)}` goes on with it; to start with no data, take "
                f"{beside} away",
            )
    beside = sibling(path, RESTORING_SUFFIX, vfs)
    if vfs.exists(beside):
        raise FileSystemError(
            f"there are no data here, but {beside.name} beside it: a restore was interrupted",
            path=path,
            remedy="start the restore again, or give a `.replaced` beside it its name back; to "
            f"start with no data, take {beside} away",
        )


def is_empty(path: Path, vfs: Vfs) -> bool:
    """Tell whether a directory holds nothing but, maybe, a lock."""
    names = [*vfs.list_directory(path), *vfs.list_subdirectories(path)]
    return all(name == "LOCK" for name in names)


def is_unfinished(path: Path, vfs: Vfs) -> bool:
    """Tell whether a directory is being built, or was when that was interrupted."""
    return vfs.exists(path / UNFINISHED_NAME)


def is_bare(path: Path, vfs: Vfs) -> bool:
    """Tell whether a directory is as when it was just made, or about to be removed."""
    names = vfs.list_directory(path)
    return not vfs.list_subdirectories(path) and set(names) <= {f"{UNFINISHED_NAME}.tmp"}


def begin_building(path: Path, vfs: Vfs) -> None:
    """Make a directory and mark it as unfinished, both durably. Raises OSError."""
    vfs.make_directory(path)
    if is_unfinished(path, vfs):
        vfs.sync_directory(path)
    else:
        create_file_durably(vfs, path / UNFINISHED_NAME, b"this directory is being built\n")


def finish_building(path: Path, vfs: Vfs) -> None:
    """Say that a directory is whole; all in it must be on the disk already. Raises OSError."""
    vfs.sync_directory(path)
    vfs.unlink(path / UNFINISHED_NAME)
    vfs.sync_directory(path)


def remove_built(path: Path, vfs: Vfs) -> None:
    """Remove a directory that was built, finished or not. Raises OSError.

    It is unfinished from the first step on, so that an interrupted removal leaves nothing that
    looks whole.
    """
    begin_building(path, vfs)
    _remove_contents(path, vfs, kept=UNFINISHED_NAME)
    vfs.sync_directory(path)
    vfs.unlink(path / UNFINISHED_NAME)
    vfs.remove_directory(path)
    vfs.sync_directory(path.parent)


def _remove_contents(path: Path, vfs: Vfs, kept: str = "") -> None:
    for name in vfs.list_subdirectories(path):
        _remove_contents(path / name, vfs)
        vfs.remove_directory(path / name)
    for name in vfs.list_directory(path):
        if name != kept:
            vfs.unlink(path / name)


def walk_files(path: Path, vfs: Vfs) -> Iterator[Path]:
    """Return all regular files under a directory; symbolic links are not followed."""
    for name in vfs.list_directory(path):
        yield path / name
    for name in vfs.list_subdirectories(path):
        yield from walk_files(path / name, vfs)


def copy_file(source: Path, target: Path, vfs: Vfs) -> int:
    """Copy a file into a directory that exists, synced but for its name; return its size.

    It must not grow meanwhile. Raises OSError.
    """
    reader = vfs.open(source)
    try:
        writer = vfs.create(target)
        try:
            offset = 0
            while data := reader.read_at(offset, _COPY_BYTES):
                writer.write_at(offset, data)
                offset += len(data)
            writer.sync()
        finally:
            writer.close()
    finally:
        reader.close()
    return offset
