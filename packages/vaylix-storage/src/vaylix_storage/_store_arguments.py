"""What a caller may hand to a store; whatever else comes is refused before anything is done.

Exactly these types, no subclasses and nothing that could be converted: the log could not be read
back with others, or memory would hold what a replay does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from vaylix_storage._engine import EngineOptions
from vaylix_storage._names import IDENTITY_NAME, KEYRING_NAME
from vaylix_storage._options import SyncPolicy
from vaylix_storage._retention import RetentionPolicy
from vaylix_storage.commands import U64_MAX, Set, SetCondition, SetOptions
from vaylix_storage.errors import BackupFileError, BackupPathError

if TYPE_CHECKING:
    from vaylix_storage._vfs import Vfs

__all__ = [
    "check_backup_path",
    "check_bytes",
    "check_number",
    "check_time",
    "engine_options",
    "set_command",
]

# The latest time that a batch may have.
_TIME_MS_MAX: Final = 2**63 - 1
# The one place in a data directory where its own files never are.
_BACKUPS_NAME: Final = "backups"


def check_bytes(*values: object) -> None:
    """Refuse keys and values that are not bytes."""
    for value in values:
        if type(value) is not bytes:
            raise TypeError(f"keys and values are bytes, not {type(value).__name__}")


def check_number(name: str, value: object, number_max: int = U64_MAX) -> None:
    """Refuse what is not a whole number without sign of at most 64 bits."""
    if type(value) is not int:
        raise TypeError(f"{name} is an int, not {type(value).__name__}")
    if not 0 <= value <= number_max:
        raise ValueError(f"{name} is not a number from 0 to {number_max}")


def check_time(now_ms: object) -> None:
    """Refuse what a clock says that is no Unix time in ms, such as `time.time() * 1000`."""
    check_number("now_ms", now_ms, _TIME_MS_MAX)


def engine_options(
    sync_policy: SyncPolicy,
    segment_bytes_max: int,
    retention: RetentionPolicy | None,
    archive_directory: Path | str | None,
) -> EngineOptions:
    """Refuse options that would be taken for something else, or only fail later."""
    _check_type("sync_policy", sync_policy, SyncPolicy)
    check_number("segment_bytes_max", segment_bytes_max)
    retention = RetentionPolicy() if retention is None else retention
    _check_type("retention", retention, RetentionPolicy)
    for name in retention.__struct_fields__:
        limit = getattr(retention, name)
        if limit is not None:
            check_number(name, limit)
    archive = None if archive_directory is None else Path(archive_directory).absolute()
    return EngineOptions(
        sync_policy=sync_policy,
        segment_bytes_max=segment_bytes_max,
        retention=retention,
        archive_directory=archive,
    )


def check_backup_path(path: Path, directory: Path, vfs: Vfs) -> None:
    """Refuse to write a backup among the files of the store in `directory`, or of another one.

    Raises BackupPathError, and BackupFileError for a place that cannot be looked at.
    """
    own = vfs.resolve(directory)
    place = vfs.resolve(path.parent.absolute()) / path.name
    for around in (place, *place.parents):
        if around / _BACKUPS_NAME in place.parents:
            continue
        if around == own:
            whose = "the store"
        elif around != place and _is_data_directory(around, vfs):
            whose = "another data directory"
        else:
            continue
        raise BackupPathError(
            f"a backup cannot be written among the files of {whose}",
            path=path,
            remedy=f"choose a path outside of {around}, or below {around / _BACKUPS_NAME}",
        )


def _is_data_directory(path: Path, vfs: Vfs) -> bool:
    try:
        return vfs.exists(path / IDENTITY_NAME) and vfs.exists(path / KEYRING_NAME)
    except OSError as error:
        raise BackupFileError(str(error), path=path) from error


def set_command(
    key: bytes,
    value: bytes,
    *,
    ttl_ms: int | None = None,
    condition: SetCondition = SetCondition.NONE,
    keep_ttl: bool = False,
    if_version: int | None = None,
) -> Set:
    """Return the command of a SET, its arguments checked."""
    check_bytes(key, value)
    if (
        ttl_ms is None
        and condition is SetCondition.NONE
        and keep_ttl is False
        and if_version is None
    ):
        return Set(key, value)
    if ttl_ms is not None:
        check_number("ttl_ms", ttl_ms)
    if if_version is not None:
        check_number("if_version", if_version)
    _check_type("condition", condition, SetCondition)
    _check_type("keep_ttl", keep_ttl, bool)
    return Set(
        key,
        value,
        SetOptions(condition=condition, ttl_ms=ttl_ms, keep_ttl=keep_ttl, if_version=if_version),
    )


def _check_type(name: str, value: object, kind: type) -> None:
    if type(value) is not kind:
        raise TypeError(f"{name} is a {kind.__name__}, not {type(value).__name__}")
