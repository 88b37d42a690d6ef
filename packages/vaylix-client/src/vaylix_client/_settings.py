"""What a client is told: options of the caller and the URL, merged into one checked value. Pure."""

from __future__ import annotations

import ssl as ssl_module
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from vaylix_client.errors import configuration_error
from vaylix_client.url import DEFAULT_HOST, DEFAULT_PORT, ConnectionUrl, parse_url

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["ConnectOptions", "Settings", "TlsSettings", "merge", "resolve"]

# The published clients log in as this user with this password when nothing else is said.
_DEFAULT_USER = "vaylix"
_DEFAULT_PASSWORD = "vaylix"  # noqa: S105 - the documented default of server and clients

# Together with a transaction (`BATCH_CALLS_MAX`) below the 65 536 that the codec keeps track of.
_IN_FLIGHT_MAX = 32_768

# Eleven days. Selectors count milliseconds in 31 bits, and refuse more, or what is no number, in
# the middle of a call.
_SECONDS_MAX = 1_000_000


class ConnectOptions(TypedDict, total=False):
    """Keyword options of every `connect()` and of the pools. All may be left out.

    They win over the URL, except that TLS, "no authentication" and "no compression" are on as
    soon as either side asks for them. No time may be longer than 1 000 000 seconds.

    - `user`, `password`: credentials of the automatic login; default `vaylix` and `vaylix`.
    - `authenticate`: `False` sends no AUTH when connecting.
    - `ssl`: `True`, or an `ssl.SSLContext` of your own (which then decides about certificates).
    - `ca_cert`: PEM bundle that replaces the system's roots.
    - `client_cert`, `client_key`: PEM files for mutual TLS, both or neither.
    - `compression`: `False` asks the server for no compression.
    - `connect_timeout_seconds`: for the lookup of the name, TCP, TLS, hello and login together;
      default 10.
    - `call_timeout_seconds`: for every call, waiting for its turn included; default 30, `None`
      waits for ever. Replacing a lost connection first takes its own `connect_timeout_seconds`.
    - `in_flight_max`: unanswered calls on one connection; more wait for their turn; default 1024.
    - `retry_reads`: how many times a call that only reads is repeated after a failure that
      allows it, each with its own timeout; default 0. Writes are never repeated.
    - `late_reply_seconds`: how long after a timed-out or cancelled call its late reply is waited
      for (and dropped) before the connection is given up; default 5.
    """

    user: str
    password: str
    authenticate: bool
    ssl: bool | ssl_module.SSLContext
    ca_cert: str | PathLike[str]
    client_cert: str | PathLike[str]
    client_key: str | PathLike[str]
    compression: bool
    connect_timeout_seconds: float
    call_timeout_seconds: float | None
    in_flight_max: int
    retry_reads: int
    late_reply_seconds: float


@dataclass(frozen=True, kw_only=True)
class TlsSettings:
    """How to do TLS: a context of the caller, or files to build one from."""

    context: ssl_module.SSLContext | None = None
    ca_cert: str | PathLike[str] | None = None
    client_cert: str | PathLike[str] | None = None
    client_key: str | PathLike[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a connection needs to know. See `ConnectOptions` for meanings and units."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    user: str = _DEFAULT_USER
    password: str = field(default=_DEFAULT_PASSWORD, repr=False)
    authenticate: bool = True
    tls: TlsSettings | None = None
    compression: bool = True
    connect_timeout_seconds: float = 10.0
    call_timeout_seconds: float | None = 30.0
    in_flight_max: int = 1024
    retry_reads: int = 0
    late_reply_seconds: float = 5.0

    def __post_init__(self) -> None:
        _check_seconds("connect_timeout_seconds", self.connect_timeout_seconds)
        if self.call_timeout_seconds is not None:
            _check_seconds("call_timeout_seconds", self.call_timeout_seconds, ", or None")
        if not 1 <= self.in_flight_max <= _IN_FLIGHT_MAX:
            raise configuration_error(f"in_flight_max must be between 1 and {_IN_FLIGHT_MAX}")
        if self.retry_reads < 0:
            raise configuration_error("retry_reads must not be negative")
        _check_seconds("late_reply_seconds", self.late_reply_seconds)


def _check_seconds(name: str, seconds: float, otherwise: str = "") -> None:
    # The other way round NaN would pass.
    if not 0 < seconds <= _SECONDS_MAX:
        raise configuration_error(f"{name} must be positive and at most {_SECONDS_MAX}{otherwise}")


def resolve(url: str | None, options: ConnectOptions) -> Settings:
    """Merge a URL with options. Raise `ConfigurationError` when they make no sense together."""
    return merge(ConnectionUrl() if url is None else parse_url(url), options, from_url=bool(url))


def merge(parsed: ConnectionUrl, options: ConnectOptions, *, from_url: bool) -> Settings:
    """Merge a parsed URL with options; `from_url` only words the complaint about the CA."""
    password = options.get("password", parsed.password)
    return Settings(
        host=parsed.host,
        port=parsed.port,
        user=options.get("user") or parsed.user or _DEFAULT_USER,
        password=_DEFAULT_PASSWORD if password is None else password,
        authenticate=parsed.authenticate and options.get("authenticate", True),
        tls=_tls(parsed, options, from_url=from_url),
        compression=parsed.compression and options.get("compression", True),
        connect_timeout_seconds=options.get(
            "connect_timeout_seconds", Settings.connect_timeout_seconds
        ),
        call_timeout_seconds=options.get("call_timeout_seconds", Settings.call_timeout_seconds),
        in_flight_max=options.get("in_flight_max", Settings.in_flight_max),
        retry_reads=options.get("retry_reads", Settings.retry_reads),
        late_reply_seconds=options.get("late_reply_seconds", Settings.late_reply_seconds),
    )


def _tls(parsed: ConnectionUrl, options: ConnectOptions, *, from_url: bool) -> TlsSettings | None:
    wanted = options.get("ssl", False)
    ca_cert = options.get("ca_cert") or parsed.ca_cert
    client_cert = options.get("client_cert") or parsed.client_cert
    client_key = options.get("client_key") or parsed.client_key
    if not (wanted or parsed.tls):
        if ca_cert:
            asked_by = "ssl=true or --ssl" if from_url else "--ssl"
            raise configuration_error(f"tls_ca_cert requires {asked_by}")
        if client_cert or client_key:
            raise configuration_error("tls client certificate options require ssl=true or --ssl")
        return None
    if bool(client_cert) != bool(client_key):
        raise configuration_error("tls_client_cert and tls_client_key must be provided together")
    if isinstance(wanted, ssl_module.SSLContext):
        if ca_cert or client_cert:
            raise configuration_error("an SSLContext brings its own certificates")
        return TlsSettings(context=wanted)
    return TlsSettings(ca_cert=ca_cert, client_cert=client_cert, client_key=client_key)
