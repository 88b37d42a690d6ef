"""Users, roles and grants as a part of the applied state.

The state changes by `apply` alone, and depends on the commands in the log alone: two nodes that
applied the same entries know the same users. Everything that needs a clock, randomness or a
password is done before a command is logged.

`revision` counts changes. A session keeps the rights it resolved together with the revision they
belong to, and resolves them anew when it has moved on; so a role change is seen at once, and a
dropped user's session finds nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vaylix_server.access._permissions import Grant, Permission, Rights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vaylix_server.access._commands import AccessCommand, ReconcileAdmin

__all__ = ["ADMIN_ROLE", "AccessState", "Role", "User"]

ADMIN_ROLE = "admin"
_DEFAULT_ADMIN = "vaylix"


@dataclass(frozen=True, slots=True)
class User:
    """A user as stored; `disabled` users never authenticate."""

    password_hash: str
    roles: frozenset[str]
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Role:
    """A named set of grants."""

    grants: frozenset[Grant]


class AccessState:
    """The applied access-control state. Not thread safe; reads return immutable values."""

    def __init__(
        self,
        *,
        users: Mapping[str, User] | None = None,
        roles: Mapping[str, Role] | None = None,
        managed_admin: str | None = None,
        revision: int = 0,
    ) -> None:
        self._users = dict(users or {})
        self._roles = dict(roles or {})
        self._managed_admin = managed_admin
        self.revision = revision

    @property
    def users(self) -> Mapping[str, User]:
        """All users by name; not to be kept."""
        return self._users

    @property
    def roles(self) -> Mapping[str, Role]:
        """All roles by name; not to be kept."""
        return self._roles

    @property
    def is_empty(self) -> bool:
        """Whether no access-control entry has been applied yet."""
        return self.revision == 0

    @property
    def managed_admin(self) -> str | None:
        """The user that the configuration manages, None before the first entry."""
        return self._managed_admin

    def user(self, username: str) -> User | None:
        """Return the user of that name, None when there is none."""
        return self._users.get(username)

    def rights(self, username: str) -> Rights | None:
        """Return what `username` may do, None when the user is missing or disabled."""
        user = self._users.get(username)
        if user is None or user.disabled:
            return None
        roles = (self._roles.get(name) for name in user.roles)
        return Rights(grant for role in roles if role is not None for grant in role.grants)

    def apply(self, commands: Iterable[AccessCommand]) -> None:
        """Apply committed commands in order; never fails on any of them."""
        for command in commands:
            self._reconcile_admin(command)
            self.revision += 1

    def _reconcile_admin(self, command: ReconcileAdmin) -> None:
        predecessor = self._managed_admin
        everything = frozenset(Grant(permission, "*") for permission in Permission)
        admin = self._roles.get(ADMIN_ROLE, Role(frozenset()))
        self._roles[ADMIN_ROLE] = Role(admin.grants | everything)
        existing = self._users.get(command.username, User("", frozenset()))
        self._users[command.username] = replace(
            existing,
            password_hash=command.password_hash,
            roles=existing.roles | {ADMIN_ROLE},
            disabled=False,
        )
        # The default account is retired together with the predecessor: whoever configures a name
        # of their own does not expect `vaylix` to go on with its well-known password.
        for retired in (predecessor, _DEFAULT_ADMIN):
            if retired is not None and retired != command.username:
                self._drop_if_admin(retired)
        self._managed_admin = command.username

    def _drop_if_admin(self, username: str) -> None:
        user = self._users.get(username)
        if user is not None and ADMIN_ROLE in user.roles:
            del self._users[username]
