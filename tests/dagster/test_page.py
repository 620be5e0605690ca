"""Dagster's page as `up` serves it, attacked: from another web site, by another name, without a token; and used as before."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import dagster as dg
import httpx
import pytest
from support import eventually, make_home, write_tenant

from fhir_writeback_dagster.ops.configuration import ANY_PORT, load_configuration
from fhir_writeback_dagster.ops.postgres import forget
from fhir_writeback_dagster.ops.running import Running, link_of_running, running

pytestmark = pytest.mark.timeout(600)

LAUNCH = """mutation ($job: ExecutionParams!) { launchPipelineExecution(executionParams: $job) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TYPENAME = "{ version }"
WIPE = 'mutation { shutdownRepositoryLocation(repositoryLocationName: "commit") { __typename } }'
PROXY_TOKEN = "a-token-that-the-operators-proxy-sends"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = make_home(tmp_path_factory.mktemp("page"))
    write_tenant(home, "mercy")
    behind = {"FHIR_WRITEBACK_WEB_HOSTS": "dagster.hospital.example", "FHIR_WRITEBACK_WEB_TOKEN": PROXY_TOKEN}
    with running(load_configuration(home, behind, ANY_PORT), lambda _: None, durable=False) as everything:
        yield everything
    forget(home)


@pytest.fixture
def client(up: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=up.web_url, trust_env=False, timeout=60) as made:
        yield made


@pytest.fixture
def browser(up: Running, client: httpx.Client) -> httpx.Client:
    """One that has opened the link."""
    assert client.get(up.link()).status_code == HTTPStatus.OK
    return client


def _post(client: httpx.Client, query: str, headers: dict[str, str], **variables: Any) -> httpx.Response:
    return client.post("/graphql", json={"query": query, "variables": variables}, headers=headers)


def _job(job: str, location: str) -> dict[str, Any]:
    return {
        "selector": {"repositoryLocationName": location, "repositoryName": "__repository__", "jobName": job},
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "mercy"}]},
        "runConfigData": {},
    }


@pytest.mark.parametrize(
    "path", ["/", "/graphql", "/server_info", "/runs", "/logs/x/y", "/download_debug/x", "/graphql?query={x}"]
)
def test_without_a_token_nothing_is_shown(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.METHOD_NOT_ALLOWED}
    assert _post(client, TYPENAME, {}).status_code == HTTPStatus.UNAUTHORIZED
    assert _post(client, TYPENAME, {"Authorization": "Bearer guess"}).status_code == HTTPStatus.UNAUTHORIZED
    assert client.post("/report_asset_materialization/ehr_mirror").status_code == HTTPStatus.UNAUTHORIZED


def test_a_link_works_once_and_leaves_a_cookie_that_no_script_and_no_other_site_uses(up: Running, client: httpx.Client) -> None:
    link = up.link()
    answer = client.get(link)
    assert answer.status_code == HTTPStatus.OK
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "token" not in client.get("/").text
    with httpx.Client(base_url=up.web_url, trust_env=False) as thief:
        assert thief.get(link).status_code == HTTPStatus.UNAUTHORIZED
    assert client.get("/").status_code == HTTPStatus.OK
    assert "dagster" in client.get("/").text.lower()


def test_a_link_and_a_session_are_not_the_same_thing(up: Running, client: httpx.Client) -> None:
    link_token = up.link().partition("token=")[2]
    assert client.get("/", headers={"Authorization": f"Bearer {link_token}"}).status_code == HTTPStatus.UNAUTHORIZED
    session = up.web_headers()["Authorization"].removeprefix("Bearer ")
    assert client.get(f"/fhir-writeback/login?token={session}").status_code == HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine is the same site
        {},  # a browser that does not say where a request comes from
    ],
)
def test_another_web_site_launches_nothing_in_the_browser_of_somebody_who_is_logged_in(
    browser: httpx.Client, up: Running, headers: dict[str, str]
) -> None:
    with _instance(up) as instance:
        before = instance.get_runs_count()
        for query, variables in ((LAUNCH, {"job": _job("audit_job", "audit")}), (WIPE, {})):
            assert _post(browser, query, headers, **variables).status_code == HTTPStatus.FORBIDDEN
        form = {"Content-Type": "text/plain"} | headers
        assert browser.post("/graphql", params={"query": WIPE}, headers=form).status_code in {
            HTTPStatus.FORBIDDEN,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        }
        assert instance.get_runs_count() == before


def test_nothing_is_changed_by_get(browser: httpx.Client) -> None:
    assert browser.get("/graphql", params={"query": WIPE}).status_code == HTTPStatus.METHOD_NOT_ALLOWED
    assert browser.get("/graphql", params={"query": TYPENAME}).status_code == HTTPStatus.METHOD_NOT_ALLOWED


@pytest.mark.parametrize("host", ["evil.example", "evil.example:3000", "127.0.0.1.evil.example", ""])
def test_a_name_that_was_pointed_to_this_machine_is_not_this_page(browser: httpx.Client, host: str) -> None:
    assert browser.get("/", headers={"Host": host}).status_code == HTTPStatus.MISDIRECTED_REQUEST
    answer = _post(browser, TYPENAME, {"Host": host, "Origin": f"http://{host}"})
    assert answer.status_code == HTTPStatus.MISDIRECTED_REQUEST


def test_the_page_is_shown_in_no_other_sites_frame(browser: httpx.Client) -> None:
    assert browser.get("/").headers["x-frame-options"] == "DENY"


def test_a_partition_that_is_no_tenant_is_refused(up: Running, client: httpx.Client) -> None:
    at = 'repositorySelector: {repositoryLocationName: "ingest", repositoryName: "__repository__"}, partitionsDefName: "tenant"'
    add = f'mutation {{ addDynamicPartition({at}, partitionKey: "Jane Doe 1931-04-17") {{ __typename }} }}'
    remove = add.replace("addDynamicPartition", "deleteDynamicPartitions").replace('partitionKey: "', 'partitionKeys: ["')
    for query in (add, remove):
        answer = _post(client, query, up.web_headers())
        assert answer.status_code == HTTPStatus.FORBIDDEN
        assert "tenants/<tenant>.yaml" in answer.text
    with _instance(up) as instance:
        assert instance.get_dynamic_partitions("tenant") == ["mercy"]


@pytest.mark.parametrize("how", ["cookie", "token", "proxy"])
def test_a_data_engineer_materialises_as_before(up: Running, client: httpx.Client, how: str) -> None:
    headers = {
        "cookie": {"Origin": up.web_url, "Sec-Fetch-Site": "same-origin"},
        "token": up.web_headers(),
        "proxy": {
            "Host": "dagster.hospital.example",
            "Origin": "https://dagster.hospital.example",
            "Authorization": f"Bearer {PROXY_TOKEN}",
        },
    }[how]
    if how == "cookie":
        client.get(up.link())
    answer = _post(client, LAUNCH, headers, job=_job("audit_job", "audit"))
    assert answer.status_code == HTTPStatus.OK, answer.text
    run_id = answer.json()["data"]["launchPipelineExecution"]["run"]["runId"]
    with _instance(up) as instance:

        def ended() -> bool:
            run = instance.get_run_by_id(run_id)
            return bool(run and run.is_finished)

        eventually(ended, "the run ended", timeout_s=180)
        run = instance.get_run_by_id(run_id)
        assert run
        assert run.is_success


def test_a_websocket_of_another_site_is_refused_and_ours_only_subscribes(up: Running) -> None:
    def dial(**headers: str) -> tuple[socket.socket, bytes]:
        port = int(up.web_url.rpartition(":")[2])
        connection = socket.create_connection(("127.0.0.1", port), timeout=20)
        lines = {
            "Host": f"127.0.0.1:{port}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol": "graphql-ws",
        } | headers
        text = "GET /graphql HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        connection.sendall(text.encode())
        return connection, connection.recv(4096)

    mine = up.web_headers()
    for headers in ({}, {"Origin": "https://evil.example"}, {**mine, "Origin": "https://evil.example"}):
        connection, said = dial(**headers)
        connection.close()
        assert b" 101 " not in said
    connection, said = dial(**mine, Origin=up.web_url)
    with connection:
        assert b" 101 " in said
        start = {"type": "start", "id": "1", "payload": {"query": WIPE}}
        connection.sendall(_frame(json.dumps({"type": "connection_init"})) + _frame(json.dumps(start)))
        heard = b""
        try:
            while part := connection.recv(4096):
                heard += part
        except OSError:
            pytest.fail("a socket that sent a mutation stays open")
        assert b"__typename" not in heard


def _frame(text: str) -> bytes:
    """A masked text frame (RFC 6455) with a mask of zeros."""
    body = text.encode()
    length = bytes([0x80 | len(body)]) if len(body) < 126 else bytes([0x80 | 126]) + len(body).to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + body


def test_the_link_can_be_had_again_from_the_state_folder_and_only_there(up: Running) -> None:
    link = link_of_running(up.state)
    assert link
    assert httpx.get(link, trust_env=False).status_code == HTTPStatus.OK
    assert oct((up.state.path / "web.secret").stat().st_mode & 0o777) == "0o600"


def _instance(up: Running) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FHIR_WRITEBACK_DSN_DAGSTER", up.dsns.of("dagster"))
        return dg.DagsterInstance.from_config(str(up.services.folder))
