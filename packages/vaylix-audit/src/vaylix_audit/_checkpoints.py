"""Checkpoints: signed statements of how far the log had come, in a file of their own.

One line each, in exactly the form that `encode_checkpoint` gives it; anything else is refused. The
signature is made over the line without the signature, behind a prefix that no other message has.
Only the newest one counts: by the chain it vouches for every record before it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from vaylix_audit._chain import ChainHead, Line, has_unwritten_sector, split_lines
from vaylix_audit._json import JsonError, JsonObject, encode_json, parse_json
from vaylix_audit.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

__all__ = [
    "KEY_BYTES",
    "SIGNATURE_BYTES_MAX",
    "Checkpoint",
    "CheckpointScan",
    "HmacSigner",
    "Signer",
    "encode_checkpoint",
    "scan_checkpoints",
    "sign_checkpoint",
]

KEY_BYTES: Final = 32
SIGNATURE_BYTES_MAX: Final = 1024
# A signature of that size in hexadecimal fits, and the rest.
_LINE_BYTES_MAX: Final = 4096
_PREFIX: Final = b"vaylix audit checkpoint\n"
_VERSION: Final = 1


class Signer(Protocol):
    """Signs checkpoints, and knows its own signatures."""

    @property
    def algorithm(self) -> str:
        """Name that each checkpoint carries, such as `hmac-sha256`."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message, at most `SIGNATURE_BYTES_MAX` long."""
        ...

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Say whether this is a signature of the message by this signer, now or formerly."""
        ...


class HmacSigner:
    """Signs with HMAC-SHA-256: who knows the key can sign as well as verify.

    Keys have 32 bytes and must serve nothing else. `former_keys` are accepted, but sign no more.
    """

    __slots__ = ("_keys",)

    def __init__(self, key: bytes, *, former_keys: Sequence[bytes] = ()) -> None:
        self._keys = (bytes(key), *(bytes(former) for former in former_keys))
        if any(len(known) != KEY_BYTES for known in self._keys):
            raise ValueError(f"a key has {KEY_BYTES} bytes")

    @property
    def algorithm(self) -> str:
        """Name that each checkpoint carries."""
        return "hmac-sha256"

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message, 32 bytes."""
        return hmac.digest(self._keys[0], message, "sha256")

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Say whether one of the keys has signed the message."""
        return any(
            hmac.compare_digest(hmac.digest(key, message, "sha256"), signature)
            for key in self._keys
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The log was on the disk up to `head` at `timestamp_ms` (Unix time), says the signature."""

    head: ChainHead
    timestamp_ms: int
    algorithm: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class CheckpointScan:
    """What a file of checkpoints holds.

    `newest` begins at byte `newest_offset`; the whole checkpoints end at `end`, which counts the
    newline of the newest even where `lacks_newline` says that it is missing. `is_torn`: something
    unfinished follows.
    """

    newest: Checkpoint | None
    newest_offset: int
    end: int
    lacks_newline: bool
    is_torn: bool


def sign_checkpoint(head: ChainHead, timestamp_ms: int, signer: Signer) -> Checkpoint:
    """Make a checkpoint of this place."""
    unsigned = Checkpoint(head, timestamp_ms, signer.algorithm, b"")
    signature = signer.sign(_message(unsigned))
    assert len(signature) <= SIGNATURE_BYTES_MAX, "this signature could not be read again"
    return Checkpoint(head, timestamp_ms, signer.algorithm, signature)


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return the line of a checkpoint, with its newline."""
    fields = {**_signed_fields(checkpoint), "signature": checkpoint.signature.hex()}
    return encode_json(fields).encode() + b"\n"


def scan_checkpoints(chunks: Iterable[bytes], signer: Signer, path: Path) -> CheckpointScan:
    """Read and verify all checkpoints, given as pieces of their file in order.

    What a crash can leave of the last one is told, not refused. Raises CheckpointError for a wrong
    signature, for what is no checkpoint, and for one that is behind the one before it.
    """
    newest: Checkpoint | None = None
    newest_offset = end = 0
    lacks_newline = False
    lines = split_lines(chunks, line_bytes_max=_LINE_BYTES_MAX)
    for number, line in enumerate(lines, 1):
        checkpoint = None if line.is_too_long else _decode(line.content)
        if checkpoint is None:
            # Each one is synced before the next is written, so only the last can be unfinished.
            if _looks_torn(line) and next(lines, None) is None:
                return CheckpointScan(newest, newest_offset, end, lacks_newline=False, is_torn=True)
            raise _error(number, "is damaged", path)
        if not _is_signed(checkpoint, signer):
            raise _error(number, "has a wrong signature", path)
        if newest is not None and _is_behind(checkpoint.head, newest.head):
            raise _error(number, "is behind the one before it", path)
        newest, newest_offset, end = checkpoint, line.offset, line.end
        lacks_newline = not line.is_ended
    return CheckpointScan(newest, newest_offset, end, lacks_newline, is_torn=False)


def _signed_fields(checkpoint: Checkpoint) -> dict[str, str | int | dict[str, str] | None]:
    return {
        "checkpoint_version": _VERSION,
        "sequence": checkpoint.head.sequence,
        "event_hash": checkpoint.head.event_hash,
        "log_bytes": checkpoint.head.size_bytes,
        "timestamp_ms": checkpoint.timestamp_ms,
        "signature_algorithm": checkpoint.algorithm,
    }


def _message(checkpoint: Checkpoint) -> bytes:
    return _PREFIX + encode_json(_signed_fields(checkpoint)).encode()


def _is_signed(checkpoint: Checkpoint, signer: Signer) -> bool:
    return checkpoint.algorithm == signer.algorithm and signer.verify(
        _message(checkpoint), checkpoint.signature
    )


def _decode(line: bytes) -> Checkpoint | None:
    """Return the checkpoint of a line, or None if it is not exactly one."""
    try:
        value = parse_json(line.decode())
    except (UnicodeDecodeError, JsonError):
        return None
    if not isinstance(value, JsonObject):
        return None
    match [given for _, given in value.pairs]:
        case [
            _,
            int(sequence),
            str(event_hash),
            int(size_bytes),
            int(timestamp_ms),
            str(algorithm),
            str(signature),
        ]:
            head = ChainHead(sequence, event_hash, size_bytes)
        case _:
            return None
    try:
        checkpoint = Checkpoint(head, timestamp_ms, algorithm, bytes.fromhex(signature))
    except ValueError:
        return None
    # Names, version and spelling are right when writing it again gives the same line.
    return checkpoint if encode_checkpoint(checkpoint) == line + b"\n" else None


def _looks_torn(line: Line) -> bool:
    return not line.is_too_long and (not line.is_ended or has_unwritten_sector(line))


def _is_behind(head: ChainHead, other: ChainHead) -> bool:
    return head.sequence < other.sequence or head.size_bytes < other.size_bytes


def _error(number: int, what: str, path: Path) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {number} {what}",
        path=path,
        remedy="if the signing key was lost or changed, move this file away once the log was "
        "looked at; otherwise somebody has changed it",
    )
