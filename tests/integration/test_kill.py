"""Kill the real server at random moments under load: every acknowledged write must be there.

Each writer works on keys of its own and keeps what the server has acknowledged. After a kill, an
unacknowledged write may or may not have happened; an acknowledged one must have, and nothing else.
"""

from __future__ import annotations

import random
import threading
from pathlib import Path

import vaylix_protocol as vtp
from vaylix_server.testing import ServerProcess, Witness

KILLS = 12
WRITERS = 4
LOAD_SECONDS = (0.05, 0.4)
# Small segments, and a snapshot whenever the log has grown a little.
RESTLESS = ("--wal-segment-size-bytes=65536", "--snapshot-wal-bytes=100000")


def test_every_acknowledged_write_survives_sigkill(tmp_path: Path) -> None:
    chance = random.Random(20_261_124)
    writers = [Witness(number, number) for number in range(WRITERS)]
    for _ in range(KILLS):
        with ServerProcess(tmp_path / "data", *RESTLESS) as server:
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
    with ServerProcess(tmp_path / "data", *RESTLESS) as server, server.admin() as client:
        for writer in writers:
            writer.successor().check(client)
        assert client.ask(vtp.Save()) == vtp.Ok()
        assert sum(writer.acknowledged for writer in writers) > 10 * KILLS
    assert list((tmp_path / "data" / "snapshots").iterdir())
