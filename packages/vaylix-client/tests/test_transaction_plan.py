from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vaylix_client._session import Cause
from vaylix_client._transaction import TransactionPlan
from vaylix_client.errors import (
    ClientError,
    InvalidCallError,
    NotSentError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    TransactionExpiredError,
    UnconfirmedError,
)
from vaylix_protocol import (
    Command,
    Discard,
    ErrorCode,
    Exec,
    ExecResults,
    Get,
    Integer,
    Multi,
    NotFound,
    Ok,
    Queued,
    Reply,
    Set,
    Value,
    error_reply,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaylix_client._session import Outcome

COMMANDS: tuple[Command, ...] = (Set(b"k", b"v"), Get(b"k"))
QUEUED = (Queued(), Queued())
LOST = Cause.end_of_stream().outcome_unknown(reads_only=False)


def _play(plan: TransactionPlan, *answers: Sequence[Outcome]) -> list[tuple[Command, ...]]:
    """Feed the answers of all bursts but count on the plan to end with the last one."""
    bursts = [plan.first_burst()]
    for position, answer in enumerate(answers):
        burst = plan.next_burst(answer)
        if position == len(answers) - 1:
            assert burst is None, "the plan wants to go on"
        else:
            assert burst is not None, "the plan ended early"
            bursts.append(burst)
    return bursts


def test_three_bursts_and_the_results() -> None:
    plan = TransactionPlan(COMMANDS)
    results = (Ok(), Value(b"v"))
    bursts = _play(plan, [Ok()], QUEUED, [ExecResults(results)])
    assert bursts == [(Multi(),), COMMANDS, (Exec(),)]
    assert plan.outcome == results
    assert not plan.must_close


@pytest.mark.parametrize(
    "results",
    [(), (Ok(),), (Ok(), NotFound(), Ok()), (Ok(), Integer(1)), (NotFound(), NotFound())],
)
def test_results_that_do_not_fit_the_commands_are_an_unknown_outcome(
    results: tuple[Reply, ...],
) -> None:
    plan = TransactionPlan(COMMANDS)
    _play(plan, [Ok()], QUEUED, [ExecResults(results)])
    assert isinstance(plan.outcome, OutcomeUnknownError)
    assert plan.outcome.code == "TRN-008"
    assert not plan.outcome.retryable
    assert plan.must_close


def test_nothing_follows_a_refused_multi() -> None:
    plan = TransactionPlan(COMMANDS)
    bursts = _play(plan, [error_reply(ErrorCode.SRV_012)])
    assert bursts == [(Multi(),)]
    assert isinstance(plan.outcome, RateLimitedError)
    assert not plan.must_close


def test_a_refused_command_discards_the_others() -> None:
    plan = TransactionPlan(COMMANDS)
    bursts = _play(plan, [Ok()], [Queued(), error_reply(ErrorCode.SRV_017)], [Ok()])
    assert bursts[-1] == (Discard(),)
    assert isinstance(plan.outcome, PermissionDeniedError)
    assert not plan.must_close


def test_a_command_that_cannot_be_encoded_discards_the_others() -> None:
    plan = TransactionPlan(COMMANDS)
    broken = InvalidCallError("TRN-008", "Corrupted Payload", "x")
    bursts = _play(plan, [Ok()], [Queued(), broken], [Ok()])
    assert bursts[-1] == (Discard(),)
    assert plan.outcome is broken


@pytest.mark.parametrize("code", [ErrorCode.SRV_036, ErrorCode.SRV_033, ErrorCode.ENG_015])
def test_discard_follows_a_failed_exec_whether_it_took_the_queue_or_not(code: ErrorCode) -> None:
    for answer in (Ok(), error_reply(ErrorCode.SRV_015)):
        plan = TransactionPlan(COMMANDS)
        fields = {"key": "k", "value": "v"} if code is ErrorCode.ENG_015 else {}
        bursts = _play(plan, [Ok()], QUEUED, [error_reply(code, **fields)], [answer])
        assert bursts[-1] == (Discard(),)
        assert isinstance(plan.outcome, ServerError)
        assert plan.outcome.code == code.code
        assert not plan.must_close
        assert isinstance(plan.outcome, UnconfirmedError) == (code is ErrorCode.SRV_036)


def test_a_refused_discard_leaves_a_connection_that_must_be_closed() -> None:
    plan = TransactionPlan(COMMANDS)
    _play(
        plan,
        [Ok()],
        QUEUED,
        [error_reply(ErrorCode.SRV_033)],
        [error_reply(ErrorCode.SRV_033)],
    )
    assert plan.must_close


NOT_SENT = Cause.end_of_stream().not_sent()


@pytest.mark.parametrize(
    "answers",
    [
        [[LOST]],
        [[Ok()], [Queued(), LOST], [NOT_SENT]],
        [[Ok()], [LOST, NOT_SENT], [NOT_SENT]],
        [[Ok()], [Queued(), NOT_SENT], [NOT_SENT]],
    ],
    ids=["multi", "second command", "first command", "nothing"],
)
def test_not_executed_is_said_only_where_nothing_can_have_run(
    answers: list[list[Outcome]],
) -> None:
    plan = TransactionPlan(COMMANDS)
    _play(plan, *answers)
    assert isinstance(plan.outcome, NotSentError)
    assert plan.outcome.retryable
    assert "transaction not executed" in str(plan.outcome)


def test_of_unanswered_commands_all_but_the_first_may_have_run() -> None:
    cases: list[list[Outcome]] = [
        [LOST, LOST],
        [error_reply(ErrorCode.SRV_034, seconds=30), LOST],
    ]
    for answers in cases:
        plan = TransactionPlan(COMMANDS)
        _play(plan, [Ok()], answers, [NOT_SENT])
        assert isinstance(plan.outcome, OutcomeUnknownError)


def test_a_time_out_is_not_sent_unless_a_command_can_have_run() -> None:
    cause = Cause.timeout(1.0)
    for commands, unknown_while_queueing in ((COMMANDS, True), (COMMANDS[:1], False)):
        plan = TransactionPlan(commands)
        plan.first_burst()
        assert isinstance(plan.interruption(cause), NotSentError)
        plan.next_burst([Ok()])
        error = plan.interruption(cause)
        assert isinstance(error, OutcomeUnknownError) == unknown_while_queueing
        plan.next_burst(QUEUED[: len(commands)])
        assert isinstance(plan.interruption(cause), OutcomeUnknownError), "EXEC has left"


def test_an_interruption_of_exec_means_outcome_unknown() -> None:
    plan = TransactionPlan(COMMANDS)
    _play(plan, [Ok()], QUEUED, [LOST])
    assert isinstance(plan.outcome, OutcomeUnknownError)
    assert isinstance(plan.interruption(Cause.timeout(1.0)), OutcomeUnknownError)


@pytest.mark.parametrize("bursts_before", [0, 1])
def test_an_abandoned_transaction_is_discarded_unless_exec_has_left(bursts_before: int) -> None:
    plan = TransactionPlan(COMMANDS)
    answers: list[Sequence[Outcome]] = [[Ok()], QUEUED]
    plan.first_burst()
    for answer in answers[:bursts_before]:
        plan.next_burst(answer)
    plan.abandon()
    assert plan.next_burst(answers[bursts_before]) == (Discard(),)
    assert plan.next_burst([Ok()]) is None
    assert isinstance(plan.outcome, NotSentError)


def test_an_expired_transaction_is_refused_whole_or_its_outcome_unknown() -> None:
    expired = error_reply(ErrorCode.SRV_034, seconds=30)
    gone = error_reply(ErrorCode.SRV_015)
    plan = TransactionPlan(COMMANDS)
    _play(plan, [Ok()], [Queued(), expired], [gone])
    assert isinstance(plan.outcome, TransactionExpiredError)
    plan = TransactionPlan(COMMANDS)
    _play(plan, [Ok()], [expired, Ok()], [gone])
    assert isinstance(plan.outcome, OutcomeUnknownError)
    assert isinstance(plan.outcome, ClientError)
    assert "outside of the transaction" in str(plan.outcome)
