"""Numbers and enumerations that both ends of a VTP2 connection must agree on."""

from __future__ import annotations

import enum
from typing import Final

__all__ = [
    "FRAME_BYTES_MAX",
    "KEY_BYTES_MAX",
    "PROTOCOL_VERSION",
    "REQUEST_ID_BYTES",
    "U16_MAX",
    "U32_MAX",
    "U64_MAX",
    "VALUE_BYTES_MAX",
    "VALUE_OVERHEAD_BYTES",
    "Capabilities",
    "Compression",
    "Opcode",
    "ReplyKind",
    "Role",
    "SetCondition",
    "Status",
    "TimeUnit",
]

PROTOCOL_VERSION: Final = 2
# VTP2 section 2: payload bytes as sent. Negotiation can lower it, never raise it.
FRAME_BYTES_MAX: Final = 8 * 1024 * 1024
REQUEST_ID_BYTES: Final = 16

U16_MAX: Final = 2**16 - 1
U32_MAX: Final = 2**32 - 1
U64_MAX: Final = 2**64 - 1

# What a reply with a value takes beside it: the request id, the status, the length of the value.
VALUE_OVERHEAD_BYTES: Final = REQUEST_ID_BYTES + 1 + 4
# What a request can name at most, and what a reply can carry (VTP2 sections 2 and 7).
KEY_BYTES_MAX: Final = U16_MAX
VALUE_BYTES_MAX: Final = FRAME_BYTES_MAX - VALUE_OVERHEAD_BYTES


class Role(enum.Enum):
    """Which end of the connection this is."""

    CLIENT = enum.auto()
    SERVER = enum.auto()


class Compression(enum.IntEnum):
    """Compression of what a connection sends (VTP2 section 4.1). Readers go by the frame alone."""

    NONE = 0
    ZSTD = 1


class Capabilities(enum.IntFlag):
    """What a client offers in its hello (VTP2 section 4.2). Only ZSTD has an effect."""

    NONE = 0x00
    ZSTD = 0x01
    REQUEST_DEADLINE = 0x02
    SERVER_METRICS = 0x04
    PIPELINING = 0x08
    TRACE_CONTEXT = 0x10
    ALL = 0x1F


class Status(enum.IntEnum):
    """First byte behind the request id of a response (VTP2 section 7)."""

    OK = 0
    ERROR = 1
    NOT_FOUND = 2


class ReplyKind(enum.Enum):
    """What a reply carries (VTP2 section 7). It is not on the wire: the command tells."""

    OK = "OK"
    NOT_FOUND = "NOT_FOUND"
    VALUE = "VALUE"
    BOOL = "BOOL"
    COUNT = "COUNT"
    INTEGER = "INTEGER"
    ENTRIES = "ENTRIES"
    STRINGS = "STRINGS"
    SCAN = "SCAN"
    EXEC_RESULTS = "EXEC_RESULTS"
    ERROR = "ERROR"
    JSON = "JSON"
    QUEUED = "QUEUED"


class SetCondition(enum.IntEnum):
    """When SET writes: always, only a missing key (NX), or only an existing one (XX)."""

    NONE = 0
    NX = 1
    XX = 2


class TimeUnit(enum.IntEnum):
    """Unit of an expiration. The numbers are those of the wire (VTP2 section 6.1)."""

    SECONDS = 1
    MILLISECONDS = 2


class Opcode(enum.IntEnum):
    """The commands of VTP2 section 6."""

    AUTH = 0x01
    PING = 0x02
    GET = 0x03
    GETDEL = 0x04
    GETEX = 0x05
    SET = 0x06
    SETNX = 0x07
    DEL = 0x08
    EXISTS = 0x09
    MGET = 0x0A
    MSET = 0x0B
    INCR = 0x0C
    DECR = 0x0D
    EXPIRE = 0x0E
    TTL = 0x0F
    PERSIST = 0x10
    RENAME = 0x11
    RENAMENX = 0x12
    SCAN = 0x13
    DBSIZE = 0x14
    INFO = 0x15
    METRICS = 0x16
    LIST = 0x17
    CLEAR = 0x18
    COUNT = 0x19
    SAVE = 0x1A
    SNAPSHOT = 0x1B
    MULTI = 0x1C
    EXEC = 0x1D
    DISCARD = 0x1E
    BACKUP = 0x1F
    RESTORE = 0x20
    CREATE_USER = 0x21
    DROP_USER = 0x22
    CREATE_ROLE = 0x23
    DROP_ROLE = 0x24
    GRANT_ROLE = 0x25
    REVOKE_ROLE = 0x26
    GRANT_PERMISSION = 0x27
    REVOKE_PERMISSION = 0x28
    SHOW_USERS = 0x29
    SHOW_ROLES = 0x2A
    WHOAMI = 0x2B
    BACKUP_TO = 0x2C
    RESTORE_FROM = 0x2D
    RESTORE_CHECK = 0x2E
    RESTORE_CHECK_FROM = 0x2F
    ALTER_USER_PASSWORD = 0x30
    METRICS_PROM = 0x31
    BACKUP_VERIFY = 0x32
    BACKUP_VERIFY_FROM = 0x33
    SHOW_GRANTS = 0x34
    SHOW_GRANTS_FOR_USER = 0x35
    SHOW_GRANTS_FOR_ROLE = 0x36
    MAINTENANCE_ON = 0x37
    MAINTENANCE_OFF = 0x38
    MAINTENANCE_STATUS = 0x39
    HEALTH = 0x3A
    SHOW_CLUSTER = 0x3B
    CLUSTER_JOIN = 0x3C
    CLUSTER_REMOVE = 0x3D
    SHOW_REPLICATION = 0x3E
    PROMOTE_FOLLOWER = 0x3F
    PAUSE_REPLICATION = 0x40
    RESUME_REPLICATION = 0x41
    REPLICATION_STATUS = 0x42
    REPLICATION_SNAPSHOT = 0x43
    REPLICATION_FETCH = 0x44
    REPLICATION_ACK = 0x45
    REPLICATION_VOTE = 0x46
    REPLICATION_HEARTBEAT = 0x47
    REPLICATION_APPEND = 0x48
    REPLICATION_INSTALL_SNAPSHOT = 0x49
