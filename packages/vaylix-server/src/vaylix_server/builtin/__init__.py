"""The features of the server itself, each a plugin like any other."""

from vaylix_server.builtin import (
    ack_local,
    storage_memory,
    storage_wal,
    transport_memory,
    transport_tcp,
)

__all__ = ["BUILTIN_PLUGINS"]

BUILTIN_PLUGINS = (
    ("builtin.ack_local", ack_local),
    ("builtin.storage_memory", storage_memory),
    ("builtin.storage_wal", storage_wal),
    ("builtin.transport_memory", transport_memory),
    ("builtin.transport_tcp", transport_tcp),
)
