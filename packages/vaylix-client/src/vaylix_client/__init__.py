"""Clients of VTP2 servers: asyncio (`connect`, `Pool`) and blocking (`vaylix_client.blocking`).

Both have one method per command with typed results, pipelines, transactions and timeouts, and
both tell apart what was not sent, what was refused and what has an unknown outcome; see
`vaylix_client.errors`.
"""

from __future__ import annotations

from importlib.metadata import version

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

__version__ = version("vaylix-client")

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
