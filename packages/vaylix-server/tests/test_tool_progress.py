"""How the offline tools show progress: a bar on a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import sys

import pytest

from vaylix_server.tools import _common


class Clock:
    """Stands in for the module `time`; it goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_common, "time", clock)
    return clock


def work(clock: Clock, seconds: int) -> None:
    """Do something in steps of a quarter of a second, and tell of each."""
    show = _common.progress()
    steps = 4 * seconds
    for done in range(steps + 1):
        show("verifying", done, steps)
        clock.now += 0.25


def test_without_a_terminal_a_line_comes_every_few_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    work(clock, seconds=10)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "verifying: 30 %\nverifying: 60 %\nverifying: 90 %\nverifying: 100 %\n"


def test_without_a_terminal_short_work_is_not_worth_a_line(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    work(clock, seconds=2)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_one_bar_that_grows_and_leaves_its_line_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    work(clock, seconds=1)
    out, err = capsys.readouterr()
    assert out == ""
    bars = err.split("\r")
    assert bars[0] == "verifying" + " " * 24 + "[" + " " * 25 + "]   0 %"
    assert bars[2] == "verifying" + " " * 24 + "[" + "#" * 12 + " " * 13 + "]  50 %"
    assert bars[4] == "verifying" + " " * 24 + "[" + "#" * 25 + "] 100 %\n"
    assert len({len(bar.rstrip("\n")) for bar in bars}) == 1, "each covers the one before"


def test_a_bar_is_not_drawn_more_often_than_anybody_can_see(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show = _common.progress()
    for done in range(1001):
        show("verifying", done, 1000)
        clock.now += 0.001
    assert 2 < capsys.readouterr().err.count("\r") <= 11
