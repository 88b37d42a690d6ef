"""From format 3 to the current one: built beside, verified, then swapped.

    <path>             the old directory, only read, until
    <path>.migrating   the new one is whole, on the disk, and has been read back and compared;
    <path>.format3     then the old one gets this name, and stays,
    <path>             and the new one takes its place.

What an interruption leaves is one of these, and running it again finishes it:

| `<path>` | `.migrating` | `.format3` | what is next |
| --- | --- | --- | --- |
| old | none, unfinished or whole | none | begin anew: the old one may have changed since |
| missing | whole | old | give the new one its name |
| new | none | old | nothing |

No node starts in an unfinished directory, or where the data are missing beside the other two names
(`DataDirectory.open`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from vaylix_storage._builder import (
    KEYSPACE_SECTION,
    BuiltDirectory,
    NewHistory,
    Section,
    build_directory,
    keyspace_section,
    read_back,
)
from vaylix_storage._directory import lock_directory, read_identity
from vaylix_storage._snapshot_format import SnapshotMeta
from vaylix_storage._staging import (
    MIGRATING_SUFFIX,
    ORIGINAL_SUFFIX,
    finish_building,
    is_empty,
    is_unfinished,
    migrate_command,
    remove_built,
    sibling,
)
from vaylix_storage._vfs import create_file_durably
from vaylix_storage.errors import CorruptionError, FileSystemError, ForeignFormatError, StorageError
from vaylix_storage.format3._carrying import (
    Inventory,
    carried_bytes,
    carry_over,
    left_behind,
    take_inventory,
)
from vaylix_storage.format3._comparing import ReadBack, keyspace_of
from vaylix_storage.format3._files import read_whole
from vaylix_storage.format3._reading import Format3Contents, is_format3, read_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._keyspace import Keyspace
    from vaylix_storage._vfs import Lock, Vfs

__all__ = ["MigrationHooks", "MigrationOutcome", "MigrationReport", "migrate"]

_IDENTITY_NAME: Final = "node.json"
_REPORT_NAME: Final = "migration.json"
# What a new directory takes beside its contents, and more: a segment of the log has room to grow.
_SPARE_BYTES: Final = 16 * 1024 * 1024
_ENTRY_OVERHEAD_BYTES: Final = 64
_MOUNT_REMEDY: Final = "move the data into a directory below it, and migrate that"


class MigrationOutcome(Enum):
    """What was done."""

    MIGRATED = "migrated"
    # An earlier call was interrupted between the two renames; this one did the second.
    COMPLETED = "completed"
    # The directory is of the current format already, and nothing was changed.
    CURRENT = "current"


class MigrationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration did; also kept in `migration.json` of the new directory.

    `carried_over` are files that were copied as they are, `left_behind` what is only in the
    original. `warnings` are those of reading, and of what could not be carried over.
    """

    outcome: MigrationOutcome
    path: str
    original: str | None = None
    last_sequence: int = 0
    key_count: int = 0
    user_count: int = 0
    role_count: int = 0
    carried_over: tuple[str, ...] = ()
    left_behind: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class MigrationHooks(NamedTuple):
    """What a migration tells, and asks.

    `warn` is told at once what is also in the report. `progress` is told a phase, how many bytes
    or keys are done, and how many there are; now and then. `free_bytes` returns how much space
    there is where a path is.
    """

    warn: Callable[[str], None] = lambda _text: None
    progress: Callable[[str, int, int], None] = lambda _phase, _done, _total: None
    free_bytes: Callable[[Path], int] | None = None


def migrate(
    path: Path,
    *,
    vfs: Vfs,
    provider_factory: Callable[[Path], KeyProvider],
    sections: Callable[[Format3Contents], Iterable[Section]],
    now_ms: int,
    random_bytes: Callable[[int], bytes] = os.urandom,
    hooks: MigrationHooks | None = None,
) -> MigrationReport:
    """Convert a directory of Vaylix 0.9, and keep the original; or go on with that.

    The old server must have been stopped; nothing but a change of its files could tell.
    `provider_factory` gets the directory that is being built and returns what wraps its keys.
    `sections` returns what else the first snapshot shall hold, such as the users and roles of the
    contents.

    A directory of the current format is reported and left alone. Raises subclasses of
    StorageError, among them DirectoryLockedError, ForeignFormatError for what is no data
    directory, and FileSystemError when space is short or a name is taken. After any error, and
    after an interruption, nothing is lost, and a second call does the rest.
    """
    try:
        migration = _Migration(path, vfs, hooks or MigrationHooks())
        state = migration.find_state()
        if state is _State.CURRENT:
            migration.confirm()
            return MigrationReport(outcome=MigrationOutcome.CURRENT, path=str(path))
        if state is _State.SWAPPING:
            return migration.complete()
        lock = migration.lock()
        try:
            return migration.run(provider_factory, sections, now_ms, random_bytes)
        finally:
            migration.unlock(lock)
    except OSError as error:
        raise FileSystemError(
            f"cannot migrate: {error}", path=path, remedy="when that is remedied, start it again"
        ) from error


class _State(Enum):
    OLD = "old"
    SWAPPING = "swapping"
    CURRENT = "current"


class _Migration:
    """One migration: the three names, and what is told to the caller."""

    def __init__(self, path: Path, vfs: Vfs, hooks: MigrationHooks) -> None:
        self._given_path = path
        # Beside what a link leads to, not beside the link.
        self._path = vfs.resolve(path)
        self._new = sibling(path, MIGRATING_SUFFIX, vfs)
        self._original = sibling(path, ORIGINAL_SUFFIX, vfs)
        self._vfs = vfs
        self._hooks = hooks
        self._warnings: list[str] = []
        self._lock_was_there = False

    def find_state(self) -> _State:
        """Tell what there is; raise when that is not for a migration. Changes nothing."""
        vfs, path = self._vfs, self._path
        if is_unfinished(path, vfs):
            raise FileSystemError(
                "this directory was never finished: what built it was interrupted", path=path
            )
        if vfs.exists(path / _IDENTITY_NAME):
            read_identity(path, vfs)
            return _State.CURRENT
        if is_format3(path, vfs):
            self._check_names()
            return _State.OLD
        is_there = vfs.exists(path)
        if is_there and not is_empty(path, vfs):
            raise ForeignFormatError("this is no data directory of Vaylix", path=path)
        if self._is_whole(self._new):
            return _State.SWAPPING
        if vfs.exists(self._original):
            raise FileSystemError(
                f"there are no data here, but an original in {self._original}",
                path=path,
                remedy=f"rename it to {path} and start the migration again",
            )
        if is_there:
            raise ForeignFormatError("this is no data directory of Vaylix", path=path)
        raise FileSystemError(
            "there is no such directory", path=path, remedy="check the path for a mistyped name"
        )

    def _check_names(self) -> None:
        vfs = self._vfs
        if vfs.is_mount_point(self._path):
            raise FileSystemError(
                "the directory is a mount point, which cannot be renamed",
                path=self._path,
                remedy=_MOUNT_REMEDY,
            )
        taken = None
        if vfs.exists(self._original):
            taken = self._original
        elif vfs.exists(self._new) and not self._is_ours(self._new):
            taken = self._new
        if taken is not None:
            raise FileSystemError(
                "the name that the migration needs is taken",
                path=taken,
                remedy="take it away, or give it another name",
            )

    def _is_ours(self, path: Path) -> bool:
        """Tell whether a directory is what an earlier attempt left."""
        vfs = self._vfs
        return vfs.is_directory(path) and (
            is_unfinished(path, vfs) or vfs.exists(path / _REPORT_NAME) or _is_new(path, vfs)
        )

    def _is_whole(self, path: Path) -> bool:
        vfs = self._vfs
        names = (_IDENTITY_NAME, _REPORT_NAME)
        return not is_unfinished(path, vfs) and all(vfs.exists(path / name) for name in names)

    def lock(self) -> Lock:
        """Keep others out of the old directory."""
        self._lock_was_there = self._vfs.exists(self._path / "LOCK")
        return lock_directory(self._path / "LOCK", self._vfs)

    def unlock(self, lock: Lock) -> None:
        """Let others in, and leave the old directory as it was, wherever it is now."""
        with suppress(OSError):
            for path in (self._path, self._original):
                lock_path = path / "LOCK"
                is_old = not self._vfs.exists(path / _IDENTITY_NAME)
                if is_old and not self._lock_was_there and self._vfs.exists(lock_path):
                    self._vfs.unlink(lock_path)
        lock.release()

    def note(self, text: str) -> None:
        """Tell a warning, and keep it for the report."""
        self._warnings.append(text)
        self._hooks.warn(text)

    def run(
        self,
        provider_factory: Callable[[Path], KeyProvider],
        sections: Callable[[Format3Contents], Iterable[Section]],
        now_ms: int,
        random_bytes: Callable[[int], bytes],
    ) -> MigrationReport:
        """Read, build, verify, swap."""
        vfs = self._vfs
        if vfs.exists(self._new):
            remove_built(self._new, vfs)
        before = take_inventory(self._path, vfs)
        contents = read_directory(
            self._path,
            vfs=vfs,
            warn=self.note,
            progress=lambda done, total: self._hooks.progress("reading", done, total),
        )
        keyspace = keyspace_of(contents, self._path)
        extra = list(sections(contents))
        if self._hooks.free_bytes is not None:
            self._check_space(contents, self._hooks.free_bytes(self._path.parent))
        meta = SnapshotMeta(
            contents.last_sequence, contents.last_term, contents.last_timestamp_ms, now_ms
        )
        try:
            provider = provider_factory(self._new)
            built = build_directory(
                self._new,
                NewHistory(meta, [self._counted(keyspace, len(contents.entries)), *extra]),
                vfs=vfs,
                provider=provider,
                random_bytes=random_bytes,
                finish=False,
            )
            carried = carry_over(self._path, self._new, vfs, self.note, self._hooks.progress)
            self._verify(built, provider, contents)
            if take_inventory(self._path, vfs) != before:
                raise FileSystemError(
                    "the directory has changed while it was migrated",
                    path=self._path,
                    remedy="stop the server that uses it, and start the migration again",
                )
            report = self._report(contents, before, carried)
            self._finish(report)
        except (StorageError, OSError):
            # The space may be what was missing. If this fails, too, the next attempt does it.
            with suppress(StorageError, OSError):
                remove_built(self._new, vfs)
            raise
        self._swap()
        return report

    def _counted(self, keyspace: Keyspace, key_count: int) -> Section:
        name, chunks = keyspace_section(keyspace)

        def counted() -> Iterable[tuple[bytes, int]]:
            done = 0
            for plain, count in chunks:
                self._hooks.progress("writing", done, key_count)
                done += count
                yield plain, count

        return Section(name, counted())

    def _check_space(self, contents: Format3Contents, free: int) -> None:
        needed = _SPARE_BYTES + carried_bytes(self._path, self._vfs)
        for key, entry in contents.entries.items():
            needed += len(key) + len(entry.value) + _ENTRY_OVERHEAD_BYTES
        if free < needed:
            raise FileSystemError(
                f"the migration needs up to {needed} bytes beside the directory, but only {free} "
                "are free",
                path=self._path.parent,
                remedy="make room, or move the directory to a larger volume first",
            )

    def _verify(
        self, built: BuiltDirectory, provider: KeyProvider, contents: Format3Contents
    ) -> None:
        """Read everything back from the disk and compare it with what was read before."""
        key_count = len(contents.entries)
        back = ReadBack()

        def take(name: str, plain: bytes) -> None:
            back.take(name, plain, is_keyspace=name == KEYSPACE_SECTION)
            self._hooks.progress("verifying", back.key_count, key_count)

        meta, last_index = read_back(self._new, vfs=self._vfs, provider=provider, take=take)
        if (
            meta != built.snapshot.meta
            or last_index != contents.last_sequence
            or back.digests(built.digests) != built.digests
            or not back.holds(contents)
        ):
            raise CorruptionError(
                "what was written is not what is read back",
                path=built.snapshot.path,
                offset=0,
                remedy="check the disk and the memory of this machine; the original is untouched",
            )

    def _report(
        self, contents: Format3Contents, before: Inventory, carried: tuple[str, ...]
    ) -> MigrationReport:
        auth = contents.auth
        return MigrationReport(
            outcome=MigrationOutcome.MIGRATED,
            path=str(self._given_path),
            original=str(self._original),
            last_sequence=contents.last_sequence,
            key_count=len(contents.entries),
            user_count=0 if auth is None else len(auth.users),
            role_count=0 if auth is None else len(auth.roles),
            carried_over=carried,
            left_behind=left_behind(before),
            warnings=tuple(self._warnings),
        )

    def _finish(self, report: MigrationReport) -> None:
        content = msgspec.json.format(msgspec.json.encode(report)) + b"\n"
        create_file_durably(self._vfs, self._new / _REPORT_NAME, content)
        finish_building(self._new, self._vfs)

    def _swap(self) -> None:
        vfs, parent = self._vfs, self._path.parent
        try:
            vfs.rename(self._path, self._original)
        except OSError as error:
            raise FileSystemError(
                f"the directory cannot be renamed ({error}); the new one is whole, in {self._new}",
                path=self._path,
                remedy=f"if it is a mount point, {_MOUNT_REMEDY}",
            ) from error
        try:
            vfs.sync_directory(parent)
        except OSError:
            # Nobody knows whether the name will last, so the other must not come to rely on it.
            with suppress(OSError):
                vfs.rename(self._original, self._path)
                vfs.sync_directory(parent)
            raise
        self._take_place()

    def _take_place(self) -> None:
        self._vfs.rename(self._new, self._path)
        self._vfs.sync_directory(self._path.parent)

    def confirm(self) -> None:
        """Put the name of a directory on the disk, should a kill have come before that."""
        if self._vfs.exists(self._path / _REPORT_NAME):
            self._vfs.sync_directory(self._path.parent)

    def complete(self) -> MigrationReport:
        """Give the new directory its name, after the original has got its own."""
        vfs = self._vfs
        lock = lock_directory(self._new / "LOCK", vfs)
        try:
            content = read_whole(self._new / _REPORT_NAME, vfs)
            try:
                report = msgspec.json.decode(content, type=MigrationReport)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise CorruptionError(
                    f"the report of the migration is damaged: {error}",
                    path=self._new / _REPORT_NAME,
                    offset=0,
                    remedy=f"rename {self._original} to {self._path}, and start "
                    f"`{migrate_command(self._path)}` again",
                ) from error
            if vfs.exists(self._path / "LOCK"):
                vfs.unlink(self._path / "LOCK")
            vfs.sync_directory(self._path.parent)
            self._take_place()
        finally:
            lock.release()
        return msgspec.structs.replace(report, outcome=MigrationOutcome.COMPLETED)


def _is_new(path: Path, vfs: Vfs) -> bool:
    """Tell whether nothing has been written into a directory but, maybe, the first mark."""
    names = [*vfs.list_directory(path), *vfs.list_subdirectories(path)]
    return all(name == "UNFINISHED.tmp" for name in names)
