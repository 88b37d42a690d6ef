"""One connection: its bytes, the order of its replies, and how much of it may be in memory.

Order of replies
----------------

Requests are answered in the order in which they came, although some answers are known at once and
others only when a write is durable. `_queue` holds what is not sent yet and stands behind a write:

    [run, frame, frame, run]      a run is waiting for its results, a frame is ready

Whatever stands before the first run has been handed to the transport. When a run is settled it is
at the head; its replies and the frames behind it go out, up to the next run. While the queue is
empty, replies go straight into `_out`, which is written once per call from the loop.

A reply that is larger than the client takes ends the connection (protocol spec 18, item 4), behind
the replies before it. From then on, and once the connection is lost, the session is *muted*: runs
that were submitted are settled all the same, but nobody is told.

Flow control
------------

A session stops working on requests while any of the reasons in `Hold` stands. What it has
received and not worked on waits in `_stalled`; reading is paused meanwhile, so that is never more
than what a few reads brought. A client that does not read, half-sends or says nothing so costs a
bounded amount of memory, and nobody else waits for it. Nor does anybody for one that asks for much
work at once: between its commands others have their turn.

Of a client without a login, one request at a time is taken out of the connection, so what waits is
bytes as they came and not what they expand to. The registry bounds them for all such clients.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

import vaylix_protocol as vtp
from vaylix_protocol import ErrorReply, Event, GetRun, LocalProtocolError, Reply, Request, SetRun
from vaylix_server.dispatcher import Dispatcher
from vaylix_server.fast_paths import GETS_AT_ONCE_MAX, OUT_BYTES_MAX, fits, split_gets, split_sets
from vaylix_server.holds import Hold, peer_of, tune
from vaylix_server.prepare import is_write, send_result
from vaylix_server.runs import Run
from vaylix_server.silence import SilenceTimer
from vaylix_server.weights import (
    SESSION_WEIGHT_MAX,
    VALUE_WEIGHT,
    WEIGHT_BYTES,
    command_weight,
    frame_weight,
)
from vaylix_storage import Answer, Result
from vaylix_storage import commands as log

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from vaylix_server.registry import SessionRegistry
    from vaylix_server.services import Services

__all__ = ["Session"]

# How long a closing connection may take to send what it has. Not Final: tests shorten it.
LINGER_SECONDS = 10.0
# How long a session may keep the loop to itself, but for single commands. Tests shorten this, too.
TURN_SECONDS = 0.005
_HEALTH_CHECK: Final = "vaylix-healthcheck"
# Named once: else a union would be made, and an enum searched, for each request.
_RUNS: Final = (GetRun, SetRun)
_OK: Final = Answer.OK


class Session:
    """The server side of one connection, with the interface of `asyncio.Protocol`.

    Not a subclass of it: a class that is compiled cannot have a base that is not.
    """

    def __init__(self, services: Services, registry: SessionRegistry) -> None:
        self._services = services
        # What every request needs, without a detour.
        self._write_path = services.write_path
        self._keyspace = services.keyspace
        self._metrics = services.metrics
        self._limits = services.limits
        self._loop_time = services.loop.time
        self._slow_seconds = services.settings.slow_command_threshold_ms / 1000
        self._registry = registry
        self._connection = vtp.Connection(vtp.Role.SERVER, services.protocol_settings)
        self._transport: asyncio.Transport | None = None
        self._dispatcher: Dispatcher | None = None
        self._holds = Hold.NOTHING
        # Always `bool(self._holds)`: asked for each request, and a plain bool is much cheaper.
        self._is_held = False
        self._stalled: deque[Event] = deque()
        self._queue: deque[Run | bytes] = deque()
        # The last run of the queue while commands may still join it; submitted when closed.
        self._run: Run | None = None
        # How many requests were so far; their speed is judged when they are settled.
        self._submitted = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._in_flight_weight = 0
        self._is_muted = False
        # The time that reads see, taken once for all requests of a read.
        self._now_ms = 0
        self._last_buffered_bytes = 0
        # Silent since the client last asked something, or was last answered.
        self._silence = SilenceTimer(services.loop, self)
        self._linger: asyncio.TimerHandle | None = None
        self._client_name = ""
        self.number = 0
        self.peer = "unknown"

    # The life of the connection.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock of the handshake."""
        # The transports of uvloop have the interface, but not the base class.
        self._transport = transport = cast("asyncio.Transport", transport)
        address, self.peer = peer_of(transport)
        self._dispatcher = Dispatcher(self._services, self, address)
        self._connection.one_at_a_time = not self._dispatcher.is_known
        tune(transport)
        self._registry.add(self)
        self._silence.start(self._services.settings.handshake_timeout_seconds)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget what waited for the client; what was submitted is settled all the same."""
        # Else the collector would have to find these cycles.
        self._transport = self._dispatcher = None
        self._is_muted = True
        self._hold(Hold.ENDING)
        self._close_run()
        self._stalled.clear()
        self._out.clear()
        self._silence.close()
        if self._linger is not None:
            self._linger.cancel()
        self._registry.remove(self)

    def eof_received(self) -> bool:
        """Answer what came before the end, then close; True keeps the transport for that."""
        self._take(self._connection.receive_eof())
        return True

    def end(self, reason: str) -> None:
        """Close behind the replies to all earlier requests. An empty reason is not logged."""
        if reason and self._client_name != _HEALTH_CHECK:
            self._services.log.warning(
                "server.connection", f"connection_id={self.number} peer={self.peer} {reason}"
            )
        self._hold(Hold.ENDING)
        self._stalled.clear()
        self._close_run()
        self._close_when_answered()

    def stop(self) -> None:
        """Take no further request from the wire; close once all that were taken are answered."""
        if self._transport is not None:
            self._transport.pause_reading()
        if self._holds & Hold.ENDING:
            return
        if self._holds:
            # What waits was taken before the stop, so it is answered like what is under way.
            self._stalled.extend(self._connection.receive_eof())
        else:
            self.end("")

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _close_when_answered(self) -> None:
        answered = self._is_muted or not self._queue
        if self._holds & Hold.ENDING and answered and self._transport is not None:
            self._write_out()
            # Close lets the transport send what it still has, but not for ever.
            self._transport.close()
            self._silence.stop()
            if self._linger is None:
                self._linger = self._services.loop.call_later(LINGER_SECONDS, self.abort)

    # Silence.

    def is_busy(self) -> bool:
        """Tell whether the client waits for us."""
        return bool(self._queue) or bool(self._holds & ~Hold.OUTPUT) or self._is_taking()

    def end_silence(self) -> None:
        """Close a connection that said nothing for too long."""
        self._metrics.idle_disconnects += 1
        self.abort()

    def _is_taking(self) -> bool:
        """Say whether the client has taken some of its replies since the last look."""
        assert self._transport is not None
        before = self._last_buffered_bytes
        self._last_buffered_bytes = self._transport.get_write_buffer_size()
        return self._last_buffered_bytes < before

    # Bytes in.

    def data_received(self, data: bytes) -> None:
        """Work on the requests in `data`, or put them aside."""
        connection = self._connection
        events = connection.receive_data(data)
        if len(events) == 1 and not self._is_held and not connection.has_more:
            event = events[0]
            if isinstance(event, _RUNS) and len(event.keys) <= GETS_AT_ONCE_MAX:
                rest = self._take_alone(event)
                if not rest:
                    return
                events = list(rest)
        if events:
            self._take(events)
        if self._dispatcher is not None and not self._dispatcher.is_known:
            self._note_waiting()

    def _take_alone(self, run: GetRun | SetRun) -> Sequence[Event]:
        """Do what `_work` does for a read that brought one short run; return what is left of it.

        A client that waits for each answer costs two system calls a request, and whatever is
        spent beside them counts.
        """
        started, dispatcher = monotonic(), self._dispatcher
        assert dispatcher is not None
        dispatcher.refresh_rights()
        self._silence.last_active = self._loop_time()
        if isinstance(run, SetRun) or self._queue or not dispatcher.reads_at_once:
            rest = self._take_part(run)
            self._close_run()
            return rest
        # What would come of it there, spelled out, since this is the hottest of all.
        if not fits(run, self._limits):
            return run.requests()
        self._now_ms = self._write_path.read_time_ms()
        self._answer_gets(run)
        self._write_out()
        if self._slow_seconds and monotonic() - started >= self._slow_seconds:
            self._metrics.slow_commands += len(run.keys)
        return ()

    def _take(self, events: Sequence[Event]) -> None:
        self._silence.last_active = self._loop_time()
        if not self._is_held:
            self._work(events)
            self._go_on()
        elif not self._holds & Hold.ENDING:
            self._stalled.extend(events)

    def _work(self, events: Sequence[Event]) -> None:
        """Work on events until a reason to stop comes up, and put the rest aside."""
        dispatcher, pending = self._dispatcher, deque(events)
        assert dispatcher is not None
        assert not self._is_held
        started, requests = monotonic(), self._metrics.requests - self._submitted
        self._now_ms = self._write_path.read_time_ms()
        dispatcher.refresh_rights()
        while pending and not self._is_held:
            event = pending.popleft()
            if isinstance(event, _RUNS):
                pending.extendleft(reversed(self._take_part(event)))
            elif isinstance(event, Request):
                dispatcher.handle(event)
            else:
                self._on_event(event)
            if self._out_bytes > OUT_BYTES_MAX:
                self._write_out()
            if pending and monotonic() - started >= TURN_SECONDS:
                self._let_others_on()
        if pending and not self._holds & Hold.ENDING:
            self._stalled.extendleft(reversed(pending))
        self._close_run()
        self._write_out()
        self._judge_speed(started, self._metrics.requests - self._submitted - requests)

    def _take_part(self, run: GetRun | SetRun) -> Sequence[Event]:
        """Serve as much of a run as may be served at once; return what has to follow it."""
        dispatcher = self._dispatcher
        assert dispatcher is not None
        rest: GetRun | SetRun | None
        if not fits(run, self._limits):
            return run.requests()
        if isinstance(run, SetRun):
            if not dispatcher.writes_at_once:
                return run.requests()
            sets, rest = split_sets(run, SESSION_WEIGHT_MAX - self._in_flight_weight)
            self._take_sets(sets)
        elif not dispatcher.reads_at_once:
            return run.requests()
        elif self._queue:
            # One may pass what is left, as with any other request.
            room = SESSION_WEIGHT_MAX - self._in_flight_weight
            gets, rest = split_gets(run, -(-room // VALUE_WEIGHT))
            self._take_gets(gets)
        else:
            gets, rest = split_gets(run, GETS_AT_ONCE_MAX)
            self._answer_gets(gets)
        return () if rest is None else (rest,)

    def _answer_gets(self, run: GetRun) -> None:
        connection, keyspace, now_ms = self._connection, self._keyspace, self._now_ms
        ids, keys = run.request_ids, run.keys
        self._metrics.requests += len(keys)
        self._metrics.reads_at_once += len(keys)
        self._write_path.note_reader(self)
        try:
            if len(keys) != 1:
                frames = connection.send_values(ids, keyspace.values(keys, now_ms))
            elif (value := keyspace.get(keys[0], now_ms)) is None:
                frames = connection.send_not_found(ids[0])
            else:
                frames = connection.send_value(ids[0], value)
        except LocalProtocolError:
            # One of them is too large. Those before it are answered before the connection ends.
            for request_id, key in zip(ids, keys, strict=True):
                if not self._is_held:
                    value = keyspace.get(key, now_ms)
                    self.reply(request_id, vtp.NotFound() if value is None else vtp.Value(value))
            return
        self._out.append(frames)
        self._out_bytes += len(frames)

    def _take_sets(self, run: SetRun) -> None:
        run_bytes = self._open_run().add_sets(run)
        self._charge_run(len(run.keys) + run_bytes // WEIGHT_BYTES)
        self._metrics.requests += len(run.keys)

    def _take_gets(self, run: GetRun) -> None:
        """Answer GETs behind the writes before them."""
        self._open_run().add_gets(run)
        self._charge_run(VALUE_WEIGHT * len(run.keys))
        self._metrics.requests += len(run.keys)
        self._metrics.reads_behind_writes += len(run.keys)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, vtp.ClientHello):
            self._welcome(event)
        elif isinstance(event, vtp.ConnectionBroken):
            # An end in the middle of a frame is how clients leave, and not worth a line.
            left = event.error.error_code is vtp.ErrorCode.TRN_007
            self.end("" if left else event.error.described)
        else:
            assert isinstance(event, vtp.ConnectionClosed)
            self.end("")

    def _welcome(self, hello: vtp.ClientHello) -> None:
        services = self._services
        self._client_name = hello.client_name
        if self._registry.is_full:
            self._put(self._connection.reject(vtp.error_reply(vtp.ErrorCode.SRV_003)))
            self.end("turned away: all connections are in use")
            return
        self._put(self._connection.accept(hello, services.new_server_id()))
        if self._connection.is_rejected:
            self.end("asked for a protocol version that is not spoken here")
            return
        self._registry.admit(self)
        self._silence.stop()
        if services.settings.idle_timeout_seconds is not None:
            self._silence.start(services.settings.idle_timeout_seconds)

    def _judge_speed(self, started: float, requests: int) -> None:
        """Count slow commands; those that are answered together are as slow as all of them."""
        # Not the time of the loop, which stands still while a callback runs.
        if self._slow_seconds and monotonic() - started >= self._slow_seconds:
            self._metrics.slow_commands += requests

    # Holding and going on.

    def _hold(self, reason: Hold) -> None:
        if not self._is_held and self._transport is not None:
            self._transport.pause_reading()
        self._holds |= reason
        self._is_held = True

    def _release(self, reason: Hold) -> None:
        self._holds &= ~reason
        self._is_held = bool(self._holds)
        self._go_on()
        if not self._is_held and self._transport is not None:
            self._transport.resume_reading()
        self._note_waiting()

    def _note_waiting(self) -> None:
        """Tell the registry what a client without a login makes us hold."""
        connection, waiting_bytes = self._connection, 0
        if self._dispatcher is None or self._transport is None:
            return
        connection.one_at_a_time = not self._dispatcher.is_known
        if connection.one_at_a_time:
            waiting_bytes = connection.buffered_bytes
            # Less than makes the transport complain would leave without a word.
            if self._holds & Hold.OUTPUT:
                waiting_bytes += self._transport.get_write_buffer_size()
        self._registry.note_waiting(self, waiting_bytes)

    def _go_on(self) -> None:
        """Work on what was put aside, then on what is still in the connection."""
        if not self._stalled and not self._connection.has_more:
            return
        started = monotonic()
        while not self._is_held:
            if self._stalled:
                events: Sequence[Event] = list(self._stalled)
                self._stalled.clear()
            elif self._connection.has_more:
                events = self._connection.receive_data(b"")
            else:
                return
            self._work(events)
            if self._connection.has_more and monotonic() - started >= TURN_SECONDS:
                self._let_others_on()

    def _let_others_on(self) -> None:
        if not self._is_held:
            self._hold(Hold.TURN)
            self._services.loop.call_soon(self._release, Hold.TURN)

    def pause_writing(self) -> None:
        """Stop answering a client that does not take its answers."""
        self._hold(Hold.OUTPUT)

    def resume_writing(self) -> None:
        """Go on."""
        self._release(Hold.OUTPUT)

    def hold_at_barrier(self) -> None:
        """Work on no further request until the one at hand is answered."""
        self._hold(Hold.BARRIER)

    def release_barrier(self, request_id: bytes, reply: Reply) -> None:
        """Send the answer behind all earlier ones and go on."""
        self.reply(request_id, reply)
        self._write_out()
        self._release(Hold.BARRIER)

    # Replies out.

    def reply(self, request_id: bytes, reply: Reply) -> None:
        """Send a reply behind all earlier ones; one that is too large ends the connection."""
        self._close_run()
        try:
            frame = self._connection.send_reply(request_id, reply)
        except LocalProtocolError as error:
            self.end(error.described)
            return
        self._put(frame)

    def _put(self, frame: bytes) -> None:
        """Send a frame behind everything that waits for an answer."""
        if not self._queue:
            self._out.append(frame)
            self._out_bytes += len(frame)
            return
        self._queue.append(frame)
        self._charge(frame_weight(frame))

    def read(self, request_id: bytes, command: log.Command) -> None:
        """Answer a command that changes nothing, at once or in its place behind a write."""
        if self._queue:
            self._metrics.reads_behind_writes += 1
            self._open_run().add_read(request_id, command)
            self._charge_run(command_weight(command))
            return
        self._metrics.reads_at_once += 1
        self._write_path.note_reader(self)
        result = self._keyspace.apply((command,), self._now_ms, want_results=True)[0]
        try:
            frame = send_result(self._connection, self._metrics, request_id, command, result)
        except LocalProtocolError as error:
            self.end(error.described)
            return
        self._put(frame)

    def write(self, request_id: bytes, command: log.Command, command_bytes: int) -> None:
        """Log and apply a command; its reply follows from the result."""
        self._open_run().add_write(request_id, command, command_bytes)
        self._charge_run(command_weight(command) + command_bytes // WEIGHT_BYTES)

    def _charge_run(self, weight: int) -> None:
        assert self._run is not None
        self._run.weight += weight
        self._charge(weight)

    def _charge(self, weight: int) -> None:
        self._in_flight_weight += weight
        if self._in_flight_weight >= SESSION_WEIGHT_MAX:
            self._hold(Hold.IN_FLIGHT)

    def _open_run(self) -> Run:
        run = self._run
        if run is None:
            assert self._dispatcher is not None
            run = self._run = Run(self, self._dispatcher.username or "")
            self._queue.append(run)
        return run

    def _close_run(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        self._submitted += len(run.commands)
        write_path = self._write_path
        write_path.submit(run)
        if write_path.is_full and not self._holds & Hold.ROOM:
            self._hold(Hold.ROOM)
            write_path.when_room(lambda: self._release(Hold.ROOM))

    def _write_out(self) -> None:
        if self._out:
            if self._transport is not None:
                out = self._out
                self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._out.clear()
            self._out_bytes = 0

    # What the write path calls.

    def settle(self, run: Run, results: Sequence[Result]) -> None:
        """Encode the replies of the run at the head of the queue, and the frames behind it."""
        self._leave_queue(run)
        self._judge_speed(run.started, len(run.commands))
        if self._is_muted:
            return
        if len(results) == 1 and results[0] is _OK:
            self._out.append(self._connection.send_ok(run.request_ids[0]))
        elif results.count(_OK) == len(results):
            self._out.append(self._connection.send_oks(run.request_ids))
        else:
            self._settle_each(run, results)
        self._move_ready_frames()

    def _settle_each(self, run: Run, results: Sequence[Result]) -> None:
        connection = self._connection
        parts = zip(run.request_ids, run.commands, results, strict=True)
        try:
            for request_id, command, result in parts:
                if type(result) is bytes:
                    frame = connection.send_value(request_id, result)
                elif result is _OK:
                    frame = connection.send_ok(request_id)
                else:
                    frame = send_result(connection, self._metrics, request_id, command, result)
                self._out.append(frame)
        except LocalProtocolError as error:
            self._is_muted = True
            self.end(error.described)

    def fail(self, run: Run, reply: ErrorReply) -> None:
        """Answer every write of the run with the same error, and the reads in between."""
        self._leave_queue(run)
        connection, now_ms = self._connection, self._write_path.read_time_ms()
        try:
            for request_id, command in zip(run.request_ids, run.commands, strict=True):
                if self._is_muted:
                    return
                if is_write(command):
                    frame = connection.send_reply(request_id, reply)
                else:
                    result = self._keyspace.apply((command,), now_ms, want_results=True)[0]
                    frame = send_result(connection, self._metrics, request_id, command, result)
                self._out.append(frame)
        except LocalProtocolError as error:
            self._is_muted = True
            self.end(error.described)
        self._move_ready_frames()

    def flush(self) -> None:
        """Send what was settled, and go on with what waited for it."""
        self._write_out()
        if not self._queue:
            self._silence.last_active = self._loop_time()
        if not self._is_held:
            return
        if self._holds & Hold.IN_FLIGHT and self._in_flight_weight < SESSION_WEIGHT_MAX:
            self._release(Hold.IN_FLIGHT)
        self._close_when_answered()

    def _leave_queue(self, run: Run) -> None:
        head = self._queue.popleft()
        while isinstance(head, bytes):
            # Ready frames are left at the head only where nobody is told any more.
            assert self._is_muted
            head = self._queue.popleft()
        assert head is run, "runs are settled in the order of their submission"
        self._in_flight_weight -= run.weight
        assert self._in_flight_weight >= 0

    def _move_ready_frames(self) -> None:
        while self._queue and isinstance(self._queue[0], bytes) and not self._is_muted:
            frame = self._queue.popleft()
            assert isinstance(frame, bytes)
            self._in_flight_weight -= frame_weight(frame)
            self._out.append(frame)
