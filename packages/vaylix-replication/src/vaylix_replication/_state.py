"""Everything a node knows, and the few moves that every part of the algorithm shares.

The rules live in modules of their own, as functions over this state: `_elections`, `_following`,
`_leading`, `_sending`, `_reading`, `_changes`. `_node` holds the table of who handles what.

Why a message may have to wait
------------------------------

A node may forget, in a crash, everything it has not vouched for. Vouching is done by messages:
a granted vote, an accepted append, a request for votes (it vouches for the log whose end it
names). Each of these waits for the disk. Everything else would do no harm if the sender forgot
it ever happened, with one exception: its term. So whatever is sent while the term itself is not
durable waits too. A leader's term always is, because it was elected by votes of that term, its
own included; so its appends and heartbeats never wait.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from vaylix_replication._batch import Batch, BatchKind
from vaylix_replication._configuration import Configuration, MemberKind
from vaylix_replication._history import History
from vaylix_replication._log import RaftLog
from vaylix_replication._writes import Writes
from vaylix_replication.errors import CorruptionError, UnknownSemanticsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_replication._progress import Progress
    from vaylix_replication._ready import Outgoing, ReadState, SnapshotChunk
    from vaylix_replication._settings import Restored, Settings
    from vaylix_replication.messages import Message
    from vaylix_replication.ports import LogReader, SnapshotMeta, SnapshotReader

__all__ = ["LeaderState", "LeaseOffer", "NodeState", "RemoteRead", "Role"]

# Leaves room above for more questions than a life can ask.
_FIRST_QUESTION_MAX = 2**62


class Role(IntEnum):
    """What a node is doing. A learner is a follower that the membership gives no voice."""

    FOLLOWER = 0
    # Asks whether an election could be won, without disturbing anybody (dissertation 9.6).
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class WaitingRead:
    """A read that waits for a round: who asked, and what for."""

    __slots__ = ("context", "origin")

    def __init__(self, origin: str | None, context: int) -> None:
        # None: asked here. Otherwise the follower that asked, and the number of its question.
        self.origin = origin
        self.context = context


class RemoteRead(NamedTuple):
    """A read that the leader was asked about: what for, and at which tick."""

    context: int
    asked_tick: int


class ReadRound:
    """Reads that one confirmation of leadership answers together."""

    __slots__ = ("index", "number", "reads", "time_ms")

    def __init__(self, number: int, index: int, time_ms: int, reads: list[WaitingRead]) -> None:
        self.number = number
        self.index = index
        self.time_ms = time_ms
        self.reads = reads


class LeaseOffer(NamedTuple):
    """The lease, and the time, that the confirmation of a round gives."""

    number: int
    deadline: int
    time_ms: int


class LeaderState:
    """What exists only while leading, and is thrown away as a whole afterwards.

    Always: `peers` holds every member but this node. `round` grows with every heartbeat and every
    group of reads. `lease_end` is void once `lease_forfeited` is set, which holds to the end of
    the term.
    """

    __slots__ = (
        "appends_due",
        "backlog",
        "backlog_bytes",
        "confirmed_time_ms",
        "heartbeat_elapsed",
        "lease_end",
        "lease_forfeited",
        "lease_offers",
        "own_term_index",
        "peers",
        "reads_waiting",
        "reads_waiting_count",
        "round",
        "rounds",
        "transfer_elapsed",
        "transferee",
    )

    def __init__(self, own_term_index: int) -> None:
        # The no-op of this term; nothing is committed or read before it is.
        self.own_term_index = own_term_index
        self.peers: dict[str, Progress] = {}
        self.heartbeat_elapsed = 0
        # Whether something was appended that the peers have not been sent yet.
        self.appends_due = False
        # (last index, cost) of what this leader has proposed and not committed.
        self.backlog: deque[tuple[int, int]] = deque()
        self.backlog_bytes = 0
        self.round = 0
        self.reads_waiting: list[WaitingRead] = []
        self.reads_waiting_count = 0
        self.rounds: deque[ReadRound] = deque()
        # The latest time that a majority has heard, so that no successor begins before it.
        self.confirmed_time_ms = 0
        # Leases that rounds on their way would give.
        self.lease_offers: deque[LeaseOffer] = deque()
        self.lease_end: int | None = None
        self.lease_forfeited = False
        self.transferee: str | None = None
        self.transfer_elapsed = 0


class NodeState:
    """The state of one node.

    Always: `applied <= handed_out <= commit <= log.last_index`, and `handed_out` does not pass
    the durable log: the applied state is never ahead of the own disk. `leading` is set exactly
    while the role is LEADER. `vote` is the vote of `term`.
    """

    __slots__ = (
        "applied",
        "chunks",
        "cluster_id",
        "commit",
        "configurations",
        "confirmed_reads",
        "contact_elapsed",
        "draw",
        "dropped_reads",
        "election_elapsed",
        "election_timeout",
        "handed_out",
        "incoming",
        "incoming_bytes",
        "installing",
        "joining",
        "known",
        "leader_id",
        "leading",
        "log",
        "messages",
        "messages_after_write",
        "next_question",
        "node_id",
        "remote_reads",
        "role",
        "semantics",
        "settings",
        "snapshots",
        "term",
        "tick",
        "time_ms",
        "vote",
        "voters",
        "votes",
        "writes",
    )

    def __init__(
        self,
        settings: Settings,
        restored: Restored,
        reader: LogReader,
        snapshots: SnapshotReader,
        draw: Callable[[int, int], int],
    ) -> None:
        settings.validate()
        snapshot, hard_state = restored.snapshot, restored.hard_state
        # A version in the log is a barrier that may be waited at. The snapshot is behind it.
        if snapshot.semantics_version > settings.semantics_version_max:
            raise UnknownSemanticsError(
                f"the snapshot at index {snapshot.index} is of version "
                f"{snapshot.semantics_version}, this node speaks {settings.semantics_version_max}"
            )
        self.settings = settings
        self.snapshots = snapshots
        self.draw = draw
        self.cluster_id = settings.cluster_id
        self.node_id = settings.node_id
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.log = RaftLog(reader, snapshot, settings.window_bytes_max)
        self.configurations = History(snapshot.index, snapshot.configuration)
        self.semantics = History(snapshot.index, snapshot.semantics_version)
        self.voters: tuple[str, ...] = ()
        self.known: frozenset[str] = frozenset()
        self.joining: frozenset[str] = frozenset()
        for batch in self.log.load():
            self.note_special(batch)
        self.refresh_configuration()
        self.writes = Writes(hard_state.term, hard_state.vote)
        self.commit = max(snapshot.index, hard_state.commit)
        if self.commit > self.log.last_index or self.term < self.log.last_term:
            raise CorruptionError("the log is older than the term and commit point beside it")
        self.handed_out = self.applied = snapshot.index
        self.role = Role.FOLLOWER
        self.leader_id: str | None = None
        self.leading: LeaderState | None = None
        self.votes: dict[str, bool] = {}
        self.tick = 0
        # Since when no leader was heard. A restarted node may have acknowledged a heartbeat just
        # before, on which a lease rests; so it begins as if it had heard one now.
        self.contact_elapsed = 0
        self.election_elapsed = 0
        self.election_timeout = 0
        self.reset_election_timer()
        # The latest time that any leader has told; reads and writes never go behind it.
        self.time_ms = self.log.time_ms_at(self.log.last_index)
        self.incoming: SnapshotMeta | None = None
        self.incoming_bytes = 0
        # A snapshot that has replaced the log here and is to be installed by the next write.
        self.installing: SnapshotMeta | None = None
        self.chunks: list[SnapshotChunk] = []
        self.messages: list[Outgoing] = []
        self.messages_after_write: list[Outgoing] = []
        # What a follower has asked its leader, oldest first, by the number of the question. The
        # first number is drawn, so that a late answer to a former life answers nothing in this one.
        self.remote_reads: dict[int, RemoteRead] = {}
        self.next_question = draw(0, _FIRST_QUESTION_MAX)
        # Confirmed reads whose index may not be applied yet, by ascending index per leader.
        self.confirmed_reads: list[ReadState] = []
        self.dropped_reads: list[int] = []

    def check_invariants(self) -> None:
        """Assert what holds between any two calls, whatever came in."""
        log, handed_out = self.log, self.handed_out
        assert self.applied <= handed_out <= self.commit <= log.last_index
        # What is handed out is on the disk, or it is a snapshot that is on its way there.
        assert handed_out <= log.durable_index or log.durable_index == 0
        assert log.last_term <= self.term
        assert (self.leading is None) is not (self.role is Role.LEADER)

    # -- Sending ------------------------------------------------------------------------------

    def send(self, recipient: str, message: Message) -> None:
        """Send what vouches for nothing but the term."""
        if self.writes.durable_term == self.term:
            self.messages.append((recipient, message))
        else:
            self.messages_after_write.append((recipient, message))

    def send_after_write(self, recipient: str, message: Message) -> None:
        """Send what vouches for the log or the vote, when they are durable."""
        self.messages_after_write.append((recipient, message))

    # -- Roles and terms ----------------------------------------------------------------------

    def become_follower(self, term: int, leader_id: str | None) -> None:
        """Follow, in `term`, which is not older than the present one."""
        assert term >= self.term
        if self.leading is not None:
            # Whoever follows now has answered nobody's heartbeat: its word is free again. The
            # lease it may have had is gone with its leadership.
            self.contact_elapsed = self.settings.election_ticks_min + 1
        if term > self.term:
            self.term = term
            self.vote = None
        if leader_id != self.leader_id or self.leading is not None:
            self.drop_reads()
        self.role = Role.FOLLOWER
        self.leading = None
        self.leader_id = leader_id
        self.votes.clear()
        self.reset_election_timer()

    def heard_leader(self) -> None:
        """Note that the leader of the present term was heard."""
        self.contact_elapsed = 0
        self.election_elapsed = 0

    def reset_election_timer(self) -> None:
        """Draw a new timeout: above the minimum, within which voters refuse, up to the maximum."""
        self.election_elapsed = 0
        settings = self.settings
        self.election_timeout = self.draw(
            settings.election_ticks_min + 1, settings.election_ticks_max
        )

    def drop_reads(self) -> None:
        """Give up every read that is not confirmed yet."""
        if self.leading is not None:
            leading = self.leading
            for read_round in leading.rounds:
                self.refuse_reads(read_round.reads)
            self.refuse_reads(leading.reads_waiting)
            leading.rounds.clear()
            leading.reads_waiting = []
            leading.reads_waiting_count = 0
        self.dropped_reads.extend(read.context for read in self.remote_reads.values())
        self.remote_reads.clear()

    def refuse_reads(self, reads: list[WaitingRead]) -> None:
        """Drop the own ones; a follower that asked notices the change of the leader itself."""
        self.dropped_reads.extend(read.context for read in reads if read.origin is None)

    # -- Membership and semantics -------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """The membership in force: the latest in the log, committed or not."""
        return self.configurations.latest

    def is_stranger(self, node_id: str) -> bool:
        """Tell whether the membership does not know this node, while it knows any at all."""
        return bool(self.known) and node_id not in self.known

    def refresh_configuration(self) -> None:
        """Recompute what is derived from the membership."""
        members = self.configurations.latest.members
        self.voters = tuple(m.node_id for m in members if m.kind is MemberKind.VOTER)
        self.known = frozenset(m.node_id for m in members)
        self.joining = frozenset(m.node_id for m in members if m.kind is MemberKind.JOINING)

    def note_special(self, batch: Batch) -> None:
        """Let a configuration or a version of the semantics take effect."""
        if batch.kind == BatchKind.CONFIGURATION:
            try:
                configuration = Configuration.decode(batch.payload)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise CorruptionError(f"entry {batch.first_index}: {error}") from error
            self.configurations.append(batch.first_index, configuration)
        elif batch.kind == BatchKind.SEMANTICS:
            self.semantics.append(batch.first_index, int.from_bytes(batch.payload, "big"))

    @property
    def semantics_barrier(self) -> int | None:
        """The index of the first entry in the log that this node must not pass, if any."""
        for index, version in self.semantics.after(self.applied):
            if version > self.settings.semantics_version_max:
                return index
        return None

    # -- The log ------------------------------------------------------------------------------

    def append(self, batch: Batch) -> None:
        """Append one batch; a change of the membership takes effect now."""
        self.log.append(batch)
        self.time_ms = max(self.time_ms, batch.timestamp_ms)
        if batch.kind in (BatchKind.CONFIGURATION, BatchKind.SEMANTICS):
            self.note_special(batch)
            self.refresh_configuration()

    def truncate_after(self, index: int) -> None:
        """Cut a conflict; a change of the membership in it is undone."""
        if index < self.commit:
            raise CorruptionError(
                f"the leader of term {self.term} contradicts this log behind index {index}, "
                f"but everything up to {self.commit} is committed"
            )
        self.log.truncate_after(index)
        self.configurations.truncate_after(index)
        self.semantics.truncate_after(index)
        self.refresh_configuration()

    def commit_to(self, index: int) -> None:
        """Move the commit point forward, never back."""
        assert index <= self.log.last_index
        self.commit = max(self.commit, index)
