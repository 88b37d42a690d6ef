"""What is neither data nor access control: copied as it is, or left in the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from vaylix_storage._staging import copy_file, walk_files
from vaylix_storage._vfs import Vfs, files_are_equal
from vaylix_storage.errors import CorruptionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Inventory", "carried_bytes", "carry_over", "left_behind", "take_inventory"]

# Every file below a directory, by its relative path, with its size.
Inventory: TypeAlias = "dict[str, int]"

_CARRIED_FILES: Final = ("audit.log", "maintenance.mode")
_CARRIED_DIRECTORIES: Final = ("backups",)
_CONVERTED: Final = frozenset(
    {"keyring.bin", "snapshot.bin", "manifest.bin", "auth.bin", "wal", "wal.log"}
)
_STAGING_SUFFIX: Final = ".tmp"


def take_inventory(path: Path, vfs: Vfs) -> Inventory:
    """Return all files of a directory with their sizes, but for its lock. Raises OSError."""
    inventory: Inventory = {}
    for file_path in walk_files(path, vfs):
        name = str(file_path.relative_to(path))
        if name != "LOCK":
            inventory[name] = _size(file_path, vfs)
    return inventory


def left_behind(inventory: Inventory) -> tuple[str, ...]:
    """Return the names at the top of the old directory that are neither converted nor copied."""
    names = {name.split("/")[0] for name in inventory if not name.endswith(_STAGING_SUFFIX)}
    return tuple(sorted(names - _CONVERTED - {*_CARRIED_FILES, *_CARRIED_DIRECTORIES}))


def carried_bytes(path: Path, vfs: Vfs) -> int:
    """Return how much there is to copy. Raises OSError."""
    return sum(_size(file_path, vfs) for file_path in _carried(path, vfs))


def carry_over(
    path: Path,
    target: Path,
    vfs: Vfs,
    warn: Callable[[str], None],
    progress: Callable[[str, int, int], None],
) -> tuple[str, ...]:
    """Copy what is kept as it is, durably, and compare the copies; return the names at the top.

    Raises OSError, and CorruptionError for a copy that differs.
    """
    files = _carried(path, vfs)
    total = sum(_size(file_path, vfs) for file_path in files)
    done = 0
    directories = {target}
    for source in files:
        progress("copying", done, total)
        copy = target / source.relative_to(path)
        if copy.parent not in directories:
            vfs.make_directory(copy.parent)
            directories.add(copy.parent)
        done += copy_file(source, copy, vfs)
    for directory in sorted(directories):
        vfs.sync_directory(directory)
    for source in files:
        copy = target / source.relative_to(path)
        if not files_are_equal(vfs, source, copy):
            raise CorruptionError(
                f"the copy of {source} differs",
                path=copy,
                offset=0,
                remedy="stop whatever writes to the file, and start the migration again",
            )
    for name in (*_CARRIED_FILES, *_CARRIED_DIRECTORIES):
        listed = vfs.list_directory(path) + vfs.list_subdirectories(path)
        if vfs.exists(path / name) and name not in listed:
            warn(f"{path / name} is a link and is not carried over: make it again")
    return tuple(sorted({source.relative_to(path).parts[0] for source in files}))


def _carried(path: Path, vfs: Vfs) -> list[Path]:
    files = [path / name for name in vfs.list_directory(path) if name in _CARRIED_FILES]
    for name in vfs.list_subdirectories(path):
        if name in _CARRIED_DIRECTORIES:
            files.extend(walk_files(path / name, vfs))
    return files


def _size(path: Path, vfs: Vfs) -> int:
    file = vfs.open(path)
    try:
        return file.size()
    finally:
        file.close()
