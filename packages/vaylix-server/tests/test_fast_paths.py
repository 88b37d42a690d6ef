"""What runs of plain GETs and SETs are measured by."""

from __future__ import annotations

import pytest

from vaylix_protocol import SetRun
from vaylix_server.fast_paths import payload_bytes, split_sets
from vaylix_server.weights import WEIGHT_BYTES

IDS = [bytes([number]) * 16 for number in range(3)]


@pytest.mark.parametrize(
    "run",
    [
        SetRun(IDS[:1], [b""], [b""]),
        SetRun(IDS[:1], [b"key"], [b"value"]),
        SetRun(IDS, [b"a", b"", b"long" * 9], [b"", b"value" * 500, b"v"]),
    ],
)
def test_a_run_takes_what_its_requests_take(run: SetRun) -> None:
    assert payload_bytes(run) == sum(request.payload_bytes for request in run.requests())


def weight(run: SetRun) -> int:
    return len(run.keys) + payload_bytes(run) // WEIGHT_BYTES


@pytest.mark.parametrize("room", [1, 2, 99, 100, 101, 1024])
@pytest.mark.parametrize(
    ("key_bytes", "value_bytes"), [(0, 0), (1024, 0), (65_535, 0), (10, 1024), (700, 700)]
)
def test_room_is_passed_by_one_request_at_most(room: int, key_bytes: int, value_bytes: int) -> None:
    count = 1500
    ids = [number.to_bytes(16, "big") for number in range(count)]
    run = SetRun(ids, [bytes(key_bytes)] * count, [bytes(value_bytes)] * count)

    first, rest = split_sets(run, room)

    assert weight(first) >= room
    taken = len(first.keys) - 1
    assert weight(SetRun(ids[:taken], run.keys[:taken], run.values[:taken])) < room
    assert rest is not None
    assert first.request_ids + rest.request_ids == ids
    assert len(rest.keys) == len(rest.values) == len(rest.request_ids)


@pytest.mark.parametrize(("room", "whole"), [(6, True), (5, True), (4, False)])
def test_a_run_that_only_its_last_request_takes_beyond_the_room_stays_whole(
    room: int, *, whole: bool
) -> None:
    # Five requests weigh 6, and four of them 4.
    run = SetRun([bytes(16)] * 5, [bytes(200)] * 5, [b""] * 5)
    assert weight(run) == 6

    assert (split_sets(run, room)[1] is None) == whole
