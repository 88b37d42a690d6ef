"""Golden data: a test that asks for `request_row` and the like runs once for each row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable

# No deadline: the machines that run this are shared, and slow moments are not failures.
settings.register_profile("vaylix", deadline=None, max_examples=150)
settings.load_profile("vaylix")

Row = dict[str, Any]
DATA = Path(__file__).parent / "data"


def is_plain(row: Row) -> bool:
    return not row["compressed"]


def is_rendered(row: Row) -> bool:
    """Say whether test_grammar knows the replies of this session; the others are for the client.

    The published client measures the columns of tables in bytes, so one table is left out.
    """
    is_ragged = row["name"] == "list_text" and row["mode"] == "table"
    return row["name"] in RENDERED_SESSIONS and not is_ragged


RENDERED_SESSIONS = frozenset(
    (
        "get_binary",
        "get_miss",
        "health",
        "list_empty",
        "list_text",
        "mget",
        "scan",
        "set_variants",
        "show_users",
        "transaction_list",
    )
)
# Fixture name: file, and which of its rows.
ROWS: dict[str, tuple[str, Callable[[Row], bool]]] = {
    "request_row": ("vtp2_requests.jsonl", lambda row: row["opcode"] is not None),
    "plain_request_row": (
        "vtp2_requests.jsonl",
        lambda row: row["opcode"] is not None and is_plain(row),
    ),
    "compressed_request_row": (
        "vtp2_requests.jsonl",
        lambda row: row["compressed"] and row["body"] is not None,
    ),
    "client_hello_row": ("vtp2_requests.jsonl", lambda row: row["opcode"] is None),
    "response_row": (
        "vtp2_responses.jsonl",
        lambda row: row["kind"] != "SERVER_HELLO" and row["frame"] is not None,
    ),
    "plain_response_row": (
        "vtp2_responses.jsonl",
        lambda row: row["kind"] != "SERVER_HELLO" and row["frame"] is not None and is_plain(row),
    ),
    "server_hello_row": ("vtp2_responses.jsonl", lambda row: row["kind"] == "SERVER_HELLO"),
    "invalid_stream_row": ("vtp2_invalid.jsonl", lambda row: row["phase"] != "response"),
    "invalid_response_row": ("vtp2_invalid.jsonl", lambda row: row["phase"] == "response"),
    "error_code_row": ("error_codes.jsonl", lambda _: True),
    "text_row": ("command_text.jsonl", lambda _: True),
    "help_row": ("client_sessions.jsonl", lambda row: row["name"] == "help"),
    "rendered_row": ("client_sessions.jsonl", is_rendered),
}


def load(file_name: str) -> list[Row]:
    lines = (DATA / file_name).read_bytes().split(b"\n")
    return [json.loads(line) for line in lines if line]


@pytest.fixture
def error_code_rows() -> list[Row]:
    """All rows at once, to see that none is missing."""
    return load("error_codes.jsonl")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, (file_name, is_wanted) in ROWS.items():
        if fixture in metafunc.fixturenames:
            rows = [row for row in load(file_name) if is_wanted(row)]
            assert rows
            names = [
                f"{index}-{row.get('code') or row.get('name', '')}"
                for index, row in enumerate(rows)
            ]
            metafunc.parametrize(fixture, rows, ids=names)
