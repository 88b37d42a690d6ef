"""Zstd streams: what is well-formed is read, all else refused, always within the limit."""

from __future__ import annotations

import os

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from vaylix_protocol import ErrorCode, RemoteProtocolError
from vaylix_protocol._compression import PIECES_MAX, WINDOW_BYTES_MAX, Compressor, Decompressor

MAGIC = bytes.fromhex("28b52ffd")
LIMIT = 100_000


def decompress(payload: bytes, bytes_max: int = LIMIT) -> bytes:
    return Decompressor().decompress(payload, bytes_max)


def code_of(payload: bytes, bytes_max: int = LIMIT) -> ErrorCode:
    with pytest.raises(RemoteProtocolError) as caught:
        decompress(payload, bytes_max)
    return caught.value.error_code


def check_harmless(payload: bytes) -> None:
    """Check that the outcome is some content within the limit, or one of the two errors."""
    try:
        outcome: object = len(decompress(payload, 500)) <= 500
    except RemoteProtocolError as error:
        outcome = error.error_code
    assert outcome in (True, ErrorCode.TRN_011, ErrorCode.TRN_017)


def skippable(content: bytes, nibble: int = 0) -> bytes:
    return bytes([0x50 + nibble]) + bytes.fromhex("2a4d18") + length32(content) + content


def length32(content: bytes) -> bytes:
    return len(content).to_bytes(4, "little")


def compress(content: bytes, *, size: bool = True, checksum: bool = False) -> bytes:
    return zstandard.ZstdCompressor(
        level=3, write_content_size=size, write_checksum=checksum
    ).compress(content)


def raw_frame(content: bytes, header: bytes) -> bytes:
    """A frame of one raw block behind the given descriptor and fields."""
    return MAGIC + header + ((len(content) << 3) | 1).to_bytes(3, "little") + content


pieces = st.one_of(
    st.builds(
        lambda content, size, checksum: (
            compress(content, size=size, checksum=checksum),
            content,
        ),
        st.binary(max_size=300) | st.binary(max_size=20).map(lambda part: part * 100),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        lambda content, nibble: (skippable(content, nibble), b""),
        st.binary(max_size=20),
        st.integers(0, 15),
    ),
)


@given(st.lists(pieces, min_size=1, max_size=5))
def test_frames_and_skippable_frames_decode_to_their_concatenation(
    parts: list[tuple[bytes, bytes]],
) -> None:
    payload = b"".join(part for part, _ in parts)
    content = b"".join(part for _, part in parts)

    assert decompress(payload) == content
    assert decompress(payload, len(content)) == content
    if content:
        assert code_of(payload, len(content) - 1) is ErrorCode.TRN_017


@given(st.lists(pieces, min_size=1, max_size=3), st.data())
def test_a_stream_cut_inside_a_frame_is_refused(
    parts: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    payload = b"".join(part for part, _ in parts[:-1])
    last = parts[-1][0]
    cut = data.draw(st.integers(1, len(last) - 1))

    assert code_of(payload + last[:cut]) is ErrorCode.TRN_011


@given(pieces, st.binary(min_size=1, max_size=10))
def test_junk_behind_a_frame_is_refused(part: tuple[bytes, bytes], junk: bytes) -> None:
    assert code_of(part[0] + junk) is ErrorCode.TRN_011


@given(pieces, st.integers(0, 400), st.integers(1, 255))
def test_damage_is_refused_or_yields_bytes_within_the_limit(
    part: tuple[bytes, bytes], position: int, damage: int
) -> None:
    payload = bytearray(part[0])
    payload[position % len(payload)] ^= damage
    check_harmless(bytes(payload))


@given(st.binary(max_size=60))
def test_random_bytes_are_refused_or_read_within_the_limit(payload: bytes) -> None:
    for prefix in (b"", MAGIC):
        check_harmless(prefix + payload)


@pytest.mark.parametrize("bytes_max", [0, 1, 255, 256, 300, LIMIT])
def test_the_limit_counts_to_the_byte(bytes_max: int) -> None:
    at_limit, beyond = os.urandom(bytes_max), os.urandom(bytes_max + 1)

    for size in (True, False):
        assert decompress(compress(at_limit, size=size), bytes_max) == at_limit
        assert code_of(compress(beyond, size=size), bytes_max) is ErrorCode.TRN_017


def test_too_much_content_is_reported_as_one_more_than_the_limit() -> None:
    with pytest.raises(RemoteProtocolError, match="1001 bytes exceeds maximum 1000 bytes"):
        decompress(compress(bytes(1_000_000)), 1000)


def test_a_huge_declared_size_costs_no_memory() -> None:
    # One block of one byte, and a content size of an exbibyte.
    lie = raw_frame(b"x", bytes([0xC0 | 0x00, 0x00]) + (2**60).to_bytes(8, "little"))

    assert code_of(lie) is ErrorCode.TRN_011


def test_a_wrong_content_size_is_refused() -> None:
    good = raw_frame(b"abc", bytes([0x20, 3]))

    assert decompress(good) == b"abc"
    assert code_of(raw_frame(b"abc", bytes([0x20, 2]))) is ErrorCode.TRN_011
    assert code_of(raw_frame(b"abc", bytes([0x20, 4]))) is ErrorCode.TRN_011
    assert code_of(raw_frame(b"abc", bytes([0x20, 0]))) is ErrorCode.TRN_011


def test_a_wrong_content_checksum_is_refused() -> None:
    payload = compress(b"abc" * 50, checksum=True)

    assert decompress(payload) == b"abc" * 50
    assert code_of(payload[:-1] + bytes([payload[-1] ^ 1])) is ErrorCode.TRN_011


@pytest.mark.parametrize("descriptor", [0x21, 0x22, 0x23, 0x28])
def test_dictionaries_and_the_reserved_bit_are_refused(descriptor: int) -> None:
    dictionary_id = bytes([1, 0, 0, 0])[: (0, 1, 2, 4)[descriptor & 3]]

    assert code_of(raw_frame(b"abc", bytes([descriptor]) + dictionary_id + b"\x03")) is (
        ErrorCode.TRN_011
    )


def test_the_unused_bit_of_the_descriptor_is_ignored() -> None:
    assert decompress(raw_frame(b"abc", bytes([0x30, 3]))) == b"abc"


def test_windows_are_limited_to_128_mebibytes_before_any_output() -> None:
    # Exponent 17 is 2^27; the mantissa adds eighths of it.
    at_limit = raw_frame(b"abc", bytes([0x00, 17 << 3]))
    beyond = raw_frame(b"abc", bytes([0x00, (17 << 3) | 1]))
    beyond_with_size = raw_frame(b"abc", bytes([0x80, (17 << 3) | 1, 3, 0, 0, 0]))
    single_segment = MAGIC + bytes([0xA0]) + (WINDOW_BYTES_MAX + 1).to_bytes(4, "little")
    bomb = single_segment + (((128 * 1024) << 3) | 2).to_bytes(3, "little") + b"x"

    assert decompress(at_limit) == b"abc"
    assert code_of(beyond) is ErrorCode.TRN_011
    assert code_of(beyond_with_size) is ErrorCode.TRN_011
    assert code_of(bomb, 10) is ErrorCode.TRN_011


def test_content_beyond_the_limit_wins_over_damage_behind_it() -> None:
    payload = compress(bytes(LIMIT + 1)) + b"junk"

    assert code_of(payload) is ErrorCode.TRN_017


@pytest.mark.parametrize("payload", [b"", b"\x28", MAGIC, MAGIC + b"\x20", bytes(20)])
def test_empty_and_headless_input_is_refused(payload: bytes) -> None:
    assert code_of(payload) is ErrorCode.TRN_011


def test_skippable_frames_alone_decode_to_nothing() -> None:
    assert decompress(skippable(b"abc") + skippable(b"", 15)) == b""
    assert code_of(skippable(b"abc")[:-1]) is ErrorCode.TRN_011


def test_own_frames_state_their_size_and_have_no_checksum() -> None:
    payload = Compressor().compress(bytes(5000))
    parameters = zstandard.get_frame_parameters(payload)

    assert parameters.content_size == 5000
    assert not parameters.has_checksum
    assert parameters.dict_id == 0


def test_the_number_of_frames_and_blocks_is_bounded() -> None:
    empty_block, last_block = bytes(3), bytes([1, 0, 0])
    # The frame itself counts as a piece, too.
    at_limit = MAGIC + bytes([0x00, 0x38]) + empty_block * (PIECES_MAX - 2) + last_block
    beyond = MAGIC + bytes([0x00, 0x38]) + empty_block * (PIECES_MAX - 1) + last_block

    assert decompress(at_limit) == b""
    assert code_of(beyond) is ErrorCode.TRN_011
    assert decompress(skippable(b"") * PIECES_MAX) == b""
    assert code_of(skippable(b"") * (PIECES_MAX + 1)) is ErrorCode.TRN_011


def test_a_bomb_of_many_blocks_is_too_large_rather_than_broken() -> None:
    rle_block = (((128 * 1024) << 3) | 2).to_bytes(3, "little") + b"x"

    assert code_of(MAGIC + bytes([0x00, 0x58]) + rle_block * PIECES_MAX) is ErrorCode.TRN_017
