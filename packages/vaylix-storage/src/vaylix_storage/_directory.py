"""The data directory: its lock, its identity, and what is kept where.

    LOCK          held with flock while a process uses the directory
    node.json     who this is: format, cluster id, node id, timeline; made once, kept
    keyring.bin   the storage keys, wrapped
    wal/          the segments of the log
    wal.begun     there has been a log: from then on, one that is missing is lost

`node.json` is the first file that is made. A directory without it that holds files of an older
format, or anything that is not ours, is refused before anything is created in it.
"""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from vaylix_storage._keyring import KEYRING_MAGIC, Keyring
from vaylix_storage._keyring_changes import settle_keyring
from vaylix_storage._names import (
    IDENTITY_NAME,
    KEYRING_NAME,
    LOG_BEGUN_NAME,
    MANIFEST_NAME,
    SEGMENT_SUFFIX,
    SNAPSHOT_SUFFIX,
    SNAPSHOTS_NAME,
)
from vaylix_storage._staging import migrate_command, refuse_unfinished
from vaylix_storage._vfs import Lock, Vfs, create_file_durably
from vaylix_storage.errors import (
    CorruptionError,
    DirectoryLockedError,
    FileSystemError,
    ForeignFormatError,
    KeyringError,
    MigrationRequiredError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from vaylix_storage._key_providers import KeyProvider

__all__ = [
    "DataDirectory",
    "NodeIdentity",
    "has_log_begun",
    "lock_directory",
    "older_format_names",
    "read_identity",
]

_FORMAT_VERSION: Final = 4
_ID_BYTES: Final = 16
_IDENTITY_BYTES_MAX: Final = 64 * 1024
# Any of these without node.json means a directory of format 3 or older (storage section 1).
_OLDER_FORMAT_NAMES: Final = frozenset(
    {
        "auth.bin",
        "cluster-state.json",
        KEYRING_NAME,
        "manifest.bin",
        "snapshot.bin",
        "wal.log",
    }
)
# What may be there before the first start: what an interrupted one has left, what was put there for
# it, and what a fresh volume holds.
_EARLY_NAMES: Final = frozenset(
    {
        "LOCK",
        f"{IDENTITY_NAME}.tmp",
        "audit.log",
        "backups",
        "lost+found",
        "maintenance.mode",
        "storage.key",
        "storage.key.new",
        "storage.key.tmp",
    }
)
_SHOWN_NAMES: Final = 3
_HexId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class NodeIdentity(msgspec.Struct, frozen=True):
    """Who owns a data directory; ids are 32 hexadecimal digits.

    `timeline` names the history of the log: a restore begins a new one.
    """

    format: int
    cluster_id: _HexId
    node_id: _HexId
    timeline: _HexId


class _IdentityFile(NodeIdentity, frozen=True):
    """What `node.json` holds; without a checksum, as the first releases wrote it, nobody vouches.

    It is the CRC-32 of format, cluster id, node id and timeline, each followed by a line end.
    """

    checksum: str | None = None


class DataDirectory:
    """An open, locked data directory. Close it last."""

    __slots__ = ("_lock", "_vfs", "identity", "path")

    def __init__(self, path: Path, vfs: Vfs, lock: Lock, identity: NodeIdentity) -> None:
        self.path = path
        self.identity = identity
        self._vfs = vfs
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        vfs: Vfs,
        random_bytes: Callable[[int], bytes] = os.urandom,
        is_being_built: bool = False,
        known: Iterable[Path] = (),
    ) -> DataDirectory:
        """Lock the directory, and create it and its identity if it is new.

        `known` are paths that may lie in a new one, such as a key file. Raises
        MigrationRequiredError for a directory of an older format, or where the migration of one was
        interrupted, ForeignFormatError for one that is not empty and not ours, CorruptionError for
        one that has lost its identity, DirectoryLockedError for one in use, and FileSystemError for
        one that was never finished, unless it `is_being_built`. None of these changes anything.
        """
        try:
            if not is_being_built:
                refuse_unfinished(path, vfs)
            _refuse_older_format(path, vfs)
            if not is_being_built:
                _refuse_foreign(path, vfs, known)
            vfs.make_directory(path)
            lock = lock_directory(path / "LOCK", vfs)
        except OSError as error:
            raise FileSystemError(f"cannot open the data directory: {error}", path=path) from error
        try:
            return cls(path, vfs, lock, _load_or_create_identity(path, vfs, random_bytes))
        except BaseException:
            lock.release()
            raise

    @property
    def wal_path(self) -> Path:
        """The directory of the log."""
        return self.path / "wal"

    @property
    def timeline(self) -> bytes:
        """The timeline as `LogOptions` wants it."""
        return bytes.fromhex(self.identity.timeline)

    def open_keyring(
        self,
        provider: KeyProvider,
        *,
        created_at_ms: int,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> Keyring:
        """Load the keyring, or create it in a directory without data.

        Raises KeyringError when the keyring is lost or the wrapping key is wrong. A lost keyring
        is never replaced: that would hide the loss behind a fresh, useless one.
        """
        path = self.path / KEYRING_NAME
        try:
            is_new = not self._vfs.exists(path)
            has_data = is_new and (self.log_has_begun or _has_segments(self.wal_path, self._vfs))
        except OSError as error:
            raise FileSystemError(f"cannot read the data directory: {error}", path=path) from error
        if has_data:
            raise KeyringError(
                "the keyring is missing, but the directory holds encrypted data",
                path=path,
                remedy="restore keyring.bin from a copy; without it the data cannot be read",
            )
        if not is_new:
            keyring = Keyring.load(path, vfs=self._vfs, provider=provider)
            if len(keyring.keys) > 1:
                settle_keyring(path, vfs=self._vfs)
            return keyring
        return Keyring.create(
            path,
            vfs=self._vfs,
            provider=provider,
            created_at_ms=created_at_ms,
            random_bytes=random_bytes,
        )

    @property
    def log_has_begun(self) -> bool:
        """Whether there has been a log, so that finding none means that it is lost."""
        return has_log_begun(self.path, self._vfs)

    def mark_log_begun(self) -> None:
        """Note that there is a log now; call it once `Log.open` has returned."""
        path = self.path / LOG_BEGUN_NAME
        try:
            if not self._vfs.exists(path):
                create_file_durably(self._vfs, path, b"the log in wal/ has begun\n")
        except OSError as error:
            raise FileSystemError(f"cannot write: {error}", path=path) from error

    def close(self) -> None:
        """Give up the lock."""
        self._lock.release()


def has_log_begun(path: Path, vfs: Vfs) -> bool:
    """Tell whether there has been a log in a finished directory; OSError.

    Its mark says so, and so does what comes after it: a manifest, and any snapshot, whether it
    counts or is a leftover of a crash.
    """
    if vfs.exists(path / LOG_BEGUN_NAME) or vfs.exists(path / MANIFEST_NAME):
        return True
    snapshots = path / SNAPSHOTS_NAME
    names = vfs.list_directory(snapshots) if vfs.is_directory(snapshots) else []
    return any(name.removesuffix(".tmp").endswith(SNAPSHOT_SUFFIX) for name in names)


def older_format_names(path: Path, vfs: Vfs) -> list[str]:
    """Return what shows that a directory is of format 3 or older: nothing, if it is not.

    Raises CorruptionError for a directory of this format without its identity, and OSError.
    """
    if not vfs.exists(path) or vfs.exists(path / IDENTITY_NAME):
        return []
    if _has_data_of_this_format(path, vfs):
        raise CorruptionError(
            f"{IDENTITY_NAME} is missing",
            path=path / IDENTITY_NAME,
            offset=0,
            remedy="restore node.json from a copy",
        )
    found = sorted(_OLDER_FORMAT_NAMES.intersection(vfs.list_directory(path)))
    if not found and _has_segments(path / "wal", vfs):
        found = ["wal"]
    return found


def _refuse_older_format(path: Path, vfs: Vfs) -> None:
    found = older_format_names(path, vfs)
    if found:
        raise MigrationRequiredError(
            f"the directory holds {', '.join(found)} but no {IDENTITY_NAME}, so it belongs to "
            "storage format 3 or older",
            path=path,
            remedy=f"convert it with `{migrate_command(path)}`; the original is kept",
        )


def _refuse_foreign(path: Path, vfs: Vfs, known: Iterable[Path]) -> None:
    if not vfs.exists(path) or vfs.exists(path / IDENTITY_NAME):
        return
    root = vfs.resolve(path)
    inside = [real.relative_to(root) for real in map(vfs.resolve, known) if _is_below(real, root)]
    allowed = _EARLY_NAMES.union(real.parts[0] for real in inside)
    names = {*vfs.list_directory(path), *vfs.list_subdirectories(path)}
    foreign = sorted(names - allowed)
    if foreign:
        shown = ", ".join(foreign[:_SHOWN_NAMES])
        if len(foreign) > _SHOWN_NAMES:
            shown += f" and {len(foreign) - _SHOWN_NAMES} more"
        raise ForeignFormatError(
            f"this is no data directory of Vaylix: it holds {shown}, but no {IDENTITY_NAME}",
            path=path,
            remedy="choose another directory, or an empty one",
        )


def _is_below(path: Path, root: Path) -> bool:
    return path != root and path.is_relative_to(root)


def _has_data_of_this_format(path: Path, vfs: Vfs) -> bool:
    """Tell whether there is what is made only after the identity."""
    if _has_keyring_of_this_format(path / KEYRING_NAME, vfs):
        return True
    # A manifest was called so by the older formats, too.
    return not vfs.exists(path / MANIFEST_NAME) and has_log_begun(path, vfs)


def _has_keyring_of_this_format(path: Path, vfs: Vfs) -> bool:
    if not vfs.exists(path):
        return False
    file = vfs.open(path)
    try:
        return file.read_at(0, len(KEYRING_MAGIC)) == KEYRING_MAGIC
    finally:
        file.close()


def _has_segments(wal_path: Path, vfs: Vfs) -> bool:
    if not vfs.exists(wal_path):
        return False
    return any(name.endswith(SEGMENT_SUFFIX) for name in vfs.list_directory(wal_path))


def lock_directory(path: Path, vfs: Vfs) -> Lock:
    """Take the lock of a data directory by the path of its lock file.

    Raises DirectoryLockedError, and OSError.
    """
    try:
        return vfs.lock(path)
    except BlockingIOError as error:
        raise DirectoryLockedError(
            "another process, or this one, has this data directory open",
            path=path,
            remedy="stop or close what uses it, or choose another directory",
        ) from error


def read_identity(path: Path, vfs: Vfs) -> NodeIdentity:
    """Return who owns a data directory, and change nothing.

    Raises CorruptionError, ForeignFormatError for another format, and OSError.
    """
    file = vfs.open(path / IDENTITY_NAME)
    try:
        content = file.read_at(0, _IDENTITY_BYTES_MAX)
    finally:
        file.close()
    return _parse_identity(content, path / IDENTITY_NAME)


def _load_or_create_identity(
    path: Path, vfs: Vfs, random_bytes: Callable[[int], bytes]
) -> NodeIdentity:
    file_path = path / IDENTITY_NAME
    try:
        if vfs.exists(file_path):
            # A start that was killed may have left names here that are not on the disk yet.
            vfs.sync_directory(path)
            return read_identity(path, vfs)
        ids = [random_bytes(_ID_BYTES).hex() for _ in range(3)]
        identity = NodeIdentity(_FORMAT_VERSION, *ids)
        file = _IdentityFile(
            identity.format,
            identity.cluster_id,
            identity.node_id,
            identity.timeline,
            _checksum(identity),
        )
        content = msgspec.json.format(msgspec.json.encode(file)) + b"\n"
        create_file_durably(vfs, file_path, content)
    except OSError as error:
        raise FileSystemError(f"cannot read or write: {error}", path=file_path) from error
    return identity


def _checksum(identity: NodeIdentity) -> str:
    parts = (identity.format, identity.cluster_id, identity.node_id, identity.timeline)
    text = "".join(f"{part}\n" for part in parts)
    return f"{zlib.crc32(text.encode()):08x}"


def _parse_identity(content: bytes, path: Path) -> NodeIdentity:
    try:
        file = msgspec.json.decode(content, type=_IdentityFile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from error
    identity = NodeIdentity(file.format, file.cluster_id, file.node_id, file.timeline)
    if file.format != _FORMAT_VERSION:
        raise ForeignFormatError(
            f"the directory has storage format {identity.format}, this release uses "
            f"{_FORMAT_VERSION}",
            path=path,
            remedy="start the release that wrote it",
        )
    if file.checksum not in (None, _checksum(identity)):
        raise _damaged(path, "the checksum does not fit")
    return identity


def _damaged(path: Path, reason: str) -> CorruptionError:
    return CorruptionError(
        f"the identity of this node is damaged: {reason}",
        path=path,
        offset=0,
        remedy="restore node.json from a copy",
    )
