"""Writers that remember, to find out after a crash whether anything acknowledged is gone."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import vaylix_protocol as vtp

if TYPE_CHECKING:
    from vaylix_server.testing._process import SocketClient

__all__ = ["Witness"]

# What a server answers whose log has failed: in doubt, and never written.
_LOST = frozenset({"ENG-002", "SRV-005"})


class Witness(threading.Thread):
    """Writes until the connection breaks, and remembers what is certain and what is possible.

    It works on keys of its own. Set `client` and `start` it; after the crash `join` it, `check`
    what the next server holds, and go on with its `successor`.
    """

    def __init__(self, number: int, seed: int) -> None:
        super().__init__()
        self.number = number
        self.random = random.Random(seed)  # noqa: S311 - a seed decides, not a secret
        self.client: SocketClient | None = None
        # For each key: the values it may have, by what was acknowledged and what was under way.
        self.possible: dict[bytes, set[bytes | None]] = {}
        self.acknowledged = 0
        self.failure: AssertionError | None = None

    def run(self) -> None:
        """Write until the server is gone."""
        assert self.client is not None
        step = 0
        try:
            while True:
                step += 1
                self._write(self.client, step)
        except (ConnectionError, TimeoutError):
            pass
        except AssertionError as error:
            self.failure = error
        finally:
            self.client.close()

    def _write(self, client: SocketClient, step: int) -> None:
        key = b"w%d:%d" % (self.number, self.random.randrange(20))
        counter = b"w%d:counter" % self.number
        value = b"%d:%d" % (step, self.random.randrange(1 << 30))
        kind = self.random.randrange(5)
        if kind == 0:
            self._ask(client, [vtp.Set(key, value)], {key: value}, [vtp.Ok()])
        elif kind == 1:
            count = self._next_count(counter)
            self._ask(client, [vtp.Incr(counter)], {counter: b"%d" % count}, [vtp.Integer(count)])
        elif kind == 2:
            pairs = ((key, value), (key + b"b", value))
            self._ask(client, [vtp.MSet(pairs)], dict(pairs), [vtp.Ok()])
        elif kind == 3:
            # A pipeline: some of it may be in one batch and some in the next when the kill comes.
            values = {b"w%d:p%d" % (self.number, n): b"%d" % step for n in range(60)}
            writes: list[vtp.Command] = [vtp.Set(k, v) for k, v in values.items()]
            self._ask(client, writes, values, [vtp.Ok()] * len(writes))
        else:
            count = self._next_count(counter)
            commands: list[vtp.Command] = [
                vtp.Multi(),
                vtp.Set(key, value),
                vtp.Incr(counter),
                vtp.Exec(),
            ]
            results = vtp.ExecResults((vtp.Ok(), vtp.Integer(count)))
            replies: list[vtp.Reply] = [vtp.Ok(), vtp.Queued(), vtp.Queued(), results]
            self._ask(client, commands, {key: value, counter: b"%d" % count}, replies)

    def _next_count(self, counter: bytes) -> int:
        (value,) = self.possible.get(counter, {None})
        return int(value or b"0") + 1

    def _ask(
        self,
        client: SocketClient,
        commands: list[vtp.Command],
        effects: dict[bytes, bytes],
        expected: list[vtp.Reply],
    ) -> None:
        """Write; until the answer is there, both the old and the new values are possible."""
        for key, value in effects.items():
            self.possible.setdefault(key, {None}).add(value)
        replies = client.ask_all(commands)
        if any(isinstance(reply, vtp.ErrorReply) and reply.code in _LOST for reply in replies):
            raise ConnectionError("the log of the server has failed")
        assert replies == expected
        self.acknowledged += 1
        for key, value in effects.items():
            self.possible[key] = {value}

    def successor(self) -> Witness:
        """Return a fresh thread that goes on with what this one knows; raises what went wrong."""
        if self.failure is not None:
            raise self.failure
        successor = Witness(self.number, self.random.randrange(1 << 30))
        successor.possible = self.possible
        successor.acknowledged = self.acknowledged
        return successor

    def check(self, client: SocketClient) -> None:
        """Compare with the server, and take what it says as certain from here on."""
        for key, possible in self.possible.items():
            reply = client.ask(vtp.Get(key))
            value = reply.data if isinstance(reply, vtp.Value) else None
            assert value in possible, f"{key!r} is {value!r}, possible were {possible!r}"
            self.possible[key] = {value}
