"""Classic mistakes that can be planted, to prove that the simulator finds them.

    python -m vaylix_replication.testing.planted_bugs     search for each of them, print a table

A mistake is planted by replacing a function of the core, or a method of the simulated driver,
while a block runs; the code that ships knows nothing of it. `BUGS` names them with the seed that
finds each one.
"""

from __future__ import annotations

import sys
import time
import traceback
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from unittest import mock

import msgspec

from vaylix_replication import (
    HardState,
    Settings,
    _changes,
    _elections,
    _following,
    _leading,
    _proposing,
    _reading,
    _sending,
)
from vaylix_replication._node import RaftNode
from vaylix_replication._progress import Progress
from vaylix_replication._state import NodeState
from vaylix_replication.messages import AppendReply, TimeoutNow, Vote, VoteReply
from vaylix_replication.testing.simulation import SimulationOptions, simulate
from vaylix_replication.testing.simulation.disk import Disk
from vaylix_replication.testing.simulation.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaylix_replication import Batch, Message, Restored, SnapshotMeta
    from vaylix_replication._state import LeaderState
    from vaylix_replication.ports import LogReader, SnapshotReader

__all__ = ["BUGS", "PlantedBug", "find", "plant"]

# What is replaced: its owner, its name, and what takes its place.
Replacement = tuple[object, str, object]


class PlantedBug(msgspec.Struct, frozen=True):
    """A mistake: what is wrong, how to plant it, and a seed that finds it.

    `given_away_by` holds parts of what a failure says, each of which shows this very mistake: rules
    of a `ViolationError`, or what an assertion of the core asserts. Any other failure counts for
    nothing; it may come from something else.
    """

    name: str
    mistake: str
    seed: int
    given_away_by: tuple[str, ...]
    replacements: tuple[Replacement, ...]

    def evidence(self, error: Exception) -> str | None:
        """Return what in a failure gives this mistake away, None if nothing does."""
        text = str(error)
        if not text:
            # A bare assertion says nothing but its own line.
            text = traceback.extract_tb(error.__traceback__)[-1].line or ""
        return next((part for part in self.given_away_by if part in text), None)


@contextmanager
def plant(bug: PlantedBug) -> Iterator[None]:
    """Let the mistake be there while the block runs."""
    with ExitStack() as stack:
        for owner, name, replacement in bug.replacements:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


# -- The mistakes -------------------------------------------------------------------------------

_restore = Disk.restore
_truncate_after = NodeState.truncate_after
_sent = Progress.sent


def _restore_without_vote(disk: Disk) -> Restored:
    restored = _restore(disk)
    state = restored.hard_state
    forgetful = HardState(term=state.term, vote=None, commit=state.commit)
    return msgspec.structs.replace(restored, hard_state=forgetful)


def _restore_without_term(disk: Disk) -> Restored:
    restored = _restore(disk)
    batches = disk.batches
    term = batches[-1].term if batches else restored.snapshot.term
    forgetful = HardState(term=term, vote=None, commit=restored.hard_state.commit)
    return msgspec.structs.replace(restored, hard_state=forgetful)


def _restore_hastily(disk: Disk) -> Restored:
    """Drop the newest batch, as if a whole, synced tail had been taken for a torn one."""
    restored = _restore(disk)
    if disk.batches:
        last = disk.batches[-1].first_index - 1
        kept = [batch for batch in disk.batches if batch.last_index <= last]
        disk.log.drop_before(disk.log.last_index)
        disk.log.base_index = kept[0].first_index - 1 if kept else restored.snapshot.index
        for batch in kept:
            disk.log.put(batch)
    state = restored.hard_state
    commit = min(state.commit, max(disk.log.last_index, restored.snapshot.index))
    return msgspec.structs.replace(
        restored, hard_state=HardState(term=state.term, vote=state.vote, commit=commit)
    )


def _send_too_early(kind: type) -> Callable[[NodeState, str, Message], None]:
    """Let messages of a kind not wait for the disk."""

    def send_after_write(state: NodeState, recipient: str, message: Message) -> None:
        if type(message) is kind:
            state.messages.append((recipient, message))
        else:
            state.messages_after_write.append((recipient, message))

    return send_after_write


def _cut_behind_a_short_append(state: NodeState, batches: tuple[Batch, ...]) -> tuple[Batch, ...]:
    """Take the end of the message for the end of the log."""
    for position, batch in enumerate(batches):
        if state.log.term_at(batch.first_index) != batch.term:
            return batches[position:]
    if batches and batches[-1].last_index < state.log.last_index:
        _cut_regardless(state, batches[-1].last_index)
    return ()


def _cut_regardless(state: NodeState, index: int) -> None:
    """Cut without a look at the commit point."""
    state.commit = min(state.commit, index)
    _truncate_after(state, index)


def _truncate_but_keep_the_membership(state: NodeState, index: int) -> None:
    configurations = list(state.configurations.after(index))
    _truncate_after(state, index)
    for position, configuration in configurations:
        state.configurations.append(position, configuration)
    state.refresh_configuration()


def _count_what_was_only_sent(progress: Progress, last_index: int, cost_bytes: int) -> None:
    _sent(progress, last_index, cost_bytes)
    progress.match = max(progress.match, progress.next_index - 1)


def _transfer_with_the_lease(state: NodeState, _: LeaderState, peer: str) -> None:
    message = TimeoutNow(cluster_id=state.cluster_id, sender=state.node_id, term=state.term)
    state.send(peer, message)


def _jumping_clock(process: Process) -> int:
    return process.wall_time_ms() * 1000


def _save_later_state(process: Process, life: int, meta: SnapshotMeta, data: bytes) -> None:
    """Name one moment and store another."""
    if life == process.life and process.alive:
        data = process.machine.snapshot()
        late = msgspec.structs.replace(meta, size_bytes=len(data))
        _snapshot_saved(process, life, late, data)


def _ask_from_zero_on(
    state: NodeState,
    settings: Settings,
    restored: Restored,
    reader: LogReader,
    snapshots: SnapshotReader,
    draw: Callable[[int, int], int],
) -> None:
    _begin_life(state, settings, restored, reader, snapshots, draw)
    state.next_question = 0


def _vote_without_time(state: NodeState, *, granted: bool) -> VoteReply:
    return msgspec.structs.replace(_vote_reply(state, granted=granted), time_ms=0)


def _sync_again(process: Process) -> None:
    """Take the success of a second sync for that of the first, which has lost the pages."""
    lost = process.disk.pending[0]
    process.disk.lose_pending()
    process.raft.persisted(lost.write.index, lost.write.term)
    for waiting in lost.messages:
        process.send(*waiting)
    process.pump()


_begin_life = NodeState.__init__
_vote_reply = _elections._vote_reply  # noqa: SLF001 - the mistake is made in its place
_snapshot_saved = Process._snapshot_saved  # noqa: SLF001 - the mistake is made in its place


def _never(*_: object) -> bool:
    return False


def _always(*_: object) -> bool:
    return True


def _nothing(*_: object) -> None:
    return None


def _voters_only(state: NodeState) -> bool:
    return state.node_id in state.voters


def _apply_what_is_durable(node: RaftNode) -> int:
    return node._state.log.durable_index  # noqa: SLF001 - the mistake is made in its place


def _bug(
    name: str, mistake: str, seed: int, given_away_by: tuple[str, ...], *replacements: Replacement
) -> PlantedBug:
    return PlantedBug(name, mistake, seed, given_away_by, replacements)


# Both append something of their term, so two leaders of one show in the logs too.
_TWO_LEADERS = ("election safety", "log matching")
# Whatever was committed is missing where the next leader is, or something else is in its place.
_LOST = ("leader completeness", "state machine safety")
# An old value, or the time of an old leader.
_STALE = ("linearizability", "time never falls")

BUGS = (
    _bug(
        "vote-forgotten",
        "a restarted node has forgotten whom it voted for",
        403,
        _TWO_LEADERS,
        (Disk, "restore", _restore_without_vote),
    ),
    _bug(
        "term-forgotten",
        "a restarted node has forgotten a term without entries",
        35,
        _TWO_LEADERS,
        (Disk, "restore", _restore_without_term),
    ),
    _bug(
        "tail-forgotten",
        "a restarted node drops its newest, synced batch",
        0,
        _LOST,
        (Disk, "restore", _restore_hastily),
    ),
    _bug(
        "double-vote",
        "a voter gives a second vote in one term",
        15,
        _TWO_LEADERS,
        (_elections, "has_free_vote", _always),
    ),
    _bug(
        "vote-for-short-logs",
        "a voter does not compare the logs",
        0,
        _LOST,
        (_elections, "is_up_to_date", _always),
    ),
    _bug(
        "half-is-a-majority",
        "half of the voters elect a leader",
        2,
        _TWO_LEADERS,
        (_elections, "majority_size", lambda voters: max(1, voters // 2)),
    ),
    _bug(
        "vote-before-fsync",
        "a vote is sent before it is durable",
        0,
        ("fsync before message",),
        (NodeState, "send_after_write", _send_too_early(VoteReply)),
    ),
    _bug(
        "candidacy-before-fsync",
        "votes are asked for a log that is not durable",
        0,
        ("fsync before message",),
        (NodeState, "send_after_write", _send_too_early(Vote)),
    ),
    _bug(
        "ack-before-fsync",
        "an append is acknowledged before it is durable",
        0,
        ("fsync before message",),
        (NodeState, "send_after_write", _send_too_early(AppendReply)),
    ),
    _bug(
        "old-term-commit",
        "an entry of an older term is committed by counting",
        343,
        _LOST,
        (_proposing, "may_commit", _always),
    ),
    _bug(
        "sent-is-received",
        "the leader counts what it has sent as acknowledged",
        1,
        _LOST,
        (Progress, "sent", _count_what_was_only_sent),
    ),
    _bug(
        "commit-unverified",
        "a follower commits entries that were not compared",
        13,
        ("state machine safety",),
        (
            _following,
            "commit_limit",
            lambda state, message, _: min(message.commit, state.log.last_index),
        ),
    ),
    _bug(
        "cut-by-short-append",
        "a short or late append cuts what follows it",
        6,
        ("fsync before message", "commit never falls", "leader completeness"),
        (_following, "_skip_present", _cut_behind_a_short_append),
    ),
    _bug(
        "applied-uncommitted",
        "entries are applied when they are durable",
        0,
        ("handed_out <= self.commit",),
        (RaftNode, "_apply_limit", _apply_what_is_durable),
    ),
    _bug(
        "read-unconfirmed",
        "a leader answers reads without asking whether it still leads",
        10,
        _STALE,
        (_reading, "majority_reached", max),
    ),
    _bug(
        "read-index-of-a-new-leader",
        "a new leader reads at a commit point it has not learned yet",
        4,
        ("linearizability",),
        (_reading, "may_begin_round", lambda _, leading: bool(leading.reads_waiting)),
    ),
    _bug(
        "lease-on-a-jumping-clock",
        "the lease is measured by the wall clock",
        522,
        _STALE,
        (Process, "boot_time", _jumping_clock),
    ),
    _bug(
        "lease-kept-in-transfer",
        "a lease outlives the request to take over",
        30,
        _STALE,
        (_leading, "send_timeout_now", _transfer_with_the_lease),
    ),
    _bug(
        "change-without-own-commit",
        "a new leader changes the membership before it has committed anything",
        201,
        _LOST,
        (_changes, "may_change", _always),
    ),
    _bug(
        "two-changes-at-once",
        "a change of the membership does not wait for the one before",
        26,
        _LOST,
        (_changes, "_is_settled", _always),
    ),
    _bug(
        "membership-not-undone",
        "a membership outlives the entry that made it",
        1,
        ("liveness: the nodes do not converge",),
        (NodeState, "truncate_after", _truncate_but_keep_the_membership),
    ),
    _bug(
        "snapshot-rewinds",
        "an old snapshot replaces newer state",
        62,
        ("self.applied <= handed_out",),
        (_following, "is_behind", _never),
    ),
    _bug(
        "snapshot-of-another-moment",
        "a snapshot holds a later state than it says",
        1,
        ("state machine safety: snapshot",),
        (Process, "_snapshot_saved", _save_later_state),
    ),
    _bug(
        "removed-too-early",
        "a node does not stand once its removal is appended",
        165,
        ("liveness: no leader",),
        (_elections, "may_stand", _voters_only),
    ),
    _bug(
        "probe-not-repeated",
        "a lost probe is never sent again",
        2,
        ("liveness: the nodes do not converge",),
        (_sending, "send_empty_append", _nothing),
        (_leading, "send_empty_append", _nothing),
    ),
    _bug(
        "answer-of-a-former-life",
        "questions to the leader are numbered anew in every life",
        972,
        _STALE,
        (NodeState, "__init__", _ask_from_zero_on),
    ),
    _bug(
        "vote-without-time",
        "a vote does not tell the time that the voter has heard",
        119,
        ("time never falls",),
        (_elections, "_vote_reply", _vote_without_time),
    ),
    _bug(
        "sync-again",
        "a failed sync is tried again, and its success believed",
        14,
        ("fsync before message",),
        (Process, "sync_failed", _sync_again),
    ),
    _bug(
        "semantics-unspoken",
        "a node goes on behind a version of the semantics that it does not speak",
        239,
        ("unspoken semantics",),
        (NodeState, "semantics_barrier", None),
    ),
)


def find(bug: PlantedBug, *, seconds_max: float) -> tuple[int, float, str] | None:
    """Search from seed 0 on; return the seed, the time it took and what gave the bug away.

    Time is that of the processor, so that neighbours do not count.
    """
    begin = time.process_time()
    with plant(bug):
        seed = 0
        while time.process_time() - begin < seconds_max:
            try:
                simulate(SimulationOptions.draw(seed))
            except Exception as error:  # noqa: BLE001 - its evidence decides
                evidence = bug.evidence(error)
                if evidence is not None:
                    return seed, time.process_time() - begin, evidence
            seed += 1
    return None


def main() -> int:
    """Search for all mistakes and print the table of docs/replication.md."""
    missed = 0
    for bug in BUGS:
        found = find(bug, seconds_max=120)
        if found is None:
            missed += 1
            sys.stdout.write(f"| {bug.name} | {bug.mistake} | not found | | |\n")
        else:
            seed, seconds, evidence = found
            row = f"| {bug.name} | {bug.mistake} | {seed} | {seconds:.1f} s | {evidence} |\n"
            sys.stdout.write(row)
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
