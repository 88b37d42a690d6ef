"""The encoding of prepared commands: stable, compact, and safe against anything."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vaylix_storage.commands import (
    U64_MAX,
    Clear,
    Command,
    Count,
    DbSize,
    Decr,
    Del,
    Exec,
    Exists,
    Expire,
    Get,
    GetDel,
    GetEx,
    Incr,
    List,
    MGet,
    MSet,
    Persist,
    Ping,
    Rename,
    RenameNx,
    RestoreBegin,
    RestoreChunk,
    RestoreCommit,
    Scan,
    Set,
    SetCondition,
    SetNx,
    SetOptions,
    Ttl,
    decode_commands,
    encode_commands,
)
from vaylix_storage.errors import CommandEncodingError

# These bytes are on disks: a change here is a change of the storage format.
GOLDEN: list[tuple[Command, str]] = [
    (Set(b"k", b"v"), "9401c4016bc40176c0"),
    (
        Set(b"k", b"v", SetOptions(SetCondition.XX, 1500, False, True, 7)),
        "9401c4016bc401769502cd05dcc2c307",
    ),
    (SetNx(b"k", b"v"), "9302c4016bc40176"),
    (GetDel(b"k"), "9203c4016b"),
    (GetEx(b"k", U64_MAX, persist=True), "9404c4016bcfffffffffffffffffc3"),
    (Del((b"k", b"l")), "920592c4016bc4016c"),
    (MSet(((b"k", b"v"),)), "92069192c4016bc40176"),
    (Incr(b"k"), "9207c4016b"),
    (Decr(b"k"), "9208c4016b"),
    (Expire(b"k", 1), "9309c4016b01"),
    (Persist(b"k"), "920ac4016b"),
    (Rename(b"k", b"l"), "930bc4016bc4016c"),
    (RenameNx(b"k", b"l"), "930cc4016bc4016c"),
    (Clear(), "910d"),
    (Get(b"k"), "9220c4016b"),
    (Exists(b"k"), "9221c4016b"),
    (MGet((b"k",)), "922291c4016b"),
    (Ttl(b"k"), "9223c4016b"),
    (Scan(0, b"*", 3), "942400c4012a03"),
    (DbSize(), "9125"),
    (Count(), "9126"),
    (List(), "9127"),
    (Ping(b"m"), "9228c4016d"),
    (Exec((Incr(b"k"), Get(b"k"))), "9240929207c4016b9220c4016b"),
    (RestoreBegin(b"id"), "9241c4026964"),
    (
        RestoreChunk(b"id", ((b"k", b"v", U64_MAX, 0), (b"l", b"", 1, 1500))),
        "9342c40269649294c4016bc40176cfffffffffffffffff0094c4016cc40001cd05dc",
    ),
    (RestoreCommit(b"id", 2), "9343c402696402"),
]


@pytest.mark.parametrize(("command", "encoded"), GOLDEN)
def test_encodings_never_change(command: Command, encoded: str) -> None:
    payload = bytes.fromhex("91" + encoded)
    assert encode_commands([command]) == payload
    assert decode_commands(payload, 1) == [command]


def test_a_plain_set_costs_little_more_than_its_key_and_value() -> None:
    assert len(encode_commands([Set(b"k" * 10, b"v" * 20)])) == 1 + 30 + 7


def test_a_restore_is_no_part_of_a_transaction() -> None:
    begin = encode_commands([RestoreBegin(b"id")])[1:]
    for payload in (b"\x91\x92\x40\x91" + begin, b"\x91\x92\x41\x01"):
        with pytest.raises(CommandEncodingError):
            decode_commands(payload, 1)


def test_a_list_of_another_length_is_refused() -> None:
    payload = encode_commands([Incr(b"k"), Incr(b"k")])
    for count in (0, 1, 3):
        with pytest.raises(CommandEncodingError):
            decode_commands(payload, count)
    assert decode_commands(encode_commands([]), 0) == []


@settings(max_examples=300, deadline=None)
@given(payload=st.binary(max_size=60))
@example(payload=b"")
@example(payload=bytes.fromhex("91924091" + "9240" * 10 + "90"))
@example(payload=bytes.fromhex("9191ff"))
@example(payload=bytes.fromhex("919309c4016bff"))
@example(payload=bytes.fromhex("919240919241c400"))
def test_garbage_is_commands_or_an_encoding_error(payload: bytes) -> None:
    try:
        commands = decode_commands(payload, 1)
    except CommandEncodingError:
        return
    assert len(commands) == 1
