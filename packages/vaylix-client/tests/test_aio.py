"""The asyncio client against a server that misbehaves on demand."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from vaylix_client import (
    Client,
    ConfigurationError,
    ConnectError,
    ConnectOptions,
    NotSentError,
    OutcomeUnknownError,
    Pipeline,
    connect,
)
from vaylix_client._settings import resolve
from vaylix_client.errors import (
    AuthenticationError,
    CallTimeoutError,
    InvalidCallError,
    InvalidIntegerError,
    NotSentTimeoutError,
    RateLimitedError,
)
from vaylix_client.testing import Fault, ToyServer
from vaylix_protocol import Auth, ErrorCode, Get, Incr, Ping, Set, error_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def test_many_calls_share_one_connection_and_get_their_own_answers() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        for number in range(500):
            await client.set(f"k{number}", str(number))
        values = await asyncio.gather(*(client.get(f"k{number}") for number in range(500)))
        assert values == [str(number).encode() for number in range(500)]
        assert server.connection_count == 1


async def test_the_number_of_unanswered_calls_is_bounded_and_the_others_wait() -> None:
    async with ToyServer() as server, await connect(server.url, in_flight_max=3) as client:
        server.faults[Get] = Fault.HOLD
        calls = [asyncio.create_task(client.get("k")) for _ in range(10)]
        await server.arrival(1 + 3)
        await asyncio.sleep(0.02)
        assert len(server.received) == 1 + 3, "AUTH and three calls, not one more"
        server.release()
        assert await asyncio.gather(*calls) == [None] * 10


async def test_a_server_error_is_the_error_of_one_call_only() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        await client.set("k", "text")
        results = await asyncio.gather(
            client.get("k"), client.incr("k"), client.get("k"), return_exceptions=True
        )
        assert results[0] == results[2] == b"text"
        assert isinstance(results[1], InvalidIntegerError)
        assert results[1].code == "ENG-015"


async def test_a_cancelled_call_never_shifts_the_replies_of_others() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        await client.set("a", "1")
        await client.set("b", "2")
        server.faults[Get] = Fault.HOLD
        cancelled = asyncio.create_task(client.get("a"))
        kept = asyncio.create_task(client.get("b"))
        await server.arrival(3 + 2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        after = asyncio.create_task(client.get("a"))
        await server.arrival(3 + 3)
        server.release()
        assert await kept == b"2"
        assert await after == b"1"
        assert server.connection_count == 1


async def test_a_call_cancelled_while_it_waits_for_its_turn_never_leaves() -> None:
    async with ToyServer() as server, await connect(server.url, in_flight_max=1) as client:
        server.faults[Get] = Fault.HOLD
        first = asyncio.create_task(client.get("a"))
        await server.arrival(2)
        second = asyncio.create_task(client.set("a", "1"))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        server.release()
        assert await first is None
        assert await client.get("a") is None
        assert not any(isinstance(command, Set) for command in server.received)


async def test_a_timed_out_write_is_an_unknown_outcome_and_the_connection_goes_on() -> None:
    async with (
        ToyServer() as server,
        await connect(server.url, call_timeout_seconds=0.2) as client,
    ):
        server.faults[Set] = Fault.HOLD
        with pytest.raises(CallTimeoutError, match="outcome unknown") as caught:
            await client.set("a", "1")
        assert isinstance(caught.value, OutcomeUnknownError)
        assert isinstance(caught.value, TimeoutError)
        assert not caught.value.retryable
        server.release()
        assert await client.get("a") == b"1", "the late OK was dropped, not taken for this reply"
        assert server.connection_count == 1


async def test_a_reply_that_stays_away_costs_the_connection() -> None:
    async with (
        ToyServer() as server,
        await connect(server.url, call_timeout_seconds=0.2, late_reply_seconds=0.05) as client,
    ):
        server.faults[Get] = Fault.HOLD
        with pytest.raises(CallTimeoutError):
            await client.get("a")
        await server.departure()
        assert not client.is_connected
        server.faults.clear()
        assert await client.get("a") is None
        assert server.connection_count == 2


async def test_waiting_for_a_turn_counts_towards_the_timeout_and_is_not_sent() -> None:
    async with (
        ToyServer() as server,
        await connect(server.url, call_timeout_seconds=0.2, in_flight_max=1) as client,
    ):
        server.faults[Get] = Fault.HOLD
        results = await asyncio.gather(
            client.get("a"), client.set("b", "1"), return_exceptions=True
        )
        assert isinstance(results[0], CallTimeoutError)
        assert isinstance(results[1], NotSentTimeoutError)
        server.release()
        assert await client.get("b") is None


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.SWALLOW, Fault.HALF_ANSWER, Fault.WRONG_ID])
async def test_an_interrupted_write_is_an_unknown_outcome_and_not_repeated(fault: Fault) -> None:
    async with ToyServer() as server, await connect(server.url, retry_reads=3) as client:
        server.faults[Incr] = fault
        with pytest.raises(OutcomeUnknownError, match="outcome unknown") as caught:
            await client.incr("n")
        assert caught.value.code == ("CLI-006" if fault is Fault.WRONG_ID else "TRN-007")
        server.faults.clear()
        executed = 0 if fault is Fault.DROP else 1
        assert await client.incr("n") == executed + 1
        assert [type(command) for command in server.received].count(Incr) == 2


async def test_a_lost_connection_interrupts_every_call_on_it() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.faults[Get] = Fault.HOLD
        calls = [asyncio.create_task(client.get("a")) for _ in range(3)]
        await server.arrival(1 + 3)
        await server.stop()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, OutcomeUnknownError) for result in results)
        with pytest.raises(ConnectError) as caught:
            await client.get("a")
        assert caught.value.code == "CLI-003"
        server.faults.clear()
        await server.start()
        assert await client.get("a") is None


async def test_reads_are_repeated_only_when_asked() -> None:
    async with ToyServer() as server:
        async with await connect(server.url) as client:
            server.replies[Get] = error_reply(ErrorCode.SRV_012)
            with pytest.raises(RateLimitedError):
                await client.get("a")
            assert [type(command) for command in server.received].count(Get) == 1
        server.received.clear()
        async with await connect(server.url, retry_reads=2) as client:
            with pytest.raises(RateLimitedError):
                await client.get("a")
            assert [type(command) for command in server.received].count(Get) == 3
            server.replies[Set] = error_reply(ErrorCode.SRV_012)
            with pytest.raises(RateLimitedError):
                await client.set("a", "1")
            assert [type(command) for command in server.received].count(Set) == 1


async def test_a_repeated_read_gets_through_on_a_new_connection() -> None:
    async with ToyServer() as server, await connect(server.url, retry_reads=1) as client:
        await client.set("a", "1")
        server.faults[Get] = Fault.DROP
        read = asyncio.create_task(client.get("a"))
        await server.arrival(3)
        server.faults.clear()
        assert await read == b"1"
        assert server.connection_count == 2


async def test_a_request_that_cannot_be_encoded_harms_nobody_else() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        results = await asyncio.gather(
            client.set("a", "1"), client.get("x" * 70_000), client.get("a"), return_exceptions=True
        )
        assert results[0] is None
        assert isinstance(results[1], InvalidCallError)
        assert results[2] == b"1"


async def test_an_expiry_that_is_no_whole_number_is_the_error_of_one_call() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        results = await asyncio.gather(
            client.set("a", "1"),
            client.set("b", "1", ex=1.5),  # type: ignore[arg-type]
            client.get("a"),
            return_exceptions=True,
        )
        assert isinstance(results[1], InvalidCallError)
        assert results[0] is None
        assert results[2] == b"1"
        assert server.connection_count == 1


async def test_a_refused_login_is_an_error_of_connect_and_nothing_stays_open() -> None:
    async with ToyServer(password="right") as server:
        with pytest.raises(AuthenticationError):
            await connect(f"vaylix://vaylix:wrong@127.0.0.1:{server.port}")
        await server.departure()
        assert not server.sessions


async def test_without_login_only_what_the_server_allows() -> None:
    async with ToyServer() as server, await connect(server.url, authenticate=False) as client:
        assert await client.ping() == "PONG"
        with pytest.raises(AuthenticationError):
            await client.get("a")
        assert not any(isinstance(command, Auth) for command in server.received)


async def test_percent_encoded_credentials_reach_the_server_decoded() -> None:
    async with ToyServer(user="al@ice", password="p:w") as server:
        url = f"vaylix://al%40ice:p%3Aw@127.0.0.1:{server.port}"
        async with await connect(url) as client:
            assert await client.get("a") is None


async def test_a_later_login_is_used_for_connections_to_come() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.credentials = ("eve", "new")
        with pytest.raises(AuthenticationError):
            await client.auth("eve", "old")
        await client.auth("eve", "new")
        server.faults[Get] = Fault.DROP
        with pytest.raises(OutcomeUnknownError):
            await client.get("a")
        server.faults.clear()
        assert await client.get("a") is None
        logins = [command for command in server.received if isinstance(command, Auth)]
        assert logins[-1] == Auth("eve", "new")


@pytest.mark.parametrize(
    ("user", "code"), [("\ud800", "TRN-012"), ("x" * 70_000, "TRN-008")], ids=["text", "length"]
)
async def test_a_login_that_cannot_be_sent_is_an_invalid_call(user: str, code: str) -> None:
    async with ToyServer() as server:
        with pytest.raises(InvalidCallError, match="not sent") as caught:
            await connect(server.url, user=user)
        assert caught.value.code == code
        assert not caught.value.retryable
        assert server.received == []


async def test_a_host_that_cannot_be_a_name_is_a_matter_of_configuration() -> None:
    for options, why in (("", "invalid host name"), ("?ssl=true", "invalid TLS server name")):
        with pytest.raises(ConfigurationError, match=why) as caught:
            await connect(f"vaylix://{'x' * 70}.example{options}")
        assert not caught.value.retryable


async def test_nobody_listening_is_a_connect_error() -> None:
    server = ToyServer()
    await server.start()
    await server.stop()
    with pytest.raises(ConnectError) as caught:
        await connect(server.url)
    assert str(caught.value) == (
        "[CLI-003] Filesystem I/O Failure: filesystem I/O failed: Connection refused (os error 111)"
    )
    assert caught.value.retryable


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async with _silent_server() as url:
        with pytest.raises(ConnectError, match=r"not connected within 0\.05 s"):
            await connect(url, connect_timeout_seconds=0.05)


async def test_something_else_than_vtp2_is_a_connect_error() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConnectError) as caught:
        await connect(f"vaylix://127.0.0.1:{port}")
    assert caught.value.code == "TRN-001"
    server.close()
    await server.wait_closed()


async def test_a_closed_client_refuses_calls_and_interrupts_those_in_flight() -> None:
    async with ToyServer() as server:
        client = await connect(server.url)
        server.faults[Set] = Fault.HOLD
        call = asyncio.create_task(client.set("a", "1"))
        await server.arrival(2)
        await client.close()
        with pytest.raises(OutcomeUnknownError, match="closed by this client"):
            await call
        with pytest.raises(NotSentError, match="closed"):
            await client.get("a")
        await client.close()


async def test_a_close_that_is_cancelled_has_closed_the_connection() -> None:
    async with ToyServer() as server:
        client = await connect(server.url)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        async with asyncio.timeout(5):
            await server.departure()
        assert not client.is_connected


async def test_a_server_that_does_not_read_holds_back_requests_as_not_sent() -> None:
    """The transport's buffer fills up, writing pauses, and what waits can still be withdrawn."""
    options: ConnectOptions = {"call_timeout_seconds": 0.5, "compression": False}
    async with ToyServer() as server, await connect(server.url, **options) as client:
        for session in server.sessions:
            session.pause_reading()
        calls = [client.set(f"k{number}", bytes(1_000_000)) for number in range(30)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results[0], CallTimeoutError)
        assert isinstance(results[-1], NotSentTimeoutError)
        for session in server.sessions:
            session.resume_reading()
        assert await client.get("k29") is None


async def test_concurrent_calls_dial_once() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.faults[Ping] = Fault.DROP
        with pytest.raises(OutcomeUnknownError):
            await client.ping()
        await asyncio.gather(*(client.get("a") for _ in range(20)))
        assert server.connection_count == 2


@asynccontextmanager
async def _silent_server() -> AsyncIterator[str]:
    """Give the URL of a server that accepts connections and never says a word."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    yield f"vaylix://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()


async def test_concurrent_calls_share_the_time_and_the_failure_of_one_dial() -> None:
    async with _silent_server() as url:
        client = Client(resolve(url, {"connect_timeout_seconds": 0.2}))
        started = asyncio.get_running_loop().time()
        results = await asyncio.gather(
            *(client.get("a") for _ in range(10)), return_exceptions=True
        )
        assert asyncio.get_running_loop().time() - started < 2 * 0.2
        assert all(isinstance(result, ConnectError) for result in results)
        assert len(set(map(id, results))) == 10, "each caller has an error of its own"


async def test_a_dial_ends_with_the_last_one_who_waits_for_it() -> None:
    async with ToyServer() as server:
        server.faults[Auth] = Fault.HOLD
        client = Client(resolve(server.url, {}))
        first, second = (asyncio.create_task(client.get("a")) for _ in range(2))
        await server.arrival(1)
        first.cancel()
        await asyncio.wait({first})
        assert server.sessions, "the other one still waits"
        second.cancel()
        await asyncio.wait({second})
        server.release()
        assert await client.get("a") is None, "whoever comes later starts anew"
        assert server.connection_count == 2
        await client.close()


async def test_closing_a_client_calls_a_dial_off() -> None:
    async with _silent_server() as url:
        client = Client(resolve(url, {}))
        call = asyncio.create_task(client.get("a"))
        await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises(NotSentError, match="closed"):
            await call


async def test_a_pipeline_leaves_as_one_and_every_call_has_its_result() -> None:
    async with ToyServer() as server, await connect(server.url, in_flight_max=10) as client:
        async with client.pipeline() as pipe:
            sums = [pipe.incr("n") for _ in range(100)]
            assert len(server.received) == 1, "nothing leaves before the block ends"
        assert [pending.result() for pending in sums] == list(range(1, 101))
        assert pipe.results == list(range(1, 101))


async def test_a_pipeline_raises_the_first_error_after_all_have_ended() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        pipe = client.pipeline()
        await pipe.__aenter__()
        pipe.set("k", "text")
        failing = pipe.incr("k")
        last = pipe.get("k")
        with pytest.raises(InvalidIntegerError):
            await pipe.__aexit__(None, None, None)
        assert last.result() == b"text"
        with pytest.raises(InvalidIntegerError):
            failing.result()


async def test_a_pipeline_that_is_left_by_an_exception_sends_nothing() -> None:
    async def leave(pipe: Pipeline) -> None:
        async with pipe:
            pipe.set("k", "v")
            raise KeyError

    async with ToyServer() as server, await connect(server.url) as client:
        pipe = client.pipeline()
        with pytest.raises(KeyError):
            await leave(pipe)
        with pytest.raises(RuntimeError, match="has not run"):
            _ = pipe.results
        with pytest.raises(RuntimeError, match="ended"):
            pipe.get("k")
        assert await client.get("k") is None


async def test_an_interrupted_pipeline_tells_call_by_call_what_is_known() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.faults[Incr] = Fault.SWALLOW
        pipe = client.pipeline()
        await pipe.__aenter__()
        answered = pipe.set("k", "v")
        unknown = pipe.incr("n")
        with pytest.raises(OutcomeUnknownError):
            await pipe.__aexit__(None, None, None)
        assert answered.result() is None
        with pytest.raises(OutcomeUnknownError):
            unknown.result()


async def test_a_pipeline_without_a_server_is_not_run() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        server.faults[Ping] = Fault.DROP
        with pytest.raises(OutcomeUnknownError):
            await client.ping()
        await server.stop()
        pipe = client.pipeline()
        pending = pipe.get("k")
        with pytest.raises(ConnectError):
            await pipe.__aexit__(None, None, None)
        with pytest.raises(ConnectError):
            pending.result()
        await server.start()


async def test_a_cancelled_pipeline_leaves_a_connection_in_order_and_its_results_open() -> None:
    async with ToyServer() as server, await connect(server.url) as client:
        await client.set("a", "1")
        pipe = client.pipeline()
        pending = [pipe.incr("n") for _ in range(5)]
        server.faults[Incr] = Fault.HOLD
        task = asyncio.create_task(pipe.__aexit__(None, None, None))
        await server.arrival(2 + 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.release()
        assert await client.get("a") == b"1"
        assert server.connection_count == 1
        assert await client.get("n") == b"5", "the calls have run, although nobody knows"
        for one in pending:
            with pytest.raises(RuntimeError, match="has not run to its end"):
                one.result()
