"""What a million keys change: rates, memory, and the longest wait of any request.

One server holds a thousand keys and another one a million; they are measured in turn.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from _load import Figures, Target, build_load_generator, put_load, start_server

KEYS = (1_000, 1_000_000)
SHAPES = ((50, 1), (50, 16))
ROUNDS = 7
# What the load generator stores: `bench:` and eight digits, and 64 bytes.
PAYLOAD_BYTES = 14 + 64


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        directory = Path(name)
        binary = build_load_generator(directory)
        servers = [start_server(directory / str(keys)) for keys in KEYS]
        try:
            empty_bytes = resident_bytes(servers[-1][0].pid)
            for keys, (_, target) in zip(KEYS, servers, strict=True):
                put_load(binary, target, (50, 64), "fill", keys=keys, seconds=0)
            per_key = (resident_bytes(servers[-1][0].pid) - empty_bytes) / KEYS[-1] - PAYLOAD_BYTES
            print(f"memory above key and value: {per_key:.0f} bytes per key at {KEYS[-1]} keys")
            print("| shape | op | at 1 000 keys | at 1 000 000 | ratio | longest ms, few / many |")
            print("| --- | --- | --- | --- | --- | --- |")
            for shape in SHAPES:
                for workload in ("get", "set"):
                    few, many = measure(binary, [target for _, target in servers], shape, workload)
                    print(
                        f"| {shape[0]}x{shape[1]} | {workload.upper()} "
                        f"| {few.rate:.0f} | {many.rate:.0f} | {many.rate / few.rate:.2f} "
                        f"| {few.max_us / 1000:.1f} / {many.max_us / 1000:.1f} |",
                        flush=True,
                    )
        finally:
            for process, _ in servers:
                process.terminate()
                process.wait()


def measure(
    binary: Path, targets: list[Target], shape: tuple[int, int], workload: str
) -> list[Figures]:
    """Return medians of rounds that take turns: the disk has better and worse minutes."""
    runs: list[list[Figures]] = [[] for _ in targets]
    for _ in range(ROUNDS):
        for keys, target, mine in zip(KEYS, targets, runs, strict=True):
            mine.append(put_load(binary, target, shape, workload, keys=keys, seconds=2))
    return [
        Figures(
            statistics.median(run.rate for run in mine),
            statistics.median(run.p99_us for run in mine),
            max(run.max_us for run in mine),
            sum(run.errors for run in mine),
        )
        for mine in runs
    ]


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
