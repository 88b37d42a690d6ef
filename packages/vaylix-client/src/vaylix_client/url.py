"""Connection URLs: `vaylix://[user[:password]@]host[:port][?key=value&...]`.

Commands spec 12.2, with two deliberate differences: user and password are percent-decoded, and a
password that is written but empty (`user:@host`) is an empty password; and `ssl` and `auth` take
nothing but true and false, since `ssl=yes` would else connect in clear. Path and fragment are
ignored, and so are unknown query keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from vaylix_client.errors import configuration_error, url_error

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "ConnectionUrl", "parse_url"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 9173
_OUTPUTS = ("plain", "table", "json")


@dataclass(frozen=True, kw_only=True)
class ConnectionUrl:
    """What a URL says. `None` means that it says nothing."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    authenticate: bool = True
    compression: bool = True
    output: str | None = None


def parse_url(text: str) -> ConnectionUrl:
    """Read a URL.

    Raise `ConfigurationError`: CLI-003 for what is no URL, CLI-008 for another scheme and for a
    switch that is neither true nor false.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
        user = _decoded(parts.username)
        password = _decoded(parts.password)
        query = parse_qsl(parts.query, keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise url_error(f"invalid URL: {error}") from error
    if not parts.scheme:
        raise url_error("invalid URL: relative URL without a base")
    if parts.scheme != "vaylix":
        raise configuration_error("unsupported URL scheme")
    if host is None and parts.netloc:
        raise url_error("invalid URL: empty host")
    return ConnectionUrl(
        host=host or DEFAULT_HOST,
        port=DEFAULT_PORT if port is None else port,
        user=user or None,
        password=password,
        tls=_switches(query, "ssl")[:1] == [True],
        ca_cert=_first(query, "ca_cert", "") or None,
        client_cert=_first(query, "client_cert", "") or None,
        client_key=_first(query, "client_key", "") or None,
        authenticate=all(_switches(query, "auth")),
        compression=not any(k == "compression" and v.lower() == "none" for k, v in query),
        output=next((v for k, v in query if k == "output" and v in _OUTPUTS), None),
    )


def _decoded(part: str | None) -> str | None:
    return None if part is None else unquote(part, errors="strict")


def _first(query: list[tuple[str, str]], name: str, default: str) -> str:
    return next((value for key, value in query if key == name), default)


def _switches(query: list[tuple[str, str]], name: str) -> list[bool]:
    """Return all values of a switch, in their order."""
    values = [value for key, value in query if key == name]
    for value in values:
        if value.lower() not in {"true", "false"}:
            raise configuration_error(
                f"the URL says {name}={value}; write {name}=true or {name}=false"
            )
    return [value.lower() == "true" for value in values]
