"""The node: the one object that a driver talks to, and the table of who handles what.

Every message first has its term compared with the node's (`_admit`), and then goes to the handler
of its kind for the present role. What is not in the table is ignored: replies to questions that
are no longer asked.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from vaylix_replication import (
    _changes,
    _elections,
    _following,
    _leading,
    _proposing,
    _reading,
    _sending,
)
from vaylix_replication._ack_modes import AckProgress
from vaylix_replication._batch import Batch
from vaylix_replication._configuration import Configuration, MembershipChange
from vaylix_replication._progress import ProgressMode
from vaylix_replication._ready import Ready, Write
from vaylix_replication._settings import Restored, Settings
from vaylix_replication._state import NodeState, Role
from vaylix_replication.errors import ForeignMessageError
from vaylix_replication.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    PreVote,
    PreVoteReply,
    ReadIndex,
    ReadIndexReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from vaylix_replication.ports import HardState, LogReader, SnapshotMeta, SnapshotReader

__all__ = ["PeerStatus", "RaftNode", "Status"]

# A handler takes the state and a message of the one kind it stands for in the table; that the
# two belong together is the table's word, which the type of a dict cannot express.
Handler = Callable[[NodeState, Any], None]

_ANYBODY: dict[type, Handler] = {
    PreVote: _elections.on_pre_vote,
    Vote: _elections.on_vote,
    ReadIndex: _reading.on_read_index,
}
_FROM_LEADER: dict[type, Handler] = {
    Append: _following.on_append,
    Heartbeat: _following.on_heartbeat,
    InstallSnapshot: _following.on_install_snapshot,
}
HANDLERS: dict[Role, dict[type, Handler]] = {
    Role.FOLLOWER: {
        **_ANYBODY,
        **_FROM_LEADER,
        TimeoutNow: _elections.on_timeout_now,
        ReadIndexReply: _reading.on_read_index_reply,
    },
    Role.PRE_CANDIDATE: {
        **_ANYBODY,
        **_FROM_LEADER,
        PreVoteReply: _elections.on_pre_vote_reply,
    },
    Role.CANDIDATE: {**_ANYBODY, **_FROM_LEADER, VoteReply: _elections.on_vote_reply},
    Role.LEADER: {
        **_ANYBODY,
        **dict.fromkeys(_FROM_LEADER, _following.on_rival),
        AppendReply: _leading.on_append_reply,
        HeartbeatReply: _leading.on_heartbeat_reply,
        InstallSnapshotReply: _leading.on_install_snapshot_reply,
    },
}


class PeerStatus(msgspec.Struct, frozen=True):
    """What a leader knows about another member. `contact_ticks`: since it was last heard."""

    node_id: str
    match: int
    mode: ProgressMode
    contact_ticks: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The node in figures, for operators; `peers` is empty unless it leads."""

    role: Role
    term: int
    vote: str | None
    leader_id: str | None
    commit: int
    applied: int
    durable_index: int
    last_index: int
    first_index: int
    time_ms: int
    configuration: Configuration
    configuration_index: int
    semantics_version: int
    # The first entry that this node must not pass because it does not speak its version.
    semantics_barrier: int | None
    receives_snapshot: bool
    transferee: str | None
    peers: tuple[PeerStatus, ...]


class RaftNode:
    """One member of a Raft group, as a pure state machine.

    `draw(low, high)` returns a random whole number from low to high, both included; it is the
    only randomness. `log` and `snapshots` are read, never written. Not thread-safe: all calls come
    from one thread. No call blocks, except that `log` and `snapshots` may read their disk.

    The driver's duties are numbered in docs/replication.md.

    Raises `SettingsError`, `UnknownSemanticsError` if the snapshot is of a version that this
    node does not speak, and `CorruptionError` if what is on the disk contradicts itself.
    """

    def __init__(
        self,
        settings: Settings,
        restored: Restored,
        *,
        log: LogReader,
        snapshots: SnapshotReader,
        draw: Callable[[int, int], int],
    ) -> None:
        self._state = NodeState(settings, restored, log, snapshots, draw)

    # -- Input --------------------------------------------------------------------------------

    def tick(self, *, lease_deadline: int | None = None, time_ms: int = 0) -> None:
        """Let one tick pass. After a pause call it once, not once for every tick missed.

        `lease_deadline` offers a lease: the time, on a clock that also runs while the machine is
        suspended, at which 0.8 of the minimal election timeout will have passed from now.
        `time_ms` is the time of the state machine, which heartbeats carry.
        """
        state = self._state
        state.tick += 1
        state.time_ms = max(state.time_ms, time_ms)
        if state.leading is not None:
            _leading.tick_leader(state, state.leading, lease_deadline)
        else:
            _elections.tick_follower(state)
            if state.remote_reads:
                _reading.drop_overdue_reads(state)

    def step(self, message: Message) -> None:
        """Take a message from a peer.

        Raises `ForeignMessageError` if it is not for this group, and `CorruptionError` if it
        proves that histories have parted; then the node must stop.
        """
        state = self._state
        if message.cluster_id != state.cluster_id:
            raise ForeignMessageError(f"a message for the group {message.cluster_id!r}")
        if message.sender == state.node_id:
            raise ForeignMessageError(f"a message that claims to come from {state.node_id!r}")
        if message.term != state.term and not _admit(state, message):
            return
        handler = HANDLERS[state.role].get(type(message))
        if handler is not None:
            handler(state, message)

    def propose(self, batch: Batch) -> None:
        """Append a batch, made for `next_index` in `term`. Leader only.

        Its time must not be before `time_ms`, its payload has at most 16 MiB. Raises a
        `RefusedError` when nothing was appended. What becomes of an appended batch shows
        in `Ready.committed`; if leadership is lost before, its outcome is unknown.
        """
        _proposing.propose(self._state, batch)

    def read_index(self, context: int) -> None:
        """Ask when a linearizable read may be answered; `context` comes back in a `Ready`.

        On a follower the leader is asked; the answer may get lost, so the caller needs a deadline.
        """
        _reading.read_index(self._state, context)

    def lease_index(self, now: int) -> int | None:
        """Return the index a read must have applied to be linearizable at `now` under the lease.

        None without a valid lease; then use `read_index`. Ask when the read is executed, and answer
        as of `confirmed_time_ms`.
        """
        return _reading.lease_index(self._state, now)

    def transfer_leadership(self, to: str) -> None:
        """Hand leadership to a voter, within one maximal election timeout or not at all."""
        _leading.transfer_leadership(self._state, to)

    def propose_membership(self, change: MembershipChange) -> int:
        """Append a change of the membership; it is complete when the returned index is committed.

        Raises `MembershipRefusedError`, or another `RefusedError`, when nothing was changed.
        """
        return _changes.propose_membership(self._state, change)

    def propose_semantics(self, version: int) -> int:
        """Append the switch to a version of the semantics that every voter speaks."""
        return _changes.propose_semantics(self._state, version)

    def campaign(self) -> None:
        """Stand for election at once. Raises `LeaderHeardError` while there is a leader."""
        _elections.campaign(self._state)

    # -- Output -------------------------------------------------------------------------------

    @property
    def has_ready(self) -> bool:
        """Whether `ready` would return anything to do."""
        state = self._state
        leading = state.leading
        return bool(
            state.messages
            or state.messages_after_write
            or self._needs_write()
            or (
                leading is not None
                and (leading.appends_due or _reading.may_begin_round(state, leading))
            )
            or (state.applied == state.handed_out < self._apply_limit())
            or state.chunks
            or state.dropped_reads
            or (state.confirmed_reads and state.confirmed_reads[0].index <= state.applied)
        )

    def ready(self) -> Ready:
        """Return everything to do since the last call; nothing of it is returned again."""
        state = self._state
        leading = state.leading
        if leading is not None:
            _reading.begin_round(state, leading)
            if leading.appends_due:
                leading.appends_due = False
                _sending.broadcast_appends(state, leading)
        ready = Ready(
            write=self._take_write(),
            messages=state.messages,
            messages_after_write=state.messages_after_write,
            committed=self._take_committed(),
            reads=_reading.take_applied_reads(state),
            reads_dropped=state.dropped_reads,
            snapshot_chunks=state.chunks,
        )
        state.messages = []
        state.messages_after_write = []
        state.dropped_reads = []
        state.chunks = []
        if ready.write is not None or ready.committed:
            state.check_invariants()
        return ready

    # -- Reports ------------------------------------------------------------------------------

    def persisted(self, index: int, term: int) -> None:
        """Report that the oldest unreported `Write`, which ends at `index`, is durable."""
        state = self._state
        write = state.writes.persisted(index, term, state.log)
        state.log.evict()
        if write.install is not None:
            state.applied = max(state.applied, write.install.index)
        _elections.count_own_vote(state)
        if state.leading is not None:
            _leading.own_log_durable(state, state.leading)

    def applied(self, index: int) -> None:
        """Report that everything up to `index`, the end of a committed batch, is applied."""
        state = self._state
        assert state.applied <= index <= state.handed_out
        state.applied = index

    def snapshot_received(self, meta: SnapshotMeta, *, valid: bool) -> None:
        """Report that all pieces of a snapshot are there, and whether they prove to be whole."""
        _following.snapshot_received(self._state, meta, valid=valid)

    def describe_snapshot(self, index: int, snapshot_id: bytes, size_bytes: int) -> SnapshotMeta:
        """Return what to store with a snapshot of the state as of `index`, which is applied."""
        state = self._state
        assert index <= state.applied
        term, checksum = state.log.term_at(index), state.log.checksum_at(index)
        assert term is not None
        assert checksum is not None
        return SnapshotMeta(
            index=index,
            term=term,
            checksum=checksum,
            time_ms=state.log.time_ms_at(index),
            configuration=state.configurations.at(index),
            semantics_version=state.semantics.at(index),
            snapshot_id=snapshot_id,
            size_bytes=size_bytes,
        )

    def compact(self, index: int) -> None:
        """Forget the log up to `index`, which a durable snapshot holds; then drop it on disk."""
        state = self._state
        assert index <= state.applied
        state.log.compact(index)
        state.configurations.compact(state.log.base_index)
        state.semantics.compact(state.log.base_index)

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry, None for what is compacted or not there."""
        return self._state.log.term_at(index)

    # -- Looking on ---------------------------------------------------------------------------

    @property
    def term(self) -> int:
        """The current term."""
        return self._state.term

    @property
    def role(self) -> Role:
        """The current role."""
        return self._state.role

    @property
    def leader_id(self) -> str | None:
        """The leader of the current term, as far as this node knows."""
        return self._state.leader_id

    @property
    def next_index(self) -> int:
        """The index that the next proposed batch must begin at."""
        return self._state.log.last_index + 1

    @property
    def commit(self) -> int:
        """The last index known to be committed."""
        return self._state.commit

    @property
    def time_ms(self) -> int:
        """The latest time that this node has seen: no read or write may be timed before it."""
        return self._state.time_ms

    @property
    def confirmed_time_ms(self) -> int:
        """Leader: the latest time that a majority has heard too; reads under the lease are of it.

        Like a `ReadState.time_ms`, it may be behind the stamp of the newest applied batch; then
        that stamp, which a majority has as well, is the time of the read.
        """
        leading = self._state.leading
        return leading.confirmed_time_ms if leading is not None else 0

    @property
    def retention_index(self) -> int:
        """The first index that a voter which is alive still lacks; keep the log from here on.

        The snapshot is the way for the others. On a follower: what it has not applied.
        """
        state = self._state
        needed = state.applied
        if state.leading is not None:
            oldest = state.tick - state.settings.election_ticks_max
            for peer, progress in state.leading.peers.items():
                if peer in state.voters and progress.contact_tick >= oldest:
                    needed = min(needed, progress.match)
        return needed + 1

    def ack_progress(self) -> AckProgress:
        """Return how far the group is, for an ack mode."""
        state = self._state
        match = {state.node_id: state.log.durable_index}
        if state.leading is not None:
            for peer, progress in state.leading.peers.items():
                match[peer] = progress.match
        return AckProgress(
            own_id=state.node_id, voters=state.voters, match=match, commit=state.commit
        )

    def status(self) -> Status:
        """Return the node in figures."""
        state = self._state
        leading = state.leading
        peers = leading.peers.items() if leading is not None else ()
        return Status(
            role=state.role,
            term=state.term,
            vote=state.vote,
            leader_id=state.leader_id,
            commit=state.commit,
            applied=state.applied,
            durable_index=state.log.durable_index,
            last_index=state.log.last_index,
            first_index=state.log.base_index + 1,
            time_ms=state.time_ms,
            configuration=state.configuration,
            configuration_index=state.configurations.latest_index,
            semantics_version=state.semantics.at(max(state.applied, state.log.base_index)),
            semantics_barrier=state.semantics_barrier,
            receives_snapshot=state.incoming is not None or state.installing is not None,
            transferee=leading.transferee if leading is not None else None,
            peers=tuple(
                PeerStatus(peer, p.match, p.mode, state.tick - p.contact_tick) for peer, p in peers
            ),
        )

    # -- Inside -------------------------------------------------------------------------------

    def _needs_write(self) -> bool:
        state = self._state
        log, writes = state.log, state.writes
        return (
            log.handed_index != log.last_index
            or state.term != writes.handed_term
            or state.vote != writes.handed_vote
            or log.pending_cut is not None
            or state.installing is not None
        )

    def _take_write(self) -> Write | None:
        if not self._needs_write():
            return None
        state = self._state
        log = state.log
        write = Write(
            index=log.last_index,
            term=log.last_term,
            hard_state=HardState(state.term, state.vote, state.commit),
            install=state.installing,
            truncate_after=log.pending_cut,
            batches=log.unhanded(),
        )
        log.pending_cut = None
        state.installing = None
        state.writes.note(write)
        return write

    def _apply_limit(self) -> int:
        """Return how far may be applied: committed, on the own disk, and in a spoken version."""
        state = self._state
        limit = min(state.commit, state.log.durable_index)
        barrier = state.semantics_barrier
        return limit if barrier is None else min(limit, barrier - 1)

    def _take_committed(self) -> tuple[Batch, ...]:
        """Hand out the next committed batches, if those handed out before are applied."""
        state = self._state
        limit = self._apply_limit()
        if state.applied != state.handed_out or state.handed_out >= limit:
            return ()
        batches = state.log.read(state.handed_out + 1, state.settings.apply_bytes_max)
        end = len(batches)
        while batches[end - 1].last_index > limit:
            end -= 1
        assert end > 0
        state.handed_out = batches[end - 1].last_index
        return batches[:end]


def _admit(state: NodeState, message: Message) -> bool:
    """Settle a difference of terms; tell whether the message is then handled.

    A newer term is adopted, with three exceptions: questions that only ask "what if", votes that
    are refused without looking, and anything from a node that the membership does not know,
    except what a leader sends: an append teaches the very membership that makes it known.
    """
    kind = type(message)
    if message.term < state.term:
        _answer_stale(state, message)
        return False
    if kind is PreVote or (isinstance(message, PreVoteReply) and message.granted):
        return True
    if isinstance(message, Vote):
        if not _elections.admits_vote(state, message):
            _elections.refuse_vote(state, message)
            return False
    elif kind is not Append and kind is not InstallSnapshot and state.is_stranger(message.sender):
        return False
    state.become_follower(message.term, message.sender if kind in _FROM_LEADER else None)
    return True


def _answer_stale(state: NodeState, message: Message) -> None:
    """Tell a sender of an older term about the newer one, if it asked anything."""
    if isinstance(message, Append | Heartbeat | InstallSnapshot):
        _following.reply_to_stale_leader(state, message)
    elif isinstance(message, PreVote):
        _elections.on_pre_vote(state, message)
    elif isinstance(message, Vote):
        _elections.refuse_vote(state, message)
