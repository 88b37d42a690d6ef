"""Any pipeline, cut anywhere, is answered as if its commands had come one by one."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import vaylix_protocol as vtp
from vaylix_server.prepare import PREPARE, reply_of
from vaylix_server.settings import Settings
from vaylix_server.testing import WireClient, serve_in_memory
from vaylix_storage import Keyspace
from vaylix_storage.commands import Exec

KEYS = st.sampled_from([b"a", b"b", b"c", b"n"])
VALUES = st.sampled_from([b"", b"1", b"x", b"v" * 2000])
COMMANDS: st.SearchStrategy[vtp.Command] = st.one_of(
    st.builds(vtp.Get, KEYS),
    st.builds(vtp.Set, KEYS, VALUES),
    st.builds(
        vtp.Set, KEYS, VALUES, st.sampled_from(vtp.SetCondition), return_previous=st.booleans()
    ),
    st.builds(vtp.SetNx, KEYS, VALUES),
    st.builds(vtp.Incr, KEYS),
    st.builds(vtp.Del, st.lists(KEYS, max_size=3).map(tuple)),
    st.builds(vtp.MGet, st.lists(KEYS, max_size=3).map(tuple)),
    st.builds(vtp.MSet, st.lists(st.tuples(KEYS, VALUES), max_size=3).map(tuple)),
    st.builds(vtp.GetDel, KEYS),
    st.builds(vtp.Rename, KEYS, KEYS),
    st.builds(vtp.Exists, KEYS),
    st.builds(vtp.Ttl, KEYS),
    st.builds(vtp.Ping, st.none() | VALUES),
    st.sampled_from(
        [vtp.DbSize(), vtp.List(), vtp.Clear(), vtp.Multi(), vtp.Exec(), vtp.Discard()]
    ),
)


class Model:
    """One command after the other, with nothing clever about it."""

    def __init__(self) -> None:
        self.keyspace = Keyspace()
        self.queue: list[vtp.Command] | None = None

    def reply(self, command: vtp.Command) -> vtp.Reply:
        if isinstance(command, vtp.Multi):
            if self.queue is not None:
                return vtp.error_reply(vtp.ErrorCode.SRV_014)
            self.queue = []
            return vtp.Ok()
        if isinstance(command, vtp.Exec | vtp.Discard):
            queue, self.queue = self.queue, None
            if queue is None:
                return vtp.error_reply(vtp.ErrorCode.SRV_015)
            if isinstance(command, vtp.Discard):
                return vtp.Ok()
            prepared = Exec(tuple(PREPARE[type(part)](part) for part in queue))
            return reply_of(prepared, self.keyspace.apply((prepared,), 1, want_results=True)[0])
        if self.queue is not None:
            self.queue.append(command)
            return vtp.Queued()
        single = PREPARE[type(command)](command)
        return reply_of(single, self.keyspace.apply((single,), 1, want_results=True)[0])


@hypothesis_settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(COMMANDS, max_size=60), st.integers(1, 5000))
def test_any_pipeline_cut_anywhere(pipeline: list[vtp.Command], chunk: int) -> None:
    asyncio.run(compare(pipeline, chunk))


async def compare(pipeline: list[vtp.Command], chunk: int) -> None:
    model = Model()
    expected = [model.reply(command) for command in pipeline]
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(disable_auth=True, wal_sync="flush")
        async with serve_in_memory(Path(directory), settings) as server:
            client = await server.greet()
            send_in_chunks(client, pipeline, chunk)
            assert [await client.receive() for _ in pipeline] == expected


def send_in_chunks(client: WireClient, pipeline: list[vtp.Command], chunk: int) -> None:
    frames = b"".join(
        client.connection.send_request(number.to_bytes(16, "big"), command)
        for number, command in enumerate(pipeline)
    )
    for start in range(0, len(frames), chunk):
        client.send_bytes(frames[start : start + chunk])
