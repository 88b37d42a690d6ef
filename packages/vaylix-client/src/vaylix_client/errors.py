"""Every error that this package raises: one hierarchy, one class per decision a caller makes.

Each error carries the catalogue's `code` and `name` (server spec section 12), the full `message`,
and `retryable`: whether the same call may be repeated and can be expected to succeed some time.

What an interruption means is decided by one question, whether bytes of the request left:

- `NotSentError`: none left. Nothing happened; repeating is safe.
- `OutcomeUnknownError`: some left and no answer came. A write may or may not have been applied.
- `ServerError`: the server answered, with an error. Nothing was applied, except where the class is
  an `OutcomeUnknownError` too (`UnconfirmedError`).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

from vaylix_protocol import ErrorCode, LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vaylix_protocol import ErrorReply
    from vaylix_protocol.grammar import Conflict

__all__ = [
    "AlreadyExistsError",
    "AuthenticationError",
    "AuthenticationLockedError",
    "BackupError",
    "CallTimeoutError",
    "ClientError",
    "ConfigurationError",
    "ConnectError",
    "InvalidCallError",
    "InvalidIntegerError",
    "InvalidPermissionError",
    "LastAdminError",
    "MaintenanceModeError",
    "NotFoundError",
    "NotLeaderError",
    "NotSentError",
    "NotSentTimeoutError",
    "NumericOverflowError",
    "OutcomeUnknownError",
    "PasswordPolicyError",
    "PermissionDeniedError",
    "PromotionDeniedError",
    "ProtectedRoleError",
    "QuotaExceededError",
    "RateLimitedError",
    "ServerError",
    "StorageError",
    "TransactionExpiredError",
    "TransactionStateError",
    "UnconfirmedError",
    "UnsupportedCommandError",
]


class ClientError(Exception):
    """Anything that went wrong in this package. Never raised itself, only its subclasses."""

    def __init__(self, code: str, name: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(f"[{code}] {name}: {message}")
        self.code = code
        self.name = name
        self.message = message
        self.retryable = retryable

    @classmethod
    def of(cls, code: ErrorCode, message: str, *, retryable: bool = False) -> Self:
        """Return the error for a code of the catalogue."""
        return cls(code.code, code.title, message, retryable=retryable)

    def __str__(self) -> str:
        # Spelled out because TimeoutError, a base of two classes below, has its own idea of it.
        return f"[{self.code}] {self.name}: {self.message}"

    def __reduce__(
        self,
    ) -> tuple[type[ClientError], tuple[str, str, str], dict[str, object]]:
        # Errors cross process borders in test runners and worker pools.
        return type(self), (self.code, self.name, self.message), dict(self.__dict__)


class ConfigurationError(ClientError, ValueError):
    """The URL or an option is unusable.

    CLI-008, or CLI-003 for a URL that does not parse, a name that no host can have and a
    certificate file that cannot be used.
    """


class InvalidCallError(ClientError, ValueError):
    """The arguments of a call cannot be put on the wire. Nothing was sent."""


class ConnectError(ClientError):
    """No connection came about: refused, unreachable, TLS or hello failed, or too slow."""


class NotSentError(ClientError):
    """Interrupted before any byte of the request left; nothing happened, repeating is safe."""


class NotSentTimeoutError(NotSentError, TimeoutError):
    """The time of the call ran out while it still waited for its turn to be sent."""


class OutcomeUnknownError(ClientError):
    """Outcome unknown: the request left, its answer did not come.

    `retryable` is true when the command only reads, since repeating it cannot do harm.
    """


class CallTimeoutError(OutcomeUnknownError, TimeoutError):
    """Outcome unknown: no answer within the time of the call."""


class ServerError(ClientError):
    """The server answered with an error. Codes without a class of their own raise this one."""


class AuthenticationError(ServerError):
    """SRV-007 no identity yet; SRV-008 wrong user or password."""


class AuthenticationLockedError(AuthenticationError):
    """SRV-031 too many failures; locked out for a while."""


class PermissionDeniedError(ServerError):
    """SRV-017 the identity lacks the permission."""


class RateLimitedError(ServerError):
    """SRV-012 too many requests on this connection; nothing was done."""


class QuotaExceededError(ServerError):
    """SRV-013 a key, value, batch or transaction is larger than the server allows."""


class TransactionStateError(ServerError):
    """SRV-014 already open; SRV-015 none open."""


class TransactionExpiredError(ServerError):
    """SRV-034 the transaction was open for too long and is gone."""


class UnsupportedCommandError(ServerError):
    """SRV-016, ENG-017 not possible here, for instance inside a transaction."""


class InvalidPermissionError(ServerError):
    """SRV-018 no such permission."""


class AlreadyExistsError(ServerError):
    """SRV-019 user, SRV-021 role: the name is taken."""


class NotFoundError(ServerError):
    """SRV-020 user, SRV-022 role: no such name. A missing key is a result, not an error."""


class ProtectedRoleError(ServerError):
    """SRV-023 a built-in role cannot be changed."""


class LastAdminError(ServerError):
    """SRV-024 somebody must remain who may administer."""


class PasswordPolicyError(ServerError):
    """SRV-032 the new password is too weak."""


class BackupError(ServerError):
    """SRV-027 path refused; SRV-029 backup damaged; ENG-004, ENG-009 dump not readable."""


class MaintenanceModeError(ServerError):
    """SRV-033 the server is in maintenance mode."""


class NotLeaderError(ServerError):
    """SRV-037 this node is a follower; write to the leader."""


class PromotionDeniedError(ServerError):
    """SRV-038 the follower cannot be promoted."""


class InvalidIntegerError(ServerError):
    """ENG-015 INCR or DECR of a value that is no integer."""


class NumericOverflowError(ServerError):
    """ENG-016 INCR or DECR beyond 64 bits."""


class StorageError(ServerError):
    """ENG-011, SRV-004, SRV-025, SRV-026 the server's storage failed."""


class UnconfirmedError(ServerError, OutcomeUnknownError):
    """Outcome unknown: ENG-002, SRV-005, SRV-035, SRV-036, the server could not confirm a write.

    It may have been applied, or may still be.
    """


_CLASSES: Final[Mapping[ErrorCode, type[ServerError]]] = MappingProxyType(
    {
        ErrorCode.SRV_004: StorageError,
        ErrorCode.SRV_005: UnconfirmedError,
        ErrorCode.SRV_007: AuthenticationError,
        ErrorCode.SRV_008: AuthenticationError,
        ErrorCode.SRV_012: RateLimitedError,
        ErrorCode.SRV_013: QuotaExceededError,
        ErrorCode.SRV_014: TransactionStateError,
        ErrorCode.SRV_015: TransactionStateError,
        ErrorCode.SRV_016: UnsupportedCommandError,
        ErrorCode.SRV_017: PermissionDeniedError,
        ErrorCode.SRV_018: InvalidPermissionError,
        ErrorCode.SRV_019: AlreadyExistsError,
        ErrorCode.SRV_020: NotFoundError,
        ErrorCode.SRV_021: AlreadyExistsError,
        ErrorCode.SRV_022: NotFoundError,
        ErrorCode.SRV_023: ProtectedRoleError,
        ErrorCode.SRV_024: LastAdminError,
        ErrorCode.SRV_025: StorageError,
        ErrorCode.SRV_026: StorageError,
        ErrorCode.SRV_027: BackupError,
        ErrorCode.SRV_029: BackupError,
        ErrorCode.SRV_031: AuthenticationLockedError,
        ErrorCode.SRV_032: PasswordPolicyError,
        ErrorCode.SRV_033: MaintenanceModeError,
        ErrorCode.SRV_034: TransactionExpiredError,
        ErrorCode.SRV_035: UnconfirmedError,
        ErrorCode.SRV_036: UnconfirmedError,
        ErrorCode.SRV_037: NotLeaderError,
        ErrorCode.SRV_038: PromotionDeniedError,
        ErrorCode.ENG_002: UnconfirmedError,
        ErrorCode.ENG_004: BackupError,
        ErrorCode.ENG_009: BackupError,
        ErrorCode.ENG_011: StorageError,
        ErrorCode.ENG_015: InvalidIntegerError,
        ErrorCode.ENG_016: NumericOverflowError,
        ErrorCode.ENG_017: UnsupportedCommandError,
    }
)

_CATALOGUE: Final[Mapping[str, ErrorCode]] = MappingProxyType(
    {error_code.code: error_code for error_code in ErrorCode}
)


def server_error(reply: ErrorReply) -> ServerError:
    """Return the exception for an error reply, by its code. Unknown codes are not retryable."""
    known = _CATALOGUE.get(reply.code)
    if known is None:
        return ServerError(reply.code, reply.name, reply.message)
    error_class = _CLASSES.get(known, ServerError)
    message = reply.message
    if issubclass(error_class, OutcomeUnknownError):
        message = f"{message} (outcome unknown)"
    return error_class(reply.code, reply.name, message, retryable=known.retryable)


def in_transport(message: str) -> str:
    """Return the message of a failure on the way, as the published client words it."""
    return f"transport failure: {message}"


def configuration_error(why: str) -> ConfigurationError:
    """CLI-008 with `why` as the tail of its message."""
    return ConfigurationError.of(ErrorCode.CLI_008, ErrorCode.CLI_008.message(detail=why))


def url_error(why: str) -> ConfigurationError:
    """CLI-003 for a URL that does not parse, or whose host cannot be one (commands spec 12.3)."""
    return ConfigurationError.of(ErrorCode.CLI_003, ErrorCode.CLI_003.message(err=why))


def unusable_file(what: str, remedy: str | None = None) -> ConfigurationError:
    """CLI-003 for a file that the caller named: what is wrong with it, and what would help."""
    return url_error(what if remedy is None else f"{what}; {remedy}")


def connect_error(why: str) -> ConnectError:
    """CLI-003: the operating system did not give us a connection, for the reason `why`."""
    return ConnectError.of(ErrorCode.CLI_003, ErrorCode.CLI_003.message(err=why), retryable=True)


def transport_error(why: str, *, retryable: bool = True) -> ConnectError:
    """TRN-013: the connection failed before it could be used, for the reason `why`."""
    code = ErrorCode.TRN_013
    return ConnectError.of(code, in_transport(code.message(err=why)), retryable=retryable)


def option_conflict(command: str, why: Conflict) -> InvalidCallError:
    """CMD-006: options of one call that exclude each other."""
    return InvalidCallError.of(ErrorCode.CMD_006, why.message(command))


def unsendable(cause: Exception) -> InvalidCallError:
    """Return the error for a command that could not be encoded because of `cause`."""
    code = cause.error_code if isinstance(cause, LocalProtocolError) else ErrorCode.TRN_008
    error = InvalidCallError.of(code, in_transport(f"{cause} (not sent)"))
    error.__cause__ = cause
    return error
