"""The order of expiry, against a sorted list, with blocks small enough to split and vanish."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaylix_storage._expiry import BLOCK_ITEMS_MAX, ExpiryIndex


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 20)), max_size=200),
    now_ms=st.integers(0, 13),
)
def test_the_index_is_a_sorted_set(changes: list[tuple[int, int]], now_ms: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaylix_storage._expiry.BLOCK_ITEMS_MAX", 4)
        index = ExpiryIndex()
        model: set[tuple[int, bytes]] = set()
        for expires_at_ms, number in changes:
            item = (expires_at_ms, b"%d" % number)
            if item in model:
                model.remove(item)
                index.remove(*item)
            else:
                model.add(item)
                index.add(*item)
            assert index.items() == sorted(model)
            assert index.due_count(now_ms) == sum(item[0] <= now_ms for item in model)
        due = sorted(item for item in model if item[0] <= now_ms)
        taken: list[bytes] = []
        while part := index.take_due(now_ms, 3):
            assert len(part) <= 3
            taken += part
        assert taken == [key for _, key in due]
        assert index.items() == sorted(model - set(due))


def test_blocks_stay_within_their_bound() -> None:
    index = ExpiryIndex()
    for number in range(10 * BLOCK_ITEMS_MAX):
        index.add(5, b"%08d" % (number * 7919 % 100_003))
    sizes = [len(block) for block in index.release_blocks()]
    assert max(sizes) <= BLOCK_ITEMS_MAX
    assert sum(sizes) == 10 * BLOCK_ITEMS_MAX
    assert index.due_count(5) == 0


def test_the_largest_times_are_in_order_like_all_others() -> None:
    index = ExpiryIndex()
    times = [1, 255, 256, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
    for expires_at_ms in reversed(times):
        index.add(expires_at_ms, b"")
    assert index.items() == [(expires_at_ms, b"") for expires_at_ms in times]
    assert index.due_count(2**63 - 1) == 5
    assert index.take_due(255, 9) == [b"", b""]
