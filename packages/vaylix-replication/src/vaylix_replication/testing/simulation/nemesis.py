"""Who breaks things: each kind of fault on its own clock, each fault healed after a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_replication import Configuration, Join, JoinAsLearner, Leave, MemberKind
from vaylix_replication.errors import RefusedError
from vaylix_replication.testing.simulation.happenings import Happening
from vaylix_replication.testing.simulation.process import SEMANTICS_VERSION_MAX, Process
from vaylix_replication.testing.simulation.schedule import MILLISECOND

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_replication import MembershipChange
    from vaylix_replication.testing.simulation.world import World

__all__ = ["Nemesis"]


class Nemesis:
    """Breaks, until the simulation is healed; what was still to come then does not come."""

    def __init__(self, world: World, processes: dict[str, Process]) -> None:
        self._world = world
        self._options = world.options
        self._network = world.network
        self._happenings = world.happenings
        self._random = world.source("nemesis")
        self._processes = processes
        # The newest version of the semantics that any log may hold.
        self.semantics_version = 1
        # The leader whose change of the membership nobody has heard of, see `_rival`.
        self._first_rival: Process | None = None

    def begin(self) -> None:
        """Set every kind of fault on its clock."""
        options = self._options
        self._repeat(options.crash_interval_ms, self._crash)
        self._repeat(options.partition_interval_ms, self._partition)
        self._repeat(options.pause_interval_ms, self._pause)
        self._repeat(options.transfer_interval_ms, self._transfer)
        self._repeat(options.membership_interval_ms, self._change_membership)
        self._repeat(options.clock_jump_interval_ms, self._jump_clock)
        self._repeat(options.campaign_interval_ms, self._campaign)
        self._repeat(options.semantics_interval_ms, self._raise_semantics)

    def _repeat(self, interval_ms: int, action: Callable[[], None]) -> None:
        """Let something happen again and again, at random times."""
        if interval_ms:
            delay_us = int(self._random.random() * 2 * interval_ms * MILLISECOND)
            self._later(delay_us, self._act, interval_ms, action)

    def _act(self, interval_ms: int, action: Callable[[], None]) -> None:
        action()
        self._repeat(interval_ms, action)

    def _later(self, delay_us: int, action: Callable[..., None], *arguments: object) -> None:
        """Let something happen after a while, unless everything is healed by then."""
        self._world.schedule.after(delay_us, self._unless_healed, action, arguments)

    def _unless_healed(self, action: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if self._world.faulty:
            action(*arguments)

    def leader_elected(self, process: Process) -> None:
        """Let trouble come when it hurts: before a new leader has told anybody, or just after."""
        if not self._world.faulty:
            return
        if self._options.membership_interval_ms and self._random.random() < 0.3:
            # Long before it may: nothing of its own term is committed yet.
            self._later(0, self._change_membership_on, process)
        delay_us = int(self._random.random() ** 2 * 40 * MILLISECOND)
        if self._options.rolling_isolation:
            self._later(delay_us, self._roll, process)
        elif self._options.rival_changes:
            self._rival(process)
        elif self._random.random() < self._options.leader_trouble:
            action = self._random.choice((self._isolate_node, self._crash_leader))
            self._later(delay_us, action, process)

    def handing_over(self, process: Process) -> None:
        """Let an old leader miss that it has a successor."""
        if self._world.faulty and self._random.random() < self._options.deaf_transfer:
            self._happenings[Happening.DEAF_TRANSFER] += 1
            self._cut({(other, process.node_id) for other in self._processes})

    def log_cut(self, process: Process) -> None:
        """Let a node crash while it replaces the end of its log."""
        if self._random.random() < self._options.cut_trouble:
            delay_us = int(self._random.random() ** 2 * self._options.sync_ms_max * MILLISECOND)
            self._later(delay_us, self._crash_in_cut, process)

    # -- Processes ------------------------------------------------------------------------------

    def _any_or_leader(self) -> Process:
        leaders = [p for p in self._processes.values() if p.is_leader]
        hits_leader = leaders and self._random.random() < 0.5
        return self._random.choice(leaders if hits_leader else list(self._processes.values()))

    def _crash_leader(self, process: Process) -> None:
        if process.alive:
            self._happenings[Happening.CRASH_OF_LEADER] += 1
            process.crash_and_restart()

    def _crash_in_cut(self, process: Process) -> None:
        if process.alive:
            self._happenings[Happening.CRASH_IN_CUT] += 1
            process.crash_and_restart(in_cut=self._random.random() < 0.5)

    def _crash(self) -> None:
        if self._random.random() < 0.1:
            self._happenings[Happening.CRASH_OF_ALL] += 1
            for process in self._processes.values():
                process.crash_and_restart()
        else:
            self._any_or_leader().crash_and_restart()

    def _pause(self) -> None:
        duration_us = int(self._random.uniform(20, 500) * MILLISECOND)
        process = self._any_or_leader()
        process.pause(duration_us)
        self._happenings[Happening.PAUSE] += 1
        self._perhaps_set_clock(process)

    def _jump_clock(self) -> None:
        self._set_clock(self._any_or_leader())

    def _perhaps_set_clock(self, process: Process) -> None:
        """Set the clock when something else is wrong too: that is when clocks are set."""
        if self._options.clock_jump_interval_ms and self._random.random() < 0.5:
            self._set_clock(process)

    def _set_clock(self, process: Process) -> None:
        self._happenings[Happening.CLOCK_JUMP] += 1
        process.wall_offset_ms = self._random.randint(-5000, 5000)

    # -- Links ----------------------------------------------------------------------------------

    def _partition(self) -> None:
        """Cut links in one of several shapes, and heal them after a while."""
        nodes = list(self._processes)
        self._random.shuffle(nodes)
        shape = self._random.choice(
            (self._isolate, self._halve, self._one_way, self._bridge, self._swizzle)
        )
        shape(nodes)

    def _cut(
        self, links: set[tuple[str, str]], shortest_ms: float = 50, longest_ms: float = 700
    ) -> None:
        duration_us = int(self._random.uniform(shortest_ms, longest_ms) * MILLISECOND)
        self._network.cut(links)
        self._later(duration_us, self._mend, links)

    def _mend(self, links: set[tuple[str, str]]) -> None:
        self._network.cut_links -= links

    def _isolate(self, nodes: list[str]) -> None:
        leaders = [p for p in self._processes.values() if p.is_leader]
        alone = leaders[0] if leaders and self._random.random() < 0.7 else None
        self._isolate_node(alone or self._processes[nodes[0]])

    def _roll(self, process: Process) -> None:
        self._happenings[Happening.ROLLING_ISOLATION] += 1
        self._network.cut_links.clear()
        self._network.cut(_links_of(process.node_id, list(self._processes)))

    def _rival(self, leader: Process) -> None:
        """Let two leaders, one after the other, each remove a member without the other.

        The first appends its change when nobody hears it any more. Its successor removes one too,
        as soon as it leads, and each of the two is left with one half of the nodes: whoever could
        commit with such a half would contradict the other.
        """
        first, self._first_rival = self._first_rival, None
        if first is None or first is leader or not first.alive:
            self._remove_unheard_soon(leader)
            return
        self._divide(first.node_id, leader.node_id)
        self._later(0, self._remove_another, leader)

    def _remove_unheard_soon(self, leader: Process) -> None:
        delay_us = int(self._random.uniform(10, 100) * MILLISECOND)
        self._later(delay_us, self._remove_unheard, leader)

    def _remove_unheard(self, leader: Process) -> None:
        if not leader.is_leader:
            return
        if leader.raft.term_at(leader.raft.commit) != leader.raft.term:
            # It must have committed something of its own term before it may change anything.
            self._remove_unheard_soon(leader)
        else:
            self._first_rival = leader
            self._network.cut_links.clear()
            self._cut(_links_of(leader.node_id, list(self._processes)), 300, 1000)
            self._remove_another(leader)

    def _remove_another(self, leader: Process) -> None:
        members = leader.raft.status().configuration.members
        others = sorted(m.node_id for m in members if m.node_id != leader.node_id)
        if others:
            self._propose_change(leader, Leave(self._random.choice(others)))

    def _divide(self, first: str, second: str) -> None:
        """Put two nodes into different halves for long enough to elect somebody in each."""
        rest = [n for n in self._processes if n not in (first, second)]
        self._random.shuffle(rest)
        half = len(rest) // 2
        self._happenings[Happening.RIVAL_CHANGES] += 1
        self._network.cut_links.clear()
        self._cut(_links_between([first, *rest[:half]], [second, *rest[half:]]), 300, 1000)

    def _isolate_node(self, process: Process) -> None:
        self._happenings[Happening.ISOLATION] += 1
        self._perhaps_set_clock(process)
        self._cut(_links_of(process.node_id, list(self._processes)))

    def _halve(self, nodes: list[str]) -> None:
        self._happenings[Happening.HALVES] += 1
        self._cut_in_the_middle(nodes)

    def _cut_in_the_middle(self, nodes: list[str]) -> None:
        self._cut(_links_between(nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]))

    def _one_way(self, nodes: list[str]) -> None:
        left = nodes[: self._random.randint(1, len(nodes))]
        self._happenings[Happening.ONE_WAY] += 1
        self._cut({(a, b) for a in left for b in nodes if a != b and b not in left})

    def _bridge(self, nodes: list[str]) -> None:
        """Let two halves see each other only through one node that sees both."""
        self._happenings[Happening.BRIDGE] += 1
        self._cut_in_the_middle(nodes[1:])

    def _swizzle(self, nodes: list[str]) -> None:
        """Cut the nodes off one after the other and let them back in another order."""
        self._happenings[Happening.SWIZZLE] += 1
        for node in nodes:
            delay_us = int(self._random.uniform(0, 200) * MILLISECOND)
            self._later(delay_us, self._cut, _links_of(node, nodes))

    # -- Administration -------------------------------------------------------------------------

    def _leaders(self) -> list[Process]:
        return [p for p in self._processes.values() if p.is_leader and p.reachable]

    def _transfer(self) -> None:
        for leader in self._leaders():
            voters = leader.raft.status().configuration.voters
            try:
                leader.raft.transfer_leadership(self._random.choice(voters))
            except RefusedError:
                continue
            self._happenings[Happening.TRANSFER] += 1
            leader.pump()

    def _campaign(self) -> None:
        """Let some nodes stand for election because somebody wishes it."""
        for process in list(self._processes.values()):
            if self._random.random() < 0.5 or not process.reachable or process.is_leader:
                continue
            try:
                process.raft.campaign()
            except RefusedError:
                continue
            self._happenings[Happening.CAMPAIGN] += 1
            process.pump()

    def _raise_semantics(self) -> None:
        """Raise the semantics, or upgrade a node as long as a voter does not speak the next."""
        for leader in self._leaders():
            version = leader.raft.status().semantics_version + 1
            index = leader.raft.next_index
            try:
                if leader.raft.propose_semantics(version) < index:
                    continue
            except RefusedError:
                continue
            self._happenings[Happening.SEMANTICS] += 1
            self.semantics_version = max(self.semantics_version, version)
            leader.pump()
            return
        oldest = min(self._processes.values(), key=lambda p: p.semantics_version_max)
        if oldest.semantics_version_max < SEMANTICS_VERSION_MAX:
            self._happenings[Happening.UPGRADE] += 1
            oldest.semantics_version_max += 1
            oldest.crash_and_restart()

    def _change_membership(self) -> None:
        for leader in self._leaders():
            self._change_membership_on(leader)

    def _change_membership_on(self, leader: Process) -> None:
        self._propose_change(leader, self._choose_change(leader.raft.status().configuration))

    def _propose_change(self, leader: Process, change: MembershipChange) -> None:
        if not (leader.is_leader and leader.reachable):
            return
        index = leader.raft.next_index
        try:
            if leader.raft.propose_membership(change) < index:
                return
        except RefusedError:
            return
        self._happenings[Happening.CHANGE] += 1
        if isinstance(change, JoinAsLearner):
            self._happenings[Happening.LEARNER] += 1
        leader.pump()

    def _choose_change(self, configuration: Configuration) -> MembershipChange:
        present = {member.node_id for member in configuration.members}
        absent = sorted(set(self._world.node_ids) - present)
        if absent and self._random.random() < 0.6:
            node_id = self._random.choice(absent)
            if node_id not in self._processes:
                # A node that knows nobody yet, and runs from now on.
                self._processes[node_id] = Process(self._world, node_id, Configuration(), self)
            kind = self._random.choice((Join, Join, JoinAsLearner))
            return kind(node_id, f"{node_id}:9173")
        learners = [m for m in configuration.members if m.kind is MemberKind.LEARNER]
        if learners and self._random.random() < 0.5:
            return Join(learners[0].node_id, learners[0].address)
        return Leave(self._random.choice(sorted(present)))


def _links_of(node: str, nodes: list[str]) -> set[tuple[str, str]]:
    return {link for other in nodes for link in ((node, other), (other, node))}


def _links_between(left: list[str], right: list[str]) -> set[tuple[str, str]]:
    return {link for a in left for b in right for link in ((a, b), (b, a))}
