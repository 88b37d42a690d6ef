"""Commands about users, roles and grants."""

from __future__ import annotations

from typing import ClassVar

from vaylix_protocol._constants import Opcode, ReplyKind
from vaylix_protocol.commands._base import CommandBase

__all__ = [
    "AlterUserPassword",
    "CreateRole",
    "CreateUser",
    "DropRole",
    "DropUser",
    "GrantPermission",
    "GrantRole",
    "RevokePermission",
    "RevokeRole",
    "ShowGrants",
    "ShowGrantsForRole",
    "ShowGrantsForUser",
    "ShowRoles",
    "ShowUsers",
    "WhoAmI",
]


class CreateUser(CommandBase, frozen=True, gc=False):
    """Create a user without roles."""

    opcode: ClassVar[Opcode] = Opcode.CREATE_USER
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    username: str
    password: str

    def __repr__(self) -> str:
        return f"CreateUser(username={self.username!r}, password=<hidden>)"


class AlterUserPassword(CommandBase, frozen=True, gc=False):
    """Change the password of a user."""

    opcode: ClassVar[Opcode] = Opcode.ALTER_USER_PASSWORD
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    username: str
    password: str

    def __repr__(self) -> str:
        return f"AlterUserPassword(username={self.username!r}, password=<hidden>)"


class DropUser(CommandBase, frozen=True, gc=False):
    """Delete a user."""

    opcode: ClassVar[Opcode] = Opcode.DROP_USER
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    username: str


class CreateRole(CommandBase, frozen=True, gc=False):
    """Create a role without permissions."""

    opcode: ClassVar[Opcode] = Opcode.CREATE_ROLE
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    role: str


class DropRole(CommandBase, frozen=True, gc=False):
    """Delete a role."""

    opcode: ClassVar[Opcode] = Opcode.DROP_ROLE
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    role: str


class GrantRole(CommandBase, frozen=True, gc=False):
    """Give a role to a user."""

    opcode: ClassVar[Opcode] = Opcode.GRANT_ROLE
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    role: str
    username: str


class RevokeRole(CommandBase, frozen=True, gc=False):
    """Take a role from a user."""

    opcode: ClassVar[Opcode] = Opcode.REVOKE_ROLE
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    role: str
    username: str


class GrantPermission(CommandBase, frozen=True, gc=False):
    """Give a role a permission on the keys that match a pattern."""

    opcode: ClassVar[Opcode] = Opcode.GRANT_PERMISSION
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    permission: str
    pattern: str
    role: str


class RevokePermission(CommandBase, frozen=True, gc=False):
    """Take a permission on a pattern from a role."""

    opcode: ClassVar[Opcode] = Opcode.REVOKE_PERMISSION
    reply_kind: ClassVar[ReplyKind] = ReplyKind.OK

    permission: str
    pattern: str
    role: str


class ShowUsers(CommandBase, frozen=True, gc=False):
    """List the users."""

    opcode: ClassVar[Opcode] = Opcode.SHOW_USERS
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES


class ShowRoles(CommandBase, frozen=True, gc=False):
    """List the roles."""

    opcode: ClassVar[Opcode] = Opcode.SHOW_ROLES
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES


class ShowGrants(CommandBase, frozen=True, gc=False):
    """List the grants of the session."""

    opcode: ClassVar[Opcode] = Opcode.SHOW_GRANTS
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES


class ShowGrantsForUser(CommandBase, frozen=True, gc=False):
    """List the grants of a user."""

    opcode: ClassVar[Opcode] = Opcode.SHOW_GRANTS_FOR_USER
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES

    username: str


class ShowGrantsForRole(CommandBase, frozen=True, gc=False):
    """List the grants of a role."""

    opcode: ClassVar[Opcode] = Opcode.SHOW_GRANTS_FOR_ROLE
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES

    role: str


class WhoAmI(CommandBase, frozen=True, gc=False):
    """Ask for the name and the permissions of the session."""

    opcode: ClassVar[Opcode] = Opcode.WHOAMI
    reply_kind: ClassVar[ReplyKind] = ReplyKind.ENTRIES
