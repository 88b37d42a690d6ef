"""Log lines on standard output: `[LEVEL] [component] text`, one event a line (server spec 2.1)."""

from __future__ import annotations

import enum
import sys
from typing import TextIO

__all__ = ["EventLog", "Level"]


class Level(enum.StrEnum):
    """How much somebody should care."""

    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class EventLog:
    """Writes lines and flushes each, so that whoever waits for one sees it at once."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream

    def info(self, component: str, text: str) -> None:
        """Tell what happened."""
        self._write(Level.INFO, component, text)

    def warning(self, component: str, text: str) -> None:
        """Tell what somebody should look at."""
        self._write(Level.WARN, component, text)

    def error(self, component: str, text: str) -> None:
        """Tell what went wrong."""
        self._write(Level.ERROR, component, text)

    def _write(self, level: Level, component: str, text: str) -> None:
        # Text from peers may hold line ends; escaped, it cannot pass for a line of ours.
        escaped = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        try:
            self._stream.write(f"[{level}] [{component}] {escaped}\n")
            self._stream.flush()
        except OSError:
            # Nobody reads us any more (a closed pipe, a full disk): the data matters, the line
            # does not.
            return
