"""The lock of a store: one call at a time, none that waits for itself, and in one process.

A signal handler, a finalizer or a clock may run in the middle of a call, in its thread. If it calls
the store again, it must not wait for the call that waits for it. The lock is a reentrant one, not
to be entered twice, but because that kind knows its owner from the very instruction that takes it.

A fork copies the store: two processes would write to the same place of one file. And it copies the
lock as it is, perhaps held by a thread that only the parent has.
"""

from __future__ import annotations

import os
from threading import RLock

from vaylix_storage.errors import ForeignProcessError, StorageBusyError

__all__ = ["CallLock"]


class CallLock:
    """A lock for `with lock.checked():`, in the process that made it."""

    __slots__ = ("_lock", "_process_id")

    def __init__(self) -> None:
        self._lock = RLock()
        self._process_id = os.getpid()

    @property
    def is_inherited(self) -> bool:
        """Whether this is a child of the process that made the lock."""
        return os.getpid() != self._process_id

    def checked(self) -> RLock:
        """Return the lock for a `with` statement. Raises what `check` raises.

        It is taken by the statement itself: a method that took it and was interrupted just then
        would never give it back.
        """
        # The same as `check`, spelled out: this is on the way of every read.
        if os.getpid() != self._process_id or self._lock._is_owned():  # type: ignore[attr-defined] # noqa: SLF001 - as below
            self.check()
        return self._lock

    def check(self) -> None:
        """Raise StorageBusyError if this thread holds the lock, ForeignProcessError in a child."""
        if self.is_inherited:
            raise ForeignProcessError(
                "the store was opened in another process",
                remedy="close it before a fork, and open it in the process that is to use it",
            )
        # As `threading.Condition` asks the locks that are handed to it.
        if self._lock._is_owned():  # type: ignore[attr-defined] # noqa: SLF001
            raise StorageBusyError(
                "this thread is in the middle of another call to the store",
                remedy="let a signal handler set a flag, and call the store when that has returned",
            )
