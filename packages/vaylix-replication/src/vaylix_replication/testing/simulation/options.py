"""What is simulated. Everything is drawn from the seed, and printed when a run fails."""

import random
from typing import Self

import msgspec

__all__ = ["SimulationOptions"]


class SimulationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes, and the rates of faults. Times are simulated; an interval of 0 means never.

    `loss`, `duplication`, `straggling`: the share of messages lost, sent twice, much delayed.
    `corruption`: the share of messages that arrive damaged.
    `sync_ms_max`: how long a sync takes at most, except `sync_stall` of them, which stall.
    `sync_failure`: the share of syncs that fail, upon which the process ends. Half of those lose
    what was to be written for ever, although a second sync would succeed.
    `semantics_interval_ms`: how often the semantics are raised, or if nobody may, a node upgraded.
    `append_bytes`, `chunk_bytes`: how much travels in one message.
    `leader_trouble`: the share of new leaders that crash or lose their links at once.
    `cut_trouble`: the share of nodes that crash while they replace the end of their log.
    `rolling_isolation`: every new leader soon loses its links, upon which the one before it gets
    its own back, as in figure 8 of the paper.
    `rival_changes`: a leader removes a member when it has just lost its links, so does its
    successor at once, and then each of them is left with one half of the nodes.
    `deaf_transfer`: the share of leaders that hear nothing more once they have handed over.
    `drift`: how much the clocks run apart. `wire`: whether messages are encoded and decoded.
    `power_cut`: all nodes crash at the end of the faults, and start again at once.
    `verify_ms_max`: how long it takes at most to verify a snapshot that was received.
    `snapshot_entries`: a snapshot is taken, and the log compacted, after so many entries.
    """

    seed: int
    voters: int = 3
    spares: int = 0
    clients: int = 4
    keys: int = 3
    duration_ms: int = 2000
    tick_ms: int = 10
    heartbeat_ticks: int = 2
    loss: float = 0.0
    duplication: float = 0.0
    straggling: float = 0.0
    corruption: float = 0.0
    delay_ms_max: float = 2.0
    sync_ms_max: float = 2.0
    sync_stall: float = 0.0
    sync_failure: float = 0.0
    verify_ms_max: int = 0
    drift: float = 0.0
    leader_trouble: float = 0.0
    cut_trouble: float = 0.0
    rolling_isolation: bool = False
    rival_changes: bool = False
    deaf_transfer: float = 0.0
    crash_interval_ms: int = 0
    partition_interval_ms: int = 0
    pause_interval_ms: int = 0
    transfer_interval_ms: int = 0
    membership_interval_ms: int = 0
    campaign_interval_ms: int = 0
    semantics_interval_ms: int = 0
    clock_jump_interval_ms: int = 0
    snapshot_entries: int = 0
    append_bytes: int = 256
    chunk_bytes: int = 64
    lease: bool = False
    wire: bool = False
    power_cut: bool = False

    @classmethod
    def draw(cls, seed: int) -> Self:
        """Return the options of a seed: each kind of fault is there in about half of all runs."""
        draw = _Draw(seed)
        return cls(
            seed=seed,
            voters=draw.choice("voters", 1, 2, 3, 3, 3, 4, 4, 5, 5),
            spares=draw.choice("spares", 0, 1, 2),
            clients=draw.choice("clients", 3, 4, 5, 6),
            keys=draw.choice("keys", 1, 2, 3),
            heartbeat_ticks=draw.choice("heartbeat_ticks", 1, 2, 3),
            loss=draw.sometimes("loss", 0.1),
            duplication=draw.sometimes("duplication", 0.1),
            straggling=draw.sometimes("straggling", 0.05),
            corruption=draw.sometimes("corruption", 0.02),
            delay_ms_max=draw.of("delay_ms_max").uniform(0.5, 5),
            sync_ms_max=draw.of("sync_ms_max").uniform(0.2, 10),
            sync_stall=draw.sometimes("sync_stall", 0.02),
            sync_failure=draw.sometimes("sync_failure", 0.005),
            verify_ms_max=draw.choice("verify_ms_max", 0, 5, 50, 500),
            drift=draw.sometimes("drift", 0.05),
            leader_trouble=draw.sometimes("leader_trouble", 0.8) if draw.haste > 1 else 0.0,
            cut_trouble=float(draw.whether("cut_trouble", 0.5)),
            rolling_isolation=draw.whether("rolling_isolation", 0.15),
            rival_changes=draw.whether("rival_changes", 0.15),
            deaf_transfer=draw.sometimes("deaf_transfer", 1.0),
            crash_interval_ms=draw.interval("crash_interval_ms", 100, 800),
            partition_interval_ms=draw.interval("partition_interval_ms", 100, 800),
            pause_interval_ms=draw.interval("pause_interval_ms", 100, 800),
            transfer_interval_ms=draw.interval("transfer_interval_ms", 100, 800),
            membership_interval_ms=draw.interval("membership_interval_ms", 50, 400),
            campaign_interval_ms=draw.interval("campaign_interval_ms", 50, 400),
            semantics_interval_ms=draw.interval("semantics_interval_ms", 50, 400),
            clock_jump_interval_ms=draw.interval("clock_jump_interval_ms", 50, 400),
            snapshot_entries=draw.choice("snapshot_entries", 0, 3, 10, 30),
            append_bytes=draw.choice("append_bytes", 1, 256, 4096),
            chunk_bytes=draw.choice("chunk_bytes", 16, 64, 1024),
            lease=draw.whether("lease", 0.5),
            wire=draw.whether("wire", 0.1),
            power_cut=draw.whether("power_cut", 0.3),
        )


class _Draw:
    """Draws each option from a source of its own.

    So a new option, or another way to draw one, leaves all others of a seed as they are, and the
    seeds that are written down somewhere keep most of their meaning.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        # In a storm everything comes faster: what goes wrong needs several faults close together.
        self.haste = 4 if self.whether("haste", 0.3) else 1

    def of(self, option: str) -> random.Random:
        return random.Random(f"{self._seed} {option}")  # noqa: S311 - a seed decides, not a secret

    def whether(self, option: str, share: float) -> bool:
        return self.of(option).random() < share

    def choice(self, option: str, *values: int) -> int:
        return self.of(option).choice(values)

    def sometimes(self, option: str, most: float) -> float:
        source = self.of(option)
        return source.random() * most if source.random() < 0.5 else 0.0

    def interval(self, option: str, shortest: int, longest: int) -> int:
        source = self.of(option)
        if source.random() < 0.5:
            return 0
        return source.randint(shortest // self.haste, longest // self.haste)
