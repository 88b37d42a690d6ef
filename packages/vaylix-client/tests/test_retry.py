"""Which calls are repeated, and how long the pauses before that are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vaylix_client import ClientError, NotSentError
from vaylix_client._data_commands import DataCommands
from vaylix_client._retry import retry_pause_seconds

if TYPE_CHECKING:
    from vaylix_client import Call

READ = DataCommands.get("k")
WRITE = DataCommands.set("k", "v")
FLEETING = NotSentError("TRN-013", "name", "gone", retryable=True)
LASTING = NotSentError("TRN-013", "name", "gone", retryable=False)


def test_pauses_double_up_to_a_second_and_stay_there() -> None:
    attempts = (1, 2, 3, 4, 5, 6, 7, 1024, 1025, 1_000_000)
    pauses = [retry_pause_seconds(READ, FLEETING, count, 1_000_000) for count in attempts]
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1, 1, 1, 1, 1]


def test_the_last_try_is_the_one_behind_the_last_repetition_allowed() -> None:
    assert retry_pause_seconds(READ, FLEETING, 2, 2) is not None
    assert retry_pause_seconds(READ, FLEETING, 3, 2) is None


@pytest.mark.parametrize(("call", "error"), [(WRITE, FLEETING), (READ, LASTING)])
def test_neither_a_write_nor_what_would_fail_again_is_repeated(
    call: Call[object], error: ClientError
) -> None:
    assert retry_pause_seconds(call, error, 1, 9) is None
