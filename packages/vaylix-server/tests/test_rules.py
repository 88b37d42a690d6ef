"""Who may send which command, and when: the whole matrix of server spec 5.3, row by row.

The rows are written down here once more, so that a slip in the table of the server shows. Where
they differ from the published server, `docs/compatibility.md` says so.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import NamedTuple, get_args

import vaylix_protocol as vtp
from vaylix_protocol import ErrorReply, Ok, Queued, Value, commands
from vaylix_server.access import Grant, Permission, Role, User
from vaylix_server.dispatcher import _REPLICATION
from vaylix_server.passwords import hash_password
from vaylix_server.rules import RULES, Scope, is_safe_in_maintenance
from vaylix_server.settings import Settings
from vaylix_server.testing import MemoryServer, WireClient, serve_in_memory

NAME, PASSWORD = "ann", "correct horse 1"


class Maintenance(enum.Enum):
    PASSES = enum.auto()
    REFUSED = enum.auto()


class Queue(enum.Enum):
    """What an open transaction makes of a command."""

    TAKES = enum.auto()
    REFUSES = enum.auto()
    # It is carried out, and the transaction stays as it is.
    IGNORES = enum.auto()
    # It is about the transaction itself; see test_transactions.py.
    CONTROL = enum.auto()


class Row(NamedTuple):
    permission: Permission | None
    scope: Scope
    maintenance: Maintenance
    queue: Queue
    command: vtp.Command


def rows(
    permission: Permission | None,
    scope: Scope,
    maintenance: Maintenance,
    queue: Queue,
    *examples: vtp.Command,
) -> list[Row]:
    return [Row(permission, scope, maintenance, queue, example) for example in examples]


ADMIN = Grant(Permission.ADMIN, "*")
P, S, M, Q = Permission, Scope, Maintenance, Queue
K, L = b"app:1", b"app:2"
SECOND = vtp.Expiration(vtp.TimeUnit.SECONDS, 1)
DUMP = json.dumps(
    {
        "version": 2,
        "created_at_ms": 1,
        "source_engine_version": 3,
        "source_sequence": 9,
        "entries": [],
    }
)
BETWEEN_NODES: list[vtp.Command] = [
    vtp.ReplicationStatus(b"{}"),
    vtp.ReplicationSnapshot(b"{}"),
    vtp.ReplicationFetch(b"{}"),
    vtp.ReplicationAck(b"{}"),
    vtp.ReplicationVote(b"{}"),
    vtp.ReplicationHeartbeat(b"{}"),
    vtp.ReplicationAppend(b"{}"),
    vtp.ReplicationInstallSnapshot(b"{}"),
]
MATRIX: list[Row] = [
    *rows(None, S.NONE, M.PASSES, Q.IGNORES, vtp.Auth(NAME, PASSWORD)),
    *rows(None, S.NONE, M.PASSES, Q.TAKES, vtp.Ping(), vtp.Ping(b"hello")),
    *rows(P.READ, S.KEYS, M.PASSES, Q.TAKES, vtp.Get(K), vtp.Exists(K), vtp.Ttl(K)),
    *rows(P.READ, S.KEYS, M.PASSES, Q.TAKES, vtp.MGet((K, L))),
    *rows(P.READ, S.PATTERN, M.PASSES, Q.TAKES, vtp.Scan(0), vtp.Scan(0, "app:x*")),
    *rows(P.READ, S.GLOBAL, M.PASSES, Q.TAKES, vtp.DbSize(), vtp.Count(), vtp.List()),
    *rows(P.WRITE, S.KEYS, M.PASSES, Q.TAKES, vtp.GetEx(K)),
    *rows(P.WRITE, S.KEYS, M.REFUSED, Q.TAKES, vtp.GetEx(K, SECOND), vtp.GetEx(K, persist=True)),
    *rows(P.WRITE, S.KEYS, M.REFUSED, Q.TAKES, vtp.Set(K, b"1"), vtp.Incr(K), vtp.Decr(K)),
    *rows(P.WRITE, S.KEYS, M.REFUSED, Q.TAKES, vtp.Expire(K, 1), vtp.Persist(K), vtp.GetDel(K)),
    *rows(P.WRITE, S.KEYS, M.REFUSED, Q.TAKES, vtp.SetNx(K, b"1"), vtp.Del((K, L))),
    *rows(P.WRITE, S.KEYS, M.REFUSED, Q.TAKES, vtp.MSet(((K, b"1"), (L, b"2")))),
    *rows(P.WRITE, S.KEYS, M.REFUSED, Q.TAKES, vtp.Rename(K, L), vtp.RenameNx(K, L)),
    *rows(P.CLEAR, S.GLOBAL, M.REFUSED, Q.TAKES, vtp.Clear()),
    *rows(P.METRICS, S.GLOBAL, M.PASSES, Q.REFUSES, vtp.Info(), vtp.Metrics(), vtp.MetricsProm()),
    *rows(P.SNAPSHOT, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.Save(), vtp.Snapshot()),
    *rows(P.BACKUP, S.GLOBAL, M.PASSES, Q.REFUSES, vtp.Backup(), vtp.BackupVerify(DUMP)),
    *rows(P.BACKUP, S.GLOBAL, M.PASSES, Q.REFUSES, vtp.BackupVerifyFrom("missing.json")),
    *rows(P.BACKUP, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.BackupTo("one.json")),
    *rows(P.RESTORE, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.Restore(DUMP)),
    *rows(P.RESTORE, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.RestoreFrom("missing.json")),
    *rows(P.RESTORE, S.GLOBAL, M.PASSES, Q.REFUSES, vtp.RestoreCheck(DUMP)),
    *rows(P.RESTORE, S.GLOBAL, M.PASSES, Q.REFUSES, vtp.RestoreCheckFrom("missing.json")),
    *rows(P.USER_ADMIN, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.CreateUser("bob", PASSWORD)),
    *rows(P.USER_ADMIN, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.AlterUserPassword("bob", PASSWORD)),
    *rows(P.USER_ADMIN, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.DropUser("bob")),
    *rows(P.USER_ADMIN, S.GLOBAL, M.PASSES, Q.REFUSES, vtp.ShowUsers()),
    *rows(P.USER_ADMIN, S.GLOBAL, M.PASSES, Q.REFUSES, vtp.ShowGrantsForUser("bob")),
    *rows(P.ROLE_ADMIN, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.CreateRole("r"), vtp.DropRole("r")),
    *rows(P.ROLE_ADMIN, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.GrantRole("r", "bob")),
    *rows(P.ROLE_ADMIN, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.RevokeRole("r", "bob")),
    *rows(P.ROLE_ADMIN, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.GrantPermission("read", "*", "r")),
    *rows(P.ROLE_ADMIN, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.RevokePermission("read", "*", "r")),
    *rows(P.ROLE_ADMIN, S.GLOBAL, M.PASSES, Q.REFUSES, vtp.ShowRoles()),
    *rows(P.ROLE_ADMIN, S.GLOBAL, M.PASSES, Q.REFUSES, vtp.ShowGrantsForRole("r")),
    *rows(None, S.NONE, M.PASSES, Q.REFUSES, vtp.ShowGrants(), vtp.WhoAmI()),
    *rows(None, S.NONE, M.REFUSED, Q.CONTROL, vtp.Multi(), vtp.Exec()),
    *rows(None, S.NONE, M.PASSES, Q.CONTROL, vtp.Discard()),
    *rows(P.ADMIN, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.MaintenanceOn()),
    *rows(P.ADMIN, S.GLOBAL, M.PASSES, Q.REFUSES, vtp.MaintenanceOff()),
    *rows(None, S.NONE, M.PASSES, Q.REFUSES, vtp.MaintenanceStatus(), vtp.Health()),
    *rows(P.ADMIN, S.GLOBAL, M.PASSES, Q.REFUSES, vtp.ShowReplication(), vtp.ShowCluster()),
    *rows(P.ADMIN, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.ClusterJoin("n", "h:1")),
    *rows(P.ADMIN, S.GLOBAL, M.REFUSED, Q.REFUSES, vtp.ClusterRemove("n")),
    *rows(P.ADMIN, S.GLOBAL, M.PASSES, Q.REFUSES, vtp.PromoteFollower()),
    *rows(P.ADMIN, S.GLOBAL, M.PASSES, Q.REFUSES, vtp.PauseReplication(), vtp.ResumeReplication()),
    *rows(P.ADMIN, S.GLOBAL, M.PASSES, Q.IGNORES, *BETWEEN_NODES),
]


def code(reply: vtp.Reply) -> str | None:
    """Return the code of an error, None for any other reply."""
    return reply.code if isinstance(reply, ErrorReply) else None


async def outcome(client: WireClient, command: vtp.Command) -> object:
    """Ask; return the code or the kind of the reply, and leave no transaction open."""
    reply = await client.ask(command)
    if isinstance(command, vtp.Multi) and reply == Ok():
        assert await client.ask(vtp.Discard()) == Ok()
    return code(reply) or type(reply)


def maintain(directory: Path) -> Path:
    """Let a server that is started there find itself in maintenance; return the directory."""
    (directory / "data").mkdir(mode=0o700, parents=True)
    (directory / "data" / "maintenance.mode").write_text("maintenance=on\n", encoding="utf-8")
    return directory


def grant(server: MemoryServer, *grants: Grant) -> None:
    """Let the user `NAME` have these grants and no others."""
    access = server.server.services.access
    if NAME not in access._users:
        access._users[NAME] = User(hash_password(PASSWORD), frozenset(("tested",)))
    access._roles["tested"] = Role(frozenset(grants))
    access.revision += 1


# The table.


def test_every_command_of_the_protocol_has_a_rule_and_a_row() -> None:
    every = set(get_args(vtp.Command))
    classes = (kind for kind in vars(commands).values() if isinstance(kind, type))
    assert every == {kind for kind in classes if issubclass(kind, commands.CommandBase)} - {
        commands.CommandBase
    }
    assert set(RULES) | _REPLICATION == every
    assert not _REPLICATION & set(RULES)
    assert {type(row.command) for row in MATRIX} == every


def test_every_rule_is_that_of_its_row() -> None:
    """Also for what this version does not offer, where the wire would show no difference."""
    for row in MATRIX:
        if type(row.command) in _REPLICATION:
            continue
        rule = RULES[type(row.command)]
        assert (rule.permission, rule.scope) == (row.permission, row.scope), row
        assert rule.in_transaction is (row.queue is Queue.TAKES), row
        is_safe = is_safe_in_maintenance(rule, row.command)
        assert is_safe is (row.maintenance is Maintenance.PASSES), row


# Permissions.


async def test_without_a_session_only_ping_and_auth_are_answered(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.greet()
        for row in MATRIX:
            if isinstance(row.command, vtp.Ping):
                assert await outcome(client, row.command) is Value
            elif not isinstance(row.command, vtp.Auth):
                assert await outcome(client, row.command) == "SRV-007", row


async def test_exactly_the_permission_of_a_command_is_enough(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        grant(server)
        client = await server.login(NAME, PASSWORD)
        for row in MATRIX:
            for enough in (sufficient(row), [Grant(row.permission or P.READ, "*")], [ADMIN]):
                grant(server, *enough)
                reply = await outcome(client, row.command)
                assert reply not in {"SRV-007", "SRV-017"}, (row, enough)


async def test_all_other_permissions_together_are_not(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        grant(server)
        client = await server.login(NAME, PASSWORD)
        for row in MATRIX:
            for lacking in insufficient(row):
                grant(server, *lacking)
                assert await outcome(client, row.command) == "SRV-017", (row, lacking)


async def test_permissions_are_checked_when_a_command_is_queued(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        grant(server)
        client = await server.login(NAME, PASSWORD)
        for row in MATRIX:
            if row.queue is not Queue.TAKES:
                continue
            assert await client.ask(vtp.Multi()) == Ok()
            for lacking in insufficient(row):
                grant(server, *lacking)
                assert await outcome(client, row.command) == "SRV-017", (row, lacking)
            assert await client.ask(vtp.Exec()) == vtp.ExecResults(())
            assert await client.ask(vtp.Multi()) == Ok()
            grant(server, *sufficient(row))
            assert await client.ask(row.command) == Queued(), row
            assert await client.ask(vtp.Discard()) == Ok()


async def test_without_authentication_nobody_is_refused(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, Settings(disable_auth=True)) as server:
        client = await server.greet()
        for row in MATRIX:
            # Who has not sent AUTH is nobody in particular.
            expected = (
                {"SRV-007"} if isinstance(row.command, vtp.WhoAmI | vtp.ShowGrants) else set()
            )
            refusals = {"SRV-007", "SRV-017"} - expected
            assert await outcome(client, row.command) not in refusals, row
            if isinstance(row.command, vtp.Auth):
                client = await server.greet()


def keys_in(command: vtp.Command) -> list[bytes]:
    single = [getattr(command, name, None) for name in ("key", "source", "destination")]
    pairs = [key for key, _ in getattr(command, "pairs", ())]
    return [key for key in single if key is not None] + pairs + list(getattr(command, "keys", ()))


def sufficient(row: Row) -> list[Grant]:
    """Return what is just enough."""
    if row.permission is None:
        return []
    if row.scope is Scope.KEYS:
        return [Grant(row.permission, key.decode()) for key in keys_in(row.command)]
    narrow = isinstance(row.command, vtp.Scan) and row.command.pattern is not None
    return [Grant(row.permission, "app:*" if narrow else "*")]


def insufficient(row: Row) -> list[list[Grant]]:
    """Return sets of grants each of which lacks something; none where nothing is needed."""
    if row.permission is None:
        return []
    # An administrator of some keys is none.
    others = [Grant(kind, "*") for kind in P if kind not in {row.permission, P.ADMIN}]
    others.append(Grant(P.ADMIN, "app:*"))
    enough = sufficient(row)
    lacking = [[each for each in enough if each is not left] for left in enough]
    if row.scope is not Scope.KEYS:
        elsewhere = "app:y*" if enough[0].pattern == "app:*" else "app:*"
        lacking += [[Grant(row.permission, elsewhere)], [Grant(row.permission, "app")]]
    return [grants + others for grants in lacking]


# Maintenance.


async def test_in_maintenance_what_passes_is_done_and_all_else_is_refused(tmp_path: Path) -> None:
    async with (
        serve_in_memory(tmp_path / "free") as free,
        serve_in_memory(maintain(tmp_path / "maintained")) as maintained,
    ):
        for server in (free, maintained):
            grant(server, ADMIN)
        usual, client = await free.login(), await maintained.login()
        for row in MATRIX:
            if row.maintenance is Maintenance.PASSES:
                expected = await outcome(usual, row.command)
                assert await outcome(client, row.command) == expected, row
            else:
                assert await outcome(client, row.command) == "SRV-033", row
        health = await client.ask(vtp.Health())
        assert isinstance(health, vtp.Entries)
        assert (b"maintenance_mode", b"true") in health.pairs


async def test_maintenance_is_told_to_those_without_permission_too(tmp_path: Path) -> None:
    async with serve_in_memory(maintain(tmp_path)) as server:
        grant(server)
        client = await server.login(NAME, PASSWORD)
        for row in MATRIX:
            reply = await outcome(client, row.command)
            assert (reply == "SRV-033") is (row.maintenance is Maintenance.REFUSED), row


# Transactions.


async def test_a_transaction_takes_what_can_be_queued_and_nothing_else(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        grant(server, ADMIN)
        client = await server.login()
        for row in MATRIX:
            if row.queue is Queue.CONTROL:
                continue
            usual = code(await client.ask(row.command)) if row.queue is Queue.IGNORES else None
            assert await client.ask(vtp.Multi()) == Ok()
            reply = await client.ask(row.command)
            if row.queue is Queue.TAKES:
                assert reply == Queued(), row
                assert await client.ask(vtp.Discard()) == Ok()
                continue
            expected = "SRV-016" if row.queue is Queue.REFUSES else usual
            assert code(reply) == expected, row
            assert reply != Queued(), row
            assert await client.ask(vtp.Exec()) == vtp.ExecResults(()), row
