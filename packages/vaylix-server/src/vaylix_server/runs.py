"""What a session submits to the write path: a run of commands, and who wants its outcome."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from vaylix_server.fast_paths import payload_bytes
from vaylix_storage.commands import Get, Set

if TYPE_CHECKING:
    from vaylix_protocol import ErrorReply, GetRun, SetRun
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

    def add_write(self, request_id: bytes, command: Command, command_bytes: int) -> None:
        """Append a command that is logged."""
        self.plain = None
        self.request_ids.append(request_id)
        self.commands.append(command)
        if self.logged is not self.commands:
            self.logged.append(command)
        self.payload_bytes += command_bytes

    def add_sets(self, sets: SetRun) -> int:
        """Append SETs; return what they took on the wire."""
        self.plain = None if self.commands else sets
        self.request_ids += sets.request_ids
        commands = list(map(Set, sets.keys, sets.values))
        self.commands += commands
        if self.logged is not self.commands:
            self.logged += commands
        sets_bytes = payload_bytes(sets)
        self.payload_bytes += sets_bytes
        return sets_bytes

    def add_gets(self, gets: GetRun) -> None:
        """Append GETs that are applied in their place but not logged."""
        self._log_apart()
        self.request_ids += gets.request_ids
        self.commands += map(Get, gets.keys)

    def add_read(self, request_id: bytes, command: Command) -> None:
        """Append a command that is applied in its place but not logged."""
        self._log_apart()
        self.request_ids.append(request_id)
        self.commands.append(command)

    def _log_apart(self) -> None:
        """Keep what is logged in a list of its own: what comes now is not."""
        self.plain = None
        if self.logged is self.commands:
            self.logged = self.commands.copy()
