"""The offline tools: what can be done with a data directory that no server uses.

`verify_directory` reads everything and changes nothing. `repair_directory` gives up what is damaged
and not needed, after it has shown the price, and keeps copies. `copy_directory` makes a consistent
copy, also of a directory that a server is using. `dump_log` shows every entry.
"""

from vaylix_storage.offline.copying import CopyResult, copy_directory
from vaylix_storage.offline.dump import (
    DumpDamage,
    DumpEntry,
    DumpHardState,
    DumpRecord,
    DumpSegment,
    JsonValue,
    decode_store_batch,
    describe,
    dump_log,
)
from vaylix_storage.offline.history import History, Interval, PastSegment, PastSnapshot
from vaylix_storage.offline.keys import (
    KeyStatus,
    KeyUse,
    key_status,
    rewrap_keys,
    rotate_keys,
)
from vaylix_storage.offline.pitr import (
    Point,
    RestoreOptions,
    RestoreResult,
    Window,
    cut_store_batch,
    inspect,
    restore,
    window_of,
)
from vaylix_storage.offline.progress import Progress, RateLimited, no_progress
from vaylix_storage.offline.repair import (
    DroppedSnapshot,
    LostTail,
    RepairPlan,
    RepairResult,
    repair_directory,
)
from vaylix_storage.offline.report import SegmentFacts, SnapshotFacts, StorageReport
from vaylix_storage.offline.verify import LeftOut, Problem, State, Verification, verify_directory

__all__ = [
    "CopyResult",
    "DroppedSnapshot",
    "DumpDamage",
    "DumpEntry",
    "DumpHardState",
    "DumpRecord",
    "DumpSegment",
    "History",
    "Interval",
    "JsonValue",
    "KeyStatus",
    "KeyUse",
    "LeftOut",
    "LostTail",
    "PastSegment",
    "PastSnapshot",
    "Point",
    "Problem",
    "Progress",
    "RateLimited",
    "RepairPlan",
    "RepairResult",
    "RestoreOptions",
    "RestoreResult",
    "SegmentFacts",
    "SnapshotFacts",
    "State",
    "StorageReport",
    "Verification",
    "Window",
    "copy_directory",
    "cut_store_batch",
    "decode_store_batch",
    "describe",
    "dump_log",
    "inspect",
    "key_status",
    "no_progress",
    "repair_directory",
    "restore",
    "rewrap_keys",
    "rotate_keys",
    "verify_directory",
    "window_of",
]
