"""Telling a foreign identity from foreign data.

Segments and the manifest name the timeline they belong to, and so does `node.json`. Where one of
the files differs, that one was copied from elsewhere. Where all of them agree with each other and
differ from `node.json`, it is `node.json` that was, and what it makes look foreign is the data.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from vaylix_storage._catalog import parse_segment_name
from vaylix_storage._format import HEADER_BYTES, FormatError, parse_header
from vaylix_storage._manifest import timeline_of_manifest
from vaylix_storage._names import IDENTITY_NAME, MANIFEST_NAME
from vaylix_storage.errors import FOREIGN_FILE_CAUSE, ForeignFormatError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_storage._directory import NodeIdentity
    from vaylix_storage._vfs import Vfs

__all__ = ["refuse_foreign_identity"]


def refuse_foreign_identity(path: Path, identity: NodeIdentity, vfs: Vfs) -> None:
    """Raise ForeignFormatError if all files of a directory belong to one other history.

    What cannot be read is passed over: whoever needs it says so. No key vouches for what is read.
    """
    found = _timelines(path, vfs)
    if len(found) != 1 or bytes.fromhex(identity.timeline) in found:
        return
    raise ForeignFormatError(
        f"it belongs to another history ({identity.timeline}) than all files of this directory "
        f"({found.pop().hex()})",
        path=path / IDENTITY_NAME,
        remedy=f"{FOREIGN_FILE_CAUSE}; bring back the one of this directory from a copy, and leave "
        "the other files as they are",
    )


def _timelines(path: Path, vfs: Vfs) -> set[bytes]:
    found: set[bytes] = set()
    try:
        timeline = timeline_of_manifest(path / MANIFEST_NAME, vfs=vfs)
        found.update(() if timeline is None else (timeline,))
    except StorageError:
        pass
    wal = path / "wal"
    try:
        for name in vfs.list_directory(wal) if vfs.is_directory(wal) else ():
            if parse_segment_name(name) is not None:
                found.update(_timeline_of_segment(wal / name, vfs))
    except OSError:
        pass
    return found


def _timeline_of_segment(path: Path, vfs: Vfs) -> tuple[bytes, ...]:
    try:
        with closing(vfs.open(path)) as file:
            return (parse_header(file.read_at(0, HEADER_BYTES))[0].timeline,)
    except (FormatError, OSError):
        return ()
