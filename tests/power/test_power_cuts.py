"""Cut the power under load: what was acknowledged must be on the disk, not in the page cache.

A file system in an image file is mounted, the real server runs on it under load, and the file
system is shut down as a power cut would: every byte and every name that was not synced is gone.
Then it is mounted again and everything acknowledged must be there. SIGKILL cannot show this, since
the page cache survives it.

More cuts than CI makes: `VAYLIX_POWER_CUTS=1000 python3 noxfile.py -s tests -- tests/power`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_server.testing import ServerProcess, SocketClient, Witness

CUTS = int(os.environ.get("VAYLIX_POWER_CUTS", "4"))
WRITERS = 3
LOAD_SECONDS = (0.1, 0.6)
IMAGE_BYTES = {"ext4": 96 * 1024 * 1024, "xfs": 320 * 1024 * 1024}
RESTLESS = ("--wal-segment-size-bytes=65536", "--snapshot-wal-bytes=100000")


class Namespace:
    """A private view of what is mounted: it and its mounts end with this process, even when killed.

    A mount that outlived a killed run would stand in the way of everyone who cleans up behind it.
    """

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ("unshare", "--mount", "--propagation=private", "cat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._holder.stdin.write("ready\n")
        if self._holder.stdout.readline() != "ready\n":
            raise PermissionError(self._holder.communicate()[1].strip())
        self.enter = ("nsenter", f"--target={self._holder.pid}", "--mount", "--")

    def run(self, *command: str | Path) -> None:
        subprocess.run((*self.enter, *command), check=True, capture_output=True, text=True)

    def close(self) -> None:
        self._holder.communicate()


class Disk:
    """A file system whose power can be cut; only the processes of its namespace see it."""

    def __init__(self, directory: Path, kind: str, namespace: Namespace) -> None:
        self._image = directory / "disk.img"
        self._namespace = namespace
        self.path = directory / "disk"
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(IMAGE_BYTES[kind])
        namespace.run(f"mkfs.{kind}", "-q", self._image)

    def mount(self) -> None:
        self._namespace.run("mount", "-o", "loop", self._image, self.path)

    def cut_power(self) -> None:
        """Let no byte and no name through any more, not even those of the journal."""
        self._namespace.run("xfs_io", "-x", "-c", "shutdown", self.path)

    def unmount(self) -> None:
        self._namespace.run("umount", self.path)

    def serve(self, *flags: str) -> ServerProcess:
        return ServerProcess(self.path / "data", *flags, wrapper=self._namespace.enter)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount file systems")
    for tool in ("unshare", "nsenter"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install -y util-linux")
    try:
        namespace = Namespace()
    except PermissionError as error:
        pytest.skip(f"a mount namespace is not allowed here: {error}")
    yield namespace
    namespace.close()


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, namespace: Namespace) -> Disk:
    kind = request.param
    for tool in ("xfs_io", f"mkfs.{kind}"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install -y xfsprogs e2fsprogs")
    disk = Disk(tmp_path, kind, namespace)
    try:
        disk.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"mounting is not allowed here: {error.stderr.strip()}")
    return disk


def cut(disk: Disk, server: ServerProcess) -> None:
    """Stop the processor, then the disk: nobody may acknowledge anything after the cut.

    A process that went on could: a sync that meets the shutdown may return without an error.
    """
    server.signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{server.pid}/task")
    while any(state_of(task) not in "TtD" for task in tasks.iterdir()):
        threading.Event().wait(0.001)
    disk.cut_power()
    server.kill()


def state_of(task: Path) -> str:
    return (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def test_everything_acknowledged_survives_a_power_cut(disk: Disk) -> None:
    chance = random.Random(20_261_124)
    witnesses = [Witness(number, number) for number in range(WRITERS)]
    saves = 0
    for _ in range(CUTS):
        server = disk.serve(*RESTLESS)
        server.wait_until_listening()
        with server.admin() as client:
            for witness in witnesses:
                witness.check(client)
        witnesses = [witness.successor() for witness in witnesses]
        for witness in witnesses:
            witness.client = server.admin()
        saver = Saver(server.admin())
        for thread in (*witnesses, saver):
            thread.start()
        # A moment chosen by chance is the point of the test, not a wait for something.
        threading.Event().wait(chance.uniform(*LOAD_SECONDS))
        cut(disk, server)
        for thread in (*witnesses, saver):
            thread.join()
        saves += saver.count
        disk.unmount()
        disk.mount()
    with disk.serve(*RESTLESS) as server, server.admin() as client:
        for witness in witnesses:
            witness.successor().check(client)
    assert sum(witness.acknowledged for witness in witnesses) > 10 * CUTS
    assert saves > 0


def test_the_lab_finds_what_was_not_synced(disk: Disk) -> None:
    """Without syncs something acknowledged must be missing, or these tests prove nothing."""
    witness = Witness(0, 0)
    server = disk.serve("--wal-sync=buffered")
    server.wait_until_listening()
    witness.client = server.admin()
    witness.start()
    while witness.acknowledged < 50:
        threading.Event().wait(0.01)
    cut(disk, server)
    witness.join()
    disk.unmount()
    disk.mount()
    with (
        disk.serve() as server,
        server.admin() as client,
        pytest.raises(AssertionError, match="possible were"),
    ):
        witness.successor().check(client)


class Saver(threading.Thread):
    """Asks for snapshots until the connection breaks or they fail."""

    def __init__(self, client: SocketClient) -> None:
        super().__init__()
        self._client = client
        self.count = 0

    def run(self) -> None:
        try:
            while self._client.ask(vtp.Save()) == vtp.Ok():
                self.count += 1
        except (ConnectionError, TimeoutError):
            pass
        finally:
            self._client.close()
