"""What every client knows of itself, whichever way it waits for its connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from vaylix_client._session import Cause

if TYPE_CHECKING:
    from vaylix_client._settings import Settings

__all__ = ["ClientState"]


class _AnyLink(Protocol):
    @property
    def is_usable(self) -> bool: ...


LinkT = TypeVar("LinkT", bound=_AnyLink)


class ClientState(Generic[LinkT]):
    """The connection, the identity that those to come will have, and whether all is over."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._configured_login = (
            (settings.user, settings.password) if settings.authenticate else None
        )
        self._login = self._configured_login
        self._link: LinkT | None = None
        self._is_closed = False

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as this side knows."""
        return self._link is not None and self._link.is_usable

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called; nothing can be done with this client any more."""
        return self._is_closed

    @property
    def has_configured_identity(self) -> bool:
        """Whether nobody has logged in as somebody else since the client was made."""
        return self._login == self._configured_login

    def _check_open(self) -> None:
        if self._is_closed:
            raise Cause.io_error("this client is closed").not_sent()
