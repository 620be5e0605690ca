"""A certified authorization server (oidc-provider) between us and the EHR: every way to prove who we are, and every way to fail.

The EHR is sekmet, open; on the way to it every request's token is checked against the authorization server's own keys.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from commit.faults import FaultyLine, Say, Seen
from commit.world import World, heart_rate, patient
from contract.counterparts import Counterpart, or_skip
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, RSAKey

from fhir_writeback_dagster.commit.auth import client_auth
from fhir_writeback_dagster.commit.commands.probe_commands import probe
from fhir_writeback_dagster.commit.fhir_client import open_ehr
from fhir_writeback_dagster.commit.probe import drift
from fhir_writeback_dagster.errors import ConfigError, TargetError
from fhir_writeback_dagster.sandbox.servers.node import OidcProvider

AT = "2024-03-01T10:00:00Z"
AUDIENCE = "https://ehr.example/fhir"
SECRET = "a-shared-secret-that-is-long-enough-for-any-of-them"
SCOPES = ["system/Patient.rs", "system/Encounter.rs", "system/Observation.crus"]
JSON = (("Content-Type", "application/json"),)
KEYS: dict[str, Any] = {"ES384": ECKey.generate_key("P-384", {"kid": "es"}), "RS384": RSAKey.generate_key(2048, {"kid": "rs"})}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    clients = [
        {
            "client_id": algorithm,
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": algorithm,
            "jwks": {"keys": [key.as_dict(private=False)]},
        }
        for algorithm, key in KEYS.items()
    ]
    for place in ("basic", "post"):
        method = f"client_secret_{place}"
        clients.append({"client_id": place, "client_secret": SECRET, "token_endpoint_auth_method": method})
    server = or_skip(lambda: OidcProvider(tmp_path_factory.mktemp("oidc"), clients, SCOPES, AUDIENCE).__enter__())
    yield server
    server.__exit__()


class Guarded:
    """``guarded(auth={…})``: a tenant on an EHR that takes the authority's tokens only, its patient, and the line to it."""

    def __init__(self, line: FaultyLine, there: Counterpart, authority: OidcProvider, world_on: Callable[..., World]) -> None:
        self.line, self._there, self._authority, self._world_on = line, there, authority, world_on
        keys = KeySet.import_key_set(httpx.get(f"{authority.issuer}/jwks", trust_env=False).json())

        def gate(seen: Seen) -> Say | None:
            if seen.path.startswith(".well-known"):
                return Say(200, JSON, json.dumps({"token_endpoint": f"{authority.issuer}/token"}).encode())
            try:
                token = seen.headers.get("authorization", "").removeprefix("Bearer ")
                return None if jwt.decode(token, keys).claims["aud"] == AUDIENCE else Say(401)
            except (JoseError, ValueError):
                return Say(401)

        line.rules.append(gate)

    def __call__(self, client: str, key: Any = None, **auth: Any) -> World:
        told: dict[str, Any] = {"client_id": client, "scopes": SCOPES}
        if client in KEYS:
            self._there.key = json.dumps((key or KEYS[client]).as_dict(private=True))
            told |= {"type": "smart_backend", "private_key": "file://keys/client.jwk"}
        else:
            told |= {"type": "client_secret", "client_secret": "file://keys/client.jwk", "secret_in": client}
            self._there.key = SECRET
        world = self._world_on(self._there, base_url=self.line.base_url, auth=told | auth)
        self.who = str(uuid.uuid4())
        world.load(patient(self.who, self.who))
        world.approve(heart_rate(self.who, AT, 72))
        return world


@pytest.fixture
def guarded(
    authority: OidcProvider, counterpart: Callable[[str], Counterpart], world_on: Callable[..., World]
) -> Iterator[Guarded]:
    there = counterpart("sekmet")
    before = there.key
    with FaultyLine(there.base_url) as line:
        yield Guarded(line, there, authority, world_on)
    there.key = before


@pytest.mark.parametrize("client", ["ES384", "RS384", "basic", "post"])
def test_each_way_to_prove_who_we_are_is_taken_and_the_write_goes_through(guarded: Guarded, client: str) -> None:
    world = guarded(client)
    world.commit()
    assert [tuple(row) for row in world.intents()] == [("committed", "created", None)]
    sent = [seen for seen in guarded.line.seen if not seen.path.startswith(".well-known")]
    assert sent
    assert len({seen.headers["authorization"] for seen in sent}) == 1, "one token for a run"


def _refusal(guarded: Guarded, world: World) -> TargetError:
    with pytest.raises(TargetError) as raised:
        world.commit()
    assert world.ehr.search("Observation", patient=f"Patient/{guarded.who}") == []
    assert SECRET not in str(raised.value)
    return raised.value


def test_a_key_that_the_authority_does_not_know(guarded: Guarded) -> None:
    stranger = ECKey.generate_key("P-384", {"kid": "es"})
    error = _refusal(guarded, guarded("ES384", key=stranger))
    assert error.code == "client_refused"
    assert "invalid_client" in str(error)


def test_an_algorithm_that_the_client_is_not_registered_for(guarded: Guarded) -> None:
    assert _refusal(guarded, guarded("RS384", key=KEYS["ES384"])).code == "client_refused"


def test_an_assertion_that_has_expired(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_auth, "ASSERTION_SECONDS", -120)
    assert _refusal(guarded, guarded("ES384")).code == "client_refused"


def test_an_assertion_for_another_audience(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    sign = client_auth._assertion
    monkeypatch.setattr(
        client_auth, "_assertion", lambda key, client, _, where: sign(key, client, "https://elsewhere/token", where)
    )
    assert _refusal(guarded, guarded("ES384")).code == "client_refused"


def test_a_scope_that_the_authority_silently_leaves_out(guarded: Guarded) -> None:
    error = _refusal(guarded, guarded("ES384", scopes=[*SCOPES, "system/Condition.c"]))
    assert error.code == "scope_missing"
    assert "not granted: system/Condition.c" in str(error)


@pytest.mark.parametrize("body", [b"<html>sign in</html>", b"", b"[]", b'{"access_token": ["x"]}'])
def test_a_token_endpoint_that_answers_something_else(guarded: Guarded, body: bytes) -> None:
    guarded.line.rules.insert(0, lambda seen: Say(200, (("Content-Type", "text/html"),), body) if "token" in seen.path else None)
    error = _refusal(guarded, guarded("ES384", token_endpoint=f"{guarded.line.base_url}/token"))
    assert error.code == "odd_token_answer"


def test_a_metadata_document_without_end(guarded: Guarded) -> None:
    world = guarded("ES384")
    good = {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "x": " " * (50 << 20)}
    large = json.dumps(good).encode()
    guarded.line.rules.insert(0, lambda seen: Say(200, JSON, large) if seen.path == "metadata" else None)
    with pytest.raises(TargetError) as raised:
        world.refresh()
    assert raised.value.code == "too_large"


def test_a_token_endpoint_that_asks_to_be_left_alone_is_left_alone(guarded: Guarded) -> None:
    busy = Say(429, (*JSON, ("Retry-After", "90")), b'{"error": "slow_down"}')
    guarded.line.rules.insert(0, lambda seen: busy if "token" in seen.path else None)
    world = guarded("ES384", token_endpoint=f"{guarded.line.base_url}/token")
    error = _refusal(guarded, world)
    assert error.code == "throttled"
    assert "90 s" in str(error)
    held = "SELECT held_because, held_until > now() + interval '80 seconds' FROM ledger.target WHERE tenant = %s"
    assert world.rows(held) == [("throttled", True)]


def _approve(world: World) -> None:
    async def look() -> Any:
        async with open_ehr(world.run) as ehr:
            return await drift.read_snapshot(ehr)

    _, snapshot = asyncio.run(look())
    with world.run.store.tenant(world.run.id) as connection:
        drift.approve(connection, world.run, snapshot, [], "ann")


def test_a_secret_does_not_follow_a_changed_answer(guarded: Guarded) -> None:
    world = guarded("basic")
    _approve(world)
    elsewhere = json.dumps({"token_endpoint": f"{guarded.line.base_url}/elsewhere/token"}).encode()
    guarded.line.rules.insert(0, lambda seen: Say(200, JSON, elsewhere) if seen.path.startswith(".well-known") else None)
    error = _refusal(guarded, world)
    assert error.code == "token_endpoint_changed"
    assert "probe" in error.fix
    assert guarded.line.sent("POST", "elsewhere") == []
    report = probe(world.run, read_only=True)
    assert [(one.where, one.now, one.breaking) for one in report.drifted] == [
        ("smart.token_endpoint", f"{guarded.line.base_url}/elsewhere/token", True)
    ]
    assert not report.safe
    assert guarded.line.sent("POST", "elsewhere") == []
    assert drift.check(world.run).metadata()["breaking"] == "smart.token_endpoint"
    held = "SELECT held_because, held_until = 'infinity' FROM ledger.target WHERE tenant = %s"
    assert world.rows(held) == [("drift", True)]


def test_a_token_endpoint_that_the_tenant_states_is_its_own_word(guarded: Guarded) -> None:
    world = guarded("ES384")
    _approve(world)
    endpoint = f"{guarded._authority.issuer}/token"
    stated = guarded("ES384", token_endpoint=endpoint)
    with stated.run.store.tenant(stated.run.id) as connection:
        drift.approve(connection, stated.run, {"smart": {"token_endpoint": "https://elsewhere.example/token"}}, [], "ann")
    stated.commit()
    assert [tuple(row) for row in stated.intents()] == [("committed", "created", None)]


def test_where_a_person_says_that_it_moved_it_is_asked_there(guarded: Guarded) -> None:
    world = guarded("basic")
    with world.run.store.tenant(world.run.id) as connection:
        drift.approve(connection, world.run, {"smart": {"token_endpoint": "https://elsewhere.example/token"}}, [], "ann")

    async def work(*, moved: bool) -> None:
        async with open_ehr(world.run, moved=moved) as ehr:
            await ehr.authorize()

    with pytest.raises(TargetError, match="token_endpoint_changed"):
        asyncio.run(work(moved=False))
    asyncio.run(work(moved=True))


def test_a_way_to_prove_who_we_are_that_the_vendor_does_not_take_is_told_before_anything_is_sent(guarded: Guarded) -> None:
    world = guarded("basic")
    object.__setattr__(world.tenant.ehr, "vendor", "epic")
    with pytest.raises(ConfigError, match=r"Epic.*client_secret.*one of smart_backend"):
        world.commit()
    assert guarded.line.seen == []


def test_a_key_of_an_algorithm_that_the_vendor_does_not_take(guarded: Guarded) -> None:
    world = guarded("ES384")
    object.__setattr__(world.tenant.ehr, "vendor", "eclinicalworks")
    with pytest.raises(ConfigError, match=r"ES384, which eClinicalWorks does not take.*publish --algorithm RS384"):
        world.commit()
    assert not [seen for seen in guarded.line.seen if "token" in seen.path]


def test_the_headers_that_the_vendor_asks_for_name_our_client(guarded: Guarded) -> None:
    world = guarded("ES384")
    object.__setattr__(world.tenant.ehr, "vendor", "epic")
    world.commit()
    asked = [seen for seen in guarded.line.seen if not seen.path.startswith(".well-known")]
    assert asked
    assert {seen.headers.get("epic-client-id") for seen in asked} == {"ES384"}
