"""A system call of a snapshot or a backup fails: who asked is told, and nobody else is harmed.

`strace` makes the call fail, as a full or broken disk would, and writes down which file it was. It
counts the calls of each thread by itself, and of those only the ones that it is told to trace.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import ErrorReply, Ok, Value
from vaylix_server.testing import ServerProcess, SocketClient

DEADLINE_SECONDS = 60
KEYS = 20
DUMP = "nightly/all.json"
REMEDY = "make room or repair the disk, then try again"


def strace_works() -> bool:
    strace = shutil.which("strace")
    if strace is None:
        return False
    tried = subprocess.run(
        [strace, "-f", "-o", "/dev/null", "true"], capture_output=True, check=False
    )
    return tried.returncode == 0


pytestmark = pytest.mark.skipif(
    not strace_works(), reason="strace is not installed or not allowed to trace"
)


def paths_of(place: str, data: Path) -> list[Path]:
    """Return the files that a place may mean: names of some of them hold an index."""
    # strace takes whole paths only.
    indexes = range(2000)
    places = {
        "snapshot": [data / "snapshots" / f"{index}.snapshot.tmp" for index in indexes],
        "old snapshot": [data / "snapshots" / f"{index}.snapshot" for index in indexes],
        "snapshots": [data / "snapshots"],
        "manifest": [data / "manifest.bin.tmp"],
        "data": [data],
        "segment": [data / "wal" / f"active-{index}.wal" for index in indexes],
        "next segment": [data / "wal" / "next.tmp"],
        "backups": [data / "backups" / "nightly"],
        "anything": [],
    }
    return places[place]


def faulty_server(
    directory: Path, fault: str, place: str, *flags: str, error: str = "EIO"
) -> ServerProcess:
    """Start a server; `fault` is a call and which one of them fails: `fsync:2`, or `fsync:2+`."""
    call, when = fault.split(":")
    data = directory / "data"
    wrapper = (
        "strace",
        # The tracer is a grandchild, so that signals of the test go to the server.
        "-D",
        "-f",
        "-qq",
        "--decode-fds=path",
        f"--output={directory / 'trace'}",
        f"--trace={call}",
        f"--inject={call}:error={error}:when={when}",
        *(f"--trace-path={path}" for path in paths_of(place, data)),
    )
    return ServerProcess(data, *flags, wrapper=wrapper)


def injected(directory: Path) -> list[str]:
    """Return the calls that were made to fail."""
    trace = (directory / "trace").read_text(encoding="utf-8", errors="replace")
    return [line for line in trace.splitlines() if line.endswith("(INJECTED)")]


def stop_quietly(server: ServerProcess) -> int:
    """Stop a server that has nothing to say on standard error; return its exit code."""
    server.signal(signal.SIGTERM)
    code, errors = server.wait()
    assert errors == ""
    return code


def fill(client: SocketClient) -> None:
    writes = [vtp.Set(b"k%d" % number, b"v%d" % number * 200) for number in range(KEYS)]
    assert client.ask_all(writes) == [Ok()] * KEYS


def refused(client: SocketClient, command: vtp.Command) -> ErrorReply:
    """Repeat a command, with a write before each, until the fault comes that is on its way."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        client.ask(vtp.Incr(b"asked"))
        reply = client.ask(command)
        if isinstance(reply, ErrorReply):
            return reply
        assert reply == Ok()
    raise AssertionError("the fault was never reached")


def save_again(client: SocketClient) -> None:
    """Take a snapshot; another thread of the server may still meet the fault meant for it."""
    assert Ok() in (client.ask(vtp.Save()), client.ask(vtp.Save()))


def check_restart(data: Path, counts: set[int]) -> None:
    """All that was acknowledged is there after a restart, and nothing unfinished is."""
    with ServerProcess(data) as server, server.admin() as client:
        value = client.ask(vtp.Get(b"beside"))
        assert isinstance(value, Value)
        assert int(value.data) in counts
        for number in range(KEYS):
            assert client.ask(vtp.Get(b"k%d" % number)) == Value(b"v%d" % number * 200)
        assert not list(data.rglob("*.tmp"))
        assert client.ask(vtp.Save()) == Ok()
        assert stop_quietly(server) == 0


class Beside(threading.Thread):
    """Counts while snapshots are taken, and knows what was acknowledged."""

    def __init__(self, client: SocketClient) -> None:
        super().__init__()
        self._client = client
        self._is_ending = False
        self._news = threading.Condition()
        self.acknowledged = 0
        self.replies: list[vtp.Reply] = []

    def run(self) -> None:
        """Count until told to end, or until twice in a row that is refused."""
        # When the server goes away too early, the test has failed already and says why.
        with suppress(ConnectionError), self._client:
            while not self._is_ending and len(self.replies) < 2:
                reply = self._client.ask(vtp.Incr(b"beside"))
                with self._news:
                    if reply == vtp.Integer(self.acknowledged + 1) and not self.replies:
                        self.acknowledged += 1
                    else:
                        self.replies.append(reply)
                    self._news.notify_all()

    def wait_for_more(self) -> None:
        """Return when another write has been acknowledged, or answered otherwise."""
        seen = self.acknowledged
        with self._news:
            assert self._news.wait_for(
                lambda: self.replies or self.acknowledged > seen, DEADLINE_SECONDS
            )

    def finish(self) -> int:
        """End, and return how many were acknowledged; none may have been refused."""
        self._is_ending = True
        self.join()
        assert self.replies == []
        return self.acknowledged


SNAPSHOT_FAULTS = [
    ("openat:1", "snapshot", "ENOSPC"),
    ("pwrite64:1", "snapshot", "EIO"),
    ("pwrite64:5", "snapshot", "ENOSPC"),
    ("fdatasync:1", "snapshot", "EIO"),
    ("rename:1", "snapshot", "ENOSPC"),
    ("fsync:1", "snapshots", "EIO"),
    ("openat:1", "manifest", "ENOSPC"),
    ("pwrite64:1", "manifest", "ENOSPC"),
    ("fdatasync:1", "manifest", "EIO"),
    ("rename:1", "manifest", "EIO"),
    # A start comes less far, and the first snapshots take the rest: it is behind a rename.
    ("fsync:9", "data", "EIO"),
]


def check_refusal(reply: ErrorReply, error: str, data: Path) -> None:
    assert reply.code == "ENG-002"
    assert reply.message.startswith(f"engine failure: {data}/")
    assert os.strerror(getattr(errno, error)) in reply.message
    assert REMEDY in reply.message


@pytest.mark.parametrize(("fault", "place", "error"), SNAPSHOT_FAULTS)
def test_a_snapshot_that_fails_is_refused_and_writes_and_the_next_one_go_on(
    tmp_path: Path, fault: str, place: str, error: str
) -> None:
    data = tmp_path / "data"
    with faulty_server(tmp_path, fault, place, error=error) as server, server.admin() as client:
        fill(client)
        beside = Beside(server.admin())
        beside.start()
        beside.wait_for_more()
        check_refusal(refused(client, vtp.Save()), error, data)
        (line,) = injected(tmp_path)
        assert any(str(path) in line for path in paths_of(place, data))
        beside.wait_for_more()
        assert client.ask(vtp.Get(b"k7")) == Value(b"v7" * 200)
        save_again(client)
        count = beside.finish()
        assert client.ask(vtp.Save()) == Ok()
        # What the failed one has left is gone, too.
        names = [path.name for path in (data / "snapshots").iterdir()]
        assert len(names) <= 2
        assert all(name.endswith(".snapshot") for name in names)
        assert stop_quietly(server) == 0
    check_restart(data, {count})


@pytest.mark.parametrize(("fault", "place", "error"), SNAPSHOT_FAULTS)
def test_a_snapshot_that_failed_can_be_asked_for_again_when_nothing_was_written_since(
    tmp_path: Path, fault: str, place: str, error: str
) -> None:
    data = tmp_path / "data"
    with faulty_server(tmp_path, fault, place, error=error) as server, server.admin() as client:
        fill(client)
        assert client.ask(vtp.Incr(b"beside")) == vtp.Integer(1)
        check_refusal(refused(client, vtp.Save()), error, data)
        save_again(client)
        assert stop_quietly(server) == 0
    check_restart(data, {1})


def test_an_old_snapshot_that_cannot_be_removed_goes_with_the_next_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with faulty_server(tmp_path, "unlink:1", "old snapshot") as server, server.admin() as client:
        fill(client)
        assert client.ask(vtp.Incr(b"beside")) == vtp.Integer(1)
        while not injected(tmp_path):
            assert client.ask_all([vtp.Incr(b"n"), vtp.Save()])[1] == Ok()
        assert len(list((data / "snapshots").iterdir())) == 3
        assert client.ask_all([vtp.Incr(b"n"), vtp.Save()])[1] == Ok()
        assert len(list((data / "snapshots").iterdir())) == 2
        assert stop_quietly(server) == 0
    check_restart(data, {1})


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        ("fdatasync:9+", "segment"),
        ("pwrite64:9+", "segment"),
        # A snapshot ends the segment of the log before it counts; the first one is of the start.
        ("openat:2+", "next segment"),
        ("fdatasync:2+", "next segment"),
        ("rename:2+", "next segment"),
    ],
)
def test_a_log_that_fails_beside_a_snapshot_acknowledges_nothing_more(
    tmp_path: Path, fault: str, place: str
) -> None:
    data = tmp_path / "data"
    with faulty_server(tmp_path, fault, place) as server, server.admin() as client:
        beside = Beside(server.admin())
        beside.start()
        beside.wait_for_more()
        refused(client, vtp.Save())
        beside.join()
        first, second = beside.replies
        assert isinstance(first, ErrorReply)
        assert first.code in {"ENG-002", "SRV-005"}
        assert isinstance(second, ErrorReply)
        assert second.code == "SRV-005"
        reply = client.ask(vtp.Save())
        assert isinstance(reply, ErrorReply)
        assert "the log has failed" in reply.message
        assert client.ask(vtp.Get(b"beside")) == Value(b"%d" % beside.acknowledged)
        assert stop_quietly(server) == 1
    assert any(str(path) in injected(tmp_path)[0] for path in paths_of(place, data))
    with ServerProcess(data) as server, server.admin() as client:
        value = client.ask(vtp.Get(b"beside"))
        assert isinstance(value, Value)
        # The write that failed is in doubt; what was acknowledged is not.
        assert int(value.data) in {beside.acknowledged, beside.acknowledged + 1}
        assert not list(data.rglob("*.tmp"))
        assert client.ask(vtp.Save()) == Ok()


@pytest.mark.parametrize(
    ("fault", "place", "error"),
    [
        ("fsync:1", "backups", "EIO"),
        # A start syncs and renames less often than this.
        ("fdatasync:6", "anything", "EIO"),
        ("fdatasync:7", "anything", "ENOSPC"),
        ("rename:6", "anything", "ENOSPC"),
        ("rename:7", "anything", "EIO"),
        ("pwrite64:30", "anything", "ENOSPC"),
    ],
)
def test_a_backup_that_fails_leaves_a_whole_one_and_the_server_goes_on(
    tmp_path: Path, fault: str, place: str, error: str
) -> None:
    data = tmp_path / "data"
    backups = data / "backups" / "nightly"
    with ServerProcess(data) as server, server.admin() as client:
        fill(client)
        assert client.ask(vtp.Incr(b"beside")) == vtp.Integer(1)
        assert client.ask(vtp.BackupTo(DUMP)) == Ok()
    dump = backups / "all.json"
    # Under this policy the log does not sync while it is written to.
    server = faulty_server(tmp_path, fault, place, "--wal-sync=flush", error=error)
    with server, server.admin() as client:
        before, reply = dump.read_bytes(), client.ask(vtp.BackupTo(DUMP))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while reply == Ok() and time.monotonic() < deadline:
            before, reply = dump.read_bytes(), client.ask(vtp.BackupTo(DUMP))
        assert isinstance(reply, ErrorReply), "the fault was never reached"
        assert reply.code == "SRV-004"
        assert os.strerror(getattr(errno, error)) in reply.message
        (line,) = injected(tmp_path)
        assert str(backups) in line
        # Nothing is replaced before all of the new dump has been synced; its sidecar comes last.
        is_replaced = f'"{dump}.manifest.json")' in line
        assert (dump.read_bytes() == before) != is_replaced
        assert not list(backups.glob("*.tmp"))
        assert client.ask(vtp.RestoreCheckFrom(DUMP)) == vtp.CountReply(KEYS + 1)
        assert client.ask(vtp.Incr(b"beside")) == vtp.Integer(2)
        assert client.ask(vtp.Get(b"k7")) == Value(b"v7" * 200)
        # Another thread that writes files may still meet the fault that is meant for it.
        assert any(client.ask(vtp.BackupTo(DUMP)) == Ok() for _ in range(40))
        assert isinstance(client.ask(vtp.BackupVerifyFrom(DUMP)), vtp.Entries)
        assert stop_quietly(server) == 0
    check_restart(data, {2})
