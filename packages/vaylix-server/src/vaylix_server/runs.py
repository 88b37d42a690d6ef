"""What a session submits to the write path: a run of commands, and who wants its outcome."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vaylix_protocol import ErrorReply, SetRun
    from vaylix_storage import Result
    from vaylix_storage.commands import Command

__all__ = ["Run", "RunOwner"]


class RunOwner(Protocol):
    """The session behind a run. Both calls come once per run, in the order of submission."""

    def settle(self, run: Run, results: list[Result]) -> None:
        """Take the results, one for each command; replies are sent when `flush` is called."""

    def fail(self, run: Run, reply: ErrorReply) -> None:
        """Take the one error that answers every write of the run."""

    def flush(self) -> None:
        """Send what `settle` and `fail` have prepared."""


class Run:
    """Commands of one connection, in order. `payload_bytes` is what they took on the wire.

    `commands` are applied; `logged` are those of them that change something. They are one and the
    same list unless a read stands among them. Where the commands are those of one `SetRun`, it is
    `plain`: columns are applied quicker than commands.
    """

    __slots__ = (
        "commands",
        "logged",
        "owner",
        "payload_bytes",
        "plain",
        "principal",
        "request_ids",
        "started",
        "weight",
    )

    def __init__(self, owner: RunOwner, principal: str) -> None:
        self.owner = owner
        self.principal = principal
        self.request_ids: list[bytes] = []
        self.commands: list[Command] = []
        self.logged: list[Command] = self.commands
        self.plain: SetRun | None = None
        self.payload_bytes = 0
        self.started = time.monotonic()
        # What the owner charges itself for the run until it is settled; its own unit.
        self.weight = 0

    def add_write(self, request_id: bytes, command: Command, payload_bytes: int) -> None:
        """Append a command that is logged."""
        self.plain = None
        self.request_ids.append(request_id)
        self.commands.append(command)
        if self.logged is not self.commands:
            self.logged.append(command)
        self.payload_bytes += payload_bytes

    def add_sets(self, sets: SetRun, commands: list[Command], payload_bytes: int) -> None:
        """Append SETs, which `commands` are, too."""
        assert len(commands) == len(sets.keys)
        self.plain = None if self.commands else sets
        self.request_ids += sets.request_ids
        self.commands += commands
        if self.logged is not self.commands:
            self.logged += commands
        self.payload_bytes += payload_bytes

    def add_read(self, request_id: bytes, command: Command) -> None:
        """Append a command that is applied in its place but not logged."""
        self.plain = None
        if self.logged is self.commands:
            self.logged = self.commands.copy()
        self.request_ids.append(request_id)
        self.commands.append(command)
