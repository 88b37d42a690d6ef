"""What a program that keeps its state in a log needs from storage, and two that fulfil it.

Whoever writes a third one proves it with `vaylix_storage.testing.BACKEND_CHECKS`.
"""

from vaylix_storage.backend._interface import (
    LogPort,
    SnapshotPort,
    SnapshotSink,
    SnapshotSource,
    Storage,
)
from vaylix_storage.backend._memory import memory_storage
from vaylix_storage.backend._wal import wal_storage

__all__ = [
    "LogPort",
    "SnapshotPort",
    "SnapshotSink",
    "SnapshotSource",
    "Storage",
    "memory_storage",
    "wal_storage",
]
