"""Snapshots: time to take one, the longest step of it, time and memory to open from it.

Run: python packages/vaylix-storage/benchmarks/snapshot.py [keys ...]

Keys are about 16 bytes, values 16 bytes; without arguments 10 000, 100 000 and 1 000 000 of them.
A tenth of as many entries follow in the log behind the snapshot. Each opening runs in a process of
its own, with automatic garbage collection off, as the server does it.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vaylix_storage import (
    Batch,
    BatchKind,
    Engine,
    Keyspace,
    KeyspaceDump,
    KeyspaceLoader,
    SnapshotMeta,
)
from vaylix_storage.commands import Set, SetOptions, decode_commands, encode_commands

NOW = 1_700_000_000_000
RUN = 64


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def batches_of(first_index: int, count: int, options: SetOptions | None) -> list[Batch]:
    batches = []
    for start in range(0, count, RUN):
        commands = [
            Set(b"key:%012d" % number, b"v%015d" % number, options)
            for number in range(start, min(start + RUN, count))
        ]
        batch = Batch.create(
            first_index=first_index + start,
            count=len(commands),
            term=1,
            kind=BatchKind.KEYSPACE,
            timestamp_ms=NOW,
            payload=encode_commands(commands),
        )
        batches.append(batch)
    return batches


def apply(keyspace: Keyspace, batches: list[Batch]) -> None:
    for batch in batches:
        commands = decode_commands(batch.payload, batch.count)
        keyspace.apply(commands, batch.timestamp_ms, want_results=False)


def take(path: Path, key_count: int, *, expiring: bool) -> None:
    """Fill a directory, take a snapshot, let entries follow."""
    gc.disable()
    engine = Engine.open(path, now_ms=NOW)
    keyspace = Keyspace()
    options = SetOptions(ttl_ms=10**9) if expiring else None
    batches = batches_of(1, key_count, options)
    for start in range(0, len(batches), 1000):
        engine.log.append(batches[start : start + 1000])
    engine.log.sync()
    apply(keyspace, batches)
    last = batches[-1]
    del batches
    started = time.perf_counter()
    dump = KeyspaceDump(keyspace.begin_walk())
    worst = time.perf_counter() - started
    began_ms = worst * 1e3
    in_steps = 0.0
    steps = 0
    writer = engine.create_snapshot(SnapshotMeta(last.last_index, 1, NOW, NOW))
    writer.begin_section("keyspace")
    while True:
        step_started = time.perf_counter()
        chunk = dump.next_chunk()
        step = time.perf_counter() - step_started
        worst = max(worst, step)
        in_steps += step
        steps += 1
        if chunk is None:
            break
        writer.add(*chunk)
    info = writer.finish()
    engine.commit_snapshot(info)
    seconds = time.perf_counter() - started
    print(
        f"{key_count:>9,} keys{' that expire' if expiring else '':13} snapshot {seconds:6.3f} s, "
        f"{info.size_bytes:,} bytes; in the thread of writers {in_steps:.3f} s in {steps} steps, "
        f"longest {worst * 1e3:.2f} ms, beginning {began_ms:.3f} ms"
    )
    engine.log.remove_before(last.last_index + 1)
    for batch in batches_of(last.last_index + 1, key_count // 10, options):
        engine.log.append([batch])
    engine.log.sync()
    engine.close()


def open_again(path: Path) -> None:
    gc.disable()
    before = resident_bytes()
    started = time.perf_counter()
    engine = Engine.open(path, now_ms=NOW)
    log_read = time.perf_counter()
    keyspace = Keyspace()
    reader = engine.open_snapshot()
    assert reader is not None
    loader = KeyspaceLoader(keyspace)
    for _, plain in reader.chunks():
        loader.add(plain)
    loader.finish()
    loaded = time.perf_counter()
    replayed = 0
    for batch in engine.read_behind_snapshot():
        apply(keyspace, [batch])
        replayed += batch.count
    done = time.perf_counter()
    held = resident_bytes() - before
    print(
        f"{keyspace.key_count(NOW):>9,} keys: opened in {done - started:.3f} s: log checked in "
        f"{log_read - started:.3f} s, snapshot loaded in {loaded - log_read:.3f} s, "
        f"{replayed:,} entries replayed in {done - loaded:.3f} s "
        f"({replayed / (done - loaded):,.0f}/s); {held / 1e6:.0f} MB"
    )


def main() -> None:
    if sys.argv[1:2] == ["--open"]:
        open_again(Path(sys.argv[2]))
        return
    for key_count in [int(text) for text in sys.argv[1:]] or [10_000, 100_000, 1_000_000]:
        for expiring in (False, True):
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "data"
                take(path, key_count, expiring=expiring)
                command = [sys.executable, __file__, "--open", str(path)]
                sys.stdout.flush()
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
