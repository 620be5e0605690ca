"""What an EHR with a character of its own does to the same requests; the server behind is a real one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from email.utils import formatdate, parsedate_to_datetime
from typing import Any

import httpx
import pytest
import yaml
from commit.world import heart_rate, patient

from fhir_writeback_dagster.sandbox.fault_proxy.personality import Personality
from fhir_writeback_dagster.sandbox.fault_proxy.server import FaultProxy
from fhir_writeback_dagster.sandbox.servers.sekmet import Sekmet

CONDITION = "identifier=urn:test:key%7Ck1"

Ehr = Callable[[str], httpx.Client]


@pytest.fixture
def ehr(open_sekmet: Sekmet) -> Iterator[Ehr]:
    """``ehr("drops_etags: true")``: a client of an EHR of that personality, written as YAML."""
    open_sekmet.load([patient("a", "a")])
    with FaultProxy(open_sekmet.base_url) as proxy, httpx.Client(base_url=f"{proxy.base_url}/", trust_env=False) as client:

        def of(text: str) -> httpx.Client:
            proxy.script(personality=Personality(**yaml.safe_load(text)))
            return client

        yield of


def _observation(**more: Any) -> dict[str, Any]:
    return heart_rate("a", "2025-03-01T10:00:00Z", 72, identifier=[{"system": "urn:test:key", "value": "k1"}], **more)


def _create(client: httpx.Client, **headers: str) -> httpx.Response:
    return client.post("Observation", json=_observation(), headers=headers)


def test_identifiers_are_stripped(ehr: Ehr) -> None:
    client = ehr("strips_identifiers: true")
    assert "identifier" not in _create(client).json()
    entry = {"resource": _observation(), "request": {"method": "POST", "url": "Observation"}}
    client.post("", json={"resourceType": "Bundle", "type": "batch", "entry": [entry]})
    found = client.get("Observation").json()["entry"]
    assert ["identifier" in one["resource"] for one in found] == [False, False]


def test_etags_and_versions_are_dropped(ehr: Ehr) -> None:
    client = ehr("drops_etags: true")
    made = _create(client)
    assert "ETag" not in made.headers
    found = client.get("Observation").json()["entry"][0]["resource"]
    assert "versionId" not in {**made.json()["meta"], **found["meta"]}


def test_if_none_exist_is_ignored(ehr: Ehr) -> None:
    headers = {"If-None-Exist": CONDITION}
    client = ehr("{}")
    assert [_create(client, **headers).status_code for _ in range(2)] == [201, 200]
    client = ehr("ignores_if_none_exist: true")
    entry = {"resource": _observation(), "request": {"method": "POST", "url": "Observation", "ifNoneExist": CONDITION}}
    client.post("", json={"resourceType": "Bundle", "type": "batch", "entry": [entry]})
    assert _create(client, **headers).status_code == 201
    assert client.get("Observation").json()["total"] == 3


def test_if_match_is_needed_or_ignored(ehr: Ehr) -> None:
    client = ehr("needs_if_match: 412")
    made = _create(client)
    url = f"Observation/{made.json()['id']}"
    changed = {**made.json(), "note": [{"text": "seen"}]}
    assert client.put(url, json=changed).status_code == 412
    assert client.put(url, json=changed, headers={"If-Match": made.headers["ETag"]}).status_code == 200
    assert ehr("{}").put(url, json=made.json(), headers={"If-Match": made.headers["ETag"]}).status_code == 412
    assert ehr("ignores_if_match: true").put(url, json=made.json(), headers={"If-Match": made.headers["ETag"]}).status_code == 200


def test_a_put_leaves_empty_what_it_does_not_say(ehr: Ehr) -> None:
    client = ehr("nulls_on_put: [device]")
    made = _create(client).json()
    url = f"Observation/{made['id']}"
    said = {"device": {"display": "cuff"}, "note": [{"text": "seen"}]}
    assert "device" not in client.put(url, json={**made, **said}).json()
    assert "note" not in client.put(url, json=made).json(), "R4: an update replaces the whole resource"


def test_elements_are_lost_with_success(ehr: Ehr) -> None:
    made = _create(ehr("drops_elements: [effectiveDateTime]"))
    assert (made.status_code, "effectiveDateTime" in made.json()) == (201, False)


def test_a_create_is_answered_otherwise(ehr: Ehr) -> None:
    assert _create(ehr("created_status: 200")).status_code == 200
    bare = _create(ehr("{empty_created: true, no_location: true}"))
    assert (bare.status_code, bare.content, "Location" in bare.headers) == (201, b"", False)
    assert ehr("refuses_body_id: true").post("Observation", json=_observation(id="x")).status_code == 400


def test_a_search_that_names_nobody_is_refused(ehr: Ehr) -> None:
    client = ehr("refuses_unfiltered: 403")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    asked = ["", "_count=5", "_summary=count", "_lastUpdated=ge2020-01-01", "identifier="]
    for kind in ("Patient", "Encounter", "Consent"):
        assert [client.get(f"{kind}?{query}").status_code for query in asked] == [403] * len(asked)
        assert [client.post(f"{kind}/_search", content=q, headers=form).status_code for q in asked] == [403] * len(asked)
    assert client.get("Patient?_id=a").json()["total"] == 1
    assert client.post("Encounter/_search", content="patient=Patient/a&_count=5", headers=form).status_code == 200
    assert client.get("Patient/a").status_code == client.get("Observation").status_code == 200


def test_what_it_lacks_is_refused(ehr: Ehr) -> None:
    client = ehr("lacks: [patch, bundle, history]")
    assert client.patch("Observation/1", json=[]).status_code == 405
    assert client.post("", json={"resourceType": "Bundle", "type": "batch"}).status_code == 405
    assert client.get("Patient/a/_history").status_code == 404
    assert client.get("Patient/a").status_code == 200


def test_more_than_the_windows_requests_are_throttled(ehr: Ehr) -> None:
    client = ehr("{requests: 3, window_s: 3600, retry_after: true}")
    if time.time() % 3600 > 3595:
        time.sleep(5)  # else the hour would end within the test
    answers = [client.get("Patient/a") for _ in range(5)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].headers["Retry-After"] == "3600"
    assert "Retry-After" not in ehr("{requests: 0, window_s: 3600}").get("Patient/a").headers


def test_a_stale_update_is_told_in_its_own_way(ehr: Ehr) -> None:
    client = ehr("stale_status: 409")
    made = _create(client)
    url, stale = f"Observation/{made.json()['id']}", {"If-Match": made.headers["ETag"]}
    assert client.put(url, json={**made.json(), "note": [{"text": "seen"}]}, headers=stale).status_code == 200
    assert client.put(url, json=made.json(), headers=stale).status_code == 409


def test_an_update_after_the_time_that_it_names_is_refused(ehr: Ehr) -> None:
    client = ehr("{heeds_time: true, ignores_if_match: true}")
    made = _create(client)
    url = f"Observation/{made.json()['id']}"
    changed = client.get(url).headers["Last-Modified"]
    former = formatdate(parsedate_to_datetime(changed).timestamp() - 1, usegmt=True)
    assert client.put(url, json=made.json(), headers={"If-Unmodified-Since": former}).status_code == 412
    assert client.put(url, json=made.json(), headers={"If-Unmodified-Since": changed}).status_code == 200


def test_a_repeated_key_is_a_conflict_with_the_original(ehr: Ehr) -> None:
    client = ehr("idempotency_header: x-amz-fhir-idempotency-key")
    first, again, other = (_create(client, **{"X-Amz-Fhir-Idempotency-Key": key}) for key in ("1", "1", "2"))
    assert [one.status_code for one in (first, again, other)] == [201, 409, 201]
    assert again.json()["id"] == first.json()["id"]
    assert client.get("Observation").json()["total"] == 2


def test_types_and_sizes_that_it_does_not_take_are_refused(ehr: Ehr) -> None:
    client = ehr("{creates: [Observation], largest: 1000}")
    assert _create(client).status_code == 201
    assert client.post("Condition", json={"resourceType": "Condition"}).status_code == 405
    assert client.post("Observation", json=_observation(note=[{"text": "x" * 1000}])).status_code == 413


@pytest.mark.parametrize(
    ("more", "body"), [("", {"error": "not-supported"}), (", error_field: status", {"status": "not-supported"})]
)
def test_errors_need_not_be_operation_outcomes(ehr: Ehr, more: str, body: dict[str, str]) -> None:
    client = ehr(f"{{outcomes: false, lacks: [patch]{more}}}")
    assert client.patch("Observation/1", json=[]).json() == body
    missing = client.get("Observation/nobody")
    assert (missing.status_code, list(missing.json())) == (404, list(body))


def test_searches_for_some_patients_are_refused(ehr: Ehr) -> None:
    client = ehr("refuses_patients: '^a$'")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    asked = {"patient=Patient/a": 403, "patient=b,Patient/a": 403, "patient=Patient/b": 200, "code=a": 200}
    assert {q: client.post("Observation/_search", content=q, headers=form).status_code for q in asked} == asked
    assert client.get("Patient/a").status_code == 200


def test_a_search_by_patient_needs_another_parameter(ehr: Ehr) -> None:
    client = ehr("combines: {Observation: [category, code]}")
    asked = {"patient=a": 400, "patient=a&code=8867-4": 200, "patient=a&category=vital-signs": 200, "identifier=x": 200}
    assert {query: client.get(f"Observation?{query}").status_code for query in asked} == asked
    assert client.get("Condition?patient=a").status_code == 200


def test_a_search_says_what_changes_nothing(ehr: Ehr) -> None:
    client = ehr("informs: true")
    _create(client)
    kinds = [entry["resource"]["resourceType"] for entry in client.get("Observation").json()["entry"]]
    assert kinds == ["Observation", "OperationOutcome"]
    assert client.get("Observation?code=none").json()["entry"][0]["search"]["mode"] == "outcome"
    assert client.get("Patient/a").json()["resourceType"] == "Patient"


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ("https", "https://127.0.0.1:"),
        ("another_host", "http://ehr-node-3.internal:8443/r4/Patient/a"),
        ("slash", "Patient/a/"),
        ("versioned", "Patient/a/_history/1"),
        ("absolute", "http://127.0.0.1:"),
    ],
)
def test_consents_name_their_patient_otherwise(ehr: Ehr, open_sekmet: Sekmet, form: str, named: str) -> None:
    code = {"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}
    consent = {"resourceType": "Consent", "id": "c", "status": "active", "scope": code, "category": [code], "policyRule": code}
    open_sekmet.load([{**consent, "patient": {"reference": "Patient/a"}}])
    client = ehr(f"disguises_patients: [{form}]")
    shown = [client.get("Consent/c").json(), client.get("Consent").json()["entry"][0]["resource"]]
    assert all(one["patient"]["reference"].startswith(named) and "Patient/a" in one["patient"]["reference"] for one in shown)
    assert _create(client).json()["subject"] == {"reference": "Patient/a"}
