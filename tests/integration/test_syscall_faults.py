"""The n-th write or fsync of the real server fails: nothing is acknowledged from there on.

`strace` makes the system call fail, as a full or broken disk would: that one and all later ones,
or, to see that nothing is tried again, that one alone. It counts the calls of each thread by
itself. Whatever was acknowledged before must be there after a restart, and the restart itself must
be clean.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import ErrorReply, Ok, Value
from vaylix_server.testing import ServerProcess, SocketClient


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
        assert client.ask(vtp.Set(b"k", wide(0))) == Ok()
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
        # The write that failed is in doubt; what was acknowledged is not.
        assert int(value_of(client)) in (last, last + 1)


def wide(number: int) -> bytes:
    return b"%d" % number + b" " * 300


def write_until_refused(server: ServerProcess) -> int:
    """Write growing numbers; return the last that was acknowledged, which no other may follow."""
    acknowledged = refused = 0
    with server.admin() as client:
        for number in range(1, 31):
            reply = client.ask(vtp.Set(b"k", wide(number)))
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
        assert client.ask(vtp.Get(b"k")) == Value(wide(acknowledged))
    return acknowledged


def server_with_one_fault(directory: Path, fault: str, error: str, files: str) -> ServerProcess:
    """Let one call fail that the log makes: `fdatasync:2` is the second of these in a thread."""
    call, position = fault.split(":")
    log = directory / "data" / "wal"
    # strace takes whole paths only.
    paths = [log / files.format(number) for number in range(200 if "{}" in files else 1)]
    wrapper = (
        "strace",
        "-D",
        "-f",
        "-qq",
        "--decode-fds=path",
        f"--output={directory / 'trace'}",
        f"--trace={call}",
        f"--inject={call}:error={error}:when={position}",
        *(f"--trace-path={path}" for path in paths),
    )
    # So small that the writes of these tests fill more than one.
    return ServerProcess(directory / "data", "--wal-segment-size-bytes=4096", wrapper=wrapper)


def value_of(client: SocketClient) -> bytes:
    value = client.ask(vtp.Get(b"k"))
    assert isinstance(value, Value)
    return value.data


def number_of(server: ServerProcess) -> int:
    with server.admin() as client:
        return int(value_of(client))


def check_that_it_stays_refused(server: ServerProcess, acknowledged: int, why: str) -> None:
    """The disk works again, and still no write of any kind is acknowledged; reads go on."""
    writes: list[vtp.Command] = [
        vtp.Set(b"k", b"999"),
        vtp.Incr(b"k"),
        vtp.Del((b"k",)),
        vtp.MSet(((b"k", b"999"),)),
    ]
    with server.admin() as client:
        for write in writes * 3:
            reply = client.ask(write)
            assert isinstance(reply, ErrorReply), "acknowledged after a failure"
            assert reply.code == "SRV-005"
        assert int(value_of(client)) == acknowledged
        health = client.ask(vtp.Health())
        assert isinstance(health, vtp.Entries)
        pairs = dict(health.pairs)
        assert (pairs[b"status"], pairs[b"ready"]) == (b"degraded", b"false")
        assert pairs[b"reason"].startswith(b"log_failed: ")
        assert why.encode() in pairs[b"reason"]


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize(
    ("fault", "files"),
    [
        # Each of these is a write: the file has got its name when the server is ready.
        *((f"fdatasync:{position}", "active-{}.wal") for position in (1, 2, 3, 13)),
        *((f"pwrite64:{position}", "active-{}.wal") for position in (1, 2, 3, 13)),
        # The start makes one file and puts two frames and one sync into it; then the log is full.
        ("fdatasync:2", "next.tmp"),
        ("pwrite64:3", "next.tmp"),
    ],
)
def test_nothing_is_acknowledged_after_one_failure_though_the_disk_works_again(
    tmp_path: Path, fault: str, files: str, error: str
) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server, server.admin() as client:
        assert client.ask(vtp.Set(b"k", wide(0))) == Ok()
    with server_with_one_fault(tmp_path, fault, error, files) as server:
        acknowledged = write_until_refused(server)
        check_that_it_stays_refused(server, acknowledged, os.strerror(getattr(errno, error)))
        assert server.stop() == 1
    trace = (tmp_path / "trace").read_text(encoding="utf-8", errors="replace").splitlines()
    assert [line.endswith("(INJECTED)") for line in trace].count(True) == 1
    with ServerProcess(data) as restarted:
        found = number_of(restarted)
        # The write that failed is in doubt; what was acknowledged is not.
        assert found in (acknowledged, acknowledged + 1)
        with restarted.admin() as client:
            assert client.ask(vtp.Set(b"k", b"1000")) == Ok()
        assert restarted.stop() == 0
    with ServerProcess(data) as restarted:
        assert number_of(restarted) == 1000


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("fault", ["fdatasync:1", "pwrite64:1", "pwrite64:2"])
def test_a_start_is_refused_after_one_failure_of_its_log(
    tmp_path: Path, fault: str, error: str
) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server, server.admin() as client:
        assert client.ask(vtp.Set(b"k", b"7")) == Ok()
    server = server_with_one_fault(tmp_path, fault, error, "next.tmp")
    with pytest.raises(RuntimeError) as refusal:
        server.wait_until_listening()
    assert os.strerror(getattr(errno, error)) in str(refusal.value)
    assert "Traceback" not in str(refusal.value)
    with ServerProcess(data) as restarted:
        assert number_of(restarted) == 7
        assert not list(data.rglob("*.tmp"))
        assert restarted.stop() == 0


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("position", [1, 2, 4, 7, 12])
def test_a_rename_that_fails_loses_nothing(tmp_path: Path, error: str, position: int) -> None:
    """Segments, snapshots and manifests get their names by renames; any of them may fail."""
    data = tmp_path / "data"
    flags = ("--wal-segment-size-bytes=4096",)
    with ServerProcess(data) as server, server.admin() as client:
        assert client.ask(vtp.Set(b"k", wide(0))) == Ok()
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
                if client.ask(vtp.Set(b"k", wide(number))) == Ok():
                    assert not in_doubt, "acknowledged after a failure"
                    acknowledged = number
                else:
                    in_doubt = in_doubt or number
                if number % 8 == 0:
                    client.ask(vtp.Save())
        server.stop()
    assert "Traceback" not in message
    with ServerProcess(data, *flags) as restarted, restarted.admin() as client:
        assert int(value_of(client)) in (acknowledged, in_doubt or acknowledged)
        assert client.ask(vtp.Set(b"k", b"again")) == Ok()
        assert client.ask(vtp.Save()) == Ok()
