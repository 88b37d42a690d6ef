"""Seeds that once showed a real defect, of the core or of the simulator itself.

Their options are written down rather than drawn, and stripped of every fault that the defect does
not need, so a seed keeps its meaning whatever else is drawn one day. Each is run twice: as things
are, and with the defect planted again, which must be given away. Otherwise a change to the
simulator could turn such a seed into a run like any other, and nobody would notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from vaylix_replication import _leading, _sending
from vaylix_replication._progress import Progress, ProgressMode
from vaylix_replication.errors import CorruptionError
from vaylix_replication.testing.planted_bugs import BUGS, PlantedBug, plant
from vaylix_replication.testing.simulation import SimulationOptions, simulate
from vaylix_replication.testing.simulation.nemesis import Nemesis

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_replication._state import LeaderState, NodeState
    from vaylix_replication.messages import AppendReply

_is_overdue = _sending._is_overdue
_on_refusal = _leading._on_refusal
_replicate = _sending.replicate


class Regression(msgspec.Struct, frozen=True):
    """A seed with its options, and the defect that it once showed."""

    name: str
    options: SimulationOptions
    defect: PlantedBug


def _replicate_pieces_after_replies(
    state: NodeState, leading: LeaderState, peer: str, progress: Progress
) -> None:
    """Send a piece again when the member has answered something, and only then."""
    if progress.mode is not ProgressMode.SNAPSHOT:
        _replicate(state, leading, peer, progress)
    elif _is_overdue(state, progress):
        _sending.send_chunk(state, leading, peer, progress, ask=True)


def _judge_what_is_compacted(state: NodeState, progress: Progress, message: AppendReply) -> None:
    """Take the terms below the base for equal, because none is known there."""
    probed = progress.mode is ProgressMode.PROBE and message.index == progress.next_index - 1
    if probed and progress.match < message.index == message.hint_index < state.log.base_index:
        raise CorruptionError(f"{message.sender} refuses what it claims to have")
    _on_refusal(state, progress, message)


def _break_although_healed(
    _: Nemesis, action: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    action(*arguments)


REMOVED_TOO_EARLY = next(bug for bug in BUGS if bug.name == "removed-too-early")
LOST_PIECE = PlantedBug(
    "lost-piece",
    "a lost piece of a snapshot is sent again only to a member that answers heartbeats",
    2,
    ("liveness: the nodes do not converge",),
    (
        (_sending, "_is_overdue", lambda *_: False),
        (_leading, "replicate", _replicate_pieces_after_replies),
    ),
)
JUDGED_BELOW_THE_BASE = PlantedBug(
    "judged-below-the-base",
    "a refusal of a probe below the compacted log is taken for corruption",
    2164,
    ("refuses what it claims to have",),
    ((_leading, "_on_refusal", _judge_what_is_compacted),),
)
UNHEALED = PlantedBug(
    "unhealed",
    "what the nemesis has scheduled strikes after the healing too",
    1,
    ("healing is final",),
    ((Nemesis, "_unless_healed", _break_although_healed),),
)

REGRESSIONS = (
    Regression(
        "the last of two voters, the other of which is being removed, must still be elected",
        SimulationOptions(seed=4, voters=2, membership_interval_ms=200, partition_interval_ms=200),
        REMOVED_TOO_EARLY,
    ),
    Regression(
        "a member that does not know the leader yet has lost the first piece of its snapshot",
        SimulationOptions(
            seed=2,
            spares=2,
            loss=0.2,
            partition_interval_ms=150,
            transfer_interval_ms=100,
            membership_interval_ms=30,
            snapshot_entries=3,
        ),
        LOST_PIECE,
    ),
    Regression(
        "a leader compacts its log while the refusal of what was there is on its way",
        SimulationOptions(
            seed=2164,
            loss=0.1,
            straggling=0.1,
            rolling_isolation=True,
            crash_interval_ms=100,
            snapshot_entries=1,
            append_bytes=1,
        ),
        JUDGED_BELOW_THE_BASE,
    ),
    Regression(
        "nodes are cut off one after the other, and the healing comes in between",
        SimulationOptions(seed=1, partition_interval_ms=278, snapshot_entries=3),
        UNHEALED,
    ),
)


@pytest.mark.parametrize("regression", REGRESSIONS, ids=lambda regression: regression.name)
def test_a_seed_that_once_failed_passes_and_still_shows_the_defect(
    regression: Regression,
) -> None:
    defect = regression.defect
    with plant(defect), pytest.raises((AssertionError, CorruptionError)) as caught:
        simulate(regression.options)
    assert defect.evidence(caught.value) is not None, caught.value
    simulate(regression.options)
