"""The error catalogue."""

from __future__ import annotations

import copy
import pickle
import re
import string
from typing import Any

import pytest

from vaylix_protocol import (
    Aftermath,
    CommandError,
    ErrorCode,
    ErrorReply,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    error_reply,
    errors_markdown,
)

Row = dict[str, Any]

TEXT_FIELDS = (
    *("command", "usage", "field", "value", "option", "detail", "start", "err", "resource"),
    *("key", "what", "name", "path", "username", "seconds", "n", "mode"),
)
NUMBER_FIELDS = ("opcode", "status", "flags", "expected", "actual", "length", "maximum")
SAMPLES: dict[str, object] = dict.fromkeys(TEXT_FIELDS, "x") | dict.fromkeys(NUMBER_FIELDS, 1)


def fields_of(error_code: ErrorCode) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(error_code.template) if name}


def test_the_catalogue_has_every_code_once() -> None:
    codes = [error_code.code for error_code in ErrorCode]
    counts = {family: sum(code.startswith(family) for code in codes) for family in FAMILIES}

    assert counts == FAMILIES
    assert len(set(codes)) == len(codes) == len(ErrorCode)
    assert all(error_code.name == error_code.code.replace("-", "_") for error_code in ErrorCode)


def test_the_contract_has_every_code_and_no_other(error_code_rows: list[Row]) -> None:
    complete = [row["code"] for row in error_code_rows if row["table"] in ("catalogue", "client")]

    assert sorted(complete) == sorted(error_code.code for error_code in ErrorCode)


def test_codes_names_and_messages_are_those_of_the_contract(error_code_row: Row) -> None:
    error_code = ErrorCode[error_code_row["code"].replace("-", "_")]
    # The only detail that the contract words as a part of the message, and it fits others as well.
    samples = SAMPLES | {"detail": "unknown compression mode"}
    fields = {name: samples[name] for name in fields_of(error_code)}
    reply = error_reply(error_code, **fields)
    is_reply = error_code_row["table"] == "replies"
    message = reply.message if is_reply else error_code.message(**fields)
    # What stands in braces is filled in.
    parts = re.split(r"\{[^}]*\}", error_code_row["message"])

    assert reply.code == error_code.code == error_code_row["code"]
    assert reply.name == error_code.title == error_code_row["name"]
    assert re.fullmatch(".+".join(map(re.escape, parts)), message)
    if error_code_row["table"] in ("catalogue", "client"):
        assert re.split(r"\{[^}]*\}", error_code.template) == parts


FAMILIES = {"CMD": 8, "ENG": 17, "TRN": 18, "SRV": 39, "CLI": 6}


@pytest.mark.parametrize("error_code", list(ErrorCode))
def test_every_message_can_be_filled_in(error_code: ErrorCode) -> None:
    fields = {name: SAMPLES[name] for name in fields_of(error_code)}

    message = error_code.message(**fields)

    assert "{" not in message
    assert message
    for name in fields:
        with pytest.raises(KeyError):
            error_code.message(**{key: value for key, value in fields.items() if key != name})


def test_engine_failures_say_so_and_others_do_not() -> None:
    assert error_reply(ErrorCode.ENG_016, key="n") == ErrorReply(
        "ENG-016", "Numeric Overflow", "engine failure: numeric overflow for key 'n'"
    )
    assert error_reply(ErrorCode.SRV_034, seconds=30) == ErrorReply(
        "SRV-034", "Transaction Expired", "transaction expired after 30 seconds"
    )


def test_numbers_are_written_as_users_know_them() -> None:
    assert ErrorCode.TRN_009.message(expected=5, actual=0x3495003C) == (
        "frame checksum mismatch: expected 0x00000005, got 0x3495003C"
    )
    assert ErrorCode.TRN_002.message(opcode=0) == "unknown opcode: 0x00"
    assert ErrorCode.TRN_010.message(flags=0x8A) == "unsupported frame flags: 0x8a"


def test_what_may_be_retried_and_what_is_unknown() -> None:
    by_aftermath = {
        aftermath: {code.code for code in ErrorCode if code.aftermath is aftermath}
        for aftermath in Aftermath
    }

    assert by_aftermath[Aftermath.RETRY] == {
        "SRV-003",
        "SRV-012",
        "SRV-031",
        "SRV-033",
        "SRV-037",
    }
    assert by_aftermath[Aftermath.UNKNOWN] == {
        "CLI-006",
        "ENG-002",
        "SRV-005",
        "SRV-035",
        "SRV-036",
        "TRN-007",
        "TRN-013",
    }
    assert not any(code.retryable and code.outcome_unknown for code in ErrorCode)


def test_the_base_of_all_exceptions_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        ProtocolError(ErrorCode.TRN_001, "invalid frame")


@pytest.mark.parametrize("kind", [LocalProtocolError, RemoteProtocolError, CommandError])
def test_exceptions_carry_their_code_and_survive_copying(kind: type[ProtocolError]) -> None:
    error = kind.of(ErrorCode.TRN_018, detail="expected client hello")

    for same in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(same) is kind
        assert same.error_code is ErrorCode.TRN_018
        assert str(same) == "protocol state violation: expected client hello"
        assert same.described == (
            "[TRN-018] Protocol State Violation: protocol state violation: expected client hello"
        )


def test_the_table_for_the_documentation_has_a_row_for_each_code() -> None:
    lines = errors_markdown().splitlines()

    assert len(lines) == 2 + len(ErrorCode)
    assert lines[2] == "| CMD-001 | Empty Command | `empty command` | final |"
    assert all(line.count(" | ") == 3 for line in lines)
