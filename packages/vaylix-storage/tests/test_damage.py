"""Damage to a log: every byte flipped, every length cut, files lost or moved.

Goal: damage is detected, with file and offset, or it is harmless; it is never silently other data
and never an exception of another kind; and what refuses to open has not been changed.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from vaylix_storage import Batch, HardState, Keyring, Log, LogOptions, RecoveryOutcome
from vaylix_storage._format import SegmentCipher, SegmentHeader, encode_body
from vaylix_storage._segment import SegmentWriter
from vaylix_storage.errors import (
    CorruptionError,
    ForeignFormatError,
    KeyringError,
    LogPoisonedError,
)
from vaylix_storage.testing import MemoryVfs, counting_random_bytes, fixed_keyring

DIRECTORY = Path("/data/wal")
OPTIONS = LogOptions(timeline=b"t" * 16, segment_bytes_max=600)


def open_log(vfs: MemoryVfs, options: LogOptions = OPTIONS) -> Log:
    return Log.open(
        DIRECTORY,
        vfs=vfs,
        keyring=fixed_keyring(),
        options=options,
        random_bytes=counting_random_bytes(),
    )


def make_batch(first_index: int) -> Batch:
    return Batch.create(
        first_index=first_index, count=1, term=1, kind=1, timestamp_ms=9, payload=b"p" * 90
    )


BATCHES = [make_batch(index) for index in range(1, 7)]

Files = dict[Path, bytes]


def written_files(*, clean: bool) -> Files:
    """Return a log of two segments, stopped cleanly or not."""
    vfs = MemoryVfs()
    log = open_log(vfs)
    log.append(BATCHES[:1], HardState(1, b"me", 0))
    log.sync()
    for batch in BATCHES[1:]:
        log.append([batch])
        log.sync()
    assert log.segment_count == 3
    if clean:
        log.close()
    return files_of(vfs)


def files_of(vfs: MemoryVfs) -> Files:
    paths = [DIRECTORY / name for name in vfs.list_directory(DIRECTORY)]
    return {path: vfs.content(path) for path in paths}


def disk_with(files: Files) -> MemoryVfs:
    vfs = MemoryVfs()
    vfs.make_directory(DIRECTORY)
    for path, content in files.items():
        file = vfs.create(path)
        file.write_at(0, content)
        file.sync()
    vfs.sync_directory(DIRECTORY)
    return vfs


def check_report(error: CorruptionError, files: Files) -> None:
    assert error.path is not None
    assert error.offset is not None
    assert error.path in files
    assert 0 <= error.offset <= max(map(len, files.values()))
    assert error.remedy


def open_damaged(files: Files) -> list[Batch] | None:
    """Return what a damaged log holds, or None when the damage was detected and reported."""
    vfs = disk_with(files)
    try:
        log = open_log(vfs)
    except CorruptionError as error:
        check_report(error, files)
        assert files_of(vfs) == files, "a log that does not open must not be changed"
        return None
    held = list(log.read(1))
    assert list(log.read(1)) == held, "the segments hold something else"
    return held


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("flip", [0xFF, 0x01, 0x80])
def test_every_flipped_byte_is_detected(*, clean: bool, flip: int) -> None:
    files = written_files(clean=clean)
    for path, content in files.items():
        for offset in range(len(content)):
            damaged = bytearray(content)
            damaged[offset] ^= flip
            found = open_damaged({**files, path: bytes(damaged)})
            assert found is None, f"{path} at byte {offset}: the damage was not detected"


def test_every_flipped_byte_of_reserved_space_is_harmless_or_detected() -> None:
    files = written_files(clean=False)
    path = DIRECTORY / "active-5.wal"
    content = files[path] + bytes(1100)
    for offset in range(len(files[path]), len(content)):
        damaged = bytearray(content)
        damaged[offset] = 0x41
        assert open_damaged({**files, path: bytes(damaged)}) in (None, BATCHES)


def test_every_zeroed_sector_is_detected_once_it_was_synced() -> None:
    """Zeros look like a torn write; that a later frame vouches for them tells them apart."""
    files = written_files(clean=False)
    for path, content in files.items():
        last_frame_sector = (len(content) - 160) // 512
        for sector in range(last_frame_sector):
            damaged = bytearray(content)
            damaged[sector * 512 : (sector + 1) * 512] = bytes(512)
            assert open_damaged({**files, path: bytes(damaged)}) is None


@pytest.mark.parametrize("clean", [True, False])
def test_every_cut_length_is_detected_or_leaves_a_prefix(*, clean: bool) -> None:
    files = written_files(clean=clean)
    # What a segment has before it gets its name: the header, and a frame with the hard state.
    start_bytes = 256 + 16 + 8 + 17 + len(b"me") + 16 + 5
    assert start_bytes % 16 == 0
    for path, content in files.items():
        newest = path.name in {"active-5.wal", "closed-5-6.wal"}
        for length in range(len(content)):
            found = open_damaged({**files, path: content[:length]})
            if clean or not newest or length < start_bytes:
                assert found is None, f"{path} cut to {length} bytes was not detected"
            else:
                assert found is None or found == BATCHES[: len(found)]


def test_a_cut_that_cannot_be_known_is_reported() -> None:
    files = written_files(clean=False)
    path = DIRECTORY / "active-5.wal"
    report = open_log(disk_with({**files, path: files[path][:-1]})).recovery
    assert report.outcome is RecoveryOutcome.TORN_TAIL
    assert report.left_out_path == path


@pytest.mark.parametrize("clean", [True, False])
def test_a_missing_segment_is_detected(*, clean: bool) -> None:
    files = written_files(clean=clean)
    for path in files:
        if not clean and path.name == "active-5.wal":
            continue
        others = {name: content for name, content in files.items() if name != path}
        assert open_damaged(others) is None, f"the loss of {path} was not detected"


def test_a_segment_under_another_name_is_detected() -> None:
    files = written_files(clean=True)
    first = min(files)
    moved = {(DIRECTORY / "2-3.wal" if path == first else path): files[path] for path in files}
    assert open_damaged(moved) is None


def test_a_copied_segment_is_detected() -> None:
    files = written_files(clean=True)
    first = min(files)
    assert open_damaged({**files, DIRECTORY / "active-9.wal": files[first]}) is None


def test_swapped_frames_are_detected() -> None:
    """Frames of equal length, both authentic, in each other's place."""
    vfs = MemoryVfs()
    log = open_log(vfs, LogOptions(timeline=b"t" * 16))
    log.append([], HardState(1, b"", 0))
    for batch in BATCHES[:3]:
        log.append([batch])
        log.sync()
    files = files_of(vfs)
    path = DIRECTORY / "active-1.wal"
    content = files[path]
    size = 16 + 8 + 37 + 90 + 16
    size += 16 - size % 16
    last, middle = content[-size:], content[-2 * size : -size]
    swapped = content[: -2 * size] + last + middle
    assert open_damaged({path: swapped}) is None
    dropped = content[: -2 * size] + last
    assert open_damaged({path: dropped}) is None


def test_bytes_behind_the_closing_frame_are_detected() -> None:
    files = written_files(clean=True)
    newest = DIRECTORY / "closed-5-6.wal"
    assert open_damaged({**files, newest: files[newest] + b"x"}) is None


def test_other_files_are_ignored() -> None:
    names = ("next.tmp", "active-01.wal", "+1-2.wal", "1-.wal", "notes.txt", "active-7.wal.bak")
    files = written_files(clean=True)
    extra = {DIRECTORY / name: b"whatever" for name in names}
    assert list(open_log(disk_with({**files, **extra})).read(1)) == BATCHES


def large_frames() -> tuple[Path, bytes, list[int]]:
    """Return a newest segment of synced frames of 2 KiB, and where these begin."""
    vfs = MemoryVfs()
    log = open_log(vfs, LogOptions(timeline=b"t" * 16))
    path = DIRECTORY / "active-1.wal"
    starts = []
    for index in range(1, 5):
        starts.append(len(vfs.content(path)))
        batch = Batch.create(
            first_index=index, count=1, term=1, kind=1, timestamp_ms=1, payload=bytes(2000)
        )
        log.append([batch])
        log.sync()
    return path, vfs.content(path), starts


@pytest.mark.parametrize("frame", [0, 1, 2])
@pytest.mark.parametrize("sector", [0, 1, 2])
def test_a_blank_sector_that_a_later_frame_vouches_for_is_corruption(
    frame: int, sector: int
) -> None:
    path, content, starts = large_frames()
    place = (starts[frame] // 512 + sector) * 512
    first, last = max(place, starts[frame]), place + 512
    damaged = content[:first] + bytes(last - first) + content[last:]
    with pytest.raises(CorruptionError, match="says was synced") as caught:
        open_log(disk_with({path: damaged}))
    assert caught.value.offset == starts[frame]


@pytest.mark.parametrize("sector", [0, 1, 2])
def test_a_blank_sector_of_the_last_frame_is_a_torn_tail(sector: int) -> None:
    path, content, starts = large_frames()
    place = (starts[3] // 512 + sector) * 512
    first, last = max(place, starts[3]), place + 512
    damaged = content[:first] + bytes(last - first) + content[last:]
    log = open_log(disk_with({path: damaged + bytes(1000)}))
    assert log.last_index == 3
    assert log.recovery.outcome is RecoveryOutcome.TORN_TAIL
    assert log.recovery.left_out_offset == starts[3]
    assert log.recovery.left_out_bytes == len(content) - starts[3]


def test_a_length_beyond_every_limit_is_corruption_before_anything_is_read() -> None:
    path, content, starts = large_frames()
    cipher = SegmentCipher(fixed_keyring().key(b"k" * 16), content[64:96])
    start = struct.pack("<IQ", 2**31, 0)
    crc = zlib.crc32(content[64:96] + struct.pack("<Q", starts[3]) + start)
    forged = content[: starts[3]] + start + struct.pack("<I", crc)
    assert cipher.parse_frame_header(forged[-16:], starts[3]) is not None
    with pytest.raises(CorruptionError, match="beyond every limit"):
        open_log(disk_with({path: forged + b"x" * 5000}))


def test_what_was_carried_over_cannot_be_cut_off() -> None:
    """It was on the disk before the segment got its name, so its loss is damage, not a crash."""
    vfs = MemoryVfs()
    log = open_log(vfs)
    log.append(BATCHES[:2])
    vfs.kill()
    log = open_log(vfs)
    assert log.recovery.recopied_frames == 1
    assert vfs.list_directory(DIRECTORY) == ["active-1.wal"]
    files = files_of(vfs)
    path, content = next(iter(files.items()))
    for length in range(len(content)):
        assert open_damaged({path: content[:length]}) is None


def with_frames(bodies: list[bytes]) -> Files:
    """Return a log whose frames are authentic, whatever is in them."""
    keyring = fixed_keyring()
    header = SegmentHeader(1, 1, b"t" * 16, keyring.active_key_id, b"n" * 32, None)
    cipher = SegmentCipher(keyring.key(header.key_id), header.salt)
    vfs = MemoryVfs()
    vfs.make_directory(DIRECTORY)
    path = DIRECTORY / "active-1.wal"
    writer = SegmentWriter(vfs.create(path), header, cipher)
    for body in bodies:
        writer.append(body)
    return {path: vfs.content(path)}


@pytest.mark.parametrize(
    ("bodies", "reason"),
    [
        ([b"nonsense"], "malformed"),
        ([encode_body([make_batch(1)]), encode_body([make_batch(3)])], "entry 3 follows entry 1"),
        ([encode_body([make_batch(2)])], "entry 2 follows entry 0"),
        ([encode_body([Batch(1, 1, 1, 1, 1, b"x", 0)])], "checksum of batch 1"),
    ],
)
def test_authentic_frames_that_make_no_sense_are_refused(bodies: list[bytes], reason: str) -> None:
    with pytest.raises(CorruptionError, match=reason):
        open_log(disk_with(with_frames(bodies)))


def test_two_segments_of_one_number_are_refused_unless_they_are_the_same() -> None:
    """A rename that is half undone leaves both names, on one content."""
    files = written_files(clean=True)
    whole = files[DIRECTORY / "1-2.wal"]
    twin = DIRECTORY / "active-1.wal"
    assert open_damaged({**files, twin: whole}) == open_damaged(files)
    for other in (whole[:-1], whole + bytes(1), whole[:-1] + b"x"):
        assert open_damaged({**files, twin: other}) is None


def test_a_log_that_does_not_begin_at_its_beginning_is_refused() -> None:
    keyring = fixed_keyring()
    header = SegmentHeader(1, 7, b"t" * 16, keyring.active_key_id, b"n" * 32, None)
    vfs = MemoryVfs()
    vfs.make_directory(DIRECTORY)
    cipher = SegmentCipher(keyring.key(header.key_id), header.salt)
    SegmentWriter(vfs.create(DIRECTORY / "active-7.wal"), header, cipher)
    with pytest.raises(CorruptionError, match="entries 1 to 6 are missing"):
        open_log(vfs)


def test_a_segment_of_a_later_version_is_refused() -> None:
    files = written_files(clean=True)
    path = DIRECTORY / "1-2.wal"
    header = files[path][:8] + b"\x05" + files[path][9:252]
    changed = header + struct.pack("<I", zlib.crc32(header)) + files[path][256:]
    with pytest.raises(ForeignFormatError, match="version 5"):
        open_log(disk_with({**files, path: changed}))


@pytest.mark.parametrize("offset", [16, 24, 32, 64, 96, 104, 112, 128, 235])
def test_a_header_that_was_altered_with_care_is_refused(offset: int) -> None:
    """The CRC can be made to fit again; the tag cannot."""
    files = written_files(clean=True)
    path = DIRECTORY / "3-4.wal"
    header = bytearray(files[path][:252])
    header[offset] ^= 1
    changed = bytes(header) + struct.pack("<I", zlib.crc32(header)) + files[path][256:]
    assert open_damaged({**files, path: changed}) is None


def test_a_segment_of_another_life_of_the_directory_is_refused() -> None:
    """Same number, same indexes, same lengths, authentic, but not what the successor follows."""
    lives = []
    for seed, payload in ((1, b"a"), (2, b"b")):
        vfs = MemoryVfs()
        log = Log.open(
            DIRECTORY,
            vfs=vfs,
            keyring=fixed_keyring(),
            options=OPTIONS,
            random_bytes=counting_random_bytes(seed),
        )
        for index in range(1, 4):
            log.append(
                [
                    Batch.create(
                        first_index=index,
                        count=1,
                        term=1,
                        kind=1,
                        timestamp_ms=1,
                        payload=payload * 200,
                    )
                ]
            )
        log.close()
        lives.append(files_of(vfs))
    first = min(lives[0])
    assert open_damaged({**lives[0], first: lives[1][first]}) is None


def test_damage_after_the_start_is_found_when_it_is_read() -> None:
    vfs = disk_with(written_files(clean=True))
    log = open_log(vfs)
    path = DIRECTORY / "1-2.wal"
    content = bytearray(vfs.content(path))
    content[400] ^= 1
    vfs.overwrite(path, bytes(content))
    assert list(log.read(1)) == BATCHES, "the start had them in memory"
    with pytest.raises(CorruptionError) as caught:
        list(log.read(1))
    assert caught.value.path == path
    assert list(log.read(3)) == BATCHES[2:]


def test_a_log_of_another_history_is_refused() -> None:
    vfs = disk_with(written_files(clean=True))
    with pytest.raises(ForeignFormatError) as caught:
        open_log(vfs, LogOptions(timeline=b"u" * 16))
    assert caught.value.path is not None


def test_a_log_of_an_unknown_key_is_refused_unchanged() -> None:
    files = written_files(clean=False)
    vfs = disk_with(files)
    with pytest.raises(KeyringError):
        Log.open(
            DIRECTORY, vfs=vfs, keyring=Keyring(b"x" * 16, {b"x" * 16: b"y" * 32}), options=OPTIONS
        )
    assert files_of(vfs) == files


def test_a_log_of_the_right_key_id_but_another_key_is_refused_unchanged() -> None:
    files = written_files(clean=False)
    vfs = disk_with(files)
    with pytest.raises(CorruptionError):
        Log.open(
            DIRECTORY, vfs=vfs, keyring=Keyring(b"k" * 16, {b"k" * 16: b"y" * 32}), options=OPTIONS
        )
    assert files_of(vfs) == files


@pytest.mark.parametrize("sessions", [1, 2, 3])
@pytest.mark.parametrize("clean", [True, False])
def test_a_lost_newest_segment_is_detected(*, sessions: int, clean: bool) -> None:
    """Each clean stop left a closing frame, which must not pass for the end of the log later."""
    vfs = MemoryVfs()
    for session in range(sessions + 1):
        log = open_log(vfs)
        log.append([make_batch(session + 1)])
        log.sync()
        if clean or session < sessions:
            log.close()
    files = files_of(vfs)
    (newest,) = (path for path in files if not path.name[0].isdigit())
    del files[newest]
    with pytest.raises(CorruptionError, match="the segment that followed this one is missing"):
        open_log(disk_with(files))


def test_a_log_that_has_begun_and_is_gone_is_not_a_fresh_start() -> None:
    vfs = MemoryVfs()
    options = LogOptions(timeline=b"t" * 16, must_exist=True)
    with pytest.raises(CorruptionError, match="the log of this node is missing"):
        open_log(vfs, options)
    assert not vfs.exists(DIRECTORY), "nothing is created where something is missing"
    vfs.make_directory(DIRECTORY)
    with pytest.raises(CorruptionError, match="the log of this node is missing"):
        open_log(vfs, options)


def test_an_interrupt_in_the_middle_of_a_write_stops_the_log() -> None:
    """The frame may be there; another one in its place would use its nonce again."""
    vfs = InterruptedVfs()
    log = open_log(vfs)
    log.append([make_batch(1)])
    log.sync()
    vfs.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        log.append([make_batch(2)])
    with pytest.raises(LogPoisonedError):
        log.append([make_batch(2)])
    log.close()
    assert [batch.first_index for batch in open_log(vfs).read(1)] in ([1], [1, 2])


class InterruptedVfs(MemoryVfs):
    """A disk during whose writes somebody presses Ctrl-C."""

    interrupt = False

    def _count_call(self) -> None:
        super()._count_call()
        if self.interrupt:
            self.interrupt = False
            raise KeyboardInterrupt
