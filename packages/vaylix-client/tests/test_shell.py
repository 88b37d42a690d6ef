"""Flags, exit codes and what can go wrong on the way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from vaylix_client import ConfigurationError
from vaylix_client.blocking._link import SocketLink
from vaylix_client.shell import main
from vaylix_client.shell._flags import Flags, ShellSettings, shell_settings
from vaylix_client.shell._input import LINE_BYTES_MAX
from vaylix_client.testing import Fault, ToyServer, toy_server_thread
from vaylix_protocol import Auth, Get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaylix_client._session import Outcome
    from vaylix_client._settings import Settings


@pytest.fixture
def server() -> Iterator[ToyServer]:
    with toy_server_thread() as toy:
        yield toy


def _run(server: ToyServer, stdin: bytes, *flags: str) -> Result:
    arguments = ["--port", str(server.port), *flags]
    return CliRunner().invoke(main, arguments, input=stdin, catch_exceptions=False)


def _flags(**given: str | bool | int) -> Flags:
    return Flags(**{"host": "h", "port": 1, **given})  # type: ignore[arg-type]


_FLAGS: dict[str, str | int] = {
    "host": "flag",
    "port": 2,
    "output": "table",
    "user": "eve",
    "password": "pf",
    "tls_ca_cert": "flag-ca",
    "tls_client_cert": "flag-crt",
    "tls_client_key": "flag-key",
}


def _said(settings: ShellSettings) -> dict[str, object]:
    """Return what became of everything that flags and URL can both say, by the names of flags."""
    connection = settings.connection
    tls = connection.tls
    assert tls is not None
    return {
        "host": connection.host,
        "port": connection.port,
        "output": settings.output.value,
        "user": connection.user,
        "password": connection.password,
        "tls_ca_cert": tls.ca_cert,
        "tls_client_cert": tls.client_cert,
        "tls_client_key": tls.client_key,
    }


def test_where_flag_and_url_differ_one_of_them_wins() -> None:
    url = "vaylix://al:pu@hu:7?output=json&ssl=true&ca_cert=ca&client_cert=crt&client_key=key"
    of_url = dict(zip(_FLAGS, ("hu", 7, "json", "al", "pu", "ca", "crt", "key"), strict=True))
    assert _said(shell_settings(_flags(url=url))) == of_url
    assert _said(shell_settings(_flags(ssl=True, **_FLAGS))) == _FLAGS
    for name, value in _FLAGS.items():
        winner = of_url[name] if name in {"host", "port", "output"} else value
        assert _said(shell_settings(_flags(url=url, **{name: value}))) == of_url | {name: winner}
    settings = shell_settings(_flags(url="vaylix://db", ssl=True, **_FLAGS))
    silent: dict[str, object] = {"host": "db", "port": 9173}
    assert _said(settings) == _FLAGS | silent, (
        "a URL that says nothing leaves all but host and port"
    )


@pytest.mark.parametrize(
    ("flag", "on", "off", "is_on"),
    [
        ("ssl", "ssl=true", "ssl=false", lambda settings: settings.tls is not None),
        ("disable_auth", "auth=false", "auth=true", lambda settings: not settings.authenticate),
        (
            "disable_compression",
            "compression=none",
            "compression=zstd",
            lambda settings: not settings.compression,
        ),
    ],
)
def test_switches_add_up(flag: str, on: str, off: str, is_on: Callable[[Settings], bool]) -> None:
    for query, by_url in ((on, True), (off, False), ("", False)):
        for by_flag in (True, False):
            flags = _flags(url=f"vaylix://db?{query}", **{flag: by_flag})
            assert is_on(shell_settings(flags).connection) is (by_flag or by_url)


def test_files_without_tls_are_refused() -> None:
    for given in ({"tls_ca_cert": "x"}, {"tls_client_cert": "x"}, {"tls_client_key": "x"}):
        with pytest.raises(ConfigurationError) as caught:
            shell_settings(_flags(**given))
        assert caught.value.code == "CLI-008"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-such-flag"],
        ["--port", "70000"],
        ["--port", "x"],
        ["--output", "JSON"],
        ["--ssl", "maybe"],
        ["positional"],
    ],
    ids=" ".join,
)
def test_bad_flags_are_a_usage_error_with_exit_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: ")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_goes_to_stdout_with_exit_0(flag: str) -> None:
    result = CliRunner().invoke(main, [flag])
    assert result.exit_code == 0
    for name in ("--url", "--host", "--port", "--ssl", "--tls-ca-cert", "--output"):
        assert name in result.stdout


def test_a_bare_ssl_flag_turns_tls_on(server: ToyServer) -> None:
    result = _run(server, b"", "--ssl")
    assert f"connecting to 127.0.0.1:{server.port} ssl=true\n" in result.stdout
    assert result.exit_code == 1
    assert result.stderr.startswith("[TRN-013] Transport I/O Failure: transport failure: i/o error")


def test_a_bad_url_is_one_line_on_stderr_with_exit_1() -> None:
    result = CliRunner().invoke(main, ["--url", "http://db"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "[CLI-008] Invalid Client Configuration: "
        "invalid client configuration: unsupported URL scheme\n"
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            Fault.DROP,
            "[TRN-007] Unexpected End Of Frame: transport failure: unexpected end of input\n",
        ),
        (
            Fault.HALF_ANSWER,
            "[TRN-007] Unexpected End Of Frame: transport failure: unexpected end of input\n",
        ),
        (Fault.WRONG_ID, "[CLI-006] Response Id Mismatch: mismatched response id: expected "),
    ],
)
def test_a_lost_connection_ends_the_session_with_exit_1(
    server: ToyServer, fault: Fault, message: str
) -> None:
    server.faults[Get] = fault
    result = _run(server, b"ping\nget a\nping\n")
    assert result.exit_code == 1
    assert result.stdout.endswith("OK\nPONG\n")
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_lines_that_cannot_be_read_are_reported_and_skipped(server: ToyServer) -> None:
    long_line = b"x" * (LINE_BYTES_MAX + 1)
    result = _run(server, b"\xff\xfe\n" + long_line + b"\nping\n")
    assert result.exit_code == 0
    assert result.stdout.endswith(
        "[CLI-004] Readline Failure: line editor failure: stream did not contain valid UTF-8\n"
        f"[CLI-004] Readline Failure: line editor failure: "
        f"line is longer than {LINE_BYTES_MAX} bytes\n"
        "PONG\n[INFO] [client.session] reached end of input\nExiting...\n"
    )


def test_the_longest_line_is_read(server: ToyServer) -> None:
    line = b"ping" + b" " * (LINE_BYTES_MAX - 5) + b"\n"
    assert len(line) == LINE_BYTES_MAX
    assert _run(server, line).stdout.endswith("PONG\n" + _END)


_END = "[INFO] [client.session] reached end of input\nExiting...\n"


def test_a_command_that_cannot_be_sent_is_reported_and_the_session_goes_on(
    server: ToyServer,
) -> None:
    result = _run(server, b"get " + b"x" * 70_000 + b"\nping\n")
    assert result.exit_code == 0
    assert "[TRN-008]" in result.stdout
    assert result.stdout.endswith("PONG\n" + _END)


def test_credentials_come_from_the_url_decoded() -> None:
    with toy_server_thread(ToyServer(user="al@ice", password="p w")) as server:
        url = f"vaylix://al%40ice:p%20w@127.0.0.1:{server.port}"
        result = CliRunner().invoke(main, ["--url", url], input="get a\n")
        assert result.stdout.endswith("OK\nNOT_FOUND\n" + _END)
        assert server.received[0] == Auth("al@ice", "p w")


def test_the_installed_command_runs(server: ToyServer) -> None:
    command = os.path.join(os.path.dirname(sys.executable), "vaylix-client")  # noqa: PTH118, PTH120
    result = subprocess.run(
        [command, "--port", str(server.port)],
        input="set k v\nget k\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("OK\nOK\nv\n" + _END)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_waiting_ends_the_session(server: ToyServer) -> None:
    server.faults[Get] = Fault.HOLD
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from vaylix_client.shell import main; main()",
            "--port",
            str(server.port),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write("get a\n")
        process.stdin.flush()
        server.wait_for(server.arrival(2))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert stderr == (
        "[TRN-013] Transport I/O Failure: transport failure: i/o error: interrupted\n"
    )


def test_an_interrupt_behind_the_answer_ends_the_session_as_one_before_it(
    server: ToyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange_all = SocketLink.exchange_all

    def interrupted(*arguments: object) -> list[Outcome]:
        exchange_all(*arguments)  # type: ignore[arg-type] # as they came
        raise KeyboardInterrupt

    monkeypatch.setattr(SocketLink, "exchange_all", interrupted)
    result = _run(server, b"ping\n")
    assert result.exit_code == 1
    assert result.stderr == (
        "[TRN-013] Transport I/O Failure: transport failure: i/o error: interrupted\n"
    )


def test_a_server_that_never_answers_the_hello_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vaylix_client._settings.Settings.connect_timeout_seconds", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = CliRunner().invoke(main, ["--port", str(port)], input="")
    assert result.exit_code == 1
    assert "not connected within" in result.stderr
