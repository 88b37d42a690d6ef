"""The batch is the unit: what it holds makes no difference to what it costs in calls."""

from __future__ import annotations

import sys
from types import FrameType

import pytest

from vaylix_replication.testing import LockstepGroup


def calls_of(count: int) -> int:
    """Propose, append, acknowledge and commit one batch on three nodes; return the calls made."""
    group = LockstepGroup("abc")
    group.elect()
    # Whatever is done once has been done.
    group.propose(b"warm")
    group.settle()
    calls = 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(profile)
    try:
        batch = group.propose(b"p" * 64 * count, count=count)
        group.settle()
    finally:
        sys.setprofile(None)
    leader = group.leader
    assert leader is not None
    assert leader.applied[-1] == batch
    assert all(node.log.last_index == batch.last_index for node in group.nodes.values())
    return calls


@pytest.mark.parametrize("count", [64, 1000])
def test_many_payloads_cost_no_more_calls_than_one(count: int) -> None:
    calls_of(1)  # Whatever is made at its first use is there now.
    assert calls_of(count) <= calls_of(1) + 10 < 2000
