"""Run the first Python example of a README, as a user would paste it.

    python scripts/run_readme.py README.md [SERVER_COMMAND]

An example that talks to port 9173 is run against a server started for it with SERVER_COMMAND, on
a free port and in a temporary directory.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DEFAULT_PORT = "9173"


def python_example(readme: str) -> str:
    """Return the text of the first fenced Python block."""
    found = re.search(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    if found is None:
        raise SystemExit("there is no Python example")
    return found[1]


def start_server(command: str, directory: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server on a free port; return the process and the port."""
    process = subprocess.Popen(
        [command, "--port", "0", "--data-dir", f"{directory}/example.vaylix"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"listening on \S+:(\d+)", line):
            return process, found[1]
    raise SystemExit(f"{command} did not start")


def main() -> None:
    """Run the example in a temporary directory and pass its exit code on."""
    example = python_example(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as directory:
        server = None
        if DEFAULT_PORT in example:
            server, port = start_server(str(Path(sys.argv[2]).resolve()), directory)
            example = example.replace(DEFAULT_PORT, port)
        os.chdir(directory)
        try:
            finished = subprocess.run([sys.executable, "-W", "error", "-c", example], check=False)
        finally:
            if server is not None:
                server.terminate()
                server.wait()
    sys.exit(finished.returncode)


if __name__ == "__main__":
    main()
