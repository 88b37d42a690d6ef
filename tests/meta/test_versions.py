"""Siblings depend on each other by ranges that fit, and every package is complete."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = {
    path.parent.name: tomllib.loads(path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
}


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@pytest.mark.parametrize("name", PROJECTS)
def test_a_sibling_is_required_with_a_floor_and_a_ceiling_that_hold_its_version(name: str) -> None:
    for requirement in PROJECTS[name]["project"]["dependencies"]:
        found = re.fullmatch(r"(vaylix-[a-z]+)(.*)", requirement)
        if found is None:
            continue
        bounds = re.fullmatch(r">=([\d.]+),<([\d.]+)", found[2])
        assert bounds is not None, f"{requirement} needs a floor and a ceiling"
        current = numbers(PROJECTS[found[1]]["project"]["version"])
        assert numbers(bounds[1]) <= current < numbers(bounds[2])


@pytest.mark.parametrize("name", PROJECTS)
def test_the_installed_version_is_the_written_one(name: str) -> None:
    assert version(name) == PROJECTS[name]["project"]["version"]


@pytest.mark.parametrize("name", PROJECTS)
def test_a_package_is_complete(name: str) -> None:
    home = ROOT / "packages" / name
    module = home / "src" / name.replace("-", "_")
    for path in (
        home / "README.md",
        home / "CHANGELOG.md",
        home / "LICENSE",
        home / "changelog.d" / "README.md",
        module / "py.typed",
        module / "__init__.py",
    ):
        assert path.exists(), path
    assert any((home / "tests").glob("test_*.py"))


@pytest.mark.parametrize("name", PROJECTS)
def test_public_names_exist(name: str) -> None:
    module = __import__(name.replace("-", "_"))
    assert module.__all__ == sorted(module.__all__, key=lambda text: (not text.isupper(), text))
    for public in module.__all__:
        assert hasattr(module, public), public
