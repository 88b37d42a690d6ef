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
from vaylix_storage import Keyspace
from vaylix_storage.commands import Set
from vaylix_storage.logical_backup import (
    BackupHeader,
    DocumentWriter,
    SortedWalk,
    backup_pieces,
)


def collects_old_ones() -> bool:
    return gc.get_threshold()[1] < 1_000_000


def test_contexts_overlap() -> None:
    pause, before = CollectorPause(), gc.get_threshold()
    with pause:
        with pause:
            assert not collects_old_ones()
            assert gc.get_threshold()[0] < before[0]
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


def test_what_a_backup_holds_is_looked_at_in_small_parts() -> None:
    """A million keys are a thousand lists: looked at together, a stall of 50 ms."""
    keyspace = Keyspace()
    for start in range(0, 300_000, 1000):
        keys = range(start, start + 1000)
        keyspace.apply([Set(b"%d" % key, b"v") for key in keys], 1, want_results=False)
    looked_at: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 0:
            young = gc.get_objects(generation=0)
            looked_at.append(sum(len(part) for part in young if isinstance(part, list)))

    writer = DocumentWriter(BackupHeader(created_at_ms=1, source_sequence=1))
    # What other tests have left is not to be counted.
    gc.collect()
    gc.callbacks.append(note)
    try:
        with CollectorPause():
            for _ in backup_pieces(writer, SortedWalk(keyspace.begin_walk(), 1)):
                pass
    finally:
        gc.callbacks.remove(note)
    assert sum(looked_at) > 300_000
    assert max(looked_at) < 150_000
