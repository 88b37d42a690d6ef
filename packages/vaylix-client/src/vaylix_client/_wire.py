"""What both drivers need to open a connection: the codec, the ids, the login, TLS."""

from __future__ import annotations

import os
import secrets
import ssl
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from vaylix_client._call import nothing
from vaylix_client._ids import RequestIds
from vaylix_client._os_errors import describe_os_error
from vaylix_client.errors import (
    ClientError,
    ConnectError,
    InvalidCallError,
    NotSentError,
    OutcomeUnknownError,
    ServerError,
    connect_error,
    transport_error,
    unusable_file,
    url_error,
)
from vaylix_protocol import Compression, Connection, ConnectionSettings, Role

if TYPE_CHECKING:
    from os import PathLike

    from vaylix_client._session import Outcome
    from vaylix_client._settings import Settings, TlsSettings

__all__ = [
    "check_login",
    "dial_error",
    "is_login_decided",
    "login_failure",
    "new_connection",
    "new_request_ids",
    "tls_context",
]

_CLIENT_NAME = "vaylix-client"


def new_connection(settings: Settings) -> Connection:
    """Return the client's end of a fresh connection."""
    return Connection(
        Role.CLIENT,
        ConnectionSettings(
            client_name=_CLIENT_NAME,
            client_version=version("vaylix-client"),
            auth_intent=settings.authenticate,
            compression=Compression.ZSTD if settings.compression else Compression.NONE,
        ),
    )


def new_request_ids() -> RequestIds:
    """Return ids from the wall clock and the system's randomness."""
    return RequestIds(lambda: time.time_ns() // 1_000_000, secrets.randbits(73))


def check_login(outcome: Outcome) -> None:
    """Raise the error that the outcome of an AUTH is or stands for, if it does."""
    if isinstance(outcome, ClientError):
        raise outcome
    nothing(outcome)


def is_login_decided(failure: BaseException) -> bool:
    """Whether a login that ended in `failure` has certainly left the identity as it was."""
    refused_or_not_sent = isinstance(failure, ServerError | NotSentError | InvalidCallError)
    return refused_or_not_sent and not isinstance(failure, OutcomeUnknownError)


def login_failure(outcome: Outcome) -> ClientError | None:
    """Return why the login of a new connection did not come to an end, if it did not."""
    if isinstance(outcome, ClientError) and not isinstance(outcome, InvalidCallError):
        return ConnectError(outcome.code, outcome.name, outcome.message, retryable=True)
    return outcome if isinstance(outcome, ClientError) else None


def dial_error(error: OSError | ValueError, settings: Settings) -> ClientError:
    """Return what a failure to connect means.

    CLI-003 when the system gave no connection, or never will for this name; TRN-013 when the TLS
    handshake or the time for everything together failed (commands spec 12.3 and 12.4).
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        # It will be the same certificate the next time.
        why = f"{describe_os_error(error)}: {error.verify_message.removesuffix('.')}"
        return transport_error(why, retryable=False)
    if isinstance(error, ssl.SSLError):
        return transport_error(describe_os_error(error))
    if isinstance(error, TimeoutError) and error.errno is None:
        return transport_error(f"not connected within {settings.connect_timeout_seconds:g} s")
    if isinstance(error, ConnectionResetError | ConnectionAbortedError):
        return transport_error(describe_os_error(error))
    if isinstance(error, OSError):
        return connect_error(describe_os_error(error))
    return url_error("invalid host name" if settings.tls is None else "invalid TLS server name")


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """Build the context: TLS 1.2 or 1.3, the server verified. Reads the certificate files.

    Raise `ConfigurationError` (CLI-003) for a file that is missing or unusable.
    """
    if tls.context is not None:
        return tls.context
    if tls.ca_cert is not None:
        _first_byte("CA certificate file", tls.ca_cert)
    try:
        context = ssl.create_default_context(cafile=tls.ca_cert)
    except ssl.SSLError as error:
        what = f"CA certificate file {os.fspath(tls.ca_cert or '')}: {_reason(error)}"
        raise unusable_file(what, "it must be a PEM file of certificates") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.client_cert is not None and tls.client_key is not None:
        _load_identity(context, tls.client_cert, tls.client_key)
    return context


def _load_identity(
    context: ssl.SSLContext, certificate: str | PathLike[str], key: str | PathLike[str]
) -> None:
    if not _first_byte("client certificate file", certificate):
        raise unusable_file("client certificate file is empty")
    _first_byte("client key file", key)
    try:
        # An encrypted key is an error; without a password OpenSSL would ask at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        what = f"client certificate and key {os.fspath(certificate)}, {os.fspath(key)}"
        remedy = "they must be PEM files, the key unencrypted and that of the certificate"
        raise unusable_file(f"{what}: {_reason(error)}", remedy) from error


def _first_byte(what: str, path: str | PathLike[str]) -> bytes:
    """Read a little of a file: OpenSSL would not say which one it could not."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a str or a path
            return file.read(1)
    except OSError as error:
        cause = f"{what} {os.fspath(path)}: {describe_os_error(error)}"
        raise unusable_file(cause, "give the path of a file that can be read") from error


def _reason(error: ssl.SSLError) -> str:
    # Where OpenSSL has no reason, its text ends with a place in the source of the interpreter.
    return error.reason or "not usable"
