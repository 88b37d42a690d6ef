"""The keyspace: apply, get, encode and decode, memory per key, and the longest stalls.

Run: python packages/vaylix-storage/benchmarks/keyspace.py [keys]

Rates are for one core; the default is one million keys of about 16 bytes with values of 16 bytes.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vaylix_storage import Keyspace
from vaylix_storage.commands import (
    Clear,
    Command,
    Incr,
    Set,
    SetOptions,
    decode_commands,
    encode_commands,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOW = 1_700_000_000_000
RUN = 64


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def runs_of(commands: Sequence[Command]) -> list[Sequence[Command]]:
    return [commands[start : start + RUN] for start in range(0, len(commands), RUN)]


def rate(label: str, count: int, work: Callable[[], object]) -> None:
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    print(f"{label:44} {count / seconds:12,.0f}/s {seconds / count * 1e9:8.0f} ns")


def apply_all(keyspace: Keyspace, runs: list[Sequence[Command]], now_ms: int = NOW) -> None:
    for run in runs:
        keyspace.apply(run, now_ms, want_results=True)


def measure_codec(keys: list[bytes]) -> None:
    commands = [Set(key, b"v" * 64) for key in keys[:RUN]]
    payload = encode_commands(commands)
    repeats = range(3000)
    print(f"a plain SET takes {len(payload) / RUN - 16 - 64:.1f} bytes beside key and value")
    rate("encode SET, 64 a time", RUN * 3000, lambda: [encode_commands(commands) for _ in repeats])
    rate(
        "decode SET, 64 a time",
        RUN * 3000,
        lambda: [decode_commands(payload, RUN) for _ in repeats],
    )


def measure_small(keys: list[bytes]) -> None:
    few = keys[:1000]
    keyspace = Keyspace()
    chance = random.Random(1)
    chosen = chance.choices(few, k=200_000)
    apply_all(keyspace, runs_of([Set(key, b"v" * 16) for key in few]))
    runs = runs_of([Set(key, b"w" * 16) for key in chosen])
    rate("SET, 1000 keys, 64 a time", len(chosen), lambda: apply_all(keyspace, runs))
    columns = [chosen[start : start + RUN] for start in range(0, len(chosen), RUN)]

    def apply_columns() -> None:
        for part in columns:
            keyspace.set_all(part, [b"w" * 16] * len(part), NOW)

    rate("SET, 1000 keys, 64 a time, in columns", len(chosen), apply_columns)
    rate("GET, 1000 keys", len(chosen), lambda: [keyspace.get(key, NOW) for key in chosen])
    key = few[0]
    rate("GET, one key", len(chosen), lambda: [keyspace.get(key, NOW) for _ in chosen])
    runs = runs_of([Incr(b"n:" + key) for key in chosen])
    rate("INCR, 1000 keys, 64 a time", len(chosen), lambda: apply_all(keyspace, runs))
    options = SetOptions(ttl_ms=60_000)
    runs = runs_of([Set(key, b"v", options) for key in chosen])
    rate("SET with a time to live, 64 a time", len(chosen), lambda: apply_all(keyspace, runs))


def longest(work: Callable[[], object]) -> tuple[int, float]:
    """Run `work` until it returns 0; return how often, and the longest time it took, in ms."""
    steps, worst = 0, 0.0
    while True:
        started = time.perf_counter()
        done = work() == 0
        worst = max(worst, time.perf_counter() - started)
        steps += 1
        if done:
            return steps, worst * 1e3


def measure_large(key_count: int) -> None:
    gc.collect()
    gc.disable()
    before = resident_bytes()
    keyspace = Keyspace()
    worst = 0.0
    order = list(range(key_count))
    order_bytes = resident_bytes() - before
    content_bytes = 0
    for start in range(0, key_count, RUN):
        run = [
            Set(b"key:%012d" % number, b"v%015d" % number) for number in order[start : start + RUN]
        ]
        content_bytes += len(run) * 32
        started = time.perf_counter()
        keyspace.apply(run, NOW, want_results=False)
        worst = max(worst, time.perf_counter() - started)
    held = resident_bytes() - before - order_bytes
    print(
        f"{key_count:,} keys: {(held - content_bytes) / key_count:.0f} bytes a key beside content"
    )
    print(f"longest run of {RUN} SET while filling: {worst * 1e3:.2f} ms")
    chosen = [b"key:%012d" % number for number in random.Random(2).choices(order, k=200_000)]
    runs = runs_of([Set(key, b"w" * 16) for key in chosen])
    rate(f"SET, {key_count:,} keys, 64 a time", len(chosen), lambda: apply_all(keyspace, runs))
    rate(f"GET, {key_count:,} keys", len(chosen), lambda: [keyspace.get(k, NOW) for k in chosen])
    cursor = 0
    worst = 0.0
    for _ in range(5000):
        started = time.perf_counter()
        cursor = keyspace.scan(cursor, None, 10, NOW).cursor
        worst = max(worst, time.perf_counter() - started)
    print(f"longest of 5000 SCAN pages: {worst * 1e3:.2f} ms")
    started = time.perf_counter()
    keyspace.apply([Clear()], NOW, want_results=True)
    print(f"CLEAR: {(time.perf_counter() - started) * 1e3:.2f} ms")
    steps, milliseconds = longest(lambda: keyspace.expire_step(NOW, 1000))
    print(f"freeing what CLEAR left: {steps} steps, longest {milliseconds:.2f} ms")
    options = SetOptions(ttl_ms=1000)
    for start in range(0, key_count, RUN):
        run = [Set(b"key:%012d" % n, b"v", options) for n in order[start : start + RUN]]
        keyspace.apply(run, NOW, want_results=False)
    started = time.perf_counter()
    assert keyspace.key_count(NOW + 1000) == 0
    seconds = time.perf_counter() - started
    print(f"counting {key_count:,} keys that died at once: {seconds * 1e3:.2f} ms")
    steps, milliseconds = longest(lambda: keyspace.expire_step(NOW + 1000, 1000))
    print(f"freeing them: {steps} steps, longest {milliseconds:.2f} ms")


def main() -> None:
    key_count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    keys = [b"key:%012d" % number for number in range(1000)]
    measure_codec(keys)
    measure_small(keys)
    measure_large(key_count)


if __name__ == "__main__":
    main()
