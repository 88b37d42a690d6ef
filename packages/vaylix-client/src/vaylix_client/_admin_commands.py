"""Commands about the server: users and roles, snapshots and backups, operations, cluster.

Commands spec 8 and 9. None of them can be queued in a transaction.
"""

from __future__ import annotations

from vaylix_client import _call as reply
from vaylix_client._call import Call
from vaylix_client._command import command
from vaylix_protocol import (
    AlterUserPassword,
    Backup,
    BackupTo,
    BackupVerify,
    BackupVerifyFrom,
    ClusterJoin,
    ClusterRemove,
    CreateRole,
    CreateUser,
    DropRole,
    DropUser,
    GrantPermission,
    GrantRole,
    Health,
    Info,
    MaintenanceOff,
    MaintenanceOn,
    MaintenanceStatus,
    Metrics,
    MetricsProm,
    PauseReplication,
    PromoteFollower,
    Restore,
    RestoreCheck,
    RestoreCheckFrom,
    RestoreFrom,
    ResumeReplication,
    RevokePermission,
    RevokeRole,
    Save,
    ShowCluster,
    ShowGrants,
    ShowGrantsForRole,
    ShowGrantsForUser,
    ShowReplication,
    ShowRoles,
    ShowUsers,
    Snapshot,
    WhoAmI,
)

__all__ = ["AdminCommands"]


class AdminCommands:
    """One method per administrative command; replies made of entries come as dictionaries."""

    __slots__ = ()

    @command
    @staticmethod
    def info() -> Call[dict[str, str]]:
        """Return facts about the server, such as `server.version`."""
        return Call(Info(), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def metrics() -> Call[dict[str, str]]:
        """Return the server's counters."""
        return Call(Metrics(), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def metrics_prom() -> Call[str]:
        """Return the counters in the text format of Prometheus."""
        return Call(MetricsProm(), reply.text, reads_only=True)

    @command
    @staticmethod
    def health() -> Call[dict[str, str]]:
        """Return whether the node is `ready`, and why not."""
        return Call(Health(), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def whoami() -> Call[dict[str, str]]:
        """Return the name and permissions of this session."""
        return Call(WhoAmI(), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def save() -> Call[None]:
        """Take a physical snapshot; returns when it is durable."""
        return Call(Save(), reply.nothing)

    @command
    @staticmethod
    def snapshot() -> Call[None]:
        """Take a physical snapshot (the same as `save`)."""
        return Call(Snapshot(), reply.nothing)

    @command
    @staticmethod
    def backup() -> Call[str]:
        """Return a logical dump of all keys, as JSON text."""
        return Call(Backup(), reply.text, reads_only=True)

    @command
    @staticmethod
    def backup_to(path: str) -> Call[None]:
        """Write a dump to `path` below the server's backup directory."""
        return Call(BackupTo(path), reply.nothing)

    @command
    @staticmethod
    def backup_verify(dump: str) -> Call[dict[str, str]]:
        """Check `dump` and return what it holds. Raise `BackupError`."""
        return Call(BackupVerify(dump), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def backup_verify_from(path: str) -> Call[dict[str, str]]:
        """Check the dump in the server's file `path`. Raise `BackupError`."""
        return Call(BackupVerifyFrom(path), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def restore(dump: str) -> Call[int]:
        """Replace all keys by those of `dump`. Return their number."""
        return Call(Restore(dump), reply.count)

    @command
    @staticmethod
    def restore_from(path: str) -> Call[int]:
        """Replace all keys by those of the server's file `path`."""
        return Call(RestoreFrom(path), reply.count)

    @command
    @staticmethod
    def restore_check(dump: str) -> Call[int]:
        """Return how many keys `restore` would write, without doing it."""
        return Call(RestoreCheck(dump), reply.count, reads_only=True)

    @command
    @staticmethod
    def restore_check_from(path: str) -> Call[int]:
        """Return how many keys `restore_from` would write."""
        return Call(RestoreCheckFrom(path), reply.count, reads_only=True)

    @command
    @staticmethod
    def create_user(username: str, password: str) -> Call[None]:
        """Create a user without roles. Raise `AlreadyExistsError`, `PasswordPolicyError`."""
        return Call(CreateUser(username, password), reply.nothing)

    @command
    @staticmethod
    def alter_user(username: str, password: str) -> Call[None]:
        """Change a password. Raise `NotFoundError`, `PasswordPolicyError`."""
        return Call(AlterUserPassword(username, password), reply.nothing)

    @command
    @staticmethod
    def drop_user(username: str) -> Call[None]:
        """Delete a user. Raise `NotFoundError`, `LastAdminError`."""
        return Call(DropUser(username), reply.nothing)

    @command
    @staticmethod
    def create_role(role: str) -> Call[None]:
        """Create a role without permissions. Raise `AlreadyExistsError`."""
        return Call(CreateRole(role), reply.nothing)

    @command
    @staticmethod
    def drop_role(role: str) -> Call[None]:
        """Delete a role. Raise `NotFoundError`, `ProtectedRoleError`."""
        return Call(DropRole(role), reply.nothing)

    @command
    @staticmethod
    def grant_role(role: str, username: str) -> Call[None]:
        """Give `role` to a user."""
        return Call(GrantRole(role, username), reply.nothing)

    @command
    @staticmethod
    def revoke_role(role: str, username: str) -> Call[None]:
        """Take `role` from a user. Raise `LastAdminError`."""
        return Call(RevokeRole(role, username), reply.nothing)

    @command
    @staticmethod
    def grant_permission(permission: str, role: str, *, pattern: str = "*") -> Call[None]:
        """Allow `role` to do `permission` on the keys that match `pattern`."""
        return Call(GrantPermission(permission, pattern, role), reply.nothing)

    @command
    @staticmethod
    def revoke_permission(permission: str, role: str, *, pattern: str = "*") -> Call[None]:
        """Take back one `grant_permission` with the same `pattern`."""
        return Call(RevokePermission(permission, pattern, role), reply.nothing)

    @command
    @staticmethod
    def show_users() -> Call[dict[str, str]]:
        """Return all users with their roles."""
        return Call(ShowUsers(), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def show_roles() -> Call[dict[str, str]]:
        """Return all roles."""
        return Call(ShowRoles(), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def show_grants() -> Call[dict[str, str]]:
        """Return the grants of this session's user."""
        return Call(ShowGrants(), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def show_grants_for_user(username: str) -> Call[dict[str, str]]:
        """Return the grants of a user."""
        return Call(ShowGrantsForUser(username), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def show_grants_for_role(role: str) -> Call[dict[str, str]]:
        """Return the grants of a role."""
        return Call(ShowGrantsForRole(role), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def maintenance_on() -> Call[None]:
        """Make the server read-only."""
        return Call(MaintenanceOn(), reply.nothing)

    @command
    @staticmethod
    def maintenance_off() -> Call[None]:
        """Let the server take writes again."""
        return Call(MaintenanceOff(), reply.nothing)

    @command
    @staticmethod
    def maintenance_status() -> Call[dict[str, str]]:
        """Return whether the server is in maintenance mode."""
        return Call(MaintenanceStatus(), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def show_cluster() -> Call[dict[str, str]]:
        """Return the members of the cluster."""
        return Call(ShowCluster(), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def cluster_join(node_id: str, address: str) -> Call[None]:
        """Add the node at `address` (`host:port`) to the cluster."""
        return Call(ClusterJoin(node_id, address), reply.nothing)

    @command
    @staticmethod
    def cluster_remove(node_id: str) -> Call[None]:
        """Remove a node from the cluster."""
        return Call(ClusterRemove(node_id), reply.nothing)

    @command
    @staticmethod
    def show_replication() -> Call[dict[str, str]]:
        """Return the state of replication."""
        return Call(ShowReplication(), reply.text_entries, reads_only=True)

    @command
    @staticmethod
    def promote_follower() -> Call[None]:
        """Make this follower the leader. Raise `PromotionDeniedError`."""
        return Call(PromoteFollower(), reply.nothing)

    @command
    @staticmethod
    def pause_replication() -> Call[None]:
        """Stop following the leader for a while."""
        return Call(PauseReplication(), reply.nothing)

    @command
    @staticmethod
    def resume_replication() -> Call[None]:
        """Follow the leader again."""
        return Call(ResumeReplication(), reply.nothing)
