"""The time of batches and reads: it never goes back, and follows no wall clock that jumps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vaylix_protocol as vtp
from vaylix_server.clock import TimeKeeper
from vaylix_server.hookspecs import hookimpl
from vaylix_server.interfaces import StorageBackend, StorageRequest
from vaylix_server.machine import SEMANTICS_VERSION, encode_semantics_version
from vaylix_server.settings import Settings
from vaylix_server.testing import WireClient, serve_in_memory
from vaylix_storage import Batch, BatchKind
from vaylix_storage.backend import Storage, memory_storage

TEN_YEARS_MS = 3650 * 86_400_000
METRIC = "vaylix.server.clock.offset.ms"


class Clocks:
    def __init__(self, wall: int = 1_000_000, elapsed: int = 0) -> None:
        self.wall = wall
        self.elapsed = elapsed

    def keeper(self, start_ms: int = 0) -> TimeKeeper:
        return TimeKeeper(
            wall_ms=lambda: self.wall,
            elapsed_ms=lambda: self.elapsed,
            start_ms=start_ms,
            jump_ms_max=60_000,
            patience_ms=300_000,
        )

    def advance(self, milliseconds: int, *, wall: int | None = None) -> None:
        self.elapsed += milliseconds
        self.wall += milliseconds if wall is None else wall


def test_follows_the_wall_clock() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    clocks.advance(10)
    assert keeper.now() == 1_000_010


def test_starts_at_the_newest_time_of_the_log_when_the_wall_clock_is_behind() -> None:
    clocks = Clocks()
    keeper = clocks.keeper(start_ms=5_000_000)
    assert keeper.now() == 5_000_000
    clocks.advance(100)
    assert keeper.now() == 5_000_100


def test_goes_on_at_rate_one_while_the_wall_clock_is_set_back() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    clocks.advance(1000, wall=-500_000)
    assert keeper.now() == 1_001_000
    clocks.advance(1000)
    assert keeper.now() == 1_002_000


def test_follows_a_forward_step_of_up_to_a_minute() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    clocks.wall += 60_000
    assert keeper.now() == 1_060_000


def test_does_not_believe_a_longer_step_until_it_has_stood_for_five_minutes() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    clocks.wall += 60_001
    assert keeper.now() == 1_000_000
    assert keeper.is_far_off
    assert keeper.offset_ms == 60_001
    clocks.advance(299_999)
    assert keeper.now() == 1_299_999
    clocks.advance(1)
    assert keeper.now() == 1_360_001
    assert keeper.offset_ms == 0
    assert not keeper.is_far_off


def test_forgets_a_step_that_was_taken_back() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    clocks.wall += 3_600_000
    keeper.now()
    clocks.advance(200_000, wall=-3_400_000)
    assert keeper.now() == 1_200_000
    assert not keeper.is_far_off
    clocks.wall += 3_600_000
    clocks.advance(200_000)
    assert keeper.now() == 1_400_000, "the second jump has its own five minutes"


@pytest.mark.parametrize(("behind_ms", "is_far_off"), [(60_000, False), (60_001, True)])
def test_says_how_far_the_wall_clock_is_behind_the_log_from_the_start_on(
    behind_ms: int, *, is_far_off: bool
) -> None:
    clocks = Clocks()
    keeper = clocks.keeper(start_ms=1_000_000 + behind_ms)
    for _ in range(2):
        assert keeper.offset_ms == -behind_ms
        assert keeper.is_far_off == is_far_off
        clocks.advance(100)
        keeper.now()
    clocks.wall += behind_ms
    keeper.now()
    assert keeper.offset_ms == 0
    assert not keeper.is_far_off


def test_a_step_that_is_followed_leaves_no_offset() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    clocks.wall += 60_000
    keeper.now()
    assert keeper.offset_ms == 0


@given(
    st.lists(st.tuples(st.integers(0, 400_000), st.integers(-10_000_000, 10_000_000)), max_size=40)
)
def test_never_goes_back_and_never_falls_behind_elapsed_time(steps: list[tuple[int, int]]) -> None:
    clocks = Clocks(wall=100_000_000)
    keeper = clocks.keeper()
    before = keeper.now()
    for elapsed, wall in steps:
        clocks.advance(elapsed, wall=wall)
        now = keeper.now()
        assert now >= before + elapsed
        before = now


@dataclass(frozen=True)
class WrittenAt:
    """A plugin: storage `written`, whose log was begun when a clock said `time_ms`."""

    time_ms: int

    @hookimpl
    def vaylix_storage_backends(self) -> list[StorageBackend]:
        return [StorageBackend(name="written", open=self._open)]

    def _open(self, request: StorageRequest) -> Storage:
        del request
        storage = memory_storage()
        batch = Batch.create(
            first_index=1,
            count=1,
            term=0,
            kind=BatchKind.SEMANTICS,
            timestamp_ms=self.time_ms,
            payload=encode_semantics_version(SEMANTICS_VERSION),
        )
        storage.log.append((batch,))
        return storage


async def entries(client: WireClient, command: vtp.Command) -> dict[str, str]:
    reply = await client.ask(command)
    assert isinstance(reply, vtp.Entries), reply
    return {key.decode(): value.decode() for key, value in reply.pairs}


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_a_log_that_is_ahead_of_the_wall_clock_is_told_everywhere(tmp_path: Path) -> None:
    ahead = WrittenAt(wall_ms() + TEN_YEARS_MS)
    settings = Settings(storage_backend="written")
    async with serve_in_memory(tmp_path, settings, extra_plugins=[ahead]) as server:
        warnings = [line for line in server.output.getvalue().split("\n") if "clock" in line]
        client = await server.login()
        assert await client.ask(vtp.Set(b"k", b"v")) == vtp.Ok()
        health = await entries(client, vtp.Health())
        metrics = await entries(client, vtp.Metrics())
        info = await entries(client, vtp.Info())
        prom = await client.ask(vtp.MetricsProm())
    (warning,) = warnings
    assert warning.startswith("[WARN] [server.startup] clock_offset_ms: -3153")
    assert "BACKUP TO" in warning, "the remedy"
    assert (health["status"], health["ready"]) == ("ready", "true"), "it serves correctly"
    assert health["reason"].startswith("clock_offset_ms: -3153")
    assert info["replication.reason"].startswith("clock_offset_ms: -3153")
    # The offset shrinks only if the wall clock is set while the test runs.
    assert int(metrics[METRIC]) == pytest.approx(TEN_YEARS_MS, abs=60_000)
    assert int(info[f"metrics.{METRIC}"]) == pytest.approx(TEN_YEARS_MS, abs=60_000)
    assert isinstance(prom, vtp.Value)
    assert b"\n# TYPE vaylix_server_clock_offset_ms gauge\n" in prom.data
    assert b"\nvaylix_server_clock_offset_ms 3153" in prom.data


async def test_a_log_that_is_a_little_ahead_is_no_news(tmp_path: Path) -> None:
    ahead = WrittenAt(wall_ms() + 50_000)
    settings = Settings(storage_backend="written")
    async with serve_in_memory(tmp_path, settings, extra_plugins=[ahead]) as server:
        assert "clock" not in server.output.getvalue()
        client = await server.login()
        assert (await entries(client, vtp.Health()))["reason"] == "none"
        assert METRIC not in await entries(client, vtp.Metrics())
