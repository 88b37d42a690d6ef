"""Transactions over the wire: one test for each row of commands spec 7.1, and EXEC itself."""

from __future__ import annotations

from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import ErrorReply, Ok, Queued, Value
from vaylix_server.settings import Settings
from vaylix_server.testing import serve_in_memory


def code(reply: object) -> str:
    assert isinstance(reply, ErrorReply), reply
    return reply.code


async def test_idle_multi_opens(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert await client.ask(vtp.Multi()) == Ok()
        assert await client.ask(vtp.Get(b"k")) == Queued()


@pytest.mark.parametrize("command", [vtp.Exec(), vtp.Discard()])
async def test_idle_exec_and_discard_are_refused(tmp_path: Path, command: vtp.Command) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert code(await client.ask(command)) == "SRV-015"


async def test_open_multi_is_refused_and_stays_open(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Multi())
        assert code(await client.ask(vtp.Multi())) == "SRV-014"
        assert await client.ask(vtp.Exec()) == vtp.ExecResults(())


async def test_open_what_cannot_be_queued_is_refused_and_does_not_poison(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Multi())
        assert await client.ask(vtp.Set(b"k", b"v")) == Queued()
        # Every command there is: test_rules.py.
        for command in (vtp.Info(), vtp.Save(), vtp.ShowUsers()):
            assert code(await client.ask(command)) == "SRV-016", command
        assert await client.ask(vtp.Exec()) == vtp.ExecResults((Ok(),))
        assert await client.ask(vtp.Get(b"k")) == Value(b"v")


async def test_open_the_queue_is_bounded_and_multi_takes_a_slot(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, Settings(max_transaction_queue_len=4)) as server:
        client = await server.login()
        await client.ask(vtp.Multi())
        replies = await client.ask_all([vtp.Incr(b"n")] * 4)
        assert replies[:3] == [Queued()] * 3
        assert code(replies[3]) == "SRV-013"
        assert await client.ask(vtp.Exec()) == vtp.ExecResults(
            (vtp.Integer(1), vtp.Integer(2), vtp.Integer(3))
        )


async def test_open_an_exec_that_no_log_entry_could_hold_is_refused_when_queueing(
    tmp_path: Path,
) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Multi())
        big = vtp.MSet(tuple((b"k%d" % number, b"v" * 262_000) for number in range(4)))
        queued = 0
        while (reply := await client.ask(big)) == Queued():
            queued += 1
        assert code(reply) == "SRV-013"
        assert queued == 15
        assert await client.ask(vtp.Exec()) == vtp.ExecResults((Ok(),) * 15)


async def test_open_a_size_error_queues_nothing(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Multi())
        assert code(await client.ask(vtp.Get(b"k" * 1025))) == "SRV-013"
        assert await client.ask(vtp.Exec()) == vtp.ExecResults(())


async def test_open_discard_drops_the_queue(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        replies = await client.ask_all(
            [vtp.Multi(), vtp.Set(b"k", b"v"), vtp.Discard(), vtp.Get(b"k"), vtp.Exec()]
        )
        assert replies[:4] == [Ok(), Queued(), Ok(), vtp.NotFound()]
        assert code(replies[4]) == "SRV-015"


async def test_open_a_lost_connection_loses_the_queue(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask_all([vtp.Multi(), vtp.Set(b"k", b"v")])
        client.close()
        await client.closed.wait()
        assert await (await server.login()).ask(vtp.Get(b"k")) == vtp.NotFound()


async def test_exec_runs_in_order_and_each_command_sees_the_earlier_ones(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        commands: list[vtp.Command] = [
            vtp.Ping(b"hi"),
            vtp.Set(b"a", b"1"),
            vtp.Incr(b"a"),
            vtp.Get(b"a"),
            vtp.Set(b"a", b"x", vtp.SetCondition.NX),
            vtp.MGet((b"a", b"b")),
            vtp.DbSize(),
            vtp.Ttl(b"a"),
            vtp.List(),
            vtp.Scan(0),
            vtp.Del((b"a", b"a", b"b")),
            vtp.Get(b"a"),
        ]
        replies = await client.ask_all([vtp.Multi(), *commands, vtp.Exec()])
        assert replies[-1] == vtp.ExecResults(
            (
                Value(b"hi"),
                Ok(),
                vtp.Integer(2),
                Value(b"2"),
                vtp.Bool(False),
                vtp.Strings((b"2", None)),
                vtp.CountReply(1),
                vtp.Integer(-1),
                vtp.Entries(((b"a", b"2"),)),
                vtp.ScanPage(0, (b"a",)),
                vtp.CountReply(1),
                vtp.NotFound(),
            )
        )


async def test_exec_applies_nothing_when_one_command_fails(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Set(b"text", b"abc"))
        replies = await client.ask_all(
            [vtp.Multi(), vtp.Set(b"k", b"v"), vtp.Incr(b"text"), vtp.Exec(), vtp.Get(b"k")]
        )
        failure = replies[3]
        assert isinstance(failure, ErrorReply)
        assert failure.code == "ENG-015"
        assert failure.message == (
            "engine failure: value for key 'text' is not a valid integer: abc"
        )
        assert replies[4] == vtp.NotFound()
        assert code(await client.ask(vtp.Exec())) == "SRV-015"


async def test_a_read_only_exec_is_not_logged(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Set(b"k", b"v"))
        before = server.server.services.write_path.commit_index
        replies = await client.ask_all([vtp.Multi(), vtp.Get(b"k"), vtp.Exec()])
        assert replies[-1] == vtp.ExecResults((Value(b"v"),))
        assert server.server.services.write_path.commit_index == before
        await client.ask_all([vtp.Multi(), vtp.Set(b"k", b"w"), vtp.Incr(b"n"), vtp.Exec()])
        assert server.server.services.write_path.commit_index == before + 1
