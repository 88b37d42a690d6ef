"""Checkpoints: their bytes, their signatures, when they are written, and what is refused."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from vaylix_audit import (
    KEY_BYTES,
    SIGNATURE_BYTES_MAX,
    AuditEvent,
    AuditLog,
    HmacSigner,
    LogCheck,
    Signer,
    check_log,
)
from vaylix_audit.errors import AuditError, CheckpointError, Loss, LostRecordsError
from vaylix_audit.testing import MemoryFileSystem

PATH = Path("/data/audit.log")
CHECKPOINTS = Path("/data/audit.checkpoints")
KEY = b"k" * KEY_BYTES


class LongSigner:
    """Signs with a hash that everybody can compute, as long as wanted."""

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def algorithm(self) -> str:
        return "test"

    def sign(self, message: bytes) -> bytes:
        return hashlib.shake_128(message).digest(self.size)

    def verify(self, message: bytes, signature: bytes) -> bool:
        return signature == self.sign(message)


def event(number: int) -> AuditEvent:
    return AuditEvent(event_type="command", timestamp_ms=number)


def open_log(
    system: MemoryFileSystem, signer: Signer | None = None, *, every: int = 1000
) -> AuditLog:
    return AuditLog.open(
        PATH,
        signer=HmacSigner(KEY) if signer is None else signer,
        checkpoint_every=every,
        file_system=system,
        now_ms=lambda: 1234,
    )


def check(system: MemoryFileSystem) -> LogCheck:
    return check_log(PATH, signer=HmacSigner(KEY), file_system=system)


def lines(system: MemoryFileSystem) -> list[bytes]:
    return system.content(CHECKPOINTS).splitlines(keepends=True)


def written(count: int = 3) -> MemoryFileSystem:
    """A log with a checkpoint for each of its records, and one before the first."""
    system = MemoryFileSystem()
    with open_log(system, every=1) as log:
        for number in range(count):
            log.append([event(number)])
            log.sync()
    return system


def test_a_checkpoint_is_one_line_with_a_signature_over_all_the_rest() -> None:
    system = written(1)
    head = check(system).head
    signed = (
        '{"checkpoint_version":1,"sequence":1,"event_hash":"' + head.event_hash + '",'
        f'"log_bytes":{head.size_bytes},"timestamp_ms":1234,"signature_algorithm":"hmac-sha256"'
    )
    message = b"vaylix audit checkpoint\n" + signed.encode() + b"}"
    signature = hmac.new(KEY, message, "sha256").hexdigest()
    assert lines(system)[1].decode() == signed + f',"signature":"{signature}"' + "}\n"
    assert head.size_bytes == len(system.content(PATH))


def test_checkpoints_are_written_at_open_every_so_often_and_at_close() -> None:
    system = MemoryFileSystem()
    log = open_log(system, every=3)
    assert (len(lines(system)), log.last_checkpoint.head.sequence) == (1, 0)
    log.append([event(1), event(2)])
    log.sync()
    assert len(lines(system)) == 1
    log.append([event(3)])
    assert len(lines(system)) == 1, "what is not on the disk is not vouched for"
    log.sync()
    assert (len(lines(system)), log.last_checkpoint.head) == (2, log.head)
    log.append([event(4)])
    log.close()
    assert (len(lines(system)), log.last_checkpoint.head) == (3, log.head)
    open_log(system).close()
    assert len(lines(system)) == 3, "nothing has happened since"
    log = open_log(system)
    log.append([event(5)])
    log.sync()
    system.power_cut()
    log = open_log(system)
    assert (len(lines(system)), log.last_checkpoint.head.sequence) == (4, 5)
    assert log.report.check.unprotected_count == 1
    log.append([event(6)])
    log.checkpoint()
    log.checkpoint()
    assert (len(lines(system)), log.last_checkpoint.head.sequence) == (5, 6)


def test_a_log_of_before_gets_a_checkpoint_and_a_warning() -> None:
    system = written()
    system.remove(CHECKPOINTS)
    log = open_log(system)
    assert log.report.messages() == (
        "audit log: there were no checkpoints; nothing vouches for the 3 records found",
    )
    assert log.last_checkpoint.head == log.head
    log.close()
    assert open_log(system).report.messages() == ()


def test_another_key_is_refused_unless_the_former_one_is_given_too() -> None:
    system = written()
    other = b"o" * KEY_BYTES
    with pytest.raises(CheckpointError, match="checkpoint 1 has a wrong signature") as caught:
        open_log(system, HmacSigner(other))
    assert (caught.value.code, caught.value.path) == ("SRV-028", CHECKPOINTS)
    assert caught.value.remedy is not None
    with open_log(system, HmacSigner(other, former_keys=[b"x" * KEY_BYTES, KEY])) as log:
        log.append([event(9)])
    with pytest.raises(CheckpointError, match="checkpoint 5 has a wrong signature"):
        open_log(system)


@pytest.mark.parametrize("size", [0, KEY_BYTES - 1, KEY_BYTES + 1])
def test_a_key_has_32_bytes(size: int) -> None:
    for keys in ((b"k" * size, []), (KEY, [b"k" * size])):
        with pytest.raises(ValueError, match="32 bytes"):
            HmacSigner(keys[0], former_keys=keys[1])


def test_another_algorithm_is_a_wrong_signature() -> None:
    system = MemoryFileSystem()
    open_log(system, LongSigner(32)).close()
    with pytest.raises(CheckpointError, match="checkpoint 1 has a wrong signature"):
        open_log(system)


def test_the_longest_signature_is_written_and_read_and_no_longer_one() -> None:
    system = MemoryFileSystem()
    for _ in range(2):
        open_log(system, LongSigner(SIGNATURE_BYTES_MAX)).close()
    with pytest.raises(AssertionError):
        open_log(MemoryFileSystem(), LongSigner(SIGNATURE_BYTES_MAX + 1))


def test_checkpoints_out_of_order_are_refused() -> None:
    system = written()
    first, *others = lines(system)
    system.overwrite(CHECKPOINTS, b"".join([*others, first]))
    with pytest.raises(CheckpointError, match="checkpoint 4 is behind the one before it"):
        open_log(system)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"\xff\n",
        b"x" * 5000 + b"\n",
        b"x" * 5000,
        b'{"checkpoint_version":1}\n',
    ],
)
def test_a_line_that_is_no_checkpoint_is_refused(line: bytes) -> None:
    system = written()
    system.overwrite(CHECKPOINTS, system.content(CHECKPOINTS) + line)
    with pytest.raises(CheckpointError, match="checkpoint 5 is damaged"):
        open_log(system)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"checkpoint_version":1', b'"checkpoint_version":2'),
        (b'"sequence":0', b'"sequence":"0"'),
        (b'"sequence":0', b'"number":0'),
        (b'"sequence":0', b'"sequence":0,"sequence":0'),
        (b'"signature":"', b'"signature":"AB'),
        (b'"signature":"', b'"signature":"zz'),
        (b'"signature":"', b'"signature":" '),
        (b":", b": "),
    ],
)
def test_a_checkpoint_in_another_spelling_is_refused(old: bytes, new: bytes) -> None:
    system = written(0)
    system.overwrite(CHECKPOINTS, system.content(CHECKPOINTS).replace(old, new))
    with pytest.raises(CheckpointError, match="checkpoint 1 is damaged"):
        open_log(system)


def test_an_unfinished_checkpoint_is_cut_off_and_said() -> None:
    system = written()
    whole = system.content(CHECKPOINTS)
    last = lines(system)[-1]
    for size in range(1, len(last) - 1):
        system.overwrite(CHECKPOINTS, whole + last[:size])
        log = open_log(system)
        assert log.report.messages() == ("audit log: the last checkpoint was torn; it was removed",)
        assert system.content(CHECKPOINTS) == whole
        log.close()
    # Without its newline a checkpoint is whole, and gets it.
    system.overwrite(CHECKPOINTS, whole[:-1])
    system.overwrite(PATH, b"")
    with pytest.raises(LostRecordsError, match="the log is empty, but record 3"):
        open_log(system)
    assert system.content(CHECKPOINTS) == whole[:-1]


def test_an_unfinished_line_that_is_not_the_last_is_damage() -> None:
    system = written()
    first, second, *others = lines(system)
    system.overwrite(CHECKPOINTS, first + second[:-10] + b"\0" * 1000 + b"\n" + others[0])
    with pytest.raises(CheckpointError, match="checkpoint 2 is damaged"):
        open_log(system)


def test_a_log_whose_lines_were_respelled_before_the_checkpoint_is_refused() -> None:
    system = written()
    content = system.content(PATH)
    system.overwrite(PATH, content.replace(b'"sequence":2', b'"sequence": 2'))
    with pytest.raises(LostRecordsError, match="the log was rewritten up to it") as caught:
        open_log(system)
    assert caught.value.loss is Loss.REPLACED


def test_a_log_that_was_on_the_disk_and_is_full_of_zeros_is_damaged_not_torn() -> None:
    system = written()
    content = system.content(PATH)
    system.overwrite(PATH, content[:600] + bytes(len(content) - 600))
    with pytest.raises(AuditError, match="failed: line 2: ") as caught:
        open_log(system)
    assert not isinstance(caught.value, LostRecordsError)


def test_a_missing_log_beside_an_empty_file_of_checkpoints_was_there_once() -> None:
    system = MemoryFileSystem()
    system.overwrite(CHECKPOINTS, b"")
    with pytest.raises(LostRecordsError, match="the log is missing, but it was there before"):
        open_log(system)


def test_a_missing_log_whose_checkpoint_is_that_of_no_record_was_there_once() -> None:
    system = written(0)
    system.remove(PATH)
    with pytest.raises(LostRecordsError, match="the log is missing, but it was there before"):
        open_log(system)


def test_a_time_before_1970_is_none() -> None:
    system = MemoryFileSystem()
    log = AuditLog.open(PATH, signer=HmacSigner(KEY), file_system=system, now_ms=lambda: -5)
    assert log.last_checkpoint.timestamp_ms == 0
    log.close()
    open_log(system)
