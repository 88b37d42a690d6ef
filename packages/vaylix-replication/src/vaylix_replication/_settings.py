"""What a node is told when it starts."""

from typing import Self

import msgspec

from vaylix_replication._batch import check_name
from vaylix_replication._configuration import Configuration
from vaylix_replication._limits import CHUNK_BYTES_MAX, SEMANTICS_VERSION_MAX
from vaylix_replication.errors import SettingsError
from vaylix_replication.ports import HardState, SnapshotMeta

__all__ = ["Restored", "Settings"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The constants of one node. Times are in ticks, the length of which is the driver's choice.

    `cluster_id` and `node_id`: names of 1 to 255 bytes of UTF-8.
    `election_ticks_min` to `election_ticks_max`: a follower that hears no leader for a random
    time between them starts an election; a leader that hears no majority for the longer one steps
    down; a voter that heard a leader within the shorter one refuses to elect another. At least
    10 for a lease, whose margin of 0.2 must outweigh one tick and the drift of the clocks.
    `heartbeat_ticks`: how often a leader makes itself heard.
    `append_bytes_max`: target for one append; a single larger batch still travels whole.
    `inflight_bytes_max`: how much may be on its way to one follower, unacknowledged.
    `uncommitted_bytes_max`: how much may be proposed and not committed; more is refused.
    `apply_bytes_max`: how much is handed out to be applied at a time.
    `window_bytes_max`: how much of the durable log is kept in memory for slow followers.
    `chunk_bytes_max`: the size of one piece of a snapshot, at most 16 MiB.
    `reads_waiting_max`: how many reads may wait for the confirmation of leadership.
    `semantics_version_max`: the newest version of the state machine that this node speaks.
    """

    cluster_id: str
    node_id: str
    election_ticks_min: int = 10
    election_ticks_max: int = 20
    heartbeat_ticks: int = 1
    append_bytes_max: int = 1024 * 1024
    inflight_bytes_max: int = 8 * 1024 * 1024
    uncommitted_bytes_max: int = 8 * 1024 * 1024
    apply_bytes_max: int = 4 * 1024 * 1024
    window_bytes_max: int = 16 * 1024 * 1024
    chunk_bytes_max: int = 1024 * 1024
    reads_waiting_max: int = 65_536
    semantics_version_max: int = 1

    def validate(self) -> None:
        """Raise `SettingsError` for what cannot work."""
        check_name(self.cluster_id)
        check_name(self.node_id)
        if not 1 <= self.heartbeat_ticks < self.election_ticks_min:
            raise SettingsError("heartbeat_ticks must be at least 1 and below election_ticks_min")
        if self.election_ticks_max <= self.election_ticks_min:
            raise SettingsError("election_ticks_max must be above election_ticks_min")
        bounds = {
            "append_bytes_max": self.append_bytes_max,
            "inflight_bytes_max": self.inflight_bytes_max,
            "uncommitted_bytes_max": self.uncommitted_bytes_max,
            "apply_bytes_max": self.apply_bytes_max,
            "window_bytes_max": self.window_bytes_max,
            "chunk_bytes_max": self.chunk_bytes_max,
            "reads_waiting_max": self.reads_waiting_max,
            "semantics_version_max": self.semantics_version_max,
        }
        for name, value in bounds.items():
            if value < 1:
                raise SettingsError(f"{name} must be at least 1")
        if self.chunk_bytes_max > CHUNK_BYTES_MAX:
            raise SettingsError(f"chunk_bytes_max must be at most {CHUNK_BYTES_MAX}")
        if self.semantics_version_max > SEMANTICS_VERSION_MAX:
            raise SettingsError(f"semantics_version_max must be at most {SEMANTICS_VERSION_MAX}")


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a node finds on its disk when it starts, besides the log itself.

    A first start has no hard state and a snapshot at index 0 that names the first members; a node
    that is to join a running group starts with no members at all.
    """

    hard_state: HardState = HardState()
    snapshot: SnapshotMeta = SnapshotMeta()

    @classmethod
    def first_start(cls, configuration: Configuration) -> Self:
        """Return the state of a node that has never run, in a group of these members."""
        return cls(snapshot=SnapshotMeta(configuration=configuration))
