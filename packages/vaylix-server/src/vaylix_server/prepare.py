"""From a request to the command that is logged and applied, and from its result to a reply.

The wire and the log have command types of their own, because they change for different reasons:
the wire when clients learn something new, the log never, since old entries are replayed for ever.
Here, and only here, the one is turned into the other.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import vaylix_protocol as vtp
from vaylix_protocol import ErrorCode, LocalProtocolError, error_reply
from vaylix_storage import Answer, CommandFailure, ExecResult, FailureCode, Result, ScanPage
from vaylix_storage import commands as log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vaylix_server.metrics import Metrics

__all__ = ["PREPARE", "is_write", "prepare_set", "reply_of", "result_bytes", "send_result"]

_CONDITIONS = {
    vtp.SetCondition.NONE: log.SetCondition.NONE,
    vtp.SetCondition.NX: log.SetCondition.NX,
    vtp.SetCondition.XX: log.SetCondition.XX,
}


def _ttl_ms(expiration: vtp.Expiration | None) -> int | None:
    if expiration is None:
        return None
    if expiration.unit is vtp.TimeUnit.MILLISECONDS:
        return expiration.amount
    return log.milliseconds(expiration.amount)


def prepare_set(command: vtp.Set) -> log.Set:
    """Prepare SET; without options it is the shortest command there is."""
    if (
        command.expiration is None
        and command.if_version is None
        and not command.condition
        and not command.keep_ttl
        and not command.return_previous
    ):
        return log.Set(command.key, command.value)
    options = log.SetOptions(
        _CONDITIONS[command.condition],
        _ttl_ms(command.expiration),
        command.keep_ttl,
        command.return_previous,
        command.if_version,
    )
    return log.Set(command.key, command.value, options)


def _scan(command: vtp.Scan) -> log.Scan:
    pattern = None if command.pattern is None else command.pattern.encode()
    return log.Scan(command.cursor, pattern, command.count)


def _getex(command: vtp.GetEx) -> log.GetEx:
    return log.GetEx(command.key, _ttl_ms(command.expiration), command.persist)


# The value type is wider than each function: the key of the table is what narrows it.
PREPARE: Mapping[type[vtp.Command], Callable[..., log.SimpleCommand]] = MappingProxyType(
    {
        vtp.Ping: lambda c: log.Ping(b"PONG" if c.message is None else c.message),
        vtp.Get: lambda c: log.Get(c.key),
        vtp.Exists: lambda c: log.Exists(c.key),
        vtp.Ttl: lambda c: log.Ttl(c.key),
        vtp.MGet: lambda c: log.MGet(c.keys),
        vtp.Scan: _scan,
        vtp.DbSize: lambda _: log.DbSize(),
        vtp.Count: lambda _: log.Count(),
        vtp.List: lambda _: log.List(),
        vtp.GetEx: _getex,
        vtp.GetDel: lambda c: log.GetDel(c.key),
        vtp.Set: prepare_set,
        vtp.SetNx: lambda c: log.SetNx(c.key, c.value),
        vtp.Incr: lambda c: log.Incr(c.key),
        vtp.Decr: lambda c: log.Decr(c.key),
        vtp.Expire: lambda c: log.Expire(c.key, log.milliseconds(c.seconds)),
        vtp.Persist: lambda c: log.Persist(c.key),
        vtp.MSet: lambda c: log.MSet(c.pairs),
        vtp.Del: lambda c: log.Del(c.keys),
        vtp.Rename: lambda c: log.Rename(c.source, c.destination),
        vtp.RenameNx: lambda c: log.RenameNx(c.source, c.destination),
        vtp.Clear: lambda _: log.Clear(),
    }
)

_READS = (
    log.Ping,
    log.Get,
    log.Exists,
    log.Ttl,
    log.MGet,
    log.Scan,
    log.DbSize,
    log.Count,
    log.List,
)


def is_write(command: log.Command) -> bool:
    """Say whether the command can change anything, and so must be logged."""
    if isinstance(command, log.GetEx):
        return command.persist or command.ttl_ms is not None
    if isinstance(command, log.Exec):
        return any(is_write(part) for part in command.commands)
    return not isinstance(command, _READS)


def reply_of(command: log.Command, result: Result) -> vtp.Reply:
    """Return the reply to a command from what applying it gave.

    Raises LocalProtocolError TRN-006 for a LIST that no frame could hold, which ends the
    connection like any other reply that is too large.
    """
    if isinstance(result, Answer):
        return vtp.Ok() if result is Answer.OK else vtp.NotFound()
    if isinstance(result, bytes):
        return vtp.Value(result)
    if isinstance(result, bool):
        return vtp.Bool(result)
    if isinstance(result, int):
        # COUNT and INTEGER look alike on the wire, but not inside of EXEC.
        return vtp.CountReply(result) if isinstance(command, _COUNTING) else vtp.Integer(result)
    if isinstance(result, ScanPage):
        return vtp.ScanPage(result.cursor, tuple(result.keys))
    if isinstance(result, list):
        return vtp.Entries(tuple(result))
    if isinstance(result, ExecResult):
        assert isinstance(command, log.Exec)
        parts = zip(command.commands, result.results, strict=True)
        return vtp.ExecResults(tuple(reply_of(part, outcome) for part, outcome in parts))
    if isinstance(result, CommandFailure):
        return _failure(result)
    return vtp.Strings(result)


def send_result(
    connection: vtp.Connection,
    metrics: Metrics,
    request_id: bytes,
    command: log.Command,
    result: Result,
) -> bytes:
    """Return the bytes of the reply to a command, and count a transaction that was carried out.

    LocalProtocolError when it is too large.
    """
    if isinstance(result, ExecResult):
        metrics.transactions_committed += 1
    negotiation = connection.negotiation
    assert negotiation is not None
    if result_bytes(result) > negotiation.max_frame_bytes:
        # Known before anything is copied: a transaction can ask for gigabytes.
        raise LocalProtocolError.of(
            ErrorCode.TRN_006,
            length=result_bytes(result),
            maximum=negotiation.max_frame_bytes,
        )
    return connection.send_reply(request_id, reply_of(command, result))


def result_bytes(result: Result) -> int:
    """Return a lower bound of what a result takes as a reply, without building one."""
    if isinstance(result, bytes):
        return len(result)
    if isinstance(result, tuple):
        return sum(len(value) for value in result if value is not None)
    if isinstance(result, list):
        return sum(len(key) + len(value) for key, value in result)
    if isinstance(result, ScanPage):
        return sum(map(len, result.keys))
    if isinstance(result, ExecResult):
        return sum(result_bytes(part) for part in result.results)
    return 0


_COUNTING = (log.Del, log.DbSize, log.Count)


def _failure(failure: CommandFailure) -> vtp.ErrorReply:
    key = failure.key.decode()
    if failure.code is FailureCode.LIST_TOO_LARGE:
        limit = vtp.FRAME_BYTES_MAX
        raise LocalProtocolError.of(ErrorCode.TRN_006, length=limit + 1, maximum=limit)
    if failure.code is FailureCode.NOT_AN_INTEGER:
        value = failure.value.decode(errors="replace")
        return error_reply(ErrorCode.ENG_015, key=key, value=value)
    if failure.code is FailureCode.NO_SUCH_RESTORE:
        return error_reply(ErrorCode.ENG_011, detail=failure.message)
    return error_reply(ErrorCode.ENG_016, key=key)
