"""TLS to the EHR: nothing older than 1.2, the hospital's own authority, our certificate; and nowhere that is not ours to go."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from commit.faults import FaultyLine, Say
from commit.world import World
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fhir_writeback_dagster.commit.fhir_client import open_ehr
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.errors import ConfigError, TargetError


class Authority:
    """A certificate authority that signs for 127.0.0.1 and for clients."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        self.pem = self._sign(self._name, self._key, ca=True)

    def issue(self, name: str) -> bytes:
        """A certificate and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, ca=False)
        plain = serialization.NoEncryption()
        return pem + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> bytes:
        now = dt.datetime.now(dt.UTC)

        local = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(local, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        """A token for whoever came with a certificate and says who it is."""
        form = self.rfile.read(int(self.headers["Content-Length"]))
        known = self.connection.getpeercert() and b"client_id=us" in form and b"secret" not in form and b"assertion" not in form
        body = b'{"access_token": "by-certificate", "expires_in": 60}' if known else b'{"error": "invalid_client"}'
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _https(
    folder: Path, certificate: bytes, *, clients: bytes | None = None, newest: ssl.TLSVersion | None = None
) -> Iterator[str]:
    (folder / "server.pem").write_bytes(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients.decode())
    if newest:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = newest
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hello)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}/fhir"
    server.shutdown()
    server.server_close()
    thread.join()


def _status(world: World) -> int:
    async def work() -> int:
        async with open_ehr(world.run) as ehr:
            return (await ehr.send(Request("GET", "metadata"))).status

    return asyncio.run(work())


def _ends(world: World) -> str:
    try:
        return str(_status(world))
    except Exception as error:  # noqa: BLE001 - its code is what is looked at
        return str(getattr(error, "code", error))


@pytest.fixture
def on(make_world: Callable[..., World], home: Path, authority: Authority) -> Callable[..., World]:
    """``on(url)``: a tenant there who knows the authority."""
    (home / "ca.pem").write_bytes(authority.pem)

    def make(url: str, **ehr: Any) -> World:
        return make_world(ehr={"base_url": url, "ca_file": "ca.pem", "auth": {"type": "none"}} | ehr)

    return make


def test_a_hospitals_own_authority_is_believed_where_the_tenant_names_it(
    on: Callable[..., World], authority: Authority, tmp_path: Path
) -> None:
    with _https(tmp_path, authority.issue("ehr")) as url:
        assert _ends(on(url)) == "200"
        assert _ends(on(url, ca_file=None)) == "tls_failed"


def test_an_ehr_that_asks_for_our_certificate_gets_it(
    on: Callable[..., World], authority: Authority, home: Path, tmp_path: Path
) -> None:
    ours = home / "keys" / "us.pem"
    ours.touch(mode=0o600)
    ours.write_bytes(authority.issue("us"))
    with _https(tmp_path, authority.issue("ehr"), clients=authority.pem) as url:
        assert _ends(on(url, auth={"type": "none", "certificate": "file://keys/us.pem"})) == "200"
        assert _ends(on(url)) in ("connection_lost", "tls_failed")
    assert not list(Path("/tmp").glob("*/client.pem")), "OpenSSL's copy of the key is gone"


def test_the_certificate_alone_gets_a_token(on: Callable[..., World], authority: Authority, home: Path, tmp_path: Path) -> None:
    ours = home / "keys" / "us.pem"
    ours.touch(mode=0o600)
    ours.write_bytes(authority.issue("us"))
    with _https(tmp_path, authority.issue("ehr"), clients=authority.pem) as url:
        auth = {
            "type": "mtls",
            "client_id": "us",
            "certificate": "file://keys/us.pem",
            "private_key": None,
            "token_endpoint": f"{url}/token",
        }
        world = on(url, auth=auth)
        assert _ends(world) == "200"
        ours.write_bytes(authority.issue("us"))
        assert _ends(world) == "200"
    assert [name for name in world.events("ehr") if name == "credential.rotated"] == ["credential.rotated"]


@pytest.fixture
def ours(home: Path, authority: Authority) -> Path:
    """Our certificate, where tenants name it."""
    file = home / "keys" / "us.pem"
    file.touch(mode=0o600)
    file.write_bytes(authority.issue("us"))
    return file


@pytest.mark.parametrize("kind", ["none", "mtls"])
def test_a_certificate_that_is_refused_in_the_middle_of_a_run_is_read_again(
    on: Callable[..., World], authority: Authority, ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The EHR revokes the former one just when the new one is put in its place."""
    fresh = authority.issue("us")
    former, now = map(_der, (ours.read_bytes(), fresh))
    seen: list[bytes | None] = []

    def get(request: _Hello) -> None:
        seen.append(request.connection.getpeercert(binary_form=True))
        ours.write_bytes(fresh)
        request.send_response(401 if seen[-1] == former else 200)
        request.send_header("Content-Length", "2")
        request.end_headers()
        request.wfile.write(b"{}")

    monkeypatch.setattr(_Hello, "do_GET", get)
    with _https(tmp_path, authority.issue("ehr"), clients=authority.pem) as url:
        auth = {"type": kind, "client_id": "us", "certificate": "file://keys/us.pem", "token_endpoint": f"{url}/token"}
        assert _ends(on(url, auth=auth | {"private_key": None})) == "200"
    assert seen == [former, now]


def _der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


def test_the_rotation_of_a_certificate_beside_another_credential_is_told(
    on: Callable[..., World], authority: Authority, ours: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "keys" / "client.secret").touch(mode=0o600)
    (home / "keys" / "client.secret").write_text("hunter2")
    auth = {"type": "client_secret", "client_id": "us", "client_secret": "file://keys/client.secret", "private_key": None}

    def token(request: _Hello) -> None:
        request.rfile.read(int(request.headers["Content-Length"]))
        body = b'{"access_token": "t", "expires_in": 60}'
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    monkeypatch.setattr(_Hello, "do_POST", token)
    with _https(tmp_path, authority.issue("ehr"), clients=authority.pem) as url:
        world = on(url, auth=auth | {"certificate": "file://keys/us.pem", "token_endpoint": f"{url}/token"})
        assert _ends(world) == "200"
        assert _ends(world) == "200"
        assert "credential.rotated" not in world.events("ehr")
        ours.write_bytes(authority.issue("us"))
        assert _ends(world) == "200"
    assert world.events("ehr").count("credential.rotated") == 1


@pytest.mark.parametrize("content", ["", "hunter2", "-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_said_without_a_part_of_it(on: Callable[..., World], home: Path, content: str) -> None:
    ours = home / "keys" / "us.pem"
    ours.touch(mode=0o600)
    ours.write_text(content)
    with pytest.raises(ConfigError) as raised:
        _status(on("https://127.0.0.1:9/fhir", auth={"type": "none", "certificate": "file://keys/us.pem"}))
    assert "ehr.auth.certificate" in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_older_than_1_2_is_refused(on: Callable[..., World], authority: Authority, tmp_path: Path) -> None:
    with _https(tmp_path, authority.issue("ehr"), newest=ssl.TLSVersion.TLSv1_1) as url:
        assert _ends(on(url)) in ("tls_failed", "connection_lost", "unreachable")


def test_a_sandbox_cannot_reach_a_production_host(on: Callable[..., World], make_tenant: Callable[..., Tenant]) -> None:
    make_tenant(ehr={"base_url": "https://ehr.mercy.example/fhir", "sandbox": False})
    for url in ("https://ehr.mercy.example/other", "http://EHR.mercy.example:8080/fhir"):
        with pytest.raises(TargetError, match="production tenant's, and this is a sandbox"):
            _status(on(url))


def test_a_sandbox_is_not_led_to_a_production_host_by_what_it_is_told(
    on: Callable[..., World], make_tenant: Callable[..., Tenant], line: FaultyLine
) -> None:
    make_tenant(ehr={"base_url": "https://ehr.mercy.example/fhir", "sandbox": False})
    told = b'{"token_endpoint": "https://ehr.mercy.example/token"}'
    line.always("GET", ".well-known", Say(200, (("Content-Type", "application/json"),), told))
    auth = {"type": "smart_backend", "client_id": "us", "private_key": "file://keys/client.jwk"}
    with pytest.raises(TargetError, match="production tenant's"):
        _status(on(line.base_url, ca_file=None, auth=auth))
