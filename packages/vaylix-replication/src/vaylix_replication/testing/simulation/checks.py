"""The invariants, checked while the simulation runs. Each knows the whole history of all nodes.

Raft's five (dissertation figure 3.2), and what a driver must not do:

- election safety: a term has one leader
- log matching: an index and a term name one batch, with one predecessor
- leader completeness: a new leader has what was committed before
- state machine safety: an index is applied with one batch, and leads to one state
- nobody applies what is behind a version of the semantics that it does not speak
- the commit point never falls while a process lives
- no answer is as of a time before one that was answered before it was asked
- no message leaves that vouches for something that is not durable, or that a write on its way to
  the disk would take back
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from vaylix_replication.messages import AppendReply, PreVote, PreVoteReply, Vote, VoteReply
from vaylix_replication.testing.simulation.schedule import MILLISECOND

if TYPE_CHECKING:
    from vaylix_replication import Batch, Message, RaftNode
    from vaylix_replication.testing.simulation.disk import Disk, Entry

__all__ = ["Checks", "Driver", "TimeCheck", "TimeFloor", "ViolationError", "vouched_entry"]

# A lease lasts 0.8 of ten ticks of ten milliseconds, by a clock that may be slow.
_CONFIRMED_US_MAX = 100 * MILLISECOND


class ViolationError(AssertionError):
    """A promise was broken. `rule` names it."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule


class Driver(Protocol):
    """A node as the checks see it: the core, and the disk on which it is driven."""

    node_id: str
    raft: RaftNode
    disk: Disk


class TimeFloor(NamedTuple):
    """Two times: one that voters have only heard, and a stamp in the log."""

    heard_ms: int = 0
    stamped_ms: int = 0


class TimeCheck:
    """What time clients have observed, and whether it ever falls.

    A stamp is on the disk of a majority and holds for ever. A time that was only heard is
    forgotten by whoever restarts, which docs/replication.md ("Time") allows. So after any crash
    only the stamps count, and what was heard only if it was confirmed after the crash: for a read
    under the lease that was up to one minimal election timeout before it was asked.
    """

    def __init__(self) -> None:
        self.floor = TimeFloor()
        self._crashed_at = -_CONFIRMED_US_MAX

    def crashed(self, now: int) -> None:
        """Note that a process has forgotten what it had only heard."""
        self._crashed_at = now
        self.floor = TimeFloor(0, self.floor.stamped_ms)

    def observed(self, begin: int, before: TimeFloor, answer: TimeFloor) -> None:
        """Check an answer to what was asked at `begin`, when `before` had been observed."""
        heard_ms = before.heard_ms if begin > self._crashed_at else 0
        if max(answer) < max(heard_ms, before.stamped_ms):
            raise ViolationError("time never falls", f"{before} was observed before {answer}")
        floor = self.floor
        if begin > self._crashed_at + _CONFIRMED_US_MAX:
            floor = floor._replace(heard_ms=max(floor.heard_ms, answer.heard_ms))
        self.floor = floor._replace(stamped_ms=max(floor.stamped_ms, answer.stamped_ms))


class Checks:
    """What was seen so far, of all nodes."""

    def __init__(self) -> None:
        self.time = TimeCheck()
        self._leaders: dict[int, str] = {}
        # (last index, term) -> (first index, checksum, term of the predecessor)
        self._batches: dict[tuple[int, int], tuple[int, int, int]] = {}
        # last index -> (term, checksum, digest of the state after it)
        self._applied: dict[int, tuple[int, int, int]] = {}
        # Term of whoever applied it -> the last index applied by somebody in that term.
        self._applied_in: dict[int, int] = {}

    def appended(self, batches: tuple[Batch, ...], prev_term: int) -> None:
        """Check log matching for what a node is about to write."""
        for batch in batches:
            place = (batch.last_index, batch.term)
            identity = (batch.first_index, batch.checksum, prev_term)
            known = self._batches.setdefault(place, identity)
            if known != identity:
                raise ViolationError("log matching", f"{place} is {known} and {identity}")
            prev_term = batch.term

    def applied(self, node_id: str, term: int, batch: Batch, digest: int) -> None:
        """Check state machine safety for one applied batch and the state after it."""
        entry = (batch.term, batch.checksum, digest)
        known = self._applied.setdefault(batch.last_index, entry)
        if known != entry:
            detail = f"{node_id} applies {entry} at {batch.last_index}, another has {known}"
            raise ViolationError("state machine safety", detail)
        self._applied_in[term] = max(self._applied_in.get(term, 0), batch.last_index)

    def restored(self, node_id: str, index: int, digest: int) -> None:
        """Check that a snapshot holds the state of its index."""
        known = self._applied.get(index)
        if known is not None and known[2] != digest:
            raise ViolationError("state machine safety", f"snapshot at {index} on {node_id}")

    def semantics(self, node_id: str, version: int, spoken: int) -> None:
        """Check that nobody passes a version of the semantics that it does not speak."""
        if version > spoken:
            detail = f"{node_id} speaks {spoken} and passes {version}"
            raise ViolationError("unspoken semantics", detail)

    def leads(self, driver: Driver) -> None:
        """Check election safety and leader completeness for a node that has just won."""
        raft = driver.raft
        first = self._leaders.setdefault(raft.term, driver.node_id)
        if first != driver.node_id:
            detail = f"{first} and {driver.node_id} lead term {raft.term}"
            raise ViolationError("election safety", detail)
        # What was applied in an older term was committed in one; a leader that has won late may
        # lack what newer leaders have committed meanwhile.
        index = max((i for term, i in self._applied_in.items() if term < raft.term), default=0)
        if index and index >= raft.status().first_index:
            term = raft.term_at(index)
            if term != self._applied[index][0]:
                detail = f"{driver.node_id} leads term {raft.term} without entry {index}"
                raise ViolationError("leader completeness", detail)

    def commit_moved(self, node_id: str, before: int, after: int) -> None:
        """Check that the commit point has not fallen."""
        if after < before:
            raise ViolationError("commit never falls", f"{node_id}: {before} to {after}")

    def leaves(self, driver: Driver, recipient: str, message: Message, entry: Entry | None) -> None:
        """Check that what a message vouches for is on its sender's disk.

        `entry` is the `vouched_entry` of the moment when the core handed the message out.
        """
        kind = type(message)
        disk, sender = driver.disk, driver.node_id
        durable = disk.log.hard_state
        if entry is not None and not disk.holds(*entry):
            raise ViolationError("fsync before message", f"{sender}: {entry} of {message}")
        if message.term > durable.term:
            granted = isinstance(message, PreVoteReply) and message.granted
            if kind is not PreVote and not granted:
                raise ViolationError("fsync before message", f"{sender}: term of {message}")
        if isinstance(message, AppendReply):
            # The leader of an older term counts no more; that of this one never asks for a cut of
            # what it has been told is here.
            if entry is not None and message.term == driver.raft.term and disk.will_cut(entry[0]):
                raise ViolationError("fsync before message", f"{sender}: cut is {entry}")
        elif isinstance(message, VoteReply):
            promised = (durable.term, durable.vote)
            if message.granted and promised != (message.term, recipient):
                raise ViolationError("fsync before message", f"{sender}: {message}")
        elif kind is Vote and durable.vote != sender:
            raise ViolationError("fsync before message", f"{sender}: {message}")


def vouched_entry(raft: RaftNode, message: Message) -> Entry | None:
    """Return the end of the log that a message says is durable, None if it says nothing of it."""
    if isinstance(message, Vote):
        return message.last_index, message.last_term
    if isinstance(message, AppendReply) and message.accepted:
        term = raft.term_at(message.index)
        assert term is not None
        return message.index, term
    return None
