"""A whole cluster in one process, decided by one seed.

From the bottom to the top; no module knows one that comes later:

options     what is simulated: sizes, faults and their rates, drawn from the seed
happenings  what can happen, to be counted
schedule    simulated time: a queue of events
linearizability   the check of the histories
history     what was asked, when, and what was answered
network     links that lose, delay, reorder, duplicate, and partitions of every shape
disk        a disk that forgets at a crash what was not synced, and that is slow or fails
checks      the invariants that are checked while it runs
machine     the state machine of every node
world       what all parts of one simulation share
process     one node: the core, its disk, its clock, its state machine
clients     requests with timeouts
nemesis     who breaks what, when, and how it is healed
cluster     all of it together
"""

from __future__ import annotations

from vaylix_replication.testing.simulation.checks import ViolationError
from vaylix_replication.testing.simulation.cluster import (
    QUICK_TIMEOUTS,
    Report,
    Simulation,
    simulate,
)
from vaylix_replication.testing.simulation.happenings import Happening
from vaylix_replication.testing.simulation.options import SimulationOptions

__all__ = [
    "QUICK_TIMEOUTS",
    "Happening",
    "Report",
    "Simulation",
    "SimulationOptions",
    "ViolationError",
    "simulate",
]
