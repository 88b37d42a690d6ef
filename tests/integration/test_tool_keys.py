"""The options of the offline tools that say who wraps the storage keys, on the command line."""

from __future__ import annotations

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
