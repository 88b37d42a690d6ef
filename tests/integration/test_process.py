"""The `vaylix` process: how it starts, how it refuses to start, and how it stops."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import Ok, Value
from vaylix_server.testing import ServerProcess, SocketClient

# Less than a stop waits for clients that do not take their replies.
REFUSED_WITHIN_SECONDS = 5.0


def tree(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of every file below `directory`."""
    return {
        str(path.relative_to(directory)): (
            stat.S_IMODE(path.stat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(directory.rglob("*"))
    }


def refusal(data_dir: Path, *flags: str, **environment: str) -> str:
    """Start a server that must not start; return its one line on standard error."""
    server = ServerProcess(data_dir, *flags, environment=environment)
    code, errors = server.wait()
    assert code == 1, errors
    assert errors.count("\n") == 1, errors
    assert "Traceback" not in errors
    return errors


def test_it_serves_stops_at_sigterm_with_0_and_keeps_everything(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for expected in (vtp.NotFound(), Value(b"v")):
        with ServerProcess(data) as server:
            with server.admin() as client:
                assert client.ask(vtp.Get(b"k")) == expected
                assert client.ask(vtp.Set(b"k", b"v")) == Ok()
            assert server.stop() == 0
        assert any("everything acknowledged is on disk" in line for line in server.lines)


STOPPING = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: signal.Signals(number).name
)


def assert_it_stopped_well(server: ServerProcess) -> None:
    assert server.wait() == (0, "")
    assert any("everything acknowledged is on disk" in line for line in server.lines)


def assert_nothing_is_replayed(client: SocketClient) -> None:
    """The last snapshot holds all there is, so the stop before has taken it."""
    metrics = client.ask(vtp.Metrics())
    assert isinstance(metrics, vtp.Entries)
    assert dict(metrics.pairs)[b"vaylix.persistence.wal.entry.replayed.count"] == b"0"


@STOPPING
def test_what_is_in_flight_at_a_signal_is_answered_and_kept(tmp_path: Path, number: int) -> None:
    with ServerProcess(tmp_path / "data") as server:
        client = server.admin()
        client.send([vtp.Incr(b"n")] * 3000)
        assert client.receive() == vtp.Integer(1)
        server.signal(number)
        answered = 1
        try:
            while True:
                assert client.receive() == vtp.Integer(answered + 1)
                answered += 1
        except ConnectionError:
            client.close()
        assert_it_stopped_well(server)
    with ServerProcess(tmp_path / "data") as server, server.admin() as client:
        # Every answer was kept, and nothing was done without an answer.
        assert client.ask(vtp.Get(b"n")) == Value(b"%d" % answered)
        assert_nothing_is_replayed(client)


def dial_until_refused(address: tuple[str, int]) -> None:
    """Return when nobody listens any more; whoever is still let in is hung up on at once."""
    deadline = time.monotonic() + REFUSED_WITHIN_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass
        time.sleep(0.01)
    raise AssertionError("it still accepts connections")


@STOPPING
def test_nobody_is_let_in_while_what_is_in_flight_is_answered(tmp_path: Path, number: int) -> None:
    # More than the kernel takes from the server for a client that does not read.
    keys = (b"big",) * 27
    values = vtp.Strings((b"v" * 262_144,) * 27)
    with ServerProcess(tmp_path / "data", "--disable-compression") as server:
        client = server.admin()
        assert client.ask(vtp.Set(b"big", b"v" * 262_144)) == Ok()
        # They arrive together, so that all have been taken when the first is answered.
        client.send([vtp.Ping(), vtp.MGet(keys), vtp.MGet(keys), vtp.Incr(b"n")])
        assert client.receive() == Value(b"PONG")
        server.signal(number)
        dial_until_refused(server.address)
        # It is already doing what it is asked for.
        server.signal(number)
        assert [client.receive() for _ in range(3)] == [values, values, vtp.Integer(1)]
        with pytest.raises(ConnectionError):
            client.receive()
        client.close()
        assert_it_stopped_well(server)
    with ServerProcess(tmp_path / "data") as server, server.admin() as client:
        assert client.ask(vtp.Get(b"n")) == Value(b"1")
        assert_nothing_is_replayed(client)


def test_files_and_directories_are_private(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ServerProcess(data):
        pass
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    for name, (mode, content) in tree(data).items():
        assert mode == (0o700 if (data / name).is_dir() else 0o600), name
        assert b"hello" not in content


def test_what_lets_others_in_is_closed_at_a_start_and_named(tmp_path: Path) -> None:
    data, key = tmp_path / "data", tmp_path / "storage.key"
    with ServerProcess(data, f"--key-file={key}"):
        pass
    loose = [data, data / "wal", data / "keyring.bin", key]
    for path in loose:
        path.chmod(0o755 if path.is_dir() else 0o644)
    with ServerProcess(data, f"--key-file={key}") as server:
        for path in loose:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
            said = f"other users are kept out of {path} now"
            assert any(line.endswith(said) for line in server.lines), path
    with ServerProcess(data, f"--key-file={key}") as server:
        assert not any("other users" in line for line in server.lines)


def test_values_are_not_readable_on_disk(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server, server.admin() as client:
        assert client.ask(vtp.Set(b"secret-key", b"secret-value")) == Ok()
    for content in (content for _, content in tree(data).values()):
        assert b"secret" not in content


def test_a_port_in_use_is_one_line_and_nothing_is_created(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        errors = refusal(tmp_path / "data", f"--port={port}")
    assert errors.startswith("[SRV-001] Listener Bind Failure: failed to bind TCP listener")
    assert "--port" in errors
    assert not (tmp_path / "data").exists()


def test_a_second_server_on_one_directory_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server:
        before = tree(data)
        errors = refusal(data)
        assert "[ENG-011]" in errors
        assert str(data) in errors
        assert tree(data) == before
        with server.admin() as client:
            assert client.ask(vtp.Set(b"k", b"v")) == Ok()


def test_a_lost_or_wrong_key_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server, server.admin() as client:
        assert client.ask(vtp.Set(b"k", b"v")) == Ok()
    key_file = next(path for path in data.iterdir() if path.name.endswith(".key"))
    kept = key_file.read_bytes()
    for damaged in (None, bytes(len(kept))):
        key_file.unlink(missing_ok=True)
        if damaged is not None:
            key_file.write_bytes(damaged)
            key_file.chmod(0o600)
        before = tree(data)
        errors = refusal(data)
        assert errors.startswith("[ENG-"), errors
        assert "key" in errors
        assert tree(data) == before
    key_file.write_bytes(kept)
    with ServerProcess(data) as server, server.admin() as client:
        assert client.ask(vtp.Get(b"k")) == Value(b"v")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        errors = refusal(tmp_path / "data")
    finally:
        tmp_path.chmod(0o700)
    assert "[ENG-002]" in errors


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    errors = refusal(tmp_path / "file" / "data")
    assert errors.startswith("[ENG-002]"), errors
    assert (tmp_path / "file").read_bytes() == b"in the way"


def test_a_corrupt_log_is_refused_with_file_and_offset(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server, server.admin() as client:
        for number in range(50):
            assert client.ask(vtp.Set(b"k%d" % number, b"v" * 100)) == Ok()
    segment = max((data / "wal").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(segment.read_bytes())
    content[2000] ^= 1
    segment.write_bytes(content)
    before = tree(data)
    errors = refusal(data)
    assert segment.name in errors
    assert "at byte" in errors
    assert tree(data) == before


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        (["--nonsense"], {}, "--nonsense"),
        (["--port", "70000"], {}, "--port: expected a whole number from 0 to 65535"),
        (["--port=1", "--port=2"], {}, "--port was given more than once"),
        (["--wal-sync", "never"], {}, "expected one of buffered, flush, sync"),
        ([], {"VAYLIX_DISABLE_AUTH": "1"}, "VAYLIX_DISABLE_AUTH: expected true or false"),
        ([], {"VAYLIX_MAX_KEY_BYTES": ""}, "VAYLIX_MAX_KEY_BYTES"),
        (["--transport", "quic"], {}, "'quic' for --transport: expected one of memory, tcp"),
        (["--transport", "memory"], {}, "memory is for clients in the same process only"),
        (["--requests-per-second", "0"], {}, "--requests-per-second"),
        (["argument"], {}, "argument"),
    ],
)
def test_usage_errors_exit_with_2_and_touch_nothing(
    tmp_path: Path, flags: list[str], environment: dict[str, str], expected: str
) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "vaylix_server", *flags],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert finished.returncode == 2
    assert expected in finished.stderr
    assert "Traceback" not in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_is_printed_and_nothing_is_started(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "vaylix_server", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout.startswith("Usage: vaylix ")
    assert finished.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_the_configured_administrator_follows_the_configuration(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server:
        server.admin().close()
    flags = ("--user=ann", "--password=secret")
    with ServerProcess(data, *flags) as server:
        with server.client() as client:
            client.login("ann", "secret")
        with server.client() as client:
            refused = client.ask(vtp.Auth("vaylix", "vaylix"))
            assert isinstance(refused, vtp.ErrorReply)
            assert refused.code == "SRV-008"
    # The well-known default pair changes nothing once somebody else is in charge.
    with ServerProcess(data) as server, server.client() as client:
        client.login("ann", "secret")


def test_a_client_that_sends_garbage_costs_only_itself(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        good = server.admin()
        for garbage in (b"\0" * 64, b"GET / HTTP/1.0\r\n\r\n", b"VTP2" + b"\xff" * 60):
            with socket.create_connection(server.address) as bad:
                bad.sendall(garbage)
                assert bad.recv(100) == b""
        assert good.ask(vtp.Ping()) == Value(b"PONG")
        good.close()


def test_clients_that_hang_half_way_do_not_keep_it_from_stopping(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        silent = socket.create_connection(server.address)
        greeted = server.admin()
        assert greeted.ask(vtp.Set(b"k", b"v")) == Ok()
        assert server.stop() == 0
        silent.close()
        greeted.close()


def test_without_uvloop_it_serves_as_well(tmp_path: Path) -> None:
    # An empty module of that name stands for an installation without it.
    (tmp_path / "uvloop.py").write_text("raise ImportError\n", encoding="utf-8")
    environment = {"PYTHONPATH": str(tmp_path)}
    with ServerProcess(tmp_path / "data", environment=environment) as server:
        with server.admin() as client:
            commands: list[vtp.Command] = [vtp.Set(b"k", b"v"), vtp.Get(b"k")] * 500
            assert client.ask_all(commands) == [Ok(), Value(b"v")] * 500
        assert server.stop() == 0


def test_many_connections_at_once(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", "--disable-auth") as server:
        clients: list[SocketClient] = [server.client() for _ in range(100)]
        for client in clients:
            client.send([vtp.Incr(b"n")] * 10)
        values = [client.receive() for client in clients for _ in range(10)]
        assert sorted(v.value for v in values if isinstance(v, vtp.Integer)) == list(range(1, 1001))
        for client in clients:
            client.close()
