"""Showing every entry of a log, of a damaged one as far as it can be read.

Nothing is judged here but what cannot be read: entries that a cut has superseded are not shown,
those behind the known commit are. What a payload means is up to the application that wrote it, so
the caller passes a decoder; that of a plain `Store` is the default.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias, Union

import msgspec

from vaylix_storage._batch import Batch, BatchKind
from vaylix_storage._directory import has_log_begun
from vaylix_storage._names import WAL_NAME
from vaylix_storage.commands import decode_commands
from vaylix_storage.errors import FileSystemError, StorageError
from vaylix_storage.offline._examination import missing_log
from vaylix_storage.offline._layout import load_identity, load_keyring, segment_names
from vaylix_storage.offline._moment import MomentVfs
from vaylix_storage.offline._read_only import ReadOnlyVfs
from vaylix_storage.offline._segments import SegmentWalk, read_segments
from vaylix_storage.offline.verify import LIVE_REMEDY, check_is_directory, lock_for_reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from vaylix_storage._catalog import SegmentInfo
    from vaylix_storage._format import Body, Predecessor
    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._vfs import Vfs

__all__ = [
    "DumpDamage",
    "DumpEntry",
    "DumpHardState",
    "DumpRecord",
    "DumpSegment",
    "JsonValue",
    "decode_store_batch",
    "describe",
    "dump_log",
]

JsonValue: TypeAlias = Union[bool, int, float, str, "list[JsonValue]", "dict[str, JsonValue]", None]
_SHOWN_CHARACTERS: Final = 200


class DumpSegment(msgspec.Struct, frozen=True, tag_field="record", tag="segment"):
    """The beginning of a segment."""

    path: str
    number: int
    first_index: int
    key_id: str

    def __str__(self) -> str:
        return f"segment {self.number} {self.path} from entry {self.first_index}"


class DumpHardState(msgspec.Struct, frozen=True, tag_field="record", tag="hard_state"):
    """What a node must not forget, as of this place of the log."""

    offset: int
    term: int
    commit: int
    vote: JsonValue

    def __str__(self) -> str:
        return f"  hard state: term {self.term}, commit {self.commit}, vote {_short(self.vote)}"


class DumpEntry(msgspec.Struct, frozen=True, tag_field="record", tag="entry"):
    """One entry. `size_bytes` is that of the payload it shares with the rest of its batch."""

    index: int
    term: int
    timestamp_ms: int
    kind: str
    size_bytes: int
    batch_first_index: int
    batch_count: int
    value: JsonValue

    def __str__(self) -> str:
        return (
            f"  {self.index} term {self.term} at {self.timestamp_ms} {self.kind} "
            f"{self.size_bytes} bytes {_short(self.value)}"
        )


class DumpDamage(msgspec.Struct, frozen=True, tag_field="record", tag="damage"):
    """What cannot be read; the next record is of the next segment."""

    path: str
    offset: int | None
    code: str
    reason: str
    remedy: str | None

    def __str__(self) -> str:
        at = "" if self.offset is None else f" at byte {self.offset}"
        remedy = "" if self.remedy is None else f" ({self.remedy})"
        return f"damage: {self.path}: {self.reason}{at}{remedy}"


DumpRecord: TypeAlias = DumpSegment | DumpHardState | DumpEntry | DumpDamage


def describe(value: object) -> JsonValue:
    """Return a decoded payload as JSON: commands by name, bytes as text if they are UTF-8."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"hex": value.hex()}
    if isinstance(value, list | tuple):
        return [describe(part) for part in value]
    if isinstance(value, msgspec.Struct):
        described: dict[str, JsonValue] = {}
        if type(value).__struct_config__.tag is not None:
            described["command"] = type(value).__name__
        for field in msgspec.structs.fields(value):
            described[field.name] = describe(getattr(value, field.name))
        return described
    return str(value)


def decode_store_batch(batch: Batch) -> Sequence[JsonValue]:
    """Return the commands of a batch that a `Store` wrote."""
    if batch.kind != BatchKind.KEYSPACE:
        return [{"hex": batch.payload.hex()}]
    return [describe(command) for command in decode_commands(batch.payload, batch.count)]


def dump_log(
    path: Path,
    *,
    vfs: Vfs,
    provider: KeyProvider,
    decode: Callable[[Batch], Sequence[JsonValue]] = decode_store_batch,
    live: bool = False,
) -> Iterator[DumpRecord]:
    """Yield what is in the log of a directory, in order; nothing is changed.

    `decode` returns one value for each entry of a batch, or one for all of it; when it raises
    ValueError or StorageError, the text of that is shown. Raises what `verify_directory` raises,
    but damage of the log is a record. With `live`, another process may use the directory, and what
    it wrote after this began is missing.
    """
    read_only = ReadOnlyVfs(vfs)
    try:
        check_is_directory(path, read_only)
        lock = None if live else lock_for_reading(path, read_only, remedy=LIVE_REMEDY)
        try:
            view = MomentVfs(path, read_only) if live else read_only
            yield from _dump(path, view, provider, decode)
        finally:
            if lock is not None:
                lock.release()
    except OSError as error:
        raise FileSystemError(f"cannot be read: {error}", path=path) from error


def _dump(
    path: Path,
    vfs: Vfs,
    provider: KeyProvider,
    decode: Callable[[Batch], Sequence[JsonValue]],
) -> Iterator[DumpRecord]:
    timeline = bytes.fromhex(load_identity(path, vfs).timeline)
    wal = path / WAL_NAME
    if not (vfs.exists(wal) and segment_names(path, vfs)):
        if has_log_begun(path, vfs):
            yield _damage(missing_log(wal), wal)
        return
    keyring = load_keyring(path, vfs=vfs, provider=provider)
    segments = read_segments(wal, vfs=vfs, keyring=keyring, timeline=timeline)
    yield from (_damage(error, wal) for error in segments.errors)
    for info in segments.chain:
        yield from _dump_segment(info, segments.counted.get(info.header.number), vfs, decode)


def _dump_segment(
    info: SegmentInfo,
    counted: Predecessor | None,
    vfs: Vfs,
    decode: Callable[[Batch], Sequence[JsonValue]],
) -> Iterator[DumpRecord]:
    yield DumpSegment(
        str(info.path), info.header.number, info.first_index, info.header.key_id.hex()
    )
    try:
        for frame, body in SegmentWalk(info, counted).frames(vfs):
            yield from _dump_frame(frame.position.offset, body, decode)
    except StorageError as error:
        yield _damage(error, info.path)


def _dump_frame(
    offset: int, body: Body, decode: Callable[[Batch], Sequence[JsonValue]]
) -> Iterator[DumpRecord]:
    state = body.hard_state
    if state is not None:
        yield DumpHardState(offset, state.term, state.commit, describe(state.vote))
    for batch in body.batches:
        try:
            values = list(decode(batch))
        except (ValueError, StorageError) as error:
            values = [f"cannot be decoded: {error}"]
        kind = str(batch.kind)
        with suppress(ValueError):
            kind = BatchKind(batch.kind).name.lower()
        for place in range(batch.count):
            is_shared = len(values) != batch.count
            yield DumpEntry(
                batch.first_index + place,
                batch.term,
                batch.timestamp_ms,
                kind,
                len(batch.payload),
                batch.first_index,
                batch.count,
                (values[0] if values and not place else None) if is_shared else values[place],
            )


def _damage(error: StorageError, path: Path) -> DumpDamage:
    return DumpDamage(str(error.path or path), error.offset, error.code, error.reason, error.remedy)


def _short(value: JsonValue) -> str:
    text = msgspec.json.encode(value).decode()
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}... ({len(text)} characters)"
