"""The time of batches and reads: it never goes back, and follows no wall clock that jumps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vaylix_server.clock import TimeKeeper


class Clocks:
    def __init__(self, wall: int = 1_000_000, elapsed: int = 0) -> None:
        self.wall = wall
        self.elapsed = elapsed

    def keeper(self, start_ms: int = 0) -> TimeKeeper:
        return TimeKeeper(
            wall_ms=lambda: self.wall,
            elapsed_ms=lambda: self.elapsed,
            start_ms=start_ms,
            jump_ms_max=60_000,
            patience_ms=300_000,
        )

    def advance(self, milliseconds: int, *, wall: int | None = None) -> None:
        self.elapsed += milliseconds
        self.wall += milliseconds if wall is None else wall


def test_follows_the_wall_clock() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    clocks.advance(10)
    assert keeper.now() == 1_000_010


def test_starts_at_the_newest_time_of_the_log_when_the_wall_clock_is_behind() -> None:
    clocks = Clocks()
    keeper = clocks.keeper(start_ms=5_000_000)
    assert keeper.now() == 5_000_000
    clocks.advance(100)
    assert keeper.now() == 5_000_100


def test_goes_on_at_rate_one_while_the_wall_clock_is_set_back() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    clocks.advance(1000, wall=-500_000)
    assert keeper.now() == 1_001_000
    clocks.advance(1000)
    assert keeper.now() == 1_002_000


def test_follows_a_forward_step_of_up_to_a_minute() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    clocks.wall += 60_000
    assert keeper.now() == 1_060_000


def test_does_not_believe_a_longer_step_until_it_has_stood_for_five_minutes() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    clocks.wall += 60_001
    assert keeper.now() == 1_000_000
    assert keeper.doubts_wall_clock
    assert keeper.offset_ms == 60_001
    clocks.advance(299_999)
    assert keeper.now() == 1_299_999
    clocks.advance(1)
    assert keeper.now() == 1_360_001
    assert not keeper.doubts_wall_clock


def test_forgets_a_step_that_was_taken_back() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    clocks.wall += 3_600_000
    keeper.now()
    clocks.advance(200_000, wall=-3_400_000)
    assert keeper.now() == 1_200_000
    assert not keeper.doubts_wall_clock
    clocks.wall += 3_600_000
    clocks.advance(200_000)
    assert keeper.now() == 1_400_000, "the second jump has its own five minutes"


@given(
    st.lists(st.tuples(st.integers(0, 400_000), st.integers(-10_000_000, 10_000_000)), max_size=40)
)
def test_never_goes_back_and_never_falls_behind_elapsed_time(steps: list[tuple[int, int]]) -> None:
    clocks = Clocks(wall=100_000_000)
    keeper = clocks.keeper()
    before = keeper.now()
    for elapsed, wall in steps:
        clocks.advance(elapsed, wall=wall)
        now = keeper.now()
        assert now >= before + elapsed
        before = now
