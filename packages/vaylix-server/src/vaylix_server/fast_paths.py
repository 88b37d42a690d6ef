"""Runs of plain GETs and SETs, which are nearly all traffic, taken as a whole.

The connection hands them over in columns. The outcome is that of the dispatcher; only the checks
that can still fail are made: a session uses these where the dispatcher says that nothing is special
about it, and takes a run apart into single requests otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_protocol import GetRun, SetRun
from vaylix_server.weights import WEIGHT_BYTES

if TYPE_CHECKING:
    from vaylix_server.rules import Limits

__all__ = ["GETS_AT_ONCE_MAX", "OUT_BYTES_MAX", "fits", "split_gets", "split_sets"]

# Bytes of replies after which the transport is asked whether the client keeps up.
OUT_BYTES_MAX = 256 * 1024
# Values of the largest size times this is a bounded amount of memory: 16 MiB.
GETS_AT_ONCE_MAX = 64


def fits(run: GetRun | SetRun, limits: Limits) -> bool:
    """Tell whether all keys and values are within their quotas."""
    keys = run.keys
    # A request that comes alone is the case where every call counts.
    longest = len(keys[0]) if len(keys) == 1 else max(map(len, keys))
    if longest > limits.key_bytes_max:
        return False
    if type(run) is not SetRun:
        return True
    values = run.values
    longest = len(values[0]) if len(values) == 1 else max(map(len, values))
    return longest <= limits.value_bytes_max


def split_gets(run: GetRun) -> tuple[GetRun, GetRun | None]:
    """Return what may be looked up before the transport is asked again, and the rest."""
    count = GETS_AT_ONCE_MAX
    if len(run.keys) <= count:
        return run, None
    rest = GetRun(run.request_ids[count:], run.keys[count:])
    return GetRun(run.request_ids[:count], run.keys[:count]), rest


def split_sets(run: SetRun, room: int) -> tuple[SetRun, SetRun | None]:
    """Return what the session may have in flight, and the rest.

    `room` is the weight that is left for it, at least 1; it is passed by one request at most.
    """
    if len(run.keys) == 1 or len(run.keys) + run.payload_bytes // WEIGHT_BYTES <= room:
        return run, None
    count = bytes_so_far = 0
    for value in run.values:
        if count + bytes_so_far // WEIGHT_BYTES >= room:
            break
        count += 1
        bytes_so_far += len(value)
    if count == len(run.keys):
        return run, None
    first = SetRun(run.request_ids[:count], run.keys[:count], run.values[:count])
    return first, SetRun(run.request_ids[count:], run.keys[count:], run.values[count:])
