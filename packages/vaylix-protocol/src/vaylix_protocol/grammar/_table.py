"""The command table: one row for each phrase of the language (commands spec 2 and 12.9).

Usage texts of parse errors, HELP, completion and documentation all come from here. The order is
that of HELP.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from vaylix_protocol._constants import Opcode, ReplyKind

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["COMMANDS", "FAMILY_USAGE", "USAGE", "CommandSpec"]


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One row of the command table.

    - `name`: the keywords of the command, in lower case: `get`, `show grants for user`.
    - `usage`: how it is written, with operands in angle brackets and options in square ones.
    - `summary`: what it does, in one line.
    - `opcode`, `reply_kind`: what goes over the wire and what comes back; None for the commands
      that the client answers itself. SET can answer with other kinds, depending on its options.
    - `alias_of`: the name of the command that this is another spelling of.
    """

    name: str
    usage: str
    summary: str
    opcode: Opcode | None
    reply_kind: ReplyKind | None
    alias_of: str | None = None

    @property
    def keywords(self) -> tuple[str, ...]:
        """The words of `name`."""
        return tuple(self.name.split())


def _row(
    usage: str,
    summary: str,
    opcode: Opcode | None,
    reply_kind: ReplyKind | None,
    *,
    alias_of: str | None = None,
) -> CommandSpec:
    """Make a row; its name is what the usage has before the first operand."""
    words: list[str] = []
    for word in usage.split():
        if word[0] in "<[":
            break
        words.append(word)
    return CommandSpec(" ".join(words), usage, summary, opcode, reply_kind, alias_of)


_O: Final = Opcode
_K: Final = ReplyKind

COMMANDS: Final[tuple[CommandSpec, ...]] = (
    _row("auth <username> <password>", "Log in", _O.AUTH, _K.OK),
    _row("ping [message]", "Check that the server answers", _O.PING, _K.VALUE),
    _row("get <key>", "Read a value", _O.GET, _K.VALUE),
    _row(
        "set <key> <value> [nx|xx] [if version <version>] [ex <seconds>|px <millis>]"
        " [keepttl] [get]",
        "Write a value",
        _O.SET,
        _K.OK,
    ),
    _row("setnx <key> <value>", "Write a value unless the key exists", _O.SETNX, _K.BOOL),
    _row("getdel <key>", "Read a value and delete its key", _O.GETDEL, _K.VALUE),
    _row(
        "getex <key> [ex <seconds>|px <millis>|persist]",
        "Read a value and change its expiration",
        _O.GETEX,
        _K.VALUE,
    ),
    _row("mget <key> [key ...]", "Read several values", _O.MGET, _K.STRINGS),
    _row("mset <key> <value> [key value ...]", "Write several values", _O.MSET, _K.OK),
    _row("del <key> [key ...]", "Delete keys", _O.DEL, _K.COUNT),
    _row("delete <key> [key ...]", "Delete keys", _O.DEL, _K.COUNT, alias_of="del"),
    _row("exists <key>", "Say whether a key exists", _O.EXISTS, _K.BOOL),
    _row("incr <key>", "Add one to a number", _O.INCR, _K.INTEGER),
    _row("decr <key>", "Subtract one from a number", _O.DECR, _K.INTEGER),
    _row("expire <key> <seconds>", "Let a key expire", _O.EXPIRE, _K.BOOL),
    _row("ttl <key>", "Show how long a key has to live", _O.TTL, _K.INTEGER),
    _row("persist <key>", "Drop the expiration of a key", _O.PERSIST, _K.BOOL),
    _row("rename <source> <destination>", "Rename a key", _O.RENAME, _K.BOOL),
    _row(
        "renamenx <source> <destination>",
        "Rename a key unless the destination exists",
        _O.RENAMENX,
        _K.BOOL,
    ),
    _row("scan <cursor> [match <pattern>] [count <n>]", "Walk the keys", _O.SCAN, _K.SCAN),
    _row("dbsize", "Count the keys", _O.DBSIZE, _K.COUNT),
    _row("count", "Count the keys", _O.COUNT, _K.COUNT),
    _row("info", "Show facts about the server", _O.INFO, _K.ENTRIES),
    _row("metrics", "Show the counters of the server", _O.METRICS, _K.ENTRIES),
    _row("metrics prom", "Show the counters as Prometheus text", _O.METRICS_PROM, _K.VALUE),
    _row("list", "Show all keys and values", _O.LIST, _K.ENTRIES),
    _row("clear", "Delete all keys", _O.CLEAR, _K.OK),
    _row("flushdb", "Delete all keys", _O.CLEAR, _K.OK, alias_of="clear"),
    _row("save", "Take a snapshot", _O.SAVE, _K.OK),
    _row("snapshot", "Take a snapshot", _O.SNAPSHOT, _K.OK),
    _row("backup", "Show a logical dump", _O.BACKUP, _K.VALUE),
    _row("backup to <path>", "Write a logical dump to a file", _O.BACKUP_TO, _K.OK),
    _row("backup verify <logical-dump-json>", "Check a dump", _O.BACKUP_VERIFY, _K.ENTRIES),
    _row(
        "backup verify from <path>",
        "Check a dump in a file",
        _O.BACKUP_VERIFY_FROM,
        _K.ENTRIES,
    ),
    _row("restore <logical-dump-json>", "Replace all keys by a dump", _O.RESTORE, _K.COUNT),
    _row(
        "restore from <path>",
        "Replace all keys by a dump in a file",
        _O.RESTORE_FROM,
        _K.COUNT,
    ),
    _row(
        "restore check <logical-dump-json>",
        "Count what a dump would restore",
        _O.RESTORE_CHECK,
        _K.COUNT,
    ),
    _row(
        "restore check from <path>",
        "Count what a dump in a file would restore",
        _O.RESTORE_CHECK_FROM,
        _K.COUNT,
    ),
    _row(
        "alter user <username> password <password>",
        "Change a password",
        _O.ALTER_USER_PASSWORD,
        _K.OK,
    ),
    _row("create user <username> password <password>", "Create a user", _O.CREATE_USER, _K.OK),
    _row("create role <role>", "Create a role", _O.CREATE_ROLE, _K.OK),
    _row("drop user <username>", "Delete a user", _O.DROP_USER, _K.OK),
    _row("drop role <role>", "Delete a role", _O.DROP_ROLE, _K.OK),
    _row("grant role <role> to <username>", "Give a user a role", _O.GRANT_ROLE, _K.OK),
    _row(
        "grant permission <permission> [on <pattern>] to <role>",
        "Give a role a permission",
        _O.GRANT_PERMISSION,
        _K.OK,
    ),
    _row("revoke role <role> from <username>", "Take a role from a user", _O.REVOKE_ROLE, _K.OK),
    _row(
        "revoke permission <permission> [on <pattern>] from <role>",
        "Take a permission from a role",
        _O.REVOKE_PERMISSION,
        _K.OK,
    ),
    _row("show users", "List the users", _O.SHOW_USERS, _K.ENTRIES),
    _row("show roles", "List the roles", _O.SHOW_ROLES, _K.ENTRIES),
    _row("show grants", "List your own grants", _O.SHOW_GRANTS, _K.ENTRIES),
    _row(
        "show grants for user <username>",
        "List the grants of a user",
        _O.SHOW_GRANTS_FOR_USER,
        _K.ENTRIES,
    ),
    _row(
        "show grants for role <role>",
        "List the grants of a role",
        _O.SHOW_GRANTS_FOR_ROLE,
        _K.ENTRIES,
    ),
    _row("whoami", "Show your name and permissions", _O.WHOAMI, _K.ENTRIES),
    _row("multi", "Open a transaction", _O.MULTI, _K.OK),
    _row("exec", "Run the transaction", _O.EXEC, _K.EXEC_RESULTS),
    _row("discard", "Drop the transaction", _O.DISCARD, _K.OK),
    _row("maintenance on", "Start to refuse writes", _O.MAINTENANCE_ON, _K.OK),
    _row("maintenance off", "Accept writes again", _O.MAINTENANCE_OFF, _K.OK),
    _row(
        "maintenance status",
        "Say whether writes are refused",
        _O.MAINTENANCE_STATUS,
        _K.ENTRIES,
    ),
    _row("health", "Say whether the node is ready", _O.HEALTH, _K.ENTRIES),
    _row("show cluster", "List the members of the cluster", _O.SHOW_CLUSTER, _K.ENTRIES),
    _row("cluster join <node-id> <host:port>", "Add a node", _O.CLUSTER_JOIN, _K.OK),
    _row("cluster remove <node-id>", "Remove a node", _O.CLUSTER_REMOVE, _K.OK),
    _row("show replication", "Show the state of replication", _O.SHOW_REPLICATION, _K.ENTRIES),
    _row("promote follower", "Make this follower the leader", _O.PROMOTE_FOLLOWER, _K.OK),
    _row("pause replication", "Stop following the leader", _O.PAUSE_REPLICATION, _K.OK),
    _row("resume replication", "Follow the leader again", _O.RESUME_REPLICATION, _K.OK),
    _row("help", "Show this table", None, None),
    _row("exit", "Leave the client", None, None),
    _row("quit", "Leave the client", None, None, alias_of="exit"),
)

# Usage of one command by its name.
USAGE: Final[Mapping[str, str]] = MappingProxyType({spec.name: spec.usage for spec in COMMANDS})


def _join(*names: str) -> str:
    return " | ".join(USAGE[name] for name in names)


# Usage of a root word that several commands share, by the root word.
FAMILY_USAGE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "backup": "backup [to <path>] | " + _join("backup verify", "backup verify from"),
        "cluster": "cluster <join|remove> ...",
        "create": _join("create user", "create role"),
        "drop": _join("drop user", "drop role"),
        "grant": _join("grant role", "grant permission"),
        "maintenance": "maintenance <on|off|status>",
        "metrics": "metrics [prom]",
        "restore": _join("restore", "restore from", "restore check", "restore check from"),
        "revoke": _join("revoke role", "revoke permission"),
        "show": _join(
            "show users",
            "show roles",
            "show grants",
            "show grants for user",
            "show grants for role",
            "show replication",
            "show cluster",
        ),
    }
)
