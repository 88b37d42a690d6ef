"""One row for each command: who may run it, when, and how large it may be (commands spec 4, 10).

Commands that this server does not offer yet have their row, too: a client without the permission
hears SRV-017 before one with it hears SRV-016, and nothing of that changes when they arrive.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import vaylix_protocol as vtp
from vaylix_server.access import Permission, Rights

if TYPE_CHECKING:
    from vaylix_server.settings import Settings

__all__ = ["RULES", "CommandRule", "Limits", "Scope", "is_permitted", "is_safe_in_maintenance"]


class Scope(enum.Enum):
    """What a permission is checked against."""

    NONE = enum.auto()
    GLOBAL = enum.auto()
    KEYS = enum.auto()
    PATTERN = enum.auto()


@dataclass(frozen=True, slots=True)
class Limits:
    """Quotas of one request, in bytes and items; only more than the limit fails."""

    key_bytes_max: int
    value_bytes_max: int
    batch_keys_max: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Take the limits out of the settings."""
        return cls(settings.max_key_bytes, settings.max_value_bytes, settings.max_keys_per_batch)


Parts = Sequence[bytes | str]


@dataclass(frozen=True, slots=True)
class CommandRule:
    """`keys` are what key grants are matched against; `names` and `values` are measured only."""

    permission: Permission | None
    scope: Scope
    keys: Callable[[vtp.Command], Sequence[bytes]]
    names: Callable[[vtp.Command], Parts]
    values: Callable[[vtp.Command], Parts]
    in_transaction: bool
    in_maintenance: bool

    def fits(self, command: vtp.Command, limits: Limits) -> bool:
        """Say whether the command keeps all quotas."""
        keys = self.keys(command)
        if type(command) in _BATCHES and len(keys) > limits.batch_keys_max:
            return False
        return (
            all(len(key) <= limits.key_bytes_max for key in keys)
            and all(_bytes(name) <= limits.key_bytes_max for name in self.names(command))
            and all(_bytes(value) <= limits.value_bytes_max for value in self.values(command))
        )


def is_safe_in_maintenance(rule: CommandRule, command: vtp.Command) -> bool:
    """Say whether the command may run while maintenance is on: it must not change data."""
    if isinstance(command, vtp.GetEx) and (command.persist or command.expiration is not None):
        return False
    return rule.in_maintenance


def is_permitted(rule: CommandRule, command: vtp.Command, rights: Rights) -> bool:
    """Say whether `rights` cover the command."""
    if rule.permission is None or rights.is_admin:
        return True
    if rule.scope is Scope.KEYS:
        return rights.permits_keys(rule.permission, rule.keys(command))
    if isinstance(command, vtp.Scan):
        return rights.permits_pattern(
            rule.permission, "*" if command.pattern is None else command.pattern
        )
    return rights.permits_globally(rule.permission)


def _bytes(text: bytes | str) -> int:
    return len(text) if isinstance(text, bytes) else len(text.encode())


def _fields(*names: str) -> Callable[[vtp.Command], tuple[bytes, ...]]:
    """Return an extractor of single fields; a field that is absent (None) is left out."""

    def extract(command: vtp.Command) -> tuple[bytes, ...]:
        values = (getattr(command, name) for name in names)
        return tuple(value for value in values if value is not None)

    return extract


_NOTHING = _fields()


def _all_keys(command: vtp.Command) -> Sequence[bytes]:
    assert isinstance(command, vtp.Del | vtp.MGet)
    return command.keys


def _pair_keys(command: vtp.Command) -> Sequence[bytes]:
    assert isinstance(command, vtp.MSet)
    return tuple(key for key, _ in command.pairs)


def _pair_values(command: vtp.Command) -> Sequence[bytes]:
    assert isinstance(command, vtp.MSet)
    return tuple(value for _, value in command.pairs)


_BATCHES = frozenset((vtp.Del, vtp.MGet, vtp.MSet))


def _rule(
    permission: Permission | None = None,
    scope: Scope = Scope.NONE,
    *,
    keys: Callable[[vtp.Command], Sequence[bytes]] = _NOTHING,
    names: Callable[[vtp.Command], Parts] = _NOTHING,
    values: Callable[[vtp.Command], Parts] = _NOTHING,
    in_transaction: bool = False,
    in_maintenance: bool = False,
) -> CommandRule:
    return CommandRule(permission, scope, keys, names, values, in_transaction, in_maintenance)


_KEY = _fields("key")
_ENDS = _fields("source", "destination")
_READ, _WRITE, _ADMIN = Permission.READ, Permission.WRITE, Permission.ADMIN
_KEYS, _GLOBAL = Scope.KEYS, Scope.GLOBAL


def _data(
    permission: Permission,
    keys: Callable[[vtp.Command], Sequence[bytes]],
    *,
    values: Callable[[vtp.Command], Parts] = _NOTHING,
    in_maintenance: bool = False,
) -> CommandRule:
    """Return the rule of a command on keys; all of them may be queued."""
    return _rule(
        permission,
        _KEYS,
        keys=keys,
        values=values,
        in_transaction=True,
        in_maintenance=in_maintenance,
    )


def _data_rules() -> dict[type[vtp.Command], CommandRule]:
    whole = _rule(_READ, _GLOBAL, in_transaction=True, in_maintenance=True)
    return {
        vtp.Ping: _rule(in_transaction=True, in_maintenance=True),
        vtp.Get: _data(_READ, _KEY, in_maintenance=True),
        vtp.Exists: _data(_READ, _KEY, in_maintenance=True),
        vtp.Ttl: _data(_READ, _KEY, in_maintenance=True),
        vtp.MGet: _data(_READ, _all_keys, in_maintenance=True),
        vtp.Scan: _rule(
            _READ,
            Scope.PATTERN,
            names=_fields("pattern"),
            in_transaction=True,
            in_maintenance=True,
        ),
        vtp.DbSize: whole,
        vtp.Count: whole,
        vtp.List: whole,
        vtp.GetEx: _data(_WRITE, _KEY, in_maintenance=True),
        vtp.GetDel: _data(_WRITE, _KEY),
        vtp.Set: _data(_WRITE, _KEY, values=_fields("value")),
        vtp.SetNx: _data(_WRITE, _KEY, values=_fields("value")),
        vtp.Incr: _data(_WRITE, _KEY),
        vtp.Decr: _data(_WRITE, _KEY),
        vtp.Expire: _data(_WRITE, _KEY),
        vtp.Persist: _data(_WRITE, _KEY),
        vtp.MSet: _data(_WRITE, _pair_keys, values=_pair_values),
        vtp.Del: _data(_WRITE, _all_keys),
        vtp.Rename: _data(_WRITE, _ENDS),
        vtp.RenameNx: _data(_WRITE, _ENDS),
        vtp.Clear: _rule(Permission.CLEAR, _GLOBAL, in_transaction=True),
    }


def _session_rules() -> dict[type[vtp.Command], CommandRule]:
    """Return the rules of what concerns the connection, and of diagnostics."""
    metrics = _rule(Permission.METRICS, _GLOBAL, in_maintenance=True)
    # DISCARD changes nothing but the connection, so maintenance does not keep anyone from it.
    return {
        vtp.Auth: _rule(names=_fields("username"), values=_fields("password"), in_maintenance=True),
        vtp.Multi: _rule(),
        vtp.Exec: _rule(),
        vtp.Discard: _rule(in_maintenance=True),
        vtp.Info: metrics,
        vtp.Metrics: metrics,
        vtp.MetricsProm: metrics,
        vtp.Health: _rule(in_maintenance=True),
        vtp.WhoAmI: _rule(in_maintenance=True),
        vtp.MaintenanceOn: _rule(_ADMIN, _GLOBAL),
        vtp.MaintenanceOff: _rule(_ADMIN, _GLOBAL, in_maintenance=True),
        vtp.MaintenanceStatus: _rule(in_maintenance=True),
    }


def _backup_rules() -> dict[type[vtp.Command], CommandRule]:
    snapshot = _rule(Permission.SNAPSHOT, _GLOBAL)
    path, dump = _fields("path"), _fields("dump")

    def backup(values: Callable[[vtp.Command], Parts], *, in_maintenance: bool) -> CommandRule:
        return _rule(Permission.BACKUP, _GLOBAL, values=values, in_maintenance=in_maintenance)

    def restore(values: Callable[[vtp.Command], Parts], *, in_maintenance: bool) -> CommandRule:
        return _rule(Permission.RESTORE, _GLOBAL, values=values, in_maintenance=in_maintenance)

    return {
        vtp.Save: snapshot,
        vtp.Snapshot: snapshot,
        vtp.Backup: backup(_NOTHING, in_maintenance=True),
        vtp.BackupTo: backup(path, in_maintenance=False),
        vtp.BackupVerify: backup(dump, in_maintenance=True),
        vtp.BackupVerifyFrom: backup(path, in_maintenance=True),
        vtp.Restore: restore(dump, in_maintenance=False),
        vtp.RestoreFrom: restore(path, in_maintenance=False),
        vtp.RestoreCheck: restore(dump, in_maintenance=True),
        vtp.RestoreCheckFrom: restore(path, in_maintenance=True),
    }


def _administration_rules() -> dict[type[vtp.Command], CommandRule]:
    user, role = _fields("username"), _fields("role")
    both = _fields("role", "username")
    grant = _fields("permission", "pattern", "role")

    def users(names: Callable[[vtp.Command], Parts], *, shows: bool = False) -> CommandRule:
        password = _NOTHING if shows else _password
        return _rule(
            Permission.USER_ADMIN, _GLOBAL, names=names, values=password, in_maintenance=shows
        )

    def roles(names: Callable[[vtp.Command], Parts], *, shows: bool = False) -> CommandRule:
        return _rule(Permission.ROLE_ADMIN, _GLOBAL, names=names, in_maintenance=shows)

    return {
        vtp.CreateUser: users(user),
        vtp.AlterUserPassword: users(user),
        vtp.DropUser: users(user),
        vtp.ShowUsers: users(_NOTHING, shows=True),
        vtp.ShowGrantsForUser: users(user, shows=True),
        vtp.CreateRole: roles(role),
        vtp.DropRole: roles(role),
        vtp.GrantRole: roles(both),
        vtp.RevokeRole: roles(both),
        vtp.GrantPermission: roles(grant),
        vtp.RevokePermission: roles(grant),
        vtp.ShowRoles: roles(_NOTHING, shows=True),
        vtp.ShowGrantsForRole: roles(role, shows=True),
        vtp.ShowGrants: _rule(in_maintenance=True),
    }


def _password(command: vtp.Command) -> Parts:
    password = getattr(command, "password", None)
    return () if password is None else (password,)


def _cluster_rules() -> dict[type[vtp.Command], CommandRule]:
    control = _rule(_ADMIN, _GLOBAL, in_maintenance=True)
    node = _fields("node_id")
    return {
        vtp.ShowCluster: control,
        vtp.ShowReplication: control,
        vtp.ClusterJoin: _rule(_ADMIN, _GLOBAL, names=node, values=_fields("address")),
        vtp.ClusterRemove: _rule(_ADMIN, _GLOBAL, names=node),
        vtp.PromoteFollower: control,
        vtp.PauseReplication: control,
        vtp.ResumeReplication: control,
    }


RULES: Mapping[type[vtp.Command], CommandRule] = MappingProxyType(
    _data_rules() | _session_rules() | _backup_rules() | _administration_rules() | _cluster_rules()
)
