"""The examples of the README run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_example_runs(block: str) -> None:
    exec(compile(block, str(README), "exec"), {})


def test_there_is_an_example() -> None:
    assert BLOCKS
