"""Every command of the language is a method; what it gives back is what it says."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict, Unpack, assert_type

import pytest

import vaylix_client
from vaylix_client import MISSING, Call, Client, InvalidCallError, Missing, Page, Pending, blocking
from vaylix_client._admin_commands import AdminCommands
from vaylix_client._command import command
from vaylix_client._data_commands import DataCommands
from vaylix_client.testing import ToyServer, toy_server_thread
from vaylix_protocol import (
    Auth,
    Command,
    Discard,
    Entries,
    Exec,
    Expiration,
    Expire,
    GetEx,
    GrantPermission,
    Multi,
    Ping,
    RevokePermission,
    Scan,
    Set,
    SetCondition,
    TimeUnit,
)
from vaylix_protocol.grammar import COMMANDS

if TYPE_CHECKING:
    from vaylix_client import Transaction
    from vaylix_client.aio import AsyncCommands

_OTHER_NAMES = {
    "del": "delete",
    "list": "list_all",
    "scan": "scan_page",
    "alter user": "alter_user",
    "multi": "transaction",
    "exec": "transaction",
    "discard": "transaction",
}
_LOCAL = {"help", "exit"}


def test_there_is_a_method_for_every_row_of_the_command_table() -> None:
    for spec in COMMANDS:
        if spec.alias_of is None and spec.name not in _LOCAL:
            name = _OTHER_NAMES.get(spec.name, spec.name.replace(" ", "_"))
            for client in (Client, blocking.Client):
                method = getattr(client, name)
                assert method.__doc__, f"{name} has no docstring"


def test_administration_cannot_be_queued_in_a_transaction() -> None:
    assert not hasattr(vaylix_client.Transaction, "info")
    assert hasattr(vaylix_client.Transaction, "get")
    assert hasattr(vaylix_client.Pipeline, "info")


def test_a_command_asked_of_the_class_builds_a_call_without_sending() -> None:
    call = Client.get("k")
    assert_type(call, Call[bytes | None])
    assert call == DataCommands.get("k")
    assert call.reads_only


def test_methods_keep_names_and_docstrings() -> None:
    assert Client.get.__doc__ == blocking.Client.get.__doc__
    with toy_server_thread() as server, blocking.connect(server.url) as client:
        assert client.get.__name__ == "get"


@pytest.mark.parametrize("command", [Multi(), Exec(), Discard()])
def test_transaction_control_cannot_be_sent_by_hand(command: Multi | Exec | Discard) -> None:
    with pytest.raises(InvalidCallError, match="transaction"):
        Call(command, lambda _reply: None)


def test_a_login_cannot_be_sent_by_hand_past_the_client_that_has_to_know_of_it() -> None:
    with pytest.raises(InvalidCallError, match="auth") as caught:
        Call(Auth("eve", "pw"), lambda _reply: None)
    assert caught.value.code == "TRN-004"


_SECONDS, _MILLISECONDS = (
    Expiration(unit, 5) for unit in (TimeUnit.SECONDS, TimeUnit.MILLISECONDS)
)
_NX, _XX = SetCondition.NX, SetCondition.XX


class _SetFields(TypedDict, total=False):
    expiration: Expiration
    keep_ttl: bool
    return_previous: bool
    if_version: int


def _set(condition: SetCondition = SetCondition.NONE, **fields: Unpack[_SetFields]) -> Set:
    return Set(b"k", b"v", condition, **fields)


# Every option of every method, alone, and the command that leaves.
_OPTIONS: list[tuple[Callable[..., Call[object]], tuple[object, ...], str, object, Command]] = [
    (Client.ping, (), "message", "hi", Ping(b"hi")),
    (Client.getex, ("k",), "ex", 5, GetEx(b"k", _SECONDS)),
    (Client.getex, ("k",), "px", 5, GetEx(b"k", _MILLISECONDS)),
    (Client.getex, ("k",), "persist", True, GetEx(b"k", persist=True)),
    (Client.set, ("k", "v"), "ex", 5, _set(expiration=_SECONDS)),
    (Client.set, ("k", "v"), "px", 5, _set(expiration=_MILLISECONDS)),
    (Client.set, ("k", "v"), "keep_ttl", True, _set(keep_ttl=True)),
    (Client.set_if_absent, ("k", "v"), "ex", 5, _set(_NX, expiration=_SECONDS)),
    (Client.set_if_absent, ("k", "v"), "px", 5, _set(_NX, expiration=_MILLISECONDS)),
    (Client.set_if_present, ("k", "v"), "ex", 5, _set(_XX, expiration=_SECONDS)),
    (Client.set_if_present, ("k", "v"), "px", 5, _set(_XX, expiration=_MILLISECONDS)),
    (Client.set_if_present, ("k", "v"), "keep_ttl", True, _set(_XX, keep_ttl=True)),
    (Client.set_if_version, ("k", "v", 3), "ex", 5, _set(expiration=_SECONDS, if_version=3)),
    (Client.set_if_version, ("k", "v", 3), "px", 5, _set(expiration=_MILLISECONDS, if_version=3)),
    (Client.set_if_version, ("k", "v", 3), "keep_ttl", True, _set(keep_ttl=True, if_version=3)),
    (Client.set_and_get, ("k", "v"), "condition", _XX, _set(_XX, return_previous=True)),
    (Client.set_and_get, ("k", "v"), "if_version", 3, _set(if_version=3, return_previous=True)),
    (Client.set_and_get, ("k", "v"), "ex", 5, _set(expiration=_SECONDS, return_previous=True)),
    (Client.set_and_get, ("k", "v"), "px", 5, _set(expiration=_MILLISECONDS, return_previous=True)),
    (Client.set_and_get, ("k", "v"), "keep_ttl", True, _set(keep_ttl=True, return_previous=True)),
    (Client.scan_page, (), "cursor", 5, Scan(5, None, None)),
    (Client.scan_page, (), "pattern", "a*", Scan(0, "a*", None)),
    (Client.scan_page, (), "count", 5, Scan(0, None, 5)),
    (Client.grant_permission, ("p", "r"), "pattern", "a*", GrantPermission("p", "a*", "r")),
    (Client.revoke_permission, ("p", "r"), "pattern", "a*", RevokePermission("p", "a*", "r")),
]


@pytest.mark.parametrize(("method", "arguments", "option", "value", "expected"), _OPTIONS)
def test_an_option_becomes_part_of_the_request(
    method: Callable[..., Call[object]],
    arguments: tuple[object, ...],
    option: str,
    value: object,
    expected: Command,
) -> None:
    assert method(*arguments, **{option: value}).command == expected
    assert method(*arguments).command != expected


def test_no_option_of_a_method_is_forgotten() -> None:
    options = {
        (name, parameter.name)
        for name in {*vars(DataCommands), *vars(AdminCommands)}
        if isinstance(getattr(Client, name), command)
        for parameter in inspect.signature(getattr(Client, name)).parameters.values()
        if parameter.default is not parameter.empty
    }
    assert options == {(method.__name__, option) for method, _, option, _, _ in _OPTIONS}


def test_options_that_exclude_each_other_are_refused_before_sending() -> None:
    with pytest.raises(InvalidCallError, match="EX or PX"):
        Client.set("k", "v", ex=1, px=1)
    with pytest.raises(InvalidCallError, match="KEEPTTL"):
        Client.set("k", "v", ex=1, keep_ttl=True)
    with pytest.raises(InvalidCallError, match="PERSIST"):
        Client.getex("k", ex=1, persist=True)
    with pytest.raises(InvalidCallError, match="IF VERSION"):
        Client.set_and_get("k", "v", SetCondition.NX, if_version=1)


def test_numbers_out_of_range_are_refused_before_sending() -> None:
    builders: list[Callable[[], object]] = [
        lambda: Client.expire("k", -1),
        lambda: Client.expire("k", 2**64),
        lambda: Client.set("k", "v", ex=-1),
        lambda: Client.set("k", "v", px=2**64),
        lambda: Client.set_if_version("k", "v", -1),
        lambda: Client.scan_page(-1),
        lambda: Client.scan_page(0, count=65_536),
    ]
    for build in builders:
        with pytest.raises(InvalidCallError, match="invalid integer"):
            build()
    assert Client.expire("k", 2**64 - 1).command == Expire(b"k", 2**64 - 1)
    assert Client.scan_page(0, count=65_535).command == Scan(0, None, 65_535)


def test_keys_that_are_no_text_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="expected str or bytes, got int"):
        Client.get(5)  # type: ignore[arg-type]


async def test_the_asyncio_client_gives_typed_results() -> None:
    async with ToyServer() as server, await vaylix_client.connect(server.url) as client:
        await _data_commands(client)
        await client.clear()
        async with vaylix_client.Pool(server.url) as pool:
            await _data_commands(pool)


async def _data_commands(client: AsyncCommands) -> None:
    assert assert_type(await client.ping(), str) == "PONG"
    assert await client.ping("hé") == "hé"
    assert_type(await client.set("a", "1", ex=100), None)
    assert assert_type(await client.get("a"), bytes | None) == b"1"
    assert await client.get(b"nope") is None
    assert assert_type(await client.ttl("a"), int | Missing | None) == 100
    assert await client.ttl("nope") is MISSING
    assert assert_type(await client.persist("a"), bool)
    assert await client.ttl("a") is None
    assert assert_type(await client.expire("a", 5), bool)
    assert await client.getex("a", persist=True) == b"1"
    assert await client.set_if_absent("a", "2") is False
    assert await client.set_if_present("a", "2") is True
    assert await client.set_if_version("a", "3", 9) is False
    assert assert_type(await client.set_and_get("a", b"\x00\xff"), bytes | None) == b"2"
    assert await client.setnx("b", "x") is True
    assert assert_type(await client.mget("a", "zz"), list[bytes | None]) == [b"\x00\xff", None]
    await client.mset({"c": "3", "d": b"4"})
    await client.set(b"e", b"5")
    assert assert_type(await client.incr("c"), int) == 4
    assert await client.decr("d") == 3
    assert await client.rename("c", "f") is True
    assert await client.renamenx("f", "a") is False
    assert await client.exists("f") is True
    assert assert_type(await client.scan_page(count=2), Page) == Page(2, ["a", "b"])
    assert [key async for key in client.scan("?", count=2)] == ["a", "b", "d", "e", "f"]
    assert await client.dbsize() == await client.count() == 5
    assert assert_type(await client.list_all(), dict[str, bytes])["a"] == b"\x00\xff"
    assert await client.getdel("a") == b"\x00\xff"
    assert await client.delete("b", "b", "zz") == 1


async def test_entries_of_administration_are_dictionaries_of_text() -> None:
    async with ToyServer() as server, await vaylix_client.connect(server.url) as client:
        info = Client.info()
        server.replies[type(info.command)] = Entries(
            ((b"server.version", b"0.10.0"), (b"x", b"\xff"))
        )
        assert_type(await client.info(), dict[str, str])
        assert await client.info() == {"server.version": "0.10.0", "x": "\\xff"}


def test_the_blocking_client_gives_typed_results() -> None:
    with toy_server_thread() as server, blocking.connect(server.url) as client:
        assert_type(client.set("a", "1", ex=100), None)
        assert assert_type(client.get("a"), bytes | None) == b"1"
        assert assert_type(client.ttl("a"), int | Missing | None) == 100
        assert assert_type(client.incr("a"), int) == 2
        assert assert_type(client.mget("a", "b"), list[bytes | None]) == [b"2", None]
        assert assert_type(client.list_all(), dict[str, bytes]) == {"a": b"2"}
        assert list(client.scan(count=1)) == ["a"]


def _batches_give_pending_results(tx: Transaction) -> None:
    """Checked by mypy, never called."""
    assert_type(tx.get("k"), Pending[bytes | None])
    assert_type(tx.incr("k").result(), int)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Client.get("a\ud800"),
        lambda: Client.set("a", "\udfff"),
        lambda: Client.mset({"\ud800": b"v"}),
        lambda: Client.mget("a", "\ud800"),
        lambda: Client.ping("\ud800"),
    ],
    ids=["key", "value", "key of a pair", "one of many keys", "message"],
)
def test_text_that_has_no_encoding_is_an_invalid_call(build: Callable[[], Call[object]]) -> None:
    with pytest.raises(InvalidCallError, match=r"invalid utf-8 in payload \(not sent\)") as caught:
        build()
    assert caught.value.code == "TRN-012"
