"""Which storage keys anything in a data directory or an archive names.

A retired key may be dropped only when nothing does. Whatever could hold data counts, also when the
log or the manifest does not reach it; a file that cannot be read is an error, because nobody knows
which key it needs. Only headers are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_storage._archive import (
    files_in,
    list_archive,
    read_segment_header,
    read_snapshot_header,
)
from vaylix_storage._catalog import parse_segment_name
from vaylix_storage._manifest import key_ids_in_manifest, parse_snapshot_name
from vaylix_storage._names import MANIFEST_NAME, SNAPSHOTS_NAME, WAL_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_storage._vfs import Vfs

__all__ = ["key_ids_in_use", "key_uses"]


def key_ids_in_use(directory: Path, *, vfs: Vfs, archive: Path | None = None) -> frozenset[bytes]:
    """Return the ids of the storage keys that are needed, for `drop_keys`; as `key_uses`."""
    return frozenset(key_uses(directory, vfs=vfs, archive=archive))


def key_uses(
    directory: Path, *, vfs: Vfs, archive: Path | None = None
) -> dict[bytes, tuple[Path, ...]]:
    """Return the ids of the storage keys that are needed, and the files that name each.

    `directory` is the data directory, which nobody else may use meanwhile. Nothing is changed.
    Raises CorruptionError, ForeignFormatError, FileSystemError.
    """
    uses: dict[bytes, list[Path]] = {}
    manifest = directory / MANIFEST_NAME
    for key_id in key_ids_in_manifest(manifest, vfs=vfs):
        uses.setdefault(key_id, []).append(manifest)
    for path in files_in(directory / WAL_NAME, vfs):
        if parse_segment_name(path.name) is not None:
            uses.setdefault(read_segment_header(path, vfs).key_id, []).append(path)
    for path in files_in(directory / SNAPSHOTS_NAME, vfs):
        if parse_snapshot_name(path.name) is not None:
            uses.setdefault(read_snapshot_header(path, vfs).key_id, []).append(path)
    for timeline in () if archive is None else list_archive(archive, vfs=vfs):
        for segment in timeline.segments:
            uses.setdefault(segment.header.key_id, []).append(segment.path)
        for snapshot in timeline.snapshots:
            uses.setdefault(snapshot.header.key_id, []).append(snapshot.path)
    return {key_id: tuple(dict.fromkeys(paths)) for key_id, paths in uses.items()}
