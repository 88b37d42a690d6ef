"""`vaylix storage`: verify, repair, copy, migrate and dump a data directory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from vaylix_server.machine import describe_batch
from vaylix_server.tools._common import (
    EXIT_CORRUPT,
    PathOption,
    data_dir_option,
    emit,
    errors_reported,
    free_bytes,
    key_options,
    now_ms,
    output_option,
    progress,
    provider_for,
    provider_of,
)
from vaylix_server.tools._migrated_state import migrated_sections
from vaylix_storage import RealVfs
from vaylix_storage.format3 import MigrationHooks, migrate
from vaylix_storage.offline import (
    DumpDamage,
    State,
    copy_directory,
    describe,
    dump_log,
    repair_directory,
    verify_directory,
)

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_storage import Batch
    from vaylix_storage.offline import JsonValue, RepairPlan, Verification

__all__ = ["storage"]


@click.group()
def storage() -> None:
    """Look after a data directory that no server uses."""


@storage.command("verify")
@data_dir_option
@key_options
@output_option
@click.option("--live", is_flag=True, help="Look at a directory in use, too; its end moves.")
def verify_command(
    data_dir: Path, key_provider: str, key_file: Path | None, output: str, *, live: bool
) -> None:
    """Read every byte and change nothing; tell clean, torn and corrupt apart (exit 8)."""
    with errors_reported():
        found = verify_directory(
            data_dir,
            vfs=RealVfs(),
            provider=provider_of(key_provider, key_file, data_dir),
            live=live,
            progress=progress(),
        )
    _show(found, output)
    sys.exit(EXIT_CORRUPT if found.state is State.CORRUPT else 0)


@storage.command("repair")
@data_dir_option
@key_options
@output_option
@click.option("--yes", is_flag=True, help="Do it; without this, only the price is shown.")
def repair_command(
    data_dir: Path, key_provider: str, key_file: Path | None, output: str, *, yes: bool
) -> None:
    """Give up a damaged tail or a spare snapshot, after showing what is lost; keeps copies."""

    def confirm(plan: RepairPlan) -> bool:
        for line in plan.lines():
            click.echo(line, err=True)
        if not yes:
            click.echo("nothing was changed; say --yes to do it", err=True)
        return yes

    with errors_reported():
        result = repair_directory(
            data_dir,
            vfs=RealVfs(),
            provider=provider_of(key_provider, key_file, data_dir),
            confirm=confirm,
            now_ms=now_ms(),
            progress=progress(),
        )
    if output == "json":
        emit(result.as_json())
    else:
        _show(result.verification, output)
    sys.exit(EXIT_CORRUPT if result.verification.state is State.CORRUPT else 0)


@storage.command("copy")
@data_dir_option
@click.option("--target-dir", type=PathOption(), required=True, help="Where to.")
@key_options
@output_option
def copy_command(
    data_dir: Path, target_dir: Path, key_provider: str, key_file: Path | None, output: str
) -> None:
    """Copy a directory consistently, also one in use.

    The copy is the same node: never start it beside the original. It is for keeping, and for
    `pitr restore`.
    """
    with errors_reported():
        result = copy_directory(
            data_dir,
            target_dir,
            vfs=RealVfs(),
            provider_for=provider_for(key_provider, key_file),
            progress=progress(),
        )
    if output == "json":
        emit(result.as_json())
        return
    _show(result.verification, output)
    if not result.has_key:
        click.echo("the key lies elsewhere and was not copied", err=True)


@storage.command("migrate")
@data_dir_option
@key_options
@output_option
def migrate_command(data_dir: Path, key_provider: str, key_file: Path | None, output: str) -> None:
    """Convert a directory of Vaylix 0.9, and keep the original as <data-dir>.format3."""
    with errors_reported():
        report = migrate(
            data_dir,
            vfs=RealVfs(),
            provider_factory=provider_for(key_provider, key_file),
            sections=migrated_sections,
            now_ms=now_ms(),
            hooks=MigrationHooks(
                warn=lambda text: click.echo(f"warning: {text}", err=True),
                progress=progress(),
                free_bytes=free_bytes,
            ),
        )
        found = verify_directory(
            data_dir,
            vfs=RealVfs(),
            provider=provider_of(key_provider, key_file, data_dir),
            progress=progress(),
        )
    if output == "json":
        emit(msgspec.json.encode({"migration": report, "values": found.report.values()}))
        return
    for line in found.report.lines():
        emit(line)
    original = "" if report.original is None else f"; the original is kept in {report.original}"
    click.echo(f"{report.outcome.value}: {report.key_count} keys{original}", err=True)


@storage.command("dump")
@data_dir_option
@key_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--live", is_flag=True, help="Look at a directory in use, too; its end moves.")
def dump_command(
    data_dir: Path, key_provider: str, key_file: Path | None, *, as_json: bool, live: bool
) -> None:
    """Print every entry of the log; passwords and their hashes are left out."""
    is_damaged = False
    with errors_reported():
        for record in dump_log(
            data_dir,
            vfs=RealVfs(),
            provider=provider_of(key_provider, key_file, data_dir),
            decode=_decode,
            live=live,
        ):
            is_damaged |= isinstance(record, DumpDamage)
            emit(msgspec.json.encode(record) if as_json else str(record))
    sys.exit(EXIT_CORRUPT if is_damaged else 0)


def _decode(batch: Batch) -> list[JsonValue]:
    return [describe(value) for value in describe_batch(batch)]


def _show(found: Verification, output: str) -> None:
    if output == "json":
        emit(found.as_json())
        return
    for line in found.report.lines():
        emit(line)
    emit(f"state={found.state.value}")
    if found.left_out is not None:
        left = found.left_out
        click.echo(
            f"{left.path}: {left.bytes} bytes from byte {left.offset} on were never wholly "
            "written; a start leaves them out",
            err=True,
        )
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    for problem in found.problems:
        click.echo(f"[{problem.code}] {problem.name}: {problem}", err=True)
