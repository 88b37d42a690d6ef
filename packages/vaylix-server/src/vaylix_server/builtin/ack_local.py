"""Ack mode `local`: a write is answered once this node has it durably."""

from __future__ import annotations

from vaylix_server.hookspecs import hookimpl
from vaylix_server.interfaces import AckMode, Progress

__all__ = ["vaylix_ack_modes"]


def _own_durable_index(progress: Progress) -> int:
    return progress.match[progress.own_id]


@hookimpl
def vaylix_ack_modes() -> list[AckMode]:
    """Register the mode."""
    return [AckMode(name="local", acknowledged=_own_durable_index)]
