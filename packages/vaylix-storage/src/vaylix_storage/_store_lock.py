"""The lock of a store: one call at a time, and none that waits for itself.

A signal handler, a finalizer or a clock may run in the middle of a call, in its thread. If it calls
the store again, it must not wait for the call that waits for it. The lock is a reentrant one, not
to be entered twice, but because that kind knows its owner from the very instruction that takes it.
"""

from __future__ import annotations

from threading import RLock

from vaylix_storage.errors import StorageBusyError

__all__ = ["CallLock"]


class CallLock:
    """A lock for `with lock.checked():`; a thread that holds it already gets an error."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = RLock()

    def checked(self) -> RLock:
        """Return the lock for a `with` statement. Raises StorageBusyError.

        It is taken by the statement itself: a method that took it and was interrupted just then
        would never give it back.
        """
        self.check()
        return self._lock

    def check(self) -> None:
        """Raise StorageBusyError if this thread holds the lock."""
        # As `threading.Condition` asks the locks that are handed to it.
        if self._lock._is_owned():  # type: ignore[attr-defined] # noqa: SLF001 - see above
            raise StorageBusyError(
                "this thread is in the middle of another call to the store",
                remedy="let a signal handler set a flag, and call the store when that has returned",
            )
