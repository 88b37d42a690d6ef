"""Checking a data directory: every byte is read, nothing is changed, all that is wrong is found.

The verdict on the log is that of `recover`, which a start uses, too: what this calls clean or torn
opens, and what this calls corrupt does not, or holds something that a later need would miss, such
as an older snapshot. When `recover` refuses, every segment is read alone to find the rest.

The directory is locked against writers meanwhile, without creating anything. With `live` it is not:
then another process may use it. So what is examined is the directory as it was at one moment
(`_moment`), and damage is believed only if it is still there at another.
"""

from __future__ import annotations

from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_storage._catalog import parse_segment_name
from vaylix_storage._directory import older_format_names
from vaylix_storage._names import IDENTITY_NAME, SNAPSHOTS_NAME, WAL_NAME
from vaylix_storage._staging import migrate_command, refuse_unfinished
from vaylix_storage.errors import (
    CorruptionError,
    DirectoryLockedError,
    FileSystemError,
    ForeignFormatError,
    MigrationRequiredError,
)
from vaylix_storage.offline._examination import Examination, LeftOut, Problem
from vaylix_storage.offline._moment import MomentVfs
from vaylix_storage.offline._read_only import MeteredVfs, ReadOnlyVfs
from vaylix_storage.offline.progress import Progress, no_progress
from vaylix_storage.offline.report import StorageReport

if TYPE_CHECKING:
    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._vfs import Lock, Vfs

__all__ = [
    "LIVE_REMEDY",
    "LeftOut",
    "Problem",
    "State",
    "Verification",
    "bytes_to_read",
    "check_is_directory",
    "verify_directory",
]

LIVE_REMEDY: Final = "stop or close what uses it; or look at it as it is, with --live"
_LOOKS_MAX: Final = 5
_LIVE_NOTE: Final = (
    "the directory is in use: what was written after this began was not read, and an unfinished "
    "write at the end of the log is no damage; stop the server for a final verdict"
)


class State(Enum):
    """The verdict."""

    CLEAN = "clean"
    # A crash has left bytes at the end that were never wholly written; a start leaves them out.
    TORN = "torn"
    CORRUPT = "corrupt"


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `problems` make it corrupt; `notes` are worth knowing, but harmless.

    `report` holds what is known in spite of the problems; `ending` is how the log ends.
    """

    path: Path
    state: State
    problems: tuple[Problem, ...]
    left_out: LeftOut | None
    notes: tuple[str, ...]
    report: StorageReport
    ending: str | None
    cluster_id: str | None
    node_id: str | None
    timeline: str | None
    commit_index: int | None

    def as_json(self) -> bytes:
        """Return all of it for programs; `values` are the twelve of the report."""
        content = msgspec.to_builtins(self, enc_hook=str)
        return msgspec.json.encode({**content, "values": self.report.values()})


def verify_directory(
    path: Path,
    *,
    vfs: Vfs,
    provider: KeyProvider,
    live: bool = False,
    progress: Progress = no_progress,
) -> Verification:
    """Read and check everything in a data directory. Changes and creates nothing.

    Damage is not an error here, but what makes a verdict impossible is: FileSystemError for a path
    that is missing or cannot be read, DirectoryLockedError for a directory in use unless `live`,
    MigrationRequiredError and ForeignFormatError for other formats, KeyringError for a wrong key.
    """
    read_only = ReadOnlyVfs(vfs)
    try:
        check_is_directory(path, read_only)
        lock = None if live else lock_for_reading(path, read_only, remedy=LIVE_REMEDY)
        try:
            if not live:
                return examine(path, read_only, provider, progress)
            return _examine_live(path, read_only, provider, progress)
        finally:
            if lock is not None:
                lock.release()
    except OSError as error:
        raise FileSystemError(f"cannot be read: {error}", path=path) from error


def check_is_directory(path: Path, vfs: Vfs) -> None:
    """Raise unless a path is a data directory of this format that was finished; OSError."""
    if not vfs.is_directory(path):
        raise FileSystemError(
            "there is no such directory", path=path, remedy="check the path for a mistyped name"
        )
    refuse_unfinished(path, vfs)
    try:
        is_older = bool(older_format_names(path, vfs))
    except CorruptionError:
        # node.json is missing, but the rest is of this format: damage, which is not for here.
        return
    if is_older:
        raise MigrationRequiredError(
            "the directory belongs to storage format 3 or older",
            path=path,
            remedy=f"convert it with `{migrate_command(path)}`; the original is kept",
        )
    if not vfs.exists(path / IDENTITY_NAME):
        raise ForeignFormatError(
            "this is no data directory of Vaylix: there is no node.json",
            path=path,
            remedy="check the path for a mistyped name",
        )


def lock_for_reading(
    path: Path, vfs: Vfs, *, remedy: str = "stop or close what uses it, then try again"
) -> Lock:
    """Keep writers out of a directory. Raises DirectoryLockedError with `remedy`, and OSError."""
    try:
        return vfs.lock_shared(path / "LOCK")
    except BlockingIOError as error:
        raise DirectoryLockedError(
            "another process, or this one, has this data directory open",
            path=path,
            remedy=remedy,
        ) from error


def examine(
    path: Path, vfs: Vfs, provider: KeyProvider, progress: Progress = no_progress
) -> Verification:
    """Check a directory that does not change meanwhile. Raises OSError, as well."""
    metered = MeteredVfs(vfs, progress, "verifying", bytes_to_read(path, vfs))
    examination = Examination(path, metered, provider)
    examination.run()
    metered.finish()
    problems = tuple(examination.problems)
    if problems:
        state = State.CORRUPT
    else:
        state = State.CLEAN if examination.left_out is None else State.TORN
    identity = examination.identity
    return Verification(
        path=path,
        state=state,
        problems=problems,
        left_out=examination.left_out,
        notes=tuple(examination.notes),
        report=examination.report(),
        ending=None if examination.ending is None else examination.ending.value,
        cluster_id=None if identity is None else identity.cluster_id,
        node_id=None if identity is None else identity.node_id,
        timeline=None if identity is None else identity.timeline,
        commit_index=examination.commit_index,
    )


def _examine_live(path: Path, vfs: Vfs, provider: KeyProvider, progress: Progress) -> Verification:
    """Look again at damage; it is believed once it is seen in the same place again."""
    seen: set[tuple[Path, int | None]] = set()
    look = 0
    while True:
        look += 1
        moment = MomentVfs(path, vfs)
        try:
            found = examine(path, moment, provider, progress)
        finally:
            moment.close()
        places = {_place(problem) for problem in found.problems}
        if not places or places & seen or look == _LOOKS_MAX:
            break
        seen = places
    if found.state is State.TORN:
        found = msgspec.structs.replace(found, state=State.CLEAN, left_out=None)
    return msgspec.structs.replace(found, notes=(*found.notes, _LIVE_NOTE))


def _place(problem: Problem) -> tuple[Path, int | None]:
    """Return where a problem is, also if its segment gets another name."""
    parsed = parse_segment_name(problem.path.name)
    path = problem.path if parsed is None else problem.path.with_name(str(parsed[0]))
    return path, problem.offset


def bytes_to_read(path: Path, vfs: Vfs) -> int:
    """Return the size of all segments and snapshots; OSError."""
    total = 0
    for directory in (path / WAL_NAME, path / SNAPSHOTS_NAME):
        if not vfs.exists(directory):
            continue
        for name in vfs.list_directory(directory):
            with suppress(FileNotFoundError):
                file = vfs.open(directory / name)
                total += file.size()
                file.close()
    return total
