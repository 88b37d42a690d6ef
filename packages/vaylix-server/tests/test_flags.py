"""Every flag and its variable, through the command line and into the settings of the server.

What most of them do is tested where it belongs; the end of this file has those about logins and
the log of requests. Quotas are in `test_quotas.py`, those of storage in `test_storage_flags.py`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

import vaylix_protocol as vtp
from vaylix_protocol import ErrorReply, Metadata, Ok, Value
from vaylix_server import cli
from vaylix_server.settings import (
    Choice,
    Number,
    PathText,
    Settings,
    Switch,
    Text,
    flag_of,
    settings_from_text,
    variable_of,
)
from vaylix_server.testing import MemoryServer, serve_in_memory

FIELDS = {setting.name: setting for setting in dataclasses.fields(Settings)}
each_setting = pytest.mark.parametrize("name", FIELDS)

# A text for each setting, none of which means its default, and the value it stands for.
GIVEN: dict[str, tuple[str, object]] = {
    "bind": ("[::1]", "[::1]"),
    "port": ("0", 0),
    "transport": ("other", "other"),
    "data_dir": ("some where", Path("some where")),
    "storage_backend": ("other", "other"),
    "wal_sync": ("flush", "flush"),
    "wal_segment_size_bytes": ("4096", 4096),
    "wal_retain_segments": ("0", 0),
    "wal_retain_bytes": ("0", 0),
    "wal_retain_seconds": ("0", 0),
    "wal_archive_dir": ("archive", Path("archive")),
    "snapshot_interval_seconds": ("1", 1),
    "snapshot_wal_bytes": ("0", 0),
    "snapshot_retain": ("1", 1),
    "snapshot_retain_seconds": ("0", 0),
    "expiration_sweep_interval_seconds": ("1", 1),
    "backup_dir": ("/backups", Path("/backups")),
    "key_provider": ("env", "env"),
    "key_file": ("key", Path("key")),
    "write_ack_mode": ("other", "other"),
    "user": ("zoë", "zoë"),
    "password": (" a b ", " a b "),
    "password_file": ("password.txt", Path("password.txt")),
    "disable_auth": ("true", True),
    "disable_compression": ("true", True),
    "max_connections": ("65536", 65_536),
    "handshake_timeout_seconds": ("3600", 3600),
    "idle_timeout_seconds": ("1", 1),
    "max_request_payload_bytes": ("1", 1),
    "max_key_bytes": ("65535", 65_535),
    "max_value_bytes": ("8388608", 8_388_608),
    "max_keys_per_batch": ("1", 1),
    "max_transaction_queue_len": ("2", 2),
    "transaction_max_seconds": ("4294967295", 2**32 - 1),
    "requests_per_second": ("1", 1),
    "request_burst": ("1", 1),
    "auth_failure_window_seconds": ("1", 1),
    "auth_failure_limit": ("1", 1),
    "auth_lockout_seconds": ("1", 1),
    "slow_command_threshold_ms": ("0", 0),
    "log_requests": ("true", True),
    "disable_plugins": ("one,two", "one,two"),
    "strict_plugins": ("true", True),
}
# What has no meaning alone.
COMPANIONS = {"request_burst": ["--requests-per-second=7"]}
# Everywhere else 0 would stop everything, or mean nothing.
ZERO_HAS_A_MEANING = {
    "port",
    "slow_command_threshold_ms",
    "snapshot_retain_seconds",
    "snapshot_wal_bytes",
    "wal_retain_bytes",
    "wal_retain_seconds",
    "wal_retain_segments",
}


class CommandLine:
    """Runs the command in a directory of its own, with a server that only takes its settings."""

    def __init__(self) -> None:
        self.settings: Settings | None = None

    def run_server(self, settings: Settings) -> int:
        self.settings = settings
        return 0

    def __call__(self, *flags: str, variables: Mapping[str, str] | None = None) -> Result:
        self.settings = None
        nothing: dict[str, str | None] = dict.fromkeys(map(variable_of, FIELDS))
        return CliRunner().invoke(
            cli.root_command(), flags, env={**nothing, **(variables or {})}, prog_name="vaylix"
        )

    def settings_of(self, *flags: str, variables: Mapping[str, str] | None = None) -> Settings:
        result = self(*flags, variables=variables)
        assert result.exit_code == 0, result.output
        assert self.settings is not None
        return self.settings

    def refusal_of(self, *flags: str, variables: Mapping[str, str] | None = None) -> str:
        """Return the one line that says what is wrong."""
        result = self(*flags, variables=variables)
        assert result.exit_code == 2, result.output
        assert self.settings is None
        assert list(Path().iterdir()) == [Path("password.txt")], "it has touched something"
        *_, line = result.output.splitlines()
        assert line.startswith("Error: ")
        return line[7:]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    (tmp_path / "password.txt").write_text("from the file\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    line = CommandLine()
    monkeypatch.setattr(cli, "run_server", line.run_server)
    return line


def argument(name: str, text: str) -> str:
    return flag_of(name) if isinstance(kind_of(name), Switch) else f"{flag_of(name)}={text}"


def kind_of(name: str) -> object:
    return FIELDS[name].metadata["kind"]


def values_of(settings: Settings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in FIELDS}


def test_every_setting_is_given_here() -> None:
    assert GIVEN.keys() == FIELDS.keys()


@each_setting
def test_a_flag_and_its_variable_give_the_same(command: CommandLine, name: str) -> None:
    text, value = GIVEN[name]
    companions, variable = COMPANIONS.get(name, []), variable_of(name)
    usual = command.settings_of(*companions)
    assert value != getattr(usual, name)
    expected = {name: value}
    if name == "password_file":
        expected["password"] = "from the file"
    by_flag = command.settings_of(argument(name, text), *companions)
    by_variable = command.settings_of(*companions, variables={variable: text})
    # The flag wins, so that the variable is not even read.
    by_both = command.settings_of(argument(name, text), *companions, variables={variable: ""})
    assert values_of(by_flag) == values_of(usual) | expected
    assert by_variable == by_both == by_flag


@each_setting
def test_help_names_a_flag_its_meaning_its_default_and_its_variable(
    command: CommandLine, name: str
) -> None:
    result = command("--help")
    assert result.exit_code == 0
    sections = re.split(r"(?m)^  (?=--)", result.output)
    (section,) = (text for text in sections if text.split()[0] == flag_of(name))
    said = " ".join(section.split())
    setting = FIELDS[name]
    assert setting.metadata["help"] in said
    assert said.endswith(f"({variable_of(name)})") or f"({variable_of(name)}) --help " in said
    if setting.default not in {None, ""}:
        assert f"[default: {setting.default}]" in said


def bad_texts(name: str) -> list[str]:
    kind = kind_of(name)
    if isinstance(kind, Number):
        zero = [] if name in ZERO_HAS_A_MEANING else ["0"]
        beyond = [str(kind.minimum - 1), str(kind.maximum + 1), "9" * 30]
        return ["", "x", "-1", "+1", "1.5", " 1", "1s", *zero, *beyond]
    if isinstance(kind, Choice):
        return ["", "never", kind.words[0].upper(), f" {kind.words[0]}"]
    if isinstance(kind, Switch):
        return ["", "1", "yes", "True", "on"]
    if isinstance(kind, PathText):
        return [""]
    assert isinstance(kind, Text)
    return ["\udcff"] if kind.minimum == 0 else ["", "\udcff"]


@each_setting
def test_bad_values_are_refused_with_the_flag_or_the_variable(
    command: CommandLine, name: str
) -> None:
    for text in bad_texts(name):
        shown = "***" if name == "password" else repr(text)
        variable = variable_of(name)
        line = command.refusal_of(variables={variable: text})
        assert line.startswith(f"invalid value {shown} for {variable}: expected "), text
        if not isinstance(kind_of(name), Switch):
            line = command.refusal_of(f"{flag_of(name)}={text}")
            assert line.startswith(f"invalid value {shown} for {flag_of(name)}: expected "), text


def test_a_switch_takes_no_value(command: CommandLine) -> None:
    for name in FIELDS:
        if isinstance(kind_of(name), Switch):
            assert flag_of(name) in command.refusal_of(f"{flag_of(name)}=true")
            assert command.settings_of(variables={variable_of(name): "false"}) == Settings()


def test_zero_is_taken_only_where_it_means_something() -> None:
    for name in FIELDS:
        kind = kind_of(name)
        if isinstance(kind, Number):
            assert (kind.minimum == 0) is (name in ZERO_HAS_A_MEANING), name


@pytest.mark.parametrize("name", [name for name in FIELDS if isinstance(kind_of(name), Number)])
def test_numbers_are_taken_up_to_their_bounds(name: str) -> None:
    kind = kind_of(name)
    assert isinstance(kind, Number)
    for bound in (kind.minimum, kind.maximum):
        flags = {"user": "u", "password": "p", "requests_per_second": "1", name: str(bound)}
        assert getattr(settings_from_text(flags, {}), name) == bound


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--key-provider=env", "--key-file=key"], ["--key-file", "--key-provider"]),
        (["--request-burst=5"], ["--request-burst", "--requests-per-second"]),
        (["--user=" + "u" * 1025], ["--user", "--max-key-bytes"]),
        (["--password=" + "p" * 262_145], ["password", "--max-value-bytes"]),
        (["--password=p", "--password-file=password.txt"], ["--password", "--password-file"]),
        (["--password-file=missing"], ["cannot read the password file missing"]),
    ],
    ids=lambda value: value[0][:20],
)
def test_flags_that_contradict_each_other_are_refused(
    command: CommandLine, flags: list[str], named: list[str]
) -> None:
    line = command.refusal_of(*flags)
    assert all(text in line for text in named), line


@pytest.mark.parametrize("name", ["transport", "storage_backend", "write_ack_mode"])
def test_a_name_that_no_plugin_gave_is_refused_with_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.root_command(), ["--port=0", f"{flag_of(name)}=other"])
    assert result.exit_code == 2
    line = result.output.splitlines()[-1]
    assert f"'other' for {flag_of(name)}" in line
    assert str(FIELDS[name].default) in line
    assert list(tmp_path.iterdir()) == []


# What some of them do.


def code(reply: vtp.Reply) -> str | None:
    return reply.code if isinstance(reply, ErrorReply) else None


async def try_login(server: MemoryServer, password: str) -> str | None:
    """Return the code of the refusal, None when it was none."""
    client = await server.greet()
    return code(await client.ask(vtp.Auth("vaylix", password)))


async def test_log_requests_writes_one_line_for_each_accepted_request(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, Settings(log_requests=True)) as server:
        client = await server.login()
        requests: list[vtp.Command] = [vtp.Set(b"k", b"secret"), vtp.Get(b"k"), vtp.Get(b"k")]
        assert await client.ask_all(requests) == [Ok(), Value(b"secret"), Value(b"secret")]
        refused = await client.ask(vtp.Incr(b"k"), Metadata(deadline_ms=0))
        assert code(refused) == "TRN-016"
        assert await client.ask(vtp.Ping()) == Value(b"PONG")
        output = server.output.getvalue()
    found = re.findall(r"(?m)peer=\S+ request_id=(\S+) opcode=(\w+)$", output)
    kinds = {1: "Auth", 2: "Set", 3: "Get", 4: "Get", 6: "Ping"}
    assert found == [(str(UUID(int=number)), kind) for number, kind in kinds.items()]
    assert "secret" not in output


async def test_requests_are_not_logged_unless_asked_for(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert await client.ask(vtp.Incr(b"n")) == vtp.Integer(1)
        assert "opcode=" not in server.output.getvalue()


async def test_without_a_threshold_no_command_is_slow(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, Settings(slow_command_threshold_ms=0)) as server:
        client = await server.login()
        requests: list[vtp.Command] = [vtp.Set(b"k", b"v"), vtp.Get(b"k"), vtp.MGet((b"k",))]
        for command in requests:
            await client.ask(command)
        await client.ask_all(requests * 2)
        assert server.server.services.metrics.slow_commands == 0


async def test_as_many_failures_as_the_limit_says_lock_a_user_out(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, Settings(auth_failure_limit=2)) as server:
        assert await try_login(server, "wrong") == "SRV-008"
        # A login that succeeds forgets what was before.
        assert await try_login(server, "vaylix") is None
        assert await try_login(server, "wrong") == "SRV-008"
        assert await try_login(server, "wrong") == "SRV-008"
        assert await try_login(server, "vaylix") == "SRV-031"


async def test_a_lock_lasts_as_long_as_it_is_told_to(tmp_path: Path) -> None:
    settings = Settings(auth_failure_limit=1, auth_lockout_seconds=1)
    async with serve_in_memory(tmp_path, settings) as server, asyncio.timeout(20):
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await try_login(server, "wrong") == "SRV-008"
        assert await try_login(server, "vaylix") == "SRV-031"
        while (refusal := await try_login(server, "vaylix")) is not None:
            assert refusal == "SRV-031"
            await asyncio.sleep(0.05)
        assert loop.time() - started >= 1


async def test_a_failure_counts_as_long_as_the_window_says(tmp_path: Path) -> None:
    settings = Settings(auth_failure_limit=2, auth_failure_window_seconds=1)
    async with serve_in_memory(tmp_path, settings) as server:
        assert await try_login(server, "wrong") == "SRV-008"
        # Nothing shows that the window has passed but that the next failure locks nobody.
        await asyncio.sleep(1.1)
        assert await try_login(server, "wrong") == "SRV-008"
        assert await try_login(server, "vaylix") is None
