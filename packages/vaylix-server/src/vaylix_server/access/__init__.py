"""Users, roles and grants: replicated state, built by applying log entries, and its checks."""

from vaylix_server.access._commands import (
    AccessCommand,
    ReconcileAdmin,
    decode_access_commands,
    encode_access_commands,
)
from vaylix_server.access._permissions import Grant, Permission, Rights
from vaylix_server.access._snapshot import decode_access_state, encode_access_state
from vaylix_server.access._state import ADMIN_ROLE, AccessState, Role, User

__all__ = [
    "ADMIN_ROLE",
    "AccessCommand",
    "AccessState",
    "Grant",
    "Permission",
    "ReconcileAdmin",
    "Rights",
    "Role",
    "User",
    "decode_access_commands",
    "decode_access_state",
    "encode_access_commands",
    "encode_access_state",
]
