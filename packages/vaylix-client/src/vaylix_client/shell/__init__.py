"""The `vaylix-client` command: a line at a prompt, or lines from a pipe, sent to a server."""

from __future__ import annotations

from vaylix_client.shell._main import main

__all__ = ["main"]
