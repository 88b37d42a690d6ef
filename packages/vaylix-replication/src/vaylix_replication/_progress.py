"""What the leader knows about one other member, and how much it may send there.

    PROBE -----an append is accepted---> REPLICATE
    REPLICATE -an append is refused----> PROBE
    any -------needs what is compacted-> SNAPSHOT
    SNAPSHOT --it is installed---------> PROBE

PROBE sends one append and waits for its answer, because where the logs part is not known yet.
REPLICATE sends ahead of the answers, up to a bound in bytes. SNAPSHOT sends no appends at all.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaylix_replication.ports import SnapshotMeta

__all__ = ["Progress", "ProgressMode"]


class ProgressMode(IntEnum):
    """How the leader sends to a member."""

    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


class Progress:
    """One member, as seen by the leader, within one term.

    Always: `match < next_index`. `match` only grows, and only from the member's own replies in
    this term: what a member has acknowledged it can never lose. While a snapshot is on its way,
    `next_index` stays just behind `match` and means nothing.
    """

    __slots__ = (
        "_inflight",
        "caught_up_since_tick",
        "caught_up_target",
        "confirmed_round",
        "contact_tick",
        "inflight_bytes",
        "match",
        "mode",
        "next_index",
        "probe_sent",
        "semantics_version_max",
        "snapshot",
        "snapshot_offset_bytes",
        "snapshot_tick",
    )

    def __init__(self, next_index: int, tick: int) -> None:
        self.match = 0
        self.next_index = next_index
        self.mode = ProgressMode.PROBE
        self.probe_sent = False
        # (last index, cost) of each append on its way, oldest first, and the sum of the costs.
        self._inflight: deque[tuple[int, int]] = deque()
        self.inflight_bytes = 0
        # The newest round of this leader that the member has answered.
        self.confirmed_round = 0
        self.contact_tick = tick
        self.semantics_version_max = 0
        # The snapshot on its way, how much the member has of it, when the last piece was sent.
        self.snapshot: SnapshotMeta | None = None
        self.snapshot_offset_bytes = 0
        self.snapshot_tick = 0
        # A joining member is caught up when it reaches the target within an election timeout.
        self.caught_up_target = next_index - 1
        self.caught_up_since_tick = tick

    def probe(self, next_index: int) -> None:
        """Look for the place where the logs part, beginning behind `next_index - 1`."""
        self.mode = ProgressMode.PROBE
        self.next_index = max(next_index, self.match + 1)
        self.probe_sent = False
        self.snapshot = None
        self._inflight.clear()
        self.inflight_bytes = 0

    def send_snapshot(self, meta: SnapshotMeta) -> None:
        """Send the snapshot; what was on its way no longer counts."""
        self.probe(self.match + 1)
        self.mode = ProgressMode.SNAPSHOT
        self.snapshot = meta
        self.snapshot_offset_bytes = 0

    def sent(self, last_index: int, cost_bytes: int) -> None:
        """Note an append that is now on its way."""
        assert last_index >= self.next_index
        if self.mode is ProgressMode.PROBE:
            self.probe_sent = True
            return
        self.next_index = last_index + 1
        self._inflight.append((last_index, cost_bytes))
        self.inflight_bytes += cost_bytes

    def accepted(self, index: int) -> bool:
        """Note that the member has all up to `index`; tell whether that is news."""
        news = index > self.match
        if news:
            self.match = index
        if self.mode is ProgressMode.SNAPSHOT:
            assert self.snapshot is not None
            if self.match >= self.snapshot.index:
                self.probe(self.match + 1)
            else:
                self.next_index = self.match + 1
                return news
        if self.mode is ProgressMode.PROBE:
            self.mode = ProgressMode.REPLICATE
            self.probe_sent = False
            self.next_index = self.match + 1
            return news
        self.next_index = max(self.next_index, self.match + 1)
        while self._inflight and self._inflight[0][0] <= self.match:
            self.inflight_bytes -= self._inflight.popleft()[1]
        return news
