"""The `vaylix` command: flags and environment in, a running server out; or one of the tools.

Exit codes: 0 after a clean stop, 1 when the server cannot start or its log has failed, 2 for a
usage error. A start that fails is one line on standard error, a usage error names the help, too.
Those of the tools are listed in `tools._common`.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from vaylix_server.app import run_server
from vaylix_server.errors import ServerError, SettingsError, refusal
from vaylix_server.settings import Settings, Switch, flag_of, settings_from_text, variable_of
from vaylix_server.tools import OutputError, keys, pitr, storage

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "root_command"]

EXIT_FAILURE = 1


class _Root(click.Group):
    """Flags of the server, or the name of a tool.

    Refuses a flag that is given twice, since the second would win without a word.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_value = {
            name: isinstance(param, click.Option) and not param.is_flag
            for param in self.params
            for name in param.opts
        }
        seen: set[str] = set()
        position = 0
        while position < len(args) and args[position].startswith("-") and args[position] != "--":
            name, equals, _ = args[position].partition("=")
            if name in takes_value:
                if name in seen:
                    raise click.UsageError(f"{name} was given more than once", ctx)
                seen.add(name)
                position += takes_value[name] and not equals
            position += 1
        return super().parse_args(ctx, args)


def _options() -> list[click.Parameter]:
    options: list[click.Parameter] = []
    for setting in dataclasses.fields(Settings):
        default = "" if setting.default in (None, "") else f" [default: {setting.default}]"
        options.append(
            click.Option(
                [flag_of(setting.name), setting.name],
                is_flag=isinstance(setting.metadata["kind"], Switch),
                default=None,
                help=f"{setting.metadata['help']}{default} ({variable_of(setting.name)})",
            )
        )
    return options


@click.pass_context
def _serve(ctx: click.Context, /, **given: str | bool | None) -> None:
    if ctx.invoked_subcommand is not None:
        if any(value not in {None, False} for value in given.values()):
            raise click.UsageError("flags of the server have no meaning for a tool")
        return
    flags = {
        name: "true" if value is True else str(value)
        for name, value in given.items()
        if value is not None and value is not False
    }
    try:
        settings = settings_from_text(flags, os.environ)
        sys.exit(run_server(settings))
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    except ServerError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_FAILURE)
    except OSError as error:
        # Not even an event loop could be made.
        click.echo(str(refusal(error)), err=True)
        sys.exit(EXIT_FAILURE)


def root_command() -> click.Group:
    """Return the whole command: the server and the tools."""
    return _Root(
        "vaylix",
        params=_options(),
        callback=_serve,
        commands={"keys": keys, "pitr": pitr, "storage": storage},
        invoke_without_command=True,
        subcommand_metavar="[TOOL ...]",
        help="Run a Vaylix server: a durable, encrypted key/value store that speaks VTP2. "
        "With the name of a tool: look after a data directory that no server uses.",
        context_settings={"max_content_width": 100},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; `arguments` defaults to those of the process. Always raises SystemExit."""
    words = None if arguments is None else list(arguments)
    try:
        root_command().main(args=words, prog_name="vaylix")
    except OutputError as error:
        _end_without_output(error)
    except OSError as error:
        if error.filename is None:
            # Help was asked for, which click writes by itself.
            _end_without_output(OutputError(error))
        click.echo(str(refusal(error)), err=True)
        sys.exit(EXIT_FAILURE)


def _end_without_output(error: OutputError) -> NoReturn:
    if not error.is_closed_pipe:
        click.echo(str(error), err=True)
    sys.exit(error.exit_code)
