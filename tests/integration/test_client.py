"""The client library against the real server, killed and stopped in the middle of things."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import vaylix_client
from vaylix_client import blocking, errors
from vaylix_client.shell import main
from vaylix_server.testing import ServerProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data") as process:
        yield process


def url(server: ServerProcess, *, user: str = "vaylix", password: str = "vaylix") -> str:
    host, port = server.address
    return f"vaylix://{user}:{password}@{host}:{port}"


def test_every_data_command_has_the_result_it_promises(server: ServerProcess) -> None:
    async def scenario() -> None:
        async with await vaylix_client.connect(url(server)) as client:
            assert await client.ping() == "PONG"
            await client.set("k", "v")
            assert await client.get("k") == b"v"
            assert await client.set_if_absent("k", "w") is False
            assert await client.set_if_present("k", "w") is True
            assert await client.set_if_version("k", "x", 2) is True
            assert await client.set_and_get("k", "y") == b"x"
            assert await client.exists("k") is True
            assert await client.ttl("k") is None
            assert await client.expire("k", 100) is True
            assert await client.ttl("k") == 100
            assert await client.persist("k") is True
            assert await client.ttl("missing") is vaylix_client.MISSING
            assert await client.incr("n") == 1
            assert await client.decr("n") == 0
            await client.mset({"a": "1", "b": b"\x00\xff"})
            assert await client.mget("a", "missing", "b") == [b"1", None, b"\x00\xff"]
            assert await client.rename("a", "c") is True
            assert await client.getdel("c") == b"1"
            assert await client.dbsize() == 3
            assert sorted([key async for key in client.scan()]) == ["b", "k", "n"]
            assert await client.list_all() == {"b": b"\x00\xff", "k": b"y", "n": b"0"}
            assert await client.delete("b", "k", "missing") == 2
            assert (await client.whoami())["username"] == "vaylix"
            assert (await client.health())["status"] == "ready"
            await client.clear()
            assert await client.count() == 0

    asyncio.run(scenario())


def test_many_calls_share_a_connection_and_a_transaction_is_whole(server: ServerProcess) -> None:
    async def scenario() -> None:
        async with await vaylix_client.connect(url(server)) as client:
            counts = await asyncio.gather(*(client.incr("n") for _ in range(500)))
            assert sorted(counts) == list(range(1, 501))
            async with client.transaction() as tx:
                tx.set("state", "done")
                total = tx.incr("n")
            assert total.result() == 501
            with pytest.raises(errors.InvalidIntegerError):
                await undo_by_failing(client)
            assert await client.get("state") == b"done"

    asyncio.run(scenario())


async def undo_by_failing(client: vaylix_client.Client) -> None:
    async with client.transaction() as tx:
        tx.set("state", "undone")
        tx.incr("state")


def test_errors_have_a_class_and_a_code(server: ServerProcess) -> None:
    async def scenario() -> None:
        with pytest.raises(errors.AuthenticationError) as caught:
            await vaylix_client.connect(url(server, password="wrong"))
        assert caught.value.code == "SRV-008"
        async with await vaylix_client.connect(url(server)) as client:
            with pytest.raises(errors.QuotaExceededError):
                await client.set("k", b"v" * 300_000)
            with pytest.raises(errors.UnsupportedCommandError):
                await client.show_users()
            assert await client.ping() == "PONG"

    asyncio.run(scenario())


def test_a_write_under_way_at_a_kill_is_said_to_be_unknown(server: ServerProcess) -> None:
    async def scenario() -> None:
        async with await vaylix_client.connect(url(server)) as client:
            acknowledged = 0
            calls = [asyncio.ensure_future(client.incr("n")) for _ in range(2000)]
            await calls[0]
            server.kill()
            for call in calls:
                try:
                    await call
                except (errors.OutcomeUnknownError, errors.NotSentError):
                    continue
                acknowledged += 1
            assert 0 < acknowledged <= 2000
            with pytest.raises((errors.ConnectError, errors.NotSentError)):
                await client.get("n")

    asyncio.run(scenario())


def test_the_blocking_client_and_its_pool(server: ServerProcess) -> None:
    with blocking.connect(url(server)) as client:
        with client.pipeline() as pipe:
            pipe.set("a", "1")
            total = pipe.incr("a")
        assert total.result() == 2
    with blocking.Pool(url(server), size_max=2) as pool:
        assert pool.get("a") == b"2"


def test_a_pool_spreads_calls_over_connections(server: ServerProcess) -> None:
    async def scenario() -> None:
        async with vaylix_client.Pool(url(server), size_max=4) as pool:
            counts = await asyncio.gather(*(pool.incr("n") for _ in range(200)))
            assert sorted(counts) == list(range(1, 201))

    asyncio.run(scenario())


def test_every_client_is_told_that_the_server_is_full(tmp_path: Path) -> None:
    async def scenario(where: str) -> None:
        with pytest.raises(errors.ConnectError) as caught:
            await vaylix_client.connect(where)
        assert (caught.value.code, caught.value.retryable) == ("SRV-003", True)

    with ServerProcess(tmp_path / "data", "--max-connections=1") as server, server.client():
        asyncio.run(scenario(url(server)))
        with pytest.raises(errors.ConnectError) as caught:
            blocking.connect(url(server))
        assert caught.value.code == "SRV-003"
        shell = CliRunner().invoke(main, ["--url", url(server)], input="ping\n")
    assert shell.exit_code == 1
    assert shell.stderr == (
        "[SRV-003] Connection Slot Pool Closed: server rejected startup: "
        "connection slot pool is closed\n"
    )
