"""Plugins as they are installed: a module and its metadata somewhere on the path of the server."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import Ok, Value
from vaylix_server.entry import EXIT_INTERRUPTED
from vaylix_server.testing import ServerProcess

GOOD = """
from vaylix_server import hookimpl
from vaylix_server.interfaces import AckMode

@hookimpl
def vaylix_ack_modes():
    return [AckMode(name="committed", acknowledged=lambda progress: progress.commit)]
"""
LATE = "from vaylix_server import hookimpl\n\n@hookimpl\ndef vaylix_ack_modes():\n    {}\n"


def install(directory: Path, **plugins: str) -> dict[str, str]:
    """Put plugins, by name, where a server with the returned environment finds them."""
    for name, source in plugins.items():
        (directory / f"{name}_plugin.py").write_text(source, encoding="utf-8")
        metadata = directory / f"{name}-1.dist-info"
        metadata.mkdir(parents=True)
        named = f"Metadata-Version: 2.1\nName: vaylix-{name}\nVersion: 1\n"
        (metadata / "METADATA").write_text(named, encoding="utf-8")
        group = f"[vaylix.server]\n{name} = {name}_plugin\n"
        (metadata / "entry_points.txt").write_text(group, encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_"),
        ("raise SystemExit", "SystemExit: "),
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
        # Not an Exception either: this is how extensions written in Rust panic.
        ("class Panic(BaseException): pass\nraise Panic(3)", "Panic: 3"),
        (LATE.format("raise SystemExit(3)"), "vaylix_ack_modes failed: SystemExit: 3"),
    ],
)
def test_a_broken_plugin_is_left_out_with_a_line_unless_strict(
    tmp_path: Path, source: str, problem: str
) -> None:
    environment = install(tmp_path, bad=source, good=GOOD)
    flags = ("--disable-auth", "--write-ack-mode=committed")
    with ServerProcess(tmp_path / "data", *flags, environment=environment) as server:
        with server.client() as client:
            assert client.ask(vtp.Ping()) == Value(b"PONG")
        assert server.stop() == 0
    expected = f"plugin bad of vaylix-bad is not in use: {problem}"
    assert sum(expected in line for line in server.lines) == 1, server.lines
    assert "is not in use" not in "".join(line for line in server.lines if expected not in line)
    strict = ServerProcess(tmp_path / "none", "--strict-plugins", environment=environment)
    code, errors = strict.wait()
    assert (code, errors.count("\n")) == (1, 1), errors
    assert errors.startswith("plugin bad")
    assert problem in errors
    assert not (tmp_path / "none").exists()


def test_a_disabled_plugin_is_named_and_not_even_imported(tmp_path: Path) -> None:
    witness = tmp_path / "imported"
    source = f"open({str(witness)!r}, 'w')\nraise SystemExit"
    environment = install(tmp_path, bad=source, worse="raise")
    flags = ("--strict-plugins", "--disable-plugins=bad, worse")
    with ServerProcess(tmp_path / "data", *flags, environment=environment) as server:
        assert server.stop() == 0
    for name in ("bad", "worse"):
        expected = f"plugin {name} of vaylix-{name} is not in use: disabled by --disable-plugins"
        assert any(expected in line for line in server.lines), server.lines
    assert not witness.exists()


def test_ctrl_c_while_a_plugin_loads_is_no_fault_of_the_plugin(tmp_path: Path) -> None:
    press = f"import os\nos.kill(os.getpid(), {signal.SIGINT:d})\nwhile True: pass\n"
    environment = install(tmp_path, bad=press)
    server = ServerProcess(tmp_path / "data", environment=environment)
    assert server.wait() == (EXIT_INTERRUPTED, "vaylix: interrupted\n")


@pytest.mark.parametrize("has_uvloop", [True, False])
def test_the_loop_of_the_server_is_that_of_uvloop_where_there_is_one(
    tmp_path: Path, has_uvloop: bool
) -> None:
    asked = "print('loop of', type(asyncio.get_running_loop()).__module__, flush=True)"
    answer = "progress.commit"
    source = GOOD.replace(answer, f"({asked}, {answer})[1]")
    environment = install(tmp_path, good=f"import asyncio\n{source}")
    if not has_uvloop:
        (tmp_path / "uvloop.py").write_text("raise ImportError\n", encoding="utf-8")
    flags = ("--disable-auth", "--write-ack-mode=committed")
    with ServerProcess(tmp_path / "data", *flags, environment=environment) as server:
        with server.client() as client:
            assert client.ask(vtp.Set(b"k", b"v")) == Ok()
        assert server.stop() == 0
    assert ("loop of uvloop" in server.lines) == has_uvloop, server.lines
    assert any(line.startswith("loop of asyncio") for line in server.lines) != has_uvloop
