"""The express lane: pipelines of plain GETs and SETs, from a buffer to columns in one loop.

Nearly all traffic is GETs and SETs without options in frames that are not compressed. Cutting them
out as frames first and decoding them as requests then costs two header reads and two loops; this
does both at once. It judges nothing: at the first frame that is anything else, or not whole, or
not right, it stops, and the way through `_frames` and `_request_codec` says what that is.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias
from zlib import crc32

from vaylix_protocol._constants import Opcode
from vaylix_protocol._events import GetRun, SetRun
from vaylix_protocol._frames import HEADER_BYTES, PLAIN_MARK

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaylix_protocol._events import Event

__all__ = ["take_plain_runs"]

# The header of the frame (mark, length, checksum), then of the request: flags, request id, opcode,
# and the length of the key.
_START: Final = Struct(">6sIIB16sBH")
# Compiled code is a third quicker when it knows the types of what is unpacked.
_Start: TypeAlias = tuple[bytes, int, int, int, bytes, int, int]
# Where the key begins in the body.
_KEY_OFFSET: Final = _START.size - HEADER_BYTES
_VALUE_LENGTH: Final = Struct(">I")
_LENGTH_BYTES: Final = _VALUE_LENGTH.size
_GET: Final = int(Opcode.GET)
_SET: Final = int(Opcode.SET)
# No condition, no expiration, neither keep_ttl nor return_previous, no version.
_NO_SET_OPTIONS: Final = bytes(5)
_OPTIONS_BYTES: Final = len(_NO_SET_OPTIONS)


def take_plain_runs(data: bytes, frame_bytes_max: int, events: list[Event]) -> int:
    """Append the runs that `data` begins with to `events`; return the position of the rest."""
    unpack_start: Callable[[bytes, int], _Start] = _START.unpack_from
    unpack_length: Callable[[bytes, int], tuple[int]] = _VALUE_LENGTH.unpack_from
    checksum_of = crc32
    get_ids: list[bytes] = []
    get_keys: list[bytes] = []
    set_ids: list[bytes] = []
    set_keys: list[bytes] = []
    values: list[bytes] = []
    previous = 0
    end = len(data)
    last_start = end - _START.size
    position = 0
    while position <= last_start:
        mark, length, checksum, flags, request_id, opcode, key_bytes = unpack_start(data, position)
        start = position + HEADER_BYTES
        stop = start + length
        # Looking at the opcode here spares an MSET of megabytes a copy and a checksum for nothing.
        if mark != PLAIN_MARK or flags or opcode > _SET or stop > end or length > frame_bytes_max:
            break
        body = data[start:stop]
        if checksum_of(body) != checksum:
            break
        if opcode == _GET:
            key = body[_KEY_OFFSET:]
            # Of a body that is too short for its start, a part was read from behind it.
            if key_bytes != length - _KEY_OFFSET or not key.isascii():
                break
            if previous != _GET:
                previous, get_ids, get_keys = _GET, [], []
                events.append(GetRun(get_ids, get_keys))
            get_ids.append(request_id)
            get_keys.append(key)
        elif opcode == _SET:
            key_stop = _KEY_OFFSET + key_bytes
            value_stop = length - _OPTIONS_BYTES
            if (
                # Also because a compiled slice that ends before it begins is an error, not empty.
                key_stop + _LENGTH_BYTES > value_stop
                or unpack_length(body, key_stop)[0] != value_stop - key_stop - _LENGTH_BYTES
                or body[value_stop:] != _NO_SET_OPTIONS
                or not (key := body[_KEY_OFFSET:key_stop]).isascii()
            ):
                break
            value = body[key_stop + _LENGTH_BYTES : value_stop]
            if previous != _SET:
                previous, set_ids, set_keys, values = _SET, [], [], []
                events.append(SetRun(set_ids, set_keys, values))
            set_ids.append(request_id)
            set_keys.append(key)
            values.append(value)
        else:
            break
        position = stop
    return position
