"""Runs of plain GETs and SETs, which are nearly all traffic, taken as a whole.

The connection hands them over in columns. The outcome is that of the dispatcher; only the checks
that can still fail are made: a session uses these where the dispatcher says that nothing is special
about it, and takes a run apart into single requests otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaylix_protocol import PLAIN_SET_BYTES, GetRun, SetRun
from vaylix_server.weights import WEIGHT_BYTES

if TYPE_CHECKING:
    from vaylix_server.rules import Limits

__all__ = ["GETS_AT_ONCE_MAX", "OUT_BYTES_MAX", "fits", "payload_bytes", "split_gets", "split_sets"]

# Bytes of replies after which the transport is asked whether the client keeps up.
OUT_BYTES_MAX: Final = 256 * 1024
# Values of the largest size times this is a bounded amount of memory: 16 MiB.
GETS_AT_ONCE_MAX: Final = 64


def fits(run: GetRun | SetRun, limits: Limits) -> bool:
    """Tell whether all keys and values are within their quotas."""
    # Loops, since compiled ones are several times quicker than `max(map(len, ...))`.
    bytes_max = limits.key_bytes_max
    for key in run.keys:
        if len(key) > bytes_max:
            return False
    if type(run) is SetRun:
        bytes_max = limits.value_bytes_max
        for value in run.values:
            if len(value) > bytes_max:
                return False
    return True


def payload_bytes(run: SetRun) -> int:
    """Return what all SETs of a run took on the wire."""
    total = PLAIN_SET_BYTES * len(run.keys)
    for key in run.keys:
        total += len(key)
    for value in run.values:
        total += len(value)
    return total


def split_gets(run: GetRun, count: int) -> tuple[GetRun, GetRun | None]:
    """Return the first `count` GETs, and the rest."""
    if len(run.keys) <= count:
        return run, None
    rest = GetRun(run.request_ids[count:], run.keys[count:])
    return GetRun(run.request_ids[:count], run.keys[:count]), rest


def split_sets(run: SetRun, room: int) -> tuple[SetRun, SetRun | None]:
    """Return what the session may have in flight, and the rest.

    `room` is the weight that is left for it, at least 1; it is passed by one request at most.
    """
    if len(run.keys) == 1 or len(run.keys) + payload_bytes(run) // WEIGHT_BYTES <= room:
        return run, None
    bytes_so_far = 0
    for count, key in enumerate(run.keys):
        if count + bytes_so_far // WEIGHT_BYTES >= room:
            first = SetRun(run.request_ids[:count], run.keys[:count], run.values[:count])
            return first, SetRun(run.request_ids[count:], run.keys[count:], run.values[count:])
        bytes_so_far += PLAIN_SET_BYTES + len(key) + len(run.values[count])
    return run, None
