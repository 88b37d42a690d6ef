"""Help for tests of what is built on this package: a connected pair, drips, random messages.

The strategies need hypothesis, so this module can be imported only where hypothesis is installed.
Nothing else in the package needs it.
"""

from __future__ import annotations

from typing import Final, TypeVar

from hypothesis import strategies as st

from vaylix_protocol import commands as c
from vaylix_protocol._connection import Connection
from vaylix_protocol._constants import (
    REQUEST_ID_BYTES,
    U16_MAX,
    U64_MAX,
    ReplyKind,
    Role,
    SetCondition,
    TimeUnit,
)
from vaylix_protocol._events import NO_METADATA, ClientHello, Event, Metadata, ServerHello
from vaylix_protocol._replies import (
    Bool,
    CountReply,
    Entries,
    ErrorReply,
    ExecResults,
    Integer,
    Json,
    NotFound,
    Ok,
    Reply,
    ScanPage,
    Strings,
    Value,
)
from vaylix_protocol._settings import ConnectionSettings

__all__ = [
    "SERVER_ID",
    "ConnectedPair",
    "commands",
    "drip",
    "feed",
    "metadata",
    "replies",
    "replies_of_kind",
    "request_ids",
]

T = TypeVar("T")

SERVER_ID: Final = bytes.fromhex("0198c0de000070008000000000000051")


class ConnectedPair:
    """A client and a server, wired back to back, that have exchanged their hellos."""

    def __init__(
        self,
        *,
        client_settings: ConnectionSettings | None = None,
        server_settings: ConnectionSettings | None = None,
    ) -> None:
        self.client = Connection(Role.CLIENT, client_settings or ConnectionSettings())
        self.server = Connection(Role.SERVER, server_settings or ConnectionSettings())
        (client_hello,) = self.server.receive_data(self.client.hello())
        assert isinstance(client_hello, ClientHello)
        self.client_hello = client_hello
        (server_hello,) = self.client.receive_data(self.server.accept(client_hello, SERVER_ID))
        assert isinstance(server_hello, ServerHello)
        self.server_hello = server_hello


def feed(connection: Connection, data: bytes) -> list[Event]:
    """Give all of `data` to a connection and return all events, in as many calls as it takes."""
    events = connection.receive_data(data)
    while connection.has_more:
        events += connection.receive_data(b"")
    return events


def drip(connection: Connection, data: bytes, chunk_bytes: int = 1) -> list[Event]:
    """Give `data` to a connection in small pieces and return all events."""
    events: list[Event] = []
    for start in range(0, len(data), chunk_bytes):
        events += feed(connection, data[start : start + chunk_bytes])
    return events


def request_ids() -> st.SearchStrategy[bytes]:
    """Any request id; the protocol does not look into them."""
    return st.binary(min_size=REQUEST_ID_BYTES, max_size=REQUEST_ID_BYTES)


def metadata() -> st.SearchStrategy[Metadata]:
    """Metadata with any of its fields."""
    number = st.none() | _u64()
    return st.just(NO_METADATA) | st.builds(Metadata, number, st.none() | request_ids(), number)


def commands() -> st.SearchStrategy[c.Command]:
    """Any command that has an opcode."""
    return st.one_of(
        _data_commands(), _operations_commands(), _access_commands(), _cluster_commands()
    )


def replies() -> st.SearchStrategy[Reply]:
    """Any reply that can be sent."""
    return st.sampled_from([kind for kind in ReplyKind if kind is not ReplyKind.QUEUED]).flatmap(
        replies_of_kind
    )


def replies_of_kind(kind: ReplyKind) -> st.SearchStrategy[Reply]:
    """Any reply of one kind, except QUEUED, which is a value on the wire."""
    plain = _plain_replies()
    if kind in plain:
        return plain[kind]
    if kind is ReplyKind.EXEC_RESULTS:
        results = st.lists(st.one_of(*plain.values()), max_size=5)
        return results.map(lambda items: ExecResults(tuple(items)))
    if kind is ReplyKind.ERROR:
        return st.builds(ErrorReply, _text(), _text(), _text())
    assert kind is ReplyKind.JSON
    return st.builds(Json, st.binary(max_size=40))


def _plain_replies() -> dict[ReplyKind, st.SearchStrategy[Reply]]:
    """Strategies for the kinds that may also be a result of EXEC."""
    value = st.binary(max_size=40)
    return {
        ReplyKind.OK: st.just(Ok()),
        ReplyKind.NOT_FOUND: st.just(NotFound()),
        ReplyKind.VALUE: st.builds(Value, value),
        ReplyKind.BOOL: st.builds(Bool, st.booleans()),
        ReplyKind.COUNT: st.builds(CountReply, _u64()),
        ReplyKind.INTEGER: st.builds(Integer, st.integers(-(2**63), 2**63 - 1)),
        ReplyKind.ENTRIES: st.builds(Entries, _tuples(st.tuples(_keys(), value))),
        ReplyKind.STRINGS: st.builds(Strings, _tuples(st.none() | value)),
        ReplyKind.SCAN: st.builds(ScanPage, _u64(), _tuples(_keys())),
    }


def _data_commands() -> st.SearchStrategy[c.Command]:
    key, value = _keys(), st.binary(max_size=80)
    expiration = st.none() | st.builds(c.Expiration, st.sampled_from(TimeUnit), _u64())
    return st.one_of(
        *[
            st.builds(command, key)
            for command in (c.Get, c.GetDel, c.Exists, c.Incr, c.Decr, c.Ttl, c.Persist)
        ],
        st.builds(c.Set, key, value),
        st.builds(
            c.Set,
            key,
            value,
            st.sampled_from(SetCondition),
            expiration,
            st.booleans(),
            st.booleans(),
            st.none() | _u64(),
        ),
        st.builds(c.SetNx, key, value),
        st.builds(c.GetEx, key, expiration, st.booleans()),
        st.builds(c.Del, _tuples(key)),
        st.builds(c.MGet, _tuples(key)),
        st.builds(c.MSet, _tuples(st.tuples(key, value))),
        st.builds(c.Expire, key, _u64()),
        st.builds(c.Rename, key, key),
        st.builds(c.RenameNx, key, key),
        st.builds(c.Scan, _u64(), st.none() | _text(), st.none() | st.integers(0, U16_MAX)),
        st.sampled_from([c.DbSize(), c.Count(), c.List(), c.Clear()]),
    )


def _operations_commands() -> st.SearchStrategy[c.Command]:
    text = _text()
    return st.one_of(
        st.builds(c.Auth, text, text),
        st.builds(c.Ping, st.none() | _keys()),
        *[
            st.builds(command, text)
            for command in (
                c.BackupTo,
                c.BackupVerify,
                c.BackupVerifyFrom,
                c.Restore,
                c.RestoreFrom,
                c.RestoreCheck,
                c.RestoreCheckFrom,
            )
        ],
        st.sampled_from(
            [
                c.Multi(),
                c.Exec(),
                c.Discard(),
                c.Info(),
                c.Metrics(),
                c.MetricsProm(),
                c.Health(),
                c.MaintenanceOn(),
                c.MaintenanceOff(),
                c.MaintenanceStatus(),
                c.Save(),
                c.Snapshot(),
                c.Backup(),
            ]
        ),
    )


def _access_commands() -> st.SearchStrategy[c.Command]:
    text = _text()
    return st.one_of(
        *[
            st.builds(command, text)
            for command in (
                c.DropUser,
                c.CreateRole,
                c.DropRole,
                c.ShowGrantsForUser,
                c.ShowGrantsForRole,
            )
        ],
        *[
            st.builds(command, text, text)
            for command in (c.CreateUser, c.AlterUserPassword, c.GrantRole, c.RevokeRole)
        ],
        st.builds(c.GrantPermission, text, text, text),
        st.builds(c.RevokePermission, text, text, text),
        st.sampled_from([c.ShowUsers(), c.ShowRoles(), c.ShowGrants(), c.WhoAmI()]),
    )


def _cluster_commands() -> st.SearchStrategy[c.Command]:
    text = _text()
    return st.one_of(
        st.builds(c.ClusterJoin, text, text),
        st.builds(c.ClusterRemove, text),
        *[
            st.builds(command, st.binary(max_size=40))
            for command in (
                c.ReplicationStatus,
                c.ReplicationSnapshot,
                c.ReplicationFetch,
                c.ReplicationAck,
                c.ReplicationVote,
                c.ReplicationHeartbeat,
                c.ReplicationAppend,
                c.ReplicationInstallSnapshot,
            )
        ],
        st.sampled_from(
            [
                c.ShowCluster(),
                c.ShowReplication(),
                c.PromoteFollower(),
                c.PauseReplication(),
                c.ResumeReplication(),
            ]
        ),
    )


def _u64() -> st.SearchStrategy[int]:
    return st.integers(0, U64_MAX)


def _text() -> st.SearchStrategy[str]:
    return st.text(max_size=12)


def _keys() -> st.SearchStrategy[bytes]:
    return _text().map(str.encode)


def _tuples(items: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(items, max_size=4).map(tuple)
