"""The history of the prompt: where it is kept and how (commands spec 12.6)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vaylix_client.errors import ConfigurationError
from vaylix_protocol import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "LINES_MAX",
    "data_directory",
    "decode_history",
    "default_history_file",
    "encode_history",
    "write_private",
]

LINES_MAX: Final = 100
_HEADER: Final = "#V2"


def data_directory(platform: str, environment: Mapping[str, str]) -> Path:
    """Return the data directory of this user. Raise `ConfigurationError` (CLI-005)."""
    if platform == "win32":
        base, tail = environment.get("APPDATA"), Path("vaylix", "vaylix", "data")
    elif platform == "darwin":
        base = environment.get("HOME")
        tail = Path("Library", "Application Support", "dev.vaylix.vaylix")
    elif Path(environment.get("XDG_DATA_HOME", "")).is_absolute():
        base, tail = environment["XDG_DATA_HOME"], Path("vaylix")
    else:
        base, tail = environment.get("HOME"), Path(".local", "share", "vaylix")
    if not base:
        raise ConfigurationError.of(ErrorCode.CLI_005, ErrorCode.CLI_005.message())
    return Path(base) / tail


def encode_history(lines: Iterable[str]) -> str:
    """Return the text of a history file: the last 100 lines, without repetitions in a row."""
    kept: list[str] = []
    for line in lines:
        if not kept or kept[-1] != line:
            kept.append(line)
    escaped = (line.replace("\\", "\\\\").replace("\n", "\\n") for line in kept[-LINES_MAX:])
    return "".join(f"{line}\n" for line in (_HEADER, *escaped))


def decode_history(text: str) -> list[str]:
    """Return the lines of a history file, oldest first; at most 100."""
    lines = text.split("\n")
    if lines and lines[0] == _HEADER:
        del lines[0]
    return [_unescaped(line) for line in lines if line][-LINES_MAX:]


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step, readable by its owner only: history can hold passwords.

    What is no text, as an odd terminal sends it, becomes question marks.
    """
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.write(text)
    fresh.replace(path)


def default_history_file() -> Path:
    """Return where this user's history is kept."""
    return data_directory(sys.platform, os.environ) / "history.txt"


def _unescaped(line: str) -> str:
    # Two steps through a character that no line can contain, so that `\\n` is not a newline.
    return line.replace("\\\\", "\n").replace("\\n", "\0").replace("\n", "\\").replace("\0", "\n")
