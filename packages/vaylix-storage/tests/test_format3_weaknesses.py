"""Weaknesses of 0.9 that show when a directory is read (storage section 18): none may return.

The number in a name is that of the weakness.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from vaylix_storage import RealVfs
from vaylix_storage._entry import Entry as StoredEntry
from vaylix_storage.errors import CorruptionError, InvalidIntegerError, LogDamageError
from vaylix_storage.format3 import (
    Entry,
    Format3Contents,
    encode_entry,
    is_format3,
    read_directory,
)
from vaylix_storage.format3._log import Record
from vaylix_storage.format3._reading import _Log
from vaylix_storage.format3._replay import Replay
from vaylix_storage.testing import MemoryVfs

FIXTURES = Path(__file__).parent / "data" / "format3"
OLD = Path("/old")


def read_fixture(name: str) -> Format3Contents:
    return read_directory(FIXTURES / name, vfs=RealVfs())


def put(vfs: MemoryVfs, name: str, content: bytes) -> None:
    path = OLD / name
    vfs.make_directory(path.parent)
    vfs.create(path).close()
    vfs.overwrite(path, content)


def entry(sequence: int, *operations: object, created_at_ms: int = 1000) -> Entry:
    fields = {"sequence": sequence, "created_at_ms": created_at_ms, "operations": operations}
    return msgspec.convert(fields, Entry)


def set_key(key: str, value: bytes, version: int = 1) -> object:
    return {"Set": {"key": key, "value": value, "version": version}}


def expire(key: str, expires_at_ms: int) -> object:
    return {"Expire": {"key": key, "expires_at_ms": expires_at_ms}}


def log_of(*entries: Entry) -> bytes:
    content = b""
    for one in entries:
        body = encode_entry(one)
        content += struct.pack("<II", len(body), zlib.crc32(body)) + body
    return content


def snapshot_of(sequence: int, *, updated_at_ms: int = 1000, **data: bytes) -> bytes:
    metadata = {"updated_at_ms": updated_at_ms, "last_applied_sequence": sequence}
    stored = {key: {"value": value, "version": 1} for key, value in data.items()}
    return msgspec.msgpack.encode({"data": stored, "metadata": metadata})


def make(files: dict[str, bytes]) -> MemoryVfs:
    vfs = MemoryVfs()
    for name, content in files.items():
        put(vfs, name, content)
    return vfs


def read(files: dict[str, bytes]) -> Format3Contents:
    return read_directory(OLD, vfs=make(files))


def numbered(*sequences: int) -> bytes:
    """A log of entries that each set a key of their own."""
    return log_of(*(entry(n, set_key(f"k{n}", b"%d" % n)) for n in sequences))


def test_1_entries_that_the_snapshot_holds_are_not_applied_again() -> None:
    # INCR five times, SAVE, INCR: 0.9 restarts with 11.
    assert read_fixture("e2_counter_before_snapshot").entries == {b"hits": StoredEntry(b"6", 6, 0)}


def test_2_a_text_over_a_counter_does_not_make_the_directory_unreadable() -> None:
    contents = read_fixture("e5_incr_then_text_then_save")
    assert any(entry.value == b"abc" for entry in contents.entries.values())


def test_1_and_2_are_found_when_they_are_brought_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: what the log still holds of the snapshot is applied to it once more."""

    def checked_but_never_left_out(
        log: _Log, records: Iterator[Record], progress: Callable[[int, int], None]
    ) -> Iterator[Record]:
        for record in records:
            list(real_checked(log, iter([record]), progress))
            yield record

    real_checked = _Log.checked
    monkeypatch.setattr(_Log, "checked", checked_but_never_left_out)
    with pytest.raises(AssertionError, match="11"):
        test_1_entries_that_the_snapshot_holds_are_not_applied_again()
    with pytest.raises(InvalidIntegerError):
        test_2_a_text_over_a_counter_does_not_make_the_directory_unreadable()


def test_3_keys_are_dead_when_an_entry_is_applied_that_was_made_after_their_time() -> None:
    assert read_fixture("e3_incr_after_expiry").entries == {b"n": StoredEntry(b"1", 1, 0)}
    assert read_fixture("e4_incr_after_expired_text").entries == {b"n": StoredEntry(b"1", 1, 0)}


def test_3_the_time_of_an_entry_is_that_of_its_making_not_of_the_reading() -> None:
    add = {"CheckInteger": {"key": "k", "delta": 1}}
    files = {
        "wal/active-1.wal": log_of(
            entry(1, set_key("k", b"41"), expire("k", 1500), created_at_ms=1000),
            entry(2, add, created_at_ms=1499),
            entry(3, expire("k", 2500), created_at_ms=1499),
            entry(4, set_key("other", b""), created_at_ms=2499),
        )
    }
    assert read(files).entries[b"k"] == StoredEntry(b"42", 2, 2500)
    files["wal/active-1.wal"] += log_of(entry(5, add, created_at_ms=2500))
    assert read(files).entries[b"k"] == StoredEntry(b"1", 1, 0)


def test_4_a_snapshot_beside_the_manifest_of_the_one_before_is_good() -> None:
    contents = read_fixture("i_stale_manifest")
    assert len(contents.entries) == 3
    assert len(contents.warnings) == 1


@pytest.mark.parametrize(
    "name",
    [
        "f_torn_tail_7",
        "f2_torn_in_length_field",
        "f3_torn_in_crc_field",
        "f4_torn_header_only",
        "f5_zero_filled_tail",
    ],
)
def test_5_a_torn_tail_of_the_active_segment_is_left_out(name: str) -> None:
    assert len(read_fixture(name).entries) == (15 if name.startswith("f5") else 14)


def test_5_a_torn_tail_of_a_sealed_segment_is_damage() -> None:
    with pytest.raises(LogDamageError, match="ends inside a record"):
        read({"wal/1-2.wal": numbered(1, 2)[:-1], "wal/active-3.wal": b""})
    # Also of the one that is last because the active one is gone.
    with pytest.raises(LogDamageError, match="ends inside a record"):
        read({"wal/1-2.wal": numbered(1, 2)[:-1]})


def test_6_a_record_of_more_than_4_mib_is_read() -> None:
    value = bytes(5 * 1024 * 1024)
    files = {"wal/active-1.wal": log_of(entry(1, set_key("k", value)), entry(2))}
    assert read(files).entries == {b"k": StoredEntry(value, 1, 0)}


def test_10_a_sequence_that_was_used_twice_is_damage() -> None:
    with pytest.raises(LogDamageError, match="entry 3 was expected, but 2 found") as caught:
        read({"wal/active-1.wal": numbered(1, 2, 2, 3)})
    assert caught.value.offset == len(numbered(1, 2))


def test_14_a_mistyped_path_is_reported_and_not_created() -> None:
    vfs = MemoryVfs()
    vfs.make_directory(OLD.parent)
    with pytest.raises(Exception, match="no such directory"):
        read_directory(OLD / "typo", vfs=vfs)
    assert vfs.call_count <= 1
    assert not vfs.exists(OLD)


def test_17_the_newest_entry_is_read_from_the_records() -> None:
    assert read({"wal/active-1.wal": numbered(1, 2, 3)}).last_sequence == 3


def test_18_a_clock_that_stepped_back_loses_no_entry() -> None:
    contents = read(
        {
            "wal/active-1.wal": log_of(
                entry(1, set_key("a", b""), created_at_ms=2000),
                entry(2, set_key("b", b""), created_at_ms=1000),
            )
        }
    )
    assert sorted(contents.entries) == [b"a", b"b"]
    assert contents.last_timestamp_ms == 2000


def test_3_is_found_when_it_is_brought_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: entries are applied as if no time had passed between them."""
    monkeypatch.setattr(Replay, "_drop_dead", lambda _replay, _now_ms: None)
    with pytest.raises((AssertionError, InvalidIntegerError)):
        test_3_keys_are_dead_when_an_entry_is_applied_that_was_made_after_their_time()
    with pytest.raises(AssertionError):
        test_3_the_time_of_an_entry_is_that_of_its_making_not_of_the_reading()


@pytest.mark.parametrize(
    "files",
    [
        # Between the snapshot and the log.
        {"snapshot.bin": snapshot_of(3), "wal/active-5.wal": numbered(5)},
        {"snapshot.bin": snapshot_of(3), "wal/active-5.wal": b""},
        {"snapshot.bin": snapshot_of(3), "wal/5-6.wal": numbered(5, 6)},
        # The newest sealed segment.
        {"wal/1-2.wal": numbered(1, 2), "wal/active-5.wal": b""},
        {"wal/1-2.wal": numbered(1, 2), "wal/active-5.wal": numbered(5)},
        # The oldest segment.
        {"wal/2-3.wal": numbered(2, 3), "wal/active-4.wal": b""},
        {"wal/active-4.wal": b""},
        {"wal.log": numbered(2, 3)},
        # One in the middle.
        {"wal/1-2.wal": numbered(1, 2), "wal/4-5.wal": numbered(4, 5), "wal/active-6.wal": b""},
    ],
)
def test_19_missing_segments_are_noticed(files: dict[str, bytes]) -> None:
    with pytest.raises(LogDamageError) as caught:
        read(files)
    assert caught.value.path is not None
    assert caught.value.remedy


def test_19_entries_that_were_numbered_anew_after_the_sequence_went_back_are_reported() -> None:
    contents = read(
        {
            "snapshot.bin": snapshot_of(3, updated_at_ms=1000, k=b"snapshot"),
            "wal/active-2.wal": log_of(
                entry(2, set_key("k", b"late"), created_at_ms=1001),
                entry(3, created_at_ms=1002),
                entry(4, set_key("l", b""), created_at_ms=1003),
            ),
        }
    )
    assert contents.entries == {b"k": StoredEntry(b"snapshot", 1, 0), b"l": StoredEntry(b"", 1, 0)}
    [warning] = contents.warnings
    assert "entries 2 to 3 were made after the snapshot of entry 3" in warning


def test_20_an_empty_active_segment_with_a_wrong_number_is_looked_at() -> None:
    # A number that proves a loss is refused (19). One that is too low does no harm.
    files = {"wal/1-2.wal": numbered(1, 2), "wal/active-2.wal": b""}
    contents = read(files)
    assert contents.last_sequence == 2
    assert "does not follow on entry 2" in contents.warnings[0]
    # What 0.9 makes of it by its next write.
    files["wal/active-2.wal"] = numbered(3)
    with pytest.raises(LogDamageError, match="the name says that entry 2 is first, it is 3"):
        read(files)


def test_20_segments_that_the_snapshot_makes_needless_may_be_missing_before_an_empty_one() -> None:
    contents = read(
        {
            "snapshot.bin": snapshot_of(9, k=b"v"),
            "wal/1-2.wal": numbered(1, 2),
            "wal/active-10.wal": b"",
        }
    )
    assert contents.entries == {b"k": StoredEntry(b"v", 1, 0)}
    assert contents.last_sequence == 9
    assert len(contents.warnings) == 1


def test_21_an_older_snapshot_than_the_manifest_knows_is_noticed() -> None:
    snapshot = snapshot_of(3)
    manifest = {
        "storage_format_version": 3,
        "last_snapshot_sequence": 5,
        "snapshot_size_bytes": len(snapshot),
        "snapshot_checksum": zlib.crc32(snapshot),
    }
    with pytest.raises(CorruptionError):
        read({"snapshot.bin": snapshot, "manifest.bin": msgspec.msgpack.encode(manifest)})


def test_24_two_layouts_in_one_directory_are_refused_and_none_is_deleted() -> None:
    vfs = make({"wal.log": numbered(1), "wal/active-1.wal": numbered(1)})
    with pytest.raises(LogDamageError, match="two logs"):
        read_directory(OLD, vfs=vfs)
    assert vfs.exists(OLD / "wal.log")
    assert vfs.exists(OLD / "wal/active-1.wal")
    # An empty segment is no second log.
    assert read({"wal.log": numbered(1), "wal/active-1.wal": b""}).last_sequence == 1


@pytest.mark.parametrize("name", ["active-01.wal", "active-+1.wal", "01-2.wal", "1-+2.wal"])
def test_34_a_segment_with_a_second_name_for_its_number_is_refused(name: str) -> None:
    with pytest.raises(LogDamageError, match="unusual way"):
        read({f"wal/{name}": numbered(1, 2)})


def test_34_other_names_are_no_segments() -> None:
    contents = read(
        {
            "wal/active-1.wal": numbered(1),
            "wal/copy of 2-2.wal": numbered(2),
            "wal/active-2.wal.tmp": numbered(2),
        }
    )
    assert contents.last_sequence == 1
    assert "is no segment" in contents.warnings[0]


def test_35_a_directory_without_active_segment_is_read_with_a_warning() -> None:
    contents = read({"wal/1-2.wal": numbered(1, 2)})
    assert contents.last_sequence == 2
    assert "no active segment" in contents.warnings[0]


def test_37_a_log_that_went_on_behind_a_broken_record_is_reported() -> None:
    broken = numbered(1)[:-5]
    with pytest.raises(CorruptionError) as caught:
        read({"wal/active-1.wal": broken + numbered(1, 2)})
    assert caught.value.offset == 0
    assert caught.value.path == OLD / "wal/active-1.wal"


def test_a_key_that_expires_at_the_beginning_of_time_stays_dead() -> None:
    contents = read({"wal/active-1.wal": log_of(entry(1, set_key("k", b""), expire("k", 0)))})
    assert contents.entries == {b"k": StoredEntry(b"", 1, 1)}


def test_a_directory_is_recognized_by_any_file_of_0_9() -> None:
    for name in ("keyring.bin", "snapshot.bin", "auth.bin", "wal.log", "wal/active-1.wal"):
        assert is_format3(OLD, make({name: b""}))
    assert not is_format3(OLD, make({"LOCK": b""}))
    assert not is_format3(OLD, make({"keyring.bin": b"", "node.json": b""}))
