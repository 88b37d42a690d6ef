"""The durable half of Vaylix: an embedded database, and the encrypted log and keyspace under it.

Usable alone. Nothing here knows a network, an event loop or a plugin system; files are reached
through `Vfs` only, and clocks and randomness are passed in.
"""

from vaylix_storage._archive import (
    ArchivedSegment,
    ArchivedSnapshot,
    ArchivedTimeline,
    archive_segment,
    archive_snapshot,
    list_archive,
)
from vaylix_storage._batch import ENTRY_BYTES_MAX, Batch, BatchKind, HardState
from vaylix_storage._build import IS_COMPILED
from vaylix_storage._catalog import SegmentStat
from vaylix_storage._directory import DataDirectory, NodeIdentity
from vaylix_storage._engine import Engine, EngineOptions, RetentionPlan
from vaylix_storage._key_providers import EnvKeyProvider, FileKeyProvider, KeyProvider
from vaylix_storage._keyring import KeyInfo, Keyring
from vaylix_storage._keyring_changes import drop_keys, rewrap_keyring, rotate_keyring
from vaylix_storage._keys_in_use import key_ids_in_use
from vaylix_storage._keyspace import Keyspace
from vaylix_storage._keyspace_snapshot import KeyspaceDump, KeyspaceLoader, load_keyspace_chunk
from vaylix_storage._log import Log
from vaylix_storage._manifest import Manifest, ManifestEntry
from vaylix_storage._options import LogBase, LogOptions, RecoveryReport, SyncPolicy
from vaylix_storage._permissions import ModeFinding, find_loose_modes, tighten_modes
from vaylix_storage._recovery import RecoveryOutcome
from vaylix_storage._results import (
    Answer,
    CommandFailure,
    ExecResult,
    FailureCode,
    Result,
    ScanPage,
    SimpleResult,
)
from vaylix_storage._retention import RetentionPolicy
from vaylix_storage._shard_walk import ShardWalk
from vaylix_storage._snapshot import SnapshotInfo, SnapshotReader, SnapshotWriter
from vaylix_storage._snapshot_format import SectionCounts, SnapshotMeta
from vaylix_storage._vfs import File, Lock, RealVfs, Vfs
from vaylix_storage.store import Store, StoreBatch

__all__ = [
    "ENTRY_BYTES_MAX",
    "IS_COMPILED",
    "Answer",
    "ArchivedSegment",
    "ArchivedSnapshot",
    "ArchivedTimeline",
    "Batch",
    "BatchKind",
    "CommandFailure",
    "DataDirectory",
    "Engine",
    "EngineOptions",
    "EnvKeyProvider",
    "ExecResult",
    "FailureCode",
    "File",
    "FileKeyProvider",
    "HardState",
    "KeyInfo",
    "KeyProvider",
    "Keyring",
    "Keyspace",
    "KeyspaceDump",
    "KeyspaceLoader",
    "Lock",
    "Log",
    "LogBase",
    "LogOptions",
    "Manifest",
    "ManifestEntry",
    "ModeFinding",
    "NodeIdentity",
    "RealVfs",
    "RecoveryOutcome",
    "RecoveryReport",
    "Result",
    "RetentionPlan",
    "RetentionPolicy",
    "ScanPage",
    "SectionCounts",
    "SegmentStat",
    "ShardWalk",
    "SimpleResult",
    "SnapshotInfo",
    "SnapshotMeta",
    "SnapshotReader",
    "SnapshotWriter",
    "Store",
    "StoreBatch",
    "SyncPolicy",
    "Vfs",
    "archive_segment",
    "archive_snapshot",
    "drop_keys",
    "find_loose_modes",
    "key_ids_in_use",
    "list_archive",
    "load_keyspace_chunk",
    "rewrap_keyring",
    "rotate_keyring",
    "tighten_modes",
]
