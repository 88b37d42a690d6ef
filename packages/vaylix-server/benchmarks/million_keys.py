"""What a million keys change: rates, memory, and the longest wait of any request."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from _load import Figures, Target, build_load_generator, put_load, start_server

FEW, MANY = 1_000, 1_000_000
SHAPES = ((50, 1), (50, 16))
ROUNDS = 3
# What the load generator stores: `bench:` and eight digits, and 64 bytes.
PAYLOAD_BYTES = 14 + 64


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        directory = Path(name)
        binary = build_load_generator(directory)
        server, target = start_server(directory)
        try:
            put_load(binary, target, (8, 16), "fill", keys=FEW, seconds=0)
            empty_bytes = resident_bytes(server.pid)
            few = measure(binary, target, FEW)
            put_load(binary, target, (50, 64), "fill", keys=MANY, seconds=0)
            per_key = (resident_bytes(server.pid) - empty_bytes) / (MANY - FEW) - PAYLOAD_BYTES
            many = measure(binary, target, MANY)
        finally:
            server.terminate()
            server.wait()
    print(f"memory above key and value: {per_key:.0f} bytes per key at {MANY} keys")
    print("| shape | op | at 1 000 keys | at 1 000 000 | ratio | longest wait ms, few / many |")
    print("| --- | --- | --- | --- | --- | --- |")
    for key, before in few.items():
        after = many[key]
        print(
            f"| {key[0][0]}x{key[0][1]} | {key[1].upper()} | {before.rate:.0f} | {after.rate:.0f} "
            f"| {after.rate / before.rate:.2f} "
            f"| {before.max_us / 1000:.1f} / {after.max_us / 1000:.1f} |"
        )


def measure(binary: Path, target: Target, keys: int) -> dict[tuple[tuple[int, int], str], Figures]:
    found = {}
    for shape in SHAPES:
        for workload in ("get", "set"):
            runs = [
                put_load(binary, target, shape, workload, keys=keys, seconds=2)
                for _ in range(ROUNDS)
            ]
            found[shape, workload] = Figures(
                statistics.median(run.rate for run in runs),
                statistics.median(run.p99_us for run in runs),
                max(run.max_us for run in runs),
                sum(run.errors for run in runs),
            )
    return found


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
