"""Odd arguments of every method of a store: whatever raises has done nothing, for good."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaylix_storage import (
    RetentionPolicy,
    Store,
    StoreBatch,
    SyncPolicy,
)
from vaylix_storage.commands import U64_MAX, SetCondition
from vaylix_storage.errors import (
    BackupError,
    CommandEncodingError,
    IntegerOverflowError,
    NotAnIntegerError,
)
from vaylix_storage.testing import MemoryVfs

PATH = Path("/data")
START = 1_700_000_000_000
DUMP = "/backups/dump.json"
State = dict[bytes, tuple[bytes | None, int, int | None]]


class Bytes(bytes):
    """As `numpy.bytes_` is one."""


class Number(int):
    """As members of an IntEnum are."""


class Index:
    """As the integers of numpy are."""

    def __index__(self) -> int:
        return 1

    __int__ = __index__


TEXTS: Final = ("text", bytearray(b"k"), memoryview(b"k"), Bytes(b"k"), b"k", None, [b"k"], 1)
FRACTIONS: Final = (1.0, 1.5, 60_000.0, float("nan"), Decimal(1), Fraction(1), 1j)
NUMBERS: Final = (True, False, Number(1), Index(), -1, 2**63, U64_MAX, 2**64, 10**5000)
OTHERS: Final[tuple[object, ...]] = (
    object(),
    (),
    {},
    set(),
    bytes,
    SetCondition.NX,
    SyncPolicy.SYNC,
    ...,
)
ODD: Final = st.sampled_from((*TEXTS, *FRACTIONS, *NUMBERS, *OTHERS))
KEYS: Final = st.sampled_from((b"", b"a", b"n"))
GOOD: Final[Mapping[str, st.SearchStrategy[object]]] = {
    "value": st.sampled_from((b"", b"7", b"v")),
    "ttl_ms": st.sampled_from((None, 0, 1, U64_MAX)),
    "if_version": st.sampled_from((None, 0, 1, 2, U64_MAX)),
    "condition": st.sampled_from(SetCondition),
    "keep_ttl": st.booleans(),
    "count": st.sampled_from((0, 1, U64_MAX)),
    "path": st.just(DUMP),
}
REFUSALS: Final = (TypeError, ValueError, NotAnIntegerError, IntegerOverflowError, BackupError)
# A test of their own have those that make a store or end it.
METHODS: Final = sorted(
    name
    for name, member in vars(Store).items()
    if inspect.isfunction(member)
    and name.strip("_") not in ("init", "enter", "exit")
    and (not name.startswith("_") or name.endswith("__"))
    and name not in ("batch", "close")
)
BATCH_METHODS: Final = sorted(
    name
    for name, member in vars(StoreBatch).items()
    if inspect.isfunction(member) and not name.startswith("_")
)


def argument(draw: st.DrawFn, name: str) -> object:
    is_odd = draw(st.integers(0, 3)) == 0
    return draw(ODD if is_odd else GOOD.get(name, KEYS))


@st.composite
def calls(draw: st.DrawFn, kind: type, methods: Sequence[str]) -> Callable[[object], object]:
    """Return a call of one of the methods, its arguments more often right than odd."""
    method = draw(st.sampled_from(methods))
    positional: list[object] = []
    named: dict[str, object] = {}
    for name, parameter in inspect.signature(getattr(kind, method)).parameters.items():
        if name == "self":
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += [argument(draw, name) for _ in range(draw(st.integers(0, 3)))]
        elif parameter.default is parameter.empty or draw(st.booleans()):
            if parameter.kind is parameter.KEYWORD_ONLY:
                named[name] = argument(draw, name)
            else:
                positional.append(argument(draw, name))

    def call(target: object) -> object:
        answer = getattr(target, method)(*positional, **named)
        return list(answer) if method == "scan" else answer

    return call


def open_store(vfs: MemoryVfs) -> Store:
    return Store.open(PATH, vfs=vfs, now_ms=lambda: START)


def state_of(store: Store) -> State:
    state = {key: (store.get(key), store.version(key), store.ttl(key)) for key in store.scan()}
    assert {type(part) for key, (value, _, _) in state.items() for part in (key, value)} <= {bytes}
    return state


def check_that_it_comes_back(vfs: MemoryVfs, store: Store) -> None:
    state = state_of(store)
    vfs.power_cut()
    store = open_store(vfs)
    assert state_of(store) == state
    store.snapshot()
    vfs.power_cut()
    store = open_store(vfs)
    assert state_of(store) == state
    store.backup(DUMP)
    assert store.restore_backup(DUMP) == len(state)
    assert state_of(store) == state


def test_all_methods_are_among_those_that_are_tried() -> None:
    assert {"get", "set", "scan", "backup", "expire", "__len__", "__contains__"} <= {*METHODS}
    assert {"set", "expire", "clear"} <= {*BATCH_METHODS}


@given(st.lists(calls(Store, METHODS), min_size=1, max_size=12))
def test_whatever_is_refused_has_changed_nothing(
    plan: list[Callable[[object], object]],
) -> None:
    vfs = MemoryVfs()
    store = open_store(vfs)
    for call in plan:
        before, sequence = state_of(store), store.sequence
        try:
            call(store)
        except (NotAnIntegerError, IntegerOverflowError):
            # It may have been logged: a replay refuses it as well.
            assert state_of(store) == before
        except REFUSALS:
            assert (state_of(store), store.sequence) == (before, sequence)
    store.set(b"last", b"v")
    check_that_it_comes_back(vfs, store)


@given(st.lists(calls(StoreBatch, BATCH_METHODS), min_size=1, max_size=12))
def test_whatever_a_batch_refuses_is_no_part_of_it(
    plan: list[Callable[[object], object]],
) -> None:
    vfs = MemoryVfs()
    store = open_store(vfs)
    store.set(b"a", b"5", ttl_ms=9)
    before = state_of(store)
    taken = 0
    try:
        with store.batch() as batch:
            for call in plan:
                try:
                    call(batch)
                except (TypeError, ValueError):
                    continue
                taken += 1
    except (NotAnIntegerError, IntegerOverflowError):
        assert state_of(store) == before
    else:
        assert len(batch.results) == taken
    check_that_it_comes_back(vfs, store)


@pytest.mark.parametrize("number", [1.5, 60_000.0, True, Number(1), Index(), Decimal(2), "3"])
def test_what_is_no_int_is_not_taken_for_one(number: int) -> None:
    vfs = MemoryVfs()
    store = open_store(vfs)
    store.set(b"k", b"v")
    sequence = store.sequence
    misuses: list[Callable[[], object]] = [
        lambda: store.set(b"k", b"w", ttl_ms=number),
        lambda: store.set(b"k", b"w", if_version=number),
        lambda: store.set(b"k", b"w", condition=number),  # type: ignore[arg-type]
        lambda: store.expire(b"k", number),
        lambda: store.scan(count=number),
        lambda: Store.restore_to_point("/data", "/new", sequence=number),
        lambda: Store.restore_to_point("/data", "/new", timestamp_ms=number),
    ]
    for misuse in misuses:
        with pytest.raises(TypeError, match="not "):
            misuse()
    assert (store.get(b"k"), store.sequence) == (b"v", sequence)
    store.set(b"k", b"w")
    vfs.power_cut()
    assert open_store(vfs).get(b"k") == b"w"


@pytest.mark.parametrize("flag", [0, 1, None, "yes"])
def test_a_flag_is_true_or_false(flag: bool) -> None:
    store = open_store(MemoryVfs())
    with pytest.raises(TypeError, match="keep_ttl"):
        store.set(b"k", b"v", keep_ttl=flag)


@pytest.mark.parametrize(
    "options",
    [
        {"sync_policy": "sync"},
        {"segment_bytes_max": 1.5},
        {"segment_bytes_max": -1},
        {"segment_bytes_max": True},
        {"retention": 3},
        {"retention": RetentionPolicy(snapshots_max=1.5)},  # type: ignore[arg-type]
        {"retention": RetentionPolicy(segments_max=True)},
        {"archive_directory": b"/archive"},
        {"now_ms": lambda: 1.5},
        {"now_ms": lambda: -1},
        {"now_ms": lambda: 2**63},
        {"now_ms": 5},
    ],
)
def test_a_store_is_not_even_made_with_odd_options(options: dict[str, object]) -> None:
    vfs = MemoryVfs()
    with pytest.raises((TypeError, ValueError)):
        Store.open(PATH, vfs=vfs, **options)  # type: ignore[arg-type]
    assert not vfs.exists(PATH)


@pytest.mark.parametrize("odd", [1.5, True, "now", -1, 2**63, None])
def test_a_clock_that_goes_wrong_changes_nothing(odd: int) -> None:
    now: list[int] = [START]
    vfs = MemoryVfs()
    store = Store.open(PATH, vfs=vfs, now_ms=lambda: now[0])
    store.set(b"k", b"v", ttl_ms=5)
    now[0] = odd
    sequence = store.sequence
    misuses: list[Callable[[], object]] = [
        lambda: store.get(b"k"),
        lambda: store.set(b"k", b"w"),
        store.snapshot,
        lambda: store.backup(DUMP),
    ]
    for misuse in misuses:
        with pytest.raises((TypeError, ValueError), match="now_ms"):
            misuse()
    now[0] = 2**63 - 1
    assert store.get(b"k") is None
    assert store.sequence == sequence
    store.set(b"k", b"w", ttl_ms=U64_MAX)
    check_that_it_comes_back(vfs, store)


def test_what_the_log_could_not_be_read_back_with_is_not_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second line of defence, behind the checks of arguments."""
    monkeypatch.setattr("vaylix_storage.store.check_number", lambda *_: None)
    vfs = MemoryVfs()
    store = open_store(vfs)
    sequence = store.sequence
    with pytest.raises(CommandEncodingError):
        store.expire(b"k", 1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        store.expire(b"k", object())  # type: ignore[arg-type]
    assert store.sequence == sequence
    store.set(b"k", b"v")
    vfs.power_cut()
    assert open_store(vfs).get(b"k") == b"v"
