"""When a client is answered, and that the kit for rivals tells good from bad."""

from __future__ import annotations

import pytest

from vaylix_replication import (
    AckMode,
    AckProgress,
    AllVoters,
    LocalDisk,
    Majority,
    find_ack_mode,
)
from vaylix_replication.testing import LockstepGroup, check_ack_mode


def progress(commit: int, **match: int) -> AckProgress:
    return AckProgress(own_id="a", voters=("a", "b", "c"), match=match, commit=commit)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(LocalDisk(), 9), (Majority(), 7), (AllVoters(), 5)],
    ids=["local", "majority", "all"],
)
def test_each_mode_answers_what_it_promises(mode: AckMode, expected: int) -> None:
    assert mode.acknowledged(progress(7, a=9, b=7, c=5)) == expected


def test_all_waits_for_a_voter_that_was_never_heard() -> None:
    assert AllVoters().acknowledged(progress(7, a=9, b=7)) == 0


def test_all_waits_for_the_commit_too() -> None:
    """`all` delays the answer; it does not change what is committed (VTP replication 19.5)."""
    assert AllVoters().acknowledged(progress(3, a=9, b=9, c=9)) == 3


def test_replica_is_another_name_for_majority() -> None:
    assert find_ack_mode("replica").name == "majority"
    assert {find_ack_mode(name).name for name in ("local", "majority", "all")} == {
        "local",
        "majority",
        "all",
    }
    with pytest.raises(KeyError):
        find_ack_mode("most")


@pytest.mark.parametrize(
    ("mode", "may_precede_commit"), [(LocalDisk(), True), (Majority(), False), (AllVoters(), False)]
)
def test_the_modes_keep_the_rules(mode: AckMode, may_precede_commit: bool) -> None:
    check_ack_mode(mode, may_precede_commit=may_precede_commit)


class AnyDisk:
    """Wrong: answers what any member has, also when this node does not."""

    name = "any"

    def acknowledged(self, progress: AckProgress) -> int:
        return max(progress.match.values(), default=0)


class OnlyKnown:
    """Wrong: forgets voters that were never heard."""

    name = "known"

    def acknowledged(self, progress: AckProgress) -> int:
        return min([progress.commit, *progress.match.values()])


class Backwards:
    """Wrong: answers less when the group has more."""

    name = "backwards"

    def acknowledged(self, progress: AckProgress) -> int:
        return max(0, progress.commit - progress.match.get("b", 0))


@pytest.mark.parametrize(
    ("mode", "rule"),
    [
        (AnyDisk(), "thin air"),
        (OnlyKnown(), "absent"),
        (Backwards(), "falls"),
        (LocalDisk(), "before"),
    ],
)
def test_the_kit_finds_what_breaks_them(mode: AckMode, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_ack_mode(mode, may_precede_commit=isinstance(mode, AnyDisk))


def test_progress_comes_from_the_node() -> None:
    group = LockstepGroup("abc")
    leader = group.elect()
    silent = next(n for n in group.nodes if n != leader.node_id)
    group.cut = {silent}
    group.propose(b"x")
    group.settle()
    now = leader.raft.ack_progress()
    assert (now.own_id, now.voters, now.commit) == (leader.node_id, ("a", "b", "c"), 2)
    assert now.match[silent] == 1
    assert [mode.acknowledged(now) for mode in (LocalDisk(), Majority(), AllVoters())] == [2, 2, 1]
