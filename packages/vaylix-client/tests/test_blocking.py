"""The blocking client against a server that misbehaves on demand."""

from __future__ import annotations

import errno
import itertools
import os
import selectors
import signal
import socket
import ssl
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from vaylix_client import (
    ConfigurationError,
    ConnectError,
    ConnectOptions,
    NotSentError,
    OutcomeUnknownError,
)
from vaylix_client.blocking import Client, connect
from vaylix_client.blocking._link import RawCommand, SocketLink
from vaylix_client.errors import (
    AuthenticationError,
    CallTimeoutError,
    ClientError,
    InvalidCallError,
    InvalidIntegerError,
    MaintenanceModeError,
    NotSentTimeoutError,
    PermissionDeniedError,
    RateLimitedError,
)
from vaylix_client.testing import Fault, ToyServer, toy_server_thread
from vaylix_protocol import (
    Auth,
    Command,
    Discard,
    ErrorCode,
    Exec,
    Get,
    Incr,
    Multi,
    Set,
    error_reply,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vaylix_client._call import Call
    from vaylix_client._session import Outcome
    from vaylix_client._transaction import TransactionPlan
    from vaylix_protocol import Reply


@pytest.fixture
def server() -> Iterator[ToyServer]:
    with toy_server_thread() as toy:
        yield toy


@pytest.fixture
def client(server: ToyServer) -> Iterator[Client]:
    with connect(server.url) as connected:
        yield connected


def _release(server: ToyServer) -> None:
    """Release held answers from this thread, and wait until they are on their way."""
    server.on_its_loop(server.release)


def test_a_pipeline_larger_than_all_buffers_does_not_lock_up(client: Client) -> None:
    value = bytes(range(256)) * 256
    with client.pipeline() as pipe:
        for number in range(300):
            pipe.set(f"k{number}", value)
            pipe.get(f"k{number}")
    assert pipe.results == [None, value] * 300


def test_in_flight_is_bounded_in_a_pipeline(server: ToyServer) -> None:
    with connect(server.url, in_flight_max=2, call_timeout_seconds=0.2) as client:
        server.faults[Get] = Fault.HOLD
        pipe = client.pipeline()
        pending = [pipe.get("k") for _ in range(5)]
        with pytest.raises(CallTimeoutError):
            pipe.__exit__(None, None, None)
        assert server.received.count(Get(b"k")) == 2
        with pytest.raises(NotSentTimeoutError):
            pending[-1].result()
        _release(server)


def test_a_pipeline_raises_the_first_error_after_all_have_ended(client: Client) -> None:
    pipe = client.pipeline()
    pipe.set("k", "text")
    pipe.incr("k")
    last = pipe.get("k")
    with pytest.raises(InvalidIntegerError):
        pipe.__exit__(None, None, None)
    assert last.result() == b"text"


def test_a_timed_out_call_never_shifts_the_replies_of_later_ones(server: ToyServer) -> None:
    with connect(server.url, call_timeout_seconds=0.2) as client:
        client.set("a", "1")
        server.faults[Get] = Fault.HOLD
        with pytest.raises(CallTimeoutError, match="outcome unknown"):
            client.get("a")
        _release(server)
        assert client.incr("n") == 1
        assert client.get("a") == b"1"
        assert server.connection_count == 1


def test_a_reply_that_stays_away_costs_the_connection(server: ToyServer) -> None:
    with connect(server.url, call_timeout_seconds=0.2, late_reply_seconds=0.001) as client:
        server.faults[Get] = Fault.HOLD
        with pytest.raises(CallTimeoutError):
            client.get("a")
        server.faults.clear()
        time.sleep(0.002)
        assert client.get("a") is None
        assert server.connection_count == 2


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.SWALLOW, Fault.HALF_ANSWER, Fault.WRONG_ID])
def test_an_interrupted_write_is_an_unknown_outcome_and_not_repeated(
    server: ToyServer, fault: Fault
) -> None:
    with connect(server.url, retry_reads=3) as client:
        server.faults[Incr] = fault
        with pytest.raises(OutcomeUnknownError, match="outcome unknown"):
            client.incr("n")
        server.faults.clear()
        executed = 0 if fault is Fault.DROP else 1
        assert client.incr("n") == executed + 1
        assert [type(command) for command in server.received].count(Incr) == 2


def test_a_server_that_went_away_meanwhile_is_noticed_before_sending(server: ToyServer) -> None:
    with connect(server.url) as client:
        client.set("a", "1")
        server.on_its_loop(server.disconnect)
        assert client.incr("a") == 2, "a write too: nothing had been sent"
        assert server.connection_count == 2


def test_reads_are_repeated_only_when_asked(server: ToyServer) -> None:
    server.replies |= {
        Get: error_reply(ErrorCode.SRV_012),
        Set: error_reply(ErrorCode.SRV_012),
    }
    with connect(server.url, retry_reads=2) as client:
        with pytest.raises(RateLimitedError):
            client.get("a")
        with pytest.raises(RateLimitedError):
            client.set("a", "1")
    kinds = [type(command) for command in server.received]
    assert (kinds.count(Get), kinds.count(Set)) == (3, 1)


def test_a_request_that_cannot_be_encoded_harms_nobody_else(client: Client) -> None:
    with pytest.raises(InvalidCallError):
        client.get("x" * 70_000)
    assert client.get("a") is None


def test_an_expiry_that_is_no_whole_number_is_the_error_of_one_call(
    server: ToyServer, client: Client
) -> None:
    pipe = client.pipeline()
    pipe.set("a", "1")
    pipe.set("b", "1", px=1.5)  # type: ignore[arg-type]
    found = pipe.get("a")
    with pytest.raises(InvalidCallError):
        pipe.__exit__(None, None, None)
    assert found.result() == b"1"
    assert server.connection_count == 1


def test_a_refused_login_is_an_error_of_connect(server: ToyServer) -> None:
    with pytest.raises(AuthenticationError):
        connect(server.url, password="wrong")


def test_a_later_login_is_kept(server: ToyServer, client: Client) -> None:
    server.credentials = ("eve", "new")
    client.auth("eve", "new")
    server.faults[Get] = Fault.DROP
    with pytest.raises(OutcomeUnknownError):
        client.get("a")
    server.faults.clear()
    assert client.get("a") is None


@pytest.mark.parametrize(
    ("user", "code"), [("\ud800", "TRN-012"), ("x" * 70_000, "TRN-008")], ids=["text", "length"]
)
def test_a_login_that_cannot_be_sent_is_an_invalid_call(user: str, code: str) -> None:
    with toy_server_thread() as server:
        with pytest.raises(InvalidCallError, match="not sent") as caught:
            connect(server.url, user=user)
        assert caught.value.code == code
        assert not caught.value.retryable
        assert server.received == []


def test_a_host_that_cannot_be_a_name_is_a_matter_of_configuration() -> None:
    for options, why in (("", "invalid host name"), ("?ssl=true", "invalid TLS server name")):
        with pytest.raises(ConfigurationError, match=why) as caught:
            connect(f"vaylix://{'x' * 70}.example{options}")
        assert not caught.value.retryable


def test_nobody_listening_is_a_connect_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(ConnectError, match=r"Connection refused \(os error 111\)"):
        connect(f"vaylix://127.0.0.1:{port}")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("silent", ["resolver", "TLS", "hello", "login"])
def test_the_time_to_connect_is_over_whoever_says_nothing(
    server: ToyServer, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    options: ConnectOptions = {"connect_timeout_seconds": 0.2}
    if silent == "TLS":
        # One made before: to read the authorities of the system can take all the time there is.
        options["ssl"] = ssl.create_default_context()
    url = server.url
    ended, real_lookup = threading.Event(), socket.getaddrinfo

    def look_up(host: str, *arguments: int, **options: int) -> object:
        if host == "db" and not options.get("flags"):
            ended.wait()
        return real_lookup(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if silent == "resolver":
            url = "vaylix://db"
        elif silent == "login":
            server.faults[Auth] = Fault.HOLD
        else:
            url = f"vaylix://127.0.0.1:{listener.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(ConnectError, match=r"not connected within 0\.2 s$") as caught:
            connect(url, **options)
    assert time.monotonic() - started < 5.0
    assert caught.value.retryable
    lookups = [thread for thread in threading.enumerate() if thread.name == "vaylix-client-lookup"]
    assert [thread.daemon for thread in lookups] == [True] * (silent == "resolver")
    ended.set()
    for thread in lookups:
        thread.join()


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ((socket, "getaddrinfo"), socket.gaierror(socket.EAI_AGAIN, "Try again")),
        ((threading.Thread, "start"), RuntimeError("can't start new thread")),
    ],
    ids=["no answer", "no thread"],
)
def test_a_lookup_that_fails_is_a_connect_error(
    monkeypatch: pytest.MonkeyPatch, broken: tuple[object, str], error: Exception
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(*broken, fail)
    with pytest.raises(ConnectError) as caught:
        connect("vaylix://db.invalid")
    assert caught.value.code == "CLI-003"
    assert caught.value.retryable


def test_no_socket_stays_open_where_the_system_has_nothing_to_wait_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(selectors, "DefaultSelector", refuse)
        with pytest.raises(ConnectError, match="Too many open files") as caught:
            connect(f"vaylix://127.0.0.1:{port}")
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(5.0)
            # The error is still here, and keeps what it has come by alive.
            assert caught.value.__cause__ is not None
            assert accepted.recv(1) == b""


def test_the_longest_times_that_are_accepted_can_be_waited_for(server: ToyServer) -> None:
    longest = 1_000_000
    with connect(
        server.url,
        connect_timeout_seconds=longest,
        call_timeout_seconds=longest,
        late_reply_seconds=longest,
    ) as client:
        client.set("k", "v")
        assert client.get("k") == b"v"


class _Network:
    """A host with several addresses, at which sockets wait on a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, addresses: list[tuple[str, int]]) -> None:
        self.now = time.monotonic()
        self.tried: list[object] = []
        network = self

        class Socket(socket.socket):
            def connect(self, address: object) -> None:
                network.tried.append(address)
                if address != ("silent", 1):
                    super().connect(address)  # type: ignore[arg-type] # as it was given to us
                    return
                seconds = self.gettimeout()
                assert seconds is not None
                network.now += seconds
                raise TimeoutError("timed out")

        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]

        def look_up(*_arguments: object, flags: int = 0, **_options: object) -> object:
            if flags == socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return found

        monkeypatch.setattr(socket, "socket", Socket)
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_the_time_to_connect_is_for_all_addresses_together(monkeypatch: pytest.MonkeyPatch) -> None:
    network = _Network(monkeypatch, [("silent", 1)] * 4)
    started = network.now
    with pytest.raises(ConnectError, match=r"not connected within 8 s") as caught:
        connect("vaylix://db", connect_timeout_seconds=8.0)
    assert caught.value.retryable
    assert len(network.tried) == 4
    assert network.now - started == pytest.approx(8.0)


def test_addresses_that_do_not_answer_leave_time_for_the_ones_that_do(
    server: ToyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(server.url.rpartition(":")[2])
    addresses = [("silent", 1), ("127.0.0.1", port), ("silent", 1)]
    network = _Network(monkeypatch, addresses)
    with connect("vaylix://db", connect_timeout_seconds=9.0) as client:
        assert client.ping() == "PONG"
    assert network.tried == addresses[:2]


def test_threads_share_a_client_and_get_their_own_answers(client: Client) -> None:
    sums: list[int] = []

    def add() -> None:
        sums.extend([client.incr("n") for _ in range(100)])

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sums) == list(range(1, 401))


def test_waiting_for_another_thread_counts_towards_the_timeout(server: ToyServer) -> None:
    with connect(server.url, call_timeout_seconds=0.2) as client:
        with client._lock, pytest.raises(NotSentTimeoutError):
            client.set("a", "1")
        assert client.get("a") is None


def test_whoever_waited_for_its_turn_has_the_rest_of_its_time(
    server: ToyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[float | None] = []
    exchange_all, transact = SocketLink.exchange_all, SocketLink.transact

    def noted_exchange(
        link: SocketLink, calls: Sequence[Call[object] | RawCommand], seconds: float | None
    ) -> list[Outcome]:
        left.append(seconds)
        return exchange_all(link, calls, seconds)

    def noted_transaction(
        link: SocketLink, plan: TransactionPlan, seconds: float | None
    ) -> tuple[Reply, ...] | ClientError:
        left.append(seconds)
        return transact(link, plan, seconds)

    with connect(server.url, call_timeout_seconds=8.0) as client:
        # Three seconds go by between one look at the clock and the next.
        clock = SimpleNamespace(monotonic=itertools.count(0.0, 3.0).__next__)
        monkeypatch.setattr("vaylix_client.blocking._client.time", clock)
        monkeypatch.setattr(SocketLink, "exchange_all", noted_exchange)
        monkeypatch.setattr(SocketLink, "transact", noted_transaction)
        client.get("a")
        client.auth("vaylix", "vaylix")
        with client.pipeline() as pipe:
            pipe.get("a")
        _increment_twice(client)
    assert left == [5.0] * 4


@pytest.mark.usefixtures("interruptible")
def test_a_keyboard_interrupt_closes_the_connection(server: ToyServer) -> None:
    with connect(server.url) as client:
        server.faults[Get] = Fault.HOLD
        timer = threading.Timer(0.1, signal.pthread_kill, [threading.get_ident(), signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            client.get("a")
        timer.join()
        assert not client.is_connected
        server.faults.clear()
        assert client.get("a") is None


def test_a_closed_client_refuses(server: ToyServer) -> None:
    client = connect(server.url)
    client.close()
    client.close()
    with pytest.raises(NotSentError, match="closed"):
        client.get("a")


def _increment_twice(client: Client) -> list[object]:
    with client.transaction() as tx:
        tx.incr("n")
        tx.incr("n")
    return tx.results


def test_a_transaction_gives_typed_results(client: Client) -> None:
    with client.transaction() as tx:
        tx.set("k", "1")
        total = tx.incr("k")
    assert total.result() == 2
    assert tx.results == [None, 2]


def test_a_block_left_by_an_exception_applies_nothing(client: Client) -> None:
    def leave() -> None:
        with client.transaction() as tx:
            tx.set("k", "v")
            raise KeyError

    with pytest.raises(KeyError):
        leave()
    assert client.get("k") is None


def test_all_or_nothing_when_a_command_is_refused(server: ToyServer, client: Client) -> None:
    server.replies[Set] = error_reply(ErrorCode.SRV_017)
    tx = client.transaction()
    tx.incr("n")
    tx.set("secret", "v")
    with pytest.raises(PermissionDeniedError):
        tx.__exit__(None, None, None)
    assert isinstance(server.received[-1], Discard)
    assert client.get("n") is None


def test_a_transaction_that_cannot_be_discarded_costs_the_connection(
    server: ToyServer, client: Client
) -> None:
    refused = error_reply(ErrorCode.SRV_033)
    server.replies |= {Exec: refused, Discard: refused}
    with pytest.raises(MaintenanceModeError):
        _increment_twice(client)
    server.replies.clear()
    assert client.incr("n") == 1
    assert server.connection_count == 2


@pytest.mark.parametrize(
    ("fault", "at", "error"),
    [
        (Fault.DROP, Multi, NotSentError),
        (Fault.DROP, Incr, OutcomeUnknownError),
        (Fault.DROP, Exec, OutcomeUnknownError),
        (Fault.HOLD, Multi, NotSentTimeoutError),
        (Fault.HOLD, Incr, CallTimeoutError),
        (Fault.HOLD, Exec, CallTimeoutError),
    ],
)
def test_an_interruption_is_unknown_once_anything_can_have_run(
    server: ToyServer, fault: Fault, at: type[Command], error: type[ClientError]
) -> None:
    with connect(server.url, call_timeout_seconds=0.2) as client:
        server.faults[at] = fault
        with pytest.raises(error):
            _increment_twice(client)
        server.faults.clear()
        expected = b"2" if (fault, at) == (Fault.HOLD, Exec) else None
        assert client.get("n") == expected
        assert server.connection_count == 2
