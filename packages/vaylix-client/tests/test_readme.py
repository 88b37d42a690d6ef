from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vaylix_client.testing import toy_server_thread

_README = Path(__file__).parents[1] / "README.md"
_BLOCKS = re.findall(r"```python\n(.*?)```", _README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize(("position", "output"), [(0, "visits: 4\n"), (1, "a: 2\n")])
def test_the_examples_run(position: int, output: str) -> None:
    with toy_server_thread() as server:
        program = _BLOCKS[position].replace(":9173", f":{server.port}")
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert (result.stdout, result.stderr) == (output, "")


def test_all_examples_are_tested() -> None:
    assert len(_BLOCKS) == 2
