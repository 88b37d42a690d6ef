"""The entry point: flags, exit codes, and the choice between prompt and pipe."""

from __future__ import annotations

import sys
from contextlib import suppress

import click

from vaylix_client.errors import ClientError
from vaylix_client.shell._flags import Flags, shell_settings
from vaylix_client.shell._input import PipedInput
from vaylix_client.shell._loop import run_shell
from vaylix_client.shell._streams import (
    StreamError,
    check_standard_streams,
    drop_output,
)
from vaylix_client.url import DEFAULT_HOST, DEFAULT_PORT
from vaylix_protocol.grammar import OutputMode

__all__ = ["main"]

_FAILURE = 1
# What shells make of a process that SIGINT has ended.
_INTERRUPTED = 130


@click.command(
    name="vaylix-client",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=None,
)
@click.option("--url", metavar="URL", help="vaylix://[user[:password]@]host[:port][?key=value&...]")
@click.option("--host", default=DEFAULT_HOST, show_default=True, help="Ignored with --url.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Ignored with --url.",
)
@click.option(
    "--ssl",
    is_flag=False,
    flag_value="true",
    default="false",
    type=click.Choice(["true", "false"]),
    help="Use TLS.",
)
@click.option("--tls-ca-cert", metavar="PEM", help="Replaces the system's roots.")
@click.option("--tls-client-cert", metavar="PEM", help="For mutual TLS, with its key.")
@click.option("--tls-client-key", metavar="PEM", help="For mutual TLS, with its certificate.")
@click.option("--user", help="Log in as this user.  [default: vaylix]")
@click.option("--password", help="Log in with this password.  [default: vaylix]")
@click.option("--disable-auth", is_flag=True, help="Send no AUTH on connect.")
@click.option("--disable-compression", is_flag=True, help="Ask the server for no compression.")
@click.option(
    "--output",
    type=click.Choice([mode.value for mode in OutputMode]),
    default=OutputMode.PLAIN.value,
    show_default=True,
    help="How entries are shown.",
)
def main(**flags: str | int | bool | None) -> None:
    """Talk to a Vaylix server: one command per line, at a prompt or from a pipe."""
    sys.exit(_run(_flags(flags)))


def _flags(raw: dict[str, str | int | bool | None]) -> Flags:
    typed = {name: value for name, value in raw.items() if name != "ssl"}
    return Flags(ssl=raw["ssl"] == "true", **typed)  # type: ignore[arg-type] # click has checked


def _run(flags: Flags) -> int:
    try:
        check_standard_streams()
        settings = shell_settings(flags)
        if sys.stdin.isatty():
            # Piped runs need not wait for the import of a line editor.
            from vaylix_client.shell._editor import Editor  # noqa: PLC0415

            run_shell(settings, Editor(), sys.stdout)
        else:
            run_shell(settings, PipedInput(sys.stdin.buffer), sys.stdout)
    except ClientError as error:
        return _report(error)
    except KeyboardInterrupt:
        click.echo("vaylix-client: interrupted", err=True)
        return _INTERRUPTED
    return 0


def _report(error: ClientError) -> int:
    """Write one line to standard error, and return the exit code."""
    drop_output()
    if isinstance(error, StreamError) and error.is_quiet:
        return error.exit_code
    with suppress(OSError):
        click.echo(str(error), err=True)
    return _FAILURE
