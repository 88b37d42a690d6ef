"""A logical backup of a large keyspace: how long, how large, and the longest step; and a restore.

Run: python packages/vaylix-storage/benchmarks/backup.py [keys]

The default is one million keys of 16 bytes with values of 16 bytes, a tenth of them dying. The
document goes to a temporary directory under the current one.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from vaylix_storage import Keyspace, RealVfs
from vaylix_storage.commands import Command, Set, SetOptions, encode_commands
from vaylix_storage.logical_backup import (
    BackupDirectory,
    BackupHeader,
    DocumentWriter,
    SortedWalk,
    backup_pieces,
    restore_batches,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NOW = 1_700_000_000_000
T = TypeVar("T")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


class Peak:
    """The highest resident size since the last look, sampled."""

    def __init__(self) -> None:
        self.highest = 0
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            self.highest = max(self.highest, resident_bytes())
            time.sleep(0.01)

    def reset(self) -> int:
        self.highest = resident_bytes()
        return self.highest


class Steps:
    """The longest times that an iterator took for one item, in ms."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def timed(self, items: Iterable[T]) -> Iterator[T]:
        iterator = iter(items)
        while True:
            started = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self.times.append((time.perf_counter() - started) * 1e3)
            yield item

    def __str__(self) -> str:
        ordered = sorted(self.times)
        almost_all = ordered[int(len(ordered) * 0.999)]
        return (
            f"{len(ordered)} steps, in all {sum(ordered) / 1e3:.2f} s, "
            f"median {ordered[len(ordered) // 2]:.2f} ms, 99.9 % within {almost_all:.2f} ms, "
            f"longest {ordered[-1]:.2f} ms"
        )


def fill(key_count: int) -> Keyspace:
    keyspace = Keyspace()
    options = SetOptions(ttl_ms=3_600_000)
    for start in range(0, key_count, 64):
        numbers = range(start, min(start + 64, key_count))
        keyspace.apply(
            [Set(b"key:%012d" % n, b"v%015d" % n, None if n % 10 else options) for n in numbers],
            NOW,
            want_results=False,
        )
    return keyspace


def measure_backup(keyspace: Keyspace, directory: BackupDirectory, peak: Peak) -> None:
    before = peak.reset()
    steps = Steps()
    writer = DocumentWriter(BackupHeader(created_at_ms=NOW, source_sequence=1))
    pieces = backup_pieces(writer, SortedWalk(keyspace.begin_walk(), NOW))
    started = time.perf_counter()
    directory.write("backup.json", writer, steps.timed(pieces))
    seconds = time.perf_counter() - started
    print(f"backup: {writer.entry_count:,} keys, {writer.byte_count / 1e6:.0f} MB, {seconds:.2f} s")
    print(f"  {steps}")
    print(f"  memory above the keyspace: at most {(peak.highest - before) / 1e6:.0f} MB")


def measure_restore(directory: BackupDirectory) -> None:
    started = time.perf_counter()
    document = directory.read_checked("backup.json")
    seconds = time.perf_counter() - started
    print(f"read, parse and compare with the sidecar: {seconds:.2f} s")
    started = time.perf_counter()
    batches = restore_batches(document, now_ms=NOW, restore_id=b"bench")
    print(f"check before the first batch: {time.perf_counter() - started:.2f} s")
    keyspace = fill(10_000)
    making, applying = Steps(), Steps()
    payload_bytes_max = 0
    for commands in making.timed(batches):
        payload = encode_commands(commands)
        payload_bytes_max = max(payload_bytes_max, len(payload))
        for _ in applying.timed(apply_once(keyspace, commands)):
            pass
    print(f"batches, at most {payload_bytes_max / 1e3:.0f} kB: {making}")
    print(f"apply them: {applying}")
    assert keyspace.key_count(NOW) == len(document.entries)


def apply_once(keyspace: Keyspace, commands: list[Command]) -> Iterator[None]:
    keyspace.apply(commands, NOW, want_results=True)
    yield None


def main() -> None:
    key_count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    gc.disable()
    empty = resident_bytes()
    keyspace = fill(key_count)
    peak = Peak()
    print(f"{key_count:,} keys in memory: {(resident_bytes() - empty) / 1e6:.0f} MB")
    with TemporaryDirectory(dir=Path.cwd()) as path:
        directory = BackupDirectory(Path(path), vfs=RealVfs())
        measure_backup(keyspace, directory, peak)
        del keyspace
        measure_restore(directory)


if __name__ == "__main__":
    main()
