"""The session loop: one test for each row of protocol spec section 9, in its order."""

from __future__ import annotations

import asyncio
import struct
import zlib
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import ErrorReply, Metadata, Ok, Value
from vaylix_server.access import Grant, Permission, Role, User
from vaylix_server.passwords import hash_password, verify_password
from vaylix_server.settings import Settings
from vaylix_server.testing import MemoryServer, WireClient, serve_in_memory

DEADLINE_PASSED = Metadata(deadline_ms=0)
SEQUENCE = Metadata(sequence=1)


def code(reply: object) -> str:
    assert isinstance(reply, ErrorReply), reply
    return reply.code


def frame(body: bytes, *, flags: int = 0, checksum: int | None = None) -> bytes:
    """Return a frame as section 2 lays it out."""
    crc = zlib.crc32(body) if checksum is None else checksum
    return struct.pack(">4sBBII", b"VTP2", 2, flags, len(body), crc) + body


def request_frame(opcode: int, payload: bytes, *, metadata_flags: int = 0) -> bytes:
    return frame(bytes([metadata_flags]) + bytes(16) + bytes([opcode]) + payload)


async def closed_without_a_byte(client: WireClient) -> None:
    before = client.received_bytes
    await client.closed.wait()
    assert client.received_bytes == before


async def still_serves(server: MemoryServer) -> None:
    client = await server.login()
    assert await client.ask(vtp.Ping()) == Value(b"PONG")


# Before: the handshake.


async def test_0_another_version_is_told_so_and_hung_up_on(tmp_path: Path) -> None:
    # So long that it cannot be what ends the connection.
    settings = Settings(handshake_timeout_seconds=3600)
    async with serve_in_memory(tmp_path, settings) as server, asyncio.timeout(10):
        client = server.connect()
        body = bytearray(client.connection.hello()[14:])
        assert body[1] == vtp.PROTOCOL_VERSION
        body[1] = 3
        client.send_bytes(frame(bytes(body)))
        await client.closed.wait()
        assert client.hello is not None
        assert client.hello.error_code == "TRN-014"
        # Nothing but the hello of example 5 in section 17.
        assert client.received_bytes == 14 + 0x84


# Step 1: reading a frame and the prefix of the request.


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"VTP1" + bytes(10),
        frame(b"x" * 18, checksum=1),
        frame(b"x" * 18, flags=2),
        struct.pack(">4sBBII", b"VTP2", 2, 0, 8_388_609, 0),
        request_frame(0x00, b""),
        request_frame(0x4A, b""),
        request_frame(2, b"\0", metadata_flags=0x08),
        frame(b"short"),
        frame(b""),
    ],
    ids=[
        "http",
        "old magic",
        "bad checksum",
        "unknown frame flag",
        "oversize",
        "opcode 0",
        "opcode 0x4A",
        "unknown metadata flag",
        "body below 18 bytes",
        "empty body",
    ],
)
async def test_1_a_broken_frame_closes_without_a_reply(tmp_path: Path, garbage: bytes) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        client.send_bytes(garbage)
        await closed_without_a_byte(client)
        await still_serves(server)


async def test_1_requests_before_a_broken_frame_are_answered(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        client.send(vtp.Set(b"k", b"v"))
        client.send(vtp.Get(b"k"))
        client.send_bytes(b"garbage that is long enough")
        assert await client.receive() == Ok()
        assert await client.receive() == Value(b"v")
        await client.closed.wait()


async def test_1_idle_timeout_closes_without_a_reply(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, Settings(idle_timeout_seconds=1)) as server:
        client = await server.login()
        await closed_without_a_byte(client)
        metrics = dict(await entries(await server.login(), vtp.Metrics()))
        assert metrics[b"vaylix.server.connection.idle.disconnect.count"] == b"1"


async def test_1_half_a_request_does_not_count_as_activity(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, Settings(idle_timeout_seconds=1)) as server:
        client = await server.login()
        client.send_bytes(request_frame(2, b"\0")[:20])
        await closed_without_a_byte(client)


async def test_1_who_connects_and_says_nothing_is_dropped(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, Settings(handshake_timeout_seconds=1)) as server:
        silent = server.connect()
        await closed_without_a_byte(silent)


async def entries(client: WireClient, command: vtp.Command) -> tuple[tuple[bytes, bytes], ...]:
    reply = await client.ask(command)
    assert isinstance(reply, vtp.Entries), reply
    return reply.pairs


# Steps 2 to 5: before decoding.


async def test_2_deadline_zero_is_refused_and_any_other_ignored(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert code(await client.ask(vtp.Ping(), DEADLINE_PASSED)) == "TRN-016"
        assert await client.ask(vtp.Ping(), Metadata(deadline_ms=1)) == Value(b"PONG")


async def test_3_a_sequence_inside_a_transaction_is_refused(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert await client.ask(vtp.Multi(), SEQUENCE) == Ok()
        refusal = await client.ask(vtp.Set(b"k", b"v"), SEQUENCE)
        assert isinstance(refusal, ErrorReply)
        assert (refusal.code, refusal.message) == (
            "TRN-018",
            "protocol state violation: pipelined requests are not supported inside transactions",
        )
        assert code(await client.ask(vtp.Exec(), SEQUENCE)) == "TRN-018"
        assert await client.ask(vtp.Exec()) == vtp.ExecResults(())
        assert await client.ask(vtp.Ping(), SEQUENCE) == Value(b"PONG")


async def test_4_an_empty_bucket_refuses_and_steps_2_and_3_cost_no_token(tmp_path: Path) -> None:
    settings = Settings(requests_per_second=1, request_burst=3)
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.login()
        assert code(await client.ask(vtp.Ping(), DEADLINE_PASSED)) == "TRN-016"
        assert await client.ask(vtp.Ping()) == Value(b"PONG")
        assert await client.ask(vtp.Ping()) == Value(b"PONG")
        assert code(await client.ask(vtp.Ping())) == "SRV-012"
        assert code(await client.ask(vtp.Get(b"k"))) == "SRV-012"


async def test_5_a_payload_over_the_limit_closes_without_a_reply(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        fits = b"\x01" + (1_048_571).to_bytes(4, "big") + b"x" * 1_048_571
        client.send(vtp.Ping(b"x" * 1_048_571))
        assert await client.receive() == Value(b"x" * 1_048_571)
        client.send_bytes(request_frame(2, fits + b"y"))
        await closed_without_a_byte(client)
        await still_serves(server)


# Step 6: internal replication opcodes.


async def test_6_replication_opcodes_need_an_administrator_and_ignore_a_transaction(
    tmp_path: Path,
) -> None:
    async with serve_in_memory(tmp_path) as server:
        stranger = await server.greet()
        assert code(await stranger.ask(vtp.ReplicationStatus(b"{}"))) == "SRV-007"
        client = await server.login()
        await client.ask(vtp.Multi())
        assert code(await client.ask(vtp.ReplicationStatus(b""))) == "SRV-016"
        assert code(await client.ask(vtp.ReplicationVote(b"{}"))) == "SRV-030"


# Steps 7 and 8: decoding and quotas.


@pytest.mark.parametrize(
    ("opcode", "payload", "expected"),
    [
        (0x03, b"\x00", "TRN-007"),
        (0x03, b"\x00\x01a!", "TRN-008"),
        (0x03, b"\x00\x01\xff", "TRN-012"),
        (0x02, b"\x02", "TRN-008"),
        (0x13, bytes(8) + b"\x01\x00\x00", "TRN-007"),
        (0x06, b"\x00\x01k\x00\x00\x00\x01v" + bytes(5) + b"\x00", "TRN-008"),
    ],
)
async def test_7_a_payload_that_does_not_decode_is_answered_and_the_session_stays(
    tmp_path: Path, opcode: int, payload: bytes, expected: str
) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        client.send(vtp.Ping())
        assert await client.receive() == Value(b"PONG")
        expect_error(client)
        client.send_bytes(request_frame(opcode, payload))
        assert code(await client.receive()) == expected
        assert await client.ask(vtp.Ping()) == Value(b"PONG")


def expect_error(client: WireClient) -> None:
    """Let the client connection expect the reply to a request that is sent as raw bytes."""
    client.connection.send_request(bytes(16), vtp.Ping())


async def test_7_set_may_end_before_its_version_flag(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        client.connection.send_request(bytes(16), vtp.Set(b"k", b"v"))
        client.send_bytes(request_frame(0x06, b"\x00\x01k\x00\x00\x00\x01v" + bytes(4)))
        assert await client.receive() == Ok()
        assert await client.ask(vtp.Get(b"k")) == Value(b"v")


# Step 8, the quotas of every field of every command, is in test_quotas.py.


# Step 9: command processing.


async def test_9a_auth_runs_in_any_state(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Multi())
        assert await client.ask(vtp.Auth("vaylix", "vaylix")) == Ok()
        assert code(await client.ask(vtp.Auth("vaylix", "wrong"))) == "SRV-008"
        assert await client.ask(vtp.Set(b"k", b"v")) == vtp.Queued()


async def test_9a_a_failed_auth_leaves_the_identity_in_place(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert code(await client.ask(vtp.Auth("nobody", "wrong"))) == "SRV-008"
        assert await client.ask(vtp.Set(b"k", b"v")) == Ok()


async def test_9a_the_sixth_attempt_is_locked_out_and_a_new_connection_is_no_way_round(
    tmp_path: Path,
) -> None:
    async with serve_in_memory(tmp_path) as server:
        for _ in range(5):
            client = await server.greet()
            assert code(await client.ask(vtp.Auth("vaylix", "wrong"))) == "SRV-008"
        client = await server.greet()
        refusal = await client.ask(vtp.Auth("vaylix", "vaylix"))
        assert isinstance(refusal, ErrorReply)
        assert refusal.message == "authentication lockout active for vaylix"
        assert refusal.code == "SRV-031"


async def test_9a_with_authentication_disabled_auth_always_succeeds(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, Settings(disable_auth=True)) as server:
        client = await server.greet()
        assert await client.ask(vtp.Set(b"k", b"v")) == Ok()
        assert code(await client.ask(vtp.WhoAmI())) == "SRV-007"
        assert await client.ask(vtp.Auth("any", "thing")) == Ok()
        assert (b"username", b"anonymous") in await entries(client, vtp.WhoAmI())


async def test_9a_requests_behind_auth_wait_for_its_answer(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.greet()
        replies = await client.ask_all(
            [vtp.Get(b"k"), vtp.Auth("vaylix", "vaylix"), vtp.Set(b"k", b"v"), vtp.Get(b"k")]
        )
        assert code(replies[0]) == "SRV-007"
        assert replies[1:] == [Ok(), Ok(), Value(b"v")]


async def test_9a_every_refusal_costs_one_hash_whether_the_user_is_known_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def verify(password: str, phc: str) -> bool:
        # Algorithm and parameters.
        hashed.append(phc[: phc.index("$", phc.index("p="))])
        return verify_password(password, phc)

    monkeypatch.setattr("vaylix_server.authenticator.verify_password", verify)
    async with serve_in_memory(tmp_path) as server:
        users = server.server.services.access._users
        users["disabled"] = User(hash_password(PASSWORD), frozenset(), disabled=True)
        for name, password in (("vaylix", "no"), ("nobody", "no"), ("disabled", PASSWORD)):
            client = await server.greet()
            assert code(await client.ask(vtp.Auth(name, password))) == "SRV-008"
    assert hashed == ["$argon2id$v=19$m=19456,t=2,p=1"] * 3


# Checks b (a session), d (maintenance), and g (permission) of every command are in test_rules.py.


async def test_9c_an_old_transaction_is_dropped_by_the_next_request(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, Settings(transaction_max_seconds=1)) as server:
        client = await server.login()
        await client.ask(vtp.Multi())
        await client.ask(vtp.Set(b"k", b"v"))
        started = asyncio.get_running_loop().time()
        reply: object = vtp.Queued()
        while reply == vtp.Queued():
            # Each request that comes in time is queued; the first that comes late is not run.
            reply = await client.ask(vtp.Get(b"k"))
            await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - started > 1
        assert isinstance(reply, ErrorReply)
        assert (reply.code, reply.message) == ("SRV-034", "transaction expired after 1 seconds")
        assert code(await client.ask(vtp.Exec())) == "SRV-015"
        assert await client.ask(vtp.Get(b"k")) == vtp.NotFound()


async def test_9c_whatever_comes_too_late_is_refused_but_auth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, passed_seconds = asyncio.get_running_loop(), 0
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + passed_seconds)
    late: list[vtp.Command]
    late = [vtp.Exec(), vtp.Discard(), vtp.Multi(), vtp.Set(b"k", b"v"), vtp.Info(), vtp.Ping()]
    async with serve_in_memory(tmp_path, Settings(transaction_max_seconds=4)) as server:
        client = await server.login()
        for number, command in enumerate(late, 1):
            assert await client.ask(vtp.Multi()) == Ok()
            assert await client.ask(vtp.Set(b"k", b"v")) == vtp.Queued()
            # In all less than a test may take.
            passed_seconds += 5
            assert await client.ask(vtp.Auth("vaylix", "vaylix")) == Ok()
            assert code(await client.ask(command)) == "SRV-034", command
            assert code(await client.ask(vtp.Exec())) == "SRV-015"
            assert await client.ask(vtp.Get(b"k")) == vtp.NotFound()
            metrics = dict(await entries(client, vtp.Metrics()))
            assert metrics[b"vaylix.server.transaction.timeout.count"] == b"%d" % number


async def test_9e_a_standalone_node_takes_writes(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert await client.ask(vtp.Set(b"k", b"v")) == Ok()
        assert (b"role", b"standalone") in await entries(client, vtp.Health())


async def test_9g_without_the_permission_a_command_is_refused(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        add_reader(server, "ann", "app:*")
        client = await server.login("ann", PASSWORD)
        assert await client.ask(vtp.Get(b"app:1")) == vtp.NotFound()
        assert await client.ask(vtp.MGet((b"app:1", b"app:2"))) == vtp.Strings((None, None))
        assert await client.ask(vtp.Scan(0, "app:x*")) == vtp.ScanPage(0, ())
        for command in (
            vtp.Get(b"other"),
            vtp.MGet((b"app:1", b"other")),
            vtp.Scan(0),
            vtp.Scan(0, "*"),
            vtp.DbSize(),
            vtp.List(),
            vtp.Set(b"app:1", b"v"),
            vtp.GetEx(b"app:1"),
            vtp.Rename(b"app:1", b"app:2"),
            vtp.Clear(),
            vtp.Info(),
            vtp.Metrics(),
            vtp.Save(),
            vtp.CreateRole("r"),
            vtp.ShowCluster(),
            vtp.ReplicationStatus(b"{}"),
        ):
            assert code(await client.ask(command)) == "SRV-017", command
        assert (b"permissions", b"") in await entries(client, vtp.WhoAmI())
        await client.ask(vtp.Multi())
        assert code(await client.ask(vtp.Set(b"app:1", b"v"))) == "SRV-017"
        assert await client.ask(vtp.Get(b"app:1")) == vtp.Queued()
        assert await client.ask(vtp.Exec()) == vtp.ExecResults((vtp.NotFound(),))


async def test_9g_role_changes_are_seen_at_once_and_a_dropped_user_is_nobody(
    tmp_path: Path,
) -> None:
    async with serve_in_memory(tmp_path) as server:
        add_reader(server, "ann", "app:*")
        client = await server.login("ann", PASSWORD)
        assert code(await client.ask(vtp.Get(b"other"))) == "SRV-017"
        add_reader(server, "ann", "*")
        assert await client.ask(vtp.Get(b"other")) == vtp.NotFound()
        del server.server.services.access._users["ann"]
        server.server.services.access.revision += 1
        assert code(await client.ask(vtp.Get(b"other"))) == "SRV-007"


PASSWORD = "correct horse 1"


def add_reader(server: MemoryServer, name: str, pattern: str) -> None:
    """Give `name` read permission on `pattern`, as a later command will do through the log."""
    access = server.server.services.access
    access._roles["reader"] = Role(frozenset((Grant(Permission.READ, pattern),)))
    access._users[name] = User(hash_password(PASSWORD), frozenset(("reader",)))
    access.revision += 1


async def test_9h_exec_and_discard_need_a_transaction(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert code(await client.ask(vtp.Exec())) == "SRV-015"
        assert code(await client.ask(vtp.Discard())) == "SRV-015"


# Step 10: sending.


async def test_10_a_reply_over_the_negotiated_limit_closes_without_a_reply(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        writer = await server.login()
        await writer.ask(vtp.Set(b"fits", b"v" * (65_536 - 21)))
        await writer.ask(vtp.Set(b"exceeds", b"v" * (65_537 - 21)))
        client = await server.greet(vtp.ConnectionSettings(max_frame_bytes=65_536))
        assert await client.ask(vtp.Auth("vaylix", "vaylix")) == Ok()
        assert await client.ask(vtp.Get(b"fits")) == Value(b"v" * (65_536 - 21))
        client.send(vtp.Get(b"exceeds"))
        await closed_without_a_byte(client)


@pytest.mark.parametrize(
    ("server_wants", "client_wants", "is_compressed"),
    [
        (True, vtp.Compression.ZSTD, True),
        (True, vtp.Compression.NONE, False),
        (False, vtp.Compression.ZSTD, False),
    ],
)
async def test_10_replies_of_1024_bytes_are_compressed_if_both_want_it(
    tmp_path: Path, server_wants: bool, client_wants: vtp.Compression, is_compressed: bool
) -> None:
    settings = Settings(disable_auth=True, disable_compression=not server_wants)
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.greet(vtp.ConnectionSettings(compression=client_wants))
        for body_bytes in (1023, 1024):
            value = b"v" * (body_bytes - 21)
            assert await client.ask(vtp.Set(b"k", value)) == Ok()
            # A read alone, many together, and what is encoded like everything else.
            groups: list[list[vtp.Command]]
            groups = [[vtp.Get(b"k")], [vtp.Get(b"k")] * 3, [vtp.Ping(value)]]
            for commands in groups:
                before = client.received_bytes
                assert await client.ask_all(commands) == [Value(value)] * len(commands)
                received, plain = client.received_bytes - before, len(commands) * (14 + body_bytes)
                if is_compressed and body_bytes == 1024:
                    assert received < plain / 10
                else:
                    assert received == plain
