"""Credentials change without a restart, and whoever looks finds that they did; nothing that is secret is kept or told."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commit.faults import FaultyLine, Say, Seen
from commit.world import World

from fhir_writeback_dagster.commit.auth import client_keys
from fhir_writeback_dagster.commit.auth.scopes import broader, needed
from fhir_writeback_dagster.commit.fhir_client import open_ehr
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.rules.target.capabilities import Target
from fhir_writeback_dagster.rules.target.matrix import load_vendor
from fhir_writeback_dagster.sandbox.keys import make_client_key
from fhir_writeback_dagster.sandbox.servers.sekmet import Sekmet

DAY = 86400.0


def _authorize(world: World) -> None:
    async def work() -> None:
        async with open_ehr(world.run) as ehr:
            await ehr.authorize()

    asyncio.run(work())


def _events(world: World) -> list[str]:
    return [name for name in world.events("ehr") if name.startswith("credential.")]


def test_a_key_is_published_waits_signs_and_is_retired() -> None:
    old, _ = make_client_key("old")
    keys = client_keys.read_keys(old.encode(), "here")
    keys = client_keys.published(keys, now=0)
    assert client_keys.current(keys).key_id == "old"
    assert len(client_keys.public(keys)["keys"]) == 2
    with pytest.raises(ConfigError, match="too soon by 12"):
        client_keys.switched(keys, DAY, now=DAY / 2)
    with pytest.raises(ConfigError, match="published already"):
        client_keys.published(keys, now=1)
    keys = client_keys.switched(keys, DAY, now=DAY)
    assert client_keys.current(keys).key_id == "19700101T000000Z"
    assert [state for _, _, state in client_keys.describe(keys)] == ["retired", "current"]
    with pytest.raises(ConfigError, match="too soon"):
        client_keys.retired(keys, 3600, now=DAY + 60)
    keys = client_keys.retired(keys, 3600, now=DAY + 3600)
    assert [one["kid"] for one in client_keys.public(keys)["keys"]] == ["19700101T000000Z"]
    with pytest.raises(ConfigError, match="no next key"):
        client_keys.switched(keys, 0)


@pytest.mark.parametrize("algorithm", ["RS384", "ES384"])
def test_what_is_published_holds_nothing_private(algorithm: Any) -> None:
    first, _ = make_client_key()
    keys = client_keys.published(client_keys.read_keys(first.encode(), "here"), algorithm)
    assert {one["alg"] for one in keys} == {"ES384", algorithm}
    for one in client_keys.public(keys)["keys"]:
        assert not set(one) & {"d", "p", "q", "dp", "dq", "qi", "key_ops", "fw_state"}


def test_a_rotated_key_is_taken_up_and_told_once(world: World, home: Path, tmp_path: Path) -> None:
    key_file = home / "keys" / "client.jwk"
    keys = client_keys.published(client_keys.read_keys(key_file.read_bytes(), "here"))
    with Sekmet(tmp_path / "both", client_jwks=client_keys.public(keys)) as server:
        object.__setattr__(world.tenant.ehr, "base_url", server.base_url)
        key_file.write_text(json.dumps({"keys": keys}))
        _authorize(world)
        key_file.write_text(json.dumps({"keys": client_keys.switched(keys, 0)}))
        _authorize(world)
        _authorize(world)
    assert _events(world) == ["credential.too_broad", "credential.rotated"]
    kept = world.rows("SELECT length(fingerprint), granted FROM ledger.credential WHERE tenant = %s")
    assert kept == [(32, ["system/*.cruds"])]


def test_a_key_that_changed_while_we_asked_is_read_again(faulty: World, line: FaultyLine, home: Path, monkeypatch: Any) -> None:
    from fhir_writeback_dagster.commit.auth import tokens

    key_file = home / "keys" / "client.jwk"
    right = key_file.read_text()
    stranger, _ = make_client_key("stranger")
    key_file.write_text(stranger)
    asked: list[str] = []
    prove = getattr(tokens, "prove")  # noqa: B009 - not an export

    def proving(*arguments: Any) -> Any:
        proof = prove(*arguments)
        asked.append(proof.credential)
        key_file.write_text(right)
        return proof

    monkeypatch.setattr(tokens, "prove", proving)
    _authorize(faulty)
    assert asked[0] != asked[-1]


@pytest.mark.parametrize("place", ["basic", "post"])
def test_a_client_secret_goes_where_the_tenant_says_and_into_no_text(
    make_world: Callable[..., World], line: FaultyLine, home: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = home / "keys" / "client.secret"
    secret.touch(mode=0o600)
    secret.write_text("hunter2:of/mercy\n")
    tokens = {
        "type": "client_secret",
        "client_id": "us",
        "client_secret": "file://keys/client.secret",
        "secret_in": place,
        "token_endpoint": f"{line.base_url}/token",
        "private_key": None,
    }
    world = make_world(ehr={"base_url": line.base_url, "auth": tokens})
    token = json.dumps({"access_token": "t", "expires_in": 60, "token_type": "bearer"}).encode()
    line.always("POST", "token", Say(200, (("Content-Type", "application/json"),), token))
    with caplog.at_level(logging.DEBUG):
        _authorize(world)
    (sent,) = line.sent("POST", "token")
    if place == "basic":
        assert sent.headers["authorization"] == "Basic dXM6aHVudGVyMiUzQW9mJTJGbWVyY3k="  # us:hunter2%3Aof%2Fmercy
        assert b"hunter2" not in sent.body
    else:
        assert b"client_secret=hunter2%3Aof%2Fmercy" in sent.body
        assert "authorization" not in sent.headers
    assert "hunter2" not in caplog.text


def test_the_least_scopes_are_asked_for_where_the_tenant_names_none(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(
        ehr={"base_url": line.base_url, "auth": {"scopes": []}},
        mappings={"vital_sign": 1, "condition": 1},
        modes={"default": "auto", "by_type": {"Condition": "off"}},
    )
    object.__setattr__(world.tenant, "mappings", {"vital_sign": 1, "condition": 1})
    least = needed(world.tenant, world.run.settings.mappings / "fhir", Target(load_vendor("generic")))
    assert least == ["system/Consent.rs", "system/Encounter.rs", "system/Observation.crus", "system/Patient.rs"]
    seen: list[Seen] = []
    line.rules.append(lambda request: seen.append(request) if "scope=" in request.body.decode(errors="replace") else None)
    _authorize(world)
    assert _events(world) == []


def test_scopes_of_a_vendor_that_knows_only_the_first_version(make_tenant: Callable[..., Any], home: Path) -> None:
    tenant = make_tenant(ehr={"vendor": "oracle_health"}, consent={"source": "organisation"}, mappings={"vital_sign": 1})
    object.__setattr__(tenant, "mappings", {"vital_sign": 1})
    assert needed(tenant, home / "mappings" / "fhir", Target(load_vendor("oracle_health"))) == [
        "system/Encounter.read",
        "system/Observation.read",
        "system/Observation.write",
        "system/Patient.read",
    ]


@pytest.mark.parametrize(
    ("granted", "enough", "more"),
    [
        ("system/Observation.cruds", "system/Observation.crus", "system/Observation.cruds"),
        ("system/Observation.rs system/Observation.c", "system/Observation.crs", ""),
        ("system/*.rs openid", "system/Patient.rs system/Observation.rs", "system/*.rs"),
        ("system/Observation.write", "system/Observation.cud", ""),
    ],
)
def test_what_nothing_needs_is_found(granted: str, enough: str, more: str) -> None:
    assert " ".join(broader(granted.split(), enough.split())) == more
