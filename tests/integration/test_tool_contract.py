"""What scripts rely on: how each offline tool ends, what it prints, and where."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

import pytest

import vaylix_protocol as vtp
from vaylix_server import cli
from vaylix_server.testing import ServerProcess
from vaylix_storage import Batch, BatchKind, Engine, FileKeyProvider, HardState, RealVfs

FIXTURES = Path(__file__).parents[2] / "packages/vaylix-storage/tests/data/format3"
GOOD = FIXTURES / "b_snapshot_and_wal"
TWELVE = [
    "snapshot_present",
    "storage_format_version",
    "snapshot_size_bytes",
    "last_snapshot_sequence",
    "last_snapshot_at_ms",
    "wal_segment_count",
    "sealed_wal_segment_count",
    "active_wal_segment_count",
    "active_wal_start_sequence",
    "oldest_retained_sequence",
    "newest_sequence",
    "wal_size_bytes",
]
# Each tool, and a part of its JSON that says more than its text.
TOOLS = {
    "storage verify": "report",
    "storage repair": "plan",
    "storage copy": "left_behind",
    "storage migrate": "migration",
    "storage dump": "record",
    "keys status": "keys",
    "keys rotate": "keys",
    "keys rewrap": "keys",
    "pitr inspect": "segments",
    "pitr restore": "restore",
}
# Files that can be lost or damaged, of this format and of 0.9.
FILES = {
    "snapshot": "snapshots/*.snapshot",
    "manifest": "manifest.bin",
    "segment": "wal/closed-*.wal",
    "keyring": "keyring.bin",
}
OLD_FILES = {
    "snapshot": "snapshot.bin",
    "manifest": "manifest.bin",
    "segment": "wal/22-27.wal",
    "keyring": "keyring.bin",
}
# What a tool does without. A dump shows the log alone. Keys are told and changed by the headers of
# the files that are there, and one that is not needs no key; what it held is for `verify` to miss.
NOT_NEEDED = {
    ("storage dump", "snapshot", "lost"),
    ("storage dump", "snapshot", "damaged"),
    ("storage dump", "manifest", "lost"),
    ("storage dump", "manifest", "damaged"),
    ("keys", "snapshot", "lost"),
    ("keys", "manifest", "lost"),
    ("keys", "segment", "lost"),
    # The manifest of 0.9 says no more than the snapshot itself.
    ("storage migrate", "manifest", "lost"),
    ("storage migrate", "manifest", "damaged"),
}
# Those that read or write all the data, and what they are doing meanwhile.
LONG_WORK = {
    "storage verify": ["verifying"],
    "storage repair": ["verifying"],
    "storage copy": ["copying", "verifying"],
    "storage migrate": ["reading", "writing", "copying", "verifying"],
    "pitr inspect": ["reading", "verifying"],
    "pitr restore": ["reading", "restoring entries", "verifying"],
}


class Ended(NamedTuple):
    """What came of a call."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> Ended:
        with pytest.raises(SystemExit) as end:
            cli.main([str(part) for part in arguments])
        return Ended(int(end.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with several segments and a snapshot, cleanly closed by the server."""
    path = tmp_path_factory.mktemp("written") / "data"
    with ServerProcess(path, "--wal-segment-size-bytes=4096") as server, server.admin() as client:
        for number in range(8):
            assert client.ask(vtp.Set(b"%d" % number, bytes(1000))) == vtp.Ok()
        assert client.ask(vtp.Save()) == vtp.Ok()
        assert client.ask(vtp.Set(b"last", b"value")) == vtp.Ok()
    return path


@pytest.fixture
def data(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "data")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one snapshot, the entries behind it, and nothing else."""
    path = tmp_path_factory.mktemp("pruned") / "data"
    little = ("--wal-retain-segments=0", "--snapshot-retain=1")
    with ServerProcess(path, *little) as server, server.admin() as client:
        assert client.ask(vtp.Set(b"first", b"value")) == vtp.Ok()
        assert client.ask(vtp.Save()) == vtp.Ok()
        assert client.ask(vtp.Set(b"last", b"value")) == vtp.Ok()
    return path


def spoil(data: Path, pattern: str, how: str) -> Path:
    """Take the newest of some files away, or flip a bit in its header, and return its path."""
    path = max(data.glob(pattern))
    if how == "lost":
        path.unlink()
        return path
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    return path


def call(tool: str, data: Path, *flags: str) -> list[str]:
    """Return a call of a tool, with a target that is not there yet where it needs one."""
    target = f"--target-dir={data.parent / f'target{len(list(data.parent.iterdir()))}'}"
    if tool == "pitr restore":
        return [*tool.split(), f"--source-dir={data}", target, "--to-sequence=4", *flags]
    targets = [target] if tool == "storage copy" else []
    return [*tool.split(), f"--data-dir={data}", *targets, *flags]


def values(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


@pytest.mark.parametrize("tool", TOOLS)
def test_good_data_end_with_0_and_json_says_more(
    tool: str, data: Path, tmp_path: Path, run: Run
) -> None:
    if tool == "storage migrate":
        data = shutil.copytree(GOOD, tmp_path / "old")
    text = run(*call(tool, data))
    assert text.code == 0, text.err
    assert text.out
    flags = ["--json"] if tool == "storage dump" else ["--output=json"]
    details = run(*call(tool, data, *flags))
    assert details.code == 0, details.err
    records = [json.loads(line) for line in details.out.splitlines()]
    assert all(TOOLS[tool] in record for record in records)
    assert len(records) == 1 or tool == "storage dump"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_failure_ends_with_1_and_one_line(tool: str, tmp_path: Path, run: Run) -> None:
    failed = run(*call(tool, tmp_path / "mistyped"))
    assert (failed.code, failed.out) == (1, "")
    (line,) = failed.err.splitlines()
    assert line.startswith("[ENG-")
    assert str(tmp_path / "mistyped") in line
    assert not list(tmp_path.iterdir()), "nothing is created where nothing was"


@pytest.mark.parametrize("tool", TOOLS)
def test_wrong_usage_ends_with_2(tool: str, data: Path, run: Run) -> None:
    assert run(*call(tool, data, "--no-such-flag")).code == 2
    assert run(*tool.split()).code == 2, "a directory has to be named"


@pytest.mark.parametrize("how", ["lost", "damaged"])
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("tool", TOOLS)
def test_corrupt_data_end_with_8_and_the_place(
    tool: str, kind: str, how: str, pruned: Path, tmp_path: Path, run: Run
) -> None:
    is_old = tool == "storage migrate"
    data = shutil.copytree(GOOD if is_old else pruned, tmp_path / "data")
    damaged = spoil(data, (OLD_FILES if is_old else FILES)[kind], how)
    result = run(*call(tool, data))
    group = "keys" if tool.startswith("keys ") else tool
    if (group, kind, how) in NOT_NEEDED:
        assert result.code == 0, result
        return
    if (tool, kind, how) == ("storage migrate", "keyring", "damaged"):
        # It has no checksum in 0.9, so it could as well be that of another directory.
        assert (result.code, damaged.name in result.err) == (1, True)
        return
    assert result.code == 8, result
    said = result.out if tool == "storage dump" and kind == "segment" else result.err
    if how == "lost" and kind in {"segment", "manifest"}:
        # Nobody knows the name of what was there: it is missing beside others, or the beginning is.
        damaged = data / "wal"
    # Of a keyring of 0.9 that is lost, the file that needs it is the place.
    assert (damaged.name if is_old and kind == "keyring" else str(damaged)) in said
    assert "byte" in said
    assert any(remedy in said for remedy in ("restore", "bring", "take this file away", "repair"))
    assert not list(tmp_path.glob("target*")), "nothing was made of it"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_log_that_is_whole_needs_neither_snapshot_nor_manifest(
    tool: str, data: Path, run: Run
) -> None:
    """They are a short cut then: what is lost is said, and no more needed than it is."""
    if tool == "storage migrate":
        return
    (data / "manifest.bin").unlink()
    assert run(*call(tool, data)).code == 0
    if tool in {"storage verify", "storage repair"}:
        assert "the manifest does not name it" in run(*call(tool, data)).err


def test_a_restore_does_without_a_lost_snapshot_and_says_so(data: Path, run: Run) -> None:
    lost = max((data / "snapshots").iterdir(), key=lambda path: int(path.stem))
    lost.unlink()
    result = run(
        *("pitr", "restore", f"--source-dir={data}", f"--target-dir={data.parent / 'target'}"),
        f"--to-sequence={lost.stem}",
    )
    assert result.code == 0, result.err
    assert f"not of use: {lost}: the snapshot is missing" in result.err
    assert values(result.out)["newest_sequence"] == lost.stem


@pytest.mark.parametrize("how", ["lost", "damaged"])
def test_without_its_only_snapshot_inspect_says_that_there_is_no_window(
    how: str, pruned: Path, tmp_path: Path, run: Run
) -> None:
    data = shutil.copytree(pruned, tmp_path / "data")
    snapshot = spoil(data, "snapshots/*.snapshot", how)
    text = run("pitr", "inspect", f"--data-dir={data}")
    assert text.code == 8
    found = values(text.out)
    ends = ("earliest_sequence", "earliest_timestamp_ms", "latest_sequence", "latest_timestamp_ms")
    assert [found[name] for name in ends] == ["none"] * 4
    assert f"not of use: {snapshot}" in text.err
    assert "window: none, no point can be restored" in text.err
    assert "bring back" in text.err
    # What the manifest and the log still prove.
    assert f"lost snapshot {snapshot.stem} of 20" in text.err
    last = int(found["newest_sequence"])
    assert f"entries up to {last}" in text.err
    assert f"segment from {last + 1} on, without entries" in text.err
    details = json.loads(run("pitr", "inspect", f"--data-dir={data}", "--output=json").out)
    assert details["window"] is None
    assert [part["meta"]["index"] for part in details["lost_snapshots"]] == [int(snapshot.stem)]
    for sequence in (1, int(snapshot.stem), last, last + 1):
        restored = run(
            *("pitr", "restore", f"--source-dir={data}", f"--target-dir={tmp_path / 'target'}"),
            f"--to-sequence={sequence}",
        )
        assert restored.code == 8, restored
        assert str(snapshot) in restored.err
        assert "the window is" not in restored.err
        assert len(restored.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("tool", "more"),
    [
        ("storage verify", ["state"]),
        ("storage migrate", []),
        (
            "pitr inspect",
            [
                "earliest_sequence",
                "earliest_timestamp_ms",
                "latest_sequence",
                "latest_timestamp_ms",
                "unconfirmed_entries",
            ],
        ),
        ("pitr restore", []),
    ],
)
def test_the_twelve_lines_come_first(
    tool: str, more: list[str], data: Path, tmp_path: Path, run: Run
) -> None:
    if tool == "storage migrate":
        data = shutil.copytree(GOOD, tmp_path / "old")
    out = run(*call(tool, data)).out
    assert [line.partition("=")[0] for line in out.splitlines()] == TWELVE + more
    assert values(out)["storage_format_version"] == "4"
    if tool == "pitr restore":
        # They describe the target.
        assert values(out)["newest_sequence"] == "4"


def test_a_moment_is_named_in_milliseconds_or_as_iso_8601(data: Path, run: Run) -> None:
    lines = run("storage", "dump", f"--data-dir={data}", "--json").out.splitlines()
    entries = [record for line in lines if (record := json.loads(line))["record"] == "entry"]
    moment_ms = entries[2]["timestamp_ms"]
    moment = datetime.fromtimestamp(moment_ms / 1000, UTC)
    last = max(entry["index"] for entry in entries if entry["timestamp_ms"] <= moment_ms)
    assert last < entries[-1]["index"]
    elsewhere = moment.astimezone(timezone(timedelta(hours=5, minutes=30)))
    restore = ("pitr", "restore", f"--source-dir={data}")
    for number, point in enumerate(
        (
            f"--to-timestamp-ms={moment_ms}",
            f"--to-time={moment.isoformat().replace('+00:00', 'Z')}",
            f"--to-time={elsewhere.isoformat()}",
        )
    ):
        result = run(*restore, f"--target-dir={data.parent / f'to {number}'}", point)
        assert result.code == 0, result.err
        assert values(result.out)["newest_sequence"] == str(last)


@pytest.mark.parametrize(
    "points",
    [
        ["--to-time=yesterday"],
        # Whose evening this would be is for nobody to guess.
        ["--to-time=2026-11-24T20:15:00"],
        ["--to-time=2026-11-24T20:15:00Z", "--to-sequence=4"],
        ["--to-sequence=-1"],
        [],
    ],
)
def test_a_point_that_is_none_is_wrong_usage(points: list[str], data: Path, run: Run) -> None:
    target = data.parent / "target"
    result = run("pitr", "restore", f"--source-dir={data}", f"--target-dir={target}", *points)
    assert result.code == 2
    assert "--to-" in result.err
    assert not target.exists()


def test_what_is_not_known_to_be_committed_is_said_and_restored_only_when_asked_for(
    tmp_path: Path, run: Run
) -> None:
    data, vfs = tmp_path / "data", RealVfs()
    provider = FileKeyProvider(data / "storage.key", vfs=vfs)
    engine = Engine.open(data, vfs=vfs, provider=provider, now_ms=1)
    # Members make it a cluster, where being on the disk of one is not enough.
    kinds = (BatchKind.CONFIGURATION, BatchKind.NOOP, BatchKind.NOOP)
    batches = [
        Batch.create(first_index=index, count=1, term=1, kind=kind, timestamp_ms=index, payload=b"")
        for index, kind in enumerate(kinds, 1)
    ]
    engine.log.append(batches, HardState(term=1, commit=2))
    engine.log.sync()
    engine.close()
    inspected = run("pitr", "inspect", f"--data-dir={data}")
    assert values(inspected.out)["unconfirmed_entries"] == "1"
    restore = ("pitr", "restore", f"--source-dir={data}", f"--target-dir={tmp_path / 'target'}")
    refused = run(*restore, "--to-sequence=3")
    assert (refused.code, refused.out) == (1, "")
    assert "--include-unconfirmed" in refused.err
    without = run(*restore, "--to-timestamp-ms=100")
    assert values(without.out)["newest_sequence"] == "2"
    assert "1 durable entries are not known to be committed" in without.err
    included = run(*restore, "--to-sequence=3", "--include-unconfirmed", "--force")
    assert values(included.out)["newest_sequence"] == "3"


@pytest.mark.parametrize("tool", LONG_WORK)
def test_long_work_shows_a_bar_on_a_terminal(
    tool: str, data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tool == "storage migrate":
        data = shutil.copytree(GOOD, tmp_path / "old")
    # Without one, what is done within a moment is not worth a word.
    assert "%" not in run(*call(tool, data)).err
    if tool == "storage migrate":
        data = shutil.copytree(GOOD, tmp_path / "older")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = run(*call(tool, data))
    assert shown.code == 0
    assert "%" not in shown.out
    bars = [line for line in shown.err.replace("\r", "\n").splitlines() if "[" in line]
    assert list(dict.fromkeys(bar.partition("[")[0].rstrip() for bar in bars)) == LONG_WORK[tool]
    assert bars[-1].endswith("100 %")


def test_a_bar_reaches_a_real_terminal_and_the_results_go_elsewhere(data: Path) -> None:
    terminal, device = pty.openpty()
    command = [sys.executable, "-m", "vaylix_server", "storage", "verify", f"--data-dir={data}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=device) as process:
        os.close(device)
        shown = b""
        # A terminal that everybody has left ends with an error.
        with suppress(OSError):
            while part := os.read(terminal, 4096):
                shown += part
        out = process.communicate(timeout=60)[0]
    os.close(terminal)
    assert process.returncode == 0
    assert b"[" + b"#" * 25 + b"] 100 %" in shown
    assert len(out.splitlines()) == 13
