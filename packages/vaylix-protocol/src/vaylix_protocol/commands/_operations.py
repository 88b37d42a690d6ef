"""Commands about the session, transactions, diagnostics, snapshots and backups."""

from __future__ import annotations

from typing import ClassVar

from vaylix_protocol._constants import Opcode, ReplyKind
from vaylix_protocol.commands._base import CommandBase

__all__ = [
    "Auth",
    "Backup",
    "BackupTo",
    "BackupVerify",
    "BackupVerifyFrom",
    "Discard",
    "Exec",
    "Health",
    "Info",
    "MaintenanceOff",
    "MaintenanceOn",
    "MaintenanceStatus",
    "Metrics",
    "MetricsProm",
    "Multi",
    "Ping",
    "Restore",
    "RestoreCheck",
    "RestoreCheckFrom",
    "RestoreFrom",
    "Save",
    "Snapshot",
]


class Auth(CommandBase, frozen=True, gc=False):
    """Log in."""

    opcode: ClassVar[Opcode] = Opcode.AUTH
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Auth(username={self.username!r}, password=<hidden>)"


class Ping(CommandBase, frozen=True, gc=False):
    """Ask for a sign of life: the message comes back, or `PONG`."""

    opcode: ClassVar[Opcode] = Opcode.PING
    reply_kind: ClassVar[ReplyKind] = ReplyKind.VALUE

    message: bytes | None = None


class Multi(CommandBase, frozen=True, gc=False):
    """Open a transaction."""

    opcode: ClassVar[Opcode] = Opcode.MULTI
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK


class Exec(CommandBase, frozen=True, gc=False):
    """Run what the transaction has queued, atomically."""

    opcode: ClassVar[Opcode] = Opcode.EXEC
    reply_kind: ClassVar[ReplyKind] = ReplyKind.EXEC_RESULTS


class Discard(CommandBase, frozen=True, gc=False):
    """Drop the transaction."""

    opcode: ClassVar[Opcode] = Opcode.DISCARD
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK


class Info(CommandBase, frozen=True, gc=False):
    """Ask for facts about the server."""

    opcode: ClassVar[Opcode] = Opcode.INFO
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES


class Metrics(CommandBase, frozen=True, gc=False):
    """Ask for the counters of the server."""

    opcode: ClassVar[Opcode] = Opcode.METRICS
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES


class MetricsProm(CommandBase, frozen=True, gc=False):
    """Ask for the counters in the text format of Prometheus."""

    opcode: ClassVar[Opcode] = Opcode.METRICS_PROM
    reply_kind: ClassVar[ReplyKind] = ReplyKind.VALUE


class Health(CommandBase, frozen=True, gc=False):
    """Ask whether the node is ready, and why not."""

    opcode: ClassVar[Opcode] = Opcode.HEALTH
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES


class MaintenanceOn(CommandBase, frozen=True, gc=False):
    """Refuse writes until maintenance is over."""

    opcode: ClassVar[Opcode] = Opcode.MAINTENANCE_ON
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK


class MaintenanceOff(CommandBase, frozen=True, gc=False):
    """End maintenance."""

    opcode: ClassVar[Opcode] = Opcode.MAINTENANCE_OFF
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK


class MaintenanceStatus(CommandBase, frozen=True, gc=False):
    """Ask whether maintenance is on."""

    opcode: ClassVar[Opcode] = Opcode.MAINTENANCE_STATUS
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES


class Save(CommandBase, frozen=True, gc=False):
    """Take a snapshot now; the same as `Snapshot` under another opcode."""

    opcode: ClassVar[Opcode] = Opcode.SAVE
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK


class Snapshot(CommandBase, frozen=True, gc=False):
    """Take a snapshot now."""

    opcode: ClassVar[Opcode] = Opcode.SNAPSHOT
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK


class Backup(CommandBase, frozen=True, gc=False):
    """Ask for a logical dump."""

    opcode: ClassVar[Opcode] = Opcode.BACKUP
    reply_kind: ClassVar[ReplyKind] = ReplyKind.VALUE


class BackupTo(CommandBase, frozen=True, gc=False):
    """Write a logical dump to a file of the server."""

    opcode: ClassVar[Opcode] = Opcode.BACKUP_TO
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    path: str


class BackupVerify(CommandBase, frozen=True, gc=False):
    """Check a logical dump."""

    opcode: ClassVar[Opcode] = Opcode.BACKUP_VERIFY
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES

    dump: str


class BackupVerifyFrom(CommandBase, frozen=True, gc=False):
    """Check a logical dump in a file of the server."""

    opcode: ClassVar[Opcode] = Opcode.BACKUP_VERIFY_FROM
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES

    path: str


class Restore(CommandBase, frozen=True, gc=False):
    """Replace all keys by those of a logical dump."""

    opcode: ClassVar[Opcode] = Opcode.RESTORE
    reply_kind: ClassVar[ReplyKind] = ReplyKind.COUNT

    dump: str


class RestoreFrom(CommandBase, frozen=True, gc=False):
    """Replace all keys by those of a logical dump in a file of the server."""

    opcode: ClassVar[Opcode] = Opcode.RESTORE_FROM
    reply_kind: ClassVar[ReplyKind] = ReplyKind.COUNT

    path: str


class RestoreCheck(CommandBase, frozen=True, gc=False):
    """Say how many entries a dump would restore."""

    opcode: ClassVar[Opcode] = Opcode.RESTORE_CHECK
    reply_kind: ClassVar[ReplyKind] = ReplyKind.COUNT

    dump: str


class RestoreCheckFrom(CommandBase, frozen=True, gc=False):
    """Say how many entries a dump in a file of the server would restore."""

    opcode: ClassVar[Opcode] = Opcode.RESTORE_CHECK_FROM
    reply_kind: ClassVar[ReplyKind] = ReplyKind.COUNT

    path: str
