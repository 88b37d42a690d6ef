from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Unpack
from urllib.parse import urlencode

import pytest
import trustme
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization

from vaylix_client import (
    ConfigurationError,
    ConnectError,
    ConnectOptions,
    Pool,
    blocking,
    connect,
)
from vaylix_client.shell import main
from vaylix_client.testing import ToyServer, toy_server_thread

if TYPE_CHECKING:
    from pathlib import Path


class Certificates:
    """An authority, a server of its, and a client of its."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca_cert = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca_cert)
        client = self.authority.issue_cert("client@example.org")
        self.client_cert, self.client_key = folder / "client.pem", folder / "client.key"
        client.cert_chain_pems[0].write_to_path(self.client_cert)
        client.private_key_pem.write_to_path(self.client_key)
        another = self.authority.issue_cert("another@example.org")
        another.private_key_pem.write_to_path(folder / "another.key")

    def server_context(self, *, mutual: bool = False, name: str = "127.0.0.1") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(name).configure_cert(context)
        if mutual:
            context.verify_mode = ssl.CERT_REQUIRED
            self.authority.configure_trust(context)
        return context

    def url(self, server_url: str, *, mutual: bool) -> str:
        """Return a URL that says everything about TLS, and says nothing through options."""
        query = {"ssl": "true", "ca_cert": str(self.ca_cert)}
        if mutual:
            query |= {"client_cert": str(self.client_cert), "client_key": str(self.client_key)}
        return f"{server_url}?{urlencode(query)}"

    def mutual(self) -> ConnectOptions:
        return {
            "ssl": True,
            "ca_cert": self.ca_cert,
            "client_cert": self.client_cert,
            "client_key": self.client_key,
            "compression": False,
        }


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


async def test_tls_with_the_authority_of_the_server(certificates: Certificates) -> None:
    async with ToyServer(tls=certificates.server_context()) as server:
        url = f"{server.url}?ssl=true&ca_cert={certificates.ca_cert}"
        async with await connect(url) as client, Pool(url) as pool:
            await client.set("k", bytes(100_000))
            assert await pool.get("k") == bytes(100_000)


async def test_mutual_tls(certificates: Certificates) -> None:
    async with ToyServer(tls=certificates.server_context(mutual=True)) as server:
        async with await connect(server.url, **certificates.mutual()) as client:
            assert await client.ping() == "PONG"
        with pytest.raises(ConnectError) as caught:
            await connect(server.url, ssl=True, ca_cert=certificates.ca_cert)
        assert caught.value.code in {"TRN-007", "TRN-013"}


async def test_mutual_tls_by_the_url_alone(certificates: Certificates) -> None:
    async with ToyServer(tls=certificates.server_context(mutual=True)) as server:
        url = certificates.url(server.url, mutual=True)
        async with await connect(url) as client, Pool(url) as pool:
            assert await client.ping() == await pool.ping() == "PONG"
        with pytest.raises(ConnectError):
            await connect(certificates.url(server.url, mutual=False))


def test_mutual_tls_by_the_url_alone_in_a_thread(certificates: Certificates) -> None:
    with toy_server_thread(ToyServer(tls=certificates.server_context(mutual=True))) as server:
        with blocking.connect(certificates.url(server.url, mutual=True)) as client:
            assert client.ping() == "PONG"
        with pytest.raises(ConnectError):
            blocking.connect(certificates.url(server.url, mutual=False))


def test_the_blocking_client_does_tls_and_large_pipelines_over_it(
    certificates: Certificates,
) -> None:
    with toy_server_thread(ToyServer(tls=certificates.server_context(mutual=True))) as server:
        with blocking.connect(server.url, **certificates.mutual()) as client:
            value = bytes(60_000)
            with client.pipeline() as pipe:
                for number in range(50):
                    pipe.set(f"k{number}", value)
                    pipe.get(f"k{number}")
            assert pipe.results == [None, value] * 50
        with pytest.raises(ConnectError):
            blocking.connect(server.url, ssl=True, ca_cert=certificates.ca_cert)


async def test_a_context_of_ones_own(certificates: Certificates) -> None:
    context = ssl.create_default_context(cafile=certificates.ca_cert)
    async with (
        ToyServer(tls=certificates.server_context()) as server,
        await connect(server.url, ssl=context) as client,
    ):
        assert await client.ping() == "PONG"


UNKNOWN_AUTHORITY = "unable to get local issuer certificate"
ANOTHER_NAME = "IP address mismatch, certificate is not valid for '127.0.0.1'"


@pytest.mark.parametrize(
    ("ca_cert", "name", "why"),
    [
        ("ca.pem", "example.org", ANOTHER_NAME),
        ("unrelated.pem", "127.0.0.1", UNKNOWN_AUTHORITY),
        (None, "127.0.0.1", UNKNOWN_AUTHORITY),
    ],
    ids=["another name", "an unrelated authority", "the authorities of the system"],
)
def test_a_certificate_that_does_not_fit_is_refused_with_the_reason(
    certificates: Certificates, ca_cert: str | None, name: str, why: str
) -> None:
    trustme.CA().cert_pem.write_to_path(certificates.folder / "unrelated.pem")
    options: ConnectOptions = {"ssl": True}
    flags = ["--ssl"]
    if ca_cert is not None:
        options["ca_cert"] = certificates.folder / ca_cert
        flags += ["--tls-ca-cert", str(options["ca_cert"])]
    with toy_server_thread(ToyServer(tls=certificates.server_context(name=name))) as server:
        with pytest.raises(ConnectError) as blocking_refusal:
            blocking.connect(server.url, **options)
        with pytest.raises(ConnectError) as asyncio_refusal:
            asyncio.run(connect(server.url, **options))
        shell = CliRunner().invoke(main, ["--port", str(server.port), *flags], input="")
    for error in (blocking_refusal.value, asyncio_refusal.value):
        assert error.code == "TRN-013"
        assert error.message.endswith(f"CERTIFICATE_VERIFY_FAILED: {why}")
        assert not error.retryable
    assert shell.exit_code == 1
    assert shell.stderr.endswith(f"CERTIFICATE_VERIFY_FAILED: {why}\n")


async def test_a_plain_client_at_a_tls_server_and_the_other_way_round(
    certificates: Certificates,
) -> None:
    async with ToyServer(tls=certificates.server_context()) as server:
        with pytest.raises(ConnectError) as caught:
            await connect(server.url, connect_timeout_seconds=2.0)
        assert caught.value.code in {"TRN-001", "TRN-007", "TRN-013"}
    async with ToyServer() as server:
        with pytest.raises(ConnectError) as caught:
            await connect(server.url, ssl=True, ca_cert=certificates.ca_cert)
        assert caught.value.code == "TRN-013"


def test_certificate_files_that_are_unusable(certificates: Certificates, tmp_path: Path) -> None:
    def refused(**options: Unpack[ConnectOptions]) -> str:
        with pytest.raises(ConfigurationError) as caught:
            blocking.connect("vaylix://127.0.0.1:1?ssl=true", **options)
        assert caught.value.code == "CLI-003"
        assert not caught.value.retryable
        return caught.value.message

    empty, missing, junk = (tmp_path / name for name in ("empty.pem", "missing.pem", "junk.pem"))
    empty.touch()
    junk.write_text("no certificate")
    certificate, key = certificates.client_cert, certificates.client_key
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    head = "filesystem I/O failed: "
    absent = "No such file or directory (os error 2); give the path of a file that can be read"
    assert refused(ca_cert=missing) == f"{head}CA certificate file {missing}: {absent}"
    assert refused(client_cert=missing, client_key=key) == (
        f"{head}client certificate file {missing}: {absent}"
    )
    assert refused(client_cert=certificate, client_key=missing) == (
        f"{head}client key file {missing}: {absent}"
    )
    assert refused(ca_cert=tmp_path).startswith(f"{head}CA certificate file {tmp_path}: Is a dir")
    assert refused(ca_cert=junk) == (
        f"{head}CA certificate file {junk}: NO_CERTIFICATE_OR_CRL_FOUND;"
        " it must be a PEM file of certificates"
    )
    assert refused(client_cert=empty, client_key=key) == f"{head}client certificate file is empty"
    another = certificates.folder / "another.key"
    for bad_certificate, bad_key in (
        *((key, key), (junk, key), (certificate, junk)),
        *((certificate, locked), (certificate, another)),
    ):
        message = refused(client_cert=bad_certificate, client_key=bad_key)
        assert message.startswith(f"{head}client certificate and key {bad_certificate}, {bad_key}:")
        assert message.endswith("the key unencrypted and that of the certificate")
