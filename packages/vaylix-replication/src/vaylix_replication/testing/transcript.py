"""Transcripts: scenarios as text, with everything that a group does in answer to each command.

A transcript is a list of commands, each on a line that begins with `>`, with the output below.
A test runs the commands again and compares. When a change of behaviour is meant, the file is
rewritten, and the difference is something that its author has to be able to explain:

    python -m vaylix_replication.testing.transcript tests/transcripts/*.txt

Commands: `group NODES [SETTING=NUMBER ...]`, `elect`, `tick [TIMES]`, `propose TEXT`, `read NODE
NUMBER`, `cut NODE ...`, `heal`, `compact NODE`, `start NODE`, `join NODE`, `learn NODE`,
`leave NODE`, `transfer NODE`, `campaign NODE`, `trace on|off`, `show`. Lines that begin with `#`
are comments.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vaylix_replication import BatchKind, Join, JoinAsLearner, Leave, MemberKind
from vaylix_replication.errors import RefusedError
from vaylix_replication.messages import Append, InstallSnapshot
from vaylix_replication.testing.lockstep import LockstepGroup, LockstepNode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vaylix_replication import Batch, MembershipChange, Message

__all__ = ["run_transcript"]

_HIDDEN = {"cluster_id", "sender", "term", "time_ms", "semantics_version_max", "prev_checksum"}


def run_transcript(text: str) -> str:
    """Run the commands of a transcript; return it with the output as it is now."""
    stage = _Stage()
    lines = []
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            lines.append(line)
        elif line.startswith(">"):
            lines.append(line)
            lines.extend(stage.perform(line[1:].split()))
    return "\n".join(lines) + "\n"


class _TracedGroup(LockstepGroup):
    """A group that tells every message that leaves."""

    def __init__(self, node_ids: str, **settings: int) -> None:
        self.trace: list[str] = []
        super().__init__(node_ids, seed=1, **settings)

    def _send(self, sender: str, recipient: str, message: Message) -> None:
        lost = self.cut.intersection((sender, recipient)) or recipient not in self.nodes
        self.trace.append(f"  {sender} -> {recipient} {_format(message)}{' (lost)' * bool(lost)}")
        super()._send(sender, recipient, message)


class _Stage:
    """Carries out commands."""

    def __init__(self) -> None:
        self._group = _TracedGroup("a")
        self._tracing = False

    def perform(self, words: list[str]) -> list[str]:
        """Carry out one command and return its output."""
        name, arguments = words[0], words[1:]
        self._group.trace.clear()
        try:
            output = self._find(name)(arguments)
            self._group.settle()
        except RefusedError as error:
            output = [f"  refused: {error}"]
        return [*(self._group.trace if self._tracing else ()), *output]

    def _find(self, name: str) -> Callable[[list[str]], list[str]]:
        actions: dict[str, Callable[[list[str]], list[str]]] = {
            "group": self._begin,
            "elect": self._elect,
            "tick": self._tick,
            "propose": self._propose,
            "read": self._read,
            "cut": self._cut,
            "heal": self._heal,
            "start": self._start,
            "trace": self._trace,
            "show": self._show,
        }
        return actions.get(name) or (lambda arguments: self._administer(name, arguments[0]))

    def _begin(self, arguments: list[str]) -> list[str]:
        settings = dict(pair.split("=") for pair in arguments[1:])
        self._group = _TracedGroup(arguments[0], **{k: int(v) for k, v in settings.items()})
        return []

    def _elect(self, _: list[str]) -> list[str]:
        leader = self._group.elect()
        return [f"  {leader.node_id} leads term {leader.raft.term}"]

    def _tick(self, arguments: list[str]) -> list[str]:
        self._group.tick(int(arguments[0]) if arguments else 1)
        return []

    def _propose(self, arguments: list[str]) -> list[str]:
        batch = self._group.propose(" ".join(arguments).encode())
        return [f"  index {batch.first_index}"]

    def _read(self, arguments: list[str]) -> list[str]:
        node = self._group.nodes[arguments[0]]
        node.raft.read_index(int(arguments[1]))
        self._group.settle()
        return [f"  answered {node.reads} dropped {node.reads_dropped}"]

    def _cut(self, arguments: list[str]) -> list[str]:
        self._group.cut = set(arguments)
        return []

    def _heal(self, _: list[str]) -> list[str]:
        self._group.cut = set()
        return []

    def _start(self, arguments: list[str]) -> list[str]:
        self._group.add(arguments[0])
        return []

    def _trace(self, arguments: list[str]) -> list[str]:
        self._tracing = arguments == ["on"]
        return []

    def _show(self, _: list[str]) -> list[str]:
        return [_describe(node) for _, node in sorted(self._group.nodes.items())]

    def _administer(self, name: str, node_id: str) -> list[str]:
        if name == "compact":
            self._group.nodes[node_id].compact()
            return []
        if name == "campaign":
            self._group.nodes[node_id].raft.campaign()
            return []
        leader = self._group.leader
        assert leader is not None, "nobody leads"
        if name == "transfer":
            leader.raft.transfer_leadership(node_id)
            return []
        address = f"{node_id}:9173"
        changes: dict[str, MembershipChange] = {
            "join": Join(node_id, address),
            "learn": JoinAsLearner(node_id, address),
            "leave": Leave(node_id),
        }
        return [f"  complete at index {leader.raft.propose_membership(changes[name])}"]


def _describe(node: LockstepNode) -> str:
    status = node.raft.status()
    marks = {MemberKind.VOTER: "", MemberKind.LEARNER: "?", MemberKind.JOINING: "+"}
    members = " ".join(m.node_id + marks[m.kind] for m in status.configuration.members)
    return (
        f"  {node.node_id} {status.role.name.lower()} term {status.term} "
        f"leader {status.leader_id or 'unknown'} log {status.first_index}..{status.last_index} "
        f"commit {status.commit} members [{members}]"
    )


def _format(message: Message) -> str:
    shown = [name for name in message.__struct_fields__ if name not in _HIDDEN]
    fields = [f"term {message.term}", *(f"{name} {_format_value(message, name)}" for name in shown)]
    return f"{type(message).__name__} {', '.join(fields)}"


def _format_value(message: Message, name: str) -> str:
    if isinstance(message, Append) and name == "batches":
        return "[" + " ".join(map(_format_batch, message.batches)) + "]"
    if isinstance(message, InstallSnapshot) and name == "meta":
        return f"{message.meta.index}/{message.meta.term} of {message.meta.size_bytes} bytes"
    return str(getattr(message, name))


def _format_batch(batch: Batch) -> str:
    names = {BatchKind.NOOP: "noop", BatchKind.CONFIGURATION: "members"}
    what = names.get(BatchKind(batch.kind)) if batch.kind in list(BatchKind) else None
    return f"{batch.first_index}/{batch.term}:{what or batch.payload.decode()}"


def main(arguments: Sequence[str]) -> int:
    """Rewrite the transcripts that are named."""
    for name in arguments:
        path = Path(name)
        path.write_text(run_transcript(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
