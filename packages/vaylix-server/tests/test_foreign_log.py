"""A directory with what is not of a server: a start says what that is, or goes on beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vaylix_server.errors import StartupError
from vaylix_server.settings import Settings
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


async def test_a_new_directory_may_hold_its_backups_and_nothing_foreign(tmp_path: Path) -> None:
    dumps, script = tmp_path / "data" / "backups" / "nightly", tmp_path / "data" / "run.sh"
    dumps.mkdir(parents=True)
    script.touch(mode=0o755)
    settings = Settings(data_dir=tmp_path / "data", backup_dir=dumps, port=0)
    with pytest.raises(StartupError, match=r"it holds run\.sh, but no node\.json"):
        async with serve_in_memory(tmp_path, settings):
            pass
    script.unlink()
    async with serve_in_memory(tmp_path, settings):
        script.touch(mode=0o755)
    async with serve_in_memory(tmp_path, settings):
        assert script.stat().st_mode & 0o777 == 0o755
