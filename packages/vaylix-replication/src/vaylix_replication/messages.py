"""The messages between nodes, and their encoding.

A message is a msgspec Struct laid out as an array with a numeric tag; on the wire it follows one
byte that names the version of the encoding:

    0x01 | MessagePack array: tag, cluster_id, sender, term, fields of the kind in order

Every message carries the group, its sender and the sender's term (VTP replication 19.15). It does
not name its recipient: the same append goes to several peers and is encoded once. Decoding checks
types, ranges and lengths before anything is built, and the checksum of every batch.
"""

from typing import Annotated

import msgspec

from vaylix_replication._batch import Batch, Identifier, Number, check_name
from vaylix_replication._limits import BATCHES_MAX, CHUNK_BYTES_MAX
from vaylix_replication.errors import InvalidNameError, MalformedMessageError
from vaylix_replication.ports import SnapshotMeta

__all__ = [
    "Append",
    "AppendReply",
    "Heartbeat",
    "HeartbeatReply",
    "InstallSnapshot",
    "InstallSnapshotReply",
    "Message",
    "PreVote",
    "PreVoteReply",
    "ReadIndex",
    "ReadIndexReply",
    "TimeoutNow",
    "Vote",
    "VoteReply",
    "decode_message",
    "encode_message",
]

_VERSION = b"\x01"


class _Message(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    gc=False,
    kw_only=True,
):
    cluster_id: Identifier
    sender: Identifier
    term: Number


class PreVote(_Message, frozen=True, tag=1, kw_only=True):
    """Would you vote for me in `term`? Changes nobody's term (dissertation 9.6)."""

    last_index: Number
    last_term: Number


class PreVoteReply(_Message, frozen=True, tag=2, kw_only=True):
    """Granted: `term` is the one asked for. Refused: `term` is the sender's own."""

    granted: bool


class Vote(_Message, frozen=True, tag=3, kw_only=True):
    """Vote for me in `term`. `forced`: the leader itself asked for this election."""

    last_index: Number
    last_term: Number
    forced: bool


class VoteReply(_Message, frozen=True, tag=4, kw_only=True):
    """The answer to `Vote`; a granted one has been made durable first.

    `time_ms` is the latest time that the sender has heard: what it helped to confirm for the
    leaders before, the next one goes on from.
    """

    granted: bool
    time_ms: Number


class Append(_Message, frozen=True, tag=5, kw_only=True):
    """Batches behind `prev_index`, whose term and checksum identify all before it.

    `round` numbers the leader's confirmations of its leadership; `time_ms` is its time.
    """

    prev_index: Number
    prev_term: Number
    prev_checksum: Number
    batches: Annotated[tuple[Batch, ...], msgspec.Meta(max_length=BATCHES_MAX)]
    commit: Number
    round: Number
    time_ms: Number


class AppendReply(_Message, frozen=True, tag=6, kw_only=True):
    """Accepted: all up to `index` equals the leader's log and is durable.

    Refused: nothing fits at `index`, the request's `prev_index`; the largest place where it may
    fit is `hint_index`, where the sender has `hint_term`.
    """

    accepted: bool
    index: Number
    round: Number
    semantics_version_max: Number
    hint_index: Number = 0
    hint_term: Number = 0


class Heartbeat(_Message, frozen=True, tag=7, kw_only=True):
    """I still lead. `commit` is one the recipient has acknowledged; `commit_term` proves it."""

    commit: Number
    commit_term: Number
    round: Number
    time_ms: Number


class HeartbeatReply(_Message, frozen=True, tag=8, kw_only=True):
    """The sender knew no newer term when it saw `round`. Vouches for nothing durable."""

    round: Number
    semantics_version_max: Number


class InstallSnapshot(_Message, frozen=True, tag=9, kw_only=True):
    """A piece of the snapshot `meta`; an empty piece asks how much the recipient has."""

    meta: SnapshotMeta
    offset_bytes: Number
    data: Annotated[bytes, msgspec.Meta(max_length=CHUNK_BYTES_MAX)]
    round: Number
    time_ms: Number


class InstallSnapshotReply(_Message, frozen=True, tag=10, kw_only=True):
    """The sender has `received_bytes` of the snapshot and wants what follows.

    A complete one is acknowledged by an `AppendReply` once it is installed and durable.
    """

    index: Number
    snapshot_id: Annotated[bytes, msgspec.Meta(max_length=64)]
    received_bytes: Number
    round: Number
    semantics_version_max: Number


class TimeoutNow(_Message, frozen=True, tag=11, kw_only=True):
    """Start an election at once: the sender hands leadership over (dissertation 3.10)."""


class ReadIndex(_Message, frozen=True, tag=12, kw_only=True):
    """A follower asks from which index on it may answer a read (dissertation 6.4).

    `question` is a number that the sender has never used before, in no life.
    """

    question: Number


class ReadIndexReply(_Message, frozen=True, tag=13, kw_only=True):
    """The read of `question` sees everything once `index` is applied; refused if not `granted`."""

    question: Number
    granted: bool
    index: Number
    time_ms: Number


Message = (
    PreVote
    | PreVoteReply
    | Vote
    | VoteReply
    | Append
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | InstallSnapshot
    | InstallSnapshotReply
    | TimeoutNow
    | ReadIndex
    | ReadIndexReply
)


def encode_message(message: Message) -> bytes:
    """Return the bytes of a message, without any framing."""
    return _VERSION + msgspec.msgpack.encode(message)


def decode_message(data: bytes) -> Message:
    """Read one whole message; raises `MalformedMessageError` for any other bytes."""
    if data[:1] != _VERSION:
        raise MalformedMessageError("the encoding of the message is of another version")
    try:
        message: Message = msgspec.msgpack.decode(memoryview(data)[1:], type=Message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessageError(str(error)) from error
    if not (message.sender.isascii() and message.cluster_id.isascii()):
        _check_names(message)
    if isinstance(message, Append):
        _check_batches(message)
    return message


def _check_names(message: Message) -> None:
    """Refuse names that have more bytes than characters, and too many of them."""
    try:
        check_name(message.sender)
        check_name(message.cluster_id)
    except InvalidNameError as error:
        raise MalformedMessageError(str(error)) from error


def _check_batches(message: Append) -> None:
    """Refuse batches that do not follow each other, or whose payload does not fit its checksum."""
    index, term = message.prev_index, message.prev_term
    for batch in message.batches:
        if batch.first_index != index + 1 or not term <= batch.term <= message.term:
            raise MalformedMessageError("the batches of an append do not follow each other")
        if not batch.verify():
            raise MalformedMessageError("a batch does not fit its checksum")
        index, term = batch.last_index, batch.term
