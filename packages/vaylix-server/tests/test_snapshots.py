"""SAVE, SNAPSHOT and the snapshots that are taken without being asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import Entries, ErrorReply, Ok, Value
from vaylix_server.errors import StartupError
from vaylix_server.settings import Settings
from vaylix_server.testing import MemoryServer, WireClient, serve_in_memory
from vaylix_storage import Log
from vaylix_storage import commands as log
from vaylix_storage.errors import FileSystemError

ID = b"x" * 16


async def facts(client: WireClient) -> dict[str, str]:
    reply = await client.ask(vtp.Info())
    assert isinstance(reply, Entries)
    return {name.decode(): value.decode() for name, value in reply.pairs}


def snapshot_files(server: MemoryServer) -> list[str]:
    return sorted(path.name for path in (server.settings.data_dir / "snapshots").iterdir())


def is_busy(server: MemoryServer) -> bool:
    return server.server.services.snapshotter._task is not None


@pytest.mark.parametrize("command", [vtp.Save(), vtp.Snapshot()])
async def test_a_snapshot_holds_what_was_sent_before_it(
    tmp_path: Path, command: vtp.Command
) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        replies = await client.ask_all([vtp.Set(b"k", b"v"), command, vtp.Incr(b"n")])
        assert replies == [Ok(), Ok(), vtp.Integer(1)]
        info = await facts(client)
        last = int(info["storage.last_applied_sequence"])
        assert snapshot_files(server) == [f"{last - 1}.snapshot"]
        assert info["persistence.last_snapshot_at_ms"] != "none"
        assert info["metrics.vaylix.persistence.snapshot.completed.count"] == "1"


async def test_nothing_is_counted_twice_after_a_snapshot(tmp_path: Path) -> None:
    """Weaknesses 1 and 2 of the published server."""
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        for _ in range(5):
            await client.ask(vtp.Incr(b"n"))
        await client.ask(vtp.Incr(b"text"))
        await client.ask(vtp.Set(b"text", b"abc"))
        assert await client.ask(vtp.Save()) == Ok()
        assert await client.ask(vtp.Incr(b"n")) == vtp.Integer(6)
        server.server._failed = True  # No final snapshot, no clean end: as after a kill.
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert await client.ask(vtp.Get(b"n")) == Value(b"6")
        assert await client.ask(vtp.Get(b"text")) == Value(b"abc")
        info = await facts(client)
        assert info["metrics.vaylix.persistence.wal.entry.replayed.count"] == "1"


async def test_planted_replay_of_what_a_snapshot_holds_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted bug: all entries that are still there are applied to the snapshot."""
    real_read = Log.read
    monkeypatch.setattr(Log, "read", lambda log, _index, **_: real_read(log, log.first_index))
    with pytest.raises(StartupError, match="in order, once"):
        await test_nothing_is_counted_twice_after_a_snapshot(tmp_path)


async def test_a_clean_stop_leaves_nothing_to_replay(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Set(b"k", b"v"))
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        info = await facts(client)
        assert info["metrics.vaylix.persistence.wal.entry.replayed.count"] == "0"
        assert await client.ask(vtp.Get(b"k")) == Value(b"v")


async def test_users_come_along(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", port=0, user="ann", password="secret")
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.login("ann", "secret")
        assert await client.ask(vtp.Save()) == Ok()
        revision = server.server.services.access.revision
    # Nothing is replayed, and the default settings overwrite nobody: the snapshot has them.
    async with serve_in_memory(tmp_path) as server:
        await server.login("ann", "secret")
        assert server.server.services.access.revision == revision


async def test_many_who_ask_at_once_are_all_served(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        clients = [await server.login() for _ in range(5)]

        async def save(number: int, client: WireClient) -> None:
            await client.ask(vtp.Set(b"%d" % number, b"v"))
            assert await client.ask(vtp.Save()) == Ok()

        await asyncio.gather(*(save(number, client) for number, client in enumerate(clients)))
        info = await facts(clients[0])
        # A request that comes while a snapshot is under way waits for the next one.
        assert 1 <= int(info["metrics.vaylix.persistence.snapshot.completed.count"]) <= 5


async def test_the_growth_of_the_log_asks_for_a_snapshot(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", port=0, snapshot_wal_bytes=50_000)
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.login()
        metrics = server.server.services.metrics
        await client.ask(vtp.Set(b"k", bytes(1000)))
        assert metrics.snapshots == 0
        for _ in range(60):
            await client.ask(vtp.Set(b"k", bytes(1000)))
        while metrics.snapshots == 0:
            await asyncio.sleep(0.01)


async def test_the_clock_asks_for_a_snapshot(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", port=0, snapshot_interval_seconds=1)
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.login()
        await client.ask(vtp.Set(b"k", b"v"))
        while server.server.services.metrics.snapshots == 0:
            await asyncio.sleep(0.01)
        snapshotter = server.server.services.snapshotter
        while snapshotter._task is not None:
            await asyncio.sleep(0.01)
        # Nothing has changed since, so there is nothing to do.
        snapshotter._begun_at -= 10
        snapshotter.look()
        assert snapshotter._task is None


async def test_a_failing_snapshot_is_told_and_the_server_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        snapshots = server.server.services.snapshotter._snapshots

        def fail(*_: object) -> None:
            raise FileSystemError("no space left on device", path=tmp_path)

        monkeypatch.setattr(type(snapshots), "create", fail)
        reply = await client.ask(vtp.Save())
        assert isinstance(reply, ErrorReply)
        assert reply.code == "ENG-002"
        assert "no space left" in reply.message
        assert await client.ask(vtp.Set(b"k", b"v")) == Ok()
    assert server.server.has_failed
    assert "no snapshot was taken" in server.output.getvalue()
    monkeypatch.undo()
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert await client.ask(vtp.Get(b"k")) == Value(b"v")


async def test_a_snapshot_that_failed_by_itself_is_not_tried_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path / "data", port=0, snapshot_wal_bytes=1)
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.login()
        snapshotter = server.server.services.snapshotter

        def fail(*_: object) -> None:
            raise FileSystemError("no space left on device", path=tmp_path)

        with monkeypatch.context() as patch:
            patch.setattr(type(snapshotter._snapshots), "create", fail)
            while "no snapshot was taken" not in server.output.getvalue():
                assert await client.ask(vtp.Set(b"k", b"v")) == Ok()
                await asyncio.sleep(0.01)
        snapshotter.look()
        assert snapshotter._task is None
        snapshotter._retry_at = 0.0
        snapshotter.look()
        assert snapshotter._task is not None


async def test_a_log_that_has_failed_takes_no_snapshot_and_says_why(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        server.server.services.write_path._poison(OSError("disk gone"), [])
        for _ in range(2):
            reply = await client.ask(vtp.Save())
            assert isinstance(reply, ErrorReply)
            assert "the log has failed: disk gone" in reply.message
        assert snapshot_files(server) == []


async def test_a_snapshot_waits_until_no_restore_is_open(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Set(b"k", b"v"))
        services = server.server.services
        keyspace = services.keyspace
        slow = services.slow_commands
        await slow._submit([log.RestoreBegin(ID)], "")
        client.send(vtp.Save())
        for _ in range(20):
            await asyncio.sleep(0)
            services.snapshotter.look()
        assert keyspace.is_being_restored
        assert services.metrics.snapshots == 0
        await slow._submit([log.RestoreCommit(ID, 0)], "")
        services.snapshotter.look()
        assert await client.receive() == Ok()


async def test_no_snapshot_stands_in_the_middle_of_a_restore(tmp_path: Path) -> None:
    """One that had waited for a backup began after the restore had; a replay found only its end."""
    async with serve_in_memory(tmp_path) as server:
        client, other = await server.login(), await server.login()
        await client.ask(vtp.Set(b"old", b"1"))
        services = server.server.services
        slow = services.slow_commands
        async with slow._walk.alone():
            client.send(vtp.Save())
            while not is_busy(server):
                await asyncio.sleep(0)
            await slow._submit([log.RestoreBegin(ID)], "")
        while is_busy(server):
            await asyncio.sleep(0)
        assert services.metrics.snapshots == 0
        new = log.RestoreChunk(ID, ((b"new", b"2", 0, 0),))
        await slow._submit([new, log.RestoreCommit(ID, 1)], "")
        services.snapshotter.look()
        assert await client.receive() == Ok()
        assert await other.ask(vtp.Get(b"new")) == Value(b"2")
        server.server._failed = True  # No final snapshot, no clean end: as after a kill.
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert await client.ask(vtp.Get(b"new")) == Value(b"2")
        assert await client.ask(vtp.Get(b"old")) == vtp.NotFound()


async def test_a_stop_does_not_wait_for_a_restore_that_nobody_goes_on_with(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Set(b"k", b"v"))
        await server.server.services.slow_commands._submit([log.RestoreBegin(ID)], "")
        client.send(vtp.Save())
        while not server.server.services.snapshotter._waiting:
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await server.server.stop()
        reply = await client.receive()
        assert isinstance(reply, ErrorReply)
        assert "the server is stopping" in reply.message
        assert snapshot_files(server) == []
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert await client.ask(vtp.Get(b"k")) == Value(b"v")


async def test_whoever_gave_up_waiting_does_not_hinder_the_stop(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        snapshotter = server.server.services.snapshotter
        await server.server.services.slow_commands._submit([log.RestoreBegin(ID)], "")
        asking = asyncio.create_task(snapshotter.take())
        while not snapshotter._waiting:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await snapshotter.close()


async def test_old_segments_and_snapshots_go(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path / "data",
        port=0,
        wal_segment_size_bytes=4096,
        wal_retain_segments=1,
        snapshot_retain=2,
    )
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.login()
        for _ in range(4):
            for _ in range(10):
                await client.ask(vtp.Set(b"k", bytes(1000)))
            assert await client.ask(vtp.Save()) == Ok()
        assert len(snapshot_files(server)) == 2
        info = await facts(client)
        assert int(info["persistence.wal_segment_count"]) <= 3
        assert int(info["persistence.oldest_retained_sequence"]) > 1
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.login()
        assert await client.ask(vtp.Get(b"k")) == Value(bytes(1000))
