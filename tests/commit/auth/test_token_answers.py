"""Token answers as authorization servers word them: each is read right, or refused by its name."""

from __future__ import annotations

import base64
import codecs
import json
from collections.abc import Callable
from typing import Any

import pytest
from commit.faults import Fault, FaultyLine, Say, Seen, Twist
from commit.world import World, heart_rate, patient

from fhir_writeback_dagster.errors import TargetError

AT = "2024-03-01T10:00:00Z"


@pytest.fixture
def tokens_over(make_world: Callable[..., World], line: FaultyLine) -> Callable[..., World]:
    """A tenant that asks for its tokens over ``line``, though they are sekmet's own."""

    def make(**auth: Any) -> World:
        world = make_world()
        here, there = (url.removesuffix("/fhir") for url in (line.base_url, world.ehr.base_url))
        told = {"token_endpoint": f"{here}/auth/token", "audience": f"{there}/auth/token", **auth}
        known = world.tenant.ehr.auth.model_dump(exclude_none=True, mode="json")
        return make_world(ehr={"base_url": line.base_url, "auth": known | told})

    return make


def worded(line: FaultyLine, change: Callable[[dict[str, Any]], Any], prefix: bytes = b"") -> None:
    """From now on the token endpoint's answers are worded as ``change`` does it."""

    def how(status: int, headers: Any, body: bytes) -> Any:
        return status, headers, prefix + json.dumps(change(json.loads(body))).encode()

    line.always("POST", "auth/token", Twist(how))


READ_RIGHT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "as it is": lambda told: told,
    "scope as a list": lambda told: {**told, "scope": told["scope"].split()},
    "scope as null": lambda told: {**told, "scope": None},
    "no scope": lambda told: {name: value for name, value in told.items() if name != "scope"},
    "expires_in true": lambda told: {**told, "expires_in": True},
    "expires_in as text": lambda told: {**told, "expires_in": "3600"},
    "expires_in as a decimal": lambda told: {**told, "expires_in": 3599.5},
    "expires_in as words": lambda told: {**told, "expires_in": "one hour"},
    "expires_in huge": lambda told: {**told, "expires_in": 10**30},
    "expires_in negative": lambda told: {**told, "expires_in": -1},
    "no expires_in": lambda told: {name: value for name, value in told.items() if name != "expires_in"},
    "token_type in capitals": lambda told: {**told, "token_type": "BEARER"},
    "no token_type": lambda told: {name: value for name, value in told.items() if name != "token_type"},
}


@pytest.mark.parametrize("wording", READ_RIGHT)
def test_an_answer_that_says_what_it_should_in_other_words_is_read(
    tokens_over: Callable[..., World], line: FaultyLine, wording: str
) -> None:
    world = tokens_over()
    worded(line, READ_RIGHT[wording])
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72))
    assert world.commit().counts["created"] == 1
    assert len(line.sent("POST", "auth/token")) == 1, "one token does for a run of a second"


def test_a_byte_order_mark_before_a_token_answer_is_passed_over(tokens_over: Callable[..., World], line: FaultyLine) -> None:
    world = tokens_over()
    worded(line, lambda told: told, codecs.BOM_UTF8)
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72))
    assert world.commit().counts["created"] == 1


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another kind of token": (lambda told: {**told, "token_type": "DPoP"}, "token_type_unknown"),
    "a kind that is no text": (lambda told: {**told, "token_type": 7}, "token_type_unknown"),
    "a scope less, in a list": (lambda told: {**told, "scope": ["system/Patient.rs"]}, "scope_missing"),
    "no scope at all, in a list": (lambda told: {**told, "scope": []}, "scope_missing"),
    "scopes that are none": (lambda told: {**told, "scope": {"system/*.cruds": True}}, "odd_token_answer"),
    "a list of others than scopes": (lambda told: {**told, "scope": [1, None]}, "odd_token_answer"),
    "no token": (lambda told: {**told, "access_token": None}, "odd_token_answer"),
    "a token that is no text": (lambda told: {**told, "access_token": ["x"]}, "odd_token_answer"),
    "a token that would end the header": (lambda told: {**told, "access_token": "a\r\nb: c"}, "odd_token_answer"),
    "something else than an object": (lambda told: [told], "odd_token_answer"),
}


@pytest.mark.parametrize("wording", REFUSED)
def test_an_answer_that_cannot_be_relied_on_is_refused_by_its_name(
    tokens_over: Callable[..., World], line: FaultyLine, wording: str
) -> None:
    change, code = REFUSED[wording]
    world = tokens_over()
    worded(line, change)
    world.approve(heart_rate("a", AT, 72))
    with pytest.raises(TargetError) as raised:
        world.commit()
    assert raised.value.code == code
    assert line.sent("POST", "Observation") == []


def _claims(seen: Seen) -> dict[str, Any]:
    (assertion,) = [part for part in seen.body.decode().split("&") if part.startswith("client_assertion=")]
    middle = assertion.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    return claims


@pytest.mark.parametrize("audience", ["issuer", "https://login.example/tenant"])
def test_the_audience_of_an_assertion_is_what_the_tenant_says(
    tokens_over: Callable[..., World], line: FaultyLine, audience: str
) -> None:
    """Some authorization servers want their issuer, not the token endpoint; smart-configuration names it."""
    world = tokens_over(audience=audience)
    known = json.dumps({"issuer": "https://login.example/issuer", "token_endpoint": "https://elsewhere.example"}).encode()
    line.always("GET", ".well-known/smart-configuration", Say(200, (("Content-Type", "application/json"),), known))
    world.approve(heart_rate("a", AT, 72))
    with pytest.raises(TargetError, match="client_refused"):  # sekmet wants its token endpoint
        world.commit()
    wanted = "https://login.example/issuer" if audience == "issuer" else audience
    assert {_claims(seen)["aud"] for seen in line.sent("POST", "auth/token")} == {wanted}


def test_an_issuer_that_nobody_names_is_asked_for(tokens_over: Callable[..., World], line: FaultyLine) -> None:
    world = tokens_over(audience="issuer")
    nothing: Fault = Say(404)
    line.always("GET", ".well-known", nothing)
    world.approve(heart_rate("a", AT, 72))
    with pytest.raises(TargetError, match="no_issuer") as raised:
        world.commit()
    assert "ehr.auth.audience" in str(raised.value)


def test_a_client_that_is_refused_is_told_of_the_audience(tokens_over: Callable[..., World], line: FaultyLine) -> None:
    world = tokens_over(audience="https://wrong.example")
    known = json.dumps({"issuer": "https://login.example/issuer"}).encode()
    line.always("GET", ".well-known", Say(200, (("Content-Type", "application/json"),), known))
    world.approve(heart_rate("a", AT, 72))
    with pytest.raises(TargetError, match="client_refused") as raised:
        world.commit()
    assert "audience" in str(raised.value)
