"""`vaylix keys`: the keys that a data directory is encrypted with."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
import msgspec

from vaylix_server.builtin.storage_wal import KEY_FILE_NAME, KEY_VARIABLE
from vaylix_server.tools._common import (
    PathOption,
    data_dir_option,
    emit,
    errors_reported,
    key_options,
    now_ms,
    output_option,
    provider_of,
)
from vaylix_storage import EnvKeyProvider, FileKeyProvider, RealVfs
from vaylix_storage.offline import key_status, rewrap_keys, rotate_keys

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_storage import KeyProvider
    from vaylix_storage.offline import KeyStatus

__all__ = ["keys"]

# Both sides of a rewrap may be variables, and are never the same one.
NEW_KEY_VARIABLE = "VAYLIX_NEW_STORAGE_KEY"

_archive_option = click.option(
    "--wal-archive-dir",
    type=PathOption(),
    envvar="VAYLIX_WAL_ARCHIVE_DIR",
    help="Archive whose files need their keys, too.",
)


@click.group()
def keys() -> None:
    """Show and change the keys of a data directory that no server uses."""


@keys.command("status")
@data_dir_option
@key_options
@_archive_option
@output_option
def status_command(
    data_dir: Path,
    key_provider: str,
    key_file: Path | None,
    wal_archive_dir: Path | None,
    output: str,
) -> None:
    """Show every storage key: its age, who wraps it, and whether anything needs it."""
    with errors_reported():
        status = key_status(
            data_dir,
            vfs=RealVfs(),
            provider=provider_of(key_provider, key_file, data_dir),
            archive=wal_archive_dir,
            key_file=key_file,
        )
    _show(status, output)


@keys.command("rotate")
@data_dir_option
@key_options
@_archive_option
@click.option(
    "--no-wal-archive", is_flag=True, help="There is no archive that would need retired keys."
)
@output_option
def rotate_command(
    *,
    data_dir: Path,
    key_provider: str,
    key_file: Path | None,
    wal_archive_dir: Path | None,
    no_wal_archive: bool,
    output: str,
) -> None:
    """Make a new storage key the active one, and drop those that nothing needs any more.

    What is on disk stays as it is: segments and snapshots get the new key as they are written. An
    archive that is not named could not be read any more, so without --wal-archive-dir or
    --no-wal-archive nothing is dropped.
    """
    if no_wal_archive and wal_archive_dir is not None:
        raise click.UsageError("say one of --wal-archive-dir and --no-wal-archive")
    can_drop = no_wal_archive or (wal_archive_dir is not None and wal_archive_dir.is_dir())
    with errors_reported():
        status = rotate_keys(
            data_dir,
            vfs=RealVfs(),
            provider=provider_of(key_provider, key_file, data_dir),
            archive=wal_archive_dir,
            drop=can_drop,
            now_ms=now_ms(),
        )
    _show(status, output)
    unused = sum(not (key.is_in_use or key.is_active) for key in status.keys)
    if unused and not can_drop:
        click.echo(
            f"{unused} retired keys that this directory does not need were kept: name an archive "
            "that exists with --wal-archive-dir, or say --no-wal-archive, to drop them",
            err=True,
        )


@keys.command("rewrap")
@data_dir_option
@key_options
@click.option(
    "--new-key-provider",
    type=click.Choice(["file", "env"]),
    default="file",
    show_default=True,
    help="Who shall wrap the storage keys from now on; "
    f"`env` takes the variable {NEW_KEY_VARIABLE}.",
)
@click.option(
    "--new-key-file",
    type=PathOption(),
    help="Key file to wrap them by, made if it is missing; else the present one gets a new key.",
)
@output_option
def rewrap_command(
    data_dir: Path,
    key_provider: str,
    key_file: Path | None,
    new_key_provider: str,
    new_key_file: Path | None,
    output: str,
) -> None:
    """Wrap the storage keys by another key; when it is interrupted, the same call does the rest."""
    with errors_reported():
        old = provider_of(key_provider, key_file, data_dir)
        new = _new_provider(old, key_file, new_key_provider, new_key_file, data_dir)
        status = rewrap_keys(data_dir, vfs=RealVfs(), old=old, new=new)
    _show(status, output)
    if new_key_provider == "env":
        advice = f"--key-provider env, and in {KEY_VARIABLE} what {NEW_KEY_VARIABLE} holds now"
        click.echo(f"start the server with {advice}", err=True)
    elif new_key_file is not None:
        click.echo(f"start the server with --key-file {new_key_file}", err=True)
    elif key_provider == "env":
        click.echo(f"the key is in {data_dir / KEY_FILE_NAME} now", err=True)


def _new_provider(
    old: KeyProvider,
    old_file: Path | None,
    name: str,
    new_file: Path | None,
    data_dir: Path,
) -> KeyProvider:
    """Return who shall wrap the keys; UsageError where that makes no sense or no difference."""
    if name == "env":
        if new_file is not None:
            raise click.UsageError(
                "--new-key-file has no meaning with another --new-key-provider than file"
            )
        keys = {os.environ.get(variable, "") for variable in (KEY_VARIABLE, NEW_KEY_VARIABLE)}
        if isinstance(old, EnvKeyProvider) and len(keys) == 1 and keys != {""}:
            raise click.UsageError(f"{NEW_KEY_VARIABLE} holds the key that {KEY_VARIABLE} holds")
        return EnvKeyProvider(NEW_KEY_VARIABLE, environment=os.environ)
    if isinstance(old, FileKeyProvider):
        if new_file is None:
            return old.next_key()
        if new_file.resolve() == (old_file or data_dir / KEY_FILE_NAME).resolve():
            raise click.UsageError(
                "--new-key-file is the present key file; leave it out to put a new key there"
            )
    return FileKeyProvider(new_file or data_dir / KEY_FILE_NAME, vfs=RealVfs())


def _show(status: KeyStatus, output: str) -> None:
    if output == "json":
        emit(msgspec.json.encode(status))
        return
    for key in status.keys:
        made = datetime.fromtimestamp(key.created_at_ms / 1000, UTC).isoformat(timespec="seconds")
        what = "active" if key.is_active else "in use" if key.is_in_use else "not needed"
        age = max(now_ms() - key.created_at_ms, 0) // 86_400_000
        emit(
            f"{key.key_id} {what:<10} made {made}, {age} days ago, wrapped by "
            f"{', '.join(key.providers)}, named by {len(key.used_by)} files"
        )
    for key_id in status.dropped:
        emit(f"{key_id} dropped")
    for finding in status.loose_modes:
        click.echo(f"warning: {finding}", err=True)
    sys.stdout.flush()
