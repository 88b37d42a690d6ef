"""A store can be brought back as it was at any of its entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from vaylix_storage import Store
from vaylix_storage.errors import RestorePointError


def test_a_store_is_brought_back_to_a_point(tmp_path: Path) -> None:
    source = tmp_path / "data"
    points: dict[int, int] = {}
    with Store.open(source) as store:
        for number in range(1, 6):
            store.incr(b"n")
            points[store.sequence] = number
            if number == 3:
                store.snapshot()
    for place, (sequence, number) in enumerate(points.items()):
        target = tmp_path / f"restored {place}"
        assert Store.restore_to_point(source, target, sequence=sequence) == sequence
        with Store.open(target) as store:
            assert store.get(b"n") == b"%d" % number
            assert store.incr(b"n") == number + 1


def test_the_beginning_is_a_point_too_and_what_never_was_is_none(tmp_path: Path) -> None:
    source, target = tmp_path / "data", tmp_path / "restored"
    with Store.open(source) as store:
        store.set(b"k", b"v")
        last = store.sequence
    Store.restore_to_point(source, target, sequence=1)
    with Store.open(target) as store:
        assert store.get(b"k") is None
        store.set(b"k", b"other")
    with pytest.raises(RestorePointError):
        Store.restore_to_point(source, tmp_path / "never", sequence=last + 1)
    assert not (tmp_path / "never").exists()
