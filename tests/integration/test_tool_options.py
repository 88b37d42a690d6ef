"""Options that the offline tools share, as flags and as variables: keys, directory, archive."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import vaylix_protocol as vtp
from vaylix_server import cli
from vaylix_server.testing import ServerProcess

FIXTURES = Path(__file__).parents[2] / "packages/vaylix-storage/tests/data/format3"
TOOLS = [
    "storage verify",
    "storage repair",
    "storage copy",
    "storage migrate",
    "storage dump",
    "keys status",
    "keys rotate",
    "keys rewrap",
    "pitr inspect",
    "pitr restore",
]
OLD_KEY, NEW_KEY = "VAYLIX_STORAGE_KEY", "VAYLIX_NEW_STORAGE_KEY"


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
    """A directory with a snapshot and entries behind it, cleanly closed by the server."""
    path = tmp_path_factory.mktemp("written") / "data"
    with ServerProcess(path) as server, server.admin() as client:
        assert client.ask(vtp.Set(b"first", b"value")) == vtp.Ok()
        assert client.ask(vtp.Save()) == vtp.Ok()
        assert client.ask(vtp.Set(b"last", b"value")) == vtp.Ok()
    return path


@pytest.fixture
def data(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "data")


def call(tool: str, data: Path, *flags: str) -> list[str]:
    """Return a call of a tool, with a target that is not there yet where it needs one."""
    target = f"--target-dir={data.parent / f'target{len(list(data.parent.iterdir()))}'}"
    if tool == "pitr restore":
        return [*tool.split(), f"--source-dir={data}", target, "--to-sequence=3", *flags]
    targets = [target] if tool == "storage copy" else []
    return [*tool.split(), f"--data-dir={data}", *targets, *flags]


def source_of(tool: str, data: Path) -> Path:
    """Return a directory that the tool can work on."""
    if tool != "storage migrate":
        return data
    return shutil.copytree(FIXTURES / "b_snapshot_and_wal", data.parent / "old")


def contents(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def new_key() -> str:
    return os.urandom(32).hex()


def value_of(data: Path, *flags: str, key: str | None = None) -> object:
    """Start a server and ask for the last value."""
    environment = {} if key is None else {OLD_KEY: key}
    with ServerProcess(data, *flags, environment=environment) as server, server.admin() as client:
        return client.ask(vtp.Get(b"last"))


# Contradictions


CONTRADICTIONS = [
    *((tool, ["--key-provider=env", "--key-file=x"]) for tool in TOOLS),
    ("keys rewrap", ["--new-key-provider=env", "--new-key-file=x"]),
    ("pitr restore", ["--key-provider=env", "--target-key-file=x"]),
    ("keys rotate", ["--no-wal-archive", "--wal-archive-dir=x"]),
]


@pytest.mark.parametrize(("tool", "flags"), CONTRADICTIONS)
def test_options_that_contradict_each_other_are_wrong_usage(
    tool: str, flags: list[str], data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OLD_KEY, new_key())
    monkeypatch.setenv(NEW_KEY, new_key())
    data = source_of(tool, data)
    before = contents(data.parent)
    result = run(*call(tool, data, *flags))
    assert (result.code, result.out) == (2, ""), result
    (line,) = [line for line in result.err.splitlines() if line.startswith("Error: ")]
    assert result.err.endswith(f"{line}\n"), "one line says what is wrong"
    assert all(flag.partition("=")[0] in line for flag in flags)
    assert contents(data.parent) == before


@pytest.mark.parametrize("tool", TOOLS)
def test_a_variable_can_contradict_a_flag_as_well(
    tool: str, data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAYLIX_KEY_FILE", "x")
    monkeypatch.setenv("VAYLIX_KEY_PROVIDER", "env")
    result = run(*call(tool, data))
    assert result.code == 2
    assert "--key-file has no meaning" in result.err


PATHS = [
    *((tool, "--data-dir") for tool in TOOLS if tool != "pitr restore"),
    *((tool, "--key-file") for tool in TOOLS),
    *((tool, "--wal-archive-dir") for tool in TOOLS if tool.startswith(("keys s", "keys ro"))),
    *((tool, "--wal-archive-dir") for tool in TOOLS if tool.startswith("pitr")),
    ("keys rewrap", "--new-key-file"),
    ("storage copy", "--target-dir"),
    ("pitr restore", "--source-dir"),
    ("pitr restore", "--target-dir"),
    ("pitr restore", "--target-key-file"),
]


@pytest.mark.parametrize(("tool", "flag"), PATHS)
def test_an_empty_path_is_not_the_working_directory(
    tool: str, flag: str, data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    before = contents(data.parent)
    result = run(*call(tool, data, f"{flag}="))
    assert (result.code, result.out) == (2, ""), result
    *_, line = result.err.splitlines()
    assert line.startswith(f"Error: Invalid value for '{flag}'")
    assert line.endswith(": expected a path")
    assert contents(data.parent) == before


# Another wrapping key


def test_a_key_in_a_variable_can_be_changed_for_another_one(
    data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = new_key(), new_key()
    monkeypatch.setenv(NEW_KEY, first)
    moved = run("keys", "rewrap", f"--data-dir={data}", "--new-key-provider=env")
    assert moved.code == 0, moved.err
    assert f"--key-provider env, and in {OLD_KEY}" in moved.err
    monkeypatch.setenv(OLD_KEY, first)
    monkeypatch.setenv(NEW_KEY, second)
    both = ("keys", "rewrap", f"--data-dir={data}", "--key-provider=env", "--new-key-provider=env")
    # Once more, as after an interruption: then there is nothing left to do.
    for _ in range(2):
        changed = run(*both)
        assert changed.code == 0, changed.err
    verify = ("storage", "verify", f"--data-dir={data}", "--key-provider=env")
    assert run(*verify).err.startswith("[ENG-008]")
    monkeypatch.setenv(OLD_KEY, second)
    assert run(*verify).code == 0
    assert value_of(data, "--key-provider=env", key=second) == vtp.Value(b"value")
    # What is not another key changes nothing, and is not taken for done.
    refused = run(*both)
    assert (refused.code, refused.out) == (2, "")
    assert NEW_KEY in refused.err
    back = run("keys", "rewrap", f"--data-dir={data}", "--key-provider=env")
    assert back.code == 0, back.err
    assert str(data / "storage.key") in back.err
    assert value_of(data) == vtp.Value(b"value")


@pytest.mark.parametrize("present", [[], ["--key-provider=env"]])
def test_a_new_key_that_is_not_there_changes_nothing(
    present: list[str], data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    rewrap = ("keys", "rewrap", f"--data-dir={data}", "--new-key-provider=env")
    if present:
        monkeypatch.setenv(NEW_KEY, key)
        assert run(*rewrap).code == 0
        monkeypatch.delenv(NEW_KEY)
    monkeypatch.setenv(OLD_KEY, key)
    before = contents(data)
    result = run(*rewrap, *present)
    assert (result.code, result.out) == (1, "")
    assert f"the variable {NEW_KEY} is not set" in result.err
    assert contents(data) == before


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_the_present_key_file_is_no_new_one(
    data: Path, tmp_path: Path, run: Run, *, is_elsewhere: bool
) -> None:
    key = data / "storage.key"
    flags = []
    if is_elsewhere:
        key = key.rename(tmp_path / "key")
        flags = [f"--key-file={key}"]
    before = contents(data)
    result = run("keys", "rewrap", f"--data-dir={data}", f"--new-key-file={key}", *flags)
    assert result.code == 2
    assert "--new-key-file is the present key file" in result.err
    assert contents(data) == before


@pytest.mark.parametrize("place", ["wal/1-1.wal", "snapshots/9.snapshot", "link/key"])
@pytest.mark.parametrize(
    ("tool", "flag"), [("keys rewrap", "--new-key-file"), ("pitr restore", "--target-key-file")]
)
def test_no_key_goes_among_the_segments_or_snapshots(
    tool: str, flag: str, place: str, data: Path, run: Run
) -> None:
    (data / "link").symlink_to("wal")
    before = contents(data)
    result = run(*call(tool, data, f"{flag}={data / place}"))
    assert (result.code, result.out) == (1, ""), result
    assert result.err.startswith("[ENG-002]")
    assert "among the segments and snapshots of a data directory" in result.err
    assert contents(data) == before
    assert list(data.parent.iterdir()) == [data]
    assert run("storage", "verify", f"--data-dir={data}").code == 0


# A key that is kept elsewhere


def keep_elsewhere(tool: str, data: Path, tmp_path: Path) -> Path:
    """Move the key to where only an option leads, and return its path."""
    key = tmp_path / "elsewhere" / "key"
    key.parent.mkdir(mode=0o700)
    if tool != "storage migrate":
        (data / "storage.key").rename(key)
    return key


@pytest.mark.parametrize("is_variable", [False, True])
@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_takes_a_key_that_is_kept_elsewhere(
    tool: str,
    data: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_variable: bool,
) -> None:
    data = source_of(tool, data)
    key = keep_elsewhere(tool, data, tmp_path)
    before = key.read_bytes() if key.exists() else b""
    if tool != "storage migrate":
        lost = run(*call(tool, data))
        assert (lost.code, lost.err[:9]) == (1, "[ENG-008]"), "without its key it cannot work"
    flags = [f"--key-file={key}"]
    if is_variable:
        monkeypatch.setenv("VAYLIX_KEY_FILE", str(key))
        flags = []
    result = run(*call(tool, data, *flags))
    assert result.code == 0, result
    assert not (data / "storage.key").exists(), "it does not come back"
    assert (key.read_bytes() != before) == (tool in {"storage migrate", "keys rewrap"})
    assert run("storage", "verify", f"--data-dir={data}", f"--key-file={key}").code == 0
    check_target(tool, data, key, result, run)


def check_target(tool: str, data: Path, key: Path, result: Ended, run: Run) -> None:
    """See which key opens what a tool has made."""
    targets = list(data.parent.glob("target*"))
    assert len(targets) == (tool in {"storage copy", "pitr restore"})
    if tool == "storage copy":
        assert "the key lies elsewhere and was not copied" in result.err
        assert not (targets[0] / "storage.key").exists()
        assert run("storage", "verify", f"--data-dir={targets[0]}", f"--key-file={key}").code == 0
    if tool == "pitr restore":
        # It is another history, with a key of its own.
        own = targets[0] / "storage.key"
        assert own.read_bytes() != key.read_bytes()
        assert run("storage", "verify", f"--data-dir={targets[0]}", f"--key-file={own}").code == 0


@pytest.mark.parametrize("is_variable", [False, True])
@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_takes_a_key_in_a_variable(
    tool: str, data: Path, run: Run, monkeypatch: pytest.MonkeyPatch, *, is_variable: bool
) -> None:
    key = new_key()
    monkeypatch.setenv(NEW_KEY, key)
    assert run("keys", "rewrap", f"--data-dir={data}", "--new-key-provider=env").code == 0
    (data / "storage.key").unlink()
    monkeypatch.setenv(OLD_KEY, key)
    flags = ["--key-provider=env"]
    data = source_of(tool, data)
    if is_variable:
        monkeypatch.setenv("VAYLIX_KEY_PROVIDER", "env")
        flags = []
    more = []
    if tool == "keys rewrap":
        monkeypatch.setenv(NEW_KEY, new_key())
        more = ["--new-key-provider=env"]
    result = run(*call(tool, data, *flags, *more))
    assert result.code == 0, result
    made = [data, *data.parent.glob("target*")]
    assert not any((path / "storage.key").exists() for path in made)
    if tool == "keys rewrap":
        monkeypatch.setenv(OLD_KEY, os.environ[NEW_KEY])
    for path in made:
        assert run("storage", "verify", f"--data-dir={path}", "--key-provider=env").code == 0


def test_the_key_of_a_restored_directory_goes_where_it_is_told(
    data: Path, tmp_path: Path, run: Run
) -> None:
    key = tmp_path / "key of the target"
    result = run(*call("pitr restore", data, f"--target-key-file={key}"))
    assert result.code == 0, result.err
    (target,) = data.parent.glob("target*")
    assert not (target / "storage.key").exists()
    assert key.stat().st_mode & 0o777 == 0o600
    assert run("storage", "verify", f"--data-dir={target}").err.startswith("[ENG-008]")
    assert run("storage", "verify", f"--data-dir={target}", f"--key-file={key}").code == 0
    assert key.read_bytes() != (data / "storage.key").read_bytes()


# Where the data and the archive are


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool != "pitr restore"])
def test_every_tool_takes_its_directory_from_a_variable(
    tool: str, data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = source_of(tool, data)
    arguments = [part for part in call(tool, data) if not part.startswith("--data-dir=")]
    assert run(*arguments).code == 2, "it has to be named somehow"
    monkeypatch.setenv("VAYLIX_DATA_DIR", str(data))
    result = run(*arguments)
    assert result.code == 0, result
    assert result.out
    monkeypatch.setenv("VAYLIX_DATA_DIR", str(data / "elsewhere"))
    named = run(*call(tool, data))
    assert named.code == 0, "a flag goes before a variable"


def test_a_restore_takes_no_directory_from_a_variable(
    data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is a source and what a target has to be said."""
    monkeypatch.setenv("VAYLIX_DATA_DIR", str(data))
    arguments = [part for part in call("pitr restore", data) if not part.startswith("--source-dir")]
    assert run(*arguments).code == 2


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of which all but the newest entries are in `archive` beside it."""
    root = tmp_path_factory.mktemp("archived")
    little = ("--wal-retain-segments=0", "--snapshot-retain=1")
    flags = (*little, f"--wal-archive-dir={root / 'archive'}")
    for key in (b"first", b"second"):
        with ServerProcess(root / "data", *flags) as server, server.admin() as client:
            assert client.ask(vtp.Set(key, b"value")) == vtp.Ok()
    return root


@pytest.mark.parametrize("is_variable", [False, True])
@pytest.mark.parametrize("tool", ["pitr inspect", "pitr restore", "keys status", "keys rotate"])
def test_tools_that_read_the_archive_find_it_by_a_flag_or_a_variable(
    tool: str,
    archived: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_variable: bool,
) -> None:
    root = shutil.copytree(archived, tmp_path / "root")
    data, archive = root / "data", root / "archive"
    flags = [f"--wal-archive-dir={archive}"]
    without = run(*call(tool, data))
    assert str(archive) not in without.out + without.err
    if is_variable:
        monkeypatch.setenv("VAYLIX_WAL_ARCHIVE_DIR", str(archive))
        flags = []
    if tool == "keys status":
        flags.append("--output=json")
    result = run(*call(tool, data, *flags))
    assert result.code == 0, result
    if tool == "pitr inspect":
        assert "earliest_sequence=0\n" not in without.out
        assert "earliest_sequence=0\n" in result.out
    elif tool == "pitr restore":
        # Entry 3 lies before the only snapshot that the directory has.
        assert (without.code, without.err[:9]) == (1, "[ENG-012]")
        assert "newest_sequence=3\n" in result.out
    elif tool == "keys status":
        (key,) = json.loads(result.out)["keys"]
        assert any(path.startswith(str(archive)) for path in key["used_by"])
    else:
        # Only when the archive is known it is known what is not needed any more.
        assert "were kept" in without.err or "dropped" not in without.out
        assert "were kept" not in result.err
        assert result.out.count(" dropped") == 1
