"""The keyspace: the state that the log describes.

Rules:

- `apply` depends on the state, the commands and "now" alone, so that replicas and replays agree.
- A key is dead from its expiry on (`expires_at <= now`). Dead keys act like missing ones at once;
  their memory is taken back later, a bounded number at a time. That changes no answer, so it is
  not logged.
- Nothing costs a pass over all keys, except LIST, which is asked for one and refused when large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, cast

from vaylix_storage import _semantics as semantics
from vaylix_storage import commands as c
from vaylix_storage._packing import expiry_of, live_value, value_bytes_of
from vaylix_storage._restore import Restore
from vaylix_storage._results import (
    Answer,
    CommandFailure,
    ExecResult,
    FailureCode,
    Result,
    ScanPage,
    SimpleResult,
)
from vaylix_storage._scan import LOOKS_MAX, scan_page
from vaylix_storage._table import Table

if TYPE_CHECKING:
    from vaylix_storage._shard_walk import ShardWalk

__all__ = ["LIST_BYTES_MAX_DEFAULT", "Keyspace"]

LIST_BYTES_MAX_DEFAULT: Final = 8 * 1024 * 1024
# What an entry of a LIST reply takes beside key and value (VTP2 commands section 0, ENTRIES).
_LIST_ENTRY_OVERHEAD_BYTES: Final = 6

# Freed by `apply` besides its own work, so that garbage cannot outgrow what writes pay for.
_RECLAIM_PER_APPLY: Final = 16
_RECLAIM_PER_COMMAND: Final = 2
# Named once: to search an enum for its member takes as long as a look into a dict.
_OK: Final = Answer.OK


class Keyspace:
    """Keys with values, versions and expiry.

    Not thread-safe: one thread at a time. All times are Unix time in ms. `list_bytes_max` bounds
    the reply of a LIST inside EXEC, counted as `list_all` does.
    """

    __slots__ = ("_table", "list_bytes_left", "list_bytes_max", "restore")

    def __init__(self, *, list_bytes_max: int = LIST_BYTES_MAX_DEFAULT) -> None:
        self._table = Table()
        self.list_bytes_max = list_bytes_max
        self.list_bytes_left = list_bytes_max
        # What a restore has built so far; for the handlers of this module.
        self.restore: Restore | None = None

    # Writing

    def apply(
        self, commands: Sequence[c.Command], now_ms: int, *, want_results: bool
    ) -> list[Result]:
        """Carry out commands in order, all at the time `now_ms`, and return one result for each.

        Without `want_results` the list is empty, and reads are not even carried out. Never raises:
        a command that fails has changed nothing, and its result is a CommandFailure.
        """
        self._reclaim_for(len(commands), now_ms)
        table = self._table
        results: list[Result] = []
        position, count = 0, len(commands)
        while position < count:
            command = commands[position]
            if type(command) is c.Set and command.options is None:
                keys, values = _plain_sets(commands, position)
                table.set_all(keys, values, now_ms)
                position += len(keys)
                if want_results:
                    results += [_OK] * len(keys)
                continue
            position += 1
            result: Result
            if type(command) is c.Exec:
                result = self._execute(command, now_ms, want_results=want_results)
            else:
                single = cast("_Single", command)
                if not want_results and type(single) in _READS:
                    continue
                result = _HANDLERS[type(single)](self, single, now_ms)
            if want_results:
                results.append(result)
        return results

    def set_all(self, keys: list[bytes], values: list[bytes], now_ms: int) -> None:
        """Carry out as many SETs without options, as `apply` would; columns are quicker."""
        assert len(keys) == len(values)
        self._reclaim_for(len(keys), now_ms)
        self._table.set_all(keys, values, now_ms)

    def _reclaim_for(self, command_count: int, now_ms: int) -> None:
        """Free what is no longer needed before commands are carried out."""
        if self.restore is not None and self.restore.is_given_up(now_ms):
            self.drop_restore()
        self._table.reclaim(now_ms, _RECLAIM_PER_APPLY + _RECLAIM_PER_COMMAND * command_count)

    def _execute(
        self, command: c.Exec, now_ms: int, *, want_results: bool
    ) -> ExecResult | CommandFailure:
        """Carry out a transaction: whole, or not at all when an INCR or DECR fails.

        Other refusals, such as a LIST that is too large, are results like any other: a read must
        not decide over writes, because replicas that owe no reply do not read.
        """
        can_fail = any(type(part) in _CAN_FAIL for part in command.commands)
        if can_fail:
            self._table.begin()
        results: list[SimpleResult] = []
        # All LISTs of a transaction share one bound, since one reply has to carry them, and so do
        # all SCANs, since everybody waits for them.
        self.list_bytes_left = self.list_bytes_max
        looks_left = LOOKS_MAX
        for part in command.commands:
            kind = type(part)
            if kind in _READS and not want_results:
                continue
            result: SimpleResult
            if isinstance(part, c.Scan):
                result, looks = self._scan(part, now_ms, looks_left)
                looks_left -= looks
            else:
                result = _HANDLERS[kind](self, part, now_ms)
            if isinstance(result, list):
                self.list_bytes_left -= _listed_bytes(result)
            if kind in _CAN_FAIL and isinstance(result, CommandFailure):
                self.list_bytes_left = self.list_bytes_max
                self._table.roll_back()
                return result
            results.append(result)
        self.list_bytes_left = self.list_bytes_max
        if can_fail:
            self._table.commit()
        return ExecResult(tuple(results))

    def expire_step(self, now_ms: int, budget: int) -> int:
        """Free the memory of at most about `budget` dead keys; return how many, 0 when done.

        One key costs about half a microsecond. `now_ms` must not be later than the time of any
        batch still to be applied, or replicas could disagree.
        """
        if self.restore is not None and self.restore.is_given_up(now_ms):
            self.drop_restore()
        return self._table.reclaim(now_ms, budget)

    @property
    def expired_count(self) -> int:
        """How many keys have left memory because their time was up; cleared ones do not count."""
        return self._table.expired_count

    @property
    def is_being_restored(self) -> bool:
        """Whether a restore has begun that may still commit. Snapshots wait until there is none."""
        return self.restore is not None

    def drop_restore(self) -> None:
        """For this module only: forget what an unfinished restore has built; freed later."""
        if self.restore is not None:
            self._table.retire(self.restore.table)
            self.restore = None

    # Reading

    def get(self, key: bytes, now_ms: int) -> bytes | None:
        """Return the value of a key, or None."""
        return self._table.value(key, now_ms)

    def exists(self, key: bytes, now_ms: int) -> bool:
        """Tell whether a key exists."""
        return self._table.find(key, now_ms) is not None

    def values(self, keys: list[bytes], now_ms: int) -> list[bytes | None]:
        """Return the values of many keys in the order asked, None where there is none."""
        return self._table.values(keys, now_ms)

    def mget(self, keys: Sequence[bytes], now_ms: int) -> tuple[bytes | None, ...]:
        """Return what `values` does, as the result of an MGET."""
        return tuple(self._table.values(list(keys), now_ms))

    def ttl(self, key: bytes, now_ms: int) -> int:
        """Return the seconds a key has left, rounded up; -1 without expiry, -2 if missing."""
        return semantics.time_to_live(self._table, key, now_ms)

    def version(self, key: bytes, now_ms: int) -> int:
        """Return the version of a key, 0 if missing (VTP2 commands section 6.2)."""
        entry = self._table.find(key, now_ms)
        return 0 if entry is None else entry.version

    def scan(self, cursor: int, pattern: bytes | None, count: int | None, now_ms: int) -> ScanPage:
        """Return a page of keys; start with cursor 0, end when the returned cursor is 0.

        `count` is how many keys are wanted (None: 10, 0 counts as 1, at most 4096). A page may be
        shorter. A key that exists during the whole scan is returned exactly once.
        """
        return self._scan(c.Scan(cursor, pattern, count), now_ms, LOOKS_MAX)[0]

    def _scan(self, command: c.Scan, now_ms: int, looks_max: int) -> tuple[ScanPage, int]:
        shards = self._table.shards
        return scan_page(
            shards, command.cursor, command.pattern, command.count, now_ms, looks_max=looks_max
        )

    def key_count(self, now_ms: int) -> int:
        """Return the exact number of live keys, without a scan."""
        return self._table.entry_count - self._table.expiry.due_count(now_ms)

    def list_all(self, now_ms: int, bytes_max: int) -> list[tuple[bytes, bytes]] | CommandFailure:
        """Return all keys and values in key order, or a failure when that exceeds `bytes_max`.

        Counted are 4 bytes, and for each key 6 bytes, the key and the value: the payload of an
        ENTRIES reply. The refusal comes before the list is built.
        """
        table = self._table
        listed_bytes = 4 + table.content_bytes + _LIST_ENTRY_OVERHEAD_BYTES * table.entry_count
        if listed_bytes > bytes_max and not self._live_fits(now_ms, bytes_max):
            return CommandFailure(FailureCode.LIST_TOO_LARGE)
        listed: list[tuple[bytes, bytes]] = []
        for shard in table.shards:
            for key, held in shard.items():
                value = live_value(held, now_ms)
                if value is not None:
                    listed.append((key, value))
        listed.sort()
        return listed

    def _live_fits(self, now_ms: int, bytes_max: int) -> bool:
        """Tell whether the live entries fit where all entries do not; stops once they do not."""
        table = self._table
        if table.expiry.due_count(now_ms) == 0:
            return False
        listed_bytes = 4
        for shard in table.shards:
            for key, held in shard.items():
                if not 0 < expiry_of(held) <= now_ms:
                    listed_bytes += _LIST_ENTRY_OVERHEAD_BYTES + len(key) + value_bytes_of(held)
            if listed_bytes > bytes_max:
                return False
        return True

    # As a whole

    def begin_walk(self) -> ShardWalk:
        """Show all entries of now, dead ones included, while the keyspace goes on changing.

        For a snapshot (`KeyspaceDump`) or a backup (`SortedWalk`). One at a time; StorageBusyError
        otherwise.
        """
        return self._table.begin_walk()

    def abandon_walk(self) -> None:
        """End a walk that an interrupt has left without an owner, if there is one."""
        self._table.abandon_walk()

    def replace_with(self, other: Keyspace) -> None:
        """Hold what another keyspace held, which is left empty; costs no pass over the keys."""
        self.drop_restore()
        self._table.replace_with(other.table)
        self.restore, other.restore = other.restore, None

    @property
    def table(self) -> Table:
        """The map itself, for the handlers of this module and for snapshots."""
        return self._table


def _plain_sets(commands: Sequence[c.Command], start: int) -> tuple[list[bytes], list[bytes]]:
    """Return keys and values of the SETs without options that begin at `start`."""
    keys: list[bytes] = []
    values: list[bytes] = []
    for position in range(start, len(commands)):
        command = commands[position]
        if type(command) is not c.Set or command.options is not None:
            break
        keys.append(command.key)
        values.append(command.value)
    return keys, values


def _listed_bytes(entries: list[tuple[bytes, bytes]]) -> int:
    return sum(len(k) + len(v) + _LIST_ENTRY_OVERHEAD_BYTES for k, v in entries)


def _get(keyspace: Keyspace, command: c.Get, now_ms: int) -> SimpleResult:
    value = keyspace.get(command.key, now_ms)
    return Answer.NOT_FOUND if value is None else value


def _clear(keyspace: Keyspace, _command: c.Clear, _now_ms: int) -> Answer:
    keyspace.table.clear()
    return Answer.OK


def _begin_restore(keyspace: Keyspace, command: c.RestoreBegin, now_ms: int) -> Answer:
    keyspace.drop_restore()
    keyspace.restore = Restore(command.restore_id, now_ms)
    return Answer.OK


def _add_to_restore(keyspace: Keyspace, command: c.RestoreChunk, now_ms: int) -> SimpleResult:
    if keyspace.restore is None:
        return CommandFailure(FailureCode.NO_SUCH_RESTORE)
    return keyspace.restore.add(command, now_ms)


def _commit_restore(keyspace: Keyspace, command: c.RestoreCommit, _now_ms: int) -> SimpleResult:
    restore = keyspace.restore
    if restore is None or restore.restore_id != command.restore_id:
        return CommandFailure(FailureCode.NO_SUCH_RESTORE)
    if restore.chunk_count != command.chunk_count:
        keyspace.drop_restore()
        return CommandFailure(FailureCode.NO_SUCH_RESTORE)
    keyspace.restore = None
    keyspace.table.replace_with(restore.table)
    return restore.entry_count


# Every command that is carried out as a whole; EXEC is a list of those that have no part in this.
_Single: TypeAlias = c.SimpleCommand | c.RestoreCommand
_Handler: TypeAlias = Callable[[Keyspace, _Single, int], SimpleResult]
_C = TypeVar("_C", bound=_Single)


def _handler(
    kind: type[_C], handle: Callable[[Keyspace, _C, int], SimpleResult]
) -> tuple[type[_Single], _Handler]:
    """Pair a command with its handler. The cast is safe: lookups go by the command's own type."""
    return cast("tuple[type[_Single], _Handler]", (kind, handle))


_HANDLERS: Final[Mapping[type[_Single], _Handler]] = dict(
    [
        _handler(c.Set, lambda k, m, now: semantics.set_value(k.table, m, now)),
        _handler(c.SetNx, lambda k, m, now: semantics.set_unless_exists(k.table, m, now)),
        _handler(c.GetDel, lambda k, m, now: semantics.get_and_delete(k.table, m, now)),
        _handler(c.GetEx, lambda k, m, now: semantics.get_and_expire(k.table, m, now)),
        _handler(c.Del, lambda k, m, now: semantics.delete(k.table, m, now)),
        _handler(c.MSet, lambda k, m, now: semantics.set_many(k.table, m, now)),
        _handler(c.Incr, lambda k, m, now: semantics.add(k.table, m.key, 1, now)),
        _handler(c.Decr, lambda k, m, now: semantics.add(k.table, m.key, -1, now)),
        _handler(c.Expire, lambda k, m, now: semantics.expire(k.table, m, now)),
        _handler(c.Persist, lambda k, m, now: semantics.persist(k.table, m, now)),
        _handler(
            c.Rename, lambda k, m, now: semantics.rename(k.table, m.source, m.destination, now)
        ),
        _handler(c.RenameNx, lambda k, m, now: semantics.rename_unless_exists(k.table, m, now)),
        _handler(c.Clear, _clear),
        _handler(c.RestoreBegin, _begin_restore),
        _handler(c.RestoreChunk, _add_to_restore),
        _handler(c.RestoreCommit, _commit_restore),
        _handler(c.Get, _get),
        _handler(c.Exists, lambda k, m, now: k.exists(m.key, now)),
        _handler(c.MGet, lambda k, m, now: k.mget(m.keys, now)),
        _handler(c.Ttl, lambda k, m, now: k.ttl(m.key, now)),
        _handler(c.Scan, lambda k, m, now: k.scan(m.cursor, m.pattern, m.count, now)),
        _handler(c.DbSize, lambda k, _, now: k.key_count(now)),
        _handler(c.Count, lambda k, _, now: k.key_count(now)),
        _handler(c.List, lambda k, _, now: k.list_all(now, k.list_bytes_left)),
        _handler(c.Ping, lambda _k, m, _now: m.message),
    ]
)
_READS: Final = frozenset(
    {c.Get, c.Exists, c.MGet, c.Ttl, c.Scan, c.DbSize, c.Count, c.List, c.Ping}
)
_CAN_FAIL: Final = frozenset({c.Incr, c.Decr})
