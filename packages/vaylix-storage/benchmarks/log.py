"""Append and sync of the log by policy and batch size, and the replay of a log.

Run: python packages/vaylix-storage/benchmarks/log.py [directory]

The directory must be on the disk that is to be measured; the default is the current one. Latencies
are those of append + sync of one batch; `python` is what of it is not spent in system calls.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from vaylix_storage import (
    Batch,
    BatchKind,
    File,
    Keyspace,
    Log,
    LogOptions,
    RealVfs,
    SyncPolicy,
)
from vaylix_storage.commands import Set, decode_commands, encode_commands
from vaylix_storage.testing import fixed_keyring

SECONDS = 1.0
REPLAYED_COMMANDS = 500_000


class TimedFile:
    """A file that adds up the time spent in it."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.seconds = 0.0

    def write_at(self, offset: int, data: bytes) -> None:
        started = time.perf_counter()
        self._file.write_at(offset, data)
        self.seconds += time.perf_counter() - started

    def sync(self) -> None:
        started = time.perf_counter()
        self._file.sync()
        self.seconds += time.perf_counter() - started

    def allocate(self, offset: int, size: int) -> bool:
        started = time.perf_counter()
        result = self._file.allocate(offset, size)
        self.seconds += time.perf_counter() - started
        return result

    def read_at(self, offset: int, size: int) -> bytes:
        return self._file.read_at(offset, size)

    def size(self) -> int:
        return self._file.size()

    def give_back(self, size: int) -> None:
        self._file.give_back(size)

    def close(self) -> None:
        self._file.close()


class TimedVfs(RealVfs):
    """The real file system, with the time spent in the file created last."""

    def create(self, path: Path) -> File:
        self.file = TimedFile(super().create(path))
        return self.file


def open_log(directory: Path, policy: SyncPolicy, vfs: RealVfs) -> Log:
    options = LogOptions(timeline=b"t" * 16, sync_policy=policy)
    return Log.open(directory, vfs=vfs, keyring=fixed_keyring(), options=options)


def make_batch(first_index: int, count: int) -> Batch:
    commands = [
        Set(b"key:%010d" % ((first_index + offset) % 100_000), b"v" * 64) for offset in range(count)
    ]
    return Batch.create(
        first_index=first_index,
        count=count,
        term=1,
        kind=BatchKind.KEYSPACE,
        timestamp_ms=1_700_000_000_000,
        payload=encode_commands(commands),
    )


def measure_append(directory: Path, policy: SyncPolicy, count: int) -> None:
    vfs = TimedVfs()
    log = open_log(directory, policy, vfs)
    vfs.file.seconds = 0.0
    latencies: list[float] = []
    spent = 0.0
    while spent < SECONDS:
        batch = (make_batch(log.last_index + 1, count),)
        started = time.perf_counter()
        log.append(batch)
        log.sync()
        latencies.append(time.perf_counter() - started)
        spent += latencies[-1]
    in_python = (spent - vfs.file.seconds) / len(latencies)
    log.close()
    latencies.sort()
    print(
        f"{policy.value:9} {count:5} {count * len(latencies) / spent:12,.0f}"
        f" {latencies[len(latencies) // 2] * 1e6:9.1f}"
        f" {latencies[len(latencies) * 99 // 100] * 1e6:9.1f} {in_python * 1e6:8.1f}"
    )


def measure_replay(directory: Path, count: int) -> None:
    vfs = RealVfs()
    log = open_log(directory, SyncPolicy.BUFFERED, vfs)
    for first_index in range(1, REPLAYED_COMMANDS + 1, count):
        log.append([make_batch(first_index, count)])
    log.close()
    started = time.perf_counter()
    log = open_log(directory, SyncPolicy.BUFFERED, vfs)
    opened = time.perf_counter()
    keyspace = Keyspace()
    for batch in log.read(1):
        commands = decode_commands(batch.payload, batch.count)
        keyspace.apply(commands, batch.timestamp_ms, want_results=False)
    ended = time.perf_counter()
    entry_count = log.recovery.entry_count
    log.close()
    print(
        f"{count:5} {entry_count / (ended - started):12,.0f}"
        f" {(opened - started) * 1e3:9.0f} {(ended - opened) * 1e3:9.0f}"
    )


def main() -> None:
    parent = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    print("policy    batch   commands/s    p50 us    p99 us   python")
    for policy in (SyncPolicy.BUFFERED, SyncPolicy.SYNC):
        for count in (1, 64, 1000):
            with tempfile.TemporaryDirectory(dir=parent) as directory:
                measure_append(Path(directory), policy, count)
    print(f"\nreplay of {REPLAYED_COMMANDS:,} commands: open, read, decode, apply")
    print("batch   commands/s   open ms apply ms")
    for count in (1, 64, 1000):
        with tempfile.TemporaryDirectory(dir=parent) as directory:
            measure_replay(Path(directory), count)


if __name__ == "__main__":
    main()
