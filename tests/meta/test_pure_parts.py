"""What a pure module imports is pure too.

The contract about pure parts in `pyproject.toml` looks at direct imports only, so a module that is
missing in its list could bring a clock or a file to those that are in it.
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "importlinter"
]
(PURE,) = (
    contract["source_modules"]
    for contract in LINTER["contracts"]
    if contract["name"].startswith("Pure parts")
)
# The front door of a package stands for the pure modules whose names it passes on, and the rules
# take plain numbers out of settings that somebody else has read.
EXCEPTIONS = {
    ("vaylix_server.machine", "vaylix_storage"),
    ("vaylix_server.prepare", "vaylix_storage"),
    ("vaylix_server.rules", "vaylix_server.settings"),
}


def name_of(path: Path, source: Path) -> str:
    return ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    name_of(path, source): path
    for source in ROOT.glob("packages/*/src")
    for path in source.glob("**/*.py")
}


def is_pure(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in PURE)


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module


def test_pure_modules_exist() -> None:
    assert set(PURE) <= MODULES.keys()


def test_pure_modules_import_pure_modules() -> None:
    impure = {
        (module, imported)
        for module, path in MODULES.items()
        if is_pure(module)
        for imported in imports_of(path)
        if imported in MODULES and not is_pure(imported)
    }
    assert impure == EXCEPTIONS
