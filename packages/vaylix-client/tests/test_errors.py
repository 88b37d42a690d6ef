from __future__ import annotations

import ast
import inspect
import pickle
from pathlib import Path

import pytest

import vaylix_client
from vaylix_client import errors
from vaylix_client.errors import (
    CallTimeoutError,
    ClientError,
    OutcomeUnknownError,
    ServerError,
    server_error,
)
from vaylix_protocol import ErrorCode, ErrorReply

# What an error *reply* with these codes means differs from what they mean for a connection.
_REPLY_IS_FINAL = {"TRN-007", "TRN-013", "CLI-006"}


@pytest.mark.parametrize("code", list(ErrorCode), ids=lambda code: code.code)
def test_every_code_of_the_catalogue_becomes_an_error_that_says_the_same(code: ErrorCode) -> None:
    error = server_error(ErrorReply(code.code, code.title, "text"))
    assert (error.code, error.name) == (code.code, code.title)
    assert error.retryable == code.retryable
    if code.code not in _REPLY_IS_FINAL:
        assert isinstance(error, OutcomeUnknownError) == code.outcome_unknown
        assert ("outcome unknown" in str(error)) == code.outcome_unknown


def test_an_unknown_code_is_a_plain_server_error() -> None:
    error = server_error(ErrorReply("XYZ-1", "New", "text"))
    assert type(error) is ServerError
    assert str(error) == "[XYZ-1] New: text"
    assert not error.retryable


def test_all_public_errors_are_one_hierarchy() -> None:
    for name in errors.__all__:
        member = getattr(errors, name)
        assert inspect.isclass(member)
        assert issubclass(member, ClientError)


def test_time_outs_are_timeout_errors_too() -> None:
    error = CallTimeoutError("TRN-013", "n", "m")
    assert isinstance(error, TimeoutError)
    assert str(error) == "[TRN-013] n: m"


def test_errors_survive_pickling() -> None:
    error = CallTimeoutError("TRN-013", "name", "message", retryable=True)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is CallTimeoutError
    assert (copy.code, copy.message, copy.retryable) == ("TRN-013", "message", True)


_ROOT = Path(vaylix_client.__file__).parent
_SOURCES = sorted(_ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_codes_names_and_messages_come_from_the_catalogue(path: Path) -> None:
    beginnings = {code.template.partition("{")[0] for code in ErrorCode}
    messages = tuple(beginning for beginning in beginnings if len(beginning) > len("usage: "))
    names = {code.code for code in ErrorCode} | {code.title for code in ErrorCode}
    texts = [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    retyped = [text for text in texts if text in names or text.startswith(messages)]
    assert retyped == []
