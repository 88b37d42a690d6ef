from __future__ import annotations

import pytest

from vaylix_client._settings import ConnectOptions, resolve
from vaylix_client.errors import ConfigurationError
from vaylix_client.url import parse_url


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("vaylix://", "127.0.0.1", 9173),
        ("vaylix://db", "db", 9173),
        ("vaylix://db:1", "db", 1),
        ("vaylix://[::1]:7", "::1", 7),
        ("vaylix://u:p@db:65535/path?x=y#fragment", "db", 65535),
    ],
)
def test_host_and_port_have_defaults(text: str, host: str, port: int) -> None:
    url = parse_url(text)
    assert (url.host, url.port) == (host, port)


def test_credentials_are_percent_decoded() -> None:
    url = parse_url("vaylix://al%40ice:p%3Aw%2F%20d@db")
    assert (url.user, url.password) == ("al@ice", "p:w/ d")


def test_a_written_empty_password_is_empty_and_an_absent_one_is_not_there() -> None:
    assert parse_url("vaylix://bob:@db").password == ""
    assert parse_url("vaylix://bob@db").password is None
    assert parse_url("vaylix://:pw@db").user is None


def test_the_query_is_form_decoded_and_unknown_keys_are_ignored() -> None:
    url = parse_url("vaylix://db?ca_cert=%2Fa+b.pem&colour=red&output=JSON&output=json&ssl=TRUE")
    assert url.ca_cert == "/a b.pem"
    assert url.output == "json"
    assert url.tls
    assert parse_url("vaylix://db?output=JSON&output=table&output=plain").output == "table"


def test_the_first_ssl_counts_but_any_auth_and_compression() -> None:
    assert not parse_url("vaylix://db?ssl=False&ssl=true").tls
    assert parse_url("vaylix://db?ssl=true&ssl=false").tls
    url = parse_url("vaylix://db?auth=TRUE&auth=False&compression=zstd&compression=NONE")
    assert not url.authenticate
    assert not url.compression
    assert parse_url("vaylix://db?auth=true&compression=lz4").authenticate
    values = ("none", "None", "NONE", "zstd", "no", "")
    found = [parse_url(f"vaylix://db?compression={value}").compression for value in values]
    assert found == [False, False, False, True, True, True]


@pytest.mark.parametrize("name", ["ssl", "auth"])
@pytest.mark.parametrize("value", ["yes", "1", "0", "maybe", "", "true ", "tru\u0435", "no"])
def test_a_switch_that_is_neither_true_nor_false_is_refused_by_name(name: str, value: str) -> None:
    # Also behind a good one: who writes it twice does not know which one counts.
    for query in (f"{name}={value}", f"{name}=true&{name}={value}"):
        with pytest.raises(ConfigurationError) as caught:
            parse_url(f"vaylix://db?{query}")
        assert caught.value.code == "CLI-008"
        assert caught.value.message == (
            f"invalid client configuration: the URL says {name}={value}; "
            f"write {name}=true or {name}=false"
        )


@pytest.mark.parametrize(
    "text",
    [
        "vaylix://u:p@",
        "vaylix://u:p@:9173",
        "vaylix://db:70000",
        "vaylix://db:x",
        "vaylix://[::1",
        "vaylix://%ff@db",
        "db:9173x/",
        "",
    ],
)
def test_a_url_that_does_not_parse_is_cli_003(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(text)
    if text.startswith("vaylix"):
        assert caught.value.code == "CLI-003"
        assert caught.value.message.startswith("filesystem I/O failed: ")


def test_another_scheme_is_cli_008() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url("redis://db")
    assert str(caught.value) == (
        "[CLI-008] Invalid Client Configuration: "
        "invalid client configuration: unsupported URL scheme"
    )


@pytest.mark.parametrize(
    ("url", "options", "tail"),
    [
        ("vaylix://db", {"ca_cert": "x"}, "tls_ca_cert requires ssl=true or --ssl"),
        (None, {"ca_cert": "x"}, "tls_ca_cert requires --ssl"),
        (
            "vaylix://db?client_key=k",
            {},
            "tls client certificate options require ssl=true or --ssl",
        ),
        (
            "vaylix://db?ssl=true",
            {"client_cert": "c"},
            "tls_client_cert and tls_client_key must be provided together",
        ),
        # The conditions are checked in the order of the specification.
        (None, {"ca_cert": "x", "client_cert": "c"}, "tls_ca_cert requires --ssl"),
        (
            None,
            {"connect_timeout_seconds": 0},
            "connect_timeout_seconds must be positive and at most 1000000",
        ),
        (
            None,
            {"call_timeout_seconds": -1},
            "call_timeout_seconds must be positive and at most 1000000, or None",
        ),
        (None, {"in_flight_max": 0}, "in_flight_max must be between 1 and 32768"),
        (None, {"in_flight_max": 32769}, "in_flight_max must be between 1 and 32768"),
        (None, {"retry_reads": -1}, "retry_reads must not be negative"),
        (
            None,
            {"late_reply_seconds": 0},
            "late_reply_seconds must be positive and at most 1000000",
        ),
    ],
)
def test_options_that_make_no_sense_are_cli_008(
    url: str | None, options: ConnectOptions, tail: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve(url, options)
    assert caught.value.code == "CLI-008"
    assert caught.value.message == f"invalid client configuration: {tail}"


@pytest.mark.parametrize("seconds", [0.0, 1_000_001, float("inf"), float("nan")])
def test_times_that_no_system_call_can_wait_for_are_refused(seconds: float) -> None:
    options: list[ConnectOptions] = [
        {"connect_timeout_seconds": seconds},
        {"call_timeout_seconds": seconds},
        {"late_reply_seconds": seconds},
    ]
    for one in options:
        with pytest.raises(ConfigurationError, match="must be positive and at most 1000000"):
            resolve(None, one)


def test_options_win_over_the_url_and_switches_add_up() -> None:
    settings = resolve("vaylix://bob:one@db?auth=false", {"user": "eve", "compression": False})
    assert (settings.user, settings.password) == ("eve", "one")
    assert not settings.authenticate
    assert not settings.compression
    default = resolve(None, {})
    assert (default.user, default.password, default.tls) == ("vaylix", "vaylix", None)


def test_the_password_is_not_part_of_the_representation() -> None:
    assert "hunter2" not in repr(resolve("vaylix://a:hunter2@db", {}))
    assert "hunter2" not in repr(parse_url("vaylix://a:hunter2@db"))
