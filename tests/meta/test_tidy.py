"""Style rules that a formatter does not know."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(ROOT.glob("packages/*/src/**/*.py"))
EVERYTHING = sorted(
    [
        *ROOT.glob("packages/**/*.py"),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("scripts/*.py"),
        ROOT / "noxfile.py",
    ]
)
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
LINE_CHARACTERS_MAX = 100
# What is said to a tool does not count, nor the reason behind it.
PRAGMA = re.compile(r"\s*# (type: ignore|noqa).*")
LEFTOVERS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", EVERYTHING, ids=identify)
def test_files_are_short_and_finished(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    assert len(lines) <= FILE_LINES_MAX + 1
    for number, whole in enumerate(lines, 1):
        line = PRAGMA.sub("", whole)
        assert len(line) <= LINE_CHARACTERS_MAX, f"line {number} is too long"
        if path != Path(__file__):
            assert not LEFTOVERS.search(line), f"line {number} leaves something undone"


@pytest.mark.parametrize("path", EVERYTHING, ids=identify)
def test_functions_are_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name} in line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_modules_say_what_they_are_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
