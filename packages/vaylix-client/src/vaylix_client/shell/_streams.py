"""Standard streams that are closed, full, not read any more, or not made for our texts."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress

from vaylix_client._os_errors import describe_os_error
from vaylix_client.errors import ClientError
from vaylix_protocol import ErrorCode

__all__ = [
    "StreamError",
    "check_standard_streams",
    "drop_output",
    "unreadable_input",
    "unwritable_output",
]

_FAILURE = 1
# What shells make of a process that SIGPIPE has ended.
_CLOSED_PIPE = 141


class StreamError(ClientError):
    """A standard stream cannot be used (CLI-003)."""

    exit_code = _FAILURE
    is_quiet = False


def check_standard_streams() -> None:
    """Raise `StreamError` if input or output is closed; let output escape what it cannot encode."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Else a socket would get the number. In this order, the lowest free one is missing.
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        raise _stream_error("standard output is closed; send it to a file or a terminal")
    if sys.stdin is None:
        raise _stream_error("standard input is closed; give it commands, or /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def unwritable_output(error: OSError) -> StreamError:
    """Return what ends the session when a result cannot be written."""
    failure = _stream_error(
        f"standard output cannot be written: {describe_os_error(error)}; "
        "make room, or send it somewhere else"
    )
    if error.errno == errno.EPIPE:
        # Whoever read it has what it wanted.
        failure.exit_code, failure.is_quiet = _CLOSED_PIPE, True
    return failure


def unreadable_input(error: OSError) -> StreamError:
    """Return what ends the session when a command cannot be read."""
    return _stream_error(
        f"standard input cannot be read: {describe_os_error(error)}; give it a file or a pipe"
    )


def drop_output() -> None:
    """Let what could not be written go; the interpreter would try again at its end."""
    if sys.stdout is None:
        return
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stream_error(why: str) -> StreamError:
    return StreamError.of(ErrorCode.CLI_003, ErrorCode.CLI_003.message(err=why))
