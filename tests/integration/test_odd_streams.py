"""Standard streams that are closed, full, not read, or not made for our texts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import vaylix_protocol as vtp
from vaylix_server.testing import ServerProcess, SocketClient

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS_MAX = 60
VAYLIX = [sys.executable, "-m", "vaylix_server"]
FULL = (
    "[CLI-003] Filesystem I/O Failure: filesystem I/O failed: standard output cannot be written: "
    "No space left on device; make room, or send it somewhere else\n"
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of which a dump is longer than a pipe holds."""
    path = tmp_path_factory.mktemp("written") / "dat€"
    with ServerProcess(path) as server, server.admin() as client:
        # One at a time, so that each is an entry of its own.
        for number in range(1000):
            assert client.ask(vtp.Set(b"key %d" % number, b"v")) == vtp.Ok()
    return path


def shell(command: str, *words: object, **environment: str) -> tuple[int, str, str]:
    """Run a line of bash, where "$@" stands for `vaylix` with the words."""
    finished = subprocess.run(
        ["bash", "-c", command, "bash", *VAYLIX, *map(str, words)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
    )
    return finished.returncode, finished.stdout, finished.stderr


TOOLS = [
    ["storage", "verify"],
    ["storage", "verify", "--output", "json"],
    ["storage", "dump"],
    ["storage", "dump", "--json"],
    ["keys", "status"],
    ["pitr", "inspect"],
]
tools = pytest.mark.parametrize("tool", TOOLS, ids=" ".join)


@tools
def test_a_tool_says_that_standard_output_is_full(tool: Sequence[str], written: Path) -> None:
    code, _, errors = shell('"$@" > /dev/full', *tool, "--data-dir", written)
    assert (code, errors.endswith(FULL)) == (1, True), errors
    assert "Traceback" not in errors
    assert "ENG-" not in errors


def test_help_says_that_standard_output_is_full() -> None:
    assert shell('"$@" > /dev/full', "--help") == (1, "", FULL)


@pytest.mark.parametrize("tool", [TOOLS[2], TOOLS[3]], ids=" ".join)
def test_a_tool_that_nobody_reads_ends_quietly(tool: Sequence[str], written: Path) -> None:
    command = '"$@" | head -n 1; exit ${PIPESTATUS[0]}'
    code, output, errors = shell(command, *tool, "--data-dir", written)
    assert (code, output.count("\n"), errors) == (128 + signal.SIGPIPE, 1, "")


@tools
def test_a_tool_needs_no_standard_streams(tool: Sequence[str], written: Path) -> None:
    assert shell('"$@" <&- >&- 2>&-', *tool, "--data-dir", written) == (0, "", "")


def test_a_tool_escapes_what_its_output_cannot_hold(written: Path) -> None:
    words = ["storage", "dump", "--data-dir", written]
    code, output, errors = shell('"$@"', *words, PYTHONIOENCODING="latin-1")
    assert (code, errors) == (0, "")
    assert "/dat\\u20ac/wal/" in output


def dial(port: int, server: subprocess.Popen[bytes]) -> SocketClient:
    """Connect as soon as the server listens, which it has no stream to say on."""
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        assert server.poll() is None, server.returncode
        try:
            return SocketClient(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise AssertionError("it never listened")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_a_server_needs_no_standard_streams(closed: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--data-dir", str(tmp_path / "data"), "--port", str(port)]
    with subprocess.Popen(["bash", "-c", f'exec "$@" {closed}', "bash", *VAYLIX, *words]) as server:
        try:
            with dial(port, server) as client:
                client.login()
                assert client.ask(vtp.Set(b"k", b"v")) == vtp.Ok()
            server.send_signal(signal.SIGTERM)
            assert server.wait(SECONDS_MAX) == 0
        finally:
            server.kill()


@pytest.mark.parametrize("unread", ["> /dev/full", "> >(head -n 1 > /dev/null)"])
def test_a_server_whose_log_nobody_can_read_ends_well(unread: str, tmp_path: Path) -> None:
    # Its last line cannot be written, and is not tried again by the interpreter at its end.
    end = (
        '"$@" --port 0 ' + unread + ' & while [ ! -e "$0/wal.begun" ]; do sleep 0.02; done; kill $!'
    )
    command = f"{end}; wait $!"
    finished = subprocess.run(
        ["bash", "-c", command, tmp_path / "data", *VAYLIX, "--data-dir", tmp_path / "data"],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
