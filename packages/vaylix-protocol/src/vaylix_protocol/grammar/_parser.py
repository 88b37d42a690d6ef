"""From a line to a command (commands spec 2).

`parse_command` looks at the first token and hands all of them to the function of that root word.
The order of the checks in each function is part of the contract: the first problem met is the one
that is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias

from vaylix_protocol import commands as c
from vaylix_protocol._primitives import encode_text
from vaylix_protocol.errors import CommandError, ErrorCode, LocalProtocolError
from vaylix_protocol.grammar._errors import bad_option, parse_number, wrong_arity
from vaylix_protocol.grammar._lexer import fold, tokenize
from vaylix_protocol.grammar._options import parse_getex, parse_scan, parse_set
from vaylix_protocol.grammar._table import FAMILY_USAGE, USAGE

__all__ = ["ROOT_WORDS", "parse_command"]

Tokens: TypeAlias = Sequence[str]
ParsedCommand: TypeAlias = c.Command | c.LocalCommand
Parser: TypeAlias = Callable[[Tokens], ParsedCommand]


def parse_command(line: str) -> c.Command | c.LocalCommand:
    """Return the command that `line` asks for.

    Raise CommandError, whose message is meant for the user: CMD-001 to CMD-006 and CMD-008, or
    TRN-012 for a lone surrogate, which no byte stands for.
    """
    try:
        encode_text(line)
    except LocalProtocolError as error:
        raise CommandError.of(error.error_code) from None
    tokens = tokenize(line)
    if not tokens:
        raise CommandError.of(ErrorCode.CMD_001)
    root = fold(tokens[0])
    parser = _PARSERS.get(root)
    if parser is None:
        raise CommandError.of(ErrorCode.CMD_002, command=root)
    return parser(tokens)


def _bare(name: str, command: ParsedCommand) -> Parser:
    """Parse a command of one word."""

    def parse(tokens: Tokens) -> ParsedCommand:
        if len(tokens) != 1:
            raise wrong_arity(USAGE[name])
        return command

    return parse


def _keyed(name: str, build: Callable[[bytes], c.Command]) -> Parser:
    """Parse a command of one word and one key."""

    def parse(tokens: Tokens) -> ParsedCommand:
        if len(tokens) != 2:
            raise wrong_arity(USAGE[name])
        return build(encode_text(tokens[1]))

    return parse


def _paired(name: str, build: Callable[[bytes, bytes], c.Command]) -> Parser:
    """Parse a command of one word and two operands that become bytes."""

    def parse(tokens: Tokens) -> ParsedCommand:
        if len(tokens) != 3:
            raise wrong_arity(USAGE[name])
        return build(encode_text(tokens[1]), encode_text(tokens[2]))

    return parse


def _two_words(name: str, command: ParsedCommand) -> Parser:
    """Parse a command of two fixed words."""

    def parse(tokens: Tokens) -> ParsedCommand:
        if len(tokens) != 2 or [fold(token) for token in tokens] != name.split():
            raise wrong_arity(USAGE[name])
        return command

    return parse


def _auth(tokens: Tokens) -> ParsedCommand:
    if len(tokens) != 3:
        raise wrong_arity(USAGE["auth"])
    return c.Auth(tokens[1], tokens[2])


def _ping(tokens: Tokens) -> ParsedCommand:
    if len(tokens) > 2:
        raise wrong_arity(USAGE["ping"])
    return c.Ping(encode_text(tokens[1]) if len(tokens) == 2 else None)


def _del(tokens: Tokens) -> ParsedCommand:
    if len(tokens) < 2:
        raise wrong_arity(USAGE["del"])
    return c.Del(tuple(encode_text(token) for token in tokens[1:]))


def _mget(tokens: Tokens) -> ParsedCommand:
    if len(tokens) < 2:
        raise wrong_arity(USAGE["mget"])
    return c.MGet(tuple(encode_text(token) for token in tokens[1:]))


def _mset(tokens: Tokens) -> ParsedCommand:
    if len(tokens) < 3 or len(tokens) % 2 == 0:
        raise wrong_arity(USAGE["mset"])
    data = [encode_text(token) for token in tokens[1:]]
    return c.MSet(tuple(zip(data[::2], data[1::2], strict=True)))


def _expire(tokens: Tokens) -> ParsedCommand:
    if len(tokens) != 3:
        raise wrong_arity(USAGE["expire"])
    return c.Expire(encode_text(tokens[1]), parse_number("seconds", tokens[2]))


def _metrics(tokens: Tokens) -> ParsedCommand:
    match [fold(token) for token in tokens[1:]]:
        case []:
            return c.Metrics()
        case ["prom"]:
            return c.MetricsProm()
    raise wrong_arity(FAMILY_USAGE["metrics"])


def _backup(tokens: Tokens) -> ParsedCommand:
    match [fold(token) for token in tokens[1:]]:
        case []:
            return c.Backup()
        case ["to", _]:
            return c.BackupTo(tokens[2])
        case ["verify", "from", _]:
            return c.BackupVerifyFrom(tokens[3])
        case ["verify", keyword] if keyword != "from":
            return c.BackupVerify(tokens[2])
    raise wrong_arity(FAMILY_USAGE["backup"])


def _restore(tokens: Tokens) -> ParsedCommand:
    match [fold(token) for token in tokens[1:]]:
        case [_]:
            return c.Restore(tokens[1])
        case ["from", _]:
            return c.RestoreFrom(tokens[2])
        case ["check", "from", _]:
            return c.RestoreCheckFrom(tokens[3])
        case ["check", keyword] if keyword != "from":
            return c.RestoreCheck(tokens[2])
    raise wrong_arity(FAMILY_USAGE["restore"])


def _maintenance(tokens: Tokens) -> ParsedCommand:
    match [fold(token) for token in tokens[1:]]:
        case ["on"]:
            return c.MaintenanceOn()
        case ["off"]:
            return c.MaintenanceOff()
        case ["status"]:
            return c.MaintenanceStatus()
    raise wrong_arity(FAMILY_USAGE["maintenance"])


def _cluster(tokens: Tokens) -> ParsedCommand:
    if len(tokens) < 2:
        raise wrong_arity(FAMILY_USAGE["cluster"])
    keyword = fold(tokens[1])
    if keyword == "join":
        if len(tokens) != 4:
            raise wrong_arity(USAGE["cluster join"])
        return c.ClusterJoin(tokens[2], tokens[3])
    if keyword == "remove":
        if len(tokens) != 3:
            raise wrong_arity(USAGE["cluster remove"])
        return c.ClusterRemove(tokens[2])
    raise bad_option("cluster", keyword)


def _alter(tokens: Tokens) -> ParsedCommand:
    match [fold(token) for token in tokens[1:]]:
        case ["user", _, "password", _]:
            return c.AlterUserPassword(tokens[2], tokens[4])
    raise wrong_arity(USAGE["alter user"])


def _create(tokens: Tokens) -> ParsedCommand:
    if len(tokens) < 3:
        raise wrong_arity(FAMILY_USAGE["create"])
    keyword = fold(tokens[1])
    if keyword == "user":
        if len(tokens) != 5 or fold(tokens[3]) != "password":
            raise wrong_arity(USAGE["create user"])
        return c.CreateUser(tokens[2], tokens[4])
    if keyword == "role":
        if len(tokens) != 3:
            raise wrong_arity(USAGE["create role"])
        return c.CreateRole(tokens[2])
    raise bad_option("create", keyword)


def _drop(tokens: Tokens) -> ParsedCommand:
    if len(tokens) < 3:
        raise wrong_arity(FAMILY_USAGE["drop"])
    keyword = fold(tokens[1])
    if keyword not in ("user", "role"):
        raise bad_option("drop", keyword)
    if len(tokens) != 3:
        raise wrong_arity(USAGE[f"drop {keyword}"])
    return c.DropUser(tokens[2]) if keyword == "user" else c.DropRole(tokens[2])


def _grant(tokens: Tokens) -> ParsedCommand:
    if len(tokens) not in (5, 7):
        raise wrong_arity(FAMILY_USAGE["grant"])
    match [fold(token) for token in tokens[1:]]:
        case ["role", _, "to", _]:
            return c.GrantRole(tokens[2], tokens[4])
        case ["permission", _, "to", _]:
            return c.GrantPermission(tokens[2], "*", tokens[4])
        case ["permission", _, "on", _, "to", _]:
            return c.GrantPermission(tokens[2], tokens[4], tokens[6])
    raise bad_option("grant", fold(tokens[1]))


def _revoke(tokens: Tokens) -> ParsedCommand:
    if len(tokens) not in (5, 7):
        raise wrong_arity(FAMILY_USAGE["revoke"])
    match [fold(token) for token in tokens[1:]]:
        case ["role", _, "from", _]:
            return c.RevokeRole(tokens[2], tokens[4])
        case ["permission", _, "from", _]:
            return c.RevokePermission(tokens[2], "*", tokens[4])
        case ["permission", _, "on", _, "from", _]:
            return c.RevokePermission(tokens[2], tokens[4], tokens[6])
    raise bad_option("revoke", fold(tokens[1]))


def _show(tokens: Tokens) -> ParsedCommand:
    if len(tokens) not in (2, 5):
        raise wrong_arity(FAMILY_USAGE["show"])
    match [fold(token) for token in tokens[1:]]:
        case ["users"]:
            return c.ShowUsers()
        case ["roles"]:
            return c.ShowRoles()
        case ["grants"]:
            return c.ShowGrants()
        case ["replication"]:
            return c.ShowReplication()
        case ["cluster"]:
            return c.ShowCluster()
        case ["grants", "for", "user", _]:
            return c.ShowGrantsForUser(tokens[4])
        case ["grants", "for", "role", _]:
            return c.ShowGrantsForRole(tokens[4])
    raise bad_option("show", fold(tokens[1]))


_PARSERS: Final[Mapping[str, Parser]] = MappingProxyType(
    {
        "alter": _alter,
        "auth": _auth,
        "backup": _backup,
        "clear": _bare("clear", c.Clear()),
        "cluster": _cluster,
        "count": _bare("count", c.Count()),
        "create": _create,
        "dbsize": _bare("dbsize", c.DbSize()),
        "decr": _keyed("decr", c.Decr),
        "del": _del,
        "delete": _del,
        "discard": _bare("discard", c.Discard()),
        "drop": _drop,
        "exec": _bare("exec", c.Exec()),
        "exists": _keyed("exists", c.Exists),
        "exit": _bare("exit", c.Exit()),
        "expire": _expire,
        "flushdb": _bare("flushdb", c.Clear()),
        "get": _keyed("get", c.Get),
        "getdel": _keyed("getdel", c.GetDel),
        "getex": parse_getex,
        "grant": _grant,
        "health": _bare("health", c.Health()),
        "help": _bare("help", c.Help()),
        "incr": _keyed("incr", c.Incr),
        "info": _bare("info", c.Info()),
        "list": _bare("list", c.List()),
        "maintenance": _maintenance,
        "metrics": _metrics,
        "mget": _mget,
        "mset": _mset,
        "multi": _bare("multi", c.Multi()),
        "pause": _two_words("pause replication", c.PauseReplication()),
        "persist": _keyed("persist", c.Persist),
        "ping": _ping,
        "promote": _two_words("promote follower", c.PromoteFollower()),
        "quit": _bare("exit", c.Exit()),
        "rename": _paired("rename", c.Rename),
        "renamenx": _paired("renamenx", c.RenameNx),
        "restore": _restore,
        "resume": _two_words("resume replication", c.ResumeReplication()),
        "revoke": _revoke,
        "save": _bare("save", c.Save()),
        "scan": parse_scan,
        "set": parse_set,
        "setnx": _paired("setnx", c.SetNx),
        "show": _show,
        "snapshot": _bare("snapshot", c.Snapshot()),
        "ttl": _keyed("ttl", c.Ttl),
        "whoami": _bare("whoami", c.WhoAmI()),
    }
)

# Every word that a command can begin with.
ROOT_WORDS: Final = frozenset(_PARSERS)
