"""Making a corrupt directory usable again, at a price that is shown before.

Two things can be given up: the tail of the newest segment from the first damaged byte on, and
snapshots that are damaged while older ones, or none, and the log lead to the same state. Everything
else is refused with its remedy: a hole in the middle of the log, a lost keyring or manifest.

A plan is tried before it is made: the directory as it would be afterwards is examined, and only
what would then be clean or torn is offered. The steps, each on the disk before the next:

1. every file that will change or go is copied to `<path>.repair-<time>`;
2. what stays of the newest segment is written under a staging name;
3. a segment with the name of a clean stop gets that of an active one, since its end is cut;
4. the staged file takes its place;
5. the manifest is replaced;
6. snapshots that it does not name any more are removed.

A crash before 4 leaves a directory as corrupt as it was, after it one that is repaired a little
more with each step; in each case the same work can be done again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_storage._catalog import STAGING_NAME, NameKind, active_name, parse_segment_name
from vaylix_storage._directory import lock_directory
from vaylix_storage._manifest import Manifest, encode_manifest
from vaylix_storage._names import MANIFEST_NAME, SNAPSHOTS_NAME, WAL_NAME
from vaylix_storage._staging import copy_file, sibling
from vaylix_storage._vfs import create_file_durably, replace_file_durably
from vaylix_storage.errors import CorruptionError, FileSystemError
from vaylix_storage.offline._examination import Examination, Problem
from vaylix_storage.offline._lost_entries import last_known_index
from vaylix_storage.offline._read_only import PlannedVfs, ReadOnlyVfs
from vaylix_storage.offline._segments import SegmentWalk, read_segments
from vaylix_storage.offline.progress import Progress, no_progress
from vaylix_storage.offline.verify import State, Verification, check_is_directory, examine

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_storage._key_providers import KeyProvider
    from vaylix_storage._vfs import Vfs

__all__ = ["DroppedSnapshot", "LostTail", "RepairPlan", "RepairResult", "repair_directory"]

_COPY_BYTES: Final = 1024 * 1024
_PLAN_NAME: Final = "repair.txt"


class LostTail(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the newest segment, to be cut.

    Entries from `first_index` on are lost, up to `last_index` as far as is known; None if nothing
    is known of any. `commit_index` is the last one that was known to be committed.
    """

    path: Path
    offset: int
    bytes: int
    first_index: int
    last_index: int | None
    commit_index: int | None
    # What the rest will be called.
    new_path: Path

    def __str__(self) -> str:
        if self.last_index is None:
            what = f"whatever followed entry {self.first_index - 1}, if anything did"
        elif self.last_index < self.first_index:
            what = "no entry that is known"
        else:
            what = f"entries {self.first_index} to {self.last_index}, and what followed, if any did"
        return (
            f"{self.path}: cut {self.bytes} bytes from byte {self.offset} on; this loses {what}; "
            f"committed as far as the rest tells: {self.commit_index}"
        )


class DroppedSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A damaged snapshot, to be forgotten; no data are lost by that."""

    path: Path
    index: int

    def __str__(self) -> str:
        return (
            f"{self.path}: forget this snapshot of entry {self.index}; no data are lost, but a "
            "point in time that needs it is"
        )


class RepairPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong, what would be given up, and what there would be then."""

    path: Path
    problems: tuple[Problem, ...]
    tail: LostTail | None
    snapshots: tuple[DroppedSnapshot, ...]
    copies: Path
    result: Verification

    def lines(self) -> list[str]:
        """Return the plan for people."""
        steps = [str(self.tail)] if self.tail is not None else []
        steps += [str(snapshot) for snapshot in self.snapshots]
        return [*steps, f"{self.copies}: gets a copy of every file as it is now"]


class RepairResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was done. Without a plan nothing was to be done; `is_done` is False if refused."""

    plan: RepairPlan | None
    is_done: bool
    verification: Verification

    def as_json(self) -> bytes:
        """Return all of it for programs."""
        return msgspec.json.encode(self, enc_hook=str)


def repair_directory(
    path: Path,
    *,
    vfs: Vfs,
    provider: KeyProvider,
    confirm: Callable[[RepairPlan], bool],
    now_ms: int,
    progress: Progress = no_progress,
) -> RepairResult:
    """Repair a corrupt directory if that is possible, and if `confirm` agrees to the price.

    Raises CorruptionError with a remedy for what cannot be repaired, and what `verify_directory`
    raises; then nothing was changed. After a crash the same call does the rest.
    """
    try:
        check_is_directory(path, vfs)
        lock = lock_directory(path / "LOCK", vfs)
        try:
            repair = _Repair(path, vfs, provider, progress)
            plan = repair.plan(sibling(path, f".repair-{now_ms}", vfs))
            if plan is None or not confirm(plan):
                return RepairResult(plan=plan, is_done=False, verification=repair.found)
            repair.carry_out(plan)
            return RepairResult(plan=plan, is_done=True, verification=repair.check())
        finally:
            lock.release()
    except OSError as error:
        raise FileSystemError(
            f"cannot be repaired: {error}",
            path=path,
            remedy="when that is remedied, repair it again; copies of what was changed are beside",
        ) from error


class _Repair:
    """One repair of a directory that is locked. Raises OSError, too."""

    def __init__(self, path: Path, vfs: Vfs, provider: KeyProvider, progress: Progress) -> None:
        self._path = path
        self._vfs = vfs
        self._provider = provider
        self._progress = progress
        self._manifest_path = path / MANIFEST_NAME
        self._manifest_content: bytes | None = None
        self.found = examine(path, ReadOnlyVfs(vfs), provider, progress)

    def plan(self, copies: Path) -> RepairPlan | None:
        """Return what to do, None for nothing; raise if nothing helps."""
        if self.found.state is not State.CORRUPT:
            return None
        examination = Examination(self._path, ReadOnlyVfs(self._vfs), self._provider)
        examination.run()
        snapshots = self._bad_snapshots()
        if examination.keyring is None or examination.manifest is None:
            raise self._refusal(self.found.problems[0])
        if snapshots:
            indexes = {snapshot.index for snapshot in snapshots}
            kept = [
                entry for entry in examination.manifest.snapshots if entry.meta.index not in indexes
            ]
            manifest = Manifest(examination.manifest.timeline, tuple(kept))
            self._manifest_content = encode_manifest(manifest, examination.keyring)
        tail = self._find_tail(examination)
        result = self._result_of(tail, snapshots)
        if result.state is State.CORRUPT:
            # What would be missing then is no damage of its own.
            causes = [problem for problem in self.found.problems if problem in result.problems]
            raise self._refusal((causes or self.found.problems)[0])
        return RepairPlan(
            path=self._path,
            problems=self.found.problems,
            tail=tail,
            snapshots=snapshots,
            copies=copies,
            result=result,
        )

    def _bad_snapshots(self) -> tuple[DroppedSnapshot, ...]:
        return tuple(
            DroppedSnapshot(path=Path(facts.path), index=facts.index)
            for facts in self.found.report.snapshots
            if not facts.is_whole
        )

    def _find_tail(self, examination: Examination) -> LostTail | None:
        """Return what is to be cut of the newest segment, if its end is damaged."""
        assert examination.keyring is not None
        wal = self._path / WAL_NAME
        if examination.identity is None or not self._vfs.exists(wal):
            return None
        segments = read_segments(
            wal,
            vfs=self._vfs,
            keyring=examination.keyring,
            timeline=bytes.fromhex(examination.identity.timeline),
        )
        if not segments.chain:
            return None
        info = segments.chain[-1]
        walk = SegmentWalk(info, None)
        try:
            for _ in walk.frames(self._vfs):
                pass
        except CorruptionError:
            parsed = parse_segment_name(info.path.name)
            assert parsed is not None
            if not walk.is_begun or parsed[1] is NameKind.SEALED:
                return None
        else:
            return None
        assert walk.hard_state is not None
        new_path = info.path if walk.is_closed else wal / active_name(info.first_index)
        return LostTail(
            path=info.path,
            offset=walk.good_end.offset,
            bytes=max(walk.file_bytes - walk.good_end.offset, 0),
            first_index=walk.next_index,
            last_index=last_known_index(info, walk.good_end, self._vfs),
            commit_index=walk.hard_state.commit,
            new_path=new_path,
        )

    def _result_of(
        self, tail: LostTail | None, snapshots: tuple[DroppedSnapshot, ...]
    ) -> Verification:
        """Examine the directory as it would be."""
        removed = {snapshot.path for snapshot in snapshots}
        cut = {}
        if tail is not None:
            removed.add(tail.path)
            cut[tail.new_path] = (tail.path, tail.offset)
        put = {}
        if self._manifest_content is not None:
            put[self._manifest_path] = self._manifest_content
        planned = PlannedVfs(self._vfs, removed=frozenset(removed), cut=cut, put=put)
        return examine(self._path, planned, self._provider, self._progress)

    def _refusal(self, problem: Problem) -> CorruptionError:
        return CorruptionError(
            f"this cannot be repaired without losing the data behind it: {problem.reason}",
            path=problem.path,
            offset=problem.offset,
            remedy=problem.remedy,
        )

    # Carrying it out

    def carry_out(self, plan: RepairPlan) -> None:
        """Do what the plan says."""
        self._copy(plan)
        if plan.tail is not None:
            self._cut(plan.tail)
        if self._manifest_content is not None:
            replace_file_durably(self._vfs, self._manifest_path, self._manifest_content)
        for snapshot in plan.snapshots:
            if self._vfs.exists(snapshot.path):
                self._vfs.unlink(snapshot.path)
        if plan.snapshots:
            self._vfs.sync_directory(self._path / SNAPSHOTS_NAME)

    def _copy(self, plan: RepairPlan) -> None:
        """Keep every file that will change or go, and the plan."""
        vfs = self._vfs
        if vfs.exists(plan.copies):
            raise FileSystemError("this name is taken", path=plan.copies, remedy="take it away")
        paths = [snapshot.path for snapshot in plan.snapshots if vfs.exists(snapshot.path)]
        if plan.tail is not None:
            paths.append(plan.tail.path)
        if self._manifest_content is not None:
            paths.append(self._manifest_path)
        for path in paths:
            target = plan.copies / path.relative_to(self._path)
            vfs.make_directory(target.parent)
            copy_file(path, target, vfs)
            vfs.sync_directory(target.parent)
        vfs.make_directory(plan.copies)
        text = "\n".join((*map(str, plan.problems), *plan.lines(), ""))
        create_file_durably(vfs, plan.copies / _PLAN_NAME, text.encode())

    def _cut(self, tail: LostTail) -> None:
        """Put the first bytes of the newest segment in its place."""
        vfs, wal = self._vfs, self._path / WAL_NAME
        staging = wal / STAGING_NAME
        if vfs.exists(staging):
            vfs.unlink(staging)
        reader = vfs.open(tail.path)
        try:
            writer = vfs.create(staging)
            try:
                offset = 0
                while offset < tail.offset:
                    data = reader.read_at(offset, min(_COPY_BYTES, tail.offset - offset))
                    writer.write_at(offset, data)
                    offset += len(data)
                writer.sync()
            finally:
                writer.close()
        finally:
            reader.close()
        if tail.new_path != tail.path:
            vfs.rename(tail.path, tail.new_path)
            vfs.sync_directory(wal)
        vfs.rename(staging, tail.new_path)
        vfs.sync_directory(wal)

    def check(self) -> Verification:
        """Examine what has become of it."""
        verification = examine(self._path, ReadOnlyVfs(self._vfs), self._provider, self._progress)
        if verification.state is State.CORRUPT:
            problem = verification.problems[0]
            raise CorruptionError(
                f"it is still damaged after the repair: {problem.reason}",
                path=problem.path,
                offset=problem.offset,
                remedy="check the disk and the memory of this machine",
            )
        return verification
