"""The recipes of docs/operations.md, "Backup and restore", run as they are written there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from vaylix_storage import RealVfs
from vaylix_storage.logical_backup import (
    BackupDirectory,
    BackupEntry,
    BackupHeader,
    DocumentWriter,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
BASE = "/var/backups/vaylix"


def section() -> str:
    text = PAGE.read_text(encoding="utf-8")
    return text.split("## Backup and restore\n")[1].split("\n## ")[0]


def test_a_dump_is_checked_without_a_server(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", section(), re.DOTALL)
    (name,) = re.findall(r'verify\("(.*?)"', program)
    assert BASE in program
    writer = DocumentWriter(BackupHeader(created_at_ms=1, source_sequence=7))
    entries = [BackupEntry(b"a", b"1", None, 1), BackupEntry(b"b", b"2", 1, 1)]
    pieces = [writer.begin(), writer.feed(entries), writer.end()]
    path = BackupDirectory(tmp_path, vfs=RealVfs()).write(name, writer, pieces)

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", program.replace(BASE, str(tmp_path))],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    result = run()
    assert (result.stdout, result.stderr) == ("1 of 2 entries are alive\n", "")
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"c"'))
    assert "backup manifest does not match dump" in run().stderr
