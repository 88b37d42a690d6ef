"""The session of the shell: connect, log in, then read, send, print until the end.

Commands spec 12.5 to 12.8. What fails in the language or on the server is printed and the session
goes on; what fails on the way to the server ends it (`ClientError`, exit status 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_client._session import Cause
from vaylix_client.blocking._link import RawCommand, SocketLink, dial
from vaylix_client.errors import ClientError, ConnectError, InvalidCallError
from vaylix_client.shell._input import InputInterruptedError, UnreadableLineError
from vaylix_client.shell._streams import unwritable_output
from vaylix_protocol import Auth, Command, CommandError, ErrorCode, Exit, Help
from vaylix_protocol.grammar import format_reply, help_text, parse_command

if TYPE_CHECKING:
    from typing import TextIO

    from vaylix_client.shell._flags import ShellSettings
    from vaylix_client.shell._input import LineInput

__all__ = ["run_shell"]


def run_shell(settings: ShellSettings, lines: LineInput, out: TextIO) -> None:
    """Run one session. Raise `ClientError` when the connection or a standard stream fails."""
    connection = settings.connection
    tls = "false" if connection.tls is None else "true"
    _say(out, "client.startup", f"connecting to {connection.host}:{connection.port} ssl={tls}")
    link = dial(connection, login=None)
    try:
        _say(out, "client.startup", "connection established")
        lines.start()
        shell = _Shell(settings, link, out)
        if connection.authenticate:
            shell.send(Auth(connection.user, connection.password))
        _loop(shell, lines, out)
        lines.finish()
    finally:
        link.abort(Cause.io_error("session ended"))


def _loop(shell: _Shell, lines: LineInput, out: TextIO) -> None:
    while True:
        try:
            line = lines.read_line()
        except UnreadableLineError as error:
            code = ErrorCode.CLI_004
            _print(out, code.describe(code.message(err=error)))
            continue
        except InputInterruptedError:
            _say(out, "client.session", "readline interrupted")
            _print(out, "Exiting...")
            return
        if line is None:
            _say(out, "client.session", "reached end of input")
            _print(out, "Exiting...")
            return
        if line.strip() and not shell.execute(line.strip()):
            _say(out, "client.session", "received local exit command")
            return


class _Shell:
    """Executes one line after the other on a connection."""

    def __init__(self, settings: ShellSettings, link: SocketLink, out: TextIO) -> None:
        self._output = settings.output
        self._link = link
        self._out = out

    def execute(self, line: str) -> bool:
        """Do what a line says, print the result, and return whether the session goes on."""
        try:
            command = parse_command(line)
        except CommandError as error:
            _print(self._out, error.described)
            return True
        if isinstance(command, Exit):
            return False
        if isinstance(command, Help):
            _print(self._out, help_text())
        else:
            self.send(command)
        return True

    def send(self, command: Command) -> None:
        """Send a command and print the reply."""
        try:
            (outcome,) = self._link.exchange_all([RawCommand(command)], None)
        except KeyboardInterrupt:
            # Nobody knows how far the request had come. The link has ended the connection, unless
            # it was done with the exchange.
            self._link.abort(Cause.io_error("interrupted"))
            raise _failure(self._link.lost) from None
        if isinstance(outcome, InvalidCallError):
            _print(self._out, str(outcome))
        elif isinstance(outcome, ClientError):
            raise _failure(self._link.lost) from outcome
        else:
            _print(self._out, format_reply(outcome, self._output))


def _failure(cause: Cause | None) -> ConnectError:
    """Return what ended the connection, in the words of VTP2 section 14."""
    assert cause is not None, "an interruption without a lost connection"
    return cause.not_connected()


def _say(out: TextIO, topic: str, text: str) -> None:
    _print(out, f"[INFO] [{topic}] {text}")


def _print(out: TextIO, text: str) -> None:
    try:
        out.write(f"{text}\n")
        out.flush()
    except OSError as error:
        raise unwritable_output(error) from error
