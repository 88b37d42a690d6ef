"""A directory of the storage package alone: a start says what is not ours in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vaylix_server.errors import StartupError
from vaylix_server.testing import serve_in_memory
from vaylix_storage import Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("value", [None, b"v"])
async def test_the_directory_of_a_store_is_refused_with_a_reason(
    tmp_path: Path, value: bytes | None
) -> None:
    with Store.open(tmp_path / "data") as store:
        if value is not None:
            store.set(b"k", value)
    with pytest.raises(StartupError, match=r"entry 1 of the log is not one .* writes: \w+"):
        async with serve_in_memory(tmp_path):
            pass
