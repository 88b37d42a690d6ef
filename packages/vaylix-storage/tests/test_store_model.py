"""The embedded database against a dict, across restarts of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vaylix_storage import (
    Store,
    SyncPolicy,
)
from vaylix_storage.commands import SetCondition
from vaylix_storage.errors import (
    NotAnIntegerError,
)
from vaylix_storage.testing import MemoryVfs

PATH = Path("/data")
START = 1_700_000_000_000
KEYS = st.sampled_from([b"", b"a", b"b", "ä".encode(), b"n5", b"n280"])
VALUES = st.sampled_from([b"", b"0", b"-7", b"x", b"long" * 30])
TTLS = st.sampled_from([None, 1, 10, 5000])


class Clock:
    def __init__(self) -> None:
        self.now_ms = START

    def __call__(self) -> int:
        return self.now_ms


def open_store(
    vfs: MemoryVfs, clock: Clock | None = None, policy: SyncPolicy = SyncPolicy.SYNC
) -> Store:
    return Store.open(PATH, vfs=vfs, now_ms=Clock() if clock is None else clock, sync_policy=policy)


class StoreMachine(RuleBasedStateMachine):
    """Against a dict of (value, version, expiry); whatever stops it, nothing returned is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.vfs, self.clock = MemoryVfs(), Clock()
        self.store = open_store(self.vfs, self.clock)
        self.model: dict[bytes, tuple[bytes, int, int]] = {}
        self.backup: dict[bytes, tuple[bytes, int, int]] | None = None

    def live(self, key: bytes) -> tuple[bytes, int, int] | None:
        entry = self.model.get(key)
        return None if entry is None or 0 < entry[2] <= self.clock.now_ms else entry

    def put(self, key: bytes, value: bytes, expires_at_ms: int = 0) -> None:
        before = self.live(key)
        self.model[key] = (value, 1 if before is None else before[1] + 1, expires_at_ms)

    @rule(key=KEYS, value=VALUES, ttl_ms=TTLS, keep_ttl=st.booleans())
    def set(self, key: bytes, value: bytes, ttl_ms: int | None, *, keep_ttl: bool) -> None:
        before = self.live(key)
        kept = before[2] if before is not None and keep_ttl else 0
        assert self.store.set(key, value, ttl_ms=ttl_ms, keep_ttl=keep_ttl)
        self.put(key, value, kept if ttl_ms is None else self.clock.now_ms + ttl_ms)

    @rule(key=KEYS, condition=st.sampled_from([SetCondition.NX, SetCondition.XX]))
    def set_on_condition(self, key: bytes, condition: SetCondition) -> None:
        holds = (self.live(key) is None) == (condition is SetCondition.NX)
        assert self.store.set(key, b"c", condition=condition) is holds
        if holds:
            self.put(key, b"c")

    @rule(key=KEYS, version=st.integers(0, 3))
    def set_if_version(self, key: bytes, version: int) -> None:
        before = self.live(key)
        holds = before is not None and before[1] == version
        assert self.store.set(key, b"v", if_version=version) is holds
        if holds:
            self.put(key, b"v")

    @rule(keys=st.lists(KEYS, max_size=3, unique=True))
    def delete(self, keys: list[bytes]) -> None:
        assert self.store.delete(*keys) == sum(self.live(key) is not None for key in keys)
        for key in keys:
            self.model.pop(key, None)

    @rule(key=KEYS)
    def pop(self, key: bytes) -> None:
        before = self.live(key)
        assert self.store.pop(key) == (None if before is None else before[0])
        self.model.pop(key, None)

    @rule(key=KEYS, up=st.booleans())
    def count(self, key: bytes, *, up: bool) -> None:
        before = self.live(key)
        text = b"0" if before is None else before[0]
        act = self.store.incr if up else self.store.decr
        if text in (b"", b"x", b"c", b"v", b"long" * 30):
            with pytest.raises(NotAnIntegerError):
                act(key)
            return
        number = int(text) + (1 if up else -1)
        assert act(key) == number
        self.put(key, b"%d" % number)

    @rule(key=KEYS, ttl_ms=st.sampled_from([0, 1, 5000]))
    def expire(self, key: bytes, ttl_ms: int) -> None:
        before = self.live(key)
        assert self.store.expire(key, ttl_ms) is (before is not None)
        if before is not None:
            self.model[key] = (before[0], before[1], self.clock.now_ms + ttl_ms)

    @rule(key=KEYS)
    def persist(self, key: bytes) -> None:
        before = self.live(key)
        assert self.store.persist(key) is (before is not None and before[2] > 0)
        if before is not None:
            self.model[key] = (before[0], before[1], 0)

    @rule(source=KEYS, destination=KEYS)
    def rename(self, source: bytes, destination: bytes) -> None:
        before = self.live(source)
        assert self.store.rename(source, destination) is (before is not None)
        if before is not None:
            del self.model[source]
            self.put(destination, before[0], before[2])

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4))
    def batch(self, keys: list[bytes]) -> None:
        with self.store.batch() as batch:
            for key in keys:
                batch.set(key, b"1")
                batch.incr(key)
            batch.delete(keys[0])
        for key in keys:
            self.put(key, b"1")
            self.put(key, b"2")
        del self.model[keys[0]]
        assert batch.results == (True, 2) * len(keys) + (1,)

    @rule(key=KEYS)
    def batch_that_fails(self, key: bytes) -> None:
        def count_text() -> None:
            with self.store.batch() as batch:
                batch.clear()
                batch.set(key, b"text")
                batch.incr(key)

        with pytest.raises(NotAnIntegerError):
            count_text()

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.model.clear()

    @rule(elapsed_ms=st.sampled_from([1, 9, 5000]))
    def let_time_pass(self, elapsed_ms: int) -> None:
        self.clock.now_ms += elapsed_ms

    @rule()
    def snapshot(self) -> None:
        self.store.snapshot()

    @rule()
    def back_up(self) -> None:
        self.store.backup("/backups/dump.json")
        self.backup = {key: entry for key in self.model if (entry := self.live(key)) is not None}

    @rule()
    def restore(self) -> None:
        if self.backup is not None:
            now_ms = self.clock.now_ms
            alive = {k: e for k, e in self.backup.items() if not 0 < e[2] <= now_ms}
            assert self.store.restore_backup("/backups/dump.json") == len(alive)
            self.model = dict(alive)

    @rule(how=st.sampled_from(["close", "kill", "cut"]))
    def start_again(self, how: str) -> None:
        if how == "close":
            self.store.close()
        elif how == "kill":
            self.vfs.kill()
        else:
            self.vfs.power_cut()
        self.store = open_store(self.vfs, self.clock)

    @invariant()
    def the_store_is_what_the_model_is(self) -> None:
        live = {key: entry for key in self.model if (entry := self.live(key)) is not None}
        store, now_ms = self.store, self.clock.now_ms
        assert len(store) == len(live)
        assert sorted(store.scan(count=2)) == sorted(live)
        for key, (value, version, expires_at_ms) in live.items():
            assert (store.get(key), store.version(key)) == (value, version)
            assert store.ttl(key) == (expires_at_ms - now_ms if expires_at_ms else None)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
