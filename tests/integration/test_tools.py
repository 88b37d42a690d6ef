"""The offline tools of the `vaylix` command, on directories that the real server has written."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import vaylix_protocol as vtp
from vaylix_server import cli
from vaylix_server.testing import ServerProcess, serve_in_memory

FIXTURES = Path(__file__).parents[2] / "packages/vaylix-storage/tests/data/format3"
SMALL = ("--wal-segment-size-bytes=4096",)


def run(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> Result:
    """Run the command in this process."""
    runner = CliRunner()

    class Command:
        """What CliRunner wants of a command; ours makes its click command itself."""

        name = "vaylix"

        def main(self, args: list[str], **_: object) -> None:
            cli.main(args)

    return runner.invoke(Command(), [str(part) for part in arguments], env=environment)  # type: ignore[arg-type]


def values(result: Result) -> dict[str, str]:
    assert result.exit_code == 0, result.output
    return dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with several segments and a snapshot, cleanly closed."""
    path = tmp_path / "data"
    with ServerProcess(path, *SMALL) as server, server.admin() as client:
        for number in range(8):
            assert client.ask(vtp.Set(b"%d" % number, bytes(1000))) == vtp.Ok()
        assert client.ask(vtp.Save()) == vtp.Ok()
        assert client.ask(vtp.Set(b"last", b"value")) == vtp.Ok()
    return path


def tree(path: Path) -> dict[str, tuple[int, bytes]]:
    """Return everything in a directory, to see that nothing was changed."""
    return {
        str(file.relative_to(path)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in path.rglob("*")
        if file.is_file()
    }


def test_verify_reads_everything_and_changes_nothing(data: Path) -> None:
    before = tree(data)
    found = values(run("storage", "verify", "--data-dir", data))
    assert found["state"] == "clean"
    assert found["snapshot_present"] == "true"
    assert found["storage_format_version"] == "4"
    assert int(found["newest_sequence"]) >= 11
    assert len(found) == 13
    assert tree(data) == before
    details = json.loads(run("storage", "verify", "--data-dir", data, "--output", "json").stdout)
    assert details["state"] == "clean"
    assert details["values"]["newest_sequence"] == int(found["newest_sequence"])


def test_damage_is_named_and_exits_with_8(data: Path) -> None:
    (segment,) = (data / "wal").glob("closed-*.wal")
    content = bytearray(segment.read_bytes())
    content[300] ^= 1
    segment.write_bytes(content)
    result = run("storage", "verify", "--data-dir", data)
    assert result.exit_code == 8
    assert segment.name in result.stderr
    assert "at byte" in result.stderr
    started = ServerProcess(data)
    with pytest.raises(RuntimeError, match="ENG-007"):
        started.wait_until_listening()


def test_repair_shows_the_price_first(data: Path) -> None:
    (segment,) = (data / "wal").glob("closed-*.wal")
    content = bytearray(segment.read_bytes())
    content[-40] ^= 1
    segment.write_bytes(content)
    before = tree(data)
    shown = run("storage", "repair", "--data-dir", data)
    assert shown.exit_code == 8
    assert "--yes" in shown.stderr
    assert tree(data) == before
    done = run("storage", "repair", "--data-dir", data, "--yes")
    assert done.exit_code == 0, done.output
    assert list(data.parent.glob("data.repair-*"))
    with ServerProcess(data) as server, server.admin() as client:
        assert client.ask(vtp.Get(b"7")) == vtp.Value(bytes(1000))


def test_a_directory_in_use_is_refused_but_can_be_copied(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    with ServerProcess(data) as server, server.admin() as client:
        assert client.ask(vtp.Set(b"during", b"use")) == vtp.Ok()
        refused = run("storage", "verify", "--data-dir", data)
        assert refused.exit_code == 1
        assert "another process, or this one, has this data directory open" in refused.stderr
        assert run("storage", "verify", "--data-dir", data, "--live").exit_code == 0
        for tool in (("storage", "repair"), ("keys", "status"), ("keys", "rotate")):
            assert run(*tool, "--data-dir", data).exit_code == 1
        copied = run("storage", "copy", "--data-dir", data, "--target-dir", target)
        assert copied.exit_code == 0, copied.output
    with ServerProcess(target) as server, server.admin() as client:
        assert client.ask(vtp.Get(b"during")) == vtp.Value(b"use")


@pytest.mark.parametrize("tool", ["verify", "repair", "copy", "migrate"])
def test_a_mistyped_path_is_an_error_and_creates_nothing(tmp_path: Path, tool: str) -> None:
    """Weakness 14 of the published server."""
    target = () if tool != "copy" else ("--target-dir", tmp_path / "copy")
    result = run("storage", tool, "--data-dir", tmp_path / "mistyped", *target)
    assert result.exit_code == 1
    assert result.stderr.startswith("[ENG-")
    assert not list(tmp_path.iterdir())


def test_usage_errors_exit_with_2(data: Path) -> None:
    assert run("storage", "verify").exit_code == 2
    assert run("storage", "nothing").exit_code == 2
    assert run("--port", "1", "storage", "verify", "--data-dir", data).exit_code == 2
    wrong = run("keys", "status", "--data-dir", data, "--key-provider", "env", "--key-file", "x")
    assert wrong.exit_code == 2


def test_keys_are_rotated_and_dropped_when_nothing_needs_them(data: Path) -> None:
    first = run("keys", "rotate", "--data-dir", data)
    assert first.exit_code == 0, first.output
    assert first.stdout.count("in use") == 1
    little = ("--wal-retain-segments=0", "--snapshot-retain=1")
    for key in (b"new", b"newer"):
        with ServerProcess(data, *little) as server, server.admin() as client:
            assert client.ask(vtp.Get(b"last")) == vtp.Value(b"value")
            assert client.ask(vtp.Set(key, b"key")) == vtp.Ok()
    status = json.loads(run("keys", "status", "--data-dir", data, "--output", "json").stdout)
    needed = [key["is_in_use"] for key in status["keys"]]
    used_by = [key["used_by"] for key in status["keys"]]
    assert [bool(files) for files in used_by] == needed
    assert all(Path(file).is_file() for files in used_by for file in files)
    # An archive might need them, and nobody has said that there is none.
    second = run("keys", "rotate", "--data-dir", data)
    assert second.stdout.count("dropped") == 0
    assert "--no-wal-archive" in second.stderr
    mistyped = run("keys", "rotate", "--data-dir", data, "--wal-archive-dir", data / "typo")
    assert mistyped.stdout.count("dropped") == 0
    assert "that exists" in mistyped.stderr
    third = run("keys", "rotate", "--data-dir", data, "--no-wal-archive")
    # The keys of the two rotations before were never used.
    assert third.stdout.count("dropped") == needed.count(False) + 2
    with ServerProcess(data) as server, server.admin() as client:
        assert client.ask(vtp.Get(b"last")) == vtp.Value(b"value")


def test_the_status_of_keys_says_who_could_read_them(data: Path) -> None:
    clean = run("keys", "status", "--data-dir", data)
    assert (clean.exit_code, clean.stderr) == (0, "")
    (line,) = clean.stdout.splitlines()
    assert "active" in line
    assert "wrapped by file" in line
    (data / "storage.key").chmod(0o644)
    loose = run("keys", "status", "--data-dir", data)
    assert f"chmod 600 {data / 'storage.key'}" in loose.stderr


def test_keys_of_a_directory_in_use_are_left_alone(data: Path, tmp_path: Path) -> None:
    with ServerProcess(data) as server, server.admin():
        before = (data / "keyring.bin").read_bytes()
        for tool in (["status"], ["rotate"], ["rewrap", "--new-key-file", str(tmp_path / "new")]):
            result = run("keys", *tool, "--data-dir", data)
            assert result.exit_code == 1
            assert result.stderr.startswith("[ENG-011]")
        assert (data / "keyring.bin").read_bytes() == before
    assert not (tmp_path / "new").exists()


def test_keys_can_be_wrapped_anew_in_place_elsewhere_and_by_the_environment(
    data: Path, tmp_path: Path
) -> None:
    old = (data / "storage.key").read_bytes()
    assert run("keys", "rewrap", "--data-dir", data).exit_code == 0
    assert (data / "storage.key").read_bytes() != old
    elsewhere = tmp_path / "elsewhere.key"
    moved = run("keys", "rewrap", "--data-dir", data, "--new-key-file", elsewhere)
    assert moved.exit_code == 0, moved.output
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o600
    with ServerProcess(data, f"--key-file={elsewhere}") as server, server.admin() as client:
        assert client.ask(vtp.Get(b"last")) == vtp.Value(b"value")
    key = os.urandom(32).hex()
    by_env = run(
        *("keys", "rewrap", "--data-dir", data, "--key-file", elsewhere),
        *("--new-key-provider", "env"),
        environment={"VAYLIX_NEW_STORAGE_KEY": key},
    )
    assert by_env.exit_code == 0, by_env.output
    flags, secret = ("--key-provider=env",), {"VAYLIX_STORAGE_KEY": key}
    with ServerProcess(data, *flags, environment=secret) as server, server.admin() as client:
        assert client.ask(vtp.Get(b"last")) == vtp.Value(b"value")
    with pytest.raises(RuntimeError, match="ENG-008"):
        ServerProcess(data, f"--key-file={elsewhere}").wait_until_listening()


def test_dump_shows_every_entry_and_no_password(data: Path) -> None:
    text = run("storage", "dump", "--data-dir", data)
    assert text.exit_code == 0
    assert "last" in text.stdout
    assert "argon2" not in text.stdout
    lines = run("storage", "dump", "--data-dir", data, "--json").stdout.splitlines()
    entries = [json.loads(line) for line in lines if '"record":"entry"' in line]
    assert entries[-1]["value"]["key"] == "last"
    assert [entry["index"] for entry in entries] == sorted(entry["index"] for entry in entries)


def test_a_point_in_time_is_brought_back_with_its_users(tmp_path: Path) -> None:
    data, archive, target = tmp_path / "data", tmp_path / "archive", tmp_path / "restored"
    flags = (*SMALL, f"--wal-archive-dir={archive}", "--wal-retain-segments=0")
    # Not the default account, which a server makes anew where there is nobody.
    ann = ("--user=ann", "--password=secret", "--snapshot-retain=1")
    with ServerProcess(data, *flags, *ann) as server, server.client() as client:
        client.login("ann", "secret")
        for number in range(1, 13):
            assert client.ask(vtp.Incr(b"n")) == vtp.Integer(number)
            assert client.ask(vtp.Set(b"big", bytes(1500))) == vtp.Ok()
            if number % 4 == 0:
                assert client.ask(vtp.Save()) == vtp.Ok()
        pipeline: list[vtp.Command] = [vtp.Incr(b"n")] * 10
        assert client.ask_all(pipeline)[-1] == vtp.Integer(22)
    archived = ("--wal-archive-dir", archive)
    window = values(run("pitr", "inspect", "--data-dir", data, *archived))
    assert window["earliest_sequence"] == "0"
    latest = int(window["latest_sequence"])
    restore = ("pitr", "restore", "--source-dir", data, "--target-dir", target, *archived)
    # Entry 1 is the version of the rules, 2 the administrator; then INCR and SET alternate.
    for sequence, count in ((2 + 2 * 5 - 1, b"5"), (latest - 3, b"19"), (latest, b"22")):
        result = run(*restore, "--to-sequence", str(sequence), "--force")
        assert result.exit_code == 0, result.output
        assert values(result)["newest_sequence"] == str(sequence)
        with ServerProcess(target) as server, server.client() as client:
            client.login("ann", "secret")
            assert client.ask(vtp.Get(b"n")) == vtp.Value(count)
    beyond = run(*restore, "--to-sequence", str(latest + 1), "--force")
    assert beyond.exit_code == 1
    assert beyond.stderr.startswith("[ENG-012]")
    dry = run(*restore, "--to-sequence", "4", "--force", "--dry-run")
    assert "would restore up to entry 4" in dry.stderr


def expected_of(name: str) -> dict[str, Any]:
    text = (FIXTURES / f"{name}.expected.json").read_text(encoding="utf-8")
    expected: dict[str, Any] = json.loads(text)
    return expected


def rows_of(expected: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the keys that were recorded, also those that the published server lost."""
    contents = expected.get("recoverable", expected) or {}
    rows: list[dict[str, Any]] = contents.get("keys_in_storage", contents.get("live_keys", []))
    return rows


FIXTURE_NAMES = sorted(
    path.name.removesuffix(".expected.json") for path in FIXTURES.glob("*.expected.json")
)


def test_a_server_that_meets_a_directory_of_0_9_says_how_to_migrate(tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(FIXTURES / "b_snapshot_and_wal", data)
    before = tree(data)
    with pytest.raises(RuntimeError, match="vaylix storage migrate --data-dir"):
        ServerProcess(data).wait_until_listening()
    assert tree(data) == before


def test_a_migrated_directory_is_served(tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(FIXTURES / "b_snapshot_and_wal", data)
    result = run("storage", "migrate", "--data-dir", data)
    assert result.exit_code == 0, result.output
    assert "storage_format_version=4" in result.stdout
    assert (tmp_path / "data.format3").exists()
    with ServerProcess(data) as server, server.admin() as client:
        dump = client.ask(vtp.Backup())
        assert isinstance(dump, vtp.Value)
        assert json.loads(dump.data)["entries"]
    again = run("storage", "migrate", "--data-dir", data)
    assert again.exit_code == 0
    assert values(run("storage", "verify", "--data-dir", data))["state"] == "clean"


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_what_the_published_server_left_is_served_or_reported(name: str, tmp_path: Path) -> None:
    """Every fixture: its keys with value, version and expiry, or an error and nothing changed."""
    data = tmp_path / "data"
    shutil.copytree(FIXTURES / name, data)
    before = tree(data)
    result = run("storage", "migrate", "--data-dir", data)
    if result.exit_code != 0:
        assert result.exit_code in {1, 8}
        assert result.stderr.splitlines()[-1].startswith("[")
        assert tree(data) == before
        return
    expected = expected_of(name)
    user, password = expected.get("login") or ("vaylix", "vaylix")

    async def dumped() -> list[dict[str, Any]]:
        async with serve_in_memory(tmp_path) as server:
            client = await server.login(user, password)
            dump = await client.ask(vtp.Backup())
            assert isinstance(dump, vtp.Value), dump
            entries: list[dict[str, Any]] = json.loads(dump.data)["entries"]
            return entries

    now_ms = time.time_ns() // 1_000_000
    wanted = [
        (row["key"], row["value"], row["expires_at_ms"], row["version"])
        for row in rows_of(expected)
        if row["expires_at_ms"] is None or row["expires_at_ms"] > now_ms
    ]
    found = [
        (
            row["key"],
            base64.b64decode(row["value_base64"]).hex(),
            row["expires_at_ms"],
            row["version"],
        )
        for row in asyncio.run(dumped())
    ]
    assert found == sorted(wanted)


def test_most_fixtures_can_be_read() -> None:
    readable = [name for name in FIXTURE_NAMES if rows_of(expected_of(name))]
    assert len(readable) >= 20


def test_users_of_the_published_server_log_in_and_keep_their_rights(tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(FIXTURES / "c_users_roles", data)
    assert run("storage", "migrate", "--data-dir", data).exit_code == 0
    passwords = expected_of("c_users_roles")["passwords"]

    async def log_in() -> None:
        async with serve_in_memory(tmp_path) as server:
            for user, password in passwords.items():
                await server.login(user, password)
            reader = await server.login("alice", passwords["alice"])
            refused = await reader.ask(vtp.Set(b"app:1", b"x"))
            assert isinstance(refused, vtp.ErrorReply)
            assert refused.code == "SRV-017"
            assert await reader.ask(vtp.Get(b"app:1")) == vtp.Value(b"one")

    asyncio.run(log_in())
