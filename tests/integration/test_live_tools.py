"""The tools that look at a directory in use, while a real server writes as fast as it can."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_server.testing import ServerProcess

WRITERS = 4
PIPELINE = 50
# Segments end, snapshots are taken and old segments go, all the time.
RESTLESS = (
    "--wal-segment-size-bytes=4194304",
    "--snapshot-wal-bytes=8388608",
    "--wal-retain-segments=1",
)


@contextmanager
def loaded_server(data: Path, *flags: str) -> Iterator[None]:
    """Run a server with several connections that write without a pause."""
    with ServerProcess(data, *flags) as server:
        clients = [server.admin() for _ in range(WRITERS)]
        stop = threading.Event()
        failures: list[BaseException] = []
        begun = threading.Semaphore(0)

        def write(number: int) -> None:
            writes = [
                vtp.Set(b"%d %d" % (number, place), bytes(37 * place)) for place in range(PIPELINE)
            ]
            try:
                while not stop.is_set():
                    assert clients[number].ask_all(writes) == [vtp.Ok()] * PIPELINE
                    begun.release()
            except BaseException as error:
                failures.append(error)
                begun.release()
                raise

        threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(5 * WRITERS):
                begun.acquire()
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            for client in clients:
                client.close()
        assert not failures


@pytest.mark.parametrize("flags", [(), RESTLESS], ids=["one segment", "restless"])
def test_a_busy_directory_is_never_called_corrupt(tmp_path: Path, flags: tuple[str, ...]) -> None:
    data = tmp_path / "data"
    verify = ("storage", "verify", "--live")
    with loaded_server(data, *flags):
        for tool in (("storage", "dump", "--live"), ("pitr", "inspect", "--live"), verify, verify):
            done = subprocess.run(
                [sys.executable, "-m", "vaylix_server", *tool, f"--data-dir={data}"],
                capture_output=True,
                check=False,
            )
            assert done.returncode == 0, (tool, done.stderr[-500:])
            assert b"damage" not in done.stdout[-500:]
