"""The encoding of messages: everything comes back, and nothing else gets in."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaylix_replication import Batch, Configuration, SnapshotMeta, decode_message, encode_message
from vaylix_replication.errors import MalformedMessageError
from vaylix_replication.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    PreVote,
    PreVoteReply,
    ReadIndex,
    ReadIndexReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from vaylix_replication.testing.solo import make_batches

NUMBER = st.integers(0, 2**63 - 1)
ENVELOPE = {
    "cluster_id": st.text(min_size=1, max_size=20),
    "sender": st.text(min_size=1, max_size=20),
    "term": NUMBER,
}
META = st.builds(
    SnapshotMeta,
    index=NUMBER,
    term=NUMBER,
    checksum=NUMBER,
    configuration=st.sampled_from(
        [Configuration(), Configuration.of_voters({"a": "a:1", "b": "b:1"})]
    ),
    semantics_version=NUMBER,
    snapshot_id=st.binary(max_size=64),
    size_bytes=NUMBER,
)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(PreVote, **ENVELOPE, last_index=NUMBER, last_term=NUMBER),
    st.builds(PreVoteReply, **ENVELOPE, granted=st.booleans()),
    st.builds(Vote, **ENVELOPE, last_index=NUMBER, last_term=NUMBER, forced=st.booleans()),
    st.builds(VoteReply, **ENVELOPE, granted=st.booleans(), time_ms=NUMBER),
    st.builds(
        AppendReply,
        **ENVELOPE,
        accepted=st.booleans(),
        index=NUMBER,
        round=NUMBER,
        semantics_version_max=NUMBER,
        hint_index=NUMBER,
        hint_term=NUMBER,
    ),
    st.builds(
        Heartbeat, **ENVELOPE, commit=NUMBER, commit_term=NUMBER, round=NUMBER, time_ms=NUMBER
    ),
    st.builds(HeartbeatReply, **ENVELOPE, round=NUMBER, semantics_version_max=NUMBER),
    st.builds(
        InstallSnapshot,
        **ENVELOPE,
        meta=META,
        offset_bytes=NUMBER,
        data=st.binary(max_size=100),
        round=NUMBER,
        time_ms=NUMBER,
    ),
    st.builds(
        InstallSnapshotReply,
        **ENVELOPE,
        index=NUMBER,
        snapshot_id=st.binary(max_size=64),
        received_bytes=NUMBER,
        round=NUMBER,
        semantics_version_max=NUMBER,
    ),
    st.builds(TimeoutNow, **ENVELOPE),
    st.builds(ReadIndex, **ENVELOPE, question=NUMBER),
    st.builds(
        ReadIndexReply,
        **ENVELOPE,
        question=NUMBER,
        granted=st.booleans(),
        index=NUMBER,
        time_ms=NUMBER,
    ),
)


def make_append(payload: bytes = b"value", count: int = 3) -> Append:
    batches = tuple(
        Batch.create(first_index=8 + n, term=4, kind=1, payload=payload) for n in range(count)
    )
    return Append(
        cluster_id="group",
        sender="a",
        term=5,
        prev_index=7,
        prev_term=4,
        prev_checksum=99,
        batches=batches,
        commit=7,
        round=1,
        time_ms=10,
    )


@given(MESSAGES)
@settings(max_examples=300)
def test_every_message_comes_back(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_garbage_is_refused_and_nothing_worse(data: bytes) -> None:
    for candidate in (data, b"\x01" + data):
        try:
            decode_message(candidate)
        except MalformedMessageError:
            continue


def test_every_truncation_and_every_flipped_bit_is_refused_or_read_as_a_message() -> None:
    data = encode_message(make_append())
    for length in range(len(data)):
        with pytest.raises(MalformedMessageError):
            decode_message(data[:length])
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        try:
            message = decode_message(bytes(flipped))
        except MalformedMessageError:
            continue
        assert isinstance(message, Append)
        assert message.batches == make_append().batches or message.batches == ()


def test_a_damaged_batch_is_refused() -> None:
    append = make_append()
    damaged = msgspec.structs.replace(append.batches[1], payload=b"other")
    batches = (append.batches[0], damaged, append.batches[2])
    with pytest.raises(MalformedMessageError, match="checksum"):
        decode_message(encode_message(msgspec.structs.replace(append, batches=batches)))


@pytest.mark.parametrize(
    "batches",
    [
        make_batches([4], first_index=9),
        make_batches([3], first_index=8),
        make_batches([6], first_index=8),
        make_batches([5, 4], first_index=8),
    ],
    ids=["gap", "older than prev", "newer than the leader", "terms fall"],
)
def test_batches_that_do_not_follow_each_other_are_refused(batches: tuple[Batch, ...]) -> None:
    with pytest.raises(MalformedMessageError, match="follow"):
        decode_message(encode_message(msgspec.structs.replace(make_append(), batches=batches)))


@pytest.mark.parametrize("field", ["sender", "cluster_id"])
def test_a_name_has_a_bound_in_bytes(field: str) -> None:
    """The disk has room for a vote of 255 bytes, so a candidate's name must not have more."""
    vote = Vote(cluster_id="g", sender="a", term=7, last_index=300, last_term=6, forced=False)
    longest = msgspec.structs.replace(vote, **{field: "Ä" * 127 + "d"})
    assert decode_message(encode_message(longest)) == longest
    for name in ("", "Ä" * 128, "d" * 256):
        message = msgspec.structs.replace(vote, **{field: name})
        with pytest.raises(MalformedMessageError):
            decode_message(encode_message(message))


def test_the_names_in_a_snapshot_have_a_bound_in_bytes() -> None:
    members = Configuration.of_voters({"d" * 255: ""})
    message = InstallSnapshot(
        cluster_id="g",
        sender="a",
        term=1,
        meta=SnapshotMeta(index=1, term=1, configuration=members),
        offset_bytes=0,
        data=b"",
        round=0,
        time_ms=0,
    )
    data = encode_message(message)
    assert decode_message(data) == message
    longer = b"\xda\x01\x00" + ("Ä" * 128).encode()
    with pytest.raises(MalformedMessageError, match="255 bytes"):
        decode_message(data.replace(b"\xd9\xff" + b"d" * 255, longer))


def test_another_version_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="version"):
        decode_message(b"\x02" + encode_message(make_append())[1:])


@pytest.mark.parametrize(("length", "fits"), [(16 * 1024 * 1024, True), (16 * 1024**2 + 1, False)])
def test_a_payload_has_a_bound(length: int, fits: bool) -> None:
    data = encode_message(make_append(bytes(length), 1))
    if fits:
        decode_message(data)
    else:
        with pytest.raises(MalformedMessageError):
            decode_message(data)


def test_the_bytes_of_a_message_stay_as_they_are() -> None:
    """Nodes of different versions talk to each other: a change of these bytes is a new version."""
    vote = Vote(cluster_id="g", sender="a", term=7, last_index=300, last_term=6, forced=False)
    assert encode_message(vote).hex() == "019703a167a16107cd012c06c2"
    assert len(encode_message(make_append(b"x" * 64, 1))) - 64 < 40
