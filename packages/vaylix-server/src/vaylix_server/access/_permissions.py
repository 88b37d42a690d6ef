"""Permission names, grants, and the three ways in which a grant can cover a command.

A grant is a permission on a pattern. Commands ask in one of three ways (commands spec 4.1):

* *global*: the permission must be held on exactly `*`;
* *keys*: every key must match the pattern of some grant of the permission;
* *pattern*: a SCAN pattern must be covered as a whole by some grant.

`admin` on exactly `*` passes every check; `admin` on any narrower pattern gives nothing. Grant
patterns know one `*` only, the first; this is not the language of SCAN patterns.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Grant", "Permission", "Rights"]


class Permission(enum.StrEnum):
    """The ten permissions in canonical order (server spec 5.1)."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    BACKUP = "backup"
    RESTORE = "restore"
    METRICS = "metrics"
    SNAPSHOT = "snapshot"
    CLEAR = "clear"
    USER_ADMIN = "user_admin"
    ROLE_ADMIN = "role_admin"


class Grant(NamedTuple):
    """A permission on a pattern; its text is `<permission> on <pattern>`."""

    permission: Permission
    pattern: str

    def __str__(self) -> str:
        """Return the grant as SHOW GRANTS prints it."""
        return f"{self.permission} on {self.pattern}"


class _KeyPattern(NamedTuple):
    """A grant pattern split at its first `*`; without one, `suffix` is None and keys must equal."""

    prefix: bytes
    suffix: bytes | None

    @classmethod
    def parse(cls, pattern: str) -> _KeyPattern:
        prefix, star, suffix = pattern.encode().partition(b"*")
        return cls(prefix, suffix if star else None)

    def matches(self, key: bytes) -> bool:
        if self.suffix is None:
            return key == self.prefix
        # Prefix and suffix must not overlap: `ab*ba` does not match `aba`.
        long_enough = len(key) >= len(self.prefix) + len(self.suffix)
        return long_enough and key.startswith(self.prefix) and key.endswith(self.suffix)


class Rights:
    """What one user may do, resolved from the grants of all its roles. Immutable."""

    __slots__ = ("_key_patterns", "_patterns", "global_permissions", "is_admin")

    def __init__(self, grants: Iterable[Grant]) -> None:
        by_permission: dict[Permission, list[str]] = {}
        for grant in sorted(set(grants)):
            by_permission.setdefault(grant.permission, []).append(grant.pattern)
        self.global_permissions = tuple(
            permission for permission in Permission if "*" in by_permission.get(permission, ())
        )
        self.is_admin = Permission.ADMIN in self.global_permissions
        self._patterns = by_permission
        self._key_patterns = {
            permission: tuple(map(_KeyPattern.parse, patterns))
            for permission, patterns in by_permission.items()
        }

    @classmethod
    def everything(cls) -> Rights:
        """Return the rights of an administrator, also used where authentication is disabled."""
        return cls(Grant(permission, "*") for permission in Permission)

    def permits_globally(self, permission: Permission) -> bool:
        """Say whether the permission is held on exactly `*`."""
        return self.is_admin or permission in self.global_permissions

    def permits_keys(self, permission: Permission, keys: Iterable[bytes]) -> bool:
        """Say whether every key is covered; an empty list asks for the global permission."""
        if self.permits_globally(permission):
            return True
        patterns = self._key_patterns.get(permission, ())
        asked = tuple(keys)
        return bool(asked) and all(
            any(pattern.matches(key) for pattern in patterns) for key in asked
        )

    def permits_pattern(self, permission: Permission, requested: str) -> bool:
        """Say whether a SCAN over `requested` (`*` when the client gave none) is covered."""
        if self.permits_globally(permission):
            return True
        for pattern in self._patterns.get(permission, ()):
            if pattern == requested:
                return True
            covers_prefix = pattern.endswith("*") and requested.startswith(pattern.rstrip("*"))
            if covers_prefix and requested != "*":
                return True
        return False
