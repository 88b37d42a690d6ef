"""How long a client may be silent, on a loop whose time the test moves."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import cast

from vaylix_server.silence import SilenceTimer

LIMIT = 60.0


class Handle:
    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    """Time and timers, and nothing else of a loop."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, Handle, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Handle:
        handle = Handle()
        heapq.heappush(self._timers, (self.now + seconds, next(self._order), handle, callback))
        return handle

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            self.now, _, handle, callback = heapq.heappop(self._timers)
            if not handle.is_cancelled:
                callback()
        self.now = end


class Client:
    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.waits = False
        self.ended_at: list[float] = []
        self.timer = SilenceTimer(cast("asyncio.AbstractEventLoop", self.loop), self)

    def is_busy(self) -> bool:
        return self.waits

    def end_silence(self) -> None:
        self.ended_at.append(self.loop.now)

    def speak(self) -> None:
        self.timer.last_active = self.loop.now


def test_who_says_nothing_is_ended_at_the_limit() -> None:
    client = Client()
    client.timer.start(LIMIT)
    client.loop.advance(LIMIT - 0.1)
    assert client.ended_at == []
    client.loop.advance(0.1)
    assert client.ended_at == [1000 + LIMIT]
    client.loop.advance(1000)
    assert len(client.ended_at) == 1


def test_the_limit_does_not_wear_off_for_who_goes_on_speaking() -> None:
    client = Client()
    client.timer.start(LIMIT)
    for pause in (1, 5, 25, 59.9):
        for _ in range(100):
            client.loop.advance(pause)
            client.speak()
    assert client.ended_at == []
    said_last = client.loop.now
    client.loop.advance(2 * LIMIT)
    assert client.ended_at == [said_last + LIMIT]


def test_who_waits_for_an_answer_may_be_silent() -> None:
    client = Client()
    client.timer.start(LIMIT)
    client.waits = True
    client.loop.advance(10 * LIMIT)
    assert client.ended_at == []
    client.waits = False
    client.loop.advance(LIMIT)
    assert len(client.ended_at) == 1


def test_a_limit_can_be_replaced_and_lifted() -> None:
    client = Client()
    client.timer.start(LIMIT)
    client.loop.advance(LIMIT / 2)
    client.timer.start(LIMIT)
    client.loop.advance(LIMIT - 1)
    assert client.ended_at == [], "the first limit no longer counts"
    client.timer.stop()
    client.timer.stop()
    client.loop.advance(10 * LIMIT)
    assert client.ended_at == []
