from __future__ import annotations

import asyncio

import pytest

from vaylix_client import Client, NotSentError, OutcomeUnknownError, connect
from vaylix_client.errors import (
    CallTimeoutError,
    ClientError,
    InvalidCallError,
    InvalidIntegerError,
    MaintenanceModeError,
    NotSentTimeoutError,
    PermissionDeniedError,
    RateLimitedError,
)
from vaylix_client.testing import Fault, ToyServer
from vaylix_protocol import (
    Bool,
    Discard,
    ErrorCode,
    Exec,
    ExecResults,
    Get,
    Incr,
    MGet,
    Multi,
    Ok,
    Reply,
    Set,
    Strings,
    error_reply,
)


async def _increment_twice(client: Client) -> list[object]:
    async with client.transaction() as tx:
        tx.incr("n")
        tx.incr("n")
    return tx.results


async def test_results_come_in_order_each_of_its_type() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        async with client.transaction() as tx:
            written = tx.set("k", "1")
            total = tx.incr("k")
            queued = tx.set("q", "QUEUED")
            value = tx.get("q")
            pages = tx.scan_page()
        assert written.result() is queued.result() is None
        assert total.result() == 2
        assert value.result() == b"QUEUED"
        assert pages.result().keys == ["k", "q"]
        assert tx.results == [None, 2, None, b"QUEUED", pages.result()]
        assert await client.get("q") == b"QUEUED", "a stored value is a value"


@pytest.mark.parametrize("results", [(Ok(), Ok()), (), (Bool(value=True),)])
async def test_results_that_do_not_fit_cost_the_connection(results: tuple[Reply, ...]) -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.replies[Exec] = ExecResults(results)
        tx = client.transaction()
        pending = tx.set("a", "1")
        with pytest.raises(OutcomeUnknownError, match="corrupted payload"):
            await tx.__aexit__(None, None, None)
        with pytest.raises(OutcomeUnknownError):
            pending.result()
        assert not client.is_connected


async def test_values_of_another_number_than_of_keys_cost_the_connection() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.replies[MGet] = Strings((None,) * 5)
        with pytest.raises(OutcomeUnknownError, match="corrupted payload"):
            await client.mget("a")
        assert not client.is_connected


async def test_an_empty_transaction_sends_nothing() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        async with client.transaction() as tx:
            pass
        assert tx.results == []
        assert len(server.received) == 1


async def test_a_block_left_by_an_exception_applies_nothing() -> None:
    async def leave(client: Client) -> None:
        async with client.transaction() as tx:
            tx.set("k", "v")
            raise KeyError

    async with ToyServer() as server, await connect(server.url) as client:
        with pytest.raises(KeyError):
            await leave(client)
        assert await client.get("k") is None
        assert not any(isinstance(command, Multi) for command in server.received)


async def test_calls_of_others_are_never_queued_into_a_transaction() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.faults[Multi] = Fault.HOLD
        transaction = asyncio.create_task(_increment_twice(client))
        await server.arrival(2)
        other = asyncio.create_task(client.get("n"))
        second = asyncio.create_task(_increment_twice(client))
        await asyncio.sleep(0.02)
        assert len(server.received) == 2, "the others wait until the transaction is over"
        server.release()
        assert await transaction == [1, 2]
        assert await other == b"2"
        assert await second == [3, 4]
        kinds = [type(command) for command in server.received[1:]]
        one = [Multi, Incr, Incr, Exec]
        assert kinds == [*one, Get, *one]


async def test_calls_inside_the_block_do_not_wait_for_its_end() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        await client.set("n", "41")
        async with client.transaction() as tx:
            current = await client.get("n")
            assert current is not None
            tx.set("n", str(int(current) + 1))
        assert await client.get("n") == b"42"


async def test_all_or_nothing_when_a_command_fails_while_running() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        await client.set("text", "x")
        tx = client.transaction()
        first = tx.incr("n")
        tx.incr("text")
        with pytest.raises(InvalidIntegerError):
            await tx.__aexit__(None, None, None)
        with pytest.raises(InvalidIntegerError):
            first.result()
        assert await client.get("n") is None
        assert server.connection_count == 1


async def test_all_or_nothing_when_a_command_is_refused_while_queueing() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.replies[Set] = error_reply(ErrorCode.SRV_017)
        tx = client.transaction()
        tx.incr("n")
        tx.set("secret", "v")
        with pytest.raises(PermissionDeniedError):
            await tx.__aexit__(None, None, None)
        assert isinstance(server.received[-1], Discard)
        assert await client.get("n") is None


async def test_a_command_that_cannot_be_encoded_discards_the_transaction() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        tx = client.transaction()
        tx.incr("n")
        tx.get("x" * 70_000)
        with pytest.raises(InvalidCallError):
            await tx.__aexit__(None, None, None)
        assert await client.get("n") is None
        assert server.connection_count == 1


async def test_commands_do_not_run_alone_when_multi_is_refused() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.replies[Multi] = error_reply(ErrorCode.SRV_012)
        with pytest.raises(RateLimitedError):
            await _increment_twice(client)
        assert await client.get("n") is None


async def test_an_exec_that_leaves_the_transaction_open_is_followed_by_discard() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.replies[Exec] = error_reply(ErrorCode.SRV_033)
        with pytest.raises(MaintenanceModeError):
            await _increment_twice(client)
        assert isinstance(server.received[-1], Discard)
        server.replies.clear()
        assert await client.incr("n") == 1, "runs at once; nothing is open"


async def test_a_transaction_that_cannot_be_discarded_costs_the_connection() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        refused = error_reply(ErrorCode.SRV_033)
        server.replies |= {Exec: refused, Discard: refused}
        with pytest.raises(MaintenanceModeError):
            await _increment_twice(client)
        server.replies.clear()
        assert await client.incr("n") == 1
        assert server.connection_count == 2


@pytest.mark.parametrize(
    ("lost_at", "error"),
    [(Multi, NotSentError), (Incr, OutcomeUnknownError), (Exec, OutcomeUnknownError)],
)
async def test_an_interruption_is_unknown_once_anything_can_have_run(
    lost_at: type[Multi | Incr | Exec], error: type[ClientError]
) -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.faults[lost_at] = Fault.DROP
        with pytest.raises(error):
            await _increment_twice(client)
        server.faults.clear()
        assert await client.get("n") is None


@pytest.mark.parametrize("held", [Multi, Incr])
async def test_a_cancelled_transaction_is_discarded_and_harms_nobody(
    held: type[Multi | Incr],
) -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.faults[held] = Fault.HOLD
        transaction = asyncio.create_task(_increment_twice(client))
        await server.arrival(2 if held is Multi else 4)
        other = asyncio.create_task(client.get("n"))
        transaction.cancel()
        with pytest.raises(asyncio.CancelledError):
            await transaction
        server.release()
        assert await other is None
        assert Discard() in server.received
        assert Exec() not in server.received
        assert server.connection_count == 1


async def test_a_transaction_cancelled_during_exec_keeps_the_connection_in_order() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.faults[Exec] = Fault.HOLD
        transaction = asyncio.create_task(_increment_twice(client))
        await server.arrival(5)
        other = asyncio.create_task(client.get("n"))
        transaction.cancel()
        with pytest.raises(asyncio.CancelledError):
            await transaction
        server.release()
        assert await other == b"2"
        assert server.connection_count == 1


@pytest.mark.parametrize(
    ("held", "error"), [(Multi, NotSentTimeoutError), (Exec, CallTimeoutError)]
)
async def test_a_transaction_that_runs_out_of_time(
    held: type[Multi | Exec], error: type[ClientError]
) -> None:
    async with (
        ToyServer() as server,
        await connect(server.url, call_timeout_seconds=0.2) as client,
    ):
        server.faults[held] = Fault.HOLD
        with pytest.raises(error):
            await _increment_twice(client)
        server.release()
        assert await client.get("n") == (None if held is Multi else b"2")
        assert server.connection_count == 1


async def test_a_transaction_without_replies_costs_the_connection() -> None:
    async with (
        ToyServer() as server,
        await connect(server.url, call_timeout_seconds=0.2, late_reply_seconds=0.05) as client,
    ):
        server.faults[Multi] = Fault.HOLD
        with pytest.raises(NotSentTimeoutError):
            await _increment_twice(client)
        await server.departure()
        assert await client.get("n") is None
        assert server.connection_count == 2


async def test_closing_the_client_ends_a_transaction() -> None:
    async with ToyServer() as server:
        client = await connect(server.url)
        server.faults[Multi] = Fault.HOLD
        transaction = asyncio.create_task(_increment_twice(client))
        await server.arrival(2)
        await client.close()
        with pytest.raises(NotSentError, match="not executed"):
            await transaction


async def test_a_command_that_ran_on_its_own_is_an_unknown_outcome() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.replies[Set] = Ok()
        tx = client.transaction()
        tx.set("k", "v")
        with pytest.raises(OutcomeUnknownError, match="outside of the transaction"):
            await tx.__aexit__(None, None, None)
        assert Exec() not in server.received
