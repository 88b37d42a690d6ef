"""What a segment writes into space that is reserved ahead, seen from its file."""

from __future__ import annotations

from vaylix_storage._format import HEADER_BYTES, SegmentCipher, SegmentHeader
from vaylix_storage._segment import FrameReader, SegmentWriter
from vaylix_storage.testing import fixed_keyring

SALT = bytes(32)
KEY_ID = b"k" * 16
RESERVED = 4 * 1024 * 1024
ZEROED = 256 * 1024


class RecordingFile:
    """A file in memory that notes its writes and how much of it was reserved or ever written."""

    def __init__(self, *, can_reserve: bool = True) -> None:
        self.content = bytearray()
        self.can_reserve = can_reserve
        self.reserved_end = 0
        self.written_end = 0
        # Writes into space that was never written, which cost more than others.
        self.first_writes = 0

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(self.content[offset : offset + size])

    def write_at(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if end > self.written_end:
            self.first_writes += 1
            self.written_end = end
        self.content.extend(bytes(max(0, end - len(self.content))))
        self.content[offset:end] = data

    def size(self) -> int:
        return len(self.content)

    def allocate(self, offset: int, size: int) -> bool:
        if self.can_reserve:
            self.reserved_end = offset + size
        return self.can_reserve

    def give_back(self, size: int) -> None:
        del self.content[size:]

    def sync(self) -> None:
        """Nothing to do: there is no disk."""

    def close(self) -> None:
        """Nothing to do."""


def make_writer(file: RecordingFile) -> tuple[SegmentWriter, SegmentCipher]:
    cipher = SegmentCipher(fixed_keyring().key(KEY_ID), SALT)
    return SegmentWriter(file, SegmentHeader(1, 1, b"t" * 16, KEY_ID, SALT, None), cipher), cipher


def test_writes_seldom_meet_space_that_was_only_reserved() -> None:
    """Such a write costs its sync a commit of the file system's journal."""
    file = RecordingFile()
    writer, _ = make_writer(file)
    for _ in range(2000):
        writer.append(bytes(4000))
        assert writer.position.offset <= file.written_end <= file.reserved_end
        assert file.written_end - writer.position.offset <= ZEROED
    # Doubling from the first frame to a quarter MiB, then one for each of those.
    assert file.first_writes <= 8 + 2000 * 4100 // ZEROED + 1 + 2000 * 4100 // RESERVED + 1


def test_a_small_segment_writes_no_more_zeros_than_it_holds() -> None:
    file = RecordingFile()
    writer, _ = make_writer(file)
    for _ in range(20):
        writer.append(b"x")
        assert file.written_end <= 2 * writer.position.offset


def test_large_frames_write_nothing_ahead() -> None:
    file = RecordingFile()
    writer, _ = make_writer(file)
    for _ in range(20):
        writer.append(bytes(ZEROED // 4))
        assert file.written_end == writer.position.offset
    writer.append(bytes(4000))
    assert file.written_end > writer.position.offset


def test_nothing_is_written_ahead_where_nothing_can_be_reserved() -> None:
    """Zeros could fill a disk that the frame alone would fit on."""
    file = RecordingFile(can_reserve=False)
    writer, _ = make_writer(file)
    for _ in range(20):
        writer.append(bytes(4000))
        assert file.written_end == writer.position.offset


def test_zeros_end_with_the_reserved_space() -> None:
    file = RecordingFile()
    writer, _ = make_writer(file)
    file.reserved_end = 0
    while not file.reserved_end:
        writer.append(bytes(60_000))
    first_end = file.reserved_end
    while file.reserved_end == first_end:
        assert file.written_end <= first_end
        writer.append(bytes(60_000))


def test_what_was_written_over_zeros_is_read_back_up_to_the_end() -> None:
    file = RecordingFile()
    writer, cipher = make_writer(file)
    start = writer.position
    bodies = [bytes([number]) * (number * 500) for number in range(1, 100)]
    for body in bodies:
        writer.append(body)
    assert start.offset == HEADER_BYTES
    assert file.written_end > writer.position.offset
    reader = FrameReader(file, cipher, start, file.size())
    read: list[bytes] = []
    while (frame := reader.next_frame()) is not None:
        read.append(frame.body)
    assert read == bodies
    assert reader.damage is None
    assert reader.position == writer.position
