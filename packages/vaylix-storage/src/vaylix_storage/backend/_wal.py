"""The backend that keeps its promises: the encrypted log and the snapshots of one directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_storage._keyspace import Keyspace
from vaylix_storage.backend._interface import Storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaylix_storage._engine import Engine, RetentionPlan
    from vaylix_storage._snapshot import SnapshotReader, SnapshotWriter
    from vaylix_storage._snapshot_format import SnapshotMeta

__all__ = ["wal_storage"]


def wal_storage(engine: Engine, notes: Sequence[str] = ()) -> Storage:
    """Return an opened engine as a backend. From now on nobody else may use it."""
    return Storage(
        log=engine.log,
        snapshots=_Snapshots(engine),
        keyspace=Keyspace(),
        node_id=engine.directory.identity.node_id,
        encryption_key_id=engine.keyring.active_key_id.hex(),
        close=engine.close,
        abandon=engine.abandon,
        notes=tuple(notes),
    )


class _Snapshots:
    """The snapshots of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer: SnapshotWriter | None = None
        self._plan: RetentionPlan | None = None

    @property
    def current(self) -> SnapshotMeta | None:
        entry = self._engine.manifest.current
        return None if entry is None else entry.meta

    def open_current(self) -> SnapshotReader | None:
        return self._engine.open_snapshot()

    def create(self, meta: SnapshotMeta) -> SnapshotWriter:
        self._writer = self._engine.create_snapshot(meta)
        return self._writer

    def commit(self, now_ms: int) -> None:
        assert self._writer is not None, "no snapshot was begun"
        assert self._writer.info is not None, "the snapshot has not been finished"
        self._engine.commit_snapshot(self._writer.info)
        self._plan = self._engine.plan_retention(None, now_ms)

    def archive(self) -> None:
        if self._plan is not None:
            self._engine.archive(self._plan)

    def prune(self) -> None:
        if self._plan is not None:
            self._engine.remove(self._plan)
            self._plan = None
