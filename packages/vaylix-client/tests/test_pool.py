from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from vaylix_client import Client, ConfigurationError, NotSentError, OutcomeUnknownError, Pool
from vaylix_client.errors import (
    AuthenticationError,
    CallTimeoutError,
    NotSentTimeoutError,
    RateLimitedError,
)
from vaylix_client.testing import Fault, ToyServer
from vaylix_protocol import Auth, ErrorCode, Exec, Get, GetEx, Incr, Ping, Set, error_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from vaylix_protocol import Command


async def test_connections_are_made_when_needed_and_reused() -> None:
    async with ToyServer() as server, Pool(server.url, size_max=4) as pool:
        assert server.connection_count == 0
        for _ in range(5):
            await pool.incr("n")
        assert server.connection_count == 1
        assert await pool.get("n") == b"5"


async def test_the_bound_holds_and_borrowers_are_served_in_order() -> None:
    served: list[int] = []

    async def borrow(pool: Pool, number: int) -> None:
        async with pool.acquire() as client:
            served.append(number)
            await client.incr("n")

    async with ToyServer() as server, Pool(server.url, size_max=2) as pool:
        async with pool.acquire(), pool.acquire():
            tasks = [asyncio.create_task(borrow(pool, number)) for number in range(6)]
            await asyncio.sleep(0.02)
            assert served == []
        await asyncio.gather(*tasks)
        assert served == list(range(6))
        assert pool.size == 2
        assert server.connection_count <= 2


async def test_waiting_for_a_connection_has_the_timeout_of_a_call() -> None:
    async with (
        ToyServer() as server,
        Pool(server.url, size_max=1, call_timeout_seconds=0.2) as pool,
    ):
        async with pool.acquire():
            with pytest.raises(NotSentTimeoutError):
                await pool.get("a")
        assert await pool.get("a") is None


async def test_a_cancelled_borrower_gives_its_place_back() -> None:
    async with ToyServer() as server, Pool(server.url, size_max=1) as pool:
        server.faults[Get] = Fault.HOLD
        call = asyncio.create_task(pool.get("a"))
        await server.arrival(2)
        waiting = asyncio.create_task(pool.get("b"))
        await asyncio.sleep(0)
        waiting.cancel()
        call.cancel()
        await asyncio.gather(call, waiting, return_exceptions=True)
        server.release()
        assert await pool.incr("n") == 1


async def test_a_dead_connection_is_noticed_before_it_is_lent_after_a_rest() -> None:
    async with ToyServer() as server, Pool(server.url, idle_check_seconds=0.0) as pool:
        await pool.incr("n")
        server.faults[Ping] = Fault.DROP
        assert await pool.incr("n") == 2, "the PING failed, a new connection took its place"
        assert server.connection_count == 2


async def test_a_connection_that_does_not_answer_the_ping_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timeout = asyncio.timeout

    def hurried(seconds: float | None) -> asyncio.Timeout:
        return timeout(None if seconds is None else seconds / 40)

    monkeypatch.setattr(asyncio, "timeout", hurried)
    async with (
        ToyServer() as server,
        Pool(
            server.url,
            idle_check_seconds=0.0,
            connect_timeout_seconds=400.0,
            call_timeout_seconds=None,
        ) as pool,
    ):
        await pool.incr("n")
        server.faults[Ping] = Fault.HOLD
        assert await asyncio.wait_for(pool.incr("n"), 5) == 2, "no other limit would end the PING"
        assert server.connection_count == 2


async def test_no_ping_for_a_connection_that_was_just_used() -> None:
    async with ToyServer() as server, Pool(server.url) as pool:
        await pool.incr("n")
        await pool.incr("n")
        assert Ping() not in server.received


async def test_reads_are_repeated_when_asked_writes_never() -> None:
    async with ToyServer() as server, Pool(server.url, retry_reads=1) as pool:
        server.faults[Get] = Fault.DROP
        read = asyncio.create_task(pool.get("a"))
        await server.arrival(2)
        server.faults.clear()
        assert await read is None
        assert [command for command in server.received if isinstance(command, Get)] == [
            Get(b"a"),
            Get(b"a"),
        ]


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.SWALLOW])
async def test_a_write_is_never_repeated_whatever_becomes_of_it(fault: Fault) -> None:
    writes: list[tuple[type[Command], Callable[[Pool], Coroutine[None, None, object]]]] = [
        (Incr, lambda pool: pool.incr("n")),
        (Set, lambda pool: pool.set("a", "1")),
        (GetEx, lambda pool: pool.getex("a", persist=True)),
        (Incr, pipelined_incr),
        (Exec, incr_in_a_transaction),
    ]
    for kind, write in writes:
        async with ToyServer() as server, Pool(server.url, retry_reads=3) as pool:
            server.faults[kind] = fault
            with pytest.raises(OutcomeUnknownError) as caught:
                await write(pool)
            assert not caught.value.retryable
            server.faults.clear()
            assert await pool.get("b") is None, "a read, behind any repetition of the write"
            assert [type(command) for command in server.received].count(kind) == 1


async def pipelined_incr(pool: Pool) -> None:
    async with pool.pipeline() as pipe:
        pipe.incr("n")


async def incr_in_a_transaction(pool: Pool) -> None:
    async with pool.transaction() as tx:
        tx.incr("n")


async def test_a_refused_write_is_not_repeated_although_it_could_be() -> None:
    async with ToyServer() as server, Pool(server.url, retry_reads=3) as pool:
        server.replies[Set] = error_reply(ErrorCode.SRV_012)
        with pytest.raises(RateLimitedError) as caught:
            await pool.set("a", "1")
        assert caught.value.retryable, "it is for the caller to repeat it"
        assert [type(command) for command in server.received].count(Set) == 1


async def test_transactions_and_pipelines_and_scans_borrow_one_connection() -> None:
    async with ToyServer() as server, Pool(server.url, size_max=3) as pool:
        async with pool.transaction() as tx:
            tx.set("a", "1")
            total = tx.incr("a")
        assert total.result() == 2
        async with pool.pipeline() as pipe:
            pipe.set("b", "1")
        assert pipe.results == [None]
        assert [key async for key in pool.scan(count=1)] == ["a", "b"]
        assert server.connection_count == 1


async def test_nobody_inherits_the_identity_of_another_borrower() -> None:
    async with ToyServer() as server, Pool(server.url) as pool:
        async with pool.acquire() as client:
            await client.open()
            server.credentials = ("eve", "pw")
            await client.auth("eve", "pw")
            server.credentials = ("vaylix", "vaylix")
        async with pool.acquire() as other:
            assert other is not client
            assert not client.is_connected


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_nobody_inherits_an_identity_whose_login_was_interrupted(
    *, is_cancelled: bool
) -> None:
    async with (
        ToyServer() as server,
        Pool(server.url, size_max=1, call_timeout_seconds=0.2) as pool,
    ):
        async with pool.acquire() as client:
            await client.open()
            server.credentials = ("eve", "pw")
            server.faults[Auth] = Fault.HOLD
            login = asyncio.create_task(client.auth("eve", "pw"))
            await server.arrival(2)
            if is_cancelled:
                login.cancel()
            (error,) = await asyncio.gather(login, return_exceptions=True)
            assert isinstance(error, asyncio.CancelledError if is_cancelled else CallTimeoutError)
            server.credentials = ("vaylix", "vaylix")
        server.release()
        assert await pool.get("a") is None
        assert server.connection_count == 2, "the next borrower has a connection of its own"
        assert server.received[-2] == Auth("vaylix", "vaylix")


async def test_a_refused_login_leaves_the_connection_to_the_next_borrower() -> None:
    async with ToyServer() as server, Pool(server.url, size_max=1) as pool:
        async with pool.acquire() as client:
            with pytest.raises(AuthenticationError):
                await client.auth("eve", "wrong")
        await pool.get("a")
        assert server.connection_count == 1


async def test_a_client_that_its_borrower_closed_is_not_lent_again() -> None:
    async with ToyServer() as server, Pool(server.url) as pool:
        async with pool.acquire() as client:
            await client.close()
        assert pool.size == 0
        assert await pool.incr("n") == 1


async def test_a_closed_pool_refuses_and_interrupts() -> None:
    async with ToyServer() as server:
        pool = Pool(server.url)
        server.faults[Get] = Fault.HOLD
        call = asyncio.create_task(pool.get("a"))
        await server.arrival(2)
        await pool.close()
        with pytest.raises(OutcomeUnknownError):
            await call
        with pytest.raises(NotSentError, match="closed"):
            await pool.get("a")
        assert pool.size == 0


async def test_a_pool_that_is_closed_while_it_tries_a_connection_lends_none() -> None:
    async with ToyServer() as server:
        pool = Pool(server.url, idle_check_seconds=0.0)
        await pool.incr("n")
        server.faults[Ping] = Fault.HOLD
        call = asyncio.create_task(pool.incr("n"))
        await server.arrival(3)
        await pool.close()
        with pytest.raises(NotSentError, match="this pool is closed"):
            await call
        assert pool.size == 0
        assert server.connection_count == 1


async def test_closing_a_pool_does_not_wait_for_one_connection_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goodbyes = asyncio.Barrier(2)
    close = Client.close

    async def close_slowly(client: Client) -> None:
        await goodbyes.wait()
        await close(client)

    async with ToyServer() as server:
        pool = Pool(server.url)
        async with pool.acquire() as first, pool.acquire() as second:
            await first.open()
            await second.open()
        monkeypatch.setattr(Client, "close", close_slowly)
        async with asyncio.timeout(5):
            await pool.close()
        await server.departure()


def test_a_pool_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="size_max"):
        Pool(size_max=0)
