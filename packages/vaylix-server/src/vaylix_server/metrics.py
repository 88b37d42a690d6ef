"""Counters and gauges of the server layer, and how METRICS and METRICS PROM print them."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["METRICS", "MetricSpec", "Metrics"]


class MetricKind(enum.StrEnum):
    """What a number means over time."""

    COUNTER = "counter"
    GAUGE = "gauge"


class MetricSpec(NamedTuple):
    """One metric: the attribute of `Metrics` it stands in, and how it is told to others."""

    attribute: str
    name: str
    kind: MetricKind
    unit: str
    help: str


_COUNTER, _GAUGE = MetricKind.COUNTER, MetricKind.GAUGE

# In the order of METRICS (server spec 9.2).
METRICS: Final = (
    MetricSpec(
        "connections_accepted",
        "vaylix.server.connection.accepted.count",
        _COUNTER,
        "{connection}",
        "Connections accepted.",
    ),
    MetricSpec(
        "connections_active",
        "vaylix.server.connection.active",
        _GAUGE,
        "{connection}",
        "Connections open now.",
    ),
    MetricSpec(
        "connections_completed",
        "vaylix.server.connection.completed.count",
        _COUNTER,
        "{connection}",
        "Connections that have ended.",
    ),
    MetricSpec(
        "requests",
        "vaylix.server.request.count",
        _COUNTER,
        "{request}",
        "Requests that passed the rate and payload limits.",
    ),
    MetricSpec(
        "auth_successes",
        "vaylix.server.auth.success.count",
        _COUNTER,
        "{authentication}",
        "Successful authentications.",
    ),
    MetricSpec(
        "auth_failures",
        "vaylix.server.auth.failure.count",
        _COUNTER,
        "{authentication}",
        "Failed authentications and commands without one.",
    ),
    MetricSpec(
        "auth_locked_attempts",
        "vaylix.server.auth.locked.attempt.count",
        _COUNTER,
        "{authentication}",
        "Attempts that met or caused a lock.",
    ),
    MetricSpec(
        "transactions_begun",
        "vaylix.server.transaction.begin.count",
        _COUNTER,
        "{transaction}",
        "Transactions opened.",
    ),
    MetricSpec(
        "transactions_committed",
        "vaylix.server.transaction.commit.count",
        _COUNTER,
        "{transaction}",
        "Transactions executed.",
    ),
    MetricSpec(
        "transactions_discarded",
        "vaylix.server.transaction.discard.count",
        _COUNTER,
        "{transaction}",
        "Transactions discarded or expired.",
    ),
    MetricSpec(
        "transactions_timed_out",
        "vaylix.server.transaction.timeout.count",
        _COUNTER,
        "{transaction}",
        "Transactions that outlived their limit.",
    ),
    MetricSpec(
        "idle_disconnects",
        "vaylix.server.connection.idle.disconnect.count",
        _COUNTER,
        "{disconnect}",
        "Connections closed for silence.",
    ),
    MetricSpec(
        "snapshots",
        "vaylix.persistence.snapshot.completed.count",
        _COUNTER,
        "{snapshot}",
        "Snapshots completed.",
    ),
    MetricSpec(
        "expiration_sweeps",
        "vaylix.storage.expiration.sweep.count",
        _COUNTER,
        "{sweep}",
        "Background rounds that removed expired keys.",
    ),
    MetricSpec(
        "expired_keys_removed",
        "vaylix.storage.expired.key.removed.count",
        _COUNTER,
        "{key}",
        "Expired keys removed in the background.",
    ),
    MetricSpec(
        "slow_commands",
        "vaylix.server.command.slow.count",
        _COUNTER,
        "{command}",
        "Commands slower than the threshold.",
    ),
    MetricSpec(
        "entries_replayed",
        "vaylix.persistence.wal.entry.replayed.count",
        _COUNTER,
        "{entry}",
        "Log entries replayed at start.",
    ),
    MetricSpec(
        "reads_at_once",
        "vaylix.server.read.fastpath.hit.count",
        _COUNTER,
        "{request}",
        "Reads answered at once from the applied state.",
    ),
    MetricSpec(
        "reads_behind_writes",
        "vaylix.server.read.fastpath.fallback.count",
        _COUNTER,
        "{request}",
        "Reads that waited for an earlier write of their connection.",
    ),
    MetricSpec(
        "write_batches",
        "vaylix.server.ha.write.batch.count",
        _COUNTER,
        "{batch}",
        "Batches written to the log.",
    ),
    MetricSpec(
        "writes_batched",
        "vaylix.server.ha.write.coordinated.count",
        _COUNTER,
        "{request}",
        "Commands in those batches.",
    ),
    MetricSpec(
        "write_batch_commands_max",
        "vaylix.server.ha.write.batch.max.size",
        _GAUGE,
        "{request}",
        "Commands in the largest batch.",
    ),
    MetricSpec(
        "apply_lag",
        "vaylix.server.read.index.lag",
        _GAUGE,
        "{entry}",
        "Committed entries that are not applied yet.",
    ),
)

# Shown behind the others, and only while it is more than usual: clients of 0.9 know 23 metrics. All
# values are unsigned; HEALTH tells the side.
_CLOCK_OFFSET: Final = MetricSpec(
    "clock_offset_ms",
    "vaylix.server.clock.offset.ms",
    _GAUGE,
    "ms",
    "Distance between the wall clock and the time of the log, whichever is ahead.",
)


class Metrics:
    """The numbers themselves, plain integers for the hot path. Not thread safe."""

    __slots__ = tuple(spec.attribute for spec in (*METRICS, _CLOCK_OFFSET))

    def __init__(self) -> None:
        self.connections_accepted = 0
        self.connections_active = 0
        self.connections_completed = 0
        self.requests = 0
        self.auth_successes = 0
        self.auth_failures = 0
        self.auth_locked_attempts = 0
        self.transactions_begun = 0
        self.transactions_committed = 0
        self.transactions_discarded = 0
        self.transactions_timed_out = 0
        self.idle_disconnects = 0
        self.snapshots = 0
        self.expiration_sweeps = 0
        self.expired_keys_removed = 0
        self.slow_commands = 0
        self.entries_replayed = 0
        self.reads_at_once = 0
        self.reads_behind_writes = 0
        self.write_batches = 0
        self.writes_batched = 0
        self.write_batch_commands_max = 0
        self.apply_lag = 0
        self.clock_offset_ms = 0

    def values(self) -> Iterable[tuple[MetricSpec, int]]:
        """Return every metric with its present value, in the order of METRICS."""
        specs = (*METRICS, _CLOCK_OFFSET) if self.clock_offset_ms else METRICS
        return ((spec, getattr(self, spec.attribute)) for spec in specs)

    def exposition(self) -> str:
        """Return the text of METRICS PROM: three lines a metric, no line end after the last."""
        lines = []
        for spec, value in self.values():
            name = spec.name.replace(".", "_")
            lines.append(f"# HELP {name} {spec.help} Unit: {spec.unit}.")
            lines.append(f"# TYPE {name} {spec.kind}")
            lines.append(f"{name} {value}")
        return "\n".join(lines)
