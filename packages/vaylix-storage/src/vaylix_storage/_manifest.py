"""The manifest: which snapshots count, in `manifest.bin`. It is the commit point of a snapshot.

    0   8  magic "VAYLIXM4"
    8   4  body bytes, little endian
    12  n  body, MessagePack: [timeline, key id, [[index, term, timestamp ms, created ms, file
           bytes, tag of the end chunk, key id, installed], ...]], oldest first
    ..  32 HMAC-SHA-256 of everything before, by a key derived from the storage key the body names
    ..  4  CRC-32 of everything before, little endian

A snapshot is written, synced and named before the manifest names it. So whatever the manifest says
is on the disk, and a file in `snapshots/` that it does not name is worth nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from vaylix_storage._snapshot_format import SnapshotMeta
from vaylix_storage._vfs import Vfs, replace_file_durably
from vaylix_storage.errors import (
    FOREIGN_FILE_REMEDY,
    REPAIR_REMEDY,
    RESTORE_REMEDY,
    CorruptionError,
    FileSystemError,
    ForeignFormatError,
    KeyringError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_storage._keyring import Keyring

__all__ = [
    "Manifest",
    "ManifestEntry",
    "encode_manifest",
    "key_ids_in_manifest",
    "load_manifest",
    "parse_snapshot_name",
    "snapshot_name",
    "store_manifest",
    "timeline_of_manifest",
]

_MAGIC: Final = b"VAYLIXM4"
_START: Final = struct.Struct("<8sI")
_CRC: Final = struct.Struct("<I")
_MAC_BYTES: Final = 32
_SMALLEST: Final = _START.size + _MAC_BYTES + _CRC.size
_FILE_BYTES_MAX: Final = 1024 * 1024
_MAC_CONTEXT: Final = b"vaylix manifest mac"

_SNAPSHOT_NAME: Final = re.compile(r"(0|[1-9][0-9]*)\.snapshot")

_Count = Annotated[int, msgspec.Meta(ge=0)]


def snapshot_name(index: int) -> str:
    """Return the name of the snapshot that ends with an entry."""
    return f"{index}.snapshot"


def parse_snapshot_name(name: str) -> int | None:
    """Return the index in the name of a snapshot; None for any other file."""
    match = _SNAPSHOT_NAME.fullmatch(name)
    return None if match is None else int(match[1])


class ManifestEntry(msgspec.Struct, frozen=True):
    """A snapshot that counts. `end_tag` is that of its last chunk, and no other file has it.

    `installed` says that it came from a peer or a restore, so the log need not reach back to it.
    """

    meta: SnapshotMeta
    size_bytes: int
    end_tag: bytes
    key_id: bytes
    installed: bool


class Manifest(msgspec.Struct, frozen=True):
    """The snapshots of one history, oldest first; their indexes rise."""

    timeline: bytes
    snapshots: tuple[ManifestEntry, ...] = ()

    @property
    def current(self) -> ManifestEntry | None:
        """The snapshot that the state is loaded from."""
        return self.snapshots[-1] if self.snapshots else None


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    index: _Count
    term: _Count
    timestamp_ms: _Count
    created_at_ms: _Count
    size_bytes: _Count
    end_tag: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    key_id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    installed: bool


class _Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    timeline: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    mac_key_id: bytes
    rows: tuple[_Row, ...]


def load_manifest(path: Path, *, vfs: Vfs, keyring: Keyring, timeline: bytes) -> Manifest:
    """Read the manifest; without a file there are no snapshots. Changes nothing.

    Raises CorruptionError, KeyringError, ForeignFormatError, FileSystemError.
    """
    content = _read(path, vfs)
    if content is None:
        return Manifest(timeline)
    body = _decode(content, path)
    try:
        mac_key = keyring.key(body.mac_key_id)
    except KeyringError as error:
        raise KeyringError(error.reason, path=path, remedy=error.remedy) from error
    end = len(content) - _CRC.size - _MAC_BYTES
    if not hmac.compare_digest(_mac(content[:end], mac_key), content[end : end + _MAC_BYTES]):
        raise _corrupt(path, end, "the manifest was altered, or its key is another one")
    if body.timeline != timeline:
        raise ForeignFormatError(
            f"the manifest belongs to another history ({body.timeline.hex()})",
            path=path,
            remedy=FOREIGN_FILE_REMEDY,
        )
    snapshots = tuple(_entry(row) for row in body.rows)
    if not _is_ordered(snapshots):
        raise _corrupt(path, _START.size, "the snapshots in the manifest are out of order")
    return Manifest(timeline, snapshots)


def key_ids_in_manifest(path: Path, *, vfs: Vfs) -> frozenset[bytes]:
    """Return the storage keys that the manifest names, its own included; no key has vouched for it.

    Raises CorruptionError, ForeignFormatError, FileSystemError. Changes nothing.
    """
    content = _read(path, vfs)
    if content is None:
        return frozenset()
    body = _decode(content, path)
    return frozenset({body.mac_key_id, *(row.key_id for row in body.rows)})


def timeline_of_manifest(path: Path, *, vfs: Vfs) -> bytes | None:
    """Return the history that the manifest names, None without one; no key has vouched for it.

    Raises CorruptionError, ForeignFormatError, FileSystemError. Changes nothing.
    """
    content = _read(path, vfs)
    return None if content is None else _decode(content, path).timeline


def store_manifest(path: Path, manifest: Manifest, *, vfs: Vfs, keyring: Keyring) -> None:
    """Replace the manifest, durably and whole.

    Raises FileSystemError; then the old one or the new one is there, now and after a power cut.
    """
    content = encode_manifest(manifest, keyring)
    try:
        replace_file_durably(vfs, path, content)
    except OSError as error:
        raise FileSystemError(
            f"cannot write the manifest: {error}", path=path, remedy=REPAIR_REMEDY
        ) from error


def encode_manifest(manifest: Manifest, keyring: Keyring) -> bytes:
    """Return the bytes of a manifest, vouched for by the active key."""
    if not _is_ordered(manifest.snapshots):
        raise ValueError("the indexes of snapshots must rise")
    rows = tuple(_row(entry) for entry in manifest.snapshots)
    body = msgspec.msgpack.encode(_Body(manifest.timeline, keyring.active_key_id, rows))
    content = _START.pack(_MAGIC, len(body)) + body
    content += _mac(content, keyring.key(keyring.active_key_id))
    content += _CRC.pack(zlib.crc32(content))
    if len(content) > _FILE_BYTES_MAX:
        raise ValueError(f"a manifest has at most {_FILE_BYTES_MAX} bytes")
    return content


def _read(path: Path, vfs: Vfs) -> bytes | None:
    """Return the bytes of the manifest, None when there is none."""
    try:
        if not vfs.exists(path):
            return None
        file = vfs.open(path)
        try:
            return file.read_at(0, _FILE_BYTES_MAX + 1)
        finally:
            file.close()
    except OSError as error:
        raise FileSystemError(f"cannot read the manifest: {error}", path=path) from error


def _is_ordered(snapshots: tuple[ManifestEntry, ...]) -> bool:
    return all(older.meta.index < newer.meta.index for older, newer in pairwise(snapshots))


def _row(entry: ManifestEntry) -> _Row:
    meta = entry.meta
    return _Row(
        meta.index,
        meta.term,
        meta.timestamp_ms,
        meta.created_at_ms,
        entry.size_bytes,
        entry.end_tag,
        entry.key_id,
        entry.installed,
    )


def _entry(row: _Row) -> ManifestEntry:
    meta = SnapshotMeta(row.index, row.term, row.timestamp_ms, row.created_at_ms)
    return ManifestEntry(meta, row.size_bytes, row.end_tag, row.key_id, row.installed)


def _mac(content: bytes, storage_key: bytes) -> bytes:
    mac_key = hmac.digest(storage_key, _MAC_CONTEXT, hashlib.sha256)
    return hmac.digest(mac_key, content, hashlib.sha256)


def _corrupt(path: Path, offset: int, reason: str) -> CorruptionError:
    return CorruptionError(reason, path=path, offset=offset, remedy=RESTORE_REMEDY)


def _decode(content: bytes, path: Path) -> _Body:
    """Return what is in a manifest; nobody has vouched for it yet."""
    if len(content) < _SMALLEST:
        raise _corrupt(path, 0, "the manifest is too short")
    if zlib.crc32(content[: -_CRC.size]) != _CRC.unpack_from(content, len(content) - 4)[0]:
        raise _corrupt(path, 0, "the manifest is damaged")
    magic, body_bytes = _START.unpack_from(content)
    if magic != _MAGIC:
        raise ForeignFormatError("this is not a manifest of storage format 4", path=path)
    if body_bytes != len(content) - _SMALLEST:
        raise _corrupt(path, 8, "the manifest is malformed")
    try:
        return msgspec.msgpack.decode(content[_START.size : _START.size + body_bytes], type=_Body)
    except msgspec.MsgspecError as error:
        raise _corrupt(path, _START.size, f"the manifest is malformed: {error}") from error
