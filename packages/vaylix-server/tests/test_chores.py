"""What the write path does between batches, and whom it tells that writes are applied."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import Ok
from vaylix_server.testing import serve_in_memory
from vaylix_storage.errors import LogPoisonedError


async def test_a_chore_waits_for_the_batch_under_way_and_the_next_batch_for_the_chore(
    tmp_path: Path,
) -> None:
    order: list[str] = []
    go_on = threading.Event()
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        write_path = server.server.services.write_path

        def work() -> int:
            order.append("begun")
            assert go_on.wait(30)
            order.append("done")
            return 7

        done = write_path.between_batches(work)
        while not order:
            await asyncio.sleep(0)
        client.send(vtp.Set(b"k", b"v"))
        while not write_path._gathering:
            await asyncio.sleep(0)
        write_path.when_applied(lambda: order.append("applied"))
        assert order == ["begun"]
        go_on.set()
        assert await client.receive() == Ok()
        assert await done == 7
        await asyncio.sleep(0)
        assert order == ["begun", "done", "applied"]


async def test_an_error_of_a_chore_is_told_and_writes_go_on(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()

        def work() -> None:
            raise LookupError("missing")

        with pytest.raises(LookupError, match="missing"):
            await server.server.services.write_path.between_batches(work)
        assert await client.ask(vtp.Set(b"k", b"v")) == Ok()


async def test_a_chore_that_meets_a_failed_log_ends_acknowledgements_before_a_write_is_tried(
    tmp_path: Path,
) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()

        def work() -> None:
            raise LogPoisonedError("disk gone")

        with pytest.raises(LogPoisonedError, match="disk gone"):
            await server.server.services.write_path.between_batches(work)
        health = await client.ask(vtp.Health())
        assert isinstance(health, vtp.Entries)
        assert dict(health.pairs)[b"ready"] == b"false"
        refusal = await client.ask(vtp.Set(b"k", b"v"))
        assert isinstance(refusal, vtp.ErrorReply)
        assert refusal.code == "SRV-005"


async def test_no_chore_is_done_after_a_failure(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        write_path = server.server.services.write_path
        write_path._poison(OSError("disk gone"), [])
        with pytest.raises(LogPoisonedError, match="disk gone"):
            await write_path.between_batches(lambda: None)


async def test_a_chore_that_no_thread_can_be_started_for_fails_and_writes_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        write_path = server.server.services.write_path
        with monkeypatch.context() as patch:
            patch.setattr(write_path._log_thread, "submit", refuse)
            with pytest.raises(RuntimeError, match="new thread"):
                await write_path.between_batches(lambda: None)
        assert await client.ask(vtp.Set(b"k", b"v")) == Ok()
        await write_path.drain()


async def test_with_nothing_under_way_everything_is_applied(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        called = asyncio.Event()
        server.server.services.write_path.when_applied(called.set)
        await called.wait()


async def test_a_stop_waits_for_chores(tmp_path: Path) -> None:
    done: list[bool] = []
    async with serve_in_memory(tmp_path) as server:
        server.server.services.write_path.between_batches(lambda: done.append(True))
    assert done == [True]
