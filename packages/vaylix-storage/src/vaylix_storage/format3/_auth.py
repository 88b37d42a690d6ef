"""Users and roles of format 3: JSON in an envelope (storage section 16.2, step 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from vaylix_storage.errors import AccessDamageError, ForeignFormatError
from vaylix_storage.format3._files import read_whole
from vaylix_storage.format3._log import lost_keyring

if TYPE_CHECKING:
    from pathlib import Path

    from vaylix_storage._vfs import Vfs
    from vaylix_storage.format3._envelope import Envelopes

__all__ = ["Format3Auth", "Format3Grant", "Format3Role", "Format3User", "Permission", "load_auth"]

Permission: TypeAlias = Literal[
    "read",
    "write",
    "admin",
    "backup",
    "restore",
    "metrics",
    "snapshot",
    "clear",
    "user_admin",
    "role_admin",
]
_VERSIONS: Final = (1, 2)


class Format3User(msgspec.Struct, frozen=True):
    """A user; `password_hash` is an Argon2id hash in PHC form."""

    password_hash: str
    roles: tuple[str, ...] = ()
    disabled: bool = False


class Format3Grant(msgspec.Struct, frozen=True):
    """A permission on the keys that a pattern matches."""

    permission: Permission
    pattern: str


class Format3Role(msgspec.Struct, frozen=True):
    """A role: permissions on everything (version 1), and grants."""

    permissions: tuple[Permission, ...] = ()
    grants: tuple[Format3Grant, ...] = ()


class _BootstrapAdmin(msgspec.Struct, frozen=True):
    username: str


class Format3Auth(msgspec.Struct, frozen=True):
    """Users and roles by name, and the name of the user that the server was started with."""

    version: int
    users: dict[str, Format3User]
    roles: dict[str, Format3Role]
    bootstrap_admin: str | None = None


class _Document(msgspec.Struct, frozen=True):
    version: int
    users: dict[str, Format3User] = {}
    roles: dict[str, Format3Role] = {}
    bootstrap_admin: _BootstrapAdmin | None = None


def load_auth(directory: Path, vfs: Vfs, envelopes: Envelopes | None) -> Format3Auth | None:
    """Return users and roles, or None where there are none.

    Raises AccessDamageError (SRV-004), ForeignFormatError (ENG-009), LostKeyringError (ENG-014)
    and what `Envelopes.open` raises.
    """
    path = directory / "auth.bin"
    if not vfs.exists(path):
        return None
    if envelopes is None:
        raise lost_keyring(path, "the list of users")
    plain = envelopes.open(read_whole(path, vfs), "auth metadata", path=path, offset=0)
    try:
        document = msgspec.json.decode(plain, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AccessDamageError(
            f"users and roles cannot be decoded: {error}",
            path=path,
            offset=0,
            remedy="restore auth.bin from a copy, or move it away to start with no users",
        ) from error
    if document.version not in _VERSIONS:
        raise ForeignFormatError(
            f"users and roles have version {document.version}",
            path=path,
            offset=0,
            remedy="start the release that wrote it",
        )
    admin = document.bootstrap_admin
    return Format3Auth(
        version=document.version,
        users=document.users,
        roles=document.roles,
        bootstrap_admin=None if admin is None else admin.username,
    )
