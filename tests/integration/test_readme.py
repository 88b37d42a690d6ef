"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vaylix_server.testing import ServerProcess

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
PROMPT = "vaylix> "


def tour() -> list[tuple[str, list[str]]]:
    """Return the commands of the sixty-second tour, each with the lines it prints."""
    (block,) = (b for b in re.findall(r"```console\n(.*?)```", README, re.DOTALL) if PROMPT in b)
    steps: list[tuple[str, list[str]]] = []
    for line in block.splitlines()[1:]:
        if line.startswith(PROMPT):
            steps.append((line.removeprefix(PROMPT), []))
        else:
            steps[-1][1].append(line)
    return steps


def test_the_tour_prints_what_it_promises(tmp_path: Path) -> None:
    steps = tour()
    assert len(steps) > 10
    with ServerProcess(tmp_path / "data") as server:
        host, port = server.address
        finished = subprocess.run(
            [Path(sys.executable).parent / "vaylix-client", "--host", host, "--port", str(port)],
            input="".join(f"{command}\n" for command, _ in steps),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    printed = [line for line in finished.stdout.splitlines() if not line.startswith("[INFO]")]
    # The first line answers the AUTH that the client sends by itself.
    assert printed[0] == "OK"
    assert printed[1:] == [line for _, lines in steps for line in lines]


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    with ServerProcess(tmp_path / "data") as server:
        finished = subprocess.run(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                example.replace(":9173", f":{server.address[1]}"),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert finished.stdout == "b'hello world'\n"


@pytest.mark.parametrize("name", ["serve", "tests"])
def test_the_two_commands_are_sessions_of_the_noxfile(name: str) -> None:
    assert f"python3 noxfile.py -s {name}" in README
    noxfile = (Path(__file__).resolve().parents[2] / "noxfile.py").read_text(encoding="utf-8")
    assert f"def {name}(session: nox.Session)" in noxfile
