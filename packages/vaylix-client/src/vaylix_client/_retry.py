"""Which calls are repeated, and when. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaylix_client._call import Call
    from vaylix_client.errors import ClientError

__all__ = ["retry_pause_seconds"]

_FIRST_PAUSE_SECONDS = 0.05
_PAUSE_SECONDS_MAX = 1.0
# Enough to reach the longest pause. A thousand of them would not fit into a float.
_DOUBLINGS_MAX = 5


def retry_pause_seconds(
    call: Call[object], error: ClientError, attempts: int, retries_max: int
) -> float | None:
    """Return how long to wait before the call is repeated, or `None` to let `error` through.

    `attempts` counts the tries so far. Only calls that read are repeated, and only after errors
    that say a repetition is harmless and may help. Pauses double from 50 ms to 1 s.
    """
    if not call.reads_only or not error.retryable or attempts > retries_max:
        return None
    doublings = min(attempts - 1, _DOUBLINGS_MAX)
    return min(_FIRST_PAUSE_SECONDS * 2.0**doublings, _PAUSE_SECONDS_MAX)
