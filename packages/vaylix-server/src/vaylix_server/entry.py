"""Where the process begins and ends: what must hold before anything large is imported, and after.

Imports take most of a second. Until they are done Ctrl-C ends the process at once, since nothing
is open yet; then a tool undoes what it had half done, while a server has handlers of its own for
as long as it runs. When everything is done and written, signals change nothing any more.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["EXIT_INTERRUPTED", "main"]

# What shells make of a process that SIGINT has ended.
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command with the arguments of the process. Always raises SystemExit."""
    # Who started us with SIGINT ignored (nohup, a job in the background) wants it to stay so.
    is_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_interruptible:
        signal.signal(signal.SIGINT, _end_at_once)
    _open_standard_streams()
    from vaylix_server.cli import main as run_command  # noqa: PLC0415  # See above.

    if is_interruptible:
        signal.signal(signal.SIGINT, _end_in_order)
    try:
        run_command()
    except KeyboardInterrupt:
        # An event loop that closes puts the handler of the interpreter back.
        _say_interrupted()
        sys.exit(EXIT_INTERRUPTED)
    finally:
        _flush_standard_streams()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    del number, frame
    _say_interrupted()
    os._exit(EXIT_INTERRUPTED)


def _end_in_order(number: int, frame: FrameType | None) -> None:
    del number, frame
    # Who presses the key again does not want to wait for the cleaning up.
    signal.signal(signal.SIGINT, _end_at_once)
    _say_interrupted()
    raise SystemExit(EXIT_INTERRUPTED)


def _say_interrupted() -> None:
    # Not through sys.stderr, which the main thread may be in the middle of using.
    with suppress(OSError):
        os.write(2, b"vaylix: interrupted\n")


def _open_standard_streams() -> None:
    """Put /dev/null where the caller has closed a standard stream.

    The next file or socket would get its number, and be closed, written to or refused as such.
    What standard output or error cannot encode is escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # In this order the lowest free number is the one that is missing.
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == number, "another thread has opened a file"
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _flush_standard_streams() -> None:
    """Write what is left; what nobody can read is dropped, not complained about once more."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except OSError:
            # The interpreter flushes again at its end, and would fail again.
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
