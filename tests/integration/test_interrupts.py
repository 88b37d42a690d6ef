"""Ctrl-C at any moment of the start of a server, and of the work of a tool.

The moments are exact: a hook for audit events, in the process under test, sends it the signal when
a module is imported or a file opened.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vaylix_server.entry import EXIT_INTERRUPTED
from vaylix_server.testing import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS_MAX = 60
HOOK = """
import os, signal, sys

def interrupt(event, arguments, pending=[(EVENT, NAME)]):
    if pending and event == pending[0][0] and str(arguments[0]).endswith(pending[0][1]):
        pending.clear()
        os.kill(os.getpid(), signal.SIGINT)

# Whoever runs the tests in the background may ignore the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(interrupt)
"""
# From the first import of our own to the last, and third parties between.
IMPORTS = [
    "vaylix_server.cli",
    "click",
    "vaylix_server.app",
    "asyncio",
    "vaylix_storage.errors",
    "vaylix_server.tools.storage",
]
TOOLS = [
    ["storage", "verify"],
    ["storage", "dump"],
    ["storage", "repair"],
    ["keys", "status"],
    ["keys", "rotate"],
    ["pitr", "inspect"],
]
ONE_LINE = (EXIT_INTERRUPTED, "vaylix: interrupted\n")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "data"
    with ServerProcess(path):
        pass
    return path


def interrupted(hook_dir: Path, event: str, name: str, words: Sequence[object]) -> tuple[int, str]:
    """Run `vaylix` and interrupt it then; return its exit code and standard error."""
    hook = HOOK.replace("EVENT", repr(event)).replace("NAME", repr(name))
    (hook_dir / "sitecustomize.py").write_text(hook)
    finished = subprocess.run(
        [sys.executable, "-m", "vaylix_server", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(hook_dir)},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
    )
    return finished.returncode, finished.stderr


@pytest.mark.parametrize("name", IMPORTS)
def test_while_all_is_imported_there_is_one_line_and_exit_130(name: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for words in (["storage", "verify", "--data-dir", data], ["--data-dir", data, "--port", "0"]):
        assert interrupted(tmp_path, "import", name, words) == ONE_LINE
    assert not data.exists()


@pytest.mark.parametrize("tool", TOOLS, ids=" ".join)
def test_a_tool_at_work_ends_with_one_line_and_130(
    tool: Sequence[str], written: Path, tmp_path: Path
) -> None:
    words = [*tool, "--data-dir", written]
    assert interrupted(tmp_path, "open", "keyring.bin", words) == ONE_LINE


def test_a_copy_that_is_interrupted_leaves_no_target(written: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    words = ["storage", "copy", "--data-dir", written, "--target-dir", target]
    assert interrupted(tmp_path, "os.rename", "node.json.tmp", words) == ONE_LINE
    assert not target.exists()
    # This event does not occur, and what is left of the first copy does not stand in the way.
    assert interrupted(tmp_path, "none", "", words) == (0, "")


def test_a_server_that_recovers_finishes_that_and_stops_with_0(tmp_path: Path) -> None:
    words = ["--data-dir", tmp_path / "data", "--port", "0"]
    assert interrupted(tmp_path, "os.rename", "node.json.tmp", words) == (0, "")
    assert (tmp_path / "data" / "wal.begun").exists()
