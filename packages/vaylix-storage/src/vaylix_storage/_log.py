"""The log: an encrypted, append-only sequence of batches, with the hard state of its node.

Life of a segment: it is written under a staging name (header, frames that have to be carried over,
hard state), synced, renamed to `active-<first>.wal`, and the directory is synced: only then does
it exist. It takes appends until it is large enough, until the log is cut, or until the end of the
process; then its last frame is synced, a successor is started in the same way, and it gets its
sealed name. No process ever appends to a segment that it did not start, and no byte that was
written is ever changed: a cut only means that the header of the successor says how much of the
predecessor counts.

A failed write or sync says nothing about what is on the disk, and trying again proves nothing: the
kernel may have marked the pages clean. So the first failure poisons the log for good. Only reading
the disk back, in a new process, tells the truth.
"""

from __future__ import annotations

import os
from itertools import chain
from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_storage._append_rules import check_append
from vaylix_storage._format import (
    BodyKind,
    check_vote,
    encode_body,
)
from vaylix_storage._options import LogOptions, RecoveryReport, SyncPolicy, report_of
from vaylix_storage._recovery import RecoveredLog, recover, terms_after
from vaylix_storage._segment_chain import SegmentChain
from vaylix_storage._segment_files import SegmentFiles
from vaylix_storage.errors import (
    CorruptionError,
    FileSystemError,
    LogClosedError,
    LogOrderError,
    LogPoisonedError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from vaylix_storage._batch import Batch, HardState
    from vaylix_storage._catalog import SegmentStat, TermRuns
    from vaylix_storage._kept_batches import KeptBatches
    from vaylix_storage._keyring import Keyring
    from vaylix_storage._vfs import Vfs

__all__ = ["Log"]

_TIMELINE_BYTES: Final = 16


class Log:
    """The log of one directory; `Log.open` makes one.

    One thread at a time may call what changes the log: `append`, `sync`, `rotate`,
    `truncate_after`, `reset`, `remove_before` and `close`. The properties, `segments`, `term_of`
    and `read` may be used by any thread that does not overlap with these. Two logs must never be
    open on one directory: hold its `DataDirectory`.

    What changes the log raises LogPoisonedError after the first failed write, and LogClosedError
    after `close`. What has been read before stays readable.
    """

    __slots__ = (
        "_base_index",
        "_chain",
        "_durable_index",
        "_failure",
        "_hard_state",
        "_has_let_go",
        "_is_closed",
        "_kept",
        "_must_sync",
        "_options",
        "_terms",
        "recovery",
    )

    def __init__(
        self,
        chain: SegmentChain,
        options: LogOptions,
        terms: TermRuns,
        hard_state: HardState,
        recovery: RecoveryReport,
        kept: KeptBatches,
    ) -> None:
        self.recovery = recovery
        # For the first read; None once there was one, or once the log has changed.
        self._kept: KeptBatches | None = kept
        self._chain = chain
        self._options = options
        self._base_index = 0 if options.base is None else options.base.index
        self._terms = terms
        self._hard_state = hard_state
        self._durable_index = chain.active.last_index
        self._must_sync = False
        self._is_closed = False
        self._has_let_go = False
        self._failure: BaseException | None = None

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        vfs: Vfs,
        keyring: Keyring,
        options: LogOptions,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> Log:
        """Recover the log in `directory` (usually `<data>/wal`), creating it if it is new.

        Every byte that counts is read and checked before anything is changed. Then a new segment
        is started, which also takes what was not known to be on the disk; when this returns, all
        entries are. With an installed base that the log does not reach or contradicts, all entries
        are forgotten, as by `reset`.

        For a replay, up to 64 MiB of the batches behind the base stay in memory until the first
        `read` is through with them, or until something changes the log.

        Raises CorruptionError, KeyringError, ForeignFormatError, FileSystemError.
        """
        if len(options.timeline) != _TIMELINE_BYTES:
            raise ValueError(f"a timeline has {_TIMELINE_BYTES} bytes")
        try:
            if options.must_exist and not vfs.exists(directory):
                raise _missing(directory)
            vfs.make_directory(directory)
            recovered = recover(directory, vfs, keyring, options.timeline, options.base)
            if options.must_exist and recovered.next_number == 1:
                raise _missing(directory)
            files = SegmentFiles(
                directory,
                vfs=vfs,
                keyring=keyring,
                timeline=options.timeline,
                random_bytes=random_bytes,
                next_number=recovered.next_number,
            )
            return cls._resume(files, options, recovered, keyring.active_key_id)
        except OSError as error:
            raise FileSystemError(f"cannot open the log: {error}", path=directory) from error

    @classmethod
    def _resume(
        cls, files: SegmentFiles, options: LogOptions, recovered: RecoveredLog, key_id: bytes
    ) -> Log:
        """Start the segment that this process will append to."""
        sealed = [info for info in recovered.segments if info.has_entries]
        predecessor = sealed[-1] if sealed else None
        first_index, carried = _unsynced(files, recovered)
        report = report_of(recovered, key_id)
        info, writer = files.start(predecessor, first_index, recovered.hard_state, carried)
        # The next frame has the number of carried frames, plus the one with the hard state, plus 1.
        report = msgspec.structs.replace(
            report,
            segment_count=len(sealed) + 1,
            recopied_frames=writer.position.number - 2,
        )
        emptied = [info.path for info in recovered.segments if not info.has_entries]
        files.tidy(sealed, recovered.superseded + emptied, info.path)
        chain = SegmentChain(files, sealed, info, writer)
        return cls(chain, options, recovered.terms, recovered.hard_state, report, recovered.kept)

    # Properties

    @property
    def first_index(self) -> int:
        """Index of the first entry that is held, or that the first one would have."""
        return self._chain.first_index

    @property
    def last_index(self) -> int:
        """Index of the last entry that was appended; `first_index` - 1 when empty."""
        return self._chain.active.last_index

    @property
    def durable_index(self) -> int:
        """Index of the last entry that is known to be on the disk."""
        return self._durable_index

    @property
    def hard_state(self) -> HardState:
        """The hard state that was appended last."""
        return self._hard_state

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments that count."""
        return self._chain.size_bytes

    @property
    def segment_count(self) -> int:
        """Number of segments, the active one included."""
        return len(self._chain.sealed) + 1

    @property
    def appends_at_once(self) -> bool:
        """Whether the next `append` only writes: it need not end a segment, with its syncs."""
        return not self._is_full()

    def segments(self) -> tuple[SegmentStat, ...]:
        """Return what can be said about each segment without reading it; the last is active."""
        return self._chain.stats()

    def term_of(self, index: int) -> int:
        """Return the term of an entry, or of the one before the first if that is known.

        It is known where a snapshot ends or what is before was removed. LogOrderError otherwise.
        """
        if not self.first_index - 1 <= index <= self.last_index or not self._terms.knows(index):
            raise LogOrderError(f"entry {index} is not in the log")
        return self._terms.term_of(index)

    # Writing

    def append(self, batches: Sequence[Batch], hard_state: HardState | None = None) -> None:
        """Write batches and a new hard state as one frame, with one call.

        Nothing is durable before `sync`. The batches must continue the log. Raises
        EntryTooLargeError for a payload over 16 MiB, or more than 64 MiB in all; LogOrderError for
        a gap or a falling term; CorruptionError for a batch that does not fit its checksum. After
        any of these the log is as before. With neither batches nor hard state nothing is done.
        """
        self._begin_change()
        if not batches and hard_state is None:
            return
        check_append(batches, self._chain.active.last_index, self._terms.last_term)
        if hard_state is not None:
            check_vote(hard_state.vote)
        body = encode_body(batches, hard_state)
        try:
            if self._is_full():
                self._rotate()
            writer = self._chain.writer
            start = writer.position
            writer.append(body)
        except BaseException as error:
            self._poison(error)
            raise
        self._chain.active.extend(start, writer.position, batches)
        for batch in batches:
            self._terms.note(batch.first_index, batch.term)
        if hard_state is not None:
            old = self._hard_state
            if hard_state.term != old.term or hard_state.vote != old.vote:
                self._must_sync = True
            self._hard_state = hard_state

    def sync(self) -> None:
        """Do what the sync policy asks for; see `SyncPolicy`."""
        self._check_usable()
        if self._must_sync or self._options.sync_policy is SyncPolicy.SYNC:
            try:
                self._chain.writer.sync()
            except BaseException as error:
                self._poison(error)
                raise
            self._must_sync = False
            self._durable_index = self._chain.active.last_index

    def rotate(self) -> None:
        """End the active segment if it has entries.

        All entries are on the disk when this returns, under every policy.
        """
        self._begin_change()
        if not self._chain.active.has_entries:
            return
        try:
            self._rotate()
        except BaseException as error:
            self._poison(error)
            raise

    def truncate_after(self, index: int) -> None:
        """Remove all entries after `index`, durably: a new segment says where the old one stops.

        `index` must be the end of a batch, or `first_index` - 1 to remove all; LogOrderError
        otherwise. Entries up to the base stay.
        """
        self._begin_change()
        if index == self.last_index:
            return
        if not max(self.first_index - 1, self._base_index) <= index < self.last_index:
            raise LogOrderError(f"cannot cut after entry {index}: it is not in the log")
        try:
            self._chain.cut(index, self._hard_state)
        except StorageError:
            raise
        except BaseException as error:
            self._poison(error)
            raise
        self._terms.cut_after(index)
        self._all_is_durable()

    def reset(self, index: int, term: int) -> None:
        """Forget all entries, durably; the log begins at `index` + 1. The hard state stays.

        For a snapshot that came from elsewhere and ends with entry `index` of `term`. It must be on
        the disk: from now on, the log opens only with a base that holds `index`.
        """
        self._begin_change()
        if index < 0 or term < 0:
            raise LogOrderError(f"a log cannot begin after entry {index} of term {term}")
        try:
            self._chain.reset(index, self._hard_state)
        except BaseException as error:
            self._poison(error)
            raise
        self._terms = terms_after(index, term)
        self._base_index = index
        self._all_is_durable()

    def remove_before(self, index: int) -> list[Path]:
        """Remove the sealed segments that lie wholly before `index`, oldest first, durably.

        Returns their paths. A snapshot that holds all that is removed must be on the disk: from
        now on, the log opens only with it, or a later one, as its base. Iterators that `read` has
        returned must not be used any more.
        """
        self._begin_change()
        try:
            removed = self._chain.remove_before(index)
        except BaseException as error:
            # A removal whose sync failed may come undone, and the next one would leave a hole.
            self._poison(error)
            raise
        if removed:
            self._terms.forget_before(self.first_index - 1)
        return removed

    def close(self) -> None:
        """Stop cleanly: write the closing frame, sync, and seal the name.

        A poisoned log is only let go of. Closing twice is allowed.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._failure is None:
                writer = self._chain.writer
                writer.sync()
                writer.append(encode_body((), None, BodyKind.CLOSING))
                self._chain.close_cleanly()
            self._let_go()
        except OSError as error:
            self._poison(error)
            raise

    def abandon(self) -> None:
        """Let go of the file as it is, as a kill would; the next start recovers.

        For after a failure, also one of `close`. Allowed at any time, any number of times.
        """
        self._is_closed = True
        self._let_go()

    # Reading

    def read(
        self, first_index: int, *, last_index: int | None = None, bytes_max: int | None = None
    ) -> Iterator[Batch]:
        """Return an iterator over the batches from the one that holds `first_index` on.

        It ends with the batch that holds `last_index` (None: the last entry of now), or once the
        payloads have reached `bytes_max` (None: no bound), whichever is first. It holds one frame
        and one read buffer in memory, never the log, but for what `open` has left there for the
        first read. It must not be used across `truncate_after`, `reset` and `remove_before`.
        Raises CorruptionError, also from the iterator; LogOrderError when `first_index` is not in
        the log and not the one after its end.
        """
        if not self.first_index <= first_index <= self.last_index + 1:
            raise LogOrderError(f"entry {first_index} is not in the log")
        end = self.last_index if last_index is None else min(last_index, self.last_index)
        kept, self._kept = self._kept, None
        if kept is None or not kept.holds(first_index):
            batches = self._chain.read(first_index, end)
        else:
            batches = kept.read(first_index, end)
            if kept.last_index < end:
                batches = chain(batches, self._chain.read(kept.last_index + 1, end))
        return batches if bytes_max is None else _bounded(batches, bytes_max)

    # Inside

    def _check_usable(self) -> None:
        if self._failure is not None:
            what = str(self._failure) or type(self._failure).__name__
            raise LogPoisonedError(
                f"the log stopped at an earlier failure: {what}",
                remedy="restart this node; recovery reads back what is on the disk",
            ) from self._failure
        if self._is_closed:
            raise LogClosedError("the log has been closed")

    def _begin_change(self) -> None:
        self._check_usable()
        self._kept = None

    def _let_go(self) -> None:
        # Once only: the descriptor may by now belong to somebody else.
        if not self._has_let_go:
            self._has_let_go = True
            self._chain.writer.close()

    def _poison(self, error: BaseException) -> None:
        """Stop for good; raises LogPoisonedError for an error that comes from the disk.

        Also for an interrupt in the middle of a write: the bytes may be there, so writing another
        frame in their place would use a nonce twice.
        """
        self._failure = error
        if isinstance(error, OSError):
            raise LogPoisonedError(
                f"a write to the log failed: {error}",
                remedy="restart this node; recovery reads back what is on the disk",
            ) from error

    def _is_full(self) -> bool:
        bound = self._options.segment_bytes_max
        return 0 < bound <= self._chain.writer.position.offset and self._chain.active.has_entries

    def _rotate(self) -> None:
        self._chain.rotate(self._hard_state)
        self._all_is_durable()

    def _all_is_durable(self) -> None:
        self._durable_index = self._chain.active.last_index
        self._must_sync = False


def _unsynced(
    files: SegmentFiles, recovered: RecoveredLog
) -> tuple[int, Iterator[Sequence[Batch]]]:
    """Return the first index and the frames of batches that the new segment must take over."""
    newest, whole_end = recovered.newest, recovered.whole_end
    if newest is None or whole_end is None:
        return recovered.next_index, iter(())
    frames = files.read_frames(newest, newest.end, whole_end)
    return newest.last_index + 1, (batches for _, _, batches in frames if batches)


def _bounded(batches: Iterator[Batch], bytes_max: int) -> Iterator[Batch]:
    payload_bytes = 0
    for batch in batches:
        yield batch
        payload_bytes += len(batch.payload)
        if payload_bytes >= bytes_max:
            return


def _missing(directory: Path) -> CorruptionError:
    return CorruptionError(
        "the log of this node is missing",
        path=directory,
        offset=0,
        remedy="bring back the files of the log, or restore the directory from a backup",
    )
