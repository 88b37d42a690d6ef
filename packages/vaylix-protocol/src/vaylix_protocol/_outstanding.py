"""The client's memory of what it has asked for: which reply belongs to which command.

Responses come in the order of the requests and do not say what they are, so the commands wait in
a queue, and each response is read as an answer to the first of them.

While a transaction is open, a queued command answers with the value `QUEUED` instead of its own
kind. To tell that from a stored value of the same text, the transaction is followed, and followed
in the order of the *replies*, because only they say what the server did with MULTI and EXEC; that
is what makes it right for pipelined transactions, too.

    closed --MULTI answered OK-----------------------------------------> open
    open ----EXEC answered with results; DISCARD answered OK-----------> closed
    open ----any command answered SRV-034 (expired), SRV-015 (none)----> closed
    open ----EXEC answered with an error that comes from running it----> closed

EXEC errors that come from checks before it is run leave the transaction open. SRV-036 can be
either (VTP2 section 11); it counts as open, so that a `QUEUED` is still recognised. In the open
state other forms of reply are read as usual: AUTH, for one, is never queued.

How many commands were queued is counted on the way: EXEC answers with as many results.
"""

from __future__ import annotations

from collections import deque
from typing import Final
from uuid import UUID

from vaylix_protocol._constants import Status
from vaylix_protocol._events import Response
from vaylix_protocol._replies import ErrorReply, ExecResults, Ok, Queued, Reply, Value
from vaylix_protocol._reply_codec import (
    NO_STRINGS,
    QUEUED_BODY,
    Expected,
    decode_reply,
    split_response,
)
from vaylix_protocol.commands import Command, Discard, Exec, Get, MGet, Multi, reply_kind_of
from vaylix_protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError

__all__ = ["Outstanding"]

_TRANSACTION_IS_GONE: Final = frozenset(
    error_code.code for error_code in (ErrorCode.SRV_015, ErrorCode.SRV_034)
)
# EXEC was refused before it took the queue.
_EXEC_REFUSED: Final = frozenset(
    error_code.code
    for error_code in (
        ErrorCode.SRV_007,
        ErrorCode.SRV_012,
        ErrorCode.SRV_013,
        ErrorCode.SRV_033,
        ErrorCode.SRV_036,
        ErrorCode.SRV_037,
        ErrorCode.TRN_007,
        ErrorCode.TRN_008,
        ErrorCode.TRN_016,
        ErrorCode.TRN_018,
    )
)


# Behind request id, status and length.
_VALUE_START: Final = 16 + 1 + 4


class Outstanding:
    """Requests without a response, oldest first, at most `count_max` of them."""

    __slots__ = ("_count_max", "_in_transaction", "_queue", "_queued_key_counts")

    def __init__(self, count_max: int) -> None:
        self._queue: deque[tuple[bytes, Command]] = deque()
        self._count_max = count_max
        self._in_transaction = False
        # For each command that waits for EXEC.
        self._queued_key_counts: list[int] = []

    def check_room(self) -> None:
        """Raise LocalProtocolError if no further request may be added."""
        if len(self._queue) >= self._count_max:
            raise LocalProtocolError.of(
                ErrorCode.TRN_018, detail="too many requests wait for a response"
            )

    def add(self, request_id: bytes, command: Command) -> None:
        """Remember a request that is being sent."""
        assert len(self._queue) < self._count_max
        self._queue.append((request_id, command))

    def match(self, body: bytes) -> Response:
        """Read `body` as the response to the oldest request; raise RemoteProtocolError if not."""
        if self._queue and not self._in_transaction and len(body) >= _VALUE_START:
            request_id, command = self._queue[0]
            if type(command) is Get and body.startswith(request_id) and body[16] == Status.OK:
                # The value of a GET in line: it is nearly all of the traffic.
                data = body[_VALUE_START:]
                if int.from_bytes(body[17:_VALUE_START], "big") == len(data):
                    self._queue.popleft()
                    return Response(request_id, Value(data))
        return self._match_any(body)

    def _match_any(self, body: bytes) -> Response:
        request_id, status, reader = split_response(body)
        if not self._queue:
            raise RemoteProtocolError.of(ErrorCode.TRN_018, detail="response without a request")
        expected_id, command = self._queue[0]
        if request_id != expected_id:
            raise RemoteProtocolError.of(
                ErrorCode.CLI_006,
                expected=UUID(bytes=expected_id),
                actual=UUID(bytes=request_id),
            )
        reply: Reply
        if (
            self._in_transaction
            and status is Status.OK
            and reader.left_bytes == len(QUEUED_BODY)
            and body.endswith(QUEUED_BODY)
        ):
            reply = Queued()
            self._queued_key_counts.append(_key_count(command))
        else:
            expected = self._expected(command)
            reply = decode_reply(status, reader, reply_kind_of(command), expected)
            self._follow(command, reply)
        self._queue.popleft()
        return Response(request_id, reply)

    def _expected(self, command: Command) -> Expected:
        if isinstance(command, MGet):
            return (_key_count(command),)
        if isinstance(command, Exec):
            # Nothing is queued outside of a transaction.
            return tuple(self._queued_key_counts)
        return None

    def _follow(self, command: Command, reply: Reply) -> None:
        if isinstance(reply, ErrorReply):
            if reply.code in _TRANSACTION_IS_GONE or (
                isinstance(command, Exec) and reply.code not in _EXEC_REFUSED
            ):
                self._set_in_transaction(opened=False)
        elif isinstance(command, Multi) and isinstance(reply, Ok):
            self._set_in_transaction(opened=True)
        elif isinstance(reply, ExecResults) or isinstance(command, Discard):
            self._set_in_transaction(opened=False)

    def _set_in_transaction(self, *, opened: bool) -> None:
        self._in_transaction = opened
        self._queued_key_counts.clear()


def _key_count(command: Command) -> int:
    return len(command.keys) if isinstance(command, MGet) else NO_STRINGS
