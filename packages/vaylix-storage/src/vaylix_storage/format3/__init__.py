"""Reading what Vaylix 0.9 and older wrote: storage format 3, and its single-file log.

The new formats know nothing of this package. Only `migrate` writes, and it writes a directory of
the current format.
"""

from vaylix_storage._builder import Section
from vaylix_storage.format3._auth import (
    Format3Auth,
    Format3Grant,
    Format3Role,
    Format3User,
    Permission,
)
from vaylix_storage.format3._entries import Entry, decode_entry, encode_entry, entry_identity
from vaylix_storage.format3._reading import Format3Contents, is_format3, read_directory
from vaylix_storage.format3.migration import (
    MigrationHooks,
    MigrationOutcome,
    MigrationReport,
    migrate,
)

__all__ = [
    "Entry",
    "Format3Auth",
    "Format3Contents",
    "Format3Grant",
    "Format3Role",
    "Format3User",
    "MigrationHooks",
    "MigrationOutcome",
    "MigrationReport",
    "Permission",
    "Section",
    "decode_entry",
    "encode_entry",
    "entry_identity",
    "is_format3",
    "migrate",
    "read_directory",
]
