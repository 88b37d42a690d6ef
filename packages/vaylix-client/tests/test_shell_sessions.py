"""Recorded sessions of the published client, replayed against the toy server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from click.testing import CliRunner, Result

from vaylix_client.shell import main
from vaylix_client.testing import ToyServer, toy_server_thread
from vaylix_protocol import (
    BackupTo,
    BackupVerifyFrom,
    Command,
    CountReply,
    Entries,
    ErrorCode,
    GrantPermission,
    Health,
    Ok,
    Reply,
    Restore,
    RestoreCheckFrom,
    ShowGrantsForRole,
    ShowUsers,
    WhoAmI,
    error_reply,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAVING = "[INFO] [client.session] received local exit command\n"


class Row(msgspec.Struct, frozen=True):
    """A row of client_sessions.jsonl."""

    name: str
    mode: str
    stdin: list[str]
    exit: int
    first_lines: list[str]
    output: str
    stderr: str


_FILE = Path(__file__).parent / "data" / "client_sessions.jsonl"
ROWS = [
    msgspec.json.decode(line, type=Row)
    for line in _FILE.read_text(encoding="utf-8").split("\n")
    if line
]
# Two defects of the published client, tested in their corrected form below, and one without a
# server.
ELSEWHERE = {"list_with_binary_value", "unknown_word", "server_down"}

KEYS = {
    "a": b"1",
    "alice": b"1",
    "bin": b"\x00\xff\x10",
    "city": b"paris",
    "empty": b"",
    "uni": "žluť, (nil)".encode(),
    "x": b"3",
    "y": b"1",
}
ABSENT: dict[str, set[str]] = {
    "set_variants": {"x", "y"},
    "list_text": {"bin"},
    "transaction_list": {"bin"},
    "list_empty": set(KEYS),
    "scan_empty": set(KEYS),
    "end_of_input": set(KEYS),
}
FLAGS = {
    "disable_auth": ["--disable-auth"],
    "wrong_password": ["--password", "wrong"],
    "no_compression": ["--disable-compression"],
}
ENTRIES: dict[str, type[Command]] = {
    "whoami": WhoAmI,
    "show_users": ShowUsers,
    "show_grants_role": ShowGrantsForRole,
    "health": Health,
    "backup_verify_from": BackupVerifyFrom,
}
REPLIES: dict[str, dict[type[Command], Reply]] = {
    "server_errors": {GrantPermission: error_reply(ErrorCode.SRV_018, name="fly")},
    "backup": {Restore: CountReply(0), BackupTo: Ok(), RestoreCheckFrom: CountReply(0)},
}


def _entries(name: str) -> Entries:
    """The entries behind the three renderings, in an order that is not the one shown."""
    (shown,) = (row.output for row in ROWS if (row.name, row.mode) == (name, "json"))
    pairs = json.loads(shown.removesuffix(LEAVING))
    return Entries(tuple((p["key"].encode(), p["value"].encode()) for p in reversed(pairs)))


def _prepare(server: ToyServer, name: str) -> None:
    absent = ABSENT.get(name, set())
    server.store.values = {key.encode(): v for key, v in KEYS.items() if key not in absent}
    server.replies = dict(REPLIES.get(name, {}))
    if name in ENTRIES:
        server.replies[ENTRIES[name]] = _entries(name)


def _run(server: ToyServer, row: Row) -> Result:
    flags = ["--port", str(server.port), "--output", row.mode, *FLAGS.get(row.name, [])]
    return _invoke(flags, "".join(f"{line}\n" for line in row.stdin).encode())


def _invoke(flags: list[str], stdin: bytes) -> Result:
    return CliRunner().invoke(main, flags, input=stdin, catch_exceptions=False)


def _expected(row: Row, port: int) -> str:
    lines = [line.replace("<port>", str(port)) for line in row.first_lines]
    return "".join(f"{line}\n" for line in lines) + row.output


def _ragged(text: str) -> list[str]:
    """Tables are padded by display width here, by bytes there; that is free to choose."""
    return [line.rstrip(" -") for line in text.split("\n")]


@pytest.fixture(scope="module")
def toy() -> Iterator[ToyServer]:
    with toy_server_thread() as server:
        yield server


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.name not in ELSEWHERE],
    ids=lambda row: f"{row.name}-{row.mode}",
)
def test_a_recorded_session_looks_the_same(toy: ToyServer, row: Row) -> None:
    _prepare(toy, row.name)
    result = _run(toy, row)
    assert result.exit_code == row.exit
    assert result.stderr == row.stderr
    if (row.name, row.mode) == ("list_text", "table"):
        assert _ragged(result.stdout) == _ragged(_expected(row, toy.port))
    else:
        assert result.stdout == _expected(row, toy.port)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.name == "list_with_binary_value"], ids=lambda row: row.mode
)
def test_binary_values_are_shown_in_hex_in_every_mode(toy: ToyServer, row: Row) -> None:
    _prepare(toy, row.name)
    result = _run(toy, row)
    assert result.exit_code == 0
    assert "0x00ff10" in result.stdout
    assert result.stdout.endswith("paris\n" + LEAVING)


def test_an_unknown_word_is_an_error_and_the_next_line_is_read(toy: ToyServer) -> None:
    (row,) = (row for row in ROWS if row.name == "unknown_word")
    result = _run(toy, row)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.endswith(
        "OK\n[CMD-002] Unknown Command: unknown command: wat\nPONG\n" + LEAVING
    )


def test_no_server_is_one_line_on_stderr_and_exit_1() -> None:
    (row,) = (row for row in ROWS if row.name == "server_down")
    with toy_server_thread() as server:
        port = server.port
    result = _invoke(["--port", str(port)], b"")
    assert result.exit_code == row.exit
    assert result.stderr == row.stderr
    assert result.stdout == _expected(row, port).rstrip("\n") + "\n"
