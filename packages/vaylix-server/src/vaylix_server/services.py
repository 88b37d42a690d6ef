"""What every session shares, made once when the server is composed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from vaylix_protocol import ConnectionSettings
    from vaylix_server.access import AccessState
    from vaylix_server.authenticator import Authenticator
    from vaylix_server.diagnostics import Diagnostics
    from vaylix_server.eventlog import EventLog
    from vaylix_server.metrics import Metrics
    from vaylix_server.rules import Limits
    from vaylix_server.settings import Settings
    from vaylix_server.slow_commands import SlowCommands
    from vaylix_server.snapshotter import Snapshotter
    from vaylix_server.write_path import WritePath
    from vaylix_storage import Keyspace

__all__ = ["Services"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The collaborators of a session; all of them belong to the loop's thread."""

    loop: asyncio.AbstractEventLoop
    settings: Settings
    protocol_settings: ConnectionSettings
    limits: Limits
    keyspace: Keyspace
    access: AccessState
    write_path: WritePath
    authenticator: Authenticator
    diagnostics: Diagnostics
    snapshotter: Snapshotter
    slow_commands: SlowCommands
    metrics: Metrics
    log: EventLog
    # Random 16 bytes for the server hello; a UUIDv7, new for each connection.
    new_server_id: Callable[[], bytes]
    in_maintenance: bool
