"""Speed of the codec on one core: `python benchmarks/codec.py`.

Each row is the best of several rounds over a buffer of about 64 KiB of pipelined frames with keys
of 14 and values of 64 bytes, so it is the cost of the work and not of the machine's other guests.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from vaylix_protocol import (
    NO_METADATA,
    Command,
    Connection,
    ConnectionSettings,
    Get,
    GetRun,
    Ping,
    Request,
    Set,
    SetRun,
)
from vaylix_protocol.testing import ConnectedPair

if TYPE_CHECKING:
    from collections.abc import Callable

BUFFER_BYTES = 64 * 1024
ROUNDS = 60
KEY = b"key:0000000042"
VALUE = os.urandom(64)
REQUEST_ID = os.urandom(16)


def best_seconds(work: Callable[[], object]) -> float:
    """Return the duration of the fastest round."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def report(name: str, count: int, seconds: float) -> None:
    """Print one row."""
    print(f"{name:<40} {count / seconds / 1e6:6.2f} million/s  {seconds / count * 1e9:6.0f} ns")


def connect(*, compress_everything: bool = False, groups_runs: bool = False) -> ConnectedPair:
    """Return a pair whose client compresses everything or nothing."""
    threshold_bytes = 0 if compress_everything else 2**31
    settings = ConnectionSettings(compression_threshold_bytes=threshold_bytes)
    return ConnectedPair(
        client_settings=settings, server_settings=ConnectionSettings(groups_runs=groups_runs)
    )


def decode_runs(name: str, command: Command) -> None:
    """Measure a server that wants columns and reads a buffer full of one command."""
    pair = connect(groups_runs=True)
    frame = pair.client.send_request(REQUEST_ID, command)
    count = BUFFER_BYTES // len(frame)
    buffer = frame * count
    (run,) = pair.server.receive_data(buffer)
    assert isinstance(run, GetRun | SetRun)
    assert len(run.keys) == count
    report(name, count, best_seconds(lambda: pair.server.receive_data(buffer)))


def decode(name: str, command: Command, *, compressed: bool = False) -> None:
    """Measure a server that reads a buffer full of one command."""
    pair = connect(compress_everything=compressed)
    frame = pair.client.send_request(REQUEST_ID, command)
    count = BUFFER_BYTES // len(frame)
    buffer = frame * count
    server = pair.server
    expected = Request(REQUEST_ID, command, NO_METADATA, 0).command
    events = server.receive_data(buffer)
    assert len(events) == count
    assert all(isinstance(event, Request) and event.command == expected for event in events)
    report(name, count, best_seconds(lambda: server.receive_data(buffer)))


def decode_one(name: str, command: Command) -> None:
    """Measure a server that gets one frame at a time."""
    pair = connect()
    frame = pair.client.send_request(REQUEST_ID, command)
    receive = pair.server.receive_data
    count = 1000

    def work() -> None:
        for _ in range(count):
            receive(frame)

    report(name, count, best_seconds(work))


def encode(name: str, send: Callable[[Connection], object]) -> None:
    """Measure a server that sends one kind of reply."""
    server = connect().server
    count = 1000

    def work() -> None:
        for _ in range(count):
            send(server)

    report(name, count, best_seconds(work))


def exchange(name: str, command: Command) -> None:
    """Measure a client that sends requests and reads their replies, 256 at a time."""
    pair = connect()
    client, server = pair.client, pair.server
    count = 256
    replies = server.send_value(REQUEST_ID, VALUE) * count

    def work() -> None:
        for _ in range(count):
            client.send_request(REQUEST_ID, command)
        assert len(client.receive_data(replies)) == count

    report(name, count, best_seconds(work))


def main() -> None:
    """Print the table."""
    decode("decode GET, pipelined", Get(KEY))
    decode("decode SET, pipelined", Set(KEY, VALUE))
    decode_runs("decode GET, in columns", Get(KEY))
    decode_runs("decode SET, in columns", Set(KEY, VALUE))
    decode("decode PING, pipelined", Ping())
    decode("decode GET, each frame zstd", Get(KEY), compressed=True)
    decode("decode SET, each frame zstd", Set(KEY, VALUE), compressed=True)
    decode_one("decode GET, one frame per call", Get(KEY))
    decode_one("decode SET, one frame per call", Set(KEY, VALUE))
    encode("encode value reply", lambda server: server.send_value(REQUEST_ID, VALUE))
    encode("encode OK reply", lambda server: server.send_ok(REQUEST_ID))
    encode("encode not-found reply", lambda server: server.send_not_found(REQUEST_ID))
    exchange("client: send GET and read its value", Get(KEY))


if __name__ == "__main__":
    main()
