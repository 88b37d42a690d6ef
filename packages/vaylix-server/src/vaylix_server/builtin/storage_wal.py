"""Storage backend `wal`: the encrypted log and the snapshots of vaylix-storage in one directory."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from vaylix_server.errors import refusal
from vaylix_server.hookspecs import hookimpl
from vaylix_server.interfaces import StorageBackend, StorageRequest
from vaylix_storage import (
    Engine,
    EngineOptions,
    EnvKeyProvider,
    FileKeyProvider,
    KeyProvider,
    RealVfs,
    RecoveryOutcome,
    RecoveryReport,
    RetentionPolicy,
    SyncPolicy,
    find_loose_modes,
    tighten_modes,
)
from vaylix_storage.backend import wal_storage
from vaylix_storage.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_server.settings import Settings
    from vaylix_storage import Vfs
    from vaylix_storage.backend import Storage

__all__ = ["KEY_FILE_NAME", "KEY_VARIABLE", "key_provider", "open_wal", "vaylix_storage_backends"]

# Wraps the storage keys. Whoever wants to gain from encryption keeps it on another volume.
KEY_FILE_NAME = "storage.key"
KEY_VARIABLE = "VAYLIX_STORAGE_KEY"


def open_wal(request: StorageRequest) -> Storage:
    """Open or create the directory; raises `StartupError`, having changed nothing."""
    vfs, settings = RealVfs(), request.settings
    key_file = settings.key_file or request.directory / KEY_FILE_NAME
    try:
        engine = Engine.open(
            request.directory,
            vfs=vfs,
            provider=key_provider(settings.key_provider, key_file, vfs),
            options=_options(settings),
            now_ms=time.time_ns() // 1_000_000,
        )
        notes = [_describe(engine.log.recovery), *_close_modes(request.directory, key_file, vfs)]
    except StorageError as error:
        raise refusal(error) from error
    return wal_storage(engine, notes)


def key_provider(name: str, key_file: Path, vfs: Vfs) -> KeyProvider:
    """Return who wraps the storage keys: `file` or `env`."""
    if name == "env":
        return EnvKeyProvider(KEY_VARIABLE, environment=os.environ)
    return FileKeyProvider(key_file, vfs=vfs)


def _options(settings: Settings) -> EngineOptions:
    return EngineOptions(
        sync_policy=SyncPolicy(settings.wal_sync),
        segment_bytes_max=settings.wal_segment_size_bytes,
        retention=RetentionPolicy(
            segments_max=settings.wal_retain_segments,
            segment_bytes_max=settings.wal_retain_bytes,
            segment_age_ms_max=_milliseconds(settings.wal_retain_seconds),
            snapshots_max=settings.snapshot_retain,
            snapshot_age_ms_max=_milliseconds(settings.snapshot_retain_seconds),
        ),
        archive_directory=settings.wal_archive_dir,
    )


def _milliseconds(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * 1000


def _close_modes(directory: Path, key_file: Path, vfs: Vfs) -> list[str]:
    """Let nobody else in, and say where that is not possible or was not so."""
    found = find_loose_modes(directory, vfs=vfs, others=(key_file,))
    still_open = set(tighten_modes(found, vfs=vfs))
    return [
        f"{finding}" if finding in still_open else f"other users are kept out of {finding.path} now"
        for finding in found
    ]


def _describe(report: RecoveryReport) -> str:
    text = (
        f"recovered {report.entry_count} entries of {report.segment_count} segments: "
        f"{report.outcome.value}"
    )
    if report.outcome is RecoveryOutcome.TORN_TAIL:
        text += (
            f"; {report.left_out_bytes} bytes of a write that was never finished are left out, "
            f"from byte {report.left_out_offset} of {report.left_out_path}"
        )
    return text


@hookimpl
def vaylix_storage_backends() -> list[StorageBackend]:
    """Register the backend."""
    return [StorageBackend(name="wal", open=open_wal)]
