"""The token bucket that bounds the requests of one connection (server spec 3.4)."""

from __future__ import annotations

__all__ = ["TokenBucket"]


class TokenBucket:
    """Starts full, refills continuously, and a request spends one whole token.

    `rate` is in tokens per second, `burst` is the capacity in tokens; times are monotonic seconds
    and are passed in, so the bucket itself knows no clock.
    """

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, *, rate: int, burst: int, now: float) -> None:
        assert rate > 0, "a rate of zero is refused with the settings"
        assert burst > 0, "a burst of zero is refused with the settings"
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._updated = now

    def take(self, now: float) -> bool:
        """Spend one token at time `now`; False means that the request must be refused."""
        refill = max(0.0, now - self._updated) * self._rate
        self._tokens = min(float(self._burst), self._tokens + refill)
        self._updated = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
