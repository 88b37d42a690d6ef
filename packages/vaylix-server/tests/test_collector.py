"""The collector leaves large containers alone while they are held, and goes on afterwards."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import Ok
from vaylix_server import snapshotter
from vaylix_server.collector import CollectorPause
from vaylix_server.state_snapshot import StateSnapshot
from vaylix_server.testing import serve_in_memory


def collects_old_ones() -> bool:
    return gc.get_threshold()[1] < 1_000_000


def test_contexts_overlap() -> None:
    pause, before = CollectorPause(), gc.get_threshold()
    with pause:
        with pause:
            assert not collects_old_ones()
            assert gc.get_threshold()[0] == before[0]
        assert not collects_old_ones()
    assert gc.get_threshold() == before


async def test_old_containers_are_left_alone_during_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    class Watched(StateSnapshot):
        def next_piece(self) -> tuple[str, bytes, int] | None:
            seen.append(collects_old_ones())
            return super().next_piece()

    monkeypatch.setattr(snapshotter, "StateSnapshot", Watched)
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert await client.ask(vtp.Save()) == Ok()
        assert seen
        assert not any(seen)
        assert collects_old_ones()
