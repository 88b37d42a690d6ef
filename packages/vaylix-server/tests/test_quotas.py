"""The quotas of server spec 3.4 for every field of every command: only more than one is refused."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import ErrorReply, Ok
from vaylix_server.settings import Settings
from vaylix_server.testing import serve_in_memory


class Quota(enum.Enum):
    """What a field is measured with."""

    KEY = enum.auto()
    VALUE = enum.auto()
    # The same, but the wire cannot carry more than 65 535 bytes of it.
    SHORT_VALUE = enum.auto()
    # Many of them, whose number is limited as well.
    KEYS = enum.auto()
    PAIRS = enum.auto()
    # The size of the whole request is the only limit.
    NONE = enum.auto()


Q = Quota
SHORT_BYTES_MAX = 65_535
Kinds = tuple[type[vtp.Command], ...]
GROUPS: list[tuple[dict[str, Quota], Kinds]] = [
    ({"key": Q.KEY}, (vtp.Get, vtp.Exists, vtp.Ttl, vtp.GetEx, vtp.GetDel)),
    ({"key": Q.KEY}, (vtp.Incr, vtp.Decr, vtp.Expire, vtp.Persist)),
    ({"key": Q.KEY, "value": Q.VALUE}, (vtp.Set, vtp.SetNx)),
    ({"keys": Q.KEYS}, (vtp.MGet, vtp.Del)),
    ({"pairs": Q.PAIRS}, (vtp.MSet,)),
    ({"source": Q.KEY, "destination": Q.KEY}, (vtp.Rename, vtp.RenameNx)),
    ({"pattern": Q.KEY}, (vtp.Scan,)),
    ({"message": Q.NONE}, (vtp.Ping,)),
    (
        {"username": Q.KEY, "password": Q.SHORT_VALUE},
        (vtp.Auth, vtp.CreateUser, vtp.AlterUserPassword),
    ),
    ({"username": Q.KEY}, (vtp.DropUser, vtp.ShowGrantsForUser)),
    ({"role": Q.KEY}, (vtp.CreateRole, vtp.DropRole, vtp.ShowGrantsForRole)),
    ({"role": Q.KEY, "username": Q.KEY}, (vtp.GrantRole, vtp.RevokeRole)),
    (
        {"permission": Q.KEY, "pattern": Q.KEY, "role": Q.KEY},
        (vtp.GrantPermission, vtp.RevokePermission),
    ),
    ({"dump": Q.VALUE}, (vtp.BackupVerify, vtp.Restore, vtp.RestoreCheck)),
    ({"path": Q.SHORT_VALUE}, (vtp.BackupTo, vtp.BackupVerifyFrom)),
    ({"path": Q.SHORT_VALUE}, (vtp.RestoreFrom, vtp.RestoreCheckFrom)),
    ({"node_id": Q.KEY, "address": Q.VALUE}, (vtp.ClusterJoin,)),
    ({"node_id": Q.KEY}, (vtp.ClusterRemove,)),
    ({"json": Q.NONE}, (vtp.ReplicationStatus, vtp.ReplicationSnapshot, vtp.ReplicationFetch)),
    ({"json": Q.NONE}, (vtp.ReplicationAck, vtp.ReplicationVote, vtp.ReplicationHeartbeat)),
    ({"json": Q.NONE}, (vtp.ReplicationAppend, vtp.ReplicationInstallSnapshot)),
]
FIELDS = {kind: fields for fields, kinds in GROUPS for kind in kinds}
# Numbers and switches; nothing to measure.
NEEDED: dict[str, object] = {"seconds": 1, "cursor": 0}
OPTIONS = frozenset(
    ["condition", "count", "expiration", "if_version", "keep_ttl", "persist", "return_previous"]
)
USUAL = Settings()
SMALL = Settings(max_key_bytes=20, max_value_bytes=50, max_keys_per_batch=3)


def test_every_field_of_every_command_is_listed() -> None:
    for kind in get_args(vtp.Command):
        measured = set(kind.__struct_fields__) - set(NEEDED) - OPTIONS
        assert measured == set(FIELDS.get(kind, {})), kind


def content(kind: type[vtp.Command], name: str, length: int) -> bytes | str:
    """Return so many bytes, in characters of two bytes each where the field is text."""
    hint = get_type_hints(kind)[name]
    if str in (hint, *get_args(hint)):
        return "é" * (length // 2) + "x" * (length % 2)
    return b"x" * length


def cases(settings: Settings) -> Iterator[tuple[vtp.Command, vtp.Command | None]]:
    """Yield a command that just fits, and one that is too large by the least there is."""
    key, value = settings.max_key_bytes, settings.max_value_bytes
    for kind, fields in FIELDS.items():
        for name, quota in fields.items():
            if quota is Quota.NONE:
                yield with_field(kind, name, content(kind, name, key + value + 1)), None
            elif quota is Quota.SHORT_VALUE and value > SHORT_BYTES_MAX:
                yield with_field(kind, name, content(kind, name, SHORT_BYTES_MAX)), None
            elif quota in {Quota.KEY, Quota.VALUE, Quota.SHORT_VALUE}:
                limit = key if quota is Quota.KEY else value
                fits, exceeds = (content(kind, name, limit + more) for more in (0, 1))
                yield with_field(kind, name, fits), with_field(kind, name, exceeds)
            else:
                for fits_all, exceeds_one in many(settings, quota):
                    yield with_field(kind, name, fits_all), with_field(kind, name, exceeds_one)


def many(settings: Settings, quota: Quota) -> Iterator[tuple[object, object]]:
    """Yield keys or pairs that just fit, and some of which the last one is too large."""
    key, value = b"x" * settings.max_key_bytes, b"x" * settings.max_value_bytes
    count = settings.max_keys_per_batch
    if quota is Quota.KEYS:
        # Nobody sets this one: what has a value may not fit into one reply so many times.
        yield (b"m",) * count, (b"m",) * (count + 1)
        yield (b"m", key), (b"m", key + b"x")
    else:
        yield ((b"x", b"x"),) * count, ((b"x", b"x"),) * (count + 1)
        yield ((b"x", b"x"), (key, b"x")), ((b"x", b"x"), (key + b"x", b"x"))
        yield ((b"x", b"x"), (b"x", value)), ((b"x", b"x"), (b"x", value + b"x"))


def with_field(kind: type[vtp.Command], name: str, chosen: object) -> vtp.Command:
    """Return a command with one field as chosen and all others small."""
    small = {Quota.KEYS: (b"x",), Quota.PAIRS: ((b"x", b"x"),)}
    arguments: dict[str, object] = {
        other: small.get(quota) or content(kind, other, 1) for other, quota in FIELDS[kind].items()
    }
    arguments |= {other: NEEDED[other] for other in kind.__struct_fields__ if other in NEEDED}
    make: Callable[..., vtp.Command] = kind
    return make(**{**arguments, name: chosen})


def code(reply: vtp.Reply) -> str | None:
    return reply.code if isinstance(reply, ErrorReply) else None


@pytest.mark.parametrize("settings", [USUAL, SMALL], ids=["usual", "small"])
async def test_only_more_than_a_quota_is_refused(tmp_path: Path, settings: Settings) -> None:
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.login()
        for fits, exceeds in cases(settings):
            assert code(await client.ask(fits)) != "SRV-013", repr(fits)[:100]
            if exceeds is not None:
                assert code(await client.ask(exceeds)) == "SRV-013", repr(exceeds)[:100]


@pytest.mark.parametrize("settings", [USUAL, SMALL], ids=["usual", "small"])
async def test_quotas_come_before_authentication(tmp_path: Path, settings: Settings) -> None:
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.greet()
        for fits, exceeds in cases(settings):
            if not isinstance(fits, vtp.Ping | vtp.Auth):
                assert code(await client.ask(fits)) == "SRV-007", repr(fits)[:100]
            if exceeds is not None:
                assert code(await client.ask(exceeds)) == "SRV-013", repr(exceeds)[:100]


async def test_one_too_large_among_many_is_refused_alone(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, SMALL) as server:
        client = await server.login()
        key, value = b"k" * SMALL.max_key_bytes, b"v" * SMALL.max_value_bytes
        writes = [vtp.Set(key, value), vtp.Set(key + b"k", b""), vtp.Set(b"k", value + b"v")]
        reads = [vtp.Get(key), vtp.Get(key + b"k"), vtp.Get(b"k")]
        replies = await client.ask_all([*writes, *reads])
        assert [code(reply) for reply in replies] == [
            None,
            "SRV-013",
            "SRV-013",
            None,
            "SRV-013",
            None,
        ]
        assert [replies[0], replies[3], replies[5]] == [Ok(), vtp.Value(value), vtp.NotFound()]
