"""What the flags of storage do to the files and the memory of the real server.

What the growth of the log, the clock and a stop do to snapshots, and numbers of files that are
kept, is in `packages/vaylix-server/tests/test_snapshots.py`; the directory of backups in
`test_backups.py` there; a complete archive in `test_tools.py` here.

More keys that die at once: `VAYLIX_EXPIRED_KEYS=1000000 python3 noxfile.py -s tests -- -k die_in`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import vaylix_protocol as vtp
from vaylix_protocol import CountReply, Expiration, NotFound, Ok, TimeUnit, Value
from vaylix_server.testing import ServerProcess, SocketClient

DEADLINE_SECONDS = 60
SEGMENT_BYTES = 4096
SMALL = f"--wal-segment-size-bytes={SEGMENT_BYTES}"
# More than a test can make.
MANY_SEGMENTS = "--wal-retain-segments=1000000"
MANY_SNAPSHOTS = "--snapshot-retain=1000"
EXPIRED_KEYS = int(os.environ.get("VAYLIX_EXPIRED_KEYS", "200000"))
PIPELINED = 5_000
LONGEST_PING_SECONDS = 0.1
ATTEMPTS = 3


def turns(wait_seconds: float = 0) -> Iterator[None]:
    """Go on for as long as a test may take, or longer; the loop around it ends it."""
    deadline = time.monotonic() + DEADLINE_SECONDS + wait_seconds
    while time.monotonic() < deadline:
        yield
    raise AssertionError("it has not come to pass")


def grow(client: SocketClient) -> None:
    """Write what fills about five small segments, each entry in a batch of its own."""
    for _ in range(20):
        assert client.ask(vtp.Set(b"k", bytes(1000))) == Ok()


def save(client: SocketClient) -> None:
    """Take a snapshot that holds something new."""
    assert client.ask_all([vtp.Incr(b"n"), vtp.Save()])[1] == Ok()


def sealed(data: Path) -> dict[int, int]:
    """Return the sizes of the ended segments by their first entry."""
    segments = (data / "wal").glob("[0-9]*-*.wal")
    return {int(path.name.partition("-")[0]): path.stat().st_size for path in segments}


def snapshots(data: Path) -> list[str]:
    return sorted(path.name for path in (data / "snapshots").iterdir())


def expired_count(reply: vtp.Reply) -> int:
    """Return how many keys have left memory because their time was up."""
    assert isinstance(reply, vtp.Entries)
    return int(dict(reply.pairs)[b"vaylix.storage.expired.key.removed.count"])


def lasting(key: bytes, milliseconds: int) -> vtp.Command:
    return vtp.Set(key, b"v", expiration=Expiration(TimeUnit.MILLISECONDS, milliseconds))


def test_a_segment_ends_at_the_size_that_is_asked_for(tmp_path: Path) -> None:
    small, usual = tmp_path / "small", tmp_path / "usual"
    with ServerProcess(small, SMALL) as server, server.admin() as client:
        grow(client)
        sizes = sealed(small).values()
        assert len(sizes) >= 4
        # The entry that crosses the line is the last one.
        assert all(SEGMENT_BYTES <= size < SEGMENT_BYTES + 1200 for size in sizes)
        assert client.ask(vtp.Get(b"k")) == Value(bytes(1000))
    with ServerProcess(usual) as server, server.admin() as client:
        grow(client)
        assert sealed(usual) == {}


def test_segments_beyond_a_size_go_with_a_snapshot_and_not_before(tmp_path: Path) -> None:
    data = tmp_path / "data"
    flags = (SMALL, MANY_SEGMENTS, "--wal-retain-bytes=12000")
    with ServerProcess(data, *flags) as server, server.admin() as client:
        grow(client)
        before = sealed(data)
        assert sum(before.values()) > 12_000
        save(client)
        after = sealed(data)
        assert 6_000 < sum(after.values()) <= 12_000
        assert min(after) > min(before)
    with ServerProcess(data, *flags) as server, server.admin() as client:
        assert client.ask(vtp.Get(b"k")) == Value(bytes(1000))


def test_segments_and_snapshots_that_are_too_old_go(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ages = ("--wal-retain-seconds=1", "--snapshot-retain-seconds=1")
    with (
        ServerProcess(data, SMALL, MANY_SEGMENTS, MANY_SNAPSHOTS, *ages) as server,
        server.admin() as client,
    ):
        grow(client)
        save(client)
        first_segment, first_snapshot = min(sealed(data)), snapshots(data)[0]
        for _ in turns():
            save(client)
            if first_segment not in sealed(data) and first_snapshot not in snapshots(data):
                break
        # What is younger stays, and the newest one however old it is.
        assert snapshots(data)


def test_nothing_is_removed_that_cannot_be_archived(tmp_path: Path) -> None:
    data, archive = tmp_path / "data", tmp_path / "archive"
    flags = (f"--wal-archive-dir={archive}", "--wal-retain-segments=0", "--snapshot-retain=1")
    with ServerProcess(data, SMALL, *flags) as server, server.admin() as client:
        archive.write_bytes(b"in the way")
        grow(client)
        before = sealed(data)
        save(client)
        save(client)
        assert before.items() <= sealed(data).items()
        assert len(snapshots(data)) == 2
        assert sum("old files could not be removed" in line for line in server.lines) >= 1
        kept = {path.name: path.read_bytes() for path in (data / "wal").glob("[0-9]*-*.wal")}
        archive.unlink()
        save(client)
        assert sealed(data) == {}
        assert len(snapshots(data)) == 1
        (timeline,) = archive.iterdir()
        archived = {path.name: path.read_bytes() for path in (timeline / "wal").iterdir()}
        assert kept.items() <= archived.items()
        assert len(list((timeline / "snapshots").iterdir())) == 2


def test_dead_keys_leave_memory_unread_in_the_rhythm_that_is_asked_for(tmp_path: Path) -> None:
    flag = "--expiration-sweep-interval-seconds"
    with (
        ServerProcess(tmp_path / "rarely", f"{flag}=3600") as rarely,
        ServerProcess(tmp_path / "often", f"{flag}=1") as often,
        rarely.admin() as rare,
        often.admin() as client,
    ):
        writes = [lasting(b"k%d" % number, 50) for number in range(100)]
        # Twice, since one sweep is no rhythm.
        for count in (100, 200):
            assert rare.ask_all(writes) == [Ok()] * 100
            assert client.ask_all(writes) == [Ok()] * 100
            for _ in turns():
                if expired_count(client.ask(vtp.Metrics())) == count:
                    break
            assert client.ask(vtp.DbSize()) == CountReply(0)
        # Nobody can see them here either, although they are still in memory.
        assert rare.ask(vtp.DbSize()) == CountReply(0)
        assert rare.ask(vtp.Get(b"k7")) == NotFound()
        # Writes free what is dead as well, so those of the second round may have freed all but
        # what they wrote last; nothing else has.
        assert expired_count(rare.ask(vtp.Metrics())) < 200


def set_to_expire(client: SocketClient, count: int, last_ms: int) -> None:
    """Write keys that all expire at one time, give or take what a pipeline needs to arrive."""
    for start in range(0, count, PIPELINED):
        left_ms = max(1, last_ms - time.time_ns() // 1_000_000)
        numbers = range(start, start + PIPELINED)
        replies = client.ask_all([lasting(b"k%d" % number, left_ms) for number in numbers])
        assert replies == [Ok()] * PIPELINED


def load(client: SocketClient) -> int:
    """Write all keys, and return when they expire, in milliseconds: after the last was written."""
    started_ms = time.time_ns() // 1_000_000
    set_to_expire(client, EXPIRED_KEYS // 10, started_ms + 3_600_000)
    now_ms = time.time_ns() // 1_000_000
    # Half as long again as it should take on a machine as busy as it is now.
    last_ms = now_ms + 15 * (now_ms - started_ms) + 1000
    set_to_expire(client, EXPIRED_KEYS, last_ms)
    return last_ms


def watch_them_die(client: SocketClient, observer: SocketClient, last_ms: int) -> float:
    """Ping while the keys vanish and are freed; return how long the slowest answer took."""
    longest, freed = 0.0, 0
    for _ in turns(wait_seconds=last_ms / 1000 - time.time()):
        is_over = time.time_ns() // 1_000_000 > last_ms + 1000
        # What is asked of another connection may not hold up this one.
        observer.send([vtp.DbSize(), vtp.Metrics()])
        started = time.monotonic()
        assert client.ask(vtp.Ping()) == Value(b"PONG")
        longest = max(longest, time.monotonic() - started)
        alive = observer.receive()
        freed = expired_count(observer.receive())
        if is_over:
            assert alive == CountReply(0)
            if freed == EXPIRED_KEYS:
                break
    return longest


def test_keys_that_all_die_in_one_second_vanish_at_once_and_hold_up_nobody(
    tmp_path: Path,
) -> None:
    # A machine that does something else for a moment slows down one attempt; a server that holds
    # up its clients slows down all of them.
    longest = []
    for attempt in range(ATTEMPTS):
        with (
            ServerProcess(tmp_path / f"{attempt}", "--disable-auth") as server,
            server.client() as client,
            server.client() as observer,
        ):
            last_ms = load(client)
            if client.ask(vtp.DbSize()) != CountReply(EXPIRED_KEYS):
                # The machine was too slow: the first have died before the last were written.
                assert time.time_ns() // 1_000_000 > last_ms
                continue
            longest.append(watch_them_die(client, observer, last_ms))
            keys = [b"k%d" % number for number in range(0, EXPIRED_KEYS, 100)]
            assert set(client.ask_all([vtp.Get(key) for key in keys])) == {NotFound()}
        if longest[-1] <= LONGEST_PING_SECONDS:
            break
    assert longest, "the keys were never written in time"
    assert min(longest) <= LONGEST_PING_SECONDS, longest
