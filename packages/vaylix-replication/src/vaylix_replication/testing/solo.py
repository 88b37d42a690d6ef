"""One node, played against by hand: for tests of single rules.

The node's group, its log and its place in both are made up by the test; messages are handed in one
by one, and whatever the node answers is looked at. Its disk is instant unless `disk_held` is set.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar

from vaylix_replication import (
    Batch,
    Configuration,
    HardState,
    RaftNode,
    Restored,
    Role,
    Settings,
    SnapshotMeta,
    Write,
)
from vaylix_replication.messages import (
    Append,
    AppendReply,
    Heartbeat,
    Message,
    PreVote,
    PreVoteReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from vaylix_replication.testing.memory import MemoryLog, MemorySnapshots

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vaylix_replication import ReadState, SnapshotChunk

__all__ = ["COMMAND", "SoloNode", "make_batches"]

COMMAND = 1
GROUP = "group"
Kind = TypeVar("Kind")


def make_batches(
    terms: Iterable[int], *, first_index: int = 1, payload: bytes = b"x"
) -> tuple[Batch, ...]:
    """Return one batch of one entry for each term."""
    return tuple(
        Batch.create(first_index=index, term=term, kind=COMMAND, payload=payload)
        for index, term in enumerate(terms, first_index)
    )


class SoloNode:
    """A node with a log of `terms`, one entry each, or of `batches`, in a group of `voters`."""

    def __init__(
        self,
        terms: Sequence[int] = (),
        *,
        voters: Iterable[str] = "abc",
        node_id: str = "a",
        hard_state: HardState | None = None,
        batches: Sequence[Batch] = (),
        seed: int = 1,
        **settings: int,
    ) -> None:
        self.log = MemoryLog()
        self.snapshots = MemorySnapshots()
        self.disk_held = False
        self.held_writes: list[Write] = []
        self.held_messages: list[tuple[str, Message]] = []
        self.sent: list[tuple[str, Message]] = []
        self.applied: list[Batch] = []
        self.reads: list[ReadState] = []
        self.reads_dropped: list[int] = []
        self.chunks: list[SnapshotChunk] = []
        start = tuple(batches) or make_batches(terms)
        state = hard_state or HardState(term=start[-1].term if start else 0)
        if start:
            self.log.write(Write(index=0, term=0, hard_state=state, batches=start))
        configuration = Configuration.of_voters(dict.fromkeys(voters, ""))
        self.settings = Settings(cluster_id=GROUP, node_id=node_id, **settings)
        self.raft = RaftNode(
            self.settings,
            Restored(hard_state=state, snapshot=SnapshotMeta(configuration=configuration)),
            log=self.log,
            snapshots=self.snapshots,
            draw=random.Random(seed).randint,  # noqa: S311 - a seed decides, not a secret
        )
        self.run()

    # -- What the group does to it --------------------------------------------------------------

    def receive(self, message: Message) -> list[tuple[str, Message]]:
        """Hand in a message; return what the node sends because of it."""
        already = len(self.sent)
        self.raft.step(message)
        self.run()
        return self.sent[already:]

    def tick(self, times: int = 1) -> None:
        """Let time pass."""
        for _ in range(times):
            self.raft.tick()
            self.run()

    def run(self) -> None:
        """Do what the node wants done, except what waits for a held disk."""
        while self.raft.has_ready:
            ready = self.raft.ready()
            self.sent.extend(ready.messages)
            self.reads.extend(ready.reads)
            self.reads_dropped.extend(ready.reads_dropped)
            self.chunks.extend(ready.snapshot_chunks)
            if ready.committed:
                self.applied.extend(ready.committed)
                self.raft.applied(ready.committed[-1].last_index)
            if ready.write is not None:
                self.held_writes.append(ready.write)
            self.held_messages.extend(ready.messages_after_write)
            if not self.disk_held:
                self.flush()

    def flush(self) -> None:
        """Let the disk finish everything."""
        writes, self.held_writes = self.held_writes, []
        for write in writes:
            self.log.write(write)
            self.raft.persisted(write.index, write.term)
        self.sent.extend(self.held_messages)
        self.held_messages = []
        if writes:
            self.run()

    # -- Shortcuts ------------------------------------------------------------------------------

    def time_out(self) -> None:
        """Let time pass until the node asks for a pre-vote, or wins alone."""
        for _ in range(self.settings.election_ticks_max):
            self.tick()
            if self.raft.role is not Role.FOLLOWER:
                return
        raise AssertionError("no election")

    def grant_pre_votes(self, *voters: str) -> None:
        """Let voters say that they would vote for it."""
        for voter in voters:
            term = self.raft.term + 1
            self.receive(PreVoteReply(cluster_id=GROUP, sender=voter, term=term, granted=True))
            if self.raft.role is not Role.PRE_CANDIDATE:
                return

    def grant_votes(self, *voters: str, time_ms: int = 0) -> None:
        """Let voters vote for it, who have heard of `time_ms`."""
        for voter in voters:
            reply = VoteReply(
                cluster_id=GROUP,
                sender=voter,
                term=self.raft.term,
                granted=True,
                time_ms=time_ms,
            )
            self.receive(reply)

    def lead(self) -> None:
        """Make it the leader of a new term, by the votes of all others that it needs."""
        voters = [v for v in self.raft.status().configuration.voters if v != self.settings.node_id]
        self.time_out()
        self.grant_pre_votes(*voters)
        self.grant_votes(*voters)
        assert self.raft.role is Role.LEADER

    def propose(self, payload: bytes = b"x", *, count: int = 1) -> Batch:
        """Propose a batch and run."""
        batch = Batch.create(
            first_index=self.raft.next_index,
            term=self.raft.term,
            kind=COMMAND,
            payload=payload,
            count=count,
            timestamp_ms=self.raft.time_ms,
        )
        self.raft.propose(batch)
        self.run()
        return batch

    def acknowledge(self, sender: str, index: int, *, speaks: int = 1) -> None:
        """Let a peer confirm everything up to `index`."""
        self.receive(self.append_reply(sender, index, speaks=speaks))

    def role(self) -> Role:
        """Return the present role."""
        return self.raft.role

    def of_kind(self, kind: type[Kind]) -> list[Kind]:
        """Return the messages of a kind that were sent so far."""
        return [message for _, message in self.sent if isinstance(message, kind)]

    def terms(self) -> list[int]:
        """Return the terms of the entries on disk."""
        return [batch.term for batch in self.log.batches for _ in range(batch.count)]

    # -- Messages as peers would send them --------------------------------------------------------

    def append(
        self,
        *batches: Batch,
        sender: str = "b",
        term: int | None = None,
        prev: tuple[int, int] | None = None,
        commit: int = 0,
        number: int = 0,
    ) -> Append:
        """Return an append behind `prev` = (index, term), by default behind the whole log."""
        status = self.raft.status()
        own_end = (status.last_index, self.terms()[-1] if self.log.batches else 0)
        index, prev_term = own_end if prev is None else prev
        end = make_batches([prev_term], first_index=index)[0] if index else None
        return Append(
            cluster_id=GROUP,
            sender=sender,
            term=self.raft.term if term is None else term,
            prev_index=index,
            prev_term=prev_term,
            prev_checksum=end.checksum if end is not None else 0,
            batches=batches,
            commit=commit,
            round=number,
            time_ms=0,
        )

    def append_reply(
        self,
        sender: str,
        index: int,
        *,
        term: int | None = None,
        hint: tuple[int, int] | None = None,
        speaks: int = 1,
    ) -> AppendReply:
        """Return a peer's consent up to `index`, or with `hint` = (index, term) its refusal."""
        hint_index, hint_term = hint or (0, 0)
        return AppendReply(
            cluster_id=GROUP,
            sender=sender,
            term=self.raft.term if term is None else term,
            accepted=hint is None,
            index=index,
            round=0,
            semantics_version_max=speaks,
            hint_index=hint_index,
            hint_term=hint_term,
        )

    def heartbeat(
        self, *, sender: str = "b", term: int | None = None, commit: tuple[int, int] = (0, 0)
    ) -> Heartbeat:
        """Return a heartbeat that calls `commit` = (index, term) committed."""
        return Heartbeat(
            cluster_id=GROUP,
            sender=sender,
            term=self.raft.term if term is None else term,
            commit=commit[0],
            commit_term=commit[1],
            round=1,
            time_ms=0,
        )

    def vote(
        self, *, sender: str, term: int, last: tuple[int, int] = (0, 0), forced: bool = False
    ) -> Vote:
        """Return a request for votes of a candidate whose log ends with `last` = (index, term)."""
        return Vote(
            cluster_id=GROUP,
            sender=sender,
            term=term,
            last_index=last[0],
            last_term=last[1],
            forced=forced,
        )

    def pre_vote(self, *, sender: str, term: int, last: tuple[int, int] = (0, 0)) -> PreVote:
        """Return the question that comes before `vote`."""
        return PreVote(
            cluster_id=GROUP, sender=sender, term=term, last_index=last[0], last_term=last[1]
        )

    def timeout_now(self, *, sender: str = "b") -> TimeoutNow:
        """Return the leader's request to take over."""
        return TimeoutNow(cluster_id=GROUP, sender=sender, term=self.raft.term)
