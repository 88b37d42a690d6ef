"""The keyspace against a model that a reader can check by eye, over all commands, time moving."""

from __future__ import annotations

import re

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vaylix_storage import (
    Answer,
    CommandFailure,
    ExecResult,
    FailureCode,
    Keyspace,
    Result,
    ScanPage,
    SimpleResult,
)
from vaylix_storage import commands as c
from vaylix_storage._keyspace_snapshot import (
    CHUNK_BYTES,
    KeyspaceDump,
    KeyspaceLoader,
    load_keyspace_chunk,
)
from vaylix_storage._packing import PACKED_VALUE_BYTES_MAX, pack, unpack

Entries = dict[bytes, tuple[bytes, int, int]]
GONE = (b"", 0, 0)
NO_SUCH_RESTORE = CommandFailure(FailureCode.NO_SUCH_RESTORE)


class ModelRestore:
    """A restore that has begun."""

    def __init__(self, restore_id: bytes, now_ms: int) -> None:
        self.restore_id, self.begun_at_ms, self.last_at_ms = restore_id, now_ms, now_ms
        self.data: Entries = {}
        self.chunk_count = self.count = 0

    def add(self, command: c.RestoreChunk, now_ms: int) -> None:
        self.last_at_ms = now_ms
        self.chunk_count += 1
        for key, value, version, expires_at_ms in command.entries:
            if expires_at_ms == 0 or expires_at_ms > self.begun_at_ms:
                self.data[key] = (value, max(version, 1), expires_at_ms)
                self.count += 1


class Model:
    """Value, version and expiry by key; dead keys are removed before anything else."""

    def __init__(self) -> None:
        self.data: Entries = {}
        self.open_restore: ModelRestore | None = None

    def put(self, key: bytes, value: bytes, expires_at_ms: int = 0) -> Answer:
        self.data[key] = (value, self.data.get(key, GONE)[1] + 1, expires_at_ms)
        return Answer.OK

    def expire(self, key: bytes, ttl_ms: int, now_ms: int) -> bool:
        value, version, _ = self.data.pop(key, GONE)
        if version and ttl_ms:
            self.data[key] = (value, version, now_ms + ttl_ms)
        return version > 0

    def value(self, key: bytes) -> bytes | Answer:
        return self.data[key][0] if key in self.data else Answer.NOT_FOUND

    def add(self, key: bytes, delta: int) -> SimpleResult:
        text = self.data.get(key, (b"0", 0, 0))[0]
        if not re.fullmatch(rb"[+-]?[0-9]+", text):
            return CommandFailure(FailureCode.NOT_AN_INTEGER, key, text[:256])
        self.put(key, str(int(text) + delta).encode())
        return int(text) + delta

    def set(self, command: c.Set, now_ms: int) -> SimpleResult:
        options = command.options or c.SetOptions()
        previous, (_, version, expires_at_ms) = (
            self.value(command.key),
            self.data.get(command.key, GONE),
        )
        passes = options.if_version in (None, version) and (options.if_version != 0)
        passes &= options.condition == 0 or (options.condition == 2) == (version > 0)
        if passes:
            self.put(command.key, command.value, expires_at_ms if options.keep_ttl else 0)
            if options.ttl_ms is not None:
                self.expire(command.key, options.ttl_ms, now_ms)
        if options.return_previous:
            return previous
        return passes if options.condition or options.if_version is not None else Answer.OK

    def rename(self, source: bytes, destination: bytes) -> bool:
        value, version, expires_at_ms = self.data.pop(source, GONE)
        return version > 0 and self.put(destination, value, expires_at_ms) is Answer.OK

    def apply(self, command: c.Command, now_ms: int) -> Result:
        self.data = {k: e for k, e in self.data.items() if not 0 < e[2] <= now_ms}
        if self.open_restore and now_ms >= self.open_restore.last_at_ms + 300_000:
            self.open_restore = None
        if isinstance(command, c.RestoreBegin | c.RestoreChunk | c.RestoreCommit):
            return self.restore(command, now_ms)
        if not isinstance(command, c.Exec):
            return self.apply_one(command, now_ms)
        before, results = dict(self.data), []
        for part in command.commands:
            results.append(self.apply_one(part, now_ms))
            if isinstance(results[-1], CommandFailure):
                self.data = before
                return results[-1]
        return ExecResult(tuple(results))

    def restore(self, command: c.RestoreCommand, now_ms: int) -> SimpleResult:
        if isinstance(command, c.RestoreBegin):
            self.open_restore = ModelRestore(command.restore_id, now_ms)
            return Answer.OK
        restore = self.open_restore
        if restore is None or restore.restore_id != command.restore_id:
            return NO_SUCH_RESTORE
        if isinstance(command, c.RestoreChunk):
            restore.add(command, now_ms)
            return Answer.OK
        self.open_restore = None
        if command.chunk_count != restore.chunk_count:
            return NO_SUCH_RESTORE
        self.data = restore.data
        return restore.count

    def apply_one(self, command: c.SimpleCommand, now_ms: int) -> SimpleResult:  # noqa: C901 - a table
        match command:
            case c.Set():
                return self.set(command, now_ms)
            case c.SetNx(key, value):
                return key not in self.data and self.put(key, value) is Answer.OK
            case c.MSet(pairs):
                return [self.put(key, value) for key, value in pairs][-1]
            case c.Get(key):
                return self.value(key)
            case c.GetDel(key):
                result = self.value(key)
                self.data.pop(key, None)
                return result
            case c.GetEx(key, ttl_ms, persist):
                result = self.value(key)
                if ttl_ms is not None:
                    self.expire(key, ttl_ms, now_ms)
                elif persist and key in self.data:
                    self.data[key] = (*self.data[key][:2], 0)
                return result
            case c.Del(keys):
                return sum(self.data.pop(key, None) is not None for key in keys)
            case c.Incr(key):
                return self.add(key, 1)
            case c.Decr(key):
                return self.add(key, -1)
            case c.Expire(key, ttl_ms):
                return self.expire(key, ttl_ms, now_ms)
            case c.Persist(key):
                value, version, expires_at_ms = self.data.get(key, GONE)
                if expires_at_ms:
                    self.data[key] = (value, version, 0)
                return expires_at_ms > 0
            case c.Rename(source, destination):
                return self.rename(source, destination)
            case c.RenameNx(source, destination):
                return destination not in self.data and self.rename(source, destination)
            case c.Clear():
                self.data.clear()
                return Answer.OK
            case c.Exists(key):
                return key in self.data
            case c.MGet(keys):
                return tuple(self.data[key][0] if key in self.data else None for key in keys)
            case c.Ttl(key):
                _, version, expires_at_ms = self.data.get(key, GONE)
                if not expires_at_ms:
                    return -1 if version else -2
                return (expires_at_ms - now_ms + 999) // 1000
            case c.DbSize() | c.Count():
                return len(self.data)
            case c.List():
                return sorted((key, entry[0]) for key, entry in self.data.items())
            case c.Ping(message):
                return message
            case c.Scan():
                return ScanPage(0, sorted(self.data))
        raise AssertionError(command)


# The last two share a shard.
KEYS = st.sampled_from([b"", b"a", b"b", "ä".encode(), b"n5", b"n280"])
# The last two are the longest that is held as one string with its version, and one byte more.
VALUES = st.sampled_from(
    [b"", b"0", b"-7", b"+1", b"x", b"long" * 30]
    + [b"l" * length for length in (PACKED_VALUE_BYTES_MAX, PACKED_VALUE_BYTES_MAX + 1)]
)
TTLS = st.sampled_from([0, 1, 2, 10, 1000, 5000])

SIMPLE: st.SearchStrategy[c.SimpleCommand] = st.one_of(
    st.builds(c.Set, KEYS, VALUES),
    st.builds(
        c.Set,
        KEYS,
        VALUES,
        st.builds(
            c.SetOptions,
            st.sampled_from(c.SetCondition),
            st.none() | TTLS,
            st.booleans(),
            st.booleans(),
            st.none() | st.integers(0, 4),
        ),
    ),
    st.builds(c.SetNx, KEYS, VALUES),
    st.builds(c.MSet, st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=4).map(tuple)),
    st.builds(c.GetEx, KEYS, st.none() | TTLS, st.booleans()),
    st.builds(c.Del, st.lists(KEYS, max_size=4).map(tuple)),
    st.builds(c.Expire, KEYS, TTLS),
    st.builds(c.Rename, KEYS, KEYS),
    st.builds(c.RenameNx, KEYS, KEYS),
    st.builds(c.MGet, st.lists(KEYS, max_size=4).map(tuple)),
    *(
        st.builds(kind, KEYS)
        for kind in (c.Get, c.GetDel, c.Incr, c.Decr, c.Persist, c.Exists, c.Ttl, c.Ping)
    ),
    *(st.builds(kind) for kind in (c.Clear, c.DbSize, c.Count, c.List)),
    st.just(c.Scan(0, None, 1000)),
)
RESTORE_IDS = st.sampled_from([b"1", b"1", b"1", b"2"])
# Expiries around the times that the machine passes.
RESTORED = st.tuples(
    KEYS, VALUES, st.integers(0, 3), st.sampled_from([0, 0, 900, 1010, 3000, 9000])
)
RESTORE: st.SearchStrategy[c.RestoreCommand] = st.one_of(
    st.builds(c.RestoreBegin, RESTORE_IDS),
    st.builds(c.RestoreChunk, RESTORE_IDS, st.lists(RESTORED, max_size=5).map(tuple)),
    st.builds(c.RestoreCommit, RESTORE_IDS, st.integers(0, 2)),
)
COMMANDS: st.SearchStrategy[c.Command] = st.one_of(
    SIMPLE, SIMPLE, st.builds(c.Exec, st.lists(SIMPLE, max_size=6).map(tuple)), RESTORE
)


class KeyspaceMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.keyspace, self.model = Keyspace(), Model()
        self.replica = Keyspace()
        self.now_ms = 1_000
        # A dump that is under way, what it has yielded, and what it is to show.
        self.dump: KeyspaceDump | None = None
        self.chunks: list[tuple[bytes, int]] = []
        self.held_at_begin: Entries = {}

    @rule(commands=st.lists(COMMANDS, min_size=1, max_size=6))
    def apply(self, commands: list[c.Command]) -> None:
        payload = c.encode_commands(commands)
        decoded = c.decode_commands(payload, len(commands))
        results = self.keyspace.apply(decoded, self.now_ms, want_results=True)
        assert results == [self.model.apply(command, self.now_ms) for command in commands]
        self.replica.apply(decoded, self.now_ms, want_results=False)

    @rule(pairs=st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=6))
    def set_in_columns(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """What came in columns is in the log as commands: a replica must arrive at the same."""
        commands = [c.Set(key, value) for key, value in pairs]
        self.keyspace.set_all([k for k, _ in pairs], [v for _, v in pairs], self.now_ms)
        for command in commands:
            self.model.apply(command, self.now_ms)
        self.replica.apply(commands, self.now_ms, want_results=False)

    @rule(elapsed_ms=st.sampled_from([1, 9, 990, 5000, 299_000]))
    def let_time_pass(self, elapsed_ms: int) -> None:
        self.now_ms += elapsed_ms

    @rule(chunks=st.lists(st.lists(RESTORED, max_size=5).map(tuple), max_size=3))
    def restore_in_steps(self, chunks: list[tuple[tuple[bytes, bytes, int, int], ...]]) -> None:
        """Restore in several batches that time and other commands come between."""
        self.apply([c.RestoreBegin(b"1")])
        for entries in chunks:
            self.apply([c.Set(b"a", b"between"), c.RestoreChunk(b"1", entries)])
            self.now_ms += 1
        self.apply([c.RestoreCommit(b"1", len(chunks))])

    @rule(budget=st.integers(1, 3))
    def reclaim(self, budget: int) -> None:
        self.keyspace.expire_step(self.now_ms, budget)

    @precondition(lambda self: self.dump is None)
    @rule(chunk_bytes=st.sampled_from([1, 100, CHUNK_BYTES]))
    def begin_dump(self, chunk_bytes: int) -> None:
        self.held_at_begin = held_by(self.keyspace)
        self.dump = KeyspaceDump(self.keyspace.begin_walk(), chunk_bytes)
        self.chunks = []

    @precondition(lambda self: self.dump is not None)
    @rule()
    def take_a_chunk(self) -> None:
        assert self.dump is not None
        chunk = self.dump.next_chunk()
        if chunk is not None:
            self.chunks.append(chunk)
            return
        self.dump = None
        loaded, by_loader = Keyspace(), Keyspace()
        loader = KeyspaceLoader(by_loader)
        for plain, key_count in self.chunks:
            assert load_keyspace_chunk(loaded, plain) == key_count
            loader.add(plain)
        loader.finish()
        for keyspace in (loaded, by_loader):
            assert held_by(keyspace) == self.held_at_begin
            check_totals(keyspace)

    @precondition(lambda self: self.dump is not None)
    @rule()
    def give_the_dump_up(self) -> None:
        assert self.dump is not None
        self.dump.close()
        self.dump = None

    @rule(commands=st.lists(COMMANDS, max_size=4))
    def restore(self, commands: list[c.Command]) -> None:
        """Replace everything by what some commands lead to."""
        self.model.data.clear()
        self.model.open_restore = None
        for command in commands:
            self.model.apply(command, self.now_ms)
        for keyspace in (self.keyspace, self.replica):
            shadow = Keyspace()
            shadow.apply(commands, self.now_ms, want_results=False)
            keyspace.replace_with(shadow)
            assert held_by(shadow) == {}
            check_totals(shadow)

    @invariant()
    def the_keyspace_is_what_the_model_is(self) -> None:
        live = {k: e for k, e in self.model.data.items() if not 0 < e[2] <= self.now_ms}
        for keyspace in (self.keyspace, self.replica):
            assert keyspace.key_count(self.now_ms) == len(live)
            held = held_by(keyspace)
            assert {key: held.get(key) for key in live} == live
            assert all(keyspace.table.find(key, self.now_ms) for key in live)
            check_totals(keyspace)


def held_by(keyspace: Keyspace) -> Entries:
    return {
        key: (entry.value, entry.version, entry.expires_at_ms)
        for key, entry in keyspace.table.entries().items()
    }


def check_totals(keyspace: Keyspace) -> None:
    table, held = keyspace.table, held_by(keyspace)
    assert table.entry_count == len(held)
    for shard in table.shards:
        assert all(pack(unpack(form)) == form for form in shard.values())
    assert table.content_bytes == sum(len(key) + len(e[0]) for key, e in held.items())
    assert table.expiry.items() == sorted((e[2], key) for key, e in held.items() if e[2])


TestKeyspaceMachine = KeyspaceMachine.TestCase
TestKeyspaceMachine.settings = settings(max_examples=80, stateful_step_count=35, deadline=None)
