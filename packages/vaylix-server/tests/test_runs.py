"""What a run holds: commands in order, and columns only while they are the whole of it."""

from __future__ import annotations

from typing import cast

import pytest

from vaylix_protocol import GetRun, SetRun
from vaylix_server.runs import Run, RunOwner
from vaylix_storage import commands as log

IDS = [b"1" * 16, b"2" * 16]
SETS = SetRun(IDS, [b"a", b"b"], [b"x", b"y"])
GETS = GetRun(IDS, [b"a", b"a"])
COMMANDS: list[log.Command] = [log.Set(b"a", b"x"), log.Set(b"b", b"y")]
GET, INCR = log.Get(b"a"), log.Incr(b"n")


def new_run() -> Run:
    return Run(cast("RunOwner", None), "somebody")


def add(run: Run, what: str) -> None:
    if what == "sets":
        assert run.add_sets(SETS) == 26
    elif what == "gets":
        run.add_gets(GETS)
    elif what == "write":
        run.add_write(b"3" * 16, INCR, 3)
    else:
        run.add_read(b"4" * 16, GET)


@pytest.mark.parametrize(
    ("parts", "is_plain"),
    [
        (["sets"], True),
        (["sets", "sets"], False),
        (["sets", "write"], False),
        (["write", "sets"], False),
        (["sets", "read"], False),
        (["read", "sets"], False),
        (["sets", "gets"], False),
        (["gets", "sets", "gets", "sets"], False),
        (["write"], False),
    ],
)
def test_columns_stand_for_a_run_only_when_they_are_all_of_it(
    parts: list[str], is_plain: bool
) -> None:
    run = new_run()
    for part in parts:
        add(run, part)
    assert (run.plain is SETS) is is_plain
    assert (run.plain is None) is not is_plain
    counts = {"sets": 2, "gets": 2, "write": 1, "read": 1}
    assert len(run.commands) == len(run.request_ids) == sum(counts[part] for part in parts)
    order: dict[str, list[log.Command]] = {
        "sets": COMMANDS,
        "gets": [GET, GET],
        "write": [INCR],
        "read": [GET],
    }
    assert run.commands == [command for part in parts for command in order[part]]
    assert run.logged == [command for command in run.commands if command != GET]
    assert run.payload_bytes == sum({"sets": 26, "write": 3}.get(part, 0) for part in parts)
