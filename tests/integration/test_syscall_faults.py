"""The n-th write or fsync of the real server fails: nothing is acknowledged from there on.

`strace` makes the system call fail, as a full or broken disk would. Whatever was acknowledged
before must be there after a restart, and the restart itself must be clean.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import ErrorReply, Ok, Value
from vaylix_server.testing import ServerProcess


def strace_works() -> bool:
    strace = shutil.which("strace")
    if strace is None:
        return False
    tried = subprocess.run(
        [strace, "-f", "-o", "/dev/null", "true"], capture_output=True, check=False
    )
    return tried.returncode == 0


needs_strace = pytest.mark.skipif(
    not strace_works(), reason="strace is not installed or not allowed to trace"
)


@needs_strace
@pytest.mark.parametrize(
    ("call", "error"),
    [("fdatasync", "EIO"), ("fdatasync", "ENOSPC"), ("pwrite64", "ENOSPC"), ("pwrite64", "EIO")],
)
@pytest.mark.parametrize("position", [1, 2, 3, 9, 20])
def test_nothing_is_acknowledged_after_the_first_failure(
    tmp_path: Path, call: str, error: str, position: int
) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server, server.admin() as client:
        assert client.ask(vtp.Set(b"k", b"0")) == Ok()
    wrapper = (
        "strace",
        # The tracer is a grandchild, so that signals of the test go to the server.
        "-D",
        "-f",
        "-qq",
        f"--output={tmp_path / 'trace'}",
        f"--trace={call}",
        f"--inject={call}:error={error}:when={position}+",
    )
    server = ServerProcess(data, wrapper=wrapper)
    try:
        server.wait_until_listening()
    except RuntimeError as refusal:
        # The failure came during recovery: one line, and the next start is clean.
        last = 0
        message = str(refusal)
    else:
        last = write_until_refused(server)
        assert server.stop() == 1
        message = ""
    assert "Traceback" not in message
    with ServerProcess(data) as restarted, restarted.admin() as client:
        value = client.ask(vtp.Get(b"k"))
        assert isinstance(value, Value)
        # The write that failed is in doubt; what was acknowledged is not.
        assert int(value.data) in (last, last + 1)


def write_until_refused(server: ServerProcess) -> int:
    """Write growing numbers; return the last that was acknowledged, which no other may follow."""
    acknowledged = refused = 0
    with server.admin() as client:
        for number in range(1, 31):
            reply = client.ask(vtp.Set(b"k", b"%d" % number))
            if isinstance(reply, ErrorReply):
                assert reply.code == ("SRV-005" if refused else "ENG-002")
                refused += 1
            else:
                assert reply == Ok()
                assert not refused, "acknowledged after a failure"
                acknowledged = number
        assert refused, "the failure was never reached"
        health = client.ask(vtp.Health())
        assert isinstance(health, vtp.Entries)
        assert dict(health.pairs)[b"ready"] == b"false"
        assert client.ask(vtp.Get(b"k")) == Value(b"%d" % acknowledged)
    return acknowledged


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("position", [1, 2, 4, 7, 12])
def test_a_rename_that_fails_loses_nothing(tmp_path: Path, error: str, position: int) -> None:
    """Segments, snapshots and manifests get their names by renames; any of them may fail."""
    data = tmp_path / "data"
    flags = ("--wal-segment-size-bytes=4096",)
    with ServerProcess(data) as server, server.admin() as client:
        assert client.ask(vtp.Set(b"k", b"0")) == Ok()
    wrapper = (
        "strace",
        "-D",
        "-f",
        "-qq",
        f"--output={tmp_path / 'trace'}",
        "--trace=rename",
        f"--inject=rename:error={error}:when={position}",
    )
    server = ServerProcess(data, *flags, wrapper=wrapper)
    acknowledged = in_doubt = 0
    message = ""
    try:
        server.wait_until_listening()
    except RuntimeError as refusal:
        message = str(refusal)
    else:
        with server.admin() as client:
            for number in range(1, 31):
                if client.ask(vtp.Set(b"k", b"%d" % number + b" " * 500)) == Ok():
                    assert not in_doubt, "acknowledged after a failure"
                    acknowledged = number
                else:
                    in_doubt = in_doubt or number
                if number % 8 == 0:
                    client.ask(vtp.Save())
        server.stop()
    assert "Traceback" not in message
    with ServerProcess(data, *flags) as restarted, restarted.admin() as client:
        value = client.ask(vtp.Get(b"k"))
        assert isinstance(value, Value)
        assert int(value.data) in (acknowledged, in_doubt or acknowledged)
        assert client.ask(vtp.Set(b"k", b"again")) == Ok()
        assert client.ask(vtp.Save()) == Ok()
