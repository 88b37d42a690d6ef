"""Speed of the core: a group of three in memory, everything included but disks and sockets.

    python packages/vaylix-replication/benchmarks/replication.py

Each figure counts payloads of 64 bytes that are committed on the leader and, at the end, applied
by all three nodes. Time is that of the processor, so that neighbours do not count. `encoded`:
every message is also encoded once and decoded by each recipient.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vaylix_replication import decode_message, encode_message
from vaylix_replication.testing import LockstepGroup

if TYPE_CHECKING:
    from vaylix_replication import Message

SECONDS = 2.0
PAYLOAD = b"x" * 64


class EncodingGroup(LockstepGroup):
    """Sends bytes instead of objects."""

    _encoded: tuple[Message, bytes] | None = None

    def _send(self, sender: str, recipient: str, message: Message) -> None:
        # The same append goes to both followers; it is encoded once.
        if self._encoded is None or self._encoded[0] is not message:
            self._encoded = (message, encode_message(message))
        super()._send(sender, recipient, decode_message(self._encoded[1]))


def measure(group: LockstepGroup, *, count: int, batches_per_turn: int) -> float:
    """Return payloads per second."""
    leader = group.elect()
    payload = PAYLOAD * count
    done = 0
    begin = time.process_time()
    while time.process_time() - begin < SECONDS:
        for _ in range(batches_per_turn):
            group.propose(payload, count=count)
        group.settle()
        done += batches_per_turn * count
    elapsed = time.process_time() - begin
    group.tick(2)
    assert all(node.raft.commit == leader.raft.commit for node in group.nodes.values())
    return done / elapsed


def main() -> None:
    """Measure and print."""
    bound = 1 << 30
    for kind in (LockstepGroup, EncodingGroup):
        for count, batches_per_turn in ((64, 1), (64, 16), (1, 1), (1, 64)):
            group = kind("abc", uncommitted_bytes_max=bound)
            rate = measure(group, count=count, batches_per_turn=batches_per_turn)
            how = "encoded" if kind is EncodingGroup else "objects"
            print(
                f"{how}: {rate:>10,.0f} payloads/s in batches of {count}, "
                f"{batches_per_turn} at a time ({rate / count:,.0f} batches/s)"
            )


if __name__ == "__main__":
    main()
