"""The Vaylix server: durable, encrypted key/value storage that speaks VTP2.

`compose(settings)` makes a `Server`; `hookimpl` marks what a plugin contributes to one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaylix_server.app import Server, compose, run_server
    from vaylix_server.build_info import IS_COMPILED
    from vaylix_server.errors import PluginError, ServerError, SettingsError, StartupError
    from vaylix_server.hookspecs import hookimpl
    from vaylix_server.settings import Settings

    __version__: str

__all__ = [
    "IS_COMPILED",
    "PluginError",
    "Server",
    "ServerError",
    "Settings",
    "SettingsError",
    "StartupError",
    "__version__",
    "compose",
    "hookimpl",
    "run_server",
]

# Loaded when first asked for: the command has to be able to end well before it has them all.
_HOMES = {
    "IS_COMPILED": ("build_info", "IS_COMPILED"),
    "PluginError": ("errors", "PluginError"),
    "Server": ("app", "Server"),
    "ServerError": ("errors", "ServerError"),
    "Settings": ("settings", "Settings"),
    "SettingsError": ("errors", "SettingsError"),
    "StartupError": ("errors", "StartupError"),
    "__version__": ("diagnostics", "SERVER_VERSION"),
    "compose": ("app", "compose"),
    "hookimpl": ("hookspecs", "hookimpl"),
    "run_server": ("app", "run_server"),
}


def __getattr__(name: str) -> object:
    """Return a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    found: object = getattr(import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
