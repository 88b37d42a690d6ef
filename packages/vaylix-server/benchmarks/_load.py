"""A server, the load generator and a durable Redis, for the benchmarks of this folder."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent


class Figures(NamedTuple):
    """What one run of the load generator measured; times in microseconds."""

    rate: float
    p99_us: float
    max_us: float
    errors: int


class Target(NamedTuple):
    """Something that can be put under load: protocol, host, port, user, password."""

    protocol: str
    host: str
    port: str
    user: str
    password: str


def build_load_generator(directory: Path) -> Path:
    """Compile kvload; ends the program when there is no compiler."""
    if shutil.which("gcc") is None:
        sys.exit("gcc is not installed: apt-get install -y gcc zlib1g-dev")
    binary = directory / "kvload"
    subprocess.run(["gcc", "-O2", "-o", binary, HERE / "kvload.c", "-lz"], check=True)
    return binary


def put_load(
    binary: Path,
    target: Target,
    shape: tuple[int, int],
    workload: str,
    *,
    keys: int,
    seconds: float,
) -> Figures:
    """Run one workload in the shape (connections, depth) with 64-byte values."""
    connections, depth = shape
    whom = [target.protocol, target.host, target.port, target.user, target.password]
    what = [str(connections), str(depth), str(seconds), workload, "64", str(keys)]
    command = [str(binary), *whom, *what]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    measured = json.loads(finished.stdout)
    return Figures(
        measured["operations_per_second"],
        measured["p99_us"],
        measured["max_us"],
        measured["errors"],
    )


def start_server(directory: Path) -> tuple[subprocess.Popen[str], Target]:
    """Start a server with its default durability and wait until it listens."""
    port = free_port()
    command = [sys.executable, "-m", "vaylix_server", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--data-dir", str(directory / "data")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "listening on" in line:
            return process, Target("vtp2", "127.0.0.1", str(port), "vaylix", "vaylix")
    sys.exit("the server did not start")


def start_redis(directory: Path) -> tuple[subprocess.Popen[bytes], Target]:
    """Start a Redis that syncs every write, in the same directory, so on the same disk."""
    if shutil.which("redis-server") is None:
        sys.exit("redis-server is not installed: apt-get install -y redis-server")
    port = free_port()
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory),
         "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, Target("resp", "127.0.0.1", str(port), "", "")
        time.sleep(0.05)
    sys.exit("redis did not start")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
