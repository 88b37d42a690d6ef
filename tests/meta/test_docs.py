"""The documents say what is true: they are generated, or compared with the code."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
from pathlib import Path

import click
import pytest

from vaylix_protocol import errors_markdown
from vaylix_protocol.grammar import commands_markdown
from vaylix_server import hookspecs
from vaylix_server.cli import root_command
from vaylix_server.settings import Settings, flag_of

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("packages/*/*.md")])


def test_the_page_of_errors_is_the_catalogue() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert page.endswith("\n\n" + errors_markdown())


def test_the_page_of_commands_is_the_command_table() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert page.endswith("\n\n" + commands_markdown())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("setting", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_flag_has_its_row_in_the_readme_of_the_server(
    setting: dataclasses.Field[object],
) -> None:
    tables = tables_of(ROOT / "packages" / "vaylix-server" / "README.md")
    flag = f"`{flag_of(setting.name)}`"
    rows = [row for table in tables for row in table if row[0] == flag]
    assert len(rows) == 1
    assert rows[0][2].startswith(setting.metadata["help"].removesuffix("."))


def tables_of(path: Path) -> list[list[list[str]]]:
    """Return the tables of a document, each a list of rows of cells; code blocks are none."""
    prose = re.sub(
        r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return [
        [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in table.splitlines()]
        for table in re.findall(r"(?:^\|.*\n)+", prose, re.MULTILINE)
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_row_stands_twice_and_each_has_as_many_cells_as_its_head(path: Path) -> None:
    tables = tables_of(path)
    for table in tables:
        assert len({len(row) for row in table}) == 1, table
    flags = [row[0] for table in tables for row in table if row[0].startswith("`--")]
    assert len(flags) == len(set(flags))


def test_every_hook_is_in_the_readme_of_the_server_and_has_an_example() -> None:
    readme = (ROOT / "packages" / "vaylix-server" / "README.md").read_text(encoding="utf-8")
    hooks = [name for name in vars(hookspecs) if name.startswith("vaylix_")]
    assert hooks
    for name in hooks:
        assert f"`{name}`" in readme
        documentation = vars(hookspecs)[name].__doc__
        assert "@hookimpl" in documentation
        assert "Since" in documentation


def commands_in(path: Path) -> list[list[str]]:
    """Return the `vaylix` commands that a document shows."""
    flags = re.DOTALL | re.MULTILINE
    blocks = re.findall(r"^ *```sh\n(.*?)```", path.read_text(encoding="utf-8"), flags)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("vaylix ")]


def test_every_command_that_the_documents_show_can_be_typed() -> None:
    shown = [(path, words) for path in DOCUMENTS for words in commands_in(path)]
    assert len(shown) > 10
    for path, words in shown:
        command: click.Command = root_command()
        for word in words:
            if word.startswith("--"):
                known = {name for part in command.params for name in part.opts}
                assert word.partition("=")[0] in known, f"{path.name}: {words}"
            elif isinstance(command, click.Group) and word in command.commands:
                command = command.commands[word]


def weaknesses() -> dict[int, tuple[set[str], set[str]]]:
    """For each weakness: the tests that vouch that it is gone, and those that bring it back."""
    page = (ROOT / "docs" / "storage-format.md").read_text(encoding="utf-8")
    found = {}
    for line in page.partition("## What 0.9 got wrong")[2].splitlines():
        cells = line.strip("|").split("|")
        if re.fullmatch(r"[\d, ]+", cells[0]):
            numbers, _, _, vouching, planted = cells
            tests = {*re.findall(r"`(.+?)`", vouching)}, {*re.findall(r"`(.+?)`", planted)}
            found.update({int(number): tests for number in numbers.split(",")})
    return found


def test_every_weakness_has_a_test_that_vouches_for_it_and_all_of_them_are_there() -> None:
    table = weaknesses()
    assert sorted(table) == list(range(1, 39))
    for number, (vouching, planted) in table.items():
        assert vouching, f"nothing vouches for {number}"
        for name in vouching | planted:
            file, _, test = name.partition("::")
            paths = [*ROOT.glob(f"packages/*/tests/{file}"), *ROOT.glob(f"tests/*/{file}")]
            trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
            functions = [node for tree in trees for node in tree.body if is_test(node, test)]
            assert len(functions) == 1, f"{number}: {name}"


def is_test(node: ast.stmt, name: str) -> bool:
    return (
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name == name
        and name.startswith("test_")
    )


def test_where_a_small_change_brings_a_weakness_back_that_is_done() -> None:
    planted = {number for number, (_, tests) in weaknesses().items() if tests}
    assert planted >= {*range(1, 8), 9, 10, 15, 19, 20, 22, *range(24, 27), 31, 33, *range(35, 39)}
