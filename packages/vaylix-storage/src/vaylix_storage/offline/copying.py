"""Copying a data directory, also one that a server is using.

What is copied are the files of one moment (`_moment`); a write that was under way is a torn tail at
worst.

The copy is built aside, marked as unfinished, verified from its files like any directory, and only
then gets its name and loses the mark. It is the same node of the same history: a backup, not a
second node.
"""

from __future__ import annotations

from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_storage._manifest import load_manifest, snapshot_name
from vaylix_storage._names import KEY_NAME, MANIFEST_NAME, SNAPSHOTS_NAME, WAL_NAME
from vaylix_storage._staging import (
    begin_building,
    finish_building,
    is_bare,
    is_unfinished,
    remove_built,
    sibling,
)
from vaylix_storage._vfs import create_file_durably
from vaylix_storage.errors import CorruptionError, FileSystemError, StorageError
from vaylix_storage.offline._examination import missing_snapshot
from vaylix_storage.offline._layout import load_identity, load_keyring
from vaylix_storage.offline._moment import SMALL_NAMES, MomentVfs, Part
from vaylix_storage.offline._read_only import ReadOnlyVfs, RenamedVfs
from vaylix_storage.offline.progress import Progress, no_progress
from vaylix_storage.offline.verify import State, Verification, check_is_directory, examine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._vfs import Vfs

__all__ = ["CopyResult", "copy_directory"]

_SUFFIX: Final = ".copying"
_COPIES_MAX: Final = 3
_COPY_BYTES: Final = 1024 * 1024


class CopyResult(msgspec.Struct, frozen=True, kw_only=True):
    """A copy, as it was verified. `left_behind` are names of the source that were not copied."""

    source: Path
    target: Path
    size_bytes: int
    has_key: bool
    left_behind: tuple[str, ...]
    verification: Verification

    def as_json(self) -> bytes:
        """Return all of it for programs."""
        return msgspec.json.encode(self, enc_hook=str)


def copy_directory(
    source: Path,
    target: Path,
    *,
    vfs: Vfs,
    provider_for: Callable[[Path], KeyProvider],
    progress: Progress = no_progress,
) -> CopyResult:
    """Copy a data directory, in use or not, to `target`, which must not exist or be empty.

    `provider_for` returns what wraps the keys of a directory; the key file inside is copied if
    there is one, but not what a link leads to. Nothing is changed in the source. What lies there
    beside the data, such as backups, is left behind.

    Raises CorruptionError for a source that is damaged, FileSystemError, and what
    `verify_directory` raises; then there is no target. After a crash it can be done again.
    """
    try:
        check_is_directory(source, ReadOnlyVfs(vfs))
        with _writing(target):
            _check_target(source, target, vfs)
            staging = sibling(target, _SUFFIX, vfs)
            _clear(staging, vfs)
            begin_building(staging, vfs)
        try:
            result = _copy_and_verify(source, target, staging, vfs, provider_for, progress)
        except BaseException:
            # If this fails, too, the next attempt does it.
            with suppress(StorageError, OSError):
                remove_built(staging, vfs)
            raise
        with _writing(target):
            resolved = vfs.resolve(target)
            vfs.rename(staging, resolved)
            vfs.sync_directory(resolved.parent)
            finish_building(resolved, vfs)
    except OSError as error:
        raise FileSystemError(f"cannot be copied: {error}", path=source) from error
    return result


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Blame the target, and not the source, for what fails: a full disk, missing rights."""
    try:
        yield
    except OSError as error:
        raise FileSystemError(
            f"the copy cannot be written: {error}",
            path=target,
            remedy="make room there, or name another place with --target-dir",
        ) from error


def _check_target(source: Path, target: Path, vfs: Vfs) -> None:
    from_path, to_path = vfs.resolve(source), vfs.resolve(target)
    if from_path.is_relative_to(to_path) or to_path.is_relative_to(from_path):
        raise FileSystemError(
            f"a copy cannot lie in {source}, nor that in the copy",
            path=target,
            remedy="choose another target",
        )
    if not vfs.exists(target):
        return
    if vfs.is_directory(target):
        if is_unfinished(target, vfs):
            remove_built(to_path, vfs)
            return
        if not (vfs.list_directory(target) or vfs.list_subdirectories(target)):
            return
    raise FileSystemError(
        "the target is not empty", path=target, remedy="choose one that does not exist"
    )


def _clear(staging: Path, vfs: Vfs) -> None:
    """Remove what an earlier attempt has left."""
    if not vfs.exists(staging):
        return
    if not (vfs.is_directory(staging) and (is_unfinished(staging, vfs) or is_bare(staging, vfs))):
        raise FileSystemError(
            "the name that the copy needs while it is built is taken",
            path=staging,
            remedy="take it away, or give it another name",
        )
    remove_built(staging, vfs)


def _copy_and_verify(
    source: Path,
    target: Path,
    staging: Path,
    vfs: Vfs,
    provider_for: Callable[[Path], KeyProvider],
    progress: Progress,
) -> CopyResult:
    """Copy until a copy is whole; a write that is seen half may need a second one."""
    copy_number = 0
    while True:
        copy_number += 1
        with closing(MomentVfs(source, ReadOnlyVfs(vfs))) as moment:
            parts = _parts_of(source, moment, provider_for(source))
            with _writing(target):
                _write(moment.small, parts, source, staging, vfs, progress)
        has_key = KEY_NAME in moment.small
        provider = provider_for(staging if has_key else source)
        # By the name that it will have.
        view = RenamedVfs(vfs, target, staging)
        verification = examine(target, view, provider, progress)
        if verification.state is not State.CORRUPT:
            break
        if copy_number == _COPIES_MAX:
            raise _damaged(verification, target, source)
        remove_built(staging, vfs)
        begin_building(staging, vfs)
    names = (*vfs.list_directory(source), *vfs.list_subdirectories(source))
    kept = {*SMALL_NAMES, SNAPSHOTS_NAME, WAL_NAME, "LOCK"}
    return CopyResult(
        source=source,
        target=target,
        size_bytes=sum(part.size for part in parts),
        has_key=has_key,
        left_behind=tuple(name for name in names if name not in kept),
        verification=verification,
    )


def _parts_of(source: Path, moment: MomentVfs, provider: KeyProvider) -> list[Part]:
    """Return the files to copy: segments, and the snapshots that count.

    Raises CorruptionError, ForeignFormatError, KeyringError, OSError.
    """
    parts = {part.path: part for part in moment.parts}
    counted = [part for path, part in parts.items() if path.parent.name == WAL_NAME]
    if not moment.exists(source / MANIFEST_NAME):
        return counted
    keyring = load_keyring(source, vfs=moment, provider=provider)
    timeline = bytes.fromhex(load_identity(source, moment).timeline)
    manifest = load_manifest(source / MANIFEST_NAME, vfs=moment, keyring=keyring, timeline=timeline)
    for entry in manifest.snapshots:
        path = Path(SNAPSHOTS_NAME, snapshot_name(entry.meta.index))
        if path not in parts:
            raise missing_snapshot(source / path)
        counted.append(parts[path])
    return counted


def _write(
    small: dict[str, bytes],
    parts: list[Part],
    source: Path,
    staging: Path,
    vfs: Vfs,
    progress: Progress,
) -> None:
    """Write a copy of what is open, all on the disk when this returns.

    Raises OSError for the copy, and FileSystemError for the source.
    """
    total = sum(part.size for part in parts)
    done = 0
    progress("copying", 0, total)
    for name in (SNAPSHOTS_NAME, WAL_NAME):
        vfs.make_directory(staging / name)
    for part in parts:
        file = vfs.create(staging / part.path)
        try:
            offset = 0
            while offset < part.size:
                data = _read(part, source, offset)
                if not data:
                    break
                file.write_at(offset, data)
                offset += len(data)
                done += len(data)
                progress("copying", done, total)
            file.sync()
        finally:
            file.close()
    for name in (SNAPSHOTS_NAME, WAL_NAME):
        vfs.sync_directory(staging / name)
    for name, content in small.items():
        create_file_durably(vfs, staging / name, content)


def _read(part: Part, source: Path, offset: int) -> bytes:
    try:
        return part.file.read_at(offset, min(_COPY_BYTES, part.size - offset))
    except OSError as error:
        raise FileSystemError(f"cannot be read: {error}", path=source / part.path) from error


def _damaged(verification: Verification, target: Path, source: Path) -> CorruptionError:
    problem = verification.problems[0]
    path = problem.path
    if path.is_relative_to(target):
        path = source / path.relative_to(target)
    return CorruptionError(
        f"it is damaged, so its copy would be: {problem.reason}",
        path=path,
        offset=problem.offset,
        remedy="verify the directory itself; what is whole can be had by a repair",
    )
