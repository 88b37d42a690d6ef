"""Pipes and devices in the place of files: refused at once, with nothing changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vaylix_storage import FileKeyProvider, RealVfs
from vaylix_storage._vfs import NotRegularFileError
from vaylix_storage.errors import KeyringError, StorageError
from vaylix_storage.offline import verify_directory
from vaylix_storage.offline.testing import Sample

# To wait for somebody who writes into the pipe would be to wait for ever.
pytestmark = pytest.mark.timeout(20)


@pytest.mark.parametrize(
    "name",
    ["node.json", "keyring.bin", "storage.key", "manifest.bin", "snapshots/12.snapshot"],
)
def test_a_pipe_is_not_opened(tmp_path: Path, name: str) -> None:
    sample = Sample(tmp_path / "data", RealVfs())
    sample.fill(clean=True)
    (sample.path / name).unlink()
    os.mkfifo(sample.path / name)
    before = sample.files()
    with pytest.raises(StorageError, match="not a regular file"):
        sample.open()
    with pytest.raises(StorageError, match="not a regular file"):
        verify_directory(sample.path, vfs=sample.vfs, provider=sample.provider())
    assert sample.files() == before


def test_neither_is_a_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(NotRegularFileError):
        RealVfs().open(tmp_path / "link")


def test_a_key_cannot_come_from_a_pipe() -> None:
    """As with `--key-file <(command)`, at the first start as well."""
    reading, writing = os.pipe()
    try:
        os.write(writing, b"ab" * 32)
        provider = FileKeyProvider(Path(f"/dev/fd/{reading}"), vfs=RealVfs())
        for attempt in (provider.prepare, lambda: provider.wrap(bytes(32), b"")):
            with pytest.raises(KeyringError, match="the key file is not a regular file") as caught:
                attempt()
            assert caught.value.remedy is not None
            assert "write the key into a file" in caught.value.remedy
    finally:
        os.close(reading)
        os.close(writing)
