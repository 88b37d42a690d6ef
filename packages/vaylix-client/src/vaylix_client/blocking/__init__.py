"""The blocking client, and a pool of them for threads."""

from __future__ import annotations

from vaylix_client.blocking._client import Client, Pipeline, Transaction, connect
from vaylix_client.blocking._pool import Pool

__all__ = ["Client", "Pipeline", "Pool", "Transaction", "connect"]
