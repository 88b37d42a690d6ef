"""A document as the batches of the log that restore it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from vaylix_storage._batch import ENTRY_BYTES_MAX
from vaylix_storage.commands import Command, RestoreBegin, RestoreChunk, RestoreCommit
from vaylix_storage.errors import EntryTooLargeError
from vaylix_storage.logical_backup._parser import check_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaylix_storage.logical_backup._document import BackupDocument, BackupEntry, EntryLimits

__all__ = ["restore_batches"]

# Applying a chunk takes about two milliseconds, and no batch comes near the largest one.
CHUNK_ENTRIES_MAX: Final = 2048
CHUNK_BYTES: Final = 1024 * 1024
# What a payload may take beside the only entry of its chunk, with room for what servers add.
_OVERHEAD_BYTES: Final = 64 * 1024

_Item: TypeAlias = tuple[bytes, bytes, int, int]


def restore_batches(
    document: BackupDocument,
    *,
    now_ms: int,
    restore_id: bytes,
    limits: EntryLimits | None = None,
) -> Iterator[list[Command]]:
    """Return the commands of a restore, a list for each batch, to be logged in this order.

    The result of the last command is the number of entries that were written. A small document is
    one batch. `now_ms` must not be later than the time of the first batch; `restore_id` is random
    and tells restores that meet in a log apart. Raises, before anything is logged,
    BackupFormatError as `check_document` does and EntryTooLargeError. That passes over all entries,
    so call it in a thread when a document is large; a batch is then made in a millisecond.
    """
    check_document(document, now_ms, limits)
    for entry in document.entries:
        if len(entry.key) + len(entry.value) > ENTRY_BYTES_MAX - _OVERHEAD_BYTES:
            raise EntryTooLargeError(
                f"a key and value of {len(entry.key) + len(entry.value)} bytes do not fit into an "
                "entry of the log"
            )
    return _batches(document.entries, now_ms, restore_id)


def _batches(entries: list[BackupEntry], now_ms: int, restore_id: bytes) -> Iterator[list[Command]]:
    commands: list[Command] = [RestoreBegin(restore_id)]
    chunk_count = 0
    for chunk in _chunks(entries, now_ms):
        if chunk_count:
            yield commands
            commands = []
        commands.append(RestoreChunk(restore_id, tuple(chunk)))
        chunk_count += 1
    commands.append(RestoreCommit(restore_id, chunk_count))
    yield commands


def _chunks(entries: list[BackupEntry], now_ms: int) -> Iterator[list[_Item]]:
    items: list[_Item] = []
    chunk_bytes = 0
    for entry in entries:
        if not entry.is_live(now_ms):
            continue
        item_bytes = len(entry.key) + len(entry.value)
        if items and (len(items) >= CHUNK_ENTRIES_MAX or chunk_bytes + item_bytes > CHUNK_BYTES):
            yield items
            items, chunk_bytes = [], 0
        items.append((entry.key, entry.value, entry.version, entry.expires_at_ms or 0))
        chunk_bytes += item_bytes
    if items:
        yield items
