"""From flags and URL to settings (commands spec 12.1 to 12.3). Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vaylix_client._settings import ConnectOptions, Settings, merge
from vaylix_client.url import ConnectionUrl, parse_url
from vaylix_protocol.grammar import OutputMode

__all__ = ["Flags", "ShellSettings", "shell_settings"]

# The published client waits as long as it takes for a reply; a snapshot may take minutes. Only a
# server that cannot be reached is given up.
_CALL_TIMEOUT_SECONDS = None


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags as they were typed; `None` and false mean "not given"."""

    url: str | None = None
    host: str
    port: int
    ssl: bool = False
    tls_ca_cert: str | None = None
    tls_client_cert: str | None = None
    tls_client_key: str | None = None
    user: str | None = None
    password: str | None = None
    disable_auth: bool = False
    disable_compression: bool = False
    output: str = OutputMode.PLAIN.value


@dataclass(frozen=True, kw_only=True)
class ShellSettings:
    """What the shell needs to know."""

    connection: Settings
    output: OutputMode


def shell_settings(flags: Flags) -> ShellSettings:
    """Merge flags and URL. Raise `ConfigurationError` (CLI-003, CLI-008).

    With a URL, its host, port and output win; user, password and files of the flags win over its;
    TLS, "no auth" and "no compression" are on when either side asks for them.
    """
    if flags.url is None:
        parsed = ConnectionUrl(host=flags.host, port=flags.port)
    else:
        parsed = parse_url(flags.url)
    options: ConnectOptions = {
        "ssl": flags.ssl,
        "authenticate": not flags.disable_auth,
        "compression": not flags.disable_compression,
    }
    if flags.user is not None:
        options["user"] = flags.user
    if flags.password is not None:
        options["password"] = flags.password
    if flags.tls_ca_cert is not None:
        options["ca_cert"] = flags.tls_ca_cert
    if flags.tls_client_cert is not None:
        options["client_cert"] = flags.tls_client_cert
    if flags.tls_client_key is not None:
        options["client_key"] = flags.tls_client_key
    connection = merge(parsed, options, from_url=flags.url is not None)
    return ShellSettings(
        connection=replace(connection, call_timeout_seconds=_CALL_TIMEOUT_SECONDS),
        output=OutputMode(parsed.output or flags.output),
    )
