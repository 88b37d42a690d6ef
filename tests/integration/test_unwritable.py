"""A data directory that may not be written to: one line, exit 1, nothing changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import Ok, Value
from vaylix_server.testing import ServerProcess

# Root may write anywhere, unless it gives that up.
CAPABILITIES = "-dac_override,-dac_read_search"
LIKE_ANYBODY: tuple[str, ...] = ()
if os.geteuid() == 0:
    LIKE_ANYBODY = (
        "setpriv",
        f"--bounding-set={CAPABILITIES}",
        f"--inh-caps={CAPABILITIES}",
        "--",
    )

pytestmark = pytest.mark.skipif(
    bool(LIKE_ANYBODY) and shutil.which("setpriv") is None,
    reason="root may write anywhere, and setpriv is not installed: apt-get install -y util-linux",
)


def refusal(data: Path) -> str:
    """Start a server that must not start; return its one line on standard error."""
    code, errors = ServerProcess(data, wrapper=LIKE_ANYBODY).wait()
    assert code == 1, errors
    assert errors.count("\n") == 1, errors
    assert "Traceback" not in errors
    return errors


def content(directory: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes() if path.is_file() else b"" for path in sorted(directory.rglob("*"))
    }


def test_where_no_directory_can_be_made(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        errors = refusal(tmp_path / "data")
        assert content(tmp_path) == {}
    finally:
        tmp_path.chmod(0o700)
    assert "[ENG-002]" in errors
    assert str(tmp_path / "data") in errors


@pytest.mark.parametrize("place", [".", "wal"])
def test_where_a_directory_became_unwritable(tmp_path: Path, place: str) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server, server.admin() as client:
        assert client.ask(vtp.Set(b"k", b"v")) == Ok()
    before = content(data)
    (data / place).chmod(0o500)
    try:
        errors = refusal(data)
        assert content(data) == before
    finally:
        (data / place).chmod(0o700)
    assert "[ENG-002]" in errors
    assert str(data / place) in errors
    with ServerProcess(data) as server, server.admin() as client:
        assert client.ask(vtp.Get(b"k")) == Value(b"v")
