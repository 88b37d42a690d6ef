"""The hooks of the server. A plugin implements those it needs, under these names.

Rules for all of them: they are called once, at start-up, on the main thread, before anything is
opened; they are synchronous and return a list of records, never None; what they return is sorted
by name, and a name that is taken stops the start. A record may carry coroutine functions; a hook
itself may not be one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from vaylix_server.interfaces import AckMode, StorageBackend, Transport

__all__ = ["PROJECT_NAME", "hookimpl", "hookspec"]

PROJECT_NAME = "vaylix"

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)


@hookspec
def vaylix_transports() -> list[Transport]:  # type: ignore[empty-body]
    """Yield ways for clients to come in; `--transport` chooses one by its name.

    Since 0.10. Example:

        @hookimpl
        def vaylix_transports():
            return [Transport(name="websocket", listen=listen_websocket)]
    """


@hookspec
def vaylix_storage_backends() -> list[StorageBackend]:  # type: ignore[empty-body]
    """Yield places to keep the log; `--storage-backend` chooses one by its name.

    Since 0.10. Example:

        @hookimpl
        def vaylix_storage_backends():
            return [StorageBackend(name="sqlite", open=open_sqlite)]
    """


@hookspec
def vaylix_ack_modes() -> list[AckMode]:  # type: ignore[empty-body]
    """Yield policies that say when a write is answered; `--write-ack-mode` chooses one by name.

    Since 0.10. Example:

        @hookimpl
        def vaylix_ack_modes():
            return [AckMode(name="committed", acknowledged=lambda progress: progress.commit)]
    """
