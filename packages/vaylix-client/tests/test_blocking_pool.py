from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from vaylix_client import ConfigurationError, NotSentError, OutcomeUnknownError
from vaylix_client.blocking import Pool
from vaylix_client.blocking._places import Places
from vaylix_client.errors import AuthenticationError, CallTimeoutError, NotSentTimeoutError
from vaylix_client.testing import Fault, toy_server_thread
from vaylix_protocol import Auth, Incr


def test_threads_share_few_connections() -> None:
    with toy_server_thread() as server, Pool(server.url, size_max=3) as pool:
        with ThreadPoolExecutor(8) as threads:
            sums = list(threads.map(lambda _: pool.incr("n"), range(200)))
        assert sorted(sums) == list(range(1, 201))
        assert server.connection_count <= 3


def test_transactions_pipelines_and_scans_work_through_the_pool() -> None:
    with toy_server_thread() as server, Pool(server.url) as pool:
        with pool.transaction() as tx:
            tx.set("a", "1")
        with pool.pipeline() as pipe:
            pipe.set("b", "1")
        assert tx.results == pipe.results == [None]
        assert list(pool.scan(count=1)) == ["a", "b"]
        assert server.connection_count == 1


def test_waiting_for_a_connection_has_the_timeout_of_a_call() -> None:
    with (
        toy_server_thread() as server,
        Pool(server.url, size_max=1, call_timeout_seconds=0.2) as pool,
    ):
        with pool.acquire(), pytest.raises(NotSentTimeoutError):
            pool.get("a")
        assert pool.get("a") is None


def test_a_connection_that_the_server_closed_is_replaced() -> None:
    with toy_server_thread() as server, Pool(server.url) as pool:
        pool.incr("n")
        server.on_its_loop(server.disconnect)
        assert pool.incr("n") == 2


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.SWALLOW])
def test_a_write_is_never_repeated_whatever_becomes_of_it(fault: Fault) -> None:
    with toy_server_thread() as server, Pool(server.url, retry_reads=3) as pool:
        server.faults[Incr] = fault
        with pytest.raises(OutcomeUnknownError):
            pool.incr("n")
        server.faults.clear()
        assert pool.get("b") is None, "a read, behind any repetition of the write"
        assert [type(command) for command in server.received].count(Incr) == 1


def test_nobody_inherits_the_identity_of_another_borrower() -> None:
    with toy_server_thread() as server, Pool(server.url) as pool:
        with pool.acquire() as client:
            client.open()
            server.credentials = ("eve", "pw")
            client.auth("eve", "pw")
            server.credentials = ("vaylix", "vaylix")
        assert not client.is_connected
        with pool.acquire() as other:
            assert other is not client


def test_nobody_inherits_an_identity_whose_login_was_interrupted() -> None:
    with (
        toy_server_thread() as server,
        Pool(server.url, size_max=1, call_timeout_seconds=0.2) as pool,
    ):
        with pool.acquire() as client:
            client.open()
            server.credentials = ("eve", "pw")
            server.faults[Auth] = Fault.HOLD
            with pytest.raises(CallTimeoutError):
                client.auth("eve", "pw")
            server.credentials = ("vaylix", "vaylix")
        server.on_its_loop(server.release)
        assert pool.get("a") is None
        assert server.connection_count == 2
        assert server.received[-2] == Auth("vaylix", "vaylix")


def test_a_refused_login_leaves_the_connection_to_the_next_borrower() -> None:
    with toy_server_thread() as server, Pool(server.url, size_max=1) as pool:
        with pool.acquire() as client, pytest.raises(AuthenticationError):
            client.auth("eve", "wrong")
        pool.get("a")
        assert server.connection_count == 1


def test_a_client_that_its_borrower_closed_is_not_lent_again() -> None:
    with toy_server_thread() as server, Pool(server.url) as pool:
        with pool.acquire() as client:
            client.close()
        assert pool.incr("n") == 1


def test_a_closed_pool_refuses() -> None:
    with toy_server_thread() as server:
        pool = Pool(server.url)
        with pool.acquire() as client:
            client.incr("n")
            pool.close()
        assert not client.is_connected
        with pytest.raises(NotSentError, match="closed"):
            pool.get("a")


def test_a_pool_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="size_max"):
        Pool(size_max=0)


def test_places_are_given_in_the_order_of_asking() -> None:
    places = Places(1)
    assert places.take(None)
    order: list[int] = []

    def visit(number: int) -> None:
        assert places.take(10.0)
        order.append(number)
        places.give_back()

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(5)]
    for position, thread in enumerate(threads, start=1):
        thread.start()
        while len(places._queue) < position:
            time.sleep(0.001)
    places.give_back()
    for thread in threads:
        thread.join()
    assert order == list(range(5))


def test_a_place_that_was_not_waited_for_is_not_lost() -> None:
    places = Places(1)
    assert places.take(None)
    assert not places.take(0.01)
    places.give_back()
    assert places.take(0.0)
