"""The checkers bite: every planted mistake is given away by the seed that stands beside it."""

from __future__ import annotations

import msgspec
import pytest

from vaylix_replication.testing import planted_bugs
from vaylix_replication.testing.planted_bugs import BUGS, PlantedBug, find, plant
from vaylix_replication.testing.simulation import SimulationOptions, ViolationError, simulate


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_mistake_is_found_for_what_it_is_and_its_absence_is_not(
    bug: PlantedBug,
) -> None:
    options = SimulationOptions.draw(bug.seed)
    with plant(bug), pytest.raises(Exception) as caught:  # noqa: PT011 - its evidence is asserted
        simulate(options)
    assert bug.evidence(caught.value) is not None, caught.value
    simulate(options)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ViolationError("liveness", "no leader"), None),
        (ViolationError("log matching", "7"), "log matching"),
        (AssertionError("handed_out <= commit"), None),
        (KeyError("log"), None),
    ],
)
def test_only_a_failure_that_shows_the_mistake_gives_it_away(
    error: Exception, expected: str | None
) -> None:
    assert PlantedBug("name", "mistake", 0, ("log matching",), ()).evidence(error) == expected


def test_a_bare_assertion_gives_a_mistake_away_by_what_it_asserts() -> None:
    bug = next(bug for bug in BUGS if bug.name == "applied-uncommitted")
    with plant(bug), pytest.raises(AssertionError) as caught:
        simulate(SimulationOptions.draw(bug.seed))
    assert not str(caught.value)
    assert bug.evidence(caught.value) == "handed_out <= self.commit"


def test_two_rival_changes_of_the_membership_are_enough_to_lose_a_committed_entry() -> None:
    """No other fault is needed, and one group of four in three is lost."""
    bug = next(bug for bug in BUGS if bug.name == "change-without-own-commit")
    options = SimulationOptions(seed=1, voters=4, rival_changes=True)
    with plant(bug), pytest.raises(ViolationError, match="leader completeness"):
        simulate(options)
    simulate(options)


def test_the_search_stops_at_its_bound() -> None:
    harmless = PlantedBug("none", "no mistake at all", 0, ("liveness",), ())
    assert find(harmless, seconds_max=0.2) is None
    obvious = next(bug for bug in BUGS if bug.name == "probe-not-repeated")
    assert find(obvious, seconds_max=60) is not None
    blind = msgspec.structs.replace(obvious, given_away_by=("something else",))
    assert find(blind, seconds_max=0.5) is None


def test_the_command_prints_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = next(bug for bug in BUGS if bug.name == "ack-before-fsync")
    monkeypatch.setattr(planted_bugs, "BUGS", (quick,))
    assert planted_bugs.main() == 0
    assert capsys.readouterr().out.startswith("| ack-before-fsync |")


def test_there_are_at_least_fifteen() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 15
