"""The snapshot of format 3 and its manifest (storage section 8).

Each file was replaced atomically, but the pair was not: after a crash between the two renames the
manifest describes the snapshot before (weakness 4 of 0.9). The seal of the snapshot tells that it
is whole, so such a pair is read, with a warning. Without a seal only the manifest could tell.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from vaylix_storage._entry import Entry as StoredEntry
from vaylix_storage.errors import (
    CorruptionError,
    ForeignFormatError,
    ManifestDamageError,
    SnapshotDamageError,
)
from vaylix_storage.format3._envelope import ENVELOPE_MAGIC
from vaylix_storage.format3._files import read_whole
from vaylix_storage.format3._log import lost_keyring
from vaylix_storage.format3._messagepack import (
    MalformedError,
    Value,
    as_bytes,
    as_fields,
    as_map,
    as_unsigned,
    decode_value,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vaylix_storage._vfs import Vfs
    from vaylix_storage.format3._envelope import Envelopes

__all__ = ["Manifest", "Snapshot", "load_snapshot", "stored_expiry"]

_FORMAT_VERSION: Final = 3
_RESTORE: Final = "restore the file from a copy, or a logical backup into a new directory"
_METADATA_FIELDS: Final = (
    "version",
    "created_at_ms",
    "updated_at_ms",
    "last_snapshot_at_ms",
    "last_applied_sequence",
)
_MANIFEST_FIELDS: Final = (
    "storage_format_version",
    "engine_version",
    "last_snapshot_sequence",
    "last_snapshot_at_ms",
    "snapshot_size_bytes",
    "snapshot_checksum",
)
_Unsigned = Annotated[int, msgspec.Meta(ge=0)]


class Snapshot(msgspec.Struct, frozen=True):
    """A state: keys as the new keyspace holds them, and the last entry that is in it."""

    entries: dict[bytes, StoredEntry]
    last_sequence: int = 0
    updated_at_ms: int = 0


class Manifest(msgspec.Struct, frozen=True):
    """What the manifest says of the snapshot: its last entry, size and CRC-32 unsealed."""

    last_sequence: int
    size_bytes: int
    checksum: int


class _Stored(msgspec.Struct, frozen=True, gc=False):
    value: bytes
    expires_at_ms: _Unsigned | None = None
    version: _Unsigned = 1


class _Metadata(msgspec.Struct, frozen=True, kw_only=True):
    updated_at_ms: _Unsigned = 0
    last_applied_sequence: _Unsigned


class _State(msgspec.Struct, frozen=True):
    data: dict[str, _Stored]
    metadata: _Metadata


_DECODER: Final = msgspec.msgpack.Decoder(_State)


def stored_expiry(expires_at_ms: int | None) -> int:
    """Return an expiry as the keyspace holds it, where 0 means that there is none.

    An expiry at the beginning of 1970 is long past either way; it becomes 1 so that the key stays
    dead.
    """
    return 0 if expires_at_ms is None else max(expires_at_ms, 1)


def load_snapshot(
    directory: Path, vfs: Vfs, envelopes: Envelopes | None, warn: Callable[[str], None]
) -> tuple[Snapshot, Manifest | None]:
    """Return the snapshot, an empty one if there is none, and the manifest if it counts.

    Raises SnapshotDamageError (ENG-004), ManifestDamageError (ENG-006), CorruptionError (ENG-007),
    and what `Envelopes.open` raises.
    """
    path = directory / "snapshot.bin"
    manifest_path = directory / "manifest.bin"
    has_manifest = vfs.exists(manifest_path)
    manifest = _load_manifest(manifest_path, vfs, warn) if has_manifest else None
    if not vfs.exists(path):
        if has_manifest:
            raise CorruptionError(
                "the snapshot that manifest.bin describes is missing",
                path=path,
                offset=0,
                remedy="restore snapshot.bin from a copy",
            )
        return Snapshot({}), None
    content = read_whole(path, vfs)
    if envelopes is not None:
        content = envelopes.open(content, "snapshot", path=path, offset=0)
    elif content.startswith(ENVELOPE_MAGIC):
        raise lost_keyring(path, "the snapshot")
    try:
        snapshot = _decode(content)
    except MalformedError as error:
        raise SnapshotDamageError(
            f"the snapshot cannot be decoded: {error}", path=path, offset=0, remedy=_RESTORE
        ) from error
    if manifest is not None:
        is_sealed = envelopes is not None
        _compare(snapshot, content, manifest, manifest_path, warn, is_sealed=is_sealed)
    return snapshot, manifest


def _compare(
    snapshot: Snapshot,
    content: bytes,
    manifest: Manifest,
    path: Path,
    warn: Callable[[str], None],
    *,
    is_sealed: bool,
) -> None:
    found = Manifest(snapshot.last_sequence, len(content), zlib.crc32(content))
    if found == manifest:
        return
    if not is_sealed and snapshot.last_sequence <= manifest.last_sequence:
        raise CorruptionError(
            "the snapshot is not the one that manifest.bin describes",
            path=path.with_name("snapshot.bin"),
            offset=0,
            remedy=_RESTORE,
        )
    warn(
        f"{path} describes the snapshot of entry {manifest.last_sequence}, but snapshot.bin is "
        f"that of entry {snapshot.last_sequence}; it is whole, so it counts"
    )


def _load_manifest(path: Path, vfs: Vfs, warn: Callable[[str], None]) -> Manifest | None:
    content = read_whole(path, vfs)
    try:
        fields = as_fields(decode_value(content), _MANIFEST_FIELDS)
        version = as_unsigned(fields["storage_format_version"])
        if version > _FORMAT_VERSION:
            raise ForeignFormatError(
                f"the manifest has storage format {version}",
                path=path,
                offset=0,
                remedy="start the release that wrote it",
            )
        if version < _FORMAT_VERSION:
            warn(f"{path} is of storage format {version} and is not looked at")
            return None
        return Manifest(
            as_unsigned(fields["last_snapshot_sequence"]),
            as_unsigned(fields["snapshot_size_bytes"]),
            as_unsigned(fields["snapshot_checksum"]),
        )
    except (MalformedError, KeyError) as error:
        raise ManifestDamageError(
            f"the manifest cannot be decoded: {error}",
            path=path,
            offset=0,
            remedy="if snapshot.bin is good, move manifest.bin away; it holds nothing else",
        ) from error


def _decode(content: bytes) -> Snapshot:
    try:
        state = _DECODER.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _decode_tolerantly(content)
    entries = {
        key.encode(): StoredEntry(stored.value, stored.version, stored_expiry(stored.expires_at_ms))
        for key, stored in state.data.items()
    }
    metadata = state.metadata
    return Snapshot(entries, metadata.last_applied_sequence, metadata.updated_at_ms)


def _decode_tolerantly(content: bytes) -> Snapshot:
    try:
        state = as_map(decode_value(content))
        data = as_map(state["data"])
        metadata = as_fields(state["metadata"], _METADATA_FIELDS)
        if "expirations" in state:
            expirations = as_map(state["expirations"])
            entries = {
                key.encode(): StoredEntry(as_bytes(value), 1, _expiry(expirations.get(key)))
                for key, value in data.items()
            }
        else:
            entries = {key.encode(): _stored(value) for key, value in data.items()}
        return Snapshot(
            entries,
            as_unsigned(metadata["last_applied_sequence"]),
            as_unsigned(metadata.get("updated_at_ms", 0)),
        )
    except KeyError as error:
        raise MalformedError(f"the field {error.args[0]!r} is missing") from None


def _stored(value: Value) -> StoredEntry:
    fields = as_fields(value, ("value", "expires_at_ms", "version"))
    expires_at_ms = _expiry(fields.get("expires_at_ms"))
    version = as_unsigned(fields.get("version", 1))
    return StoredEntry(as_bytes(fields["value"]), version, expires_at_ms)


def _expiry(value: Value) -> int:
    return stored_expiry(None if value is None else as_unsigned(value))
