"""Whatever links are broken: if some node reaches a majority, there is a leader that commits.

All graphs of three and of four nodes, and every seventh one of five. Pre-vote, check-quorum and
voters that stay with their leader must be in balance for this: each of them alone can keep a group
without a leader for ever in one of these graphs.
"""

from __future__ import annotations

import itertools

import pytest

from vaylix_replication.testing import LockstepGroup

ELECTION_TICKS_MAX = 20


def graphs(nodes: str, step: int) -> list[frozenset[tuple[str, str]]]:
    """Return sets of broken links that leave some node with a majority."""
    pairs = list(itertools.combinations(nodes, 2))
    result = []
    for number in range(0, 2 ** len(pairs), step):
        broken = frozenset(pair for n, pair in enumerate(pairs) if number >> n & 1)
        for node in nodes:
            reached = len(nodes) - sum(node in pair for pair in broken)
            if reached > len(nodes) // 2:
                result.append(broken)
                break
    return result


def commits(group: LockstepGroup) -> bool:
    leader = group.leader
    if leader is None:
        return False
    batch = group.propose(b"alive")
    group.settle()
    return batch in leader.applied


@pytest.mark.parametrize(("nodes", "step"), [("abc", 1), ("abcd", 1), ("abcde", 7)])
def test_a_node_that_reaches_a_majority_is_enough(nodes: str, step: int) -> None:
    for broken in graphs(nodes, step):
        group = LockstepGroup(nodes, seed=len(broken))
        group.elect()
        group.cut_links = {link for a, b in broken for link in ((a, b), (b, a))}
        for _ in range(10 * ELECTION_TICKS_MAX):
            group.tick()
        assert commits(group), broken


def test_one_way_links_do_not_keep_a_group_without_a_leader() -> None:
    """All sets of one-way cuts at the leader's links in a group of three."""
    links = [link for other in "bc" for link in (("a", other), (other, "a"))]
    for number in range(1, 2 ** len(links)):
        group = LockstepGroup("abc", seed=number)
        group.elect()
        group.cut_links = {link for n, link in enumerate(links) if number >> n & 1}
        for _ in range(10 * ELECTION_TICKS_MAX):
            group.tick()
        assert commits(group), group.cut_links
