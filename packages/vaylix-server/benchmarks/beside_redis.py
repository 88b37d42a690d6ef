"""The server beside a Redis with `appendfsync always`, measured in turn, compared by ratio.

Everything is at its default: writes synced, encryption, authentication and metrics on. Rounds are
interleaved and their medians compared; on a shared machine only the ratio means something.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from _load import Figures, build_load_generator, put_load, start_redis, start_server

KEYS = 10_000
SHAPES = ((1, 1), (50, 1), (50, 16), (50, 64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    # Not below /tmp, which may be memory: both must meet a real disk.
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        directory = Path(name)
        binary = build_load_generator(directory)
        server, vaylix = start_server(directory)
        redis, rival = start_redis(directory)
        try:
            for target in (vaylix, rival):
                put_load(binary, target, (8, 16), "fill", keys=KEYS, seconds=0)
            print("| shape | op | vaylix/s | redis/s | ratio | p99 ms | redis p99 ms | errors |")
            print("| --- | --- | --- | --- | --- | --- | --- | --- |")
            for shape in SHAPES:
                for workload in ("get", "set", "mixed"):
                    runs: tuple[list[Figures], list[Figures]] = ([], [])
                    for _ in range(options.rounds):
                        for target, figures in zip((vaylix, rival), runs, strict=True):
                            figures.append(
                                put_load(
                                    binary,
                                    target,
                                    shape,
                                    workload,
                                    keys=KEYS,
                                    seconds=options.seconds,
                                )
                            )
                    print(row(shape, workload, *runs), flush=True)
        finally:
            for process in (server, redis):
                process.terminate()
                process.wait()


def row(shape: tuple[int, int], workload: str, ours: list[Figures], theirs: list[Figures]) -> str:
    rates = [statistics.median(run.rate for run in runs) for runs in (ours, theirs)]
    p99 = [statistics.median(run.p99_us for run in runs) / 1000 for runs in (ours, theirs)]
    return (
        f"| {shape[0]}x{shape[1]} | {workload.upper()} | {rates[0]:.0f} | {rates[1]:.0f} "
        f"| {rates[0] / rates[1]:.2f} | {p99[0]:.2f} | {p99[1]:.2f} "
        f"| {sum(run.errors for run in ours)} |"
    )


if __name__ == "__main__":
    main()
