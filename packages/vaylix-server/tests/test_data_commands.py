"""Data commands over the wire: every row of commands spec 6.2 to 6.6, by what a client can see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import ErrorReply, Integer, Ok, Value
from vaylix_server.settings import Settings
from vaylix_server.testing import WireClient, serve_in_memory

SETTINGS = Settings(disable_auth=True, storage_backend="memory")
NOW_MS = 1_700_000_000_000
FOREVER = vtp.Expiration(vtp.TimeUnit.SECONDS, 2**64 - 1)
MISSING, YES, NO = vtp.NotFound(), vtp.Bool(True), vtp.Bool(False)
K, OTHER, NEW = b"k", b"other", b"new"
NX, XX = vtp.SetCondition.NX, vtp.SetCondition.XX

# Value, what TTL answers, and version of a key; None is a key that is not there.
State = tuple[bytes, int, int] | None
Row = tuple[vtp.Command, vtp.Reply, Mapping[bytes, State]]


def ex(seconds: int) -> vtp.Expiration:
    return vtp.Expiration(vtp.TimeUnit.SECONDS, seconds)


def px(milliseconds: int) -> vtp.Expiration:
    return vtp.Expiration(vtp.TimeUnit.MILLISECONDS, milliseconds)


def refused(code: vtp.ErrorCode, **values: str) -> vtp.Reply:
    return vtp.error_reply(code, **values)


# Beside k there is always another key, with 50 seconds to live.
SET_OTHER = vtp.Set(OTHER, b"o", expiration=ex(50))
GONE: dict[bytes, State] = {K: None, OTHER: (b"o", 50, 1)}
LIVE: dict[bytes, State] = {K: (b"v", 100, 1), OTHER: (b"o", 50, 1)}


def stored(ttl: int = -1, *, version: int = 1, value: bytes = b"w") -> dict[bytes, State]:
    return {K: (value, ttl, version)}


ON_NO_KEY: list[Row] = [
    (vtp.Get(K), MISSING, GONE),
    (vtp.GetDel(K), MISSING, GONE),
    (vtp.GetEx(K), MISSING, GONE),
    (vtp.GetEx(K, ex(9)), MISSING, GONE),
    (vtp.GetEx(K, px(9)), MISSING, GONE),
    (vtp.GetEx(K, persist=True), MISSING, GONE),
    (vtp.SetNx(K, b"w"), YES, stored()),
    (vtp.MGet((K, OTHER, K)), vtp.Strings((None, b"o", None)), GONE),
    (vtp.MGet(()), vtp.Strings(()), GONE),
    (vtp.MSet(((K, b"w"), (OTHER, b"x"))), Ok(), stored() | {OTHER: (b"x", -1, 2)}),
    (vtp.Del((K, K)), vtp.CountReply(0), GONE),
    (vtp.Exists(K), NO, GONE),
    (vtp.Incr(K), Integer(1), stored(value=b"1")),
    (vtp.Decr(K), Integer(-1), stored(value=b"-1")),
    (vtp.Expire(K, 9), NO, GONE),
    (vtp.Ttl(K), Integer(-2), GONE),
    (vtp.Persist(K), NO, GONE),
    (vtp.Rename(K, OTHER), NO, GONE),
    (vtp.RenameNx(K, NEW), NO, GONE | {NEW: None}),
    (vtp.Rename(OTHER, K), YES, {K: (b"o", 50, 1), OTHER: None}),
    (vtp.RenameNx(OTHER, K), YES, {K: (b"o", 50, 1), OTHER: None}),
    (vtp.Clear(), Ok(), {K: None, OTHER: None}),
    (vtp.DbSize(), vtp.CountReply(1), GONE),
    (vtp.Count(), vtp.CountReply(1), GONE),
    (vtp.List(), vtp.Entries(((OTHER, b"o"),)), GONE),
    (vtp.Scan(0), vtp.ScanPage(0, (OTHER,)), GONE),
    (vtp.Set(K, b"w"), Ok(), stored()),
    (vtp.Set(K, b"w", NX), YES, stored()),
    (vtp.Set(K, b"w", XX), NO, GONE),
    (vtp.Set(K, b"w", if_version=0), NO, GONE),
    (vtp.Set(K, b"w", if_version=1), NO, GONE),
    (vtp.Set(K, b"w", return_previous=True), MISSING, stored()),
    (vtp.Set(K, b"w", NX, return_previous=True), MISSING, stored()),
    (vtp.Set(K, b"w", XX, return_previous=True), MISSING, GONE),
    (vtp.Set(K, b"w", expiration=ex(9)), Ok(), stored(9)),
    (vtp.Set(K, b"w", expiration=px(9001)), Ok(), stored(10)),
    (vtp.Set(K, b"w", expiration=FOREVER), Ok(), stored(-(-(2**64 - 1 - NOW_MS) // 1000))),
    (vtp.Set(K, b"w", expiration=ex(0)), Ok(), GONE),
    (vtp.Set(K, b"w", NX, expiration=px(0)), YES, GONE),
    (vtp.Set(K, b"w", keep_ttl=True), Ok(), stored()),
]
ON_LIVE_KEY: list[Row] = [
    (vtp.Get(K), Value(b"v"), LIVE),
    (vtp.GetDel(K), Value(b"v"), GONE),
    (vtp.GetEx(K), Value(b"v"), LIVE),
    (vtp.GetEx(K, ex(9)), Value(b"v"), stored(9, value=b"v")),
    (vtp.GetEx(K, px(9001)), Value(b"v"), stored(10, value=b"v")),
    (vtp.GetEx(K, ex(0)), Value(b"v"), GONE),
    (vtp.GetEx(K, px(0)), Value(b"v"), GONE),
    (vtp.GetEx(K, persist=True), Value(b"v"), stored(value=b"v")),
    (vtp.SetNx(K, b"w"), NO, LIVE),
    (vtp.MGet((OTHER, K, NEW, K)), vtp.Strings((b"o", b"v", None, b"v")), LIVE),
    (vtp.MSet(((K, b"x"), (NEW, b"n"), (K, b"w"))), Ok(), stored(version=3) | {NEW: (b"n", -1, 1)}),
    (vtp.Del((K, NEW, K, OTHER)), vtp.CountReply(2), {K: None, OTHER: None}),
    (vtp.Exists(K), YES, LIVE),
    (vtp.Expire(K, 9), YES, stored(9, value=b"v")),
    (vtp.Expire(K, 0), YES, GONE),
    (vtp.Ttl(K), Integer(100), LIVE),
    (vtp.Persist(K), YES, stored(value=b"v")),
    (vtp.Rename(OTHER, K), YES, {K: (b"o", 50, 2), OTHER: None}),
    (vtp.Rename(K, NEW), YES, {K: None, NEW: (b"v", 100, 1)}),
    (vtp.Rename(K, K), YES, LIVE),
    (vtp.RenameNx(OTHER, K), NO, LIVE),
    (vtp.RenameNx(K, K), NO, LIVE),
    (vtp.RenameNx(K, NEW), YES, {K: None, NEW: (b"v", 100, 1)}),
    (vtp.Clear(), Ok(), {K: None, OTHER: None}),
    (vtp.DbSize(), vtp.CountReply(2), LIVE),
    (vtp.Count(), vtp.CountReply(2), LIVE),
    (vtp.List(), vtp.Entries(((K, b"v"), (OTHER, b"o"))), LIVE),
    (vtp.Set(K, b"w"), Ok(), stored(version=2)),
    (vtp.Set(K, b"w", NX), NO, LIVE),
    (vtp.Set(K, b"w", XX), YES, stored(version=2)),
    (vtp.Set(K, b"w", if_version=1), YES, stored(version=2)),
    (vtp.Set(K, b"w", if_version=2), NO, LIVE),
    (vtp.Set(K, b"w", return_previous=True), Value(b"v"), stored(version=2)),
    (vtp.Set(K, b"w", XX, return_previous=True), Value(b"v"), stored(version=2)),
    (vtp.Set(K, b"w", NX, return_previous=True), Value(b"v"), LIVE),
    (vtp.Set(K, b"w", if_version=2, return_previous=True), Value(b"v"), LIVE),
    (vtp.Set(K, b"w", expiration=ex(9)), Ok(), stored(9, version=2)),
    (vtp.Set(K, b"w", expiration=px(9001)), Ok(), stored(10, version=2)),
    (vtp.Set(K, b"w", expiration=ex(0)), Ok(), GONE),
    (vtp.Set(K, b"w", XX, expiration=px(0)), YES, GONE),
    (vtp.Set(K, b"w", keep_ttl=True), Ok(), stored(100, version=2)),
]
ON_KEY_WITHOUT_TTL: list[Row] = [
    (vtp.GetEx(K, persist=True), Value(b"v"), stored(value=b"v")),
    (vtp.GetEx(K, ex(9)), Value(b"v"), stored(9, value=b"v")),
    (vtp.Expire(K, 9), YES, stored(9, value=b"v")),
    (vtp.Ttl(K), Integer(-1), stored(value=b"v")),
    (vtp.Persist(K), NO, stored(value=b"v")),
    (vtp.Rename(K, OTHER), YES, {K: None, OTHER: (b"v", -1, 2)}),
    (vtp.Set(K, b"w", keep_ttl=True), Ok(), stored(version=2)),
]
MOST, LEAST = b"9223372036854775807", b"-9223372036854775808"


def not_a_number(value: bytes, shown: str) -> tuple[bytes, vtp.Command, vtp.Reply, State]:
    refusal = refused(vtp.ErrorCode.ENG_015, key="k", value=shown)
    return value, vtp.Incr(K), refusal, (value, 100, 1)


OVERFLOW = refused(vtp.ErrorCode.ENG_016, key="k")
ON_NUMBERS: list[tuple[bytes, vtp.Command, vtp.Reply, State]] = [
    (b"+007", vtp.Incr(K), Integer(8), (b"8", -1, 2)),
    (b"-0", vtp.Decr(K), Integer(-1), (b"-1", -1, 2)),
    (MOST, vtp.Decr(K), Integer(2**63 - 2), (b"%d" % (2**63 - 2), -1, 2)),
    (MOST, vtp.Incr(K), OVERFLOW, (MOST, 100, 1)),
    (LEAST, vtp.Decr(K), OVERFLOW, (LEAST, 100, 1)),
    not_a_number(b"9223372036854775808", "9223372036854775808"),
    not_a_number(b"", ""),
    not_a_number(b" 1", " 1"),
    not_a_number("\N{ARABIC-INDIC DIGIT ONE}".encode(), "\N{ARABIC-INDIC DIGIT ONE}"),
    not_a_number(b"\xff7", "\N{REPLACEMENT CHARACTER}7"),
]


def cases() -> list[tuple[list[vtp.Command], int, Row]]:
    """Return what is there before, the milliseconds that pass then, and the row."""
    dead, live = vtp.Set(K, b"v", expiration=px(1000)), vtp.Set(K, b"v", expiration=ex(100))
    found: list[tuple[list[vtp.Command], int, Row]] = [([], 0, row) for row in ON_NO_KEY]
    found += [([dead], 1000, row) for row in ON_NO_KEY]
    found += [([live], 0, row) for row in ON_LIVE_KEY]
    found += [([vtp.Set(K, b"v")], 0, row) for row in ON_KEY_WITHOUT_TTL]
    for value, command, reply, state in ON_NUMBERS:
        before: list[vtp.Command] = [vtp.Set(K, value, expiration=ex(100))]
        found.append((before, 0, (command, reply, {K: state})))
    return found


def name_of(part: object) -> str | None:
    return f"{len(part)} before" if isinstance(part, list) else None


async def assert_is(client: WireClient, key: bytes, state: State) -> None:
    if state is None:
        assert await client.ask(vtp.Get(key)) == MISSING
        assert await client.ask(vtp.Ttl(key)) == Integer(-2)
        # Its version is forgotten.
        assert await client.ask(vtp.Set(key, b"again")) == Ok()
        version = 1
    else:
        value, ttl, version = state
        assert await client.ask(vtp.Get(key)) == Value(value)
        assert await client.ask(vtp.Ttl(key)) == Integer(ttl)
    assert await client.ask(vtp.Set(key, b"x", if_version=version)) == YES


@pytest.mark.parametrize(
    ("before", "pass_ms", "row"),
    [pytest.param(*case, id=f"{case[0]}-{case[2][0]}") for case in cases()],
)
async def test_a_data_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: list[vtp.Command],
    pass_ms: int,
    row: Row,
) -> None:
    command, reply, states = row
    now_ms = NOW_MS - pass_ms
    for clock in ("_wall_ms", "_boot_ms"):
        monkeypatch.setattr(f"vaylix_server.app.{clock}", lambda: now_ms)
    async with serve_in_memory(tmp_path, SETTINGS) as server:
        client = await server.greet()
        assert await client.ask_all(before) == [Ok()] * len(before)
        now_ms = NOW_MS
        assert await client.ask(SET_OTHER) == Ok()
        assert await client.ask(command) == reply
        for key, state in states.items():
            await assert_is(client, key, state)


MANY = tuple(b"a%02d" % number for number in range(12))


@pytest.mark.parametrize(
    ("pattern", "count", "found", "sizes"),
    [
        (None, None, MANY, [10, 2]),
        (None, 0, MANY, [1] * 12),
        (None, 5, MANY, [5, 5, 2]),
        (None, 12, MANY, [12]),
        ("a1*", None, MANY[10:], [2]),
        ("*0?", 4, MANY[:10], [4, 4, 2]),
        ("?0[5]", None, (), [0]),
        ("", None, (), [0]),
    ],
)
async def test_a_scan_from_page_to_page(
    tmp_path: Path,
    pattern: str | None,
    count: int | None,
    found: tuple[bytes, ...],
    sizes: list[int],
) -> None:
    async with serve_in_memory(tmp_path, SETTINGS) as server:
        client = await server.greet()
        assert await client.ask(vtp.MSet(tuple((key, b"v") for key in MANY))) == Ok()
        cursor = 0
        pages: list[tuple[bytes, ...]] = []
        while not pages or cursor:
            page = await client.ask(vtp.Scan(cursor, pattern, count))
            assert isinstance(page, vtp.ScanPage)
            cursor = page.cursor
            pages.append(page.keys)
        assert [len(page) for page in pages] == sizes
        assert sorted(key for page in pages for key in page) == list(found)


async def test_what_only_reads_is_not_logged(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, SETTINGS) as server:
        client = await server.greet()
        assert await client.ask(vtp.Set(K, b"v")) == Ok()
        write_path = server.server.services.write_path
        reads = (vtp.Get(K), vtp.GetEx(K), vtp.Exists(K), vtp.Ttl(K), vtp.MGet((K,)), vtp.Scan(0))
        for command in (*reads, vtp.DbSize(), vtp.Count(), vtp.List(), vtp.Ping()):
            before = write_path.commit_index
            assert not isinstance(await client.ask(command), ErrorReply)
            assert write_path.commit_index == before, command
        for command in (vtp.GetEx(K, ex(9)), vtp.GetEx(K, persist=True)):
            before = write_path.commit_index
            assert await client.ask(command) == Value(b"v")
            assert write_path.commit_index == before + 1, command
