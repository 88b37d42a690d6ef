from __future__ import annotations

from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from vaylix_client._ids import RequestIds


def test_ids_are_version_7_uuids_of_the_clock() -> None:
    ids = RequestIds(lambda: 0x0198C0DE0000, seed=5)
    uuid = UUID(bytes=ids.next_id())
    assert uuid.version == 7
    assert uuid.variant == RFC_4122
    assert uuid.int >> 80 == 0x0198C0DE0000


@given(
    times=st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=20),
    seed=st.integers(0, 2**73 - 1),
)
def test_ids_grow_even_when_the_clock_goes_backwards(times: list[int], seed: int) -> None:
    clock = iter(times)
    ids = RequestIds(lambda: next(clock), seed)
    made = [ids.next_id() for _ in times]
    assert made == sorted(set(made))
