"""The fault proxy at the level of HTTP: what the client hears of each fault, and what the real server behind did meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from commit.world import heart_rate, patient
from support import eventually

from fhir_writeback_dagster.sandbox.fault_proxy import faults as f
from fhir_writeback_dagster.sandbox.fault_proxy.exchange import ProxyRequest
from fhir_writeback_dagster.sandbox.fault_proxy.script import FaultRule, Script
from fhir_writeback_dagster.sandbox.fault_proxy.server import FaultProxy
from fhir_writeback_dagster.sandbox.servers.ehr_client import EhrClient
from fhir_writeback_dagster.sandbox.servers.sekmet import CLIENT_ID, Sekmet

AT = "2025-03-01T10:00:00Z"
CHALLENGE = 'Bearer error="invalid_token", error_description="The access token expired"'
KEY = {"system": "urn:test:key", "value": "k1"}

Send = Callable[..., httpx.Response]


@pytest.fixture
def proxy(open_sekmet: Sekmet) -> Iterator[FaultProxy]:
    open_sekmet.load([patient("a", "a")])
    with FaultProxy(open_sekmet.base_url) as proxy:
        yield proxy


@pytest.fixture
def send(proxy: FaultProxy) -> Iterator[Send]:
    """``send("POST", "Observation", {…}, **headers)`` by the proxy."""
    with httpx.Client(timeout=5, trust_env=False) as client:

        def request(method: str, path: str = "", body: Any = None, **headers: str) -> httpx.Response:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            content = None if body is None else json.dumps(body)
            kind = {"Content-Type": "application/fhir+json"} if body is not None else {}
            url = f"{proxy.base_url}/{path}" if path else proxy.base_url
            return client.request(method, url, content=content, headers={**kind, **named})

        yield request


def _observation(**more: Any) -> dict[str, Any]:
    return heart_rate("a", AT, 72, identifier=[KEY], **more)


def _batch(*resources: dict[str, Any], kind: str = "batch") -> dict[str, Any]:
    entries = [{"resource": r, "request": {"method": "POST", "url": r["resourceType"]}} for r in resources]
    return {"resourceType": "Bundle", "type": kind, "entry": entries}


def test_without_a_script_the_server_answers_under_the_proxys_address(proxy: FaultProxy, send: Send, open_sekmet: Sekmet) -> None:
    made = send("POST", "Observation", _observation())
    assert made.status_code == 201
    assert made.headers["Location"].startswith(f"{proxy.base_url}/Observation/")
    assert made.headers["ETag"]
    listing = send("GET", "Observation?_count=1")
    text = listing.text + send("GET", "metadata").text
    assert proxy.base_url in text
    assert open_sekmet.base_url not in text
    assert proxy.faults == {}


def test_page_links_lead_through_the_proxy_to_the_end(proxy: FaultProxy, open_sekmet: Sekmet) -> None:
    open_sekmet.load([patient(f"p{n}", f"p{n}") for n in range(7)])
    with EhrClient(proxy.base_url) as chart:
        assert len(chart.search("Patient", _count="2")) == 8
    assert proxy.requests["search"] == 4


@pytest.mark.parametrize(
    ("fault", "stored"),
    [
        (f.DropRequest(), 0),
        (f.DropAnswer(), 1),
        (f.CutBody(), 1),
        (f.Late(0.2), 1),
    ],
)
def test_no_whole_answer_comes(proxy: FaultProxy, send: Send, open_sekmet: Sekmet, fault: f.Fault, stored: int) -> None:
    proxy.script([FaultRule("gone", fault, on=("create",))])
    with pytest.raises(httpx.TransportError):
        send("POST", "Observation", _observation())
    eventually(lambda: len(open_sekmet.search("Observation")) == stored, "what the server did")
    assert proxy.faults == {"gone": 1}


@pytest.mark.parametrize(
    ("fault", "status", "headers", "stored"),
    [
        (f.expired_token(), 401, {"WWW-Authenticate": CHALLENGE}, 0),
        (f.Say(403, "forbidden"), 403, {}, 0),
        (f.Say(408, "timeout"), 408, {}, 0),
        (f.Say(409, "conflict"), 409, {}, 0),
        (f.Say(412, "conflict", after_commit=True), 412, {}, 1),
        (f.Say(429, "throttled"), 429, {}, 0),
        (f.Say(429, "throttled", retry_after=7), 429, {"Retry-After": "7"}, 0),
        (f.Say(500, "exception", after_commit=True), 500, {}, 1),
        (f.Say(502, "transient"), 502, {}, 0),
        (f.Say(503, "transient", retry_after=1), 503, {"Retry-After": "1"}, 0),
    ],
)  # fmt: skip
def test_an_error_is_said_on_the_way_or_after_the_commit(
    proxy: FaultProxy, send: Send, open_sekmet: Sekmet, fault: f.Say, status: int, headers: dict[str, str], stored: int
) -> None:
    proxy.script([FaultRule("said", fault, on=("create",))])
    answer = send("POST", "Observation", _observation())
    assert answer.status_code == status
    assert {name: answer.headers.get(name) for name in ("WWW-Authenticate", "Retry-After")} == {
        "WWW-Authenticate": None,
        "Retry-After": None,
        **headers,
    }
    assert answer.json()["issue"][0]["code"] == fault.code
    assert len(open_sekmet.search("Observation")) == stored


def test_answers_that_are_no_use(proxy: FaultProxy, send: Send, open_sekmet: Sekmet) -> None:
    def told(fault: f.Fault) -> httpx.Response:
        proxy.script([FaultRule("odd", fault, on=("create",))])
        return send("POST", "Observation", _observation())

    malformed = told(f.Malformed())
    assert malformed.status_code == 201
    with pytest.raises(json.JSONDecodeError):
        malformed.json()
    page = told(f.Html())
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html")
    assert (told(f.EmptyBody()).status_code, told(f.EmptyBody()).content) == (201, b"")
    assert told(f.WrongLocation()).headers["Location"] == "Observation/no-such-resource"
    assert len(open_sekmet.search("Observation")) == 5
    assert proxy.faults == {"odd": 5}


def test_a_request_may_arrive_twice(proxy: FaultProxy, send: Send, open_sekmet: Sekmet) -> None:
    proxy.script([FaultRule("repeated", f.Repeat(), on=("create",))])
    condition = f"identifier={KEY['system']}%7C{KEY['value']}"
    assert send("POST", "Observation", _observation(), If_None_Exist=condition).status_code == 200
    assert len(open_sekmet.search("Observation")) == 1
    send("POST", "Observation", _observation())
    assert len(open_sekmet.search("Observation")) == 3


def test_a_held_request_and_a_slow_answer_take_their_time(proxy: FaultProxy, send: Send) -> None:
    for fault in (f.Delay(0.3), f.Drip(0.3)):
        proxy.script([FaultRule("slow", fault, on=("create",))])
        began = time.monotonic()
        assert send("POST", "Observation", _observation()).json()["resourceType"] == "Observation"
        assert time.monotonic() - began >= 0.3


def test_a_stale_search_shows_what_is_old(proxy: FaultProxy, send: Send) -> None:
    proxy.script([FaultRule("stale", f.StaleSearch(3600), on=("search",), count=1)])
    send("POST", "Observation", _observation())
    stale, fresh = (send("GET", "Observation").json() for _ in range(2))
    assert (stale["entry"], stale["total"]) == ([], 0)
    assert len(fresh["entry"]) == 1


def test_a_batch_may_be_done_in_part(proxy: FaultProxy, send: Send, open_sekmet: Sekmet) -> None:
    proxy.script([FaultRule("part", f.PartialBatch())])
    answer = send("POST", "", _batch(*(_observation() for _ in range(4)))).json()
    assert [entry["response"]["status"][:3] for entry in answer["entry"]] == ["201", "201", "429", "429"]
    assert answer["entry"][3]["response"]["outcome"]["issue"][0]["code"] == "throttled"
    assert len(open_sekmet.search("Observation")) == 2
    proxy.script([FaultRule("lost", f.PartialBatch(lost=True))])
    with pytest.raises(httpx.TransportError):
        send("POST", "", _batch(_observation(), _observation()))
    assert len(open_sekmet.search("Observation")) == 3
    proxy.script([FaultRule("fewer", f.FewerEntries())])
    assert len(send("POST", "", _batch(_observation(), _observation(), kind="transaction")).json()["entry"]) == 1
    assert len(open_sekmet.search("Observation")) == 5


def test_a_proxy_that_is_away_refuses_and_comes_back(proxy: FaultProxy, send: Send) -> None:
    send("GET", "Patient/a")
    proxy.away()
    with pytest.raises(httpx.ConnectError):
        send("GET", "Patient/a")
    proxy.back()
    assert send("GET", "Patient/a").status_code == 200


def test_smart_on_tokens_pass_and_are_faulted(tmp_path_factory: pytest.TempPathFactory, client_key: str, sekmet: Sekmet) -> None:
    def client(base: str) -> EhrClient:
        return EhrClient(base, client_id=CLIENT_ID, private_jwk=client_key)

    with FaultProxy(sekmet.base_url) as proxy, client(proxy.base_url) as chart:
        chart.create(patient("x", "x"))
        assert (proxy.requests["token"], proxy.requests["discovery"]) == (0, 1), "the server names its own token endpoint"
    with FaultProxy() as proxy:
        place = tmp_path_factory.mktemp("public")
        public = Sekmet(place, client_jwks=sekmet.client_jwks, public_url=proxy.base_url.removesuffix("/fhir"))
        with public, client(proxy.base_url) as chart:
            proxy.lead_to(public.base_url)
            proxy.script([FaultRule("expired", f.expired_token(), on=("create",), count=1)])
            chart.create(patient("x", "x"))
            assert proxy.requests["token"] == 2
            assert proxy.faults == {"expired": 1}


def test_rules_count_and_choose_the_same_under_the_same_seed() -> None:
    create, read = ProxyRequest("POST", "Observation"), ProxyRequest("GET", "Observation/1")

    def fates(seed: int) -> list[bool]:
        script = Script([FaultRule("some", f.DropAnswer(), on=("create",), probability=0.3)], seed)
        return [script.fate(create) is not None for _ in range(200) if script.fate(read) is None]

    assert fates(1) == fates(1) != fates(2)
    assert 30 < sum(fates(1)) < 90
    script = Script([FaultRule("third", f.DropAnswer(), path="Obs", after=2, count=1), FaultRule("any", f.DropRequest())])
    assert [script.fate(create) for _ in range(4)] == [f.DropRequest(), f.DropRequest(), f.DropAnswer(), f.DropRequest()]
    assert script.counts == {"any": 3, "third": 1}


@pytest.mark.parametrize(
    ("method", "path", "interaction"),
    [
        ("POST", "", "bundle"),
        ("POST", "Observation", "create"),
        ("POST", "Observation/_search", "search"),
        ("GET", "Observation", "search"),
        ("GET", "", "search"),
        ("GET", "Observation/1", "read"),
        ("GET", "Observation/1/_history", "history"),
        ("PUT", "Observation/1", "update"),
        ("PATCH", "Observation/1", "patch"),
        ("GET", "metadata", "capabilities"),
        ("GET", ".well-known/smart-configuration", "discovery"),
        ("POST", "/auth/token", "token"),
        ("POST", "Patient/$match", "other"),
    ],
)
def test_a_request_knows_its_interaction(method: str, path: str, interaction: str) -> None:
    assert ProxyRequest(method, path).interaction == interaction


def test_a_bundle_that_only_asks_is_a_search() -> None:
    def bundle(*methods: str) -> ProxyRequest:
        entries = [{"request": {"method": method, "url": "Observation?_count=1"}} for method in methods]
        return ProxyRequest("POST", "", body=json.dumps({"resourceType": "Bundle", "type": "batch", "entry": entries}).encode())

    assert [bundle(*m).interaction for m in (("GET", "GET"), ("GET", "POST"), ("PUT",), ())] == [
        "search",
        "bundle",
        "bundle",
        "bundle",
    ]
