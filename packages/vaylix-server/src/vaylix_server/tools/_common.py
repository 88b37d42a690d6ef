"""What the offline tools share: their options, how they report errors, and how they show progress.

Exit codes: 0 good, 1 failure, 2 usage, 8 corrupt, 130 interrupted, 141 when nobody reads the
results any more. An error is one line on standard error, with code, name, cause and remedy;
results go to standard output.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaylix_protocol import ErrorCode
from vaylix_server.builtin.storage_wal import KEY_FILE_NAME, KEY_VARIABLE, key_provider
from vaylix_server.errors import refusal
from vaylix_storage import RealVfs
from vaylix_storage.errors import CorruptionError, LostKeyringError, StorageError
from vaylix_storage.offline import RateLimited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from vaylix_storage import KeyProvider

    _F = TypeVar("_F", bound=Callable[..., None])

__all__ = [
    "EXIT_CORRUPT",
    "EXIT_FAILURE",
    "OutputError",
    "PathOption",
    "data_dir_option",
    "emit",
    "errors_reported",
    "free_bytes",
    "key_options",
    "now_ms",
    "output_option",
    "progress",
    "provider_for",
    "provider_of",
]

EXIT_FAILURE = 1
EXIT_CORRUPT = 8
# What shells make of a process that SIGPIPE has ended.
_EXIT_CLOSED_PIPE = 141
_LINE_SECONDS = 3.0


class OutputError(Exception):
    """Standard output cannot be written; `exit_code` is what the tool ends with."""

    def __init__(self, cause: OSError) -> None:
        code = ErrorCode.CLI_003
        what = (
            f"standard output cannot be written: {cause.strerror}; "
            "make room, or send it somewhere else"
        )
        super().__init__(code.describe(code.message(err=what)))
        self.is_closed_pipe = cause.errno == errno.EPIPE
        self.exit_code = _EXIT_CLOSED_PIPE if self.is_closed_pipe else EXIT_FAILURE


class PathOption(click.Path):
    """A path; an empty one is refused, since it would mean the working directory."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Return the path; BadParameter for an empty one."""
        if not os.fspath(value):
            self.fail("expected a path", param, ctx)
        return super().convert(value, param, ctx)


def emit(result: str | bytes) -> None:
    """Write a line to standard output. Raises OutputError; OSError would mean the directory."""
    try:
        click.echo(result)
    except OSError as error:
        raise OutputError(error) from error


def data_dir_option(command: _F) -> _F:
    """Add `--data-dir`, which every tool needs."""
    return click.option(
        "--data-dir",
        type=PathOption(),
        required=True,
        envvar="VAYLIX_DATA_DIR",
        show_envvar=True,
        help="The data directory.",
    )(command)


def key_options(command: _F) -> _F:
    """Add `--key-provider` and `--key-file`."""
    command = click.option(
        "--key-file",
        type=PathOption(),
        envvar="VAYLIX_KEY_FILE",
        help=f"Key file, where it is not {KEY_FILE_NAME} in the data directory.",
    )(command)
    return click.option(
        "--key-provider",
        type=click.Choice(["file", "env"]),
        default="file",
        show_default=True,
        envvar="VAYLIX_KEY_PROVIDER",
        help=f"Who wraps the storage keys; `env` takes the variable {KEY_VARIABLE}.",
    )(command)


def output_option(command: _F) -> _F:
    """Add `--output`."""
    return click.option(
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="`json` has more detail.",
    )(command)


def provider_of(name: str, key_file: Path | None, data_dir: Path) -> KeyProvider:
    """Return the key provider that the options name; UsageError if they contradict each other."""
    return provider_for(name, key_file)(data_dir)


def provider_for(
    name: str, key_file: Path | None, *, flag: str = "--key-file"
) -> Callable[[Path], KeyProvider]:
    """Return what makes the provider of a directory that may not have its final name yet.

    Raises UsageError if the options contradict each other; `flag` has named the key file.
    """
    if name != "file" and key_file is not None:
        raise click.UsageError(f"{flag} has no meaning with another --key-provider than file")
    return lambda path: key_provider(name, key_file or path / KEY_FILE_NAME, RealVfs())


def now_ms() -> int:
    """Return the wall clock in ms."""
    return time.time_ns() // 1_000_000


@contextmanager
def errors_reported() -> Iterator[None]:
    """End the process with one line for an error of the storage."""
    try:
        yield
    except (CorruptionError, LostKeyringError) as error:
        click.echo(str(refusal(error)), err=True)
        sys.exit(EXIT_CORRUPT)
    except (StorageError, OSError) as error:
        click.echo(str(refusal(error)), err=True)
        sys.exit(EXIT_FAILURE)


def progress() -> RateLimited:
    """Show progress on standard error: a bar on a terminal, else a line every few seconds.

    What is done within these few seconds is not worth a line.
    """
    is_terminal = sys.stderr.isatty()
    first_line = time.monotonic() + _LINE_SECONDS

    def show(what: str, done: int, total: int) -> None:
        share = 100 if total == 0 else done * 100 // total
        if is_terminal:
            filled = "#" * (share // 4)
            end = "\n" if done >= total else "\r"
            click.echo(f"{what:<32.32} [{filled:<25}] {share:3} %{end}", err=True, nl=False)
        elif time.monotonic() >= first_line:
            click.echo(f"{what}: {share} %", err=True)

    return RateLimited(show, time.monotonic, 0.1 if is_terminal else _LINE_SECONDS)


def free_bytes(path: Path) -> int:
    """Return how much room there is for this user on the volume of a path."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    status = os.statvfs(existing)
    return status.f_bavail * status.f_frsize
