"""Users, roles and grants as a section of a snapshot.

One MessagePack array, sorted, so that equal states have equal bytes:

    [revision, managed admin or nil, [[user, password hash, [role ...], disabled] ...],
     [[role, [[permission, pattern] ...]] ...]]
"""

from __future__ import annotations

import msgspec

from vaylix_server.access._permissions import Grant, Permission
from vaylix_server.access._state import AccessState, Role, User

__all__ = ["decode_access_state", "encode_access_state"]


class _UserRow(msgspec.Struct, frozen=True, array_like=True):
    name: str
    password_hash: str
    roles: list[str]
    disabled: bool


class _RoleRow(msgspec.Struct, frozen=True, array_like=True):
    name: str
    grants: list[tuple[Permission, str]]


class _Section(msgspec.Struct, frozen=True, array_like=True):
    revision: int
    managed_admin: str | None
    users: list[_UserRow]
    roles: list[_RoleRow]


def encode_access_state(state: AccessState) -> bytes:
    """Return the section."""
    users = [
        _UserRow(name, user.password_hash, sorted(user.roles), user.disabled)
        for name, user in sorted(state.users.items())
    ]
    roles = [
        _RoleRow(name, [(grant.permission, grant.pattern) for grant in sorted(role.grants)])
        for name, role in sorted(state.roles.items())
    ]
    return msgspec.msgpack.encode(_Section(state.revision, state.managed_admin, users, roles))


def decode_access_state(section: bytes) -> AccessState:
    """Return the state of a section; raises `msgspec.MsgspecError` on anything else."""
    content = msgspec.msgpack.decode(section, type=_Section)
    return AccessState(
        users={
            row.name: User(row.password_hash, frozenset(row.roles), row.disabled)
            for row in content.users
        },
        roles={
            row.name: Role(frozenset(Grant(permission, text) for permission, text in row.grants))
            for row in content.roles
        },
        managed_admin=content.managed_admin,
        revision=content.revision,
    )
