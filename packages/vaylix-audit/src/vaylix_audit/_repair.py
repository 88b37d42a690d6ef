"""Making whole what a crash has left, so that each step can be cut short and taken again.

Beyond repairing, whatever may be in the page cache only is written once more. After a sync that
failed, the kernel may take pages for clean that never reached the disk, and a later sync that
succeeds proves nothing about them. The bytes are the same, so a crash in between changes nothing.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from vaylix_audit._files import read_pieces, write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_audit._checkpoints import CheckpointScan
    from vaylix_audit._files import File, FileSystem
    from vaylix_audit._inspection import LogCheck

__all__ = ["repair_checkpoints", "repair_log"]


def repair_log(file: File, check: LogCheck, *, path: Path, file_system: FileSystem) -> Path | None:
    """Cut off a torn end, or add the newline that is missing, and sync all records.

    What is cut off is kept in a file beside the log first; its path is returned.
    """
    end = check.head.size_bytes
    kept = None
    if check.torn is not None:
        kept = _keep(file, end, path=path, file_system=file_system)
        file.truncate(end)
    elif check.lacks_newline:
        write_whole(file, end - 1, b"\n")
        file.truncate(end)
    # One byte more: an earlier start may have added a newline there and failed to sync it.
    start = 0 if check.checkpoint is None else max(0, check.checkpoint.head.size_bytes - 1)
    _write_again(file, start, end)
    file.sync()
    return kept


def repair_checkpoints(file: File, scan: CheckpointScan) -> None:
    """Cut off a torn end, or add the newline that is missing, and sync the newest checkpoint."""
    if scan.is_torn:
        file.truncate(scan.end)
    elif scan.lacks_newline:
        write_whole(file, scan.end - 1, b"\n")
        file.truncate(scan.end)
    _write_again(file, scan.newest_offset, scan.end)
    file.sync()


def _write_again(file: File, start: int, end: int) -> None:
    offset = start
    for piece in read_pieces(file, start, end):
        write_whole(file, offset, piece)
        offset += len(piece)


def _keep(file: File, start: int, *, path: Path, file_system: FileSystem) -> Path:
    """Copy the end of a log to a file that is named after what is in it.

    The same end gets the same name, and another end another: doing it twice leaves one copy, and
    no copy is ever replaced by a different one.
    """
    digest = hashlib.sha256()
    for piece in read_pieces(file, start):
        digest.update(piece)
    kept = path.with_name(f"{path.name}.torn-{start}-{digest.hexdigest()[:16]}")
    staging = kept.with_name(kept.name + ".tmp")
    copy = file_system.open_locked(staging)
    try:
        copy.truncate(0)
        offset = 0
        for piece in read_pieces(file, start):
            write_whole(copy, offset, piece)
            offset += len(piece)
        copy.sync()
    finally:
        copy.close()
    file_system.rename(staging, kept)
    file_system.sync_directory(path.parent)
    return kept
