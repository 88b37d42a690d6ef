"""Who has to go when too many are connected, or have sent too much without a login."""

from __future__ import annotations

import pytest

from vaylix_server.metrics import Metrics
from vaylix_server.registry import SessionRegistry


class Session:
    """Notes what it is told; its connection is lost later, as that of a real one."""

    def __init__(self) -> None:
        self.number = 0
        self.told: list[str] = []

    def stop(self) -> None:
        self.told.append("stop")

    def end(self, reason: str) -> None:
        self.told.append(reason)

    def abort(self) -> None:
        self.told.append("abort")


@pytest.fixture
def registry() -> SessionRegistry:
    return SessionRegistry(slots=4, metrics=Metrics())


def test_whoever_has_sent_most_is_turned_out_once_and_nobody_else(
    registry: SessionRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaylix_server.registry.WAITING_BYTES_MAX", 100)
    greedy, others = Session(), [Session() for _ in range(3)]
    for session in (greedy, *others):
        registry.add(session)
    registry.note_waiting(greedy, 60)
    # All of them are read before the end of the first one is noticed.
    for session in others:
        registry.note_waiting(session, 30)
    assert greedy.told == ["turned out: too much waited without a login", "abort"]
    assert [session.told for session in others] == [[], [], []]
    registry.remove(greedy)
    registry.note_waiting(others[0], 40)
    assert others[0].told == []
    registry.note_waiting(others[1], 31)
    assert others[0].told[1:] == ["abort"]
