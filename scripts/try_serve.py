"""Do what the README tells a newcomer: start the server with nox, talk to it, stop it.

    python scripts/try_serve.py

The server gets a free port and a temporary directory; everything else is as printed.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What installing and compiling may take on a slow machine, in seconds.
PATIENCE_SECONDS = 600
SESSION = """set greeting "hello world"
get greeting
incr visits
set lock mine nx ex 60
exit
"""
ANSWERS = ["OK", "hello world", "1", "true"]


def main() -> None:
    """Exit with 0 if all went as the README says."""
    with tempfile.TemporaryDirectory() as directory:
        flags = ("--port", "0", "--data-dir", f"{directory}/default.vaylix")
        server = subprocess.Popen(
            [sys.executable, "noxfile.py", "-s", "serve", "--", *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        watchdog = threading.Timer(PATIENCE_SECONDS, server.kill)
        watchdog.start()
        try:
            answers = talk(server)
        finally:
            server.send_signal(signal.SIGINT)
            rest, _ = server.communicate()
            watchdog.cancel()
    sys.stdout.write(rest)
    # The login is answered first.
    if answers != ["OK", *ANSWERS]:
        raise SystemExit(f"the client answered {answers}, not {ANSWERS}")


def talk(server: subprocess.Popen[str]) -> list[str]:
    """Wait until the server listens, and say to the client that it names what the README says."""
    assert server.stdout is not None
    client = ""
    for line in server.stdout:
        sys.stdout.write(line)
        if found := re.search(r"Talk to it from another terminal:\s+(\S+)", line):
            client = found[1]
        if found := re.search(r"listening on \S+:(\d+)", line):
            finished = subprocess.run(
                [client, "--port", found[1]],
                cwd=ROOT,
                input=SESSION,
                capture_output=True,
                text=True,
                check=True,
            )
            return [line for line in finished.stdout.splitlines() if line and line[0] != "["]
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
