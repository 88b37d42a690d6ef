"""The Vaylix server: durable, encrypted key/value storage that speaks VTP2.

`compose(settings)` makes a `Server`; `hookimpl` marks what a plugin contributes to one.
"""

from vaylix_server.app import Server, compose, run_server
from vaylix_server.build_info import IS_COMPILED
from vaylix_server.diagnostics import SERVER_VERSION
from vaylix_server.errors import PluginError, ServerError, SettingsError, StartupError
from vaylix_server.hookspecs import hookimpl
from vaylix_server.settings import Settings

__version__ = SERVER_VERSION

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
