"""Storage backend `memory`: nothing on the disk, and nothing left after the end of the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaylix_server.hookspecs import hookimpl
from vaylix_server.interfaces import StorageBackend, StorageRequest
from vaylix_storage.backend import memory_storage

if TYPE_CHECKING:
    from vaylix_storage.backend import Storage

__all__ = ["vaylix_storage_backends"]


def _open(request: StorageRequest) -> Storage:
    # No setting of a directory means anything here.
    del request
    return memory_storage()


@hookimpl
def vaylix_storage_backends() -> list[StorageBackend]:
    """Register the backend."""
    return [StorageBackend(name="memory", open=_open, is_durable=False)]
