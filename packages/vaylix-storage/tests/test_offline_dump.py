"""`dump`: every entry, readably, of a damaged log as well."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from vaylix_storage import Batch
from vaylix_storage.commands import Expire, Set, SetOptions
from vaylix_storage.errors import DirectoryLockedError, FileSystemError
from vaylix_storage.offline import (
    DumpDamage,
    DumpEntry,
    DumpHardState,
    DumpRecord,
    DumpSegment,
    JsonValue,
    describe,
    dump_log,
)
from vaylix_storage.offline.testing import NOW_MS, Sample


@pytest.fixture
def sample() -> Sample:
    return Sample()


def dump(sample: Sample, *, live: bool = False) -> list[DumpRecord]:
    before = sample.files()
    records = list(dump_log(sample.path, vfs=sample.vfs, provider=sample.provider(), live=live))
    assert sample.files() == before
    return records


@pytest.mark.parametrize("clean", [True, False])
def test_every_entry_is_shown_once_with_all_there_is(sample: Sample, *, clean: bool) -> None:
    sample.fill(clean=clean)
    records = dump(sample)
    entries = [record for record in records if isinstance(record, DumpEntry)]
    assert [entry.index for entry in entries] == list(range(1, 17))
    assert entries[2] == DumpEntry(
        3,
        1,
        NOW_MS + 3,
        "keyspace",
        entries[3].size_bytes,
        3,
        2,
        {"command": "Set", "key": "key 3", "value": "v" * 40, "options": None},
    )
    assert entries[3].value == {"command": "Incr", "key": "n"}
    states = [record for record in records if isinstance(record, DumpHardState)]
    assert (states[-1].term, states[-1].commit, states[-1].vote) == (1, 16, "me")
    segments = [record for record in records if isinstance(record, DumpSegment)]
    assert [segment.first_index for segment in segments] == [1, 5, 7, 11, 13]


def test_records_are_lines_of_text_and_of_json(sample: Sample) -> None:
    sample.fill(clean=True)
    records = dump(sample)
    for record in records:
        assert "\n" not in str(record)
        decoded = msgspec.json.decode(msgspec.json.encode(record))
        assert decoded == msgspec.to_builtins(record)
    third = next(part for part in records if isinstance(part, DumpEntry) and part.index == 3)
    assert "3 term 1 at 1700000000003 keyspace" in str(third)


def test_a_damaged_log_is_shown_as_far_as_it_can_be_read(sample: Sample) -> None:
    sample.fill(clean=True)
    path = sample.wal / "7-10.wal"
    content = bytearray(sample.memory.content(path))
    content[500] ^= 1
    sample.memory.overwrite(path, bytes(content))
    records = dump(sample)
    (damage,) = [record for record in records if isinstance(record, DumpDamage)]
    assert (damage.path, damage.offset) == (str(path), 480)
    indexes = [record.index for record in records if isinstance(record, DumpEntry)]
    assert indexes == [*range(1, 9), *range(11, 17)]


def test_a_directory_in_use_is_refused_unless_live(sample: Sample) -> None:
    sample.fill(clean=True)
    engine = sample.open()
    with pytest.raises(DirectoryLockedError):
        dump(sample)
    sample.append(engine)
    assert any(
        isinstance(record, DumpEntry) and record.index == 18 for record in dump(sample, live=True)
    )


def test_a_missing_path_is_an_error(sample: Sample) -> None:
    with pytest.raises(FileSystemError, match="no such directory"):
        list(dump_log(sample.path, vfs=sample.vfs, provider=sample.provider()))


def test_the_caller_says_what_a_payload_means(sample: Sample) -> None:
    sample.fill(clean=True)

    def fail(batch: Batch) -> Sequence[JsonValue]:
        if batch.first_index == 1:
            raise ValueError("no idea")
        return ["all of it"]

    records = dump_log(sample.path, vfs=sample.vfs, provider=sample.provider(), decode=fail)
    values = [record.value for record in records if isinstance(record, DumpEntry)]
    assert values[:4] == ["cannot be decoded: no idea", None, "all of it", None]


def test_values_that_are_no_text_are_shown_as_digits() -> None:
    command = Set(b"\xff", b"text", SetOptions(ttl_ms=5))
    described = describe([command, Expire(b"k", 1)])
    assert isinstance(described, list)
    assert isinstance(described[0], dict)
    assert described[0]["key"] == {"hex": "ff"}
    assert described[0]["value"] == "text"
    assert msgspec.json.encode(described)
