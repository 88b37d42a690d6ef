"""The sidecar: what a dump has to be, in a small file beside it (VTP2 storage section 12.5)."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from vaylix_storage.errors import BackupVerificationError
from vaylix_storage.logical_backup._strict_json import U32_MAX, Fields, JsonError, parse_json

__all__ = ["SIDECAR_SUFFIX", "Sidecar"]

SIDECAR_SUFFIX: Final = ".manifest.json"
MANIFEST_VERSION: Final = 1
HASH_ALGORITHM: Final = "sha256"
_MISMATCH: Final = "backup manifest does not match dump"


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """What belongs to a dump. `byte_len` and `sha256` are those of its bytes.

    `source_node_id`, which only a store gives, says whose dump it is; it describes nothing.
    """

    manifest_version: int = MANIFEST_VERSION
    backup_version: int
    created_at_ms: int
    source_engine_version: int
    source_sequence: int
    entry_count: int
    byte_len: int
    hash_algorithm: str = HASH_ALGORITHM
    sha256: str
    source_node_id: str | UnsetType = UNSET

    def encode(self) -> bytes:
        """Return the content of the file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    @classmethod
    def parse(cls, content: bytes) -> Sidecar:
        """Read the content of the file. Raises BackupVerificationError."""
        try:
            fields = Fields(parse_json(content.decode()), "the manifest")
            fields.require_once(set(cls.__struct_fields__) - {"source_node_id"})
            return cls(
                manifest_version=fields.number("manifest_version", U32_MAX),
                backup_version=fields.number("backup_version", U32_MAX),
                created_at_ms=fields.number("created_at_ms"),
                source_engine_version=fields.number("source_engine_version", U32_MAX),
                source_sequence=fields.number("source_sequence"),
                entry_count=fields.number("entry_count"),
                byte_len=fields.number("byte_len"),
                hash_algorithm=fields.text("hash_algorithm"),
                sha256=fields.text("sha256"),
                source_node_id=fields.text_or_none("source_node_id") or UNSET,
            )
        except (JsonError, UnicodeDecodeError) as error:
            raise BackupVerificationError(str(error)) from error

    def verify(self, actual: Sidecar) -> None:
        """Refuse a dump that is not the one described; `actual` was made from its bytes.

        Raises BackupVerificationError. Digests are compared as text, as the published server does.
        """
        if self.manifest_version != MANIFEST_VERSION:
            raise BackupVerificationError(f"unsupported manifest version {self.manifest_version}")
        if self.hash_algorithm != HASH_ALGORITHM:
            raise BackupVerificationError(f"unsupported hash algorithm {self.hash_algorithm}")
        if msgspec.structs.replace(self, source_node_id=actual.source_node_id) != actual:
            raise BackupVerificationError(
                _MISMATCH, remedy="the dump or its manifest is not the one that was written"
            )
