"""What of the past is kept, against a naive twin that tries every choice."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaylix_storage import SegmentStat
from vaylix_storage._retention import RetentionPolicy, kept_snapshots, removable_before

NOW = 1000


def segment(
    number: int,
    *,
    size_bytes: int = 100,
    last_timestamp_ms: int = 0,
    is_sealed: bool = True,
    first_index: int | None = None,
    last_index: int | None = None,
) -> SegmentStat:
    """Segment n holds the ten entries up to 10 n, unless told otherwise."""
    return SegmentStat(
        path=Path(f"/wal/{number}"),
        number=number,
        first_index=number * 10 - 9 if first_index is None else first_index,
        last_index=number * 10 if last_index is None else last_index,
        size_bytes=size_bytes,
        first_timestamp_ms=0,
        last_timestamp_ms=last_timestamp_ms,
        key_id=b"k" * 16,
        is_sealed=is_sealed,
    )


LOG = [*(segment(number) for number in range(1, 6)), segment(6, is_sealed=False)]


def removable(
    policy: RetentionPolicy, snapshot_index: int = 60, needed_from: int | None = None
) -> int:
    return removable_before(
        LOG, snapshot_index=snapshot_index, policy=policy, now_ms=NOW, needed_from=needed_from
    )


def test_the_newest_sealed_segments_are_kept() -> None:
    assert removable(RetentionPolicy(segments_max=0)) == 51
    assert removable(RetentionPolicy(segments_max=3)) == 21
    assert removable(RetentionPolicy(segments_max=5)) == 1
    assert removable(RetentionPolicy(segments_max=None)) == 1
    assert removable(RetentionPolicy()) == 1


def test_segments_are_kept_up_to_a_size_and_an_age() -> None:
    assert removable(RetentionPolicy(segment_bytes_max=300)) == 21
    assert removable(RetentionPolicy(segment_bytes_max=299)) == 31
    log = [segment(number, last_timestamp_ms=number * 100) for number in range(1, 6)]
    for age, index in ((700, 21), (699, 31), (0, 51)):
        policy = RetentionPolicy(segment_age_ms_max=age)
        assert removable_before(log, snapshot_index=99, policy=policy, now_ms=NOW) == index


def test_what_the_current_snapshot_does_not_hold_is_kept() -> None:
    policy = RetentionPolicy(segments_max=0)
    assert removable(policy, snapshot_index=0) == 1
    assert removable(policy, snapshot_index=29) == 21
    assert removable(policy, snapshot_index=30) == 31


def test_what_a_follower_needs_is_kept_up_to_a_bound() -> None:
    policy = RetentionPolicy(segments_max=0, follower_bytes_max=400)
    assert removable(policy, needed_from=31) == 31
    assert removable(policy, needed_from=40) == 31
    assert removable(policy, needed_from=61) == 51
    assert removable(policy, needed_from=21) == 21
    assert removable(policy, needed_from=20) == 51, "500 bytes are too many"


def test_the_current_snapshot_is_kept_and_older_ones_by_number_and_age() -> None:
    times = [100, 500, 900]
    for count, age, kept in (
        (1, None, 1),
        (2, None, 2),
        (9, None, 3),
        (9, 500, 2),
        (9, 499, 1),
        (9, 0, 1),
    ):
        policy = RetentionPolicy(snapshots_max=count, snapshot_age_ms_max=age)
        assert kept_snapshots(times, policy=policy, now_ms=NOW) == kept
    assert kept_snapshots([], policy=RetentionPolicy(), now_ms=NOW) == 0


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one snapshot"):
        RetentionPolicy(snapshots_max=0)
    for field in ("segments_max", "segment_bytes_max", "segment_age_ms_max"):
        with pytest.raises(ValueError, match="not negative"):
            RetentionPolicy(**{field: -1})


limits = st.none() | st.integers(0, 12)
policies = st.builds(
    RetentionPolicy,
    segments_max=limits,
    segment_bytes_max=limits,
    segment_age_ms_max=limits,
    snapshots_max=st.integers(1, 5),
    snapshot_age_ms_max=limits,
    follower_bytes_max=st.integers(0, 15),
)


@st.composite
def logs(draw: st.DrawFn) -> list[SegmentStat]:
    found = []
    first_index = draw(st.integers(1, 5))
    count = draw(st.integers(1, 7))
    for number in range(1, count + 1):
        is_sealed = number < count
        entries = draw(st.integers(1 if is_sealed else 0, 3))
        found.append(
            segment(
                number,
                size_bytes=draw(st.integers(1, 5)),
                last_timestamp_ms=draw(st.integers(0, 20)),
                is_sealed=is_sealed,
                first_index=first_index,
                last_index=first_index + entries - 1,
            )
        )
        first_index += entries
    return found


def may_go(
    log: list[SegmentStat],
    place: int,
    policy: RetentionPolicy,
    snapshot_index: int,
    needed_from: int | None,
) -> bool:
    """The rules, each by itself, for a segment whose elders are gone."""
    this, rest = log[place], [other for other in log[place:] if other.is_sealed]
    if not this.is_sealed or this.last_index > snapshot_index:
        return False
    if needed_from is not None and this.last_index >= needed_from:
        wanted = [other for other in log if other.last_index >= needed_from]
        if sum(other.size_bytes for other in wanted) <= policy.follower_bytes_max:
            return False
    reasons = []
    if policy.segments_max is not None:
        reasons.append(len(rest) > policy.segments_max)
    if policy.segment_bytes_max is not None:
        reasons.append(sum(other.size_bytes for other in rest) > policy.segment_bytes_max)
    if policy.segment_age_ms_max is not None:
        reasons.append(20 - this.last_timestamp_ms > policy.segment_age_ms_max)
    return any(reasons)


@given(
    log=logs(),
    policy=policies,
    snapshot_index=st.integers(0, 25),
    needed_from=st.none() | st.integers(1, 25),
)
def test_segments_against_the_rules_one_by_one(
    log: list[SegmentStat],
    policy: RetentionPolicy,
    snapshot_index: int,
    needed_from: int | None,
) -> None:
    index = removable_before(
        log,
        snapshot_index=snapshot_index,
        policy=policy,
        now_ms=20,
        needed_from=needed_from,
    )
    gone = [stat for stat in log if stat.is_sealed and stat.last_index < index]
    expected = 0
    while may_go(log, expected, policy, snapshot_index, needed_from):
        expected += 1
    assert gone == log[:expected]


@given(
    times=st.lists(st.integers(0, 20), max_size=7),
    policy=policies,
)
def test_snapshots_against_the_rules_one_by_one(times: list[int], policy: RetentionPolicy) -> None:
    kept = kept_snapshots(times, policy=policy, now_ms=20)
    age = policy.snapshot_age_ms_max
    expected = [
        place
        for place in range(len(times))
        if place == len(times) - 1
        or (
            len(times) - place <= policy.snapshots_max
            and (age is None or all(20 - time <= age for time in times[place:-1]))
        )
    ]
    assert list(range(len(times)))[len(times) - kept :] == expected
