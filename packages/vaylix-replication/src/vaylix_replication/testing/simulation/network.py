"""Links between nodes. A link is one direction; partitions are sets of links that are cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_replication import decode_message, encode_message
from vaylix_replication.errors import MalformedMessageError
from vaylix_replication.testing.simulation.happenings import Happening
from vaylix_replication.testing.simulation.schedule import MILLISECOND

if TYPE_CHECKING:
    import random
    from collections import Counter
    from collections.abc import Callable

    from vaylix_replication import Message
    from vaylix_replication.testing.simulation.options import SimulationOptions
    from vaylix_replication.testing.simulation.schedule import Schedule

__all__ = ["Network"]

_STRAGGLER_MS = 300


class Network:
    """Delivers messages late, twice, out of order, or never."""

    def __init__(
        self,
        options: SimulationOptions,
        source: random.Random,
        schedule: Schedule,
        happenings: Counter[Happening],
    ) -> None:
        self._source = source
        self._random = source.random
        self._happenings = happenings
        self._schedule = schedule
        self._receivers: dict[str, Callable[[Message], None]] = {}
        self._wire = options.wire
        self._loss = options.loss
        self._duplication = options.duplication
        self._straggling = options.straggling
        self._corruption = options.corruption
        self._delay_us_max = options.delay_ms_max * MILLISECOND
        self.cut_links: set[tuple[str, str]] = set()
        self._healed = False

    def join(self, node_id: str, receive: Callable[[Message], None]) -> None:
        """Let a node be found; what is sent to anybody else is lost."""
        self._receivers[node_id] = receive

    def send(self, sender: str, recipient: str, message: Message) -> None:
        """Put a message on its link."""
        if (sender, recipient) in self.cut_links:
            return
        if self._loss and self._random() < self._loss:
            self._happenings[Happening.LOSS] += 1
            return
        if self._corruption and self._random() < self._corruption:
            self._corrupt(message)
            return
        if self._wire:
            message = decode_message(encode_message(message))
        self._schedule.after(self._delay_us(), self._arrive, sender, recipient, message)
        if self._duplication and self._random() < self._duplication:
            self._happenings[Happening.DUPLICATION] += 1
            self._schedule.after(self._delay_us(), self._arrive, sender, recipient, message)

    def _corrupt(self, message: Message) -> None:
        """Damage the bytes of a message: the decoder refuses them, and survives whatever it reads.

        What still is a message does not arrive either. Raft assumes that nobody lies, so the frames
        that carry messages have to be protected by whoever transports them.
        """
        data = bytearray(encode_message(message))
        shape = self._source.randrange(3)
        if shape == 0:
            del data[self._source.randrange(len(data)) :]
        elif shape == 1:
            data += self._source.randbytes(self._source.randint(1, 8))
        else:
            for _ in range(self._source.randint(1, 3)):
                data[self._source.randrange(len(data))] ^= 1 << self._source.randrange(8)
        try:
            decode_message(bytes(data))
        except MalformedMessageError:
            self._happenings[Happening.CORRUPTION] += 1

    def _arrive(self, sender: str, recipient: str, message: Message) -> None:
        """Deliver what was on its way, unless its link was cut meanwhile."""
        receive = self._receivers.get(recipient)
        if receive is not None and (sender, recipient) not in self.cut_links:
            receive(message)

    def cut(self, links: set[tuple[str, str]]) -> None:
        """Cut links, until they are taken out of `cut_links` again."""
        assert not self._healed, "healing is final"
        self.cut_links |= links

    def heal(self) -> None:
        """Make every link whole and, for ever, reliable. What is on its way stays so."""
        self._healed = True
        self.cut_links.clear()
        self._loss = self._duplication = self._straggling = 0.0
        self._corruption = 0.0

    def _delay_us(self) -> int:
        if self._straggling and self._random() < self._straggling:
            self._happenings[Happening.STRAGGLING] += 1
            return int(self._random() * _STRAGGLER_MS * MILLISECOND)
        return int(self._random() * self._delay_us_max) + 20
