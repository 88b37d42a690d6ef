"""Kill the real server at random moments under load: every acknowledged write must be there.

Each writer works on keys of its own and keeps what the server has acknowledged. After a kill, an
unacknowledged write may or may not have happened; an acknowledged one must have, and nothing else.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_server.testing import ServerProcess, Witness

KILLS = 10
# As many as it took to make 0.9 forget what it had acknowledged.
WRITERS = 16
LOAD_SECONDS = (0.05, 0.4)
# Small segments, and a snapshot whenever the log has grown a little.
RESTLESS = ("--wal-segment-size-bytes=65536", "--snapshot-wal-bytes=100000")


def kill_under_load(
    data: Path, *flags: str, environment: Mapping[str, str] | None = None
) -> list[Witness]:
    """Kill a server again and again, and check what the next one holds."""
    chance = random.Random(20_261_124)
    writers = [Witness(number, number) for number in range(WRITERS)]
    for _ in range(KILLS):
        with ServerProcess(data, *flags, environment=environment) as server:
            with server.admin() as client:
                for writer in writers:
                    writer.check(client)
            writers = [writer.successor() for writer in writers]
            for writer in writers:
                writer.client = server.admin()
            for writer in writers:
                writer.start()
            # A moment chosen by chance is the point of the test, not a wait for something.
            threading.Event().wait(chance.uniform(*LOAD_SECONDS))
            server.kill()
            for writer in writers:
                writer.join()
    return writers


def test_every_acknowledged_write_survives_sigkill(tmp_path: Path) -> None:
    data = tmp_path / "data"
    writers = kill_under_load(data, *RESTLESS)
    with ServerProcess(data, *RESTLESS) as server, server.admin() as client:
        for writer in writers:
            writer.successor().check(client)
        assert client.ask(vtp.Save()) == vtp.Ok()
        assert sum(writer.acknowledged for writer in writers) > 10 * KILLS
    assert list((data / "snapshots").iterdir())


WRITES_LATE = """
from vaylix_storage import Log

append, last_index = Log.append, Log.last_index
waiting = []


def append_late(log, batches, hard_state=None):
    waiting.extend(batches)
    if len(waiting) > 20:
        append(log, tuple(waiting), hard_state)
        waiting.clear()


def last_index_told(log):
    return waiting[-1].last_index if waiting else last_index.fget(log)


Log.append = append_late
Log.last_index = property(last_index_told)
"""


def test_planted_answers_before_the_write_are_found(tmp_path: Path) -> None:
    """Planted bug, weakness 36: batches are answered, and written when there are twenty of them."""
    (tmp_path / "sitecustomize.py").write_text(WRITES_LATE, encoding="utf-8")
    with pytest.raises(AssertionError, match="possible were"):
        kill_under_load(tmp_path / "data", environment={"PYTHONPATH": str(tmp_path)})
