"""Malformed and odd input, recorded from the published server, against the real process.

Each row is sent on a connection of its own; whatever becomes of that, the server stays.
"""

from __future__ import annotations

import json
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import pytest

import vaylix_protocol as vtp
from vaylix_server.testing import ServerProcess

DATA = Path(__file__).resolve().parents[2] / "packages/vaylix-protocol/tests/data"
HEADER = struct.Struct(">4sBBII")
PING_ID = b"\xee" * 16


class Expected(TypedDict):
    action: str
    code: str | None


class Row(TypedDict, total=False):
    name: str
    phase: str
    bytes: str
    expected: Expected
    authenticated: bool
    half_close_after: bool
    client_max_frame_len: int


def rows() -> list[Row]:
    text = (DATA / "vtp2_invalid.jsonl").read_text(encoding="utf-8")
    found: list[Row] = [json.loads(line) for line in text.split("\n") if line]
    return [row for row in found if row["phase"] in {"hello", "session"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    # Some rows end in silence, which only the handshake timeout ends.
    data_dir = tmp_path_factory.mktemp("golden") / "data"
    with ServerProcess(data_dir, "--handshake-timeout-seconds=1") as process:
        yield process


class RawConnection:
    """A socket that knows frames, and nothing of what they mean."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self._received = b""

    def send(self, data: bytes) -> None:
        """Send; a server that has closed already is found out by the next read."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            return

    def body(self) -> bytes | None:
        """Return the body of the next frame, None when the server has closed instead."""
        while len(self._received) < HEADER.size or len(self._received) < self._frame_bytes():
            try:
                data = self.socket.recv(65_536)
            except ConnectionError:
                data = b""
            if not data:
                assert not self._received, "closed in the middle of a frame"
                return None
            self._received += data
        end = self._frame_bytes()
        body, self._received = self._received[HEADER.size : end], self._received[end:]
        return body

    def _frame_bytes(self) -> int:
        return HEADER.size + int(HEADER.unpack_from(self._received)[3])

    def greet(self, max_frame_bytes: int, *, authenticate: bool) -> None:
        """Negotiate without compression, and log in if the row wants that."""
        settings = vtp.ConnectionSettings(
            compression=vtp.Compression.NONE, max_frame_bytes=max_frame_bytes
        )
        self.connection = vtp.Connection(vtp.Role.CLIENT, settings)
        self.send(self.connection.hello())
        self._expect_hello()
        if authenticate:
            self.send(request(0x01, b"\x00\x06vaylix\x00\x00\x00\x06vaylix"))
            answer = self.body()
            assert answer is not None
            assert answer[16] == 0

    def _expect_hello(self) -> None:
        answer = self.body()
        assert answer is not None
        assert answer[0] == 0xF1


def request(opcode: int, payload: bytes) -> bytes:
    body = b"\x00" + PING_ID + bytes([opcode]) + payload
    return HEADER.pack(b"VTP2", 2, 0, len(body), zlib.crc32(body)) + body


def error_code(body: bytes) -> str | None:
    """Return the code of an error reply, None of any other."""
    if body[16] != 1:
        return None
    length = int.from_bytes(body[17:19], "big")
    return body[19 : 19 + length].decode()


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["name"])
def test_the_server_ends_it_as_recorded(server: ServerProcess, row: Row) -> None:
    raw = RawConnection(server.address)
    with raw.socket:
        if row["phase"] == "session":
            limit = row.get("client_max_frame_len", 8_388_608)
            raw.greet(limit, authenticate=row["authenticated"])
        raw.send(bytes.fromhex(row["bytes"]))
        if row.get("half_close_after"):
            raw.socket.shutdown(socket.SHUT_WR)
        check(raw, row)
    with server.client() as other:
        assert other.ask(vtp.Ping()) == vtp.Value(b"PONG")


def check(raw: RawConnection, row: Row) -> None:
    action, code = row["expected"]["action"], row["expected"]["code"]
    if action == "close_without_reply":
        assert raw.body() is None
    elif action == "rejection_hello_then_close":
        answer = raw.body()
        assert answer is not None
        assert answer[0] == 0xF1
        assert code is not None
        assert code.encode() in answer
        assert raw.body() is None
    elif action == "accept":
        answer = raw.body()
        assert answer is not None
        assert answer[0] == 0xF1
    else:
        raw.send(request(0x02, b"\x00"))
        answers: list[bytes] = []
        while not answers or answers[-1][:16] != PING_ID:
            answer = raw.body()
            assert answer is not None, "the session must stay open"
            answers.append(answer)
        codes = [error_code(answer) for answer in answers[:-1]]
        assert codes[-1] == code
