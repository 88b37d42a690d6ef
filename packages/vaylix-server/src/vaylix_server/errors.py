"""Everything that can go wrong while a server is configured, started or extended.

Failures of single requests are not exceptions here: they are `ErrorReply` values on their way to a
client. An exception of this module ends the process with one line on standard error.
"""

from __future__ import annotations

from vaylix_storage.errors import StorageError

__all__ = ["PluginError", "ServerError", "SettingsError", "StartupError", "refusal"]


class ServerError(Exception):
    """Base of every exception that this package raises on purpose."""


class SettingsError(ServerError):
    """A setting has a value that cannot work; the command line answers it with exit code 2."""


class StartupError(ServerError):
    """The server cannot start; nothing that it should not have touched was changed.

    `code` and `name` are entries of the error catalogue, `remedy` says what an operator can do.
    """

    def __init__(self, code: str, name: str, what: str, remedy: str) -> None:
        super().__init__(f"[{code}] {name}: {what}; {remedy}")
        self.code = code
        self.remedy = remedy


class PluginError(ServerError):
    """A plugin is broken, or two plugins claim the same name."""


def refusal(error: StorageError | OSError) -> StartupError:
    """Say why a start failed: what is wrong and where, and what to do about it."""
    if not isinstance(error, StorageError):
        remedy = "repair the disk, then start again"
        return StartupError("ENG-002", "Filesystem I/O Failure", str(error), remedy)
    where = "" if error.path is None else f"{error.path}: "
    at = "" if error.offset is None else f" at byte {error.offset}"
    remedy = error.remedy or "repair that, or choose another directory with --data-dir"
    return StartupError(error.code, error.name, f"{where}{error.reason}{at}", remedy)
