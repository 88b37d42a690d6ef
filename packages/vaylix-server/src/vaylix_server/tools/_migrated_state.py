"""The users and roles of a directory of 0.9 as the state of this server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_server.access import AccessState, Grant, Permission, Role, User, encode_access_state
from vaylix_server.machine import SEMANTICS_VERSION
from vaylix_server.state_snapshot import ACCESS, MACHINE, encode_machine
from vaylix_storage.format3 import Section

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vaylix_storage.format3 import Format3Auth, Format3Contents, Format3Role

__all__ = ["migrated_sections"]


def migrated_sections(contents: Format3Contents) -> Iterable[Section]:
    """Return the sections of the first snapshot beside the keyspace.

    Passwords go on: both servers keep the same Argon2id hashes. Without users, the configured
    administrator gets in as on a new directory.
    """
    access = AccessState() if contents.auth is None else _access_state(contents.auth)
    return (
        Section(MACHINE, [(encode_machine(SEMANTICS_VERSION), 1)]),
        Section(ACCESS, [(encode_access_state(access), len(access.users))]),
    )


def _access_state(auth: Format3Auth) -> AccessState:
    return AccessState(
        users={
            name: User(user.password_hash, frozenset(user.roles), user.disabled)
            for name, user in auth.users.items()
        },
        roles={name: _role(role) for name, role in auth.roles.items()},
        managed_admin=auth.bootstrap_admin,
        revision=1,
    )


def _role(role: Format3Role) -> Role:
    everywhere = {Grant(Permission(permission), "*") for permission in role.permissions}
    granted = {Grant(Permission(grant.permission), grant.pattern) for grant in role.grants}
    return Role(frozenset(everywhere | granted))
