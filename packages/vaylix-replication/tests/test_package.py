"""The package as a whole: what it imports, what its README shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]
SOURCES = sorted((HOME / "src").rglob("*.py"))
CORE = [path for path in SOURCES if "testing" not in path.parts]
IMPURE = {"asyncio", "socket", "threading", "time", "random", "os", "secrets", "datetime"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_knows_no_clock_no_socket_no_thread_and_no_chance(path: Path) -> None:
    roots = {name.partition(".")[0] for name in imported(path)}
    assert not roots & IMPURE
    assert not {root for root in roots if root.startswith("vaylix_")} - {"vaylix_replication"}


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_imports_nothing_of_its_tests(path: Path) -> None:
    assert not {name for name in imported(path) if "testing" in name}


def test_the_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (HOME / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert example is not None
    exec(compile(example[1], "README.md", "exec"), {})
    assert capsys.readouterr().out
