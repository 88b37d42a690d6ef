"""AUTH: lockouts, password verification on threads of its own, and its counters.

A verification takes 30 ms of one core by design. At most two run at once, so that logins cannot
starve everybody else; a session has at most one under way, so the line is bounded by the number
of sessions.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from vaylix_protocol import ErrorCode, ErrorReply, error_reply
from vaylix_server.passwords import DUMMY_HASH, verify_password

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from concurrent.futures import Future

    from vaylix_server.access import AccessState
    from vaylix_server.lockout import LockoutTable
    from vaylix_server.metrics import Metrics

__all__ = ["Authenticator"]

VERIFICATIONS_AT_ONCE_MAX = 2


class Authenticator:
    """Checks credentials against the applied access state. Used on the loop's thread only."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        access: AccessState,
        lockouts: LockoutTable,
        metrics: Metrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._loop = loop
        self._access = access
        self._lockouts = lockouts
        self._metrics = metrics
        self._now_ms = now_ms
        self._threads = ThreadPoolExecutor(
            VERIFICATIONS_AT_ONCE_MAX, thread_name_prefix="vaylix-auth"
        )

    def authenticate(
        self,
        username: str,
        password: str,
        address: str,
        done: Callable[[ErrorReply | None], None],
    ) -> None:
        """Call `done` later, on the loop: with None on success, else with the refusal."""
        if self._lockouts.is_locked(username, address, self._now_ms()):
            self._metrics.auth_locked_attempts += 1
            refusal = error_reply(ErrorCode.SRV_031, username=username)
            self._loop.call_soon(done, refusal)
            return
        user = self._access.user(username)
        known = user is not None and not user.disabled
        phc = user.password_hash if user is not None else DUMMY_HASH

        # It is told the future instead of holding it: the two would hold each other, and with them
        # the session, until a full collection that hardly ever comes.
        def finish(future: Future[bool]) -> None:
            if future.cancelled():
                return
            fits = future.exception() is None and future.result()
            done(self._judge(username, address, accepted=known and fits))

        self._threads.submit(verify_password, password, phc).add_done_callback(
            lambda future: self._loop.call_soon_threadsafe(finish, future)
        )

    def locked_count(self) -> int:
        """Return how many records are locked now."""
        return self._lockouts.active_count(self._now_ms())

    def close(self) -> None:
        """Wait for the checks under way, drop those in line, and stop the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _judge(self, username: str, address: str, *, accepted: bool) -> ErrorReply | None:
        if self._lockouts.is_locked(username, address, self._now_ms()):
            # Guesses that were in line together must not get past the lock that one of them set.
            self._metrics.auth_locked_attempts += 1
            return error_reply(ErrorCode.SRV_031, username=username)
        if accepted:
            self._lockouts.record_success(username, address)
            self._metrics.auth_successes += 1
            return None
        self._metrics.auth_failures += 1
        if self._lockouts.record_failure(username, address, self._now_ms()):
            self._metrics.auth_locked_attempts += 1
        return error_reply(ErrorCode.SRV_008)
