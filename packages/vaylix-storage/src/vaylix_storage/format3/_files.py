"""Reading files of the old directory, with its errors as errors of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_storage.errors import FileSystemError

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_storage._vfs import Vfs

__all__ = ["read_whole"]


def read_whole(path: Path, vfs: Vfs) -> bytes:
    """Return the content of a file."""
    try:
        file = vfs.open(path)
        try:
            return file.read_at(0, file.size())
        finally:
            file.close()
    except OSError as error:
        raise FileSystemError(f"cannot read: {error}", path=path) from error
