"""What `vaylix pitr inspect` says of each snapshot and segment, compared with what was written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from vaylix_server import cli
from vaylix_storage.offline.past_testing import ARCHIVE, SOURCE, PastWriter, files_below
from vaylix_storage.testing import MemoryVfs

# The time of each batch of two entries. Two are alike, as with a clock that stands still.
TIMES_MS = [1_700_000_000_000 + 1_234 * number for number in (0, 1, 1, 2, 3, 5, 8, 13, 21, 34)]
Inspect = Callable[..., tuple[str, str]]


class File(NamedTuple):
    """A file, and which entries its name promises."""

    path: Path
    first: int
    last: int
    is_archived: bool


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Inspect:
    def inspect(*flags: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(["pitr", "inspect", *flags])
        out, err = capsys.readouterr()
        assert end.value.code == 0, err
        return out, err

    return inspect


class Written:
    """A history of 20 entries on the disk, the older half of it in an archive."""

    def __init__(self, root: Path) -> None:
        writer = PastWriter(MemoryVfs(), keep=1, snapshots=2)
        for number, time_ms in enumerate(TIMES_MS):
            writer.append([b"a", b"%d" % number], time_ms)
            if number in {2, 4, 7}:
                writer.snapshot()
        writer.close()
        self.times = writer.times
        self.data, self.archive = root / "data", root / "archive"
        for source, target in ((SOURCE, self.data), (ARCHIVE, self.archive)):
            for path, content in files_below(writer.vfs, source).items():
                copy = target / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                copy.write_bytes(content)
                copy.chmod(0o600)
        self.snapshots = self._files("*.snapshot", r"(?P<last>\d+)\.snapshot")
        self.segments = self._files("*.wal", r"(?:closed-)?(?P<first>\d+)-(?P<last>\d+)\.wal")

    def _files(self, pattern: str, name: str) -> list[File]:
        found = []
        for root in (self.archive, self.data):
            for path in root.rglob(pattern):
                match = re.fullmatch(name, path.name)
                assert match is not None, path
                numbers = {key: int(text) for key, text in match.groupdict().items()}
                last = numbers["last"]
                found.append(File(path, numbers.get("first", last), last, root == self.archive))
        return sorted(found, key=lambda file: file.last)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def iso(timestamp_ms: int) -> str:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")


def test_there_is_something_of_each_kind(written: Written) -> None:
    for files in (written.snapshots, written.segments):
        assert {file.is_archived for file in files} == {True, False}
    assert [file.last for file in written.snapshots] == [6, 10, 16]
    entries = [index for file in written.segments for index in range(file.first, file.last + 1)]
    assert entries == [*range(1, 21)]


def test_the_text_shows_sequences_and_times_of_each(written: Written, inspect: Inspect) -> None:
    out, err = inspect(f"--data-dir={written.data}", f"--wal-archive-dir={written.archive}")
    times = written.times
    expected = [
        f"{'archived ' * file.is_archived}snapshot {file.last} of {iso(times[file.last])}"
        for file in written.snapshots
    ]
    expected += [
        f"{'archived ' * file.is_archived}segment {file.first} to {file.last}, "
        f"{iso(times[file.first])} to {iso(times[file.last])}"
        for file in written.segments
    ]
    shown = [
        line for line in err.splitlines() if re.match(r"(archived )?(snapshot|segment) ", line)
    ]
    assert shown == expected
    assert f"window: 0 to 20, the beginning to {iso(times[20])}" in err
    assert f"latest_timestamp_ms={times[20]}" in out


def test_the_json_holds_sequences_and_times_of_each(written: Written, inspect: Inspect) -> None:
    out, _ = inspect(
        f"--data-dir={written.data}", f"--wal-archive-dir={written.archive}", "--output=json"
    )
    details = json.loads(out)
    times = written.times
    assert [
        (part["path"], part["meta"]["index"], part["meta"]["timestamp_ms"], part["is_archived"])
        for part in details["snapshots"]
    ] == [
        (str(file.path), file.last, times[file.last], file.is_archived)
        for file in written.snapshots
    ]
    names = ("first_index", "last_index", "first_timestamp_ms", "last_timestamp_ms", "is_archived")
    assert [(part["path"], *(part[name] for name in names)) for part in details["segments"]] == [
        (
            str(file.path),
            file.first,
            file.last,
            times[file.first],
            times[file.last],
            file.is_archived,
        )
        for file in written.segments
    ]
    assert details["lost_snapshots"] == []
    assert details["window"] == {
        "earliest": 0,
        "earliest_timestamp_ms": 0,
        "latest": 20,
        "latest_timestamp_ms": times[20],
        "earlier": [],
        "unconfirmed": 0,
    }


def test_without_the_archive_the_window_begins_with_the_oldest_snapshot(
    written: Written, inspect: Inspect
) -> None:
    out, err = inspect(f"--data-dir={written.data}")
    oldest = next(file for file in written.snapshots if not file.is_archived)
    assert "archived" not in err
    found = dict(line.split("=", 1) for line in out.splitlines())
    assert found["latest_sequence"] == "20"
    # What lies behind a gap is shown as well.
    begin = int(found["earliest_sequence"])
    assert begin in {file.last for file in written.snapshots if not file.is_archived}
    assert found["earliest_timestamp_ms"] == str(written.times[begin])
    earlier = f"earlier, behind a gap: {oldest.last} to {oldest.last}, "
    assert (earlier in err) == (begin != oldest.last)
