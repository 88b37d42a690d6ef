"""The command as a process: odd standard streams, and interrupts at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from vaylix_client.testing import ToyServer, toy_server_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS_MAX = 30
CLIENT = [sys.executable, "-c", "from vaylix_client._entry import main; main()"]
CLI_003 = "[CLI-003] Filesystem I/O Failure: filesystem I/O failed: "
FULL = (
    f"{CLI_003}standard output cannot be written: No space left on device (os error 28); "
    "make room, or send it somewhere else\n"
)


@pytest.fixture
def server() -> Iterator[ToyServer]:
    with toy_server_thread() as toy:
        yield toy


def shell(command: str, *words: str, **environment: str) -> tuple[int, str, str]:
    """Run a line of bash, where "$@" stands for `vaylix-client` with the words."""
    finished = subprocess.run(
        ["bash", "-c", command, "bash", *CLIENT, *words],
        env=os.environ | environment,
        capture_output=True,
        check=False,
        timeout=SECONDS_MAX,
    )
    return finished.returncode, finished.stdout.decode(), finished.stderr.decode()


CLOSED_INPUT = f"{CLI_003}standard input is closed; give it commands, or /dev/null\n"
CLOSED_OUTPUT = f"{CLI_003}standard output is closed; send it to a file or a terminal\n"
UNREADABLE = (
    f"{CLI_003}standard input cannot be read: Bad file descriptor (os error 9); "
    "give it a file or a pipe\n"
)


@pytest.mark.parametrize(
    ("streams", "errors"),
    [
        ("<&-", CLOSED_INPUT),
        ("0>/dev/null", UNREADABLE),
        ("</dev/null >&-", CLOSED_OUTPUT),
        ("</dev/null >/dev/full", FULL),
        ("<&- >&- 2>&-", ""),
        ("</dev/null >/dev/full 2>/dev/full", ""),
    ],
)
def test_a_stream_that_cannot_be_used_is_one_line_and_exit_1(
    server: ToyServer, streams: str, errors: str
) -> None:
    code, _, said = shell(f'"$@" {streams}', "--port", str(server.port))
    assert (code, said) == (1, errors)


def test_help_into_a_full_device_is_one_line_and_exit_1() -> None:
    assert shell('"$@" > /dev/full', "--help") == (1, "", FULL)


def test_a_closed_standard_error_changes_nothing(server: ToyServer) -> None:
    code, output, _ = shell('echo ping | "$@" 2>&-', "--port", str(server.port))
    assert code == 0
    assert "\nPONG\n" in output


def test_output_that_nobody_reads_ends_the_session_quietly(server: ToyServer) -> None:
    command = 'yes ping | "$@" | head -n 1; exit ${PIPESTATUS[1]}'
    code, output, errors = shell(command, "--port", str(server.port))
    assert (code, output.count("\n"), errors) == (128 + signal.SIGPIPE, 1, "")


def test_what_the_output_cannot_hold_is_escaped(server: ToyServer) -> None:
    command = 'printf "set k \\u20ac\\nget k\\n" | "$@"'
    words = ("--port", str(server.port))
    code, output, errors = shell(command, *words, PYTHONIOENCODING="ascii", LC_ALL="C.UTF-8")
    assert (code, errors) == (0, "")
    assert "\n\\u20ac\n" in output


@pytest.mark.parametrize("module", ["click", "vaylix_client.errors", "vaylix_client.shell._main"])
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_modules_are_loaded_is_one_line_and_130(
    module: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "def interrupt(event, arguments):\n"
        f"    if event == 'import' and arguments[0] == {module!r}:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(interrupt)\n"
    )
    ended = shell('"$@"', PYTHONPATH=str(tmp_path))
    assert ended == (130, "", "vaylix-client: interrupted\n")


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_a_line_is_awaited_is_one_line_and_130(server: ToyServer) -> None:
    with subprocess.Popen(
        [*CLIENT, "--port", str(server.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        # The reply to its login: now it waits for a line that never comes.
        while process.stdout.readline() != b"OK\n":
            pass
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS_MAX)
    assert (process.returncode, errors) == (130, b"vaylix-client: interrupted\n")
