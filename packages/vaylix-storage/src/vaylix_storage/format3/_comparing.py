"""From the contents of an old directory to a keyspace, and back to compare."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from vaylix_storage._batch import ENTRY_BYTES_MAX
from vaylix_storage._entry import Entry as StoredEntry
from vaylix_storage._keyspace import Keyspace
from vaylix_storage._keyspace_snapshot import KeyspaceLoader
from vaylix_storage.errors import EntryTooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vaylix_storage.format3._reading import Format3Contents

__all__ = ["ReadBack", "keyspace_of"]


def keyspace_of(contents: Format3Contents, path: Path) -> Keyspace:
    """Return the keyspace that a directory holds; raises EntryTooLargeError."""
    keyspace = Keyspace()
    put = keyspace.table.put
    for key, entry in contents.entries.items():
        if len(key) + len(entry.value) > ENTRY_BYTES_MAX:
            raise EntryTooLargeError(
                f"the key {key[:64]!r} and its value have more than {ENTRY_BYTES_MAX} bytes",
                path=path,
                remedy="start the old server, and delete or divide it",
            )
        put(key, _as_new(entry))
    return keyspace


def _as_new(entry: StoredEntry) -> StoredEntry:
    """Return an entry with a version of at least 1, as a restore of 0.9 makes it."""
    return entry if entry.version else StoredEntry(entry.value, 1, entry.expires_at_ms)


class ReadBack:
    """What comes back from a snapshot: the keyspace as such, and a digest of every section."""

    def __init__(self) -> None:
        self._keyspace = Keyspace()
        self._loader = KeyspaceLoader(self._keyspace)
        self._digests: dict[str, hashlib._Hash] = {}

    @property
    def key_count(self) -> int:
        """How many keys have come back so far."""
        return self._loader.key_count

    def take(self, name: str, plain: bytes, *, is_keyspace: bool) -> None:
        """Take a chunk of a section; raises CorruptionError for one that holds no entries."""
        self._digests.setdefault(name, hashlib.sha256()).update(plain)
        if is_keyspace:
            self._loader.add(plain)

    def digests(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the digest of every section that came back, and of those named that are empty."""
        empty = hashlib.sha256()
        return {name: self._digests.get(name, empty).digest() for name in {*names, *self._digests}}

    def holds(self, contents: Format3Contents) -> bool:
        """Tell whether exactly these entries have come back."""
        self._loader.finish()
        return self._keyspace.table.entries() == {
            key: _as_new(entry) for key, entry in contents.entries.items()
        }
