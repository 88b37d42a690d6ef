"""What a loop turn looks like from the transport's side."""

from __future__ import annotations

import asyncio

from vaylix_client._link import Link
from vaylix_client._session import Cause
from vaylix_client._settings import Settings
from vaylix_client._wire import new_connection, new_request_ids
from vaylix_protocol import ClientHello, Connection, ConnectionSettings, Get, Request, Role, Value


class RecordingTransport(asyncio.Transport):
    """Keeps what is written, a chunk per write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        """Nothing to close."""

    def abort(self) -> None:
        """Nothing to abort."""


def _ready_link() -> tuple[Link, RecordingTransport, Connection]:
    settings = Settings(call_timeout_seconds=None)
    link = Link(settings, new_connection(settings), new_request_ids())
    transport = RecordingTransport()
    link.connection_made(transport)
    server = Connection(Role.SERVER, ConnectionSettings())
    (hello,) = server.receive_data(transport.writes.pop())
    assert isinstance(hello, ClientHello)
    link.data_received(server.accept(hello, bytes(16)))
    return link, transport, server


def _start_gets(link: Link, count: int) -> list[asyncio.Task[object]]:
    return [
        asyncio.create_task(link.exchange(Get(str(number).encode()), reads_only=True))
        for number in range(count)
    ]


async def test_all_requests_of_one_loop_turn_leave_in_one_write() -> None:
    link, transport, server = _ready_link()
    tasks = _start_gets(link, 100)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    (written,) = transport.writes
    requests = [event for event in server.receive_data(written) if isinstance(event, Request)]
    assert len(requests) == 100
    answers = b"".join(server.send_value(request.request_id, b"x") for request in requests)
    link.data_received(answers)
    assert await asyncio.gather(*tasks) == [Value(b"x")] * 100


async def test_nothing_is_written_while_the_transport_is_full() -> None:
    link, transport, _ = _ready_link()
    link.pause_writing()
    tasks = _start_gets(link, 3)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert transport.writes == []
    link.resume_writing()
    assert len(transport.writes) == 1
    link.abort(Cause.io_error("test over"))
    await asyncio.gather(*tasks)


async def test_no_task_is_made_for_a_request() -> None:
    link, _, _ = _ready_link()
    tasks = _start_gets(link, 10)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    current = asyncio.current_task()
    assert current is not None
    # The ten callers, the test itself, and on some versions the one that bounds its time.
    assert len(asyncio.all_tasks()) <= 2 + len(tasks)
    link.abort(Cause.io_error("test over"))
    await asyncio.gather(*tasks)
