"""For those who test with, or against, this package.

    LockstepGroup    a whole group in one process, without faults: examples, benchmarks
    SoloNode         one node, played against by hand (module `solo`)
    simulation       whole groups under faults, decided by a seed
    simulate         the same from the command line
    planted_bugs     classic mistakes, to prove that the simulator finds them
    check_ack_mode   the rules of ack modes

Nothing here is imported by the core, and nothing here belongs into production.
"""

from __future__ import annotations

from vaylix_replication.testing.ack_mode_kit import check_ack_mode
from vaylix_replication.testing.lockstep import LockstepGroup, LockstepNode
from vaylix_replication.testing.memory import MemoryLog, MemorySnapshots

__all__ = ["LockstepGroup", "LockstepNode", "MemoryLog", "MemorySnapshots", "check_ack_mode"]
