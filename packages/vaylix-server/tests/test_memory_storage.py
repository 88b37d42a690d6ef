"""A server on the storage backend `memory`: everything works, and nothing is left of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import vaylix_protocol as vtp
from vaylix_protocol import Entries, Ok, Value
from vaylix_server.settings import Settings
from vaylix_server.testing import serve_in_memory

SETTINGS = Settings(storage_backend="memory", snapshot_wal_bytes=20_000)


async def test_it_serves_and_leaves_no_trace(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, SETTINGS) as server:
        client = await server.login()
        assert await client.ask(vtp.Set(b"k", b"v")) == Ok()
        assert await client.ask(vtp.Save()) == Ok()
        assert await client.ask(vtp.Get(b"k")) == Value(b"v")
        info = await client.ask(vtp.Info())
        assert isinstance(info, Entries)
        facts = dict(info.pairs)
        assert facts[b"security.storage_encryption"] == b"disabled"
        assert facts[b"persistence.last_snapshot_at_ms"] != b"none"
        assert facts[b"persistence.wal_sync_policy"] == b"none"
    log = server.output.getvalue()
    assert "all data are in memory only" in log
    assert ", data in memory only\n" in log
    assert "stopped; --storage-backend memory keeps nothing\n" in log
    assert "on disk" not in log
    assert str(tmp_path) not in log
    assert await asyncio.to_thread(lambda: list(tmp_path.iterdir())) == []
    async with serve_in_memory(tmp_path, SETTINGS) as server:
        client = await server.login()
        assert await client.ask(vtp.Get(b"k")) != Value(b"v")


async def test_the_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    """Its length asks for a snapshot, after which what is before it is given back."""
    async with serve_in_memory(tmp_path, SETTINGS) as server:
        client = await server.login()
        log = server.server.services.snapshotter._storage_log
        for number in range(20):
            assert await client.ask(vtp.Set(b"k", bytes(10_000))) == Ok(), number
            assert await client.ask(vtp.Save()) == Ok()
            assert log.size_bytes < 20_000
