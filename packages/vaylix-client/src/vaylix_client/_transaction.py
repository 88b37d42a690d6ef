"""The conversation of one transaction, without any IO.

`TransactionPlan` hands out bursts of commands, which the driver sends together, and takes the
outcomes of each. The driver must own the connection from the first burst until the end, so that
no command of others gets queued by accident.

Why three bursts and not one, although the server would take all at once (VTP2 section 11):

- If MULTI is refused (rate limit, maintenance, no login) the commands behind it would run on
  their own. So MULTI is answered first.
- A command refused while queueing does not doom the transaction; EXEC would run the rest. Atomic
  means all or nothing, so EXEC follows only when everything was queued, otherwise DISCARD does.
- EXEC refused before it took the queue (SRV-012, SRV-033, SRV-036, SRV-037) leaves the
  transaction open, and the error does not tell. So DISCARD follows a failed EXEC. It answers OK
  if the transaction was still open and SRV-015 if it was not; both are a known state.

Where the state stays unknown, `must_close` is set: the driver closes the connection, and with it
the server drops an open transaction.

One gap remains that no client can close: a transaction that expires on the server (SRV-034) takes
one command with it, and the server runs those behind it in the same burst on their own. That takes
a server that stalls for the whole transaction lifetime (30 s), and only a round trip per command
would rule it out. So of the commands that left and were not answered, all but the first may have
run; where there are such commands, the outcome is unknown, and "not sent" stays a promise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from vaylix_client.errors import (
    ClientError,
    InvalidCallError,
    NotSentError,
    OutcomeUnknownError,
    in_transport,
    server_error,
)
from vaylix_protocol import (
    Discard,
    ErrorCode,
    ErrorReply,
    Exec,
    ExecResults,
    Multi,
    NotFound,
    Ok,
    Queued,
    Reply,
    ReplyKind,
    reply_kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from vaylix_client._session import Cause, Outcome
    from vaylix_protocol import Command

    Steps: TypeAlias = Generator[tuple[Command, ...], Sequence[Outcome], None]

__all__ = ["TransactionPlan"]


class TransactionPlan:
    """What to send for one transaction, and what the answers mean. Used once."""

    def __init__(self, commands: tuple[Command, ...]) -> None:
        self._commands = commands
        self._steps = self._conversation()
        self.outcome: tuple[Reply, ...] | ClientError | None = None
        """At the end, the results of EXEC or why there are none.

        `NotSentError` when nothing was executed because of an interruption, a `ServerError` for a
        refusal, `OutcomeUnknownError` when EXEC got no answer, or one that does not fit.
        """
        self._is_abandoned = False
        self._may_have_run = False
        self.must_close = False
        """Whether the connection was left in a state that nobody knows."""

    def first_burst(self) -> tuple[Command, ...]:
        """Return what to send first."""
        return next(self._steps)

    def next_burst(self, outcomes: Sequence[Outcome]) -> tuple[Command, ...] | None:
        """Take the outcomes of a burst, return the next one, or `None` at the end."""
        try:
            return self._steps.send(outcomes)
        except StopIteration:
            assert self.outcome is not None, "ended without an outcome"
            return None

    def _conversation(self) -> Steps:
        (begun,) = yield (Multi(),)
        if not isinstance(begun, Ok):
            # An error reply to MULTI opens nothing; an interruption ends the connection.
            self.outcome = _refused(begun)
            return
        if self._was_abandoned():
            yield from self._discard(_refused(None))
            return
        self._may_have_run = len(self._commands) > 1
        queued = yield self._commands
        refusal = next((answer for answer in queued if not isinstance(answer, Queued)), None)
        if refusal is not None:
            yield from self._discard(_ran_alone(queued) or _refused(refusal))
            return
        self._may_have_run = False
        if self._was_abandoned():
            yield from self._discard(_refused(None))
            return
        self._may_have_run = True
        (executed,) = yield (Exec(),)
        if isinstance(executed, ExecResults):
            self.outcome = self._checked(executed)
        elif isinstance(executed, ClientError):
            self.outcome = executed
        else:
            yield from self._discard(_refused(executed))

    def abandon(self) -> None:
        """Take note that the caller gave up: unless EXEC has left, discard."""
        self._is_abandoned = True

    def interruption(self, cause: Cause) -> ClientError:
        """Return what it means to the caller to be interrupted now."""
        if self._may_have_run:
            return cause.outcome_unknown(reads_only=False)
        return cause.not_sent()

    def _checked(self, executed: ExecResults) -> tuple[Reply, ...] | ClientError:
        results = executed.results
        if len(results) == len(self._commands) and all(map(_can_answer, results, self._commands)):
            return results
        # Something ran, but the server does not say what we asked for.
        self.must_close = True
        code = ErrorCode.TRN_008
        return OutcomeUnknownError.of(code, in_transport(f"{code.message()} (outcome unknown)"))

    def _was_abandoned(self) -> bool:
        # A method, because the answer can change at every `yield`.
        return self._is_abandoned

    def _discard(self, outcome: ClientError) -> Steps:
        self.outcome = outcome
        (answer,) = yield (Discard(),)
        already_gone = isinstance(answer, ErrorReply) and answer.code == ErrorCode.SRV_015.code
        self.must_close = not (isinstance(answer, Ok) or already_gone)


def _can_answer(result: Reply, command: Command) -> bool:
    kind = reply_kind_of(command)
    return result.kind is kind or (kind is ReplyKind.VALUE and isinstance(result, NotFound))


def _refused(answer: Outcome | None) -> ClientError:
    """Return the error for a transaction that was not executed."""
    if isinstance(answer, ErrorReply):
        return server_error(answer)
    if isinstance(answer, InvalidCallError):
        return answer
    cause = answer if isinstance(answer, ClientError) else None
    error = NotSentError(
        cause.code if cause else ErrorCode.TRN_013.code,
        cause.name if cause else ErrorCode.TRN_013.title,
        f"transaction not executed: {cause.message if cause else 'given up by the caller'}",
        retryable=True,
    )
    error.__cause__ = cause
    return error


def _ran_alone(queued: Sequence[Outcome]) -> OutcomeUnknownError | None:
    """Return the error for commands that may have run on their own, or `None`.

    See "one gap remains" above.
    """
    expired = False
    for answer in queued:
        if isinstance(answer, ErrorReply):
            expired = expired or answer.code == ErrorCode.SRV_034.code
        elif isinstance(answer, OutcomeUnknownError):
            if expired:
                return answer
            # It may be the one that was lost to the expiry; only those behind it can have run.
            expired = True
        elif not isinstance(answer, Queued | ClientError):
            code = ErrorCode.SRV_034
            return OutcomeUnknownError.of(
                code, "commands ran outside of the transaction (outcome unknown)"
            )
    return None
