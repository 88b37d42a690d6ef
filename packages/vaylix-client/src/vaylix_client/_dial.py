"""Open one asyncio connection: TCP, TLS, hello, login, all within one timeout."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vaylix_client._link import Link
from vaylix_client._session import Cause
from vaylix_client._wire import (
    check_login,
    dial_error,
    login_failure,
    new_connection,
    new_request_ids,
    tls_context,
)
from vaylix_client.errors import ClientError
from vaylix_protocol import Auth

if TYPE_CHECKING:
    import ssl

    from vaylix_client._settings import Settings

__all__ = ["dial"]


async def dial(settings: Settings, login: tuple[str, str] | None) -> Link:
    """Return a connection that is ready for calls.

    Raise `ConnectError`, a `ServerError` when the login is refused, `InvalidCallError` when it
    cannot be put on the wire, and `ConfigurationError` for unusable names and files.
    """
    context = None if settings.tls is None else tls_context(settings.tls)
    try:
        async with asyncio.timeout(settings.connect_timeout_seconds):
            return await _open(settings, login, context)
    except ClientError:
        raise
    except (OSError, ValueError) as error:
        raise dial_error(error, settings) from error


async def _open(
    settings: Settings, login: tuple[str, str] | None, context: ssl.SSLContext | None
) -> Link:
    link = Link(settings, new_connection(settings), new_request_ids())
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: link, settings.host, settings.port, ssl=context
        )
        _check(await link.ready)
        if login is not None:
            await _log_in(link, login)
    except BaseException:
        link.abort(Cause.io_error("given up while connecting"))
        raise
    return link


def _check(failure: Cause | None) -> None:
    if failure is not None:
        raise failure.not_connected()


async def _log_in(link: Link, login: tuple[str, str]) -> None:
    outcome = await link.exchange(Auth(*login), reads_only=False)
    failure = login_failure(outcome)
    if failure is not None:
        raise failure
    check_login(outcome)
