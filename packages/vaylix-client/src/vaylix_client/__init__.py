"""Clients of VTP2 servers: asyncio (`connect`, `Pool`) and blocking (`vaylix_client.blocking`).

Both have one method per command with typed results, pipelines, transactions and timeouts, and
both tell apart what was not sent, what was refused and what has an unknown outcome; see
`vaylix_client.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaylix_client import blocking
    from vaylix_client._call import MISSING, Call, Missing, Page
    from vaylix_client._pending import Pending
    from vaylix_client._settings import ConnectOptions
    from vaylix_client.aio import Client, Pipeline, Transaction, connect
    from vaylix_client.errors import (
        ClientError,
        ConfigurationError,
        ConnectError,
        InvalidCallError,
        NotSentError,
        OutcomeUnknownError,
        ServerError,
    )
    from vaylix_client.pool import Pool
    from vaylix_protocol import SetCondition

    __version__: str

__all__ = [
    "MISSING",
    "Call",
    "Client",
    "ClientError",
    "ConfigurationError",
    "ConnectError",
    "ConnectOptions",
    "InvalidCallError",
    "Missing",
    "NotSentError",
    "OutcomeUnknownError",
    "Page",
    "Pending",
    "Pipeline",
    "Pool",
    "ServerError",
    "SetCondition",
    "Transaction",
    "__version__",
    "blocking",
    "connect",
]

# Loaded when first asked for: the command has to be able to end well before it has them all, and
# a program with one of the two clients need not wait for the other.
_HOMES = {
    "vaylix_client._call": ("MISSING", "Call", "Missing", "Page"),
    "vaylix_client._pending": ("Pending",),
    "vaylix_client._settings": ("ConnectOptions",),
    "vaylix_client.aio": ("Client", "Pipeline", "Transaction", "connect"),
    "vaylix_client.errors": (
        "ClientError",
        "ConfigurationError",
        "ConnectError",
        "InvalidCallError",
        "NotSentError",
        "OutcomeUnknownError",
        "ServerError",
    ),
    "vaylix_client.pool": ("Pool",),
    "vaylix_protocol": ("SetCondition",),
}


def __getattr__(name: str) -> object:
    """Return a public name."""
    found: object
    if name == "__version__":
        found = import_module("importlib.metadata").version("vaylix-client")
    elif name == "blocking":
        found = import_module("vaylix_client.blocking")
    else:
        home = next((module for module, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
