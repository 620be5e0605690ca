"""What an EHR should not be able to say ends the one resource that says it: its neighbours, its tenant and the run go on."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable

import pytest
from commit.faults import Fault, FaultyLine, Twist
from commit.world import Resource, World, consent, encounter, heart_rate, patient

AT = "2024-03-01T10:00:00Z"
DEEP = b'{"resourceType":"Observation","id":"deep","extension":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

Rewrite = Callable[[bytes], bytes]


def twisted(rewrite: Rewrite) -> Fault:
    return Twist(lambda status, headers, body: (status, headers, rewrite(body)))


def on_search(line: FaultyLine, rewrite: Rewrite, resource_type: str = "Observation") -> None:
    line.always("POST", f"{resource_type}/_search", twisted(rewrite))


def with_entry(entry: bytes) -> Rewrite:
    """One resource more in a search's answer, verbatim."""

    def rewrite(body: bytes) -> bytes:
        whole = json.loads(body)
        whole["entry"] = [*whole.get("entry", []), {"resource": "PLACE"}]
        whole["total"] = len(whole["entry"])
        return json.dumps(whole).encode().replace(b'"PLACE"', entry)

    return rewrite


def two(world: World, *ids: str) -> list[str]:
    ids = ids or ("a", "b")
    world.load(*(patient(one, one) for one in ids))
    world.refresh()
    return [one.business_key for one in world.approve_all([heart_rate(one, AT, 72) for one in ids])]


ODD_ENTRIES = {
    "a byte that is not UTF-8": b'{"resourceType":"Observation","id":"odd","note":[{"text":"M\xfcller"}]}',
    "half a surrogate pair": b'{"resourceType":"Observation","id":"odd","note":[{"text":"\\ud83d"}]}',
    "a number beyond all": b'{"resourceType":"Observation","id":"odd","valueQuantity":{"value":1e999999}}',
    "no number": b'{"resourceType":"Observation","id":"odd","valueQuantity":{"value":NaN}}',
    "a line break in a text": b'{"resourceType":"Observation","id":"odd","note":[{"text":"a\nb"}]}',
    "100,000 levels": DEEP,
}


@pytest.mark.parametrize("what", ODD_ENTRIES)
def test_a_chart_with_one_resource_that_is_hardly_json_is_read_around(
    make_world: Callable[..., World], line: FaultyLine, what: str
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "bundle_size": 20})
    two(world)
    on_search(line, with_entry(ODD_ENTRIES[what]))
    report = world.commit()
    assert report.counts["created"] == 2
    assert report.trouble == ""


def test_a_byte_order_mark_before_every_answer_is_passed_over(faulty: World, line: FaultyLine) -> None:
    line.rules.append(lambda _: twisted(lambda body: codecs.BOM_UTF8 + body if body else body))
    two(faulty)
    assert faulty.commit().counts["created"] == 2


def _linked(world: World) -> dict[str, str]:
    """Two facts that were written, and a correction of each that waits; the resource's id of each patient."""
    two(world)
    world.commit()
    rows = world.rows(
        "SELECT i.business_key, i.patient_id, l.resource_id FROM ledger.intent i JOIN ledger.link l USING (tenant, business_key) "
        "WHERE i.tenant = %s"
    )
    for key, who, _ in rows:
        world.approve(heart_rate(who, AT, 80), key=key, revision=2)
    return {who: resource for _, who, resource in rows}


def test_what_could_be_read_only_in_part_is_never_written_over(faulty: World, line: FaultyLine) -> None:
    ids = _linked(faulty)

    def damaged(body: bytes) -> bytes:
        return json.dumps({**json.loads(body), "note": [{"text": "PLACE"}]}).encode().replace(b"PLACE", b"M\xfcller")

    line.always("GET", f"Observation/{ids['a']}", twisted(damaged))
    report = faulty.commit()
    assert report.counts["updated"] == 1
    assert sorted(faulty.rows("SELECT state, reason FROM ledger.intent WHERE tenant = %s AND revision = 2")) == [
        ("committed", None),
        ("in_review", "odd_answer"),
    ]
    assert line.sent("PATCH", f"Observation/{ids['a']}") == []


@pytest.mark.parametrize("bundle_size", [1, 10])
@pytest.mark.parametrize("place", ["id", "versionId", "element"])
def test_a_nul_in_an_answer_ends_its_own_write_only(
    make_world: Callable[..., World], line: FaultyLine, place: str, bundle_size: int
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "bundle_size": bundle_size})
    two(world)
    left = [1]

    def spoilt(resource: Resource) -> Resource:
        if place == "id":
            return {**resource, "id": "a\x00b"}
        if place == "versionId":
            return {**resource, "meta": {**resource.get("meta", {}), "versionId": "1\x00"}}
        return {"el\x00ement": 1, **{name: value for name, value in resource.items() if name != "valueQuantity"}}

    def rewrite(body: bytes) -> bytes:
        whole = json.loads(body)
        if not left or "resourceType" not in whole:
            return body
        left.clear()
        if whole["resourceType"] == "Bundle":
            first, *others = whole["entry"]
            whole["entry"] = [{**first, "resource": spoilt(first["resource"])}, *others]
            return json.dumps(whole).encode()
        return json.dumps(spoilt(whole)).encode()

    line.rules.append(
        lambda seen: twisted(rewrite) if seen.method == "POST" and seen.path in ("", "Observation") else None,
    )
    world.commit()
    world.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")
    world.commit()
    states = [row[0] for row in world.intents()]
    assert "committed" in states
    assert set(states) <= {"committed", "quarantined", "in_review"}
    assert len(world.ehr.search("Observation")) == 2, "each is there once"


def mirrored_patients(world: World) -> set[str]:
    return {row[0] for row in world.rows("SELECT patient_id FROM mirror.patient WHERE tenant = %s")}


ODD_PATIENTS: dict[str, bytes] = {
    "an id with a NUL": b'{"resourceType":"Patient","id":"a\\u0000b"}',
    "an id that is a path": b'{"resourceType":"Patient","id":"../Patient"}',
    "an id of 10,000 letters": b'{"resourceType":"Patient","id":"' + b"x" * 10_000 + b'"}',
    "a version with a NUL": b'{"resourceType":"Patient","id":"odd","meta":{"versionId":"\\u0000"}}',
    "a date that is none": b'{"resourceType":"Patient","id":"odd","meta":{"lastUpdated":"9999-12-31T23:59:59-12:00"}}',
    "a name in another encoding": b'{"resourceType":"Patient","id":"odd","name":[{"family":"M\xfcller"}]}',
    "names that are none": b'{"resourceType":"Patient","id":"odd","name":{"family":7},"birthDate":["x"],"telecom":"y"}',
    "identifiers that are none": b'{"resourceType":"Patient","id":"odd","identifier":[{"system":"x","value":"\\u0000"},7,null]}',
    "100,000 levels": DEEP.replace(b"Observation", b"Patient"),
}


@pytest.mark.parametrize("what", ODD_PATIENTS)
def test_one_odd_patient_leaves_the_others_mirrored(faulty: World, line: FaultyLine, what: str) -> None:
    faulty.load(patient("a", "a"), patient("b", "b"))
    on_search(line, with_entry(ODD_PATIENTS[what]), "Patient")
    faulty.refresh()
    assert {"a", "b"} <= mirrored_patients(faulty)
    faulty.approve(heart_rate("a", AT, 72))
    assert faulty.commit().counts["created"] == 1


@pytest.mark.parametrize("end", ["9999-12-31", "9999", "9999-12", "0001-01-01", "2024-13-45", "0000-00-00"])
def test_an_encounter_at_the_end_of_all_time_is_mirrored(world: World, end: str) -> None:
    world.load(patient("a", "a"), encounter("e1", "a"))
    world.load(encounter("e2", "a", period={"start": "2024-01-01", "end": "2024-01-02"}))
    with FaultyLine(world.ehr.base_url) as line:
        object.__setattr__(world.run.tenant.ehr, "base_url", line.base_url)
        on_search(line, lambda body: body.replace(b'"2024-01-02"', json.dumps(end).encode()), "Encounter")
        world.refresh()
    found = world.rows("SELECT encounter_id FROM mirror.encounter WHERE tenant = %s ORDER BY 1")
    assert ("e1",) in found


ODD_CONSENTS: dict[str, bytes] = {
    "a status in another encoding": b'"status":"act\xefve"',
    "100,000 levels": b'"status":"active","extension":' + b"[" * 100_000 + b"]" * 100_000,
    "a version with a NUL": b'"status":"active","meta":{"versionId":"1\\u0000"}',
}


@pytest.mark.parametrize("what", ODD_CONSENTS)
def test_a_consent_that_can_be_read_only_in_part_denies_its_patient_and_nobody_else(
    faulty: World, line: FaultyLine, what: str
) -> None:
    faulty.load(patient("a", "a"), patient("b", "b"), consent("c1", "a"), consent("c2", "b"))
    body = b'{"resourceType":"Consent","id":"c3",%s,"patient":{"reference":"Patient/a"},"provision":{"type":"de\xffny"}}'
    on_search(line, with_entry(body % ODD_CONSENTS[what]), "Consent")
    faulty.refresh()
    faulty.approve_all([heart_rate("a", AT, 72), heart_rate("b", AT, 73)])
    assert faulty.commit().counts["created"] == 1
    by_patient: dict[str, str] = dict(faulty.rows("SELECT patient_id, state FROM ledger.intent WHERE tenant = %s"))
    assert by_patient == {"a": "withdrawn", "b": "committed"}


def test_a_waiting_time_beyond_all_time_is_an_error_in_one_tenants_file(make_world: Callable[..., World]) -> None:
    from fhir_writeback_dagster.errors import ConfigError

    with pytest.raises(ConfigError):
        make_world(waiting_ttl="99999999999999d")
