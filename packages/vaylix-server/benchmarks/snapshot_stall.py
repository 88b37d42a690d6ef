"""What a snapshot, a backup and a CLEAR of a million keys cost the requests that run meanwhile."""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

from _load import Figures, Target, build_load_generator, put_load, start_server

from vaylix_protocol import BackupTo, Clear, Command, Ok, Save, Set
from vaylix_server.testing import SocketClient

SHAPE = (50, 1)
LOAD_SECONDS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    keys = parser.parse_args().keys
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        directory = Path(name)
        binary = build_load_generator(directory)
        server, target = start_server(directory)
        try:
            filling = put_load(binary, target, (50, 64), "fill", keys=keys, seconds=0)
            print("| meanwhile | op | /s | p99 ms | longest ms | it took s |")
            print("| --- | --- | --- | --- | --- | --- |")
            print(row("growing to all keys", "set", filling, []))
            for what, command in (
                ("nothing", None),
                ("SAVE", Save()),
                ("BACKUP TO", BackupTo("all.json")),
            ):
                for workload in ("get", "set"):
                    print(row(what, workload, *measure(binary, target, keys, workload, command)))
            # The first CLEAR meets all keys.
            print(row("CLEAR", "get", *measure(binary, target, keys, "get", Clear())))
            put_load(binary, target, (50, 64), "fill", keys=keys, seconds=0)
        finally:
            started = time.monotonic()
            server.terminate()
            server.wait()
        print(f"stop with a last snapshot: {time.monotonic() - started:.1f} s")
        started = time.monotonic()
        server, _ = start_server(directory)
        print(f"start from it, until the server listens: {time.monotonic() - started:.1f} s")
        server.terminate()
        server.wait()


def measure(
    binary: Path, target: Target, keys: int, workload: str, command: Command | None
) -> tuple[Figures, list[float]]:
    """Put load on the server while another client gives the command again and again."""
    durations: list[float] = []
    stopping = threading.Event()

    def ask() -> None:
        with SocketClient((target.host, int(target.port)), timeout_seconds=120) as client:
            client.login()
            while command is not None and not stopping.is_set():
                # Without a change there would be nothing to take a snapshot of.
                assert client.ask(Set(b"touched", b"x")) == Ok()
                started = time.monotonic()
                assert client.ask(command) == Ok()
                durations.append(time.monotonic() - started)

    thread = threading.Thread(target=ask)
    thread.start()
    figures = put_load(binary, target, SHAPE, workload, keys=keys, seconds=LOAD_SECONDS)
    stopping.set()
    thread.join()
    return figures, durations


def row(what: str, workload: str, figures: Figures, durations: list[float]) -> str:
    took = f"{max(durations):.1f}" if durations else ""
    return (
        f"| {what} | {workload.upper()} | {figures.rate:.0f} | {figures.p99_us / 1000:.1f} "
        f"| {figures.max_us / 1000:.1f} | {took} |"
    )


if __name__ == "__main__":
    main()
