"""TLS to one EHR: at least 1.2, the usual authorities or the hospital's own, and our certificate where the EHR asks for one."""

from __future__ import annotations

import hashlib
import os
import ssl
import tempfile
from pathlib import Path

import httpx

from fhir_writeback_dagster.config.secrets import resolve
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.errors import ConfigError


def client_context(tenant: Tenant | None = None, home: Path = Path()) -> ssl.SSLContext:
    """The context for a tenant's EHR; nothing of the process's environment has a say in it.

    :raises ConfigError: its authority or certificate is missing or is none.
    """
    context = httpx.create_ssl_context(trust_env=False)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tenant is None:
        return context
    where = f"tenants/{tenant.tenant}.yaml ehr"
    if tenant.ehr.ca_file:
        try:
            context.load_verify_locations(cafile=str(home / tenant.ehr.ca_file))
        except (OSError, ssl.SSLError):
            raise _bad(f"{where}.ca_file", "no readable PEM certificate") from None
    if tenant.ehr.auth.certificate:
        _load(context, resolve(tenant.ehr.auth.certificate, home).reveal(), f"{where}.auth.certificate")
    return context


def certificate_of(tenant: Tenant, home: Path) -> str:
    """Tells one certificate of ours from another, and is safe to keep; empty where the tenant names none.

    :raises SecretError: its reference does not resolve.
    """
    reference = tenant.ehr.auth.certificate
    return hashlib.sha256(resolve(reference, home).reveal()).hexdigest() if reference else ""


def _load(context: ssl.SSLContext, pem: bytes, where: str) -> None:
    """OpenSSL takes a certificate and its key from files only: one that nobody else can open, and that is gone at once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "client.pem"
        path.touch(mode=0o600)
        path.write_bytes(pem)
        try:
            context.load_cert_chain(os.fspath(path), password=_no_password)
        except (OSError, ssl.SSLError, ValueError):
            raise _bad(where, "no PEM of a certificate and its unencrypted key") from None


def _no_password() -> str:
    raise ValueError("encrypted")


def _bad(where: str, what: str) -> ConfigError:
    return ConfigError("bad_certificate", what, where=where, fix="put PEM there: the certificate with its chain, and its key")
