"""One immutable value class for each command of VTP2 section 6."""

from __future__ import annotations

from typing import TypeAlias

from vaylix_protocol._constants import ReplyKind, SetCondition
from vaylix_protocol.commands._access import (
    AlterUserPassword,
    CreateRole,
    CreateUser,
    DropRole,
    DropUser,
    GrantPermission,
    GrantRole,
    RevokePermission,
    RevokeRole,
    ShowGrants,
    ShowGrantsForRole,
    ShowGrantsForUser,
    ShowRoles,
    ShowUsers,
    WhoAmI,
)
from vaylix_protocol.commands._base import CommandBase, Expiration
from vaylix_protocol.commands._cluster import (
    ClusterJoin,
    ClusterRemove,
    PauseReplication,
    PromoteFollower,
    ReplicationAck,
    ReplicationAppend,
    ReplicationFetch,
    ReplicationHeartbeat,
    ReplicationInstallSnapshot,
    ReplicationSnapshot,
    ReplicationStatus,
    ReplicationVote,
    ResumeReplication,
    ShowCluster,
    ShowReplication,
)
from vaylix_protocol.commands._data import (
    Clear,
    Count,
    DbSize,
    Decr,
    Del,
    Exists,
    Expire,
    Get,
    GetDel,
    GetEx,
    Incr,
    List,
    MGet,
    MSet,
    Persist,
    Rename,
    RenameNx,
    Scan,
    Set,
    SetNx,
    Ttl,
)
from vaylix_protocol.commands._local import Exit, Help, InvalidPayload
from vaylix_protocol.commands._operations import (
    Auth,
    Backup,
    BackupTo,
    BackupVerify,
    BackupVerifyFrom,
    Discard,
    Exec,
    Health,
    Info,
    MaintenanceOff,
    MaintenanceOn,
    MaintenanceStatus,
    Metrics,
    MetricsProm,
    Multi,
    Ping,
    Restore,
    RestoreCheck,
    RestoreCheckFrom,
    RestoreFrom,
    Save,
    Snapshot,
)

__all__ = [
    "AlterUserPassword",
    "Auth",
    "Backup",
    "BackupTo",
    "BackupVerify",
    "BackupVerifyFrom",
    "Clear",
    "ClusterJoin",
    "ClusterRemove",
    "Command",
    "CommandBase",
    "Count",
    "CreateRole",
    "CreateUser",
    "DbSize",
    "Decr",
    "Del",
    "Discard",
    "DropRole",
    "DropUser",
    "Exec",
    "Exists",
    "Exit",
    "Expiration",
    "Expire",
    "Get",
    "GetDel",
    "GetEx",
    "GrantPermission",
    "GrantRole",
    "Health",
    "Help",
    "Incr",
    "Info",
    "InvalidPayload",
    "List",
    "LocalCommand",
    "MGet",
    "MSet",
    "MaintenanceOff",
    "MaintenanceOn",
    "MaintenanceStatus",
    "Metrics",
    "MetricsProm",
    "Multi",
    "PauseReplication",
    "Persist",
    "Ping",
    "PromoteFollower",
    "Rename",
    "RenameNx",
    "ReplicationAck",
    "ReplicationAppend",
    "ReplicationFetch",
    "ReplicationHeartbeat",
    "ReplicationInstallSnapshot",
    "ReplicationSnapshot",
    "ReplicationStatus",
    "ReplicationVote",
    "Restore",
    "RestoreCheck",
    "RestoreCheckFrom",
    "RestoreFrom",
    "ResumeReplication",
    "RevokePermission",
    "RevokeRole",
    "Save",
    "Scan",
    "Set",
    "SetNx",
    "ShowCluster",
    "ShowGrants",
    "ShowGrantsForRole",
    "ShowGrantsForUser",
    "ShowReplication",
    "ShowRoles",
    "ShowUsers",
    "Snapshot",
    "Ttl",
    "WhoAmI",
    "reply_kind_of",
]

# What can be sent to a server.
Command: TypeAlias = (
    AlterUserPassword
    | Auth
    | Backup
    | BackupTo
    | BackupVerify
    | BackupVerifyFrom
    | Clear
    | ClusterJoin
    | ClusterRemove
    | Count
    | CreateRole
    | CreateUser
    | DbSize
    | Decr
    | Del
    | Discard
    | DropRole
    | DropUser
    | Exec
    | Exists
    | Expire
    | Get
    | GetDel
    | GetEx
    | GrantPermission
    | GrantRole
    | Health
    | Incr
    | Info
    | List
    | MGet
    | MSet
    | MaintenanceOff
    | MaintenanceOn
    | MaintenanceStatus
    | Metrics
    | MetricsProm
    | Multi
    | PauseReplication
    | Persist
    | Ping
    | PromoteFollower
    | Rename
    | RenameNx
    | ReplicationAck
    | ReplicationAppend
    | ReplicationFetch
    | ReplicationHeartbeat
    | ReplicationInstallSnapshot
    | ReplicationSnapshot
    | ReplicationStatus
    | ReplicationVote
    | Restore
    | RestoreCheck
    | RestoreCheckFrom
    | RestoreFrom
    | ResumeReplication
    | RevokePermission
    | RevokeRole
    | Save
    | Scan
    | Set
    | SetNx
    | ShowCluster
    | ShowGrants
    | ShowGrantsForRole
    | ShowGrantsForUser
    | ShowReplication
    | ShowRoles
    | ShowUsers
    | Snapshot
    | Ttl
    | WhoAmI
)

# What a client answers itself.
LocalCommand: TypeAlias = Exit | Help


def reply_kind_of(command: Command) -> ReplyKind:
    """Return the kind of a successful reply, NOT_FOUND aside. SET has three (VTP2 section 6.1)."""
    if isinstance(command, Set):
        if command.return_previous:
            return ReplyKind.VALUE
        if command.condition is not SetCondition.NONE or command.if_version is not None:
            return ReplyKind.BOOL
        return ReplyKind.OK
    return command.reply_kind
