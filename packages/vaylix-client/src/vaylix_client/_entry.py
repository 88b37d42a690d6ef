"""Where the `vaylix-client` process begins: Ctrl-C ends it well before it has all its modules."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["main"]

# What shells make of a process that SIGINT has ended.
_INTERRUPTED = 130


def main() -> None:
    """Run the command with the arguments of the process. Always raises SystemExit."""
    # Who started us with SIGINT ignored wants it to stay so.
    is_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_interruptible:
        signal.signal(signal.SIGINT, _end_at_once)
    from vaylix_client.shell import main as command  # noqa: PLC0415  # See above.
    from vaylix_client.shell._streams import drop_output, unwritable_output  # noqa: PLC0415

    try:
        if is_interruptible:
            # From here on it can mean other things: the end of a wait, or of a line.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        command.main(prog_name="vaylix-client")
    except OSError as error:
        # Click writes the help by itself.
        drop_output()
        with suppress(OSError):
            os.write(2, f"{unwritable_output(error)}\n".encode())
        sys.exit(1)
    finally:
        # Everything is written; what the interpreter still does is nobody's to interrupt.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    del number, frame
    with suppress(OSError):
        os.write(2, b"vaylix-client: interrupted\n")
    os._exit(_INTERRUPTED)
