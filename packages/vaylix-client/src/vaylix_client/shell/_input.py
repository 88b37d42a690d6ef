"""Where lines come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from vaylix_client.shell._streams import unreadable_input

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = [
    "LINE_BYTES_MAX",
    "NOT_TEXT",
    "InputInterruptedError",
    "LineInput",
    "PipedInput",
    "UnreadableLineError",
]

# No request can be larger than a frame of 8 MiB, so neither can a line that makes sense.
LINE_BYTES_MAX: Final = 8 * 1024 * 1024
# What the published client says of a line that is not UTF-8.
NOT_TEXT: Final = "stream did not contain valid UTF-8"


class UnreadableLineError(Exception):
    """One line could not be read; the next one may be fine. The text says why."""


class InputInterruptedError(Exception):
    """The user pressed Ctrl-C at the prompt."""


class LineInput(Protocol):
    """A source of lines."""

    def start(self) -> None:
        """Prepare; called once, when the connection is there."""

    def read_line(self) -> str | None:
        """Return the next line, `None` at the end.

        Raise `UnreadableLineError`, `InputInterruptedError`, `StreamError`.
        """

    def finish(self) -> None:
        """Keep what is worth keeping; called at a normal end only."""


class PipedInput:
    """Lines of a pipe or file: no prompt, no history."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def start(self) -> None:
        """Nothing to prepare."""

    def read_line(self) -> str | None:
        """See `LineInput`."""
        line = self._read(LINE_BYTES_MAX + 1)
        if not line:
            return None
        if len(line) > LINE_BYTES_MAX:
            while line and not line.endswith(b"\n"):
                line = self._read(LINE_BYTES_MAX)
            raise UnreadableLineError(f"line is longer than {LINE_BYTES_MAX} bytes")
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise UnreadableLineError(NOT_TEXT) from error

    def finish(self) -> None:
        """Nothing to keep."""

    def _read(self, bytes_max: int) -> bytes:
        try:
            return self._stream.readline(bytes_max)
        except OSError as error:
            raise unreadable_input(error) from error
