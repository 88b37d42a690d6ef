"""The keyring of format 3: bare MessagePack, with the secrets in the clear (storage section 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaylix_storage.errors import ManifestDamageError
from vaylix_storage.format3._files import read_whole
from vaylix_storage.format3._messagepack import (
    MalformedError,
    Value,
    as_bytes,
    as_fields,
    as_list,
    as_text,
    decode_value,
)

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_storage._vfs import Vfs

__all__ = ["load_secrets"]

_KEY_ID_BYTES: Final = 16


def load_secrets(path: Path, vfs: Vfs) -> dict[bytes, str]:
    """Return the secret of every key by its id; raises ManifestDamageError (ENG-006)."""
    content = read_whole(path, vfs)
    try:
        fields = as_fields(decode_value(content), ("active", "previous"))
        keys = [fields["active"], *as_list(fields["previous"])]
        # The active key comes last, so that it counts if an id is there twice.
        return dict(_key(key) for key in reversed(keys))
    except (MalformedError, KeyError) as error:
        raise ManifestDamageError(
            f"the keyring cannot be decoded: {error}",
            path=path,
            offset=0,
            remedy="restore keyring.bin from a copy; without it the data cannot be read",
        ) from error


def _key(value: Value) -> tuple[bytes, str]:
    fields = as_fields(value, ("id", "secret", "created_at_ms"))
    key_id = as_bytes(fields["id"])
    if len(key_id) != _KEY_ID_BYTES:
        raise MalformedError("a key id has 16 bytes")
    return key_id, as_text(fields["secret"])
