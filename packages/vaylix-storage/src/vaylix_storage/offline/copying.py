"""Copying a data directory, also one that a server is using.

Segments are never changed, only the newest grows, and snapshots never change at all. So a copy is
consistent if the set of files is: names of segments, manifest, keyring and identity are read, all
files are opened, and if names and small files are the same after that as before, what was opened
belongs together. From then on it may be renamed or removed: what is open stays readable. Of the
newest segment those bytes count that were there when its copy began; a write that was under way is
a torn tail at worst.

The copy is built aside, marked as unfinished, verified from its files like any directory, and only
then gets its name and loses the mark. It is the same node of the same history: a backup, not a
second node.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from vaylix_storage._catalog import NameKind, parse_segment_name
from vaylix_storage._manifest import load_manifest, snapshot_name
from vaylix_storage._staging import (
    begin_building,
    finish_building,
    is_bare,
    is_unfinished,
    remove_built,
    sibling,
)
from vaylix_storage._tail import written_end
from vaylix_storage._vfs import create_file_durably
from vaylix_storage.errors import CorruptionError, FileSystemError, StorageError
from vaylix_storage.offline._examination import missing_snapshot
from vaylix_storage.offline._layout import (
    IDENTITY_NAME,
    KEY_NAME,
    KEYRING_NAME,
    LOG_BEGUN_NAME,
    MANIFEST_NAME,
    SNAPSHOTS_NAME,
    WAL_NAME,
    load_identity,
    load_keyring,
    read_small,
)
from vaylix_storage.offline._read_only import ReadOnlyVfs, RenamedVfs
from vaylix_storage.offline.progress import Progress, no_progress
from vaylix_storage.offline.verify import State, Verification, check_is_directory, examine

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._vfs import File, Vfs

__all__ = ["CopyResult", "copy_directory"]

_SUFFIX: Final = ".copying"
_SMALL_NAMES: Final = (
    IDENTITY_NAME,
    KEYRING_NAME,
    KEY_NAME,
    MANIFEST_NAME,
    LOG_BEGUN_NAME,
    "migration.json",
)
# A look takes milliseconds, and so does what can disturb it.
_LOOKS_MAX: Final = 50
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


class _Part(NamedTuple):
    """A file to copy: where to, what from, and how much of it."""

    path: Path
    file: File
    size: int


class _Look(NamedTuple):
    """Files that belong together: the small ones by their content, the others open."""

    small: dict[str, bytes]
    parts: list[_Part]


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
        reader = ReadOnlyVfs(vfs)
        check_is_directory(source, reader)
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
        resolved = vfs.resolve(target)
        vfs.rename(staging, resolved)
        vfs.sync_directory(resolved.parent)
        finish_building(resolved, vfs)
    except OSError as error:
        raise FileSystemError(f"cannot be copied: {error}", path=source) from error
    return result


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
        with ExitStack() as opened:
            look = _look(source, ReadOnlyVfs(vfs), provider_for(source), opened)
            _write(look, staging, vfs, progress)
        has_key = KEY_NAME in look.small
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
    kept = {*_SMALL_NAMES, SNAPSHOTS_NAME, WAL_NAME, "LOCK"}
    return CopyResult(
        source=source,
        target=target,
        size_bytes=sum(part.size for part in look.parts),
        has_key=has_key,
        left_behind=tuple(name for name in names if name not in kept),
        verification=verification,
    )


def _look(source: Path, vfs: Vfs, provider: KeyProvider, opened: ExitStack) -> _Look:
    """Open what belongs together. Raises CorruptionError, KeyringError, OSError."""
    failure: StorageError = FileSystemError(
        "the directory changes too fast to be copied",
        path=source,
        remedy="try again; a server that ends a segment every few milliseconds needs larger ones",
    )
    for _ in range(_LOOKS_MAX):
        with ExitStack() as files:
            before = _small_files(source, vfs), _segment_names(source, vfs)
            try:
                parts = _open_segments(source, before[1], vfs, files)
                parts += _open_snapshots(source, vfs, provider, files)
            except FileNotFoundError:
                continue
            except CorruptionError as error:
                # Damage, unless a change is the reason.
                failure = error
                if (_small_files(source, vfs), _segment_names(source, vfs)) == before:
                    break
                continue
            if (_small_files(source, vfs), _segment_names(source, vfs)) == before:
                opened.enter_context(files.pop_all())
                return _Look(before[0], parts)
    raise failure


def _small_files(source: Path, vfs: Vfs) -> dict[str, bytes]:
    there = set(vfs.list_directory(source))
    found = {name: read_small(source / name, vfs) for name in _SMALL_NAMES if name in there}
    return {name: content for name, content in found.items() if content is not None}


def _segment_names(source: Path, vfs: Vfs) -> list[str]:
    wal = source / WAL_NAME
    names = vfs.list_directory(wal) if vfs.exists(wal) else []
    return [name for name in names if parse_segment_name(name) is not None]


def _open_segments(source: Path, names: list[str], vfs: Vfs, files: ExitStack) -> list[_Part]:
    parts = []
    for name in names:
        file = vfs.open(source / WAL_NAME / name)
        files.callback(file.close)
        size = file.size()
        parsed = parse_segment_name(name)
        if parsed is not None and parsed[1] is NameKind.ACTIVE:
            # Without the space that is reserved.
            size = written_end(file, 0, size)
        parts.append(_Part(Path(WAL_NAME, name), file, size))
    return parts


def _open_snapshots(source: Path, vfs: Vfs, provider: KeyProvider, files: ExitStack) -> list[_Part]:
    if not vfs.exists(source / MANIFEST_NAME):
        return []
    keyring = load_keyring(source, vfs=vfs, provider=provider)
    timeline = bytes.fromhex(load_identity(source, vfs).timeline)
    manifest = load_manifest(source / MANIFEST_NAME, vfs=vfs, keyring=keyring, timeline=timeline)
    parts = []
    for entry in manifest.snapshots:
        path = Path(SNAPSHOTS_NAME, snapshot_name(entry.meta.index))
        try:
            file = vfs.open(source / path)
        except FileNotFoundError as error:
            raise missing_snapshot(source / path) from error
        files.callback(file.close)
        parts.append(_Part(path, file, file.size()))
    return parts


def _write(look: _Look, staging: Path, vfs: Vfs, progress: Progress) -> None:
    """Write a copy of what is open, all on the disk when this returns."""
    total = sum(part.size for part in look.parts)
    done = 0
    progress("copying", 0, total)
    for name in (SNAPSHOTS_NAME, WAL_NAME):
        vfs.make_directory(staging / name)
    for part in look.parts:
        file = vfs.create(staging / part.path)
        try:
            offset = 0
            while offset < part.size:
                data = part.file.read_at(offset, min(_COPY_BYTES, part.size - offset))
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
    for name, content in look.small.items():
        create_file_durably(vfs, staging / name, content)


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
