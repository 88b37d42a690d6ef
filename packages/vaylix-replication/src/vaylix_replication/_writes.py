"""What is on its way to the disk, and what a report from there proves.

Several writes may be outstanding. The driver makes them durable in order and reports each of them
once. A report proves less than it seems to when the log has been cut meanwhile:

 1. A follower appends entry 5 of term 1 and asks for write A.
 2. The leader of term 2 replaces it: write B cuts behind 4 and appends entry 5 of term 2.
 3. The leader of term 3 has the very entry of term 1 and replaces it again: write C.
 4. The report of A arrives. Index and term fit what is in memory, and A did make them durable.
 5. If the node counted that, it would acknowledge entry 5 of term 1 to the leader of term 3.
 6. B reaches the disk, C does not, the power fails: the acknowledged entry is gone.

So a report also stops short of every cut that is still on its way.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaylix_replication._log import RaftLog
    from vaylix_replication._ready import Write

__all__ = ["Writes"]


class Writes:
    """The outstanding writes, oldest first, and the term and vote known to be durable."""

    __slots__ = ("_outstanding", "durable_term", "durable_vote", "handed_term", "handed_vote")

    def __init__(self, term: int, vote: str | None) -> None:
        self.durable_term = self.handed_term = term
        self.durable_vote = self.handed_vote = vote
        self._outstanding: deque[Write] = deque()

    def note(self, write: Write) -> None:
        """Remember a write that was handed to the driver."""
        self._outstanding.append(write)
        self.handed_term = write.hard_state.term
        self.handed_vote = write.hard_state.vote

    def persisted(self, index: int, term: int, log: RaftLog) -> Write:
        """Take the report of the oldest write and return that.

        Moves `log.durable_index` as far as the report proves.
        """
        write = self._outstanding.popleft()
        assert (write.index, write.term) == (index, term), "writes are reported once, in order"
        self.durable_term = write.hard_state.term
        self.durable_vote = write.hard_state.vote
        if log.term_at(index) != term or any(later.install for later in self._outstanding):
            return write
        proven = index if log.pending_cut is None else min(index, log.pending_cut)
        for later in self._outstanding:
            if later.truncate_after is not None:
                proven = min(proven, later.truncate_after)
        log.durable_index = max(log.durable_index, proven)
        return write
