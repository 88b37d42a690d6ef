"""The keyspace, row by row of VTP2 commands sections 6.2 to 6.5."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from vaylix_storage import Answer, CommandFailure, ExecResult, FailureCode, Keyspace, Result
from vaylix_storage._entry import Entry
from vaylix_storage.commands import (
    U64_MAX,
    Clear,
    Command,
    Count,
    DbSize,
    Decr,
    Del,
    Exec,
    Exists,
    Expire,
    Get,
    GetDel,
    GetEx,
    Incr,
    List,
    MGet,
    MSet,
    Persist,
    Ping,
    Rename,
    RenameNx,
    Scan,
    Set,
    SetCondition,
    SetNx,
    SetOptions,
    Ttl,
    milliseconds,
)

NOW = 1_700_000_000_000


def run(keyspace: Keyspace, *commands: Command, now_ms: int = NOW) -> list[Result]:
    return keyspace.apply(commands, now_ms, want_results=True)


def one(keyspace: Keyspace, command: Command, now_ms: int = NOW) -> Result:
    (result,) = keyspace.apply([command], now_ms, want_results=True)
    return result


def set_with(
    key: bytes,
    value: bytes,
    condition: SetCondition = SetCondition.NONE,
    *,
    ttl_ms: int | None = None,
    keep_ttl: bool = False,
    return_previous: bool = False,
    if_version: int | None = None,
) -> Set:
    return Set(key, value, SetOptions(condition, ttl_ms, keep_ttl, return_previous, if_version))


@pytest.fixture
def keyspace() -> Keyspace:
    return Keyspace()


@pytest.fixture
def live() -> Keyspace:
    """`k` = v at version 3 that expires at NOW + 5000, `p` = w at version 1 without expiry."""
    keyspace = Keyspace()
    run(keyspace, Set(b"k", b"1"), Set(b"k", b"2"), set_with(b"k", b"v", ttl_ms=5000))
    run(keyspace, Set(b"p", b"w"))
    return keyspace


# Section 6.2: versions


@pytest.mark.parametrize(
    "write", [Set(b"n", b"v"), SetNx(b"n", b"v"), MSet(((b"n", b"v"),)), Incr(b"n"), Decr(b"n")]
)
def test_writing_a_missing_key_gives_version_1(keyspace: Keyspace, write: Command) -> None:
    one(keyspace, write)
    assert keyspace.version(b"n", NOW) == 1


@pytest.mark.parametrize(
    "write", [Set(b"k", b"7"), SetNx(b"k", b"7"), MSet(((b"k", b"7"),)), Incr(b"k"), Decr(b"k")]
)
def test_writing_a_dead_key_gives_version_1(live: Keyspace, write: Command) -> None:
    later = NOW + 5000
    one(live, write, later)
    assert live.version(b"k", later) == 1
    assert live.ttl(b"k", later) == -1


@pytest.mark.parametrize("write", [Set(b"n", b"5"), MSet(((b"n", b"6"),)), Incr(b"n"), Decr(b"n")])
def test_overwriting_adds_1_also_with_the_same_value(keyspace: Keyspace, write: Command) -> None:
    run(keyspace, Set(b"n", b"5"), write)
    assert keyspace.version(b"n", NOW) == 2


def test_mset_naming_a_key_twice_adds_1_each_time(keyspace: Keyspace) -> None:
    one(keyspace, MSet(((b"a", b"1"), (b"b", b"2"), (b"a", b"3"))))
    assert (keyspace.get(b"a", NOW), keyspace.version(b"a", NOW)) == (b"3", 2)


@pytest.mark.parametrize(
    "command",
    [
        set_with(b"k", b"x", SetCondition.NX),
        set_with(b"k", b"x", if_version=2),
        SetNx(b"k", b"x"),
        Incr(b"k"),
        Decr(b"k"),
        Expire(b"k", 1000),
        Persist(b"k"),
        GetEx(b"k"),
        GetEx(b"k", 1000),
        GetEx(b"k", persist=True),
        Ttl(b"k"),
        Get(b"k"),
    ],
)
def test_what_writes_no_value_leaves_the_version(live: Keyspace, command: Command) -> None:
    one(live, command)
    assert (live.get(b"k", NOW), live.version(b"k", NOW)) == (b"v", 3)


@pytest.mark.parametrize(
    "command", [Del((b"k",)), GetDel(b"k"), Clear(), Expire(b"k", 0), GetEx(b"k", 0)]
)
def test_a_removed_key_begins_again_at_version_1(live: Keyspace, command: Command) -> None:
    one(live, command)
    assert live.version(b"k", NOW) == 0
    one(live, Set(b"k", b"new"))
    assert live.version(b"k", NOW) == 1


def test_rename_takes_the_version_from_the_destination(live: Keyspace) -> None:
    run(live, Set(b"p", b"w2"), Rename(b"k", b"p"))
    assert (live.get(b"p", NOW), live.version(b"p", NOW)) == (b"v", 3)
    assert not live.exists(b"k", NOW)


def test_rename_to_a_missing_key_gives_version_1(live: Keyspace) -> None:
    assert one(live, Rename(b"k", b"new")) is True
    assert live.version(b"new", NOW) == 1


def test_rename_to_itself_gives_version_1_and_keeps_the_ttl(live: Keyspace) -> None:
    assert one(live, Rename(b"k", b"k")) is True
    assert (live.get(b"k", NOW), live.version(b"k", NOW), live.ttl(b"k", NOW)) == (b"v", 1, 5)


def test_set_with_ttl_0_forgets_the_version(live: Keyspace) -> None:
    assert one(live, set_with(b"k", b"x", ttl_ms=0)) is Answer.OK
    assert live.get(b"k", NOW) is None
    assert live.key_count(NOW) == 1


def test_versions_saturate() -> None:
    keyspace = Keyspace()
    keyspace.table.put(b"k", Entry(b"1", U64_MAX, 0))
    for write in (Set(b"k", b"2"), Incr(b"k"), set_with(b"k", b"3", keep_ttl=True)):
        one(keyspace, write)
        assert keyspace.version(b"k", NOW) == U64_MAX


# Section 6.3: commands


def test_get(live: Keyspace) -> None:
    assert one(live, Get(b"k")) == b"v"
    assert one(live, Get(b"k"), NOW + 4999) == b"v"
    assert one(live, Get(b"k"), NOW + 5000) is Answer.NOT_FOUND
    assert one(live, Get(b"none")) is Answer.NOT_FOUND


def test_getdel(live: Keyspace) -> None:
    assert one(live, GetDel(b"none")) is Answer.NOT_FOUND
    assert one(live, GetDel(b"k")) == b"v"
    assert one(live, GetDel(b"k")) is Answer.NOT_FOUND


def test_getex_without_options_changes_nothing(live: Keyspace) -> None:
    assert one(live, GetEx(b"none")) is Answer.NOT_FOUND
    assert one(live, GetEx(b"k")) == b"v"
    assert live.ttl(b"k", NOW) == 5


def test_getex_with_a_ttl_replaces_it(live: Keyspace) -> None:
    assert one(live, GetEx(b"none", 1000)) is Answer.NOT_FOUND
    assert not live.exists(b"none", NOW)
    assert one(live, GetEx(b"k", 9000)) == b"v"
    assert live.ttl(b"k", NOW) == 9
    assert one(live, GetEx(b"p", 9000)) == b"w"
    assert live.ttl(b"p", NOW) == 9


def test_getex_with_ttl_0_removes_the_key(live: Keyspace) -> None:
    assert one(live, GetEx(b"k", 0)) == b"v"
    assert one(live, Get(b"k")) is Answer.NOT_FOUND


def test_getex_persist(live: Keyspace) -> None:
    assert one(live, GetEx(b"none", persist=True)) is Answer.NOT_FOUND
    assert one(live, GetEx(b"k", persist=True)) == b"v"
    assert live.ttl(b"k", NOW) == -1
    assert one(live, GetEx(b"k", persist=True)) == b"v"


def test_setnx(live: Keyspace) -> None:
    assert one(live, SetNx(b"k", b"x")) is False
    assert (live.get(b"k", NOW), live.ttl(b"k", NOW)) == (b"v", 5)
    assert one(live, SetNx(b"new", b"x")) is True
    assert live.ttl(b"new", NOW) == -1


def test_mget_keeps_order_and_duplicates(live: Keyspace) -> None:
    assert one(live, MGet((b"p", b"none", b"k", b"p"))) == (b"w", None, b"v", b"w")
    assert one(live, MGet((b"k",)), NOW + 5000) == (None,)
    assert one(live, MGet(())) == ()


def test_mset_clears_the_ttl(live: Keyspace) -> None:
    assert one(live, MSet(((b"k", b"1"), (b"new", b"2")))) is Answer.OK
    assert live.mget([b"k", b"new"], NOW) == (b"1", b"2")
    assert live.ttl(b"k", NOW) == -1


def test_del_counts_what_was_there_once(live: Keyspace) -> None:
    assert one(live, Del((b"k", b"none", b"k", b"p"))) == 2
    assert one(live, Del((b"k",))) == 0
    assert one(live, Del(())) == 0


def test_del_of_a_dead_key_counts_nothing(live: Keyspace) -> None:
    assert one(live, Del((b"k",)), NOW + 5000) == 0


def test_exists(live: Keyspace) -> None:
    assert [one(live, Exists(key)) for key in (b"k", b"none")] == [True, False]
    assert one(live, Exists(b"k"), NOW + 5000) is False


def test_incr_and_decr_start_at_0(keyspace: Keyspace) -> None:
    assert run(keyspace, Incr(b"a"), Incr(b"a"), Decr(b"b")) == [1, 2, -1]
    assert keyspace.mget([b"a", b"b"], NOW) == (b"2", b"-1")


def test_incr_clears_the_ttl(keyspace: Keyspace) -> None:
    run(keyspace, set_with(b"n", b"5", ttl_ms=1000), Incr(b"n"))
    assert (keyspace.get(b"n", NOW), keyspace.ttl(b"n", NOW)) == (b"6", -1)


def test_incr_of_a_dead_counter_starts_at_0_also_on_replay() -> None:
    """The published server answered 1 and restarted with 42, or not at all (weakness 3)."""
    for value in (b"41", b"abc"):
        history: list[tuple[Command, int]] = [
            (set_with(b"n", value, ttl_ms=30), NOW),
            (Incr(b"n"), NOW + 30),
        ]
        for state in (Keyspace(), Keyspace()):
            results = [one(state, command, now_ms) for command, now_ms in history]
            assert results == [Answer.OK, 1]
            assert state.get(b"n", NOW + 30) == b"1"


def test_planted_replay_that_knows_no_time_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug, weakness 3: for the second state of each test no time passes."""
    real_apply = Keyspace.apply
    states: list[Keyspace] = []

    def apply(
        state: Keyspace, commands: Sequence[Command], now_ms: int, *, want_results: bool
    ) -> list[Result]:
        if state not in states:
            states.append(state)
        is_replay = states.index(state) % 2 == 1
        return real_apply(state, commands, NOW if is_replay else now_ms, want_results=want_results)

    monkeypatch.setattr(Keyspace, "apply", apply)
    with pytest.raises(AssertionError, match="42"):
        test_incr_of_a_dead_counter_starts_at_0_also_on_replay()


def test_expire(live: Keyspace) -> None:
    assert one(live, Expire(b"none", 1000)) is False
    assert one(live, Expire(b"p", milliseconds(2))) is True
    assert live.ttl(b"p", NOW) == 2
    assert one(live, Expire(b"k", milliseconds(60))) is True
    assert live.ttl(b"k", NOW) == 60
    assert one(live, Expire(b"k", 0)) is True
    assert live.get(b"k", NOW) is None


def test_times_to_live_saturate(live: Keyspace) -> None:
    assert milliseconds(U64_MAX) == U64_MAX
    one(live, Expire(b"k", U64_MAX))
    assert live.ttl(b"k", NOW) == -((NOW - U64_MAX) // 1000)
    assert live.exists(b"k", U64_MAX - 1)
    assert not live.exists(b"k", U64_MAX)


def test_ttl_rounds_up(live: Keyspace) -> None:
    assert one(live, Ttl(b"none")) == -2
    assert one(live, Ttl(b"p")) == -1
    assert [one(live, Ttl(b"k"), NOW + ms) for ms in (0, 1, 999, 1000, 4999)] == [5, 5, 5, 4, 1]
    assert one(live, Ttl(b"k"), NOW + 5000) == -2


def test_persist(live: Keyspace) -> None:
    assert run(live, Persist(b"none"), Persist(b"p"), Persist(b"k"), Persist(b"k")) == [
        False,
        False,
        True,
        False,
    ]
    assert live.exists(b"k", NOW + 5000)


def test_rename_moves_the_ttl(live: Keyspace) -> None:
    assert one(live, Rename(b"none", b"k")) is False
    assert live.get(b"k", NOW) == b"v"
    assert one(live, Rename(b"k", b"p")) is True
    assert (live.get(b"p", NOW), live.ttl(b"p", NOW)) == (b"v", 5)


def test_rename_without_ttl_drops_that_of_the_destination(live: Keyspace) -> None:
    assert one(live, Rename(b"p", b"k")) is True
    assert (live.get(b"k", NOW), live.ttl(b"k", NOW)) == (b"w", -1)


def test_renamenx(live: Keyspace) -> None:
    assert one(live, RenameNx(b"p", b"k")) is False
    assert one(live, RenameNx(b"k", b"k")) is False
    assert one(live, RenameNx(b"none", b"k")) is False
    assert one(live, RenameNx(b"none", b"new")) is False
    assert one(live, RenameNx(b"k", b"new")) is True
    assert (live.get(b"new", NOW), live.ttl(b"new", NOW)) == (b"v", 5)
    assert one(live, RenameNx(b"p", b"k"), NOW + 5000) is True


def test_clear_is_always_ok(live: Keyspace) -> None:
    assert run(live, Clear(), Clear(), DbSize()) == [Answer.OK, Answer.OK, 0]
    assert live.list_all(NOW, 100) == []
    assert live.expire_step(NOW + 9999, 10) == 0


def test_dbsize_and_count_count_live_keys(live: Keyspace) -> None:
    assert run(live, DbSize(), Count()) == [2, 2]
    assert run(live, DbSize(), Count(), now_ms=NOW + 5000) == [1, 1]


def test_list_is_in_key_order(live: Keyspace) -> None:
    run(live, Set(b"", b"empty"), Set("ä".encode(), b"\xff\x00"))
    assert one(live, List()) == [
        (b"", b"empty"),
        (b"k", b"v"),
        (b"p", b"w"),
        ("ä".encode(), b"\xff\x00"),
    ]
    assert live.list_all(NOW + 5000, 1000) == [
        (b"", b"empty"),
        (b"p", b"w"),
        ("ä".encode(), b"\xff\x00"),
    ]


def test_a_list_is_refused_one_byte_before_it_fits(live: Keyspace) -> None:
    needed = 4 + 2 * (6 + 1 + 1)
    assert live.list_all(NOW, needed) == [(b"k", b"v"), (b"p", b"w")]
    assert live.list_all(NOW, needed - 1) == CommandFailure(FailureCode.LIST_TOO_LARGE)
    # Dead keys that still take memory do not count.
    assert live.list_all(NOW + 5000, 12) == [(b"p", b"w")]
    assert live.list_all(NOW + 5000, 11) == CommandFailure(FailureCode.LIST_TOO_LARGE)


def test_ping_gives_back_the_message(keyspace: Keyspace) -> None:
    assert one(keyspace, Ping(b"hello")) == b"hello"


# Section 6.4: SET

PASSES = {
    ("none", True): True,
    ("none", False): True,
    ("nx", True): False,
    ("nx", False): True,
    ("xx", True): True,
    ("xx", False): False,
    ("version 3", True): True,
    ("version 3", False): False,
    ("version 2", True): False,
    ("version 2", False): False,
    ("version 0", True): False,
    ("version 0", False): False,
}


@pytest.mark.parametrize(("name", "exists"), list(PASSES))
@pytest.mark.parametrize("return_previous", [False, True])
@pytest.mark.parametrize("ttl", ["none", "ttl", "zero", "keep"])
def test_set_with_every_combination(
    live: Keyspace, name: str, exists: bool, return_previous: bool, ttl: str
) -> None:
    key = b"k" if exists else b"missing"
    before = live.get(key, NOW)
    condition = {"nx": SetCondition.NX, "xx": SetCondition.XX}.get(name, SetCondition.NONE)
    if_version = int(name.split()[1]) if name.startswith("version") else None
    command = set_with(
        key,
        b"new",
        condition,
        ttl_ms={"ttl": 70_000, "zero": 0}.get(ttl),
        keep_ttl=ttl == "keep",
        return_previous=return_previous,
        if_version=if_version,
    )
    result = one(live, command)
    passes = PASSES[name, exists]
    if return_previous:
        assert result == (Answer.NOT_FOUND if before is None else before)
    else:
        assert result is (Answer.OK if name == "none" else passes)
    if not passes:
        expected = (before, 5 if exists else -2, 3 if exists else 0)
    elif ttl == "zero":
        expected = (None, -2, 0)
    else:
        kept = 5 if exists else -1
        expected = (b"new", {"none": -1, "ttl": 70, "keep": kept}[ttl], 4 if exists else 1)
    assert (live.get(key, NOW), live.ttl(key, NOW), live.version(key, NOW)) == expected


def test_keepttl_without_a_ttl_keeps_none(live: Keyspace) -> None:
    one(live, set_with(b"p", b"x", keep_ttl=True))
    assert live.ttl(b"p", NOW) == -1


def test_a_plain_set_clears_the_ttl(live: Keyspace) -> None:
    one(live, Set(b"k", b"x"))
    assert live.ttl(b"k", NOW) == -1
    assert live.exists(b"k", NOW + 5000)


def test_a_ttl_beats_keepttl(live: Keyspace) -> None:
    one(live, set_with(b"k", b"x", ttl_ms=9000, keep_ttl=True))
    assert live.ttl(b"k", NOW) == 9


# Section 6.5: INCR and DECR


@pytest.mark.parametrize(
    ("text", "sum_"),
    [
        (b"0", 1),
        (b"+007", 8),
        (b"-0", 1),
        (b"-1", 0),
        (b"0" * 5000 + b"41", 42),
        (b"9223372036854775806", 2**63 - 1),
        (b"-9223372036854775808", -(2**63) + 1),
    ],
)
def test_incr_reads_decimals_and_stores_canonical_ones(
    keyspace: Keyspace, text: bytes, sum_: int
) -> None:
    assert run(keyspace, Set(b"n", text), Incr(b"n")) == [Answer.OK, sum_]
    assert keyspace.get(b"n", NOW) == str(sum_).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"abc",
        b" 1",
        b"1 ",
        b"1\n",
        b"1_0",
        b"0x1",
        b"+",
        b"-",
        b"--1",
        "\u0661".encode(),
        b"1.0",
        b"9223372036854775808",
        b"-9223372036854775809",
        b"9" * 10_000,
        b"\xff",
    ],
)
@pytest.mark.parametrize("command", [Incr(b"n"), Decr(b"n")])
def test_what_is_no_integer_is_refused_and_left(
    keyspace: Keyspace, text: bytes, command: Command
) -> None:
    one(keyspace, set_with(b"n", text, ttl_ms=9000))
    result = one(keyspace, command)
    assert result == CommandFailure(FailureCode.NOT_AN_INTEGER, b"n", text[:256])
    assert (keyspace.get(b"n", NOW), keyspace.ttl(b"n", NOW)) == (text, 9)


def test_overflow_is_refused_and_left(keyspace: Keyspace) -> None:
    run(keyspace, Set(b"a", b"9223372036854775807"), Set(b"b", b"-9223372036854775808"))
    assert run(keyspace, Incr(b"a"), Decr(b"b")) == [
        CommandFailure(FailureCode.NUMERIC_OVERFLOW, b"a"),
        CommandFailure(FailureCode.NUMERIC_OVERFLOW, b"b"),
    ]
    assert keyspace.mget([b"a", b"b"], NOW) == (b"9223372036854775807", b"-9223372036854775808")


def test_failures_have_the_published_words() -> None:
    failure = CommandFailure(FailureCode.NOT_AN_INTEGER, b"n", b"a\xff")
    assert failure.message == "value for key 'n' is not a valid integer: a\ufffd"
    assert failure.code.value == "ENG-015"
    failure = CommandFailure(FailureCode.NUMERIC_OVERFLOW, b"n")
    assert failure.message == "numeric overflow for key 'n'"
    assert failure.code.value == "ENG-016"
    assert "SCAN" in CommandFailure(FailureCode.LIST_TOO_LARGE).message


# EXEC


def test_exec_sees_its_own_effects(keyspace: Keyspace) -> None:
    result = one(keyspace, Exec((Set(b"a", b"1"), Incr(b"a"), Get(b"a"), DbSize())))
    assert result == ExecResult((Answer.OK, 2, b"2", 1))
    assert one(keyspace, Exec(())) == ExecResult(())


def test_a_failing_exec_changes_nothing(live: Keyspace) -> None:
    before = live.list_all(NOW, 10**6)
    commands = (
        Set(b"p", b"changed"),
        set_with(b"new", b"x", ttl_ms=100),
        Del((b"k",)),
        Clear(),
        Set(b"k", b"after clear"),
        MSet(((b"k", b"1"), (b"k", b"2"))),
        Rename(b"k", b"elsewhere"),
        Clear(),
        Set(b"bad", b"text"),
        Incr(b"bad"),
        Set(b"never", b"reached"),
    )
    assert one(live, Exec(commands)) == CommandFailure(FailureCode.NOT_AN_INTEGER, b"bad", b"text")
    assert live.list_all(NOW, 10**6) == before
    assert (live.version(b"k", NOW), live.ttl(b"k", NOW)) == (3, 5)
    assert live.key_count(NOW) == 2
    assert live.key_count(NOW + 5000) == 1


def test_a_clear_within_an_exec_that_holds_is_kept(live: Keyspace) -> None:
    result = one(live, Exec((Clear(), Incr(b"n"), DbSize())))
    assert result == ExecResult((Answer.OK, 1, 1))
    assert live.key_count(NOW) == 1
    while live.expire_step(NOW, 100):
        pass
    assert live.list_all(NOW, 100) == [(b"n", b"1")]


def test_a_list_that_is_too_large_does_not_undo_an_exec() -> None:
    keyspace = Keyspace(list_bytes_max=20)
    result = one(keyspace, Exec((Set(b"a", b"x" * 30), List())))
    assert result == ExecResult((Answer.OK, CommandFailure(FailureCode.LIST_TOO_LARGE)))
    assert keyspace.exists(b"a", NOW)


def test_without_results_the_state_is_the_same() -> None:
    commands: list[Command] = [
        Set(b"a", b"1"),
        Exec((Incr(b"a"), List(), Get(b"a"), Scan(0), GetDel(b"b"))),
        Get(b"a"),
        Exec((Set(b"c", b"x"), Incr(b"c"))),
        set_with(b"d", b"1", ttl_ms=50),
    ]
    with_results, without = Keyspace(list_bytes_max=4), Keyspace()
    assert len(with_results.apply(commands, NOW, want_results=True)) == len(commands)
    assert without.apply(commands, NOW, want_results=False) == []
    assert with_results.list_all(NOW, 1000) == without.list_all(NOW, 1000)


def test_columns_are_of_one_length(live: Keyspace) -> None:
    for keys, values in (([b"a"], []), ([b"a"], [b"1", b"2"])):
        with pytest.raises(AssertionError):
            live.set_all(keys, values, NOW)
