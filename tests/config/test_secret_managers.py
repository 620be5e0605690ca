"""Secrets managers by reference: AWS Secrets Manager over HTTP (moto), Vault by its documented answers; nothing is ever told.

A real Vault or OpenBao cannot be had in a test's time: these tests hold our side of its KV version 2 API only.
"""

from __future__ import annotations

import json
import logging
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fhir_writeback_dagster.config.secrets import resolve
from fhir_writeback_dagster.errors import SecretError

VALUE = "hunter2-of-mercy"


@pytest.fixture(scope="module")
def aws_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(aws_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the secrets manager that references reach."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": aws_server,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return boto3.session.Session().client("secretsmanager")


def test_a_secret_of_aws_is_read_anew_each_time_and_by_its_stage(aws: Any, tmp_path: Path) -> None:
    aws.create_secret(Name="mercy/client", SecretString="old")
    assert resolve("aws-sm:mercy/client", tmp_path).reveal() == b"old"
    aws.put_secret_value(SecretId="mercy/client", SecretString=VALUE)
    assert resolve("aws-sm:mercy/client", tmp_path).reveal() == VALUE.encode()
    assert resolve("aws-sm:mercy/client#AWSPREVIOUS", tmp_path).reveal() == b"old"


def test_a_binary_secret_and_one_by_its_arn(aws: Any, tmp_path: Path) -> None:
    made = aws.create_secret(Name="mercy/key", SecretBinary=b"\x00\x01")
    assert resolve(f"aws-sm:{made['ARN']}#AWSCURRENT", tmp_path).reveal() == b"\x00\x01"


def test_what_aws_refuses_is_told_by_its_code(aws: Any, tmp_path: Path) -> None:
    with pytest.raises(SecretError, match=r"aws-sm:mercy/none: ResourceNotFoundException \[secret_unread\]"):
        resolve("aws-sm:mercy/none", tmp_path)


class _Kv(BaseHTTPRequestHandler):
    secrets: dict[str, dict[str, str]]

    def do_GET(self) -> None:
        known = self.headers.get("X-Vault-Token") == "t0ken"
        found = self.secrets.get(self.path) if known else None
        status = 200 if found else 404 if known else 403
        metadata = {"created_time": "2026-01-01T00:00:00Z", "deletion_time": "", "destroyed": False, "version": 2}
        body = json.dumps({"data": {"data": found, "metadata": metadata}} if found else {"errors": [VALUE]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, str]]]:
    """Path → data, as Vault's KV version 2 would show it at that address."""
    secrets: dict[str, dict[str, str]] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Kv", (_Kv,), {"secrets": secrets}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("VAULT_TOKEN", "t0ken")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    yield secrets
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_key_of_a_secret_in_vault_is_read_anew_each_time_and_past_any_proxy(
    vault: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    vault["/v1/kv/data/mercy/ehr"] = {"client": "old", "other": "x"}
    assert resolve("vault:kv/mercy/ehr#client", tmp_path).reveal() == b"old"
    vault["/v1/kv/data/mercy/ehr"] = {"client": VALUE}
    assert resolve("vault:kv/mercy/ehr#client", tmp_path).reveal() == VALUE.encode()


@pytest.mark.parametrize(
    ("reference", "token", "code"),
    [
        ("vault:kv/mercy/ehr#none", "t0ken", "secret_missing"),
        ("vault:kv/nobody#client", "t0ken", "secret_unread"),
        ("vault:kv/mercy/ehr#client", "wrong", "secret_unread"),
        ("vault:kv/mercy/ehr#client", "", "vault_not_configured"),
    ],
)
def test_what_vault_does_not_give_is_said_without_a_value(
    vault: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, token: str, code: str
) -> None:
    vault["/v1/kv/data/mercy/ehr"] = {"client": VALUE}
    monkeypatch.setenv("VAULT_TOKEN", token)
    with pytest.raises(SecretError) as raised:
        resolve(reference, tmp_path)
    assert raised.value.code == code
    assert VALUE not in "".join(traceback.format_exception(raised.value))
    assert raised.value.__cause__ is None


def test_a_secrets_manager_that_does_not_answer_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:9")
    monkeypatch.setenv("VAULT_TOKEN", "t0ken")
    with pytest.raises(SecretError, match=r"ConnectionError \[secret_unread\]"):
        resolve("vault:kv/mercy/ehr#client", tmp_path)
