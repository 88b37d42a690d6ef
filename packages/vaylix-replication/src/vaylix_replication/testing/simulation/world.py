"""What all parts of one simulation share: its time, its links, its history and its checks."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from vaylix_replication.testing.simulation.checks import Checks
from vaylix_replication.testing.simulation.history import History
from vaylix_replication.testing.simulation.network import Network
from vaylix_replication.testing.simulation.schedule import Schedule

if TYPE_CHECKING:
    from vaylix_replication.testing.simulation.happenings import Happening
    from vaylix_replication.testing.simulation.options import SimulationOptions

__all__ = ["World"]


class World:
    """Where processes and clients live. It knows none of them."""

    def __init__(self, options: SimulationOptions) -> None:
        self.options = options
        self.schedule = Schedule()
        self.checks = Checks()
        self.history = History()
        self.happenings: Counter[Happening] = Counter()
        self.network = Network(options, self.source("network"), self.schedule, self.happenings)
        # Who takes part now or may join: voters first, then spares.
        self.node_ids = [chr(ord("a") + n) for n in range(options.voters + options.spares)]
        self.faulty = True
        # Draws how long whoever has crashed stays away.
        self.outages = self.source("cluster")

    def source(self, part: str) -> random.Random:
        """Return the randomness of one part: what another part draws does not move it."""
        return random.Random(f"{self.options.seed} {part}")  # noqa: S311 - a seed decides
