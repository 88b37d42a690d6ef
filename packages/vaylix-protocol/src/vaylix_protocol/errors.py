"""The error catalogue, and the exceptions of this package.

Codes and names are a contract with every client (server spec section 12). A code says what went
wrong; its `Aftermath` says what a client may do about it, which decides about retries:

- FINAL: asking again gives the same answer. Nothing was changed.
- RETRY: nothing was changed, and the same request may succeed later or at another node.
- UNKNOWN: the request may or may not have been executed. Repeating a read is harmless, repeating
  a write is for the caller to decide.

TRN-007 and TRN-013 are how a lost connection looks from inside, so they are UNKNOWN for requests
that wait for their reply. As the code of an error *reply*, TRN-007 means that the payload of the
request was cut short, and nothing was executed.
"""

from __future__ import annotations

import enum
from typing import Final, Self

from vaylix_protocol._replies import ErrorReply

__all__ = [
    "Aftermath",
    "CommandError",
    "ErrorCode",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "error_reply",
    "errors_markdown",
]


class Aftermath(enum.Enum):
    """What an error leaves behind, and so what a client may do next."""

    FINAL = "final"
    RETRY = "retry"
    UNKNOWN = "unknown"


_RETRY: Final = Aftermath.RETRY
_UNKNOWN: Final = Aftermath.UNKNOWN


class ErrorCode(enum.Enum):
    """Every code that a server, a client or the command language can report.

    `code` is the text on the wire, `title` the name that goes with it, `template` the message
    with its fields in braces.
    """

    code: str
    title: str
    template: str
    aftermath: Aftermath

    def __init__(
        self, code: str, title: str, template: str, aftermath: Aftermath = Aftermath.FINAL
    ) -> None:
        self.code = code
        self.title = title
        self.template = template
        self.aftermath = aftermath

    CMD_001 = ("CMD-001", "Empty Command", "empty command")
    CMD_002 = ("CMD-002", "Unknown Command", "unknown command: {command}")
    CMD_003 = ("CMD-003", "Invalid Command Arity", "usage: {usage}")
    CMD_004 = ("CMD-004", "Invalid Integer Argument", "invalid integer for {field}: {value}")
    CMD_005 = ("CMD-005", "Invalid Command Option", "invalid option for {command}: {option}")
    CMD_006 = (
        "CMD-006",
        "Conflicting Command Options",
        "conflicting options for {command}: {detail}",
    )
    CMD_007 = ("CMD-007", "Expected Opening Quote", "expected opening quote")
    CMD_008 = (
        "CMD-008",
        "Unterminated Quoted String",
        "unterminated quoted string starting at byte {start}",
    )
    ENG_001 = (
        "ENG-001",
        "Project Directories Unavailable",
        "could not determine project directories",
    )
    ENG_002 = ("ENG-002", "Filesystem I/O Failure", "filesystem I/O failed: {err}", _UNKNOWN)
    ENG_003 = (
        "ENG-003",
        "Snapshot Serialization Failure",
        "snapshot serialization failed: {detail}",
    )
    ENG_004 = (
        "ENG-004",
        "Snapshot Deserialization Failure",
        "snapshot deserialization failed: {detail}",
    )
    ENG_005 = (
        "ENG-005",
        "Manifest Serialization Failure",
        "manifest serialization failed: {detail}",
    )
    ENG_006 = (
        "ENG-006",
        "Manifest Deserialization Failure",
        "manifest deserialization failed: {detail}",
    )
    ENG_007 = (
        "ENG-007",
        "Checksum Validation Failure",
        "checksum validation failed for {resource}",
    )
    ENG_008 = (
        "ENG-008",
        "Encrypted Storage Failure",
        "encrypted storage operation failed for {resource}",
    )
    ENG_009 = ("ENG-009", "Unsupported Storage Format", "unsupported storage format for {resource}")
    ENG_010 = (
        "ENG-010",
        "Storage Migration Required",
        "storage migration is required for {resource}",
    )
    ENG_011 = ("ENG-011", "Invalid Storage Operation", "invalid storage operation: {detail}")
    ENG_012 = ("ENG-012", "Restore Point Unavailable", "restore point is unavailable: {detail}")
    ENG_013 = (
        "ENG-013",
        "WAL Serialization Failure",
        "write-ahead log serialization failed: {detail}",
    )
    ENG_014 = (
        "ENG-014",
        "WAL Deserialization Failure",
        "write-ahead log deserialization failed: {detail}",
    )
    ENG_015 = (
        "ENG-015",
        "Invalid Integer Value",
        "value for key '{key}' is not a valid integer: {value}",
    )
    ENG_016 = ("ENG-016", "Numeric Overflow", "numeric overflow for key '{key}'")
    ENG_017 = ("ENG-017", "Unsupported Command", "command is not supported inside transactions")
    TRN_001 = ("TRN-001", "Invalid Frame", "invalid frame")
    TRN_002 = ("TRN-002", "Unknown Opcode", "unknown opcode: 0x{opcode:02x}")
    TRN_003 = ("TRN-003", "Unknown Status", "unknown status: 0x{status:02x}")
    TRN_004 = ("TRN-004", "Unsupported Command", "unsupported command for transport: {what}")
    TRN_005 = (
        "TRN-005",
        "Version Mismatch",
        "protocol version mismatch: expected {expected}, got {actual}",
    )
    TRN_006 = (
        "TRN-006",
        "Frame Too Large",
        "frame too large: {length} bytes exceeds maximum {maximum} bytes",
    )
    TRN_007 = ("TRN-007", "Unexpected End Of Frame", "unexpected end of input", _UNKNOWN)
    TRN_008 = ("TRN-008", "Corrupted Payload", "corrupted payload")
    TRN_009 = (
        "TRN-009",
        "Checksum Mismatch",
        "frame checksum mismatch: expected 0x{expected:08X}, got 0x{actual:08X}",
    )
    TRN_010 = ("TRN-010", "Unsupported Frame Flags", "unsupported frame flags: 0x{flags:02x}")
    TRN_011 = ("TRN-011", "Compression Failure", "frame compression failure")
    TRN_012 = ("TRN-012", "Invalid UTF-8 Payload", "invalid utf-8 in payload")
    TRN_013 = ("TRN-013", "Transport I/O Failure", "i/o error: {err}", _UNKNOWN)
    TRN_014 = ("TRN-014", "Protocol Negotiation Failed", "protocol negotiation failed: {detail}")
    TRN_015 = (
        "TRN-015",
        "Transport Capability Mismatch",
        "transport capability mismatch: {detail}",
    )
    TRN_016 = ("TRN-016", "Request Deadline Exceeded", "request deadline exceeded")
    TRN_017 = (
        "TRN-017",
        "Decompressed Frame Too Large",
        "decompressed frame too large: {length} bytes exceeds maximum {maximum} bytes",
    )
    TRN_018 = ("TRN-018", "Protocol State Violation", "protocol state violation: {detail}")
    SRV_001 = ("SRV-001", "Listener Bind Failure", "failed to bind TCP listener: {err}")
    SRV_002 = ("SRV-002", "Connection Accept Failure", "failed to accept client connection: {err}")
    SRV_003 = ("SRV-003", "Connection Slot Pool Closed", "connection slot pool is closed", _RETRY)
    SRV_004 = ("SRV-004", "Filesystem I/O Failure", "filesystem I/O failed: {err}")
    SRV_005 = ("SRV-005", "Engine Worker Closed", "engine worker is unavailable", _UNKNOWN)
    SRV_006 = ("SRV-006", "Engine Lock Poisoned", "engine lock is poisoned")
    SRV_007 = ("SRV-007", "Authentication Required", "client authentication is required")
    SRV_008 = ("SRV-008", "Authentication Failed", "client authentication failed")
    SRV_009 = (
        "SRV-009",
        "Authentication Configuration Invalid",
        "server authentication configuration is invalid",
    )
    SRV_010 = ("SRV-010", "TLS Configuration Invalid", "TLS configuration is invalid")
    SRV_011 = ("SRV-011", "TLS Handshake Failure", "TLS handshake failed: {err}")
    SRV_012 = ("SRV-012", "Rate Limit Exceeded", "request rate limit exceeded", _RETRY)
    SRV_013 = ("SRV-013", "Quota Exceeded", "request exceeds configured quotas")
    SRV_014 = (
        "SRV-014",
        "Transaction Already Active",
        "transaction already active for this session",
    )
    SRV_015 = ("SRV-015", "No Active Transaction", "no active transaction for this session")
    SRV_016 = ("SRV-016", "Unsupported Remote Command", "unsupported remote command")
    SRV_017 = ("SRV-017", "Permission Denied", "permission denied")
    SRV_018 = ("SRV-018", "Invalid Permission", "unknown permission: {name}")
    SRV_019 = ("SRV-019", "User Already Exists", "user already exists: {name}")
    SRV_020 = ("SRV-020", "User Not Found", "user not found: {name}")
    SRV_021 = ("SRV-021", "Role Already Exists", "role already exists: {name}")
    SRV_022 = ("SRV-022", "Role Not Found", "role not found: {name}")
    SRV_023 = ("SRV-023", "Protected Role", "role is protected: {name}")
    SRV_024 = ("SRV-024", "Last Admin User", "cannot remove the last admin user")
    SRV_025 = (
        "SRV-025",
        "Auth Store Serialization Failure",
        "auth store serialization failed: {detail}",
    )
    SRV_026 = (
        "SRV-026",
        "Auth Store Deserialization Failure",
        "auth store deserialization failed: {detail}",
    )
    SRV_027 = (
        "SRV-027",
        "Backup Path Rejected",
        "backup path is outside the configured backup directory: {path}",
    )
    SRV_028 = (
        "SRV-028",
        "Audit Chain Verification Failure",
        "audit log hash chain verification failed: {detail}",
    )
    SRV_029 = ("SRV-029", "Backup Verification Failure", "backup verification failed: {detail}")
    SRV_030 = ("SRV-030", "Invalid Arguments", "invalid command-line arguments: {detail}")
    SRV_031 = (
        "SRV-031",
        "Authentication Locked",
        "authentication lockout active for {username}",
        _RETRY,
    )
    SRV_032 = (
        "SRV-032",
        "Password Policy Violation",
        "password does not satisfy the configured policy",
    )
    SRV_033 = ("SRV-033", "Maintenance Mode Enabled", "maintenance mode is enabled", _RETRY)
    SRV_034 = ("SRV-034", "Transaction Expired", "transaction expired after {seconds} seconds")
    SRV_035 = (
        "SRV-035",
        "Replication Acknowledgement Timeout",
        "replication write acknowledgement timed out for sequence {n} in mode {mode}",
        _UNKNOWN,
    )
    SRV_036 = (
        "SRV-036",
        "Replication Acknowledgement Unavailable",
        "replication write acknowledgement is unavailable",
        _UNKNOWN,
    )
    SRV_037 = (
        "SRV-037",
        "Follower Write Rejected",
        "writes are rejected on follower nodes",
        _RETRY,
    )
    SRV_038 = ("SRV-038", "Replication Promotion Denied", "replication promotion denied: {detail}")
    SRV_039 = ("SRV-039", "Healthcheck Failed", "{detail}")
    CLI_003 = ("CLI-003", "Filesystem I/O Failure", "filesystem I/O failed: {err}")
    CLI_004 = ("CLI-004", "Readline Failure", "line editor failure: {err}")
    CLI_005 = (
        "CLI-005",
        "Project Directories Unavailable",
        "could not determine project directories",
    )
    CLI_006 = (
        "CLI-006",
        "Response Id Mismatch",
        "mismatched response id: expected {expected}, got {actual}",
        _UNKNOWN,
    )
    CLI_007 = ("CLI-007", "Local Command Response", "local command should not receive a response")
    CLI_008 = ("CLI-008", "Invalid Client Configuration", "invalid client configuration: {detail}")

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later, or elsewhere, without doing harm."""
        return self.aftermath is Aftermath.RETRY

    @property
    def outcome_unknown(self) -> bool:
        """Whether a request that ended so may have been executed all the same."""
        return self.aftermath is Aftermath.UNKNOWN

    def message(self, **fields: object) -> str:
        """Fill in the template; a missing field is a KeyError, that is, a bug of the caller."""
        return self.template.format(**fields)

    def describe(self, message: str) -> str:
        """Code, name and message in the form that users know: `[CODE] Name: message`."""
        return f"[{self.code}] {self.title}: {message}"


class ProtocolError(Exception):
    """Base of all exceptions of this package. Abstract: raise one of the three below."""

    def __init__(self, error_code: ErrorCode, message: str) -> None:
        if type(self) is ProtocolError:
            raise TypeError("ProtocolError is abstract")
        super().__init__(message)
        self.error_code = error_code
        self.message = message

    @classmethod
    def of(cls, error_code: ErrorCode, **fields: object) -> Self:
        """Create the error with the message of the catalogue."""
        return cls(error_code, error_code.message(**fields))

    def __reduce__(self) -> tuple[type[Self], tuple[ErrorCode, str]]:
        return type(self), (self.error_code, self.message)

    @property
    def described(self) -> str:
        """Code, name and message in the form that users know: `[CODE] Name: message`."""
        return self.error_code.describe(self.message)


class LocalProtocolError(ProtocolError):
    """This end asked for something that the protocol forbids; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer violated the protocol, or was lost in the middle of something."""


class CommandError(ProtocolError):
    """A command line could not be understood (CMD codes)."""


_ENGINE_PREFIX: Final = "engine failure: "


def error_reply(error_code: ErrorCode, **fields: object) -> ErrorReply:
    """Return the reply for a failed request. Engine codes get the prefix `engine failure: `."""
    message = error_code.message(**fields)
    if error_code.code.startswith("ENG-"):
        message = _ENGINE_PREFIX + message
    return ErrorReply(error_code.code, error_code.title, message)


def errors_markdown() -> str:
    """Render the catalogue as a Markdown table, for the documentation."""
    rows = ["| Code | Name | Message | Aftermath |", "| --- | --- | --- | --- |"]
    for error_code in ErrorCode:
        template = error_code.template.replace("|", "\\|")
        rows.append(
            f"| {error_code.code} | {error_code.title} | `{template}` "
            f"| {error_code.aftermath.value} |"
        )
    return "\n".join(rows) + "\n"
