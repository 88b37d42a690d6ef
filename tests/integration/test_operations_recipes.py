"""The recipes of docs/operations.md, run as they are written there.

Each section with fenced blocks has a scenario. It prepares what the recipe needs, runs the blocks
in order, and checks what the text around them promises. Only the directories are moved below that
of the test, and the port and what only the reader can know (`PLACEHOLDERS`) are filled in.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest

import vaylix_protocol as vtp
from vaylix_server.testing import ServerProcess, SocketClient
from vaylix_storage import RealVfs
from vaylix_storage.logical_backup import (
    BackupDirectory,
    BackupEntry,
    BackupHeader,
    DocumentWriter,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operations.md"
FORMAT_3 = ROOT / "packages/vaylix-storage/tests/data/format3"
PROGRAMS = Path(sys.executable).parent
# What a machine has before anybody follows a recipe.
DIRECTORIES = ("/var/lib", "/var/backups", "/archive", "/backup", "/etc")
DIRECTORY = re.compile(rf"(?<![\w/.])(?=(?:{'|'.join(DIRECTORIES)})/)")
# An entry and a moment that a restore should go back to.
PLACEHOLDERS = frozenset({"1000", "2026-11-24T20:15:00+01:00"})

Result = subprocess.CompletedProcess[str]
DATA = "/var/lib/vaylix"


class Step(NamedTuple):
    """A part of a block that is run at once; a server has a step of its own, and stays."""

    kind: str
    text: str


def steps_by_section() -> dict[str, list[Step]]:
    """Return the blocks of the page by the heading above them."""
    sections: dict[str, list[Step]] = {}
    heading, kind, block = "", None, [""]
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        fence = re.fullmatch(r"\s*(```+|~~~+)\s*(\w*)", line)
        if kind is None and line.startswith("#"):
            heading = line.lstrip("# ")
            assert heading not in sections, f"two sections are called {heading}"
        elif kind is None and fence:
            kind, block = fence[2], []
        elif fence:
            sections.setdefault(heading, []).extend(split(kind or "", block))
            kind = None
        else:
            block.append(line)
    assert kind is None, "a block is not closed"
    return sections


def split(kind: str, lines: list[str]) -> Iterator[Step]:
    """Yield the servers of a block of commands, and what lies between them."""
    lines = textwrap.dedent("\n".join(lines)).splitlines()
    for is_server, group in groupby(lines, lambda line: line.startswith("vaylix --")):
        if kind == "sh" and is_server:
            yield from (Step("server", line) for line in group)
        else:
            yield Step(kind, "".join(f"{line}\n" for line in group))


class Recipe:
    """The steps of one section, on a machine whose root is a directory of the test."""

    def __init__(self, heading: str, root: Path) -> None:
        self.steps = deque(steps_by_section()[heading])
        self.root = root
        # The one that clients talk to.
        self.server: ServerProcess | None = None
        self._last = Step("sh", "false")
        for directory in DIRECTORIES:
            self.path(directory).mkdir(parents=True)

    def path(self, text: str) -> Path:
        return self.root / text.removeprefix("/")

    def fill_in(self, values: Mapping[str, str]) -> None:
        """Put values in the place of placeholders, which have to be there."""
        for placeholder, value in values.items():
            assert placeholder in PLACEHOLDERS
            assert any(placeholder in step.text.split() for step in self.steps)
            words = rf"(?<!\S){re.escape(placeholder)}(?!\S)"
            self.steps = deque(Step(s.kind, re.sub(words, value, s.text)) for s in self.steps)

    def sh(self) -> Result:
        """Run the next step, a script, as far as it gets without an error."""
        self._last = self._next("sh")
        return self.again()

    def python(self) -> Result:
        """Run the next step, a program."""
        self._last = self._next("python")
        return self.again()

    def again(self) -> Result:
        """Run the last script or program once more."""
        if self._last.kind == "python":
            return self._run([sys.executable, "-W", "error", "-c", self._last.text], {})
        return self.script(self._last.text)

    def borrow(self, heading: str) -> Result:
        """Run the first script of another section."""
        return self.script(DIRECTORY.sub(str(self.root), steps_by_section()[heading][0].text))

    def script(self, text: str) -> Result:
        """Run any script on the machine of the recipe."""
        if self.server is not None:
            host, port = self.server.address
            text = text.replace("vaylix-client", f"vaylix-client --host {host} --port {port}")
        path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
        return self._run(["sh", "-ec", text], {"PATH": path})

    def ask(self) -> list[str]:
        """Send the next step, commands for the server; return the answers."""
        return self.commands(self._next("text").text)

    def commands(self, text: str) -> list[str]:
        result = self.script(f"vaylix-client <<'END'\n{text}\nEND\n")
        assert result.returncode == 0, result
        lines = [line for line in result.stdout.splitlines() if not line.startswith("[INFO]")]
        # The first one answers the login that the client does by itself.
        assert (lines[0], lines[-1]) == ("OK", "Exiting...")
        return lines[1:-1]

    @contextmanager
    def serve(self, **environment: str) -> Iterator[ServerProcess]:
        """Run the next step, a server, until the end of the scope; then stop it by SIGTERM."""
        program, flag, data_dir, *flags = shlex.split(self._next("server").text)
        assert (program, flag) == ("vaylix", "--data-dir")
        with self.run(ServerProcess(Path(data_dir), *flags, environment=environment)) as server:
            yield server

    @contextmanager
    def run(self, server: ServerProcess) -> Iterator[ServerProcess]:
        self.server = server
        with server:
            yield server
            assert server.stop() == 0

    def _next(self, kind: str) -> Step:
        step = self.steps.popleft()
        assert step.kind == kind, step.text
        text = DIRECTORY.sub(str(self.root), step.text)
        # What is not below the root would be of the real machine.
        paths = re.findall(r"(?<![\w/.$}])/[\w/.-]+", text)
        assert all(path.startswith(str(self.root)) for path in paths), paths
        return Step(kind, text)

    def _run(self, command: list[str], environment: Mapping[str, str]) -> Result:
        return subprocess.run(
            command,
            cwd=self.root,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


def values(result: Result) -> dict[str, str]:
    return dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)


def contents(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file() and file.name != "LOCK")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def get(client: SocketClient, key: bytes) -> bytes | None:
    reply = client.ask(vtp.Get(key))
    assert isinstance(reply, vtp.Value | vtp.NotFound)
    return reply.data if isinstance(reply, vtp.Value) else None


def keys_of(path: Path, *flags: str) -> set[bytes]:
    """Start a server on a directory, and tell which of k0 to k19 it has."""
    with ServerProcess(path, *flags) as server, server.admin() as client:
        names = [b"k%d" % number for number in range(20)]
        return {name for name in names if get(client, name) is not None}


def write(server: ServerProcess, *numbers: int) -> None:
    with server.admin() as client:
        for number in numbers:
            assert client.ask(vtp.Set(b"k%d" % number, b"v" * 100)) == vtp.Ok()


def written(recipe: Recipe) -> Path:
    """Fill the data directory of the recipe with k0 to k9, and stop its server."""
    with ServerProcess(recipe.path(DATA)) as server:
        write(server, *range(10))
    return recipe.path(DATA)


def newest_segment(recipe: Recipe) -> Path:
    """Fill the data directory like `written`, but as a kill leaves it: with an open segment."""
    with ServerProcess(recipe.path("/var/lib/original")) as server:
        write(server, *range(10))
        copying = f"vaylix storage copy --data-dir {recipe.path('/var/lib/original')} --target-dir"
        assert recipe.script(f"{copying} {recipe.path(DATA)}").returncode == 0
    (segment,) = recipe.path(DATA).glob("wal/active-*.wal")
    return segment


def damage(segment: Path) -> None:
    """Change a bit in the last entry, as a failing disk does."""
    content = bytearray(segment.read_bytes())
    content[-40] ^= 1
    segment.write_bytes(content)


# The scenarios, in the order of the page


def migrate(recipe: Recipe) -> None:
    data, original = recipe.path(DATA), recipe.path(f"{DATA}.format3")
    shutil.copytree(FORMAT_3 / "c_users_roles", data)
    before = contents(data)
    code, refusal = ServerProcess(data).wait()
    assert code == 1
    result = recipe.sh()
    assert f"`{result.args[-1].strip()}`" in refusal
    assert result.returncode == 0, result.stderr
    assert f"migrated: 1 keys; the original is kept in {original}" in result.stderr
    assert contents(original) == before
    assert (data / "migration.json").is_file()
    assert (data / "audit.log").read_bytes() == before["audit.log"]
    for path in (data, *data.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    shutil.rmtree(original)
    expected = json.loads((FORMAT_3 / "c_users_roles.expected.json").read_text(encoding="utf-8"))
    with recipe.serve() as server, server.client() as client:
        client.login("alice", expected["passwords"]["alice"])
        assert get(client, b"app:1") == b"one"
        client.login(*expected["login"])
        assert client.ask(vtp.Set(b"app:2", b"two")) == vtp.Ok()
    with ServerProcess(data) as server, server.client() as client:
        client.login(*expected["login"])
        assert (get(client, b"app:1"), get(client, b"app:2")) == (b"one", b"two")


def back_up(recipe: Recipe) -> None:
    nightly = recipe.path("/var/backups/vaylix/nightly")
    with recipe.serve() as server:
        write(server, 1, 2)
        done, verified = recipe.ask()
        assert done == "OK"
        assert verified.startswith("entries=2, entry_count=2, ")
        dump = (nightly / "2026-11-24.json").read_bytes()
        sidecar = json.loads((nightly / "2026-11-24.json.manifest.json").read_bytes())
        facts = [sidecar[name] for name in ("byte_len", "sha256", "entry_count")]
        assert facts == [len(dump), hashlib.sha256(dump).hexdigest(), 2]
        shutil.rmtree(nightly)
        job = recipe.sh()
        assert job.returncode == 0, job
        assert "status=ok" in job.stdout
        assert len(list(nightly.glob("????-??-??.json"))) == 1
        # A dump of this day is there and good, but a new one cannot be written.
        sidecars = list(nightly.glob("*.manifest.json"))
        kept = sidecars[0].rename(nightly / "elsewhere")
        sidecars[0].symlink_to(kept)
        failed = recipe.again()
        assert "ERROR [SRV-027]" in failed.stdout
        assert "status=ok" in failed.stdout
        assert failed.returncode != 0
    assert recipe.again().returncode != 0


def restore(recipe: Recipe) -> None:
    data, name = recipe.path(DATA), "nightly/2026-11-24.json"
    with recipe.run(ServerProcess(recipe.path("/var/lib/old"))) as server:
        write(server, 1, 2)
        assert recipe.commands(f"BACKUP TO {name}") == ["OK"]
    shutil.copytree(recipe.path("/var/lib/old/backups"), data / "backups")
    with recipe.run(ServerProcess(data)) as server:
        write(server, 2, 3)
        assert recipe.commands(f"RESTORE CHECK FROM {name}") == ["2"]
        with server.admin() as client:
            assert get(client, b"k3") is not None
        assert recipe.ask() == ["2", "2"]
    assert keys_of(data) == {b"k1", b"k2"}


def check_dump(recipe: Recipe) -> None:
    writer = DocumentWriter(BackupHeader(created_at_ms=1, source_sequence=7))
    entries = [BackupEntry(b"a", b"1", None, 1), BackupEntry(b"b", b"2", 1, 1)]
    pieces = [writer.begin(), writer.feed(entries), writer.end()]
    base = BackupDirectory(recipe.path("/var/backups/vaylix"), vfs=RealVfs())
    path = base.write("nightly/2026-11-24.json", writer, pieces)
    result = recipe.python()
    assert (result.stdout, result.stderr) == ("1 of 2 entries are alive\n", "")
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"c"'))
    assert f"{path}: backup manifest does not match dump" in recipe.again().stderr


def verify(recipe: Recipe) -> None:
    segment = newest_segment(recipe)
    whole, before = segment.read_bytes(), contents(recipe.path(DATA))
    clean = recipe.sh()
    assert (clean.returncode, values(clean)["state"], len(values(clean))) == (0, "clean", 13)
    assert contents(recipe.path(DATA)) == before
    damage(segment)
    corrupt = recipe.again()
    assert (corrupt.returncode, values(corrupt)["state"]) == (8, "corrupt")
    assert re.search(rf"\[ENG-007\].*{segment}: .* at byte \d+", corrupt.stderr)
    segment.write_bytes(whole[:-40])
    torn = recipe.again()
    assert (torn.returncode, values(torn)["state"]) == (0, "torn")
    with ServerProcess(recipe.path(DATA)):
        refused = recipe.again()
        assert (refused.returncode, refused.stderr[:9]) == (1, "[ENG-011]")
        live = recipe.script(f"vaylix storage verify --data-dir {recipe.path(DATA)} --live")
        assert (live.returncode, values(live)["state"]) == (0, "clean")
    assert keys_of(recipe.path(DATA)) == {b"k%d" % number for number in range(9)}


def repair(recipe: Recipe) -> None:
    segment = newest_segment(recipe)
    damage(segment)
    before = contents(recipe.path(DATA))
    assert ServerProcess(recipe.path(DATA)).wait()[0] == 1
    shown = recipe.sh()
    assert shown.returncode == 8
    assert re.search(r"cut \d+ bytes from byte \d+ on", shown.stderr)
    assert contents(recipe.path(DATA)) == before
    done = recipe.sh()
    assert (done.returncode, values(done)["state"]) == (0, "clean")
    (copies,) = recipe.path("/var/lib").glob("vaylix.repair-*")
    assert contents(copies).keys() == {"repair.txt", f"wal/{segment.name}"}
    assert (copies / "wal" / segment.name).read_bytes() == before[f"wal/{segment.name}"]
    assert keys_of(recipe.path(DATA)) == {b"k%d" % number for number in range(9)}


def copy(recipe: Recipe) -> None:
    target = recipe.path("/backup/vaylix")
    with recipe.run(ServerProcess(recipe.path(DATA))) as server:
        write(server, 1, 2)
        assert recipe.commands("BACKUP TO dump.json") == ["OK"]
        result = recipe.sh()
        assert (result.returncode, values(result)["state"]) == (0, "clean")
        write(server, 3)
        refused = recipe.again()
        assert (refused.returncode, "not empty" in refused.stderr) == (1, True)
    assert (recipe.path(DATA) / "backups").exists()
    assert not (target / "backups").exists()
    assert contents(target)["node.json"] == contents(recipe.path(DATA))["node.json"]
    assert keys_of(target) == {b"k1", b"k2"}


def bring_back(recipe: Recipe) -> None:
    data = written(recipe)
    assert recipe.borrow("Copy").returncode == 0
    with ServerProcess(data) as server:
        write(server, 10)
    (data / "keyring.bin").unlink()
    damaged = contents(data)
    assert ServerProcess(data).wait()[0] == 1
    result = recipe.sh()
    assert (result.returncode, values(result)["state"]) == (0, "clean")
    with recipe.serve() as server:
        write(server, 11)
    assert keys_of(data) == {b"k%d" % number for number in (*range(10), 11)}
    assert contents(recipe.path(f"{DATA}.damaged")) == damaged


def dump(recipe: Recipe) -> None:
    written(recipe)
    result = recipe.sh()
    assert result.returncode == 0
    assert "argon2" not in result.stdout
    records = [json.loads(line) for line in result.stdout.splitlines()]
    entries = [record for record in records if record["record"] == "entry"]
    # Before the keys come the version of the rules and the administrator.
    assert [entry["index"] for entry in entries] == list(range(1, 13))
    assert [entry["value"]["key"] for entry in entries[2:]] == [f"k{n}" for n in range(10)]
    assert all(abs(time.time() - entry["timestamp_ms"] / 1000) < 600 for entry in entries)


def go_back(recipe: Recipe) -> None:
    restored = recipe.path("/var/lib/restored")
    login = {"VAYLIX_USER": "ann", "VAYLIX_PASSWORD": "secret"}
    # No more than the newest entries stay in the directory.
    little = {"VAYLIX_WAL_SEGMENT_SIZE_BYTES": "4096", "VAYLIX_WAL_RETAIN_SEGMENTS": "0"}
    with recipe.serve(**login, **little) as server:
        count(server, 1, 12)
        assert recipe.borrow("Copy").returncode == 0
        count(server, 13, 14)
    assert list(recipe.path("/archive/vaylix").rglob("*.wal"))
    before = contents(recipe.path("/backup/vaylix"))
    inspected = recipe.sh()
    assert inspected.returncode == 0, inspected.stderr
    window = values(inspected)
    # The version of the rules, the administrator, and INCR and SET fourteen times, of which the
    # copy has twelve.
    assert (window["earliest_sequence"], window["latest_sequence"]) == ("0", "30")
    log = recipe.script(f"vaylix storage dump --data-dir {recipe.path('/backup/vaylix')} --json")
    records = [json.loads(line) for line in log.stdout.splitlines()]
    times = {record["index"]: record["timestamp_ms"] for record in records if "index" in record}
    moment_ms = times[2 + 2 * 11 - 1]
    moment = datetime.fromtimestamp(moment_ms / 1000, timezone(timedelta(hours=1)))
    last_then = max(index for index, timestamp in times.items() if timestamp <= moment_ms)
    recipe.fill_in(
        {
            "1000": str(2 + 2 * 5 - 1),
            "2026-11-24T20:15:00+01:00": moment.isoformat(timespec="milliseconds"),
        }
    )
    to_entry = recipe.sh()
    assert to_entry.returncode == 0, to_entry.stderr
    assert "would restore up to entry 11 from" in to_entry.stderr
    assert "restored up to entry 11 from" in to_entry.stderr
    with ServerProcess(restored) as server, server.client() as client:
        client.login("ann", "secret")
        assert get(client, b"n") == b"5"
    to_moment = recipe.sh()
    assert to_moment.returncode == 0, to_moment.stderr
    assert len(list(recipe.path("/var/lib").glob("restored.replaced-*"))) == 1
    with recipe.serve() as server, server.client() as client:
        client.login("ann", "secret")
        assert get(client, b"n") == b"%d" % ((last_then - 1) // 2)
    assert contents(recipe.path("/backup/vaylix")) == before
    ids = [json.loads(contents(path)["node.json"]) for path in (restored, recipe.path(DATA))]
    assert all(ids[0][name] != ids[1][name] for name in ("cluster_id", "node_id", "timeline"))


def count(server: ServerProcess, first: int, last: int) -> None:
    """Count up, write enough that segments are soon full, and take snapshots."""
    with server.client() as client:
        client.login("ann", "secret")
        for number in range(first, last + 1):
            assert client.ask(vtp.Incr(b"n")) == vtp.Integer(number)
            assert client.ask(vtp.Set(b"big", bytes(1500))) == vtp.Ok()
            if number % 4 == 0 and number < 12:
                assert client.ask(vtp.Save()) == vtp.Ok()


def keep_keys(recipe: Recipe) -> None:
    data, key = written(recipe), recipe.path("/etc/vaylix/storage.key")
    assert recipe.borrow("Copy").returncode == 0
    moved = recipe.sh()
    assert moved.returncode == 0, moved.stderr
    assert [stat.S_IMODE(path.stat().st_mode) for path in (key, key.parent)] == [0o600, 0o700]
    # The old key opens what was copied before, but not this directory.
    (data / "storage.key").rename(recipe.root / "old.key")
    old = f"--key-file={recipe.root / 'old.key'}"
    before = contents(data)
    code, refusal = ServerProcess(data, old).wait()
    assert (code, refusal[:9], contents(data)) == (1, "[ENG-008]", before)
    assert len(keys_of(recipe.path("/backup/vaylix"), old)) == 10
    with recipe.serve() as server, server.admin() as client:
        assert get(client, b"k9") is not None
    check_status(recipe, key)
    recipe.path("/archive/vaylix").mkdir()
    rotated = recipe.sh()
    assert rotated.returncode == 0, rotated.stderr
    assert [line.split()[1] for line in rotated.stdout.splitlines()] == ["in", "active"]
    # The key of the first time was never used.
    assert recipe.again().stdout.count(" dropped") == 1
    replaced = key.read_bytes()
    assert recipe.sh().returncode == 0
    assert key.read_bytes() != replaced
    assert len(keys_of(data, f"--key-file={key}")) == 10


def check_status(recipe: Recipe, key: Path) -> None:
    status = recipe.sh()
    assert (status.returncode, status.stderr) == (0, "")
    assert re.search(r"active .* 0 days ago, .* named by \d+ files", status.stdout)
    key.chmod(0o644)
    assert f"chmod 600 {key}" in recipe.again().stderr
    key.chmod(0o600)


def keep_key_in_a_variable(recipe: Recipe) -> None:
    data, keys = written(recipe), ["ab" * 32, "cd" * 32]
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("VAYLIX_NEW_STORAGE_KEY", keys[0])
        moved = recipe.sh()
        assert moved.returncode == 0, moved.stderr
        variables.setenv("VAYLIX_STORAGE_KEY", keys[0])
        with recipe.serve(VAYLIX_STORAGE_KEY=keys[0]) as server, server.admin() as client:
            assert get(client, b"k9") is not None
        variables.setenv("VAYLIX_NEW_STORAGE_KEY", keys[1])
        changed = recipe.sh()
        assert changed.returncode == 0, changed.stderr
        verify = f"vaylix storage verify --data-dir {data} --key-provider env"
        assert "[ENG-008]" in recipe.script(verify).stderr
        variables.setenv("VAYLIX_STORAGE_KEY", keys[1])
        assert recipe.script(verify).returncode == 0
        (data / "storage.key").unlink()
        back = recipe.sh()
        assert back.returncode == 0, back.stderr
    assert len(keys_of(data)) == 10


SCENARIOS: dict[str, Callable[[Recipe], None]] = {
    "Coming from 0.9": migrate,
    "Take a backup every night": back_up,
    "Restore it": restore,
    "Check a dump without a server": check_dump,
    "Verify": verify,
    "Repair": repair,
    "Copy": copy,
    "Bring back a copy": bring_back,
    "Dump": dump,
    "Point-in-time recovery": go_back,
    "Keys": keep_keys,
    "A key in a variable": keep_key_in_a_variable,
}


@pytest.mark.parametrize("heading", SCENARIOS)
def test_a_recipe_does_what_the_page_says(heading: str, tmp_path: Path) -> None:
    recipe = Recipe(heading, tmp_path)
    SCENARIOS[heading](recipe)
    assert not recipe.steps, "a block was not run"


def test_every_block_of_the_page_belongs_to_a_scenario() -> None:
    assert list(steps_by_section()) == list(SCENARIOS)
