"""What an unanswered request weighs, so that one session cannot hold any amount of memory.

A unit is a command that answers with a few bytes, or a KiB of payload, or a KiB of a reply that is
encoded and waits for its turn. What returns a value weighs more, since the value lives until the
client has taken it; what returns any number of them fills a session up by itself.
"""

from __future__ import annotations

from typing import Final

from vaylix_storage import commands as log

__all__ = ["SESSION_WEIGHT_MAX", "VALUE_WEIGHT", "WEIGHT_BYTES", "command_weight", "frame_weight"]

SESSION_WEIGHT_MAX: Final = 1024
WEIGHT_BYTES: Final = 1024
# Of a command that returns a value.
VALUE_WEIGHT: Final = 16
_RETURNS_A_VALUE: Final = (log.Get, log.GetDel, log.GetEx)


def command_weight(command: log.Command) -> int:
    """Return the weight of a command without its payload."""
    if isinstance(command, log.Set):
        return 1 if command.options is None else VALUE_WEIGHT
    if isinstance(command, _RETURNS_A_VALUE):
        return VALUE_WEIGHT
    if isinstance(command, log.MGet):
        return VALUE_WEIGHT * len(command.keys)
    if isinstance(command, log.List | log.Scan):
        return SESSION_WEIGHT_MAX
    if isinstance(command, log.Exec):
        return 1 + sum(command_weight(part) for part in command.commands)
    return 1


def frame_weight(frame: bytes) -> int:
    """Return the weight of an encoded reply."""
    return 1 + len(frame) // WEIGHT_BYTES
