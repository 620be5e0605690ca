"""SMART Backend Services against a real authorization server: tokens, scopes, keys; nothing of a key in any text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from commit.faults import FaultyLine, Say, Seen
from commit.world import World, heart_rate, patient
from joserfc.jwk import ECKey, RSAKey

from fhir_writeback_dagster.commit.auth.scopes import missing
from fhir_writeback_dagster.commit.auth.tokens import TokenClient, Tokens
from fhir_writeback_dagster.commit.fhir_client import FhirClient, open_ehr
from fhir_writeback_dagster.commit.http.egress import Egress
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.commit.http.transport import Http
from fhir_writeback_dagster.errors import ConfigError, SecretError, TargetError
from fhir_writeback_dagster.sandbox.keys import make_client_key
from fhir_writeback_dagster.sandbox.servers.sekmet import CLIENT_ID, Sekmet

AT = "2024-03-01T10:00:00Z"


@pytest.fixture
def key_file(home: Path) -> Path:
    return home / "keys" / "client.jwk"


async def _with(world: World, work: Callable[[FhirClient], Any]) -> Any:
    async with open_ehr(world.run) as ehr:
        return await work(ehr)


def _token_requests(world: World, work: Callable[[FhirClient], Any]) -> int:
    async def count() -> int:
        async with open_ehr(world.run) as ehr:
            await work(ehr)
            return ehr._tokens.fetched

    return asyncio.run(count())


def test_many_requests_share_one_token(world: World) -> None:
    async def many(ehr: FhirClient) -> None:
        answers = await asyncio.gather(*(ehr.send(Request("GET", "Patient/none")) for _ in range(20)))
        assert {answer.status for answer in answers} == {404}

    assert _token_requests(world, many) == 1


def test_a_refused_token_is_renewed_once_for_all_and_the_same_request_goes_again(faulty: World, line: FaultyLine) -> None:
    refused: list[str] = []

    def first_token(seen: Seen) -> Say | None:
        if seen.method != "GET" or not seen.path.startswith("Patient"):
            return None
        refused[:] = refused or [seen.headers["authorization"]]
        return Say(401) if seen.headers["authorization"] == refused[0] else None

    line.rules.append(first_token)

    async def many(ehr: FhirClient) -> None:
        answers = await asyncio.gather(*(ehr.send(Request("GET", "Patient/none")) for _ in range(3)))
        assert {answer.status for answer in answers} == {404}

    assert _token_requests(faulty, many) == 2


def test_a_token_that_expires_during_a_write_is_renewed_and_written_once(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", Say(401))
    assert faulty.commit().counts["created"] == 1
    assert len(faulty.in_ehr(wanted.business_key)) == 1
    assert faulty.rows("SELECT status FROM ledger.attempt WHERE tenant = %s") == [(201,)]


def test_tokens_that_are_refused_again_and_again_end_the_run(faulty: World, line: FaultyLine) -> None:
    faulty.load(*(patient(f"p{n}", f"p{n}") for n in range(20)))
    faulty.refresh()
    faulty.approve_all([heart_rate(f"p{n}", AT, 72) for n in range(20)])
    line.on("POST", "Observation", *[Say(401)] * 200)
    report = faulty.commit()
    assert report.trouble == "token_refused"
    assert sum(report.waiting.values()) == 20
    assert faulty.ehr.search("Observation") == []


@pytest.fixture
def short_lived(tmp_path: Path) -> Iterator[tuple[Sekmet, str]]:
    private, jwks = make_client_key()
    with Sekmet(tmp_path / "short", client_jwks=jwks, token_seconds=2, client_scopes="system/Patient.rs") as server:
        yield server, private


def test_a_token_is_renewed_before_it_expires_and_a_missing_scope_is_said_before_any_write(
    make_world: Callable[..., World], short_lived: tuple[Sekmet, str], key_file: Path
) -> None:
    server, private = short_lived
    auth = {"type": "smart_backend", "client_id": CLIENT_ID, "private_key": "file://keys/client.jwk"}
    reader = make_world(ehr={"base_url": server.base_url, "auth": auth | {"scopes": ["system/Patient.rs"]}})
    key_file.write_text(private)

    async def slowly(ehr: FhirClient) -> None:
        for _ in range(3):
            assert (await ehr.send(Request("GET", "Patient/none"))).status == 404
            await asyncio.sleep(1.6)

    assert _token_requests(reader, slowly) == 3

    scopes = ["system/Patient.rs", "system/Observation.cu"]
    writer = make_world(ehr={"base_url": server.base_url, "auth": auth | {"scopes": scopes}})
    key_file.write_text(private)
    writer.approve(heart_rate("a", AT, 72))
    with pytest.raises(TargetError) as raised:
        writer.commit()
    assert raised.value.code == "scope_missing"
    assert "system/Observation.cu" in str(raised.value)
    assert "Patient" not in str(raised.value)


def test_another_clients_key_is_refused_with_what_and_where(world: World, key_file: Path) -> None:
    stranger, _ = make_client_key()
    key_file.write_text(stranger)
    world.approve(heart_rate("a", AT, 72))
    with pytest.raises(TargetError) as raised:
        world.commit()
    said = str(raised.value)
    assert raised.value.code == "client_refused"
    assert all(part in said for part in (f"tenants/{world.run.id}.yaml ehr.auth", "invalid_client", CLIENT_ID, "registered"))
    assert json.loads(stranger)["d"] not in said
    assert world.rows("SELECT count(*) FROM decision.outbox WHERE tenant = %s") == [(1,)]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json",
        "[]",
        "{}",
        '{"kty": "oct", "k": "c2VjcmV0"}',
        '{"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA", "d": "AA"}',
        json.dumps(ECKey.generate_key("P-256").as_dict(private=True)),
        json.dumps(ECKey.generate_key("P-384").as_dict(private=False)),
        json.dumps({**RSAKey.generate_key(2048).as_dict(private=True), "alg": "RS256"}),
    ],
    ids=["empty", "no JSON", "a list", "an empty object", "symmetric", "not on the curve", "P-256", "public", "RS256"],
)
def test_what_is_no_client_key_is_said_without_a_part_of_it(world: World, key_file: Path, content: str) -> None:
    key_file.write_text(content)
    with pytest.raises(ConfigError) as raised:
        world.refresh()
    assert raised.value.code in ("bad_client_key", "secret_missing")
    assert "ehr.auth.private_key" in raised.value.where or "client.jwk" in str(raised.value)
    secret = json.loads(content).get("d") if content.startswith("{") else None
    assert secret is None or secret == "AA" or secret not in str(raised.value)


def test_a_key_that_others_may_read_is_refused(world: World, key_file: Path) -> None:
    key_file.chmod(0o644)
    with pytest.raises(SecretError):
        world.refresh()


def test_rs384_works_too(make_world: Callable[..., World], tmp_path: Path, key_file: Path) -> None:
    key = RSAKey.generate_key(2048, {"kid": "rsa", "alg": "RS384", "use": "sig"})
    with Sekmet(tmp_path / "rsa", client_jwks={"keys": [dict(key.as_dict(private=False))]}) as server:
        world = make_world(ehr={"base_url": server.base_url})
        key_file.write_text(json.dumps(key.as_dict(private=True)))
        server.load([patient("a", "a")])
        assert world.refresh().changed["Patient"] == 1


def test_a_base_that_is_no_fhir_server(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url})
    for path in (".well-known", "metadata"):
        line.always("GET", path, Say(200, (("Content-Type", "text/html"),), b"<html>welcome</html>"))
    with pytest.raises(TargetError) as raised:
        world.refresh()
    assert raised.value.code == "no_token_endpoint"


@pytest.mark.parametrize(
    ("requested", "granted", "lacking"),
    [
        ("system/Observation.cruds", "system/*.cruds", ""),
        ("system/Observation.cu", "system/Observation.write", ""),
        ("system/Observation.write", "system/Observation.cud", ""),
        ("system/Observation.write", "system/Observation.cu", "system/Observation.write"),
        ("system/*.rs", "system/*.read", ""),
        ("system/*.rs", "system/Patient.rs", "system/*.rs"),
        ("system/*.*", "system/*.cruds", ""),
        ("system/Patient.r", "user/Patient.r", "system/Patient.r"),
        ("system/Observation.c", "system/Observation.c?category=vital-signs", "system/Observation.c"),
        ("system/Observation.c?category=vital-signs", "system/Observation.c", ""),
        ("launch", "launch", ""),
        ("launch", "system/*.cruds", "launch"),
    ],
)
def test_scopes_of_both_versions_are_compared(requested: str, granted: str, lacking: str) -> None:
    assert " ".join(missing(requested.split(), granted.split())) == lacking


@pytest.mark.parametrize(("sandbox", "named", "had"), [(True, False, True), (False, False, False), (False, True, True)])
def test_a_credential_goes_only_where_the_tenants_file_or_an_approval_says(
    make_world: Callable[..., World], line: FaultyLine, *, sandbox: bool, named: bool, had: bool
) -> None:
    """To a production EHR that nobody approved its own word opens no way for our secret."""
    world = make_world(ehr={"base_url": line.base_url})
    endpoint = httpx.get(f"{line.base_url}/.well-known/smart-configuration", trust_env=False).json()["token_endpoint"]
    ehr = world.tenant.ehr
    auth = ehr.auth.model_copy(update={"token_endpoint": endpoint} if named else {})
    tenant = world.tenant.model_copy(update={"ehr": ehr.model_copy(update={"sandbox": sandbox, "auth": auth})})

    async def ask() -> dict[str, str]:
        async with Http(Egress(line.base_url, sandbox=True, where="test"), concurrency=1, timeout_s=10) as http:
            return await Tokens(http, TokenClient(tenant, world.run.settings.home)).header()

    if had:
        assert asyncio.run(ask())["Authorization"]
        return
    with pytest.raises(TargetError) as raised:
        asyncio.run(ask())
    assert raised.value.code == "token_endpoint_unapproved"
    assert "nobody approved" in str(raised.value)
    assert [seen for seen in line.seen if seen.method == "POST"] == []
