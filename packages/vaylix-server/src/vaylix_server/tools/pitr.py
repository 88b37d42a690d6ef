"""`vaylix pitr`: what of the past can be brought back, and bringing it back."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
import msgspec

from vaylix_server.machine import cut_batch
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
from vaylix_storage import RealVfs
from vaylix_storage.offline import (
    Point,
    RestoreOptions,
    cut_store_batch,
    inspect,
    restore,
    verify_directory,
    window_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_storage import Batch, KeyProvider
    from vaylix_storage.offline import History, RestoreResult, Window

__all__ = ["pitr"]

_archive_option = click.option(
    "--wal-archive-dir",
    type=PathOption(),
    envvar="VAYLIX_WAL_ARCHIVE_DIR",
    help="Archive to read, too.",
)


@click.group()
def pitr() -> None:
    """Bring back an earlier state of a data directory that no server uses."""


@pitr.command("inspect")
@data_dir_option
@key_options
@_archive_option
@output_option
@click.option("--live", is_flag=True, help="Look at a directory in use, too; its end moves.")
def inspect_command(
    data_dir: Path,
    key_provider: str,
    key_file: Path | None,
    wal_archive_dir: Path | None,
    output: str,
    *,
    live: bool,
) -> None:
    """Show which points in time can be restored, read from the records themselves."""
    provider = provider_of(key_provider, key_file, data_dir)
    with errors_reported():
        history = inspect(
            data_dir,
            vfs=RealVfs(),
            provider=provider,
            archive=wal_archive_dir,
            live=live,
            progress=progress(),
        )
        report = verify_directory(
            data_dir, vfs=RealVfs(), provider=provider, live=live, progress=progress()
        ).report
    window = window_of(history)
    for problem in history.problems:
        click.echo(f"not of use: {problem}", err=True)
    if output == "json":
        details = {
            "values": report.values(),
            "window": window,
            "timeline": history.timeline.hex(),
            "snapshots": [msgspec.to_builtins(part, enc_hook=_plain) for part in history.snapshots],
            "lost_snapshots": [
                msgspec.to_builtins(part, enc_hook=_plain) for part in history.lost_snapshots
            ],
            "segments": [msgspec.to_builtins(part, enc_hook=_plain) for part in history.segments],
            "other_timelines": history.other_timelines,
            "problems": history.problems,
            "notes": history.notes,
        }
        emit(msgspec.json.encode(details))
    else:
        for line in report.lines():
            emit(line)
        _show_window(window, history)
        _show_parts(history)
    sys.exit(EXIT_CORRUPT if history.problems else 0)


def _show_parts(history: History) -> None:
    """Show each snapshot and segment on standard error."""
    for snapshot in sorted(
        (*history.snapshots, *history.lost_snapshots), key=lambda part: part.meta.index
    ):
        lost = "lost " if snapshot in history.lost_snapshots else ""
        where = "archived " if snapshot.is_archived else ""
        click.echo(
            f"{lost}{where}snapshot {snapshot.meta.index} of {_time(snapshot.meta.timestamp_ms)}",
            err=True,
        )
    for segment in history.segments:
        where = "archived " if segment.is_archived else ""
        content = (
            f"{segment.first_index} to {segment.last_index}, "
            f"{_time(segment.first_timestamp_ms)} to {_time(segment.last_timestamp_ms)}"
        )
        if segment.last_index < segment.first_index:
            content = f"from {segment.first_index} on, without entries"
        click.echo(f"{where}segment {content}", err=True)
    for timeline in history.other_timelines:
        click.echo(f"the archive also holds another history, {timeline}", err=True)
    for note in history.notes:
        click.echo(f"note: {note}", err=True)


@pitr.command("restore")
@click.option("--source-dir", type=PathOption(), required=True, help="From where.")
@click.option("--target-dir", type=PathOption(), required=True, help="To where.")
@click.option("--to-sequence", type=click.IntRange(min=0), help="The last entry to restore.")
@click.option("--to-timestamp-ms", type=click.IntRange(min=0), help="A Unix time in ms.")
@click.option("--to-time", help="An ISO 8601 time, such as 2026-11-24T20:15:00+01:00.")
@key_options
@click.option("--target-key-file", type=PathOption(), help="Key file of the target.")
@_archive_option
@output_option
@click.option("--include-unconfirmed", is_flag=True, help="Also what is not known committed.")
@click.option("--force", is_flag=True, help="Put an old target aside.")
@click.option("--dry-run", is_flag=True, help="Only say what would happen.")
def restore_command(  # noqa: PLR0913 - one for each flag
    *,
    source_dir: Path,
    target_dir: Path,
    to_sequence: int | None,
    to_timestamp_ms: int | None,
    to_time: str | None,
    key_provider: str,
    key_file: Path | None,
    target_key_file: Path | None,
    wal_archive_dir: Path | None,
    output: str,
    include_unconfirmed: bool,
    force: bool,
    dry_run: bool,
) -> None:
    """Make a new directory that holds what the old one held at a point in time.

    It begins a new history with ids, a timeline and keys of its own. The source is not changed.
    """
    point = _point(to_sequence, to_timestamp_ms, to_time)
    target_provider = provider_for(key_provider, target_key_file, flag="--target-key-file")
    with errors_reported():
        result = restore(
            source_dir,
            target_dir,
            point,
            vfs=RealVfs(),
            provider=provider_of(key_provider, key_file, source_dir),
            target_provider=target_provider,
            options=RestoreOptions(
                now_ms=now_ms(),
                archive=wal_archive_dir,
                cut=_cut,
                include_unconfirmed=include_unconfirmed,
                force=force,
                dry_run=dry_run,
                free_bytes=free_bytes,
                progress=progress(),
            ),
        )
        _show(result, output, target_provider(target_dir))


def _cut(batch: Batch, count: int) -> bytes:
    """Return the first entries of a batch, also of one that an embedded store wrote."""
    try:
        return cut_batch(batch, count)
    except msgspec.MsgspecError:
        return cut_store_batch(batch, count)


def _point(sequence: int | None, timestamp_ms: int | None, time: str | None) -> Point:
    given = [value for value in (sequence, timestamp_ms, time) if value is not None]
    if len(given) != 1:
        raise click.UsageError("say one of --to-sequence, --to-timestamp-ms and --to-time")
    if time is None:
        return Point(sequence=sequence, timestamp_ms=timestamp_ms)
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        raise click.UsageError(f"--to-time: {time!r} is not an ISO 8601 time") from None
    if moment.tzinfo is None:
        raise click.UsageError("--to-time: say the offset, too, such as Z or +01:00")
    return Point(timestamp_ms=int(moment.timestamp() * 1000))


def _show(result: RestoreResult, output: str, provider: KeyProvider) -> None:
    base = "the beginning" if result.snapshot_sequence is None else "a snapshot"
    done = "restored" if result.is_done else "would restore"
    click.echo(f"{done} up to entry {result.sequence} from {base}", err=True)
    for problem in result.problems:
        click.echo(f"not of use: {problem}", err=True)
    if result.unconfirmed:
        click.echo(f"{result.unconfirmed} durable entries are not known to be committed", err=True)
    if result.replaced is not None:
        click.echo(f"the old target is kept in {result.replaced}", err=True)
    values = {}
    if result.is_done:
        report = verify_directory(
            result.target, vfs=RealVfs(), provider=provider, progress=progress()
        ).report
        values = report.values()
        if output == "text":
            for line in report.lines():
                emit(line)
    if output == "json":
        restored = msgspec.to_builtins(result, enc_hook=_plain)
        emit(msgspec.json.encode({"restore": restored, "values": values}))


def _show_window(window: Window | None, history: History) -> None:
    if window is None:
        for end in ("earliest", "latest"):
            emit(f"{end}_sequence=none")
            emit(f"{end}_timestamp_ms=none")
        emit(f"unconfirmed_entries={history.last_index - history.committed_index}")
        click.echo(
            f"window: none, no point can be restored, though there were entries up to "
            f"{history.last_index}; bring back what is lost from a copy, or name the archive that "
            "has more with --wal-archive-dir",
            err=True,
        )
        return
    emit(f"earliest_sequence={window.earliest}")
    emit(f"earliest_timestamp_ms={window.earliest_timestamp_ms}")
    emit(f"latest_sequence={window.latest}")
    emit(f"latest_timestamp_ms={window.latest_timestamp_ms}")
    emit(f"unconfirmed_entries={window.unconfirmed}")
    since = "the beginning"
    if window.earliest:
        since = _time(window.earliest_timestamp_ms)
    until = _time(window.latest_timestamp_ms)
    click.echo(f"window: {window.earliest} to {window.latest}, {since} to {until}", err=True)
    for part in window.earlier:
        click.echo(
            f"earlier, behind a gap: {part.earliest} to {part.latest}, until "
            f"{_time(part.latest_timestamp_ms)}",
            err=True,
        )


def _time(timestamp_ms: int) -> str:
    if not timestamp_ms:
        return "an unknown time"
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
