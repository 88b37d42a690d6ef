"""The whole simulation: a time of faults, a time of healing, and the checks at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vaylix_replication import Configuration
from vaylix_replication.testing.simulation.checks import ViolationError
from vaylix_replication.testing.simulation.clients import Client
from vaylix_replication.testing.simulation.happenings import Happening
from vaylix_replication.testing.simulation.nemesis import Nemesis
from vaylix_replication.testing.simulation.process import Process
from vaylix_replication.testing.simulation.schedule import MILLISECOND
from vaylix_replication.testing.simulation.world import World

if TYPE_CHECKING:
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
        world = self._world = World(options)
        self.schedule = world.schedule
        self.network = world.network
        self.happenings = world.happenings
        self.processes: dict[str, Process] = {}
        self._nemesis = Nemesis(world, self.processes)
        first = world.node_ids[: options.voters]
        configuration = Configuration.of_voters({n: f"{n}:9173" for n in first})
        for node_id in first:
            self.processes[node_id] = Process(world, node_id, configuration, self._nemesis)
        self._clients = [Client(world, self.processes, n) for n in range(options.clients)]
        self._nemesis.begin()

    @property
    def semantics_version(self) -> int:
        """The newest version of the semantics that any log may hold."""
        return self._nemesis.semantics_version

    def run(self) -> Report:
        """Run to the end; raises `ViolationError` when a promise is broken."""
        self.schedule.run_until(self.options.duration_ms * MILLISECOND)
        self._heal()
        elected_after = self._await_leader()
        self.schedule.run_until(self.schedule.now + 200 * MILLISECOND)
        for client in self._clients:
            client.works = False
        self._await_convergence()
        self._check_histories()
        operations = self._world.history.operations.values()
        return Report(
            event_count=self.schedule.event_count,
            operation_count=len(operations),
            answered_count=sum(operation.end is not None for operation in operations),
            term=max(process.raft.term for process in self.processes.values()),
            leader_after_timeouts=elected_after,
            happenings=dict(self.happenings),
        )

    def _heal(self) -> None:
        self._world.faulty = False
        self.network.heal()
        for process in self.processes.values():
            process.paused_until = 0
            if self.options.power_cut and process.alive:
                self.happenings[Happening.POWER_CUT] += 1
                process.crash()
            self._complete_upgrade(process)
            process.start()

    def _complete_upgrade(self, process: Process) -> None:
        """Let a node speak what may be in its log: otherwise it waits there, as it must."""
        if process.semantics_version_max < self.semantics_version:
            process.semantics_version_max = self.semantics_version
            if process.alive:
                process.crash()

    def _settled_leader(self) -> Process | None:
        """Return the leader of the newest term that has committed something of its own."""
        leaders = [p for p in self.processes.values() if p.is_leader]
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
        for key in range(self.options.keys):
            if not self._world.history.is_linearizable(key):
                raise ViolationError("linearizability", f"the history of key {key}")


def simulate(options: SimulationOptions) -> Report:
    """Run one simulation; whatever goes wrong carries the options."""
    try:
        return Simulation(options).run()
    except Exception as error:
        error.add_note(f"{options}")
        raise
