"""The whole simulation: a time of faults, a time of healing, and the checks at the end."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from vaylix_replication import Configuration
from vaylix_replication.testing.simulation.checks import Checks, ViolationError, is_leader
from vaylix_replication.testing.simulation.clients import (
    Client,
    Operation,
    OperationKind,
    histories_are_linearizable,
)
from vaylix_replication.testing.simulation.happenings import Happening
from vaylix_replication.testing.simulation.nemesis import Nemesis
from vaylix_replication.testing.simulation.network import Network
from vaylix_replication.testing.simulation.process import Process
from vaylix_replication.testing.simulation.schedule import MILLISECOND, Schedule

if TYPE_CHECKING:
    from vaylix_replication import Message
    from vaylix_replication.testing.simulation.options import SimulationOptions

__all__ = ["QUICK_TIMEOUTS", "Report", "Simulation", "simulate"]

# From the healing to a leader, in maximal election timeouts: what 99 of 100 seeds keep, and all.
QUICK_TIMEOUTS = 2
_TIMEOUTS_MAX = 10

_ELECTION_TICKS_MAX = 20
_CONVERGENCE_MS = 5000


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run without a violation has seen. `answered`: operations that got an answer."""

    event_count: int
    operation_count: int
    answered_count: int
    term: int
    # Maximal election timeouts from the healing to a leader that has committed.
    leader_after_timeouts: float
    # How often each kind of thing has happened; what has not is not there.
    happenings: dict[Happening, int] = {}

    @property
    def is_quick(self) -> bool:
        """Whether the leader came as soon as it must in 99 of 100 runs."""
        return self.leader_after_timeouts <= QUICK_TIMEOUTS


class Simulation:
    """All nodes, all clients, and a seed that decides everything."""

    def __init__(self, options: SimulationOptions) -> None:
        self.options = options
        self.schedule = Schedule()
        self.checks = Checks()
        self.happenings: Counter[Happening] = Counter()
        # The newest version of the semantics that any log may hold.
        self.semantics_version = 1
        self.faulty = True
        self.clients_work = True
        self.operations: dict[int, Operation] = {}
        self._operation_count = 0
        self._random = self.source("cluster")
        self.network = Network(
            options, self.source("network"), self.schedule, self._deliver, self.happenings
        )
        self.node_ids = [chr(ord("a") + n) for n in range(options.voters + options.spares)]
        first = self.node_ids[: options.voters]
        configuration = Configuration.of_voters({n: f"{n}:9173" for n in first})
        self.processes: dict[str, Process] = {}
        for node_id in first:
            self.processes[node_id] = Process(self, node_id, configuration)
        self.clients = [Client(self, self.source(f"client {n}")) for n in range(options.clients)]
        self.nemesis = Nemesis(self)

    # -- What the parts need of each other ------------------------------------------------------

    def source(self, part: str) -> random.Random:
        """Return the randomness of one part: what another part draws does not move it."""
        return random.Random(f"{self.options.seed} {part}")  # noqa: S311 - a seed decides

    def _deliver(self, recipient: str, message: Message) -> None:
        process = self.processes.get(recipient)
        if process is not None:
            process.receive(message)

    def start_spare(self, node_id: str) -> None:
        """Start a node that knows nobody yet, unless it runs or has run already."""
        if node_id not in self.processes:
            self.processes[node_id] = Process(self, node_id, Configuration())

    def crash_and_restart(self, process: Process, *, in_cut: bool = False) -> None:
        """End a process and start it again after a while."""
        if process.alive:
            self.happenings[Happening.CRASH] += 1
            process.crash(in_cut=in_cut)
            delay_us = int(self._random.uniform(1, 500) * MILLISECOND)
            self.schedule.after(delay_us, self._restart, process)

    def _restart(self, process: Process) -> None:
        if not process.alive:
            process.start()

    def new_operation(self, client: Client, kind: OperationKind, key: int) -> Operation:
        """Make an operation of the history."""
        self._operation_count += 1
        operation = Operation(self._operation_count, client, kind, key)
        self.operations[operation.number] = operation
        return operation

    def forget_operation(self, operation: Operation) -> None:
        """Take an operation out of the history that has certainly not happened."""
        del self.operations[operation.number]

    # -- The run --------------------------------------------------------------------------------

    def run(self) -> Report:
        """Run to the end; raises `ViolationError` when a promise is broken."""
        self.schedule.run_until(self.options.duration_ms * MILLISECOND)
        self._heal()
        elected_after = self._await_leader()
        self.schedule.run_until(self.schedule.now + 200 * MILLISECOND)
        self.clients_work = False
        self._await_convergence()
        self._check_histories()
        return Report(
            event_count=self.schedule.event_count,
            operation_count=len(self.operations),
            answered_count=sum(o.end is not None for o in self.operations.values()),
            term=max(process.raft.term for process in self.processes.values()),
            leader_after_timeouts=elected_after,
            happenings=dict(self.happenings),
        )

    def _heal(self) -> None:
        self.faulty = False
        self.network.heal()
        for process in self.processes.values():
            process.paused_until = 0
            if self.options.power_cut and process.alive:
                self.happenings[Happening.POWER_CUT] += 1
                process.crash()
            self._complete_upgrade(process)
            self._restart(process)

    def _complete_upgrade(self, process: Process) -> None:
        """Let a node speak what may be in its log: otherwise it waits there, as it must."""
        if process.semantics_version_max < self.semantics_version:
            process.semantics_version_max = self.semantics_version
            if process.alive:
                process.crash()

    def _settled_leader(self) -> Process | None:
        """Return the leader of the newest term that has committed something of its own."""
        leaders = [p for p in self.processes.values() if is_leader(p)]
        leader = max(leaders, key=lambda p: p.raft.term, default=None)
        if leader is None or leader.raft.term_at(leader.raft.commit) != leader.raft.term:
            return None
        return leader

    def _await_leader(self) -> float:
        begin = self.schedule.now
        timeout_us = _ELECTION_TICKS_MAX * self.options.tick_ms * MILLISECOND
        while self._settled_leader() is None:
            self.schedule.run_until(self.schedule.now + MILLISECOND)
            if self.schedule.now - begin > _TIMEOUTS_MAX * timeout_us:
                detail = f"no leader within {_TIMEOUTS_MAX} election timeouts"
                raise ViolationError("liveness", detail)
        return (self.schedule.now - begin) / timeout_us

    def _await_convergence(self) -> None:
        end = self.schedule.now + _CONVERGENCE_MS * MILLISECOND
        while not self._has_converged():
            self.schedule.run_until(self.schedule.now + 10 * MILLISECOND)
            if self.schedule.now > end:
                raise ViolationError("liveness", "the nodes do not converge")

    def _has_converged(self) -> bool:
        leader = self._settled_leader()
        if leader is None:
            return False
        status = leader.raft.status()
        if status.commit != status.last_index:
            return False
        members = [member.node_id for member in status.configuration.members]
        return all(self.processes[n].raft.status().applied == status.commit for n in members)

    def _check_histories(self) -> None:
        operations = list(self.operations.values())
        for key in range(self.options.keys):
            if not histories_are_linearizable(operations, key):
                raise ViolationError("linearizability", f"the history of key {key}")


def simulate(options: SimulationOptions) -> Report:
    """Run one simulation; whatever goes wrong carries the options."""
    try:
        return Simulation(options).run()
    except Exception as error:
        error.add_note(f"{options}")
        raise
