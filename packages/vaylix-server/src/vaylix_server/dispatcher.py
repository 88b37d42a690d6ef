"""What becomes of a request: the checks of a session in their order, then its execution.

The order is observable and is that of protocol spec section 9 (and commands spec 3): deadline,
pipelining into a transaction, rate, payload size, decoding, quotas, AUTH, authentication,
transaction age, maintenance, transaction, permission, execution. The first check that fails
answers, and costs nothing of what stands behind it.

GET and SET make almost all traffic. While nothing is special about a session (it has the global
permission, no transaction is open, no limiter or maintenance is on), most checks cannot fail, and
the session answers runs of them by itself; `reads_at_once` and `writes_at_once` say when.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

import vaylix_protocol as vtp
from vaylix_protocol import (
    ErrorCode,
    ErrorReply,
    InvalidPayload,
    RemoteProtocolError,
    Reply,
    Request,
    error_reply,
)
from vaylix_protocol.replication import WithBody, decode_request
from vaylix_server.access import Permission, Rights
from vaylix_server.prepare import PREPARE, is_write
from vaylix_server.ratelimit import TokenBucket
from vaylix_server.rules import RULES, CommandRule, is_permitted, is_safe_in_maintenance
from vaylix_server.transactions import Transaction
from vaylix_storage.commands import Command, Exec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vaylix_server.services import Services

__all__ = ["Dispatcher", "Outlet"]

_ANONYMOUS: Final = "anonymous"
_QUEUED: Final = vtp.Value(b"QUEUED")
# Length fields and all options of a SET, rounded up.
_SET_OVERHEAD_BYTES_MAX: Final = 32
_REPLICATION: Final = frozenset(
    (
        vtp.ReplicationStatus,
        vtp.ReplicationSnapshot,
        vtp.ReplicationFetch,
        vtp.ReplicationAck,
        vtp.ReplicationVote,
        vtp.ReplicationHeartbeat,
        vtp.ReplicationAppend,
        vtp.ReplicationInstallSnapshot,
    )
)


class Outlet(Protocol):
    """The session, as its dispatcher sees it."""

    def reply(self, request_id: bytes, reply: Reply) -> None:
        """Send a reply behind all earlier ones."""

    def write(self, request_id: bytes, command: Command, payload_bytes: int) -> None:
        """Log and apply a command; its reply follows from the result."""

    def read(self, request_id: bytes, command: Command) -> None:
        """Apply a command that changes nothing, behind every earlier write of this session."""

    def hold_at_barrier(self) -> None:
        """Work on no further request until the one at hand is answered by `release_barrier`."""

    def release_barrier(self, request_id: bytes, reply: Reply) -> None:
        """Send the answer behind all earlier ones and go on."""

    def end(self, reason: str) -> None:
        """Close the connection, behind the replies to all earlier requests."""


class Dispatcher:
    """The protocol state of one session: who it is, its transaction, its token bucket."""

    def __init__(self, services: Services, outlet: Outlet, address: str) -> None:
        self._services = services
        self._outlet = outlet
        self._address = address
        settings = services.settings
        self._transaction: Transaction | None = None
        self._bucket: TokenBucket | None = None
        if settings.requests_per_second is not None:
            self._bucket = TokenBucket(
                rate=settings.requests_per_second,
                burst=settings.burst,
                now=services.loop.time(),
            )
        self.username: str | None = None
        # Without authentication everybody may everything; who did not even send AUTH is nobody.
        self._rights: Rights | None = Rights.everything() if settings.disable_auth else None
        self._rights_revision = services.access.revision
        self.reads_at_once = False
        self.writes_at_once = False
        self._payload_bytes_max = settings.max_request_payload_bytes
        self._judge_short_cuts()

    def refresh_rights(self) -> None:
        """See role changes and dropped users. Called before the requests of every read."""
        services = self._services
        if self._rights_revision == services.access.revision:
            return
        self._rights_revision = services.access.revision
        if self.username is not None and not services.settings.disable_auth:
            self._rights = services.access.rights(self.username)
        self._judge_short_cuts()

    @property
    def is_known(self) -> bool:
        """Whether the client has logged in, or need not."""
        return self._rights is not None

    def handle(self, request: Request) -> None:
        """Check one request in the order of the specification, and execute it or refuse it."""
        services, command = self._services, request.command
        refusal = self._refuse_before_decoding(request)
        if refusal is not None:
            self._reply(request, refusal)
            return
        if request.payload_bytes > self._payload_bytes_max:
            self._outlet.end(f"{ErrorCode.SRV_013.code}: {request.payload_bytes} payload bytes")
            return
        services.metrics.requests += 1
        if services.settings.log_requests:
            self._log_request(request)
        if type(command) in _REPLICATION:
            refusal = self._refuse_replication(command)
        elif isinstance(command, InvalidPayload):
            refusal = error_reply(command.error_code)
        elif not RULES[type(command)].fits(command, services.limits):
            refusal = error_reply(ErrorCode.SRV_013)
        elif isinstance(command, vtp.Auth):
            self._authenticate(request.request_id, command)
            return
        else:
            refusal = self._refuse_session(command)
        if refusal is not None:
            self._reply(request, refusal)
        elif not isinstance(command, InvalidPayload):
            self._run(request, command)

    def _refuse_before_decoding(self, request: Request) -> ErrorReply | None:
        metadata = request.metadata
        if metadata.deadline_ms == 0:
            return error_reply(ErrorCode.TRN_016)
        if self._transaction is not None and metadata.sequence is not None:
            return error_reply(
                ErrorCode.TRN_018,
                detail="pipelined requests are not supported inside transactions",
            )
        if self._bucket is not None and not self._bucket.take(self._services.loop.time()):
            return error_reply(ErrorCode.SRV_012)
        return None

    def _refuse_replication(self, command: vtp.Command | InvalidPayload) -> ErrorReply:
        if self._rights is None:
            return error_reply(ErrorCode.SRV_007)
        if not self._rights.permits_globally(Permission.ADMIN):
            return error_reply(ErrorCode.SRV_017)
        if isinstance(command, WithBody):
            try:
                decode_request(command)
            except RemoteProtocolError as error:
                return ErrorReply(error.error_code.code, error.error_code.title, error.message)
        # A node that stands alone has no peers to talk to.
        return error_reply(ErrorCode.SRV_016)

    def _refuse_session(self, command: vtp.Command) -> ErrorReply | None:
        """Check what concerns the state of the session and the node, not the rights."""
        services = self._services
        if self._rights is None and not isinstance(command, vtp.Ping):
            services.metrics.auth_failures += 1
            return error_reply(ErrorCode.SRV_007)
        lifetime = services.settings.transaction_max_seconds
        if self._transaction is not None and self._transaction.is_older_than(
            lifetime, services.loop.time()
        ):
            self._transaction = None
            self._judge_short_cuts()
            services.metrics.transactions_discarded += 1
            services.metrics.transactions_timed_out += 1
            return error_reply(ErrorCode.SRV_034, seconds=lifetime)
        rule = RULES[type(command)]
        if services.in_maintenance and not is_safe_in_maintenance(rule, command):
            return error_reply(ErrorCode.SRV_033)
        return None

    def _run(self, request: Request, command: vtp.Command) -> None:
        """Execute a command of a session that may send one, or queue it."""
        control = _CONTROL.get(type(command))
        if control is not None:
            control(self, request)
            return
        rule = RULES[type(command)]
        refusal = self._refuse_queueing(request, rule)
        if refusal is None and self._rights is not None:
            permitted = is_permitted(rule, command, self._rights)
            refusal = None if permitted else error_reply(ErrorCode.SRV_017)
        if refusal is not None:
            self._reply(request, refusal)
            return
        transaction = self._transaction
        if self._services.slow_commands.knows(command):
            self._start_slow(request, command)
            return
        prepare = PREPARE.get(type(command))
        if prepare is None:
            self._reply(request, self._diagnose(command))
            return
        if isinstance(command, vtp.Ping) and transaction is None:
            # Nothing of the node's state is asked for, so it need not wait for a write.
            pong = b"PONG" if command.message is None else command.message
            self._reply(request, vtp.Value(pong))
            return
        prepared = prepare(command)
        if transaction is not None:
            transaction.add(prepared, request.payload_bytes, is_write=is_write(prepared))
            self._reply(request, _QUEUED)
        elif is_write(prepared):
            self._outlet.write(request.request_id, prepared, request.payload_bytes)
        else:
            self._outlet.read(request.request_id, prepared)

    def _refuse_queueing(self, request: Request, rule: CommandRule) -> ErrorReply | None:
        """Check whether an open transaction, if there is one, can take the command."""
        transaction = self._transaction
        if transaction is None:
            return None
        if not transaction.has_room_for(request.payload_bytes):
            return error_reply(ErrorCode.SRV_013)
        return None if rule.in_transaction else error_reply(ErrorCode.SRV_016)

    def _start_slow(self, request: Request, command: vtp.Command) -> None:
        outlet = self._outlet
        outlet.hold_at_barrier()
        self._services.slow_commands.start(
            command,
            self.username or "",
            lambda reply: outlet.release_barrier(request.request_id, reply),
        )

    def _diagnose(self, command: vtp.Command) -> Reply:
        """Answer what is neither data nor transaction."""
        diagnostics = self._services.diagnostics
        if isinstance(command, vtp.Info):
            return diagnostics.info()
        if isinstance(command, vtp.Metrics):
            return diagnostics.metrics()
        if isinstance(command, vtp.MetricsProm):
            return diagnostics.exposition()
        if isinstance(command, vtp.Health):
            return diagnostics.health()
        if isinstance(command, vtp.WhoAmI):
            if self.username is None or self._rights is None:
                return error_reply(ErrorCode.SRV_007)
            return diagnostics.whoami(self.username, self._rights)
        return error_reply(ErrorCode.SRV_016)

    def begin_transaction(self, request: Request) -> None:
        """Answer MULTI."""
        if self._transaction is not None:
            self._reply(request, error_reply(ErrorCode.SRV_014))
            return
        services = self._services
        self._transaction = Transaction(
            started=services.loop.time(), queue_max=services.settings.max_transaction_queue_len
        )
        self._judge_short_cuts()
        services.metrics.transactions_begun += 1
        self._reply(request, vtp.Ok())

    def discard_transaction(self, request: Request) -> None:
        """Answer DISCARD."""
        if self._transaction is None:
            self._reply(request, error_reply(ErrorCode.SRV_015))
            return
        self._transaction = None
        self._judge_short_cuts()
        self._services.metrics.transactions_discarded += 1
        self._reply(request, vtp.Ok())

    def execute_transaction(self, request: Request) -> None:
        """Answer EXEC, which ends the transaction whatever comes of it."""
        transaction = self._transaction
        if transaction is None:
            self._reply(request, error_reply(ErrorCode.SRV_015))
            return
        self._transaction = None
        self._judge_short_cuts()
        command = Exec(tuple(transaction.commands))
        if transaction.has_writes:
            self._outlet.write(request.request_id, command, transaction.queued_bytes)
        else:
            self._outlet.read(request.request_id, command)

    def _authenticate(self, request_id: bytes, command: vtp.Auth) -> None:
        services = self._services
        if services.settings.disable_auth:
            self.username = _ANONYMOUS
            services.metrics.auth_successes += 1
            self._outlet.reply(request_id, vtp.Ok())
            return

        def answer(refusal: ErrorReply | None) -> None:
            if refusal is None:
                self.username = command.username
                self._rights = services.access.rights(command.username)
                self._judge_short_cuts()
            reply = vtp.Ok() if refusal is None else refusal
            self._outlet.release_barrier(request_id, reply)

        self._outlet.hold_at_barrier()
        services.authenticator.authenticate(
            command.username, command.password, self._address, answer
        )

    def _judge_short_cuts(self) -> None:
        """Decide whether GET and SET need none of the checks but those of their size."""
        settings, rights = self._services.settings, self._rights
        limits = self._services.limits
        plain = (
            rights is not None
            and self._transaction is None
            and self._bucket is None
            and not settings.log_requests
            # A request within its quotas is then within the payload limit, too.
            and limits.key_bytes_max + limits.value_bytes_max + _SET_OVERHEAD_BYTES_MAX
            <= settings.max_request_payload_bytes
        )
        self.reads_at_once = (
            plain and rights is not None and rights.permits_globally(Permission.READ)
        )
        self.writes_at_once = (
            plain
            and rights is not None
            and rights.permits_globally(Permission.WRITE)
            and not self._services.in_maintenance
        )

    def _reply(self, request: Request, reply: Reply) -> None:
        self._outlet.reply(request.request_id, reply)

    def _log_request(self, request: Request) -> None:
        self._services.log.info(
            "server.connection",
            f"peer={self._address} request_id={UUID(bytes=request.request_id)} "
            f"opcode={type(request.command).__name__}",
        )


_CONTROL: Mapping[type[vtp.Command], Callable[[Dispatcher, Request], None]] = MappingProxyType(
    {
        vtp.Multi: Dispatcher.begin_transaction,
        vtp.Exec: Dispatcher.execute_transaction,
        vtp.Discard: Dispatcher.discard_transaction,
    }
)
