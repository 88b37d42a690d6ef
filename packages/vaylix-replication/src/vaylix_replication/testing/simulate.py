"""Simulate clusters from the command line.

    python -m vaylix_replication.testing.simulate --seed 17         replay one seed
    python -m vaylix_replication.testing.simulate --seeds 0..2000   a range, the end excluded
    python -m vaylix_replication.testing.simulate --minutes 5       fresh seeds for a while

A failure prints the options, the seed and the command that replays it, and ends with code 1. So
does a run of 200 seeds or more of which more than one in a hundred has no leader within two maximal
election timeouts of the healing.
"""

from __future__ import annotations

import argparse
import itertools
import secrets
import sys
import textwrap
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING

from vaylix_replication.testing.simulation import (
    QUICK_TIMEOUTS,
    Report,
    SimulationOptions,
    simulate,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["main"]

_FRESH_SEED_BITS = 40
# A share of one in a hundred says nothing about fewer seeds.
_SEEDS_FOR_SHARE = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a summary, return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vaylix_replication.testing.simulate",
        description="Simulate Raft groups under faults and check what they promise.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="replay one seed")
    which.add_argument("--seeds", type=_parse_range, metavar="A..B", help="a range of seeds")
    which.add_argument("--minutes", type=float, help="fresh seeds for so long")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        seeds: Iterable[int] = [chosen.seed]
    elif chosen.seeds is not None:
        seeds = chosen.seeds
    else:
        seeds = _fresh_seeds(time.monotonic() + chosen.minutes * 60)
    return _run(seeds)


def _parse_range(text: str) -> range:
    first, _, end = text.partition("..")
    return range(int(first), int(end))


def _fresh_seeds(deadline: float) -> Iterator[int]:
    first = secrets.randbits(_FRESH_SEED_BITS)
    for seed in itertools.count(first):
        if time.monotonic() >= deadline:
            return
        yield seed


def _run(seeds: Iterable[int]) -> int:
    reports: dict[int, Report] = {}
    # Time of the processor, so that neighbours do not count.
    begin = time.process_time()
    for seed in seeds:
        try:
            reports[seed] = simulate(SimulationOptions.draw(seed))
        except Exception:  # noqa: BLE001 - whatever goes wrong is what this looks for
            traceback.print_exc()
            sys.stderr.write(
                f"\nseed {seed} failed; replay it with\n"
                f"    python -m vaylix_replication.testing.simulate --seed {seed}\n"
            )
            return 1
    sys.stdout.write(_summarise(list(reports.values()), time.process_time() - begin))
    slow = [seed for seed, report in reports.items() if not report.is_quick]
    if len(reports) >= _SEEDS_FOR_SHARE and len(slow) > len(reports) // 100:
        sys.stderr.write(
            f"\n{len(slow)} of {len(reports)} seeds, more than 1 %, had no leader within "
            f"{QUICK_TIMEOUTS} maximal election timeouts: {', '.join(map(str, slow))}\n"
        )
        return 1
    return 0


def _summarise(reports: list[Report], seconds: float) -> str:
    events = sum(report.event_count for report in reports)
    operations = sum(report.operation_count for report in reports)
    answered = sum(report.answered_count for report in reports)
    waits = sorted(report.leader_after_timeouts for report in reports) or [0.0]
    return (
        f"{len(reports)} seeds without a violation in {seconds:.1f} s of one core\n"
        f"{events} events, {events / max(seconds, 1e-9):.0f} per second\n"
        f"{operations} operations, {answered} of them answered\n"
        f"{_list_happenings(reports)}\n"
        f"leader after healing, in maximal election timeouts: "
        f"p99 {waits[int(len(waits) * 0.99)]:.2f}, maximum {waits[-1]:.2f}, "
        f"{sum(not report.is_quick for report in reports)} seeds over {QUICK_TIMEOUTS}\n"
    )


def _list_happenings(reports: list[Report]) -> str:
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report.happenings)
    lines = textwrap.wrap(
        ", ".join(f"{name} {count}" for name, count in sorted(total.items())), 100
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
