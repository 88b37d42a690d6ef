"""Quorums, memberships and histories against naive twins."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaylix_replication import Configuration, Join, JoinAsLearner, Leave, MembershipChange
from vaylix_replication._configuration import change_configuration
from vaylix_replication._history import History
from vaylix_replication._quorum import majority_reached, majority_size
from vaylix_replication.errors import MembershipRefusedError

VALUES = st.lists(st.integers(0, 10), max_size=9)
NODES = "abcdefg"
CHANGES = st.one_of(
    st.builds(Join, st.sampled_from(NODES), st.sampled_from(["x:1", "y:1"])),
    st.builds(JoinAsLearner, st.sampled_from(NODES), st.just("x:1")),
    st.builds(Leave, st.sampled_from(NODES)),
)


@given(VALUES)
@settings(max_examples=200)
def test_a_majority_has_reached_the_result_and_none_has_reached_more(values: list[int]) -> None:
    reached = majority_reached(values)
    if values:
        assert sum(value >= reached for value in values) >= majority_size(len(values))
        assert sum(value > reached for value in values) < majority_size(len(values))
    else:
        assert reached == 0


@pytest.mark.parametrize("voters", range(1, 8))
def test_any_two_majorities_of_neighbouring_memberships_share_a_voter(voters: int) -> None:
    """Exhaustive: the reason why one voter at a time is enough (dissertation figure 4.3)."""
    old = range(voters)
    for new in (range(voters + 1), range(voters), range(1, voters)):
        if not new:
            continue
        for left in itertools.combinations(old, majority_size(len(old))):
            for right in itertools.combinations(new, majority_size(len(new))):
                assert set(left) & set(right)


class NaiveMembership:
    """Two sets and a dict; knows nothing of ordering or encoding."""

    def __init__(self) -> None:
        self.voters = {"a"}
        self.addresses = {"a": ""}

    def change(self, change: MembershipChange) -> bool:
        """Apply the change; False if it is not possible."""
        node_id = change.node_id
        if isinstance(change, Leave):
            if self.voters == {node_id}:
                return False
            self.voters.discard(node_id)
            self.addresses.pop(node_id, None)
            return True
        if isinstance(change, JoinAsLearner) and node_id in self.voters:
            return False
        self.addresses[node_id] = change.address
        return True


@given(st.lists(CHANGES, max_size=12))
@settings(max_examples=200)
def test_memberships_change_as_a_naive_twin_does(changes: list[MembershipChange]) -> None:
    configuration, naive = Configuration.of_voters({"a": ""}), NaiveMembership()
    for change in changes:
        before = configuration.voters
        try:
            changed = change_configuration(configuration, change)
        except MembershipRefusedError:
            assert not naive.change(change)
            continue
        assert naive.change(change)
        configuration = changed or configuration
        assert set(configuration.voters) == naive.voters
        assert {m.node_id: m.address for m in configuration.members} == naive.addresses
        assert [m.node_id for m in configuration.members] == sorted(naive.addresses)
        assert len(set(before) ^ set(configuration.voters)) <= 1
        assert Configuration.decode(configuration.encode()) == configuration


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 3)),
            st.tuples(st.just("truncate"), st.integers(0, 6)),
            st.tuples(st.just("compact"), st.integers(0, 3)),
        ),
        max_size=20,
    )
)
@settings(max_examples=200)
def test_a_history_is_a_list_of_values_by_index(steps: list[tuple[str, int]]) -> None:
    history, naive, base = History(0, 0), [0], 0
    for name, amount in steps:
        last = len(naive) - 1
        if name == "append":
            naive.extend([naive[-1]] * (amount - 1))
            naive.append(last + amount)
            history.append(last + amount, last + amount)
        elif name == "truncate":
            keep = max(base, last - amount)
            del naive[keep + 1 :]
            history.truncate_after(keep)
        else:
            base = min(last, base + amount)
            history.compact(base)
        assert history.latest == naive[-1]
        assert all(history.at(i) == naive[i] for i in range(base, len(naive)))
