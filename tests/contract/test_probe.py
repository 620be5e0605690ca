"""The probe finds what each counterpart does; what it finds of the real ones is what their matrix says, and what the docs show.

``WRITE_DOCS=1 pytest tests/contract/test_probe.py -k real_server`` writes `docs/probes.md` anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from commit.faults import FaultyLine, Say, Seen, refusal
from commit.world import World
from contract.counterparts import SLOW, Counterpart

from fhir_writeback_dagster.commit.commands.probe_commands import probe, table
from fhir_writeback_dagster.commit.probe import drift
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.rules.target.matrix import load_vendor
from fhir_writeback_dagster.sandbox.fault_proxy.personality import Personality
from fhir_writeback_dagster.sandbox.fault_proxy.server import FaultProxy
from fhir_writeback_dagster.sandbox.vendors import personality_of

PAGE = Path(__file__).parents[2] / "docs" / "probes.md"
REAL = [("sekmet", "generic"), ("medplum-5", "medplum"), ("medplum-4", "medplum"), pytest.param("hapi", "hapi", marks=SLOW)]


def _compare_with_docs(name: str, shown: str) -> None:
    """Each counterpart has a section with its report; what a race comes to is a matter of chance and is left out."""
    steady = "\n".join(line for line in shown.splitlines() if "race" not in line and "lag" not in line)
    text = PAGE.read_text(encoding="utf-8")
    before, heading, rest = text.partition(f"## {name}\n")
    about, begin, rest = rest.partition("```\n")
    told, _, after = rest.partition("```\n")
    assert heading, f"docs/probes.md has no section {name}"
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(f"{before}{heading}{about}{begin}{steady}\n```\n{after}", encoding="utf-8")
    else:
        assert told == f"{steady}\n", "WRITE_DOCS=1 writes it anew"


@pytest.mark.parametrize(("name", "vendor"), REAL, ids=["sekmet", "medplum-5", "medplum-4", "hapi"])
def test_a_real_server_does_what_its_matrix_says(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World], name: str, vendor: str
) -> None:
    there = counterpart(name)
    before = len(there.search("Observation"))
    report = probe(world_on(there, vendor, timeout="120s").run, read_only=False)  # a first $validate loads all that it knows
    differing = {one.cell: one.found for one in report.findings if one.differs}
    # 4.5.2 is the version that the matrix names as the exception.
    assert differing == ({"update.patch_precondition": False} if name == "medplum-4" else {})
    assert report.safe == (name != "medplum-4")
    _compare_with_docs(name, table(report))
    assert report.unanswered == ()
    assert len(report.findings) >= 15
    assert report.left == ()
    assert len(there.search("Observation")) == before, "the probe leaves nothing behind"


@pytest.mark.parametrize(
    ("twist", "cell"),
    [
        (Personality(ignores_if_none_exist=True), "create.precondition"),
        (Personality(strips_identifiers=True), "create.keeps_identifier"),
        (Personality(ignores_if_match=True), "update.precondition"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_server_that_does_less_than_its_matrix_says_is_found_out(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World], proxy: FaultProxy, twist: Personality, cell: str
) -> None:
    there = counterpart("sekmet")
    proxy.forget()
    proxy.lead_to(there.base_url)
    proxy.script(personality=twist)
    report = probe(world_on(there, "generic", proxy.base_url).run, read_only=False)
    proxy.forget()
    assert cell in {one.cell for one in report.findings if one.breaking}
    assert not report.safe


@pytest.mark.parametrize(
    ("vendor", "findings"),
    [
        ("healthlake", {"create.precondition": "idempotency_key"}),
        ("canvas", {"update.precondition": "if_unmodified_since", "update.stale_status": 412}),
        ("oracle_health", {"update.precondition": "if_match", "update.stale_status": 409, "update.required": True}),
        ("veradigm", {"update.precondition": "none"}),
    ],
)
def test_what_sets_a_vendor_apart_is_asked_in_its_own_way(
    counterpart: Callable[[str], Counterpart],
    world_on: Callable[..., World],
    proxy: FaultProxy,
    vendor: str,
    findings: dict[str, object],
) -> None:
    there = counterpart("sekmet")
    before = len(there.search("Observation"))
    proxy.forget()
    proxy.lead_to(there.base_url)
    proxy.script(personality=personality_of(load_vendor(vendor)))
    report = probe(world_on(there, vendor, proxy.base_url).run, read_only=False)
    proxy.forget()
    found = {one.cell: one.found for one in report.findings}
    assert findings.items() <= found.items(), report.unanswered
    assert report.safe, [one for one in report.findings if one.breaking]
    assert len(there.search("Observation")) == before


def test_an_idempotency_key_that_is_ignored_is_found_out(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World]
) -> None:
    report = probe(world_on(counterpart("sekmet"), "healthlake").run, read_only=False)
    assert [one.cell for one in report.findings if one.breaking] == ["create.precondition"]


@pytest.fixture
def line(counterpart: Callable[[str], Counterpart]) -> Iterator[FaultyLine]:
    with FaultyLine(counterpart("sekmet").base_url) as standing:
        yield standing


JSON = (("Content-Type", "application/fhir+json"),)


def searchset(line: FaultyLine, kind: str) -> Say:
    """Page one of a whole chart."""
    found = {"resourceType": kind, "id": "somebody"}
    following = {"relation": "next", "url": f"{line.base_url}/{kind}?page=2"}
    bundle = {"resourceType": "Bundle", "type": "searchset", "link": [following], "entry": [{"resource": found}]}
    return Say(200, JSON, json.dumps(bundle).encode())


def test_of_a_server_that_ignores_what_is_searched_for_one_page_is_read(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World], line: FaultyLine
) -> None:
    world = world_on(counterpart("sekmet"), base_url=line.base_url)
    line.always("POST", "Patient/_search", searchset(line, "Patient"))
    line.always("GET", "Patient", searchset(line, "Patient"))
    report = probe(world.run, read_only=True)
    assert [(one.cell, one.breaking) for one in report.findings] == [("nonsense matches nothing", True)]
    assert not report.safe
    (asked,) = [seen for seen in line.seen if seen.path.startswith("Patient")]
    assert parse_qs(asked.body.decode())["_count"] == ["1"]


@pytest.mark.parametrize("condition", ["no-such-parameter=1", ""], ids=["an unknown condition", "every condition"])
def test_what_was_there_before_is_neither_changed_nor_deleted(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World], line: FaultyLine, condition: str
) -> None:
    """A server whose conditional create finds somebody else's resource, and says so with a 200."""
    there = counterpart("sekmet")
    before = there.chart.create({"resourceType": "Observation", "status": "final", "code": {"text": "somebody else's"}})
    shown = Say(200, (*JSON, ("ETag", 'W/"1"')), json.dumps(before).encode())

    def matches(seen: Seen) -> Say | None:
        asked = seen.method == "POST" and condition in seen.headers.get("if-none-exist", "no")
        return shown if asked and seen.path == "Observation" else None

    line.rules.append(matches)
    report = probe(world_on(there, base_url=line.base_url).run, read_only=False)
    assert not [seen for seen in line.seen if before["id"] in seen.path]
    assert there.search("Observation", _id=before["id"]) == [before]
    if condition:
        assert ("create.unknown_condition", "matches") in [(one.cell, one.found) for one in report.findings]
    else:
        assert not report.safe
    assert report.left == ()


@pytest.mark.parametrize("path", ["Observation", "Patient/_search"])
def test_an_ehr_that_refuses_everything_has_proved_nothing(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World], line: FaultyLine, path: str
) -> None:
    line.rules.append(lambda seen: refusal(403) if (seen.method, seen.path) == ("POST", path) else None)
    report = probe(world_on(counterpart("sekmet"), base_url=line.base_url).run, read_only=False)
    assert report.unanswered
    assert report.unproven
    assert not report.safe
    assert not any(one.breaking for one in report.findings)


def test_what_the_matrix_knows_to_be_refused_needs_no_proof_but_a_person(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World], line: FaultyLine
) -> None:
    report = probe(world_on(counterpart("sekmet"), "meditech", line.base_url).run, read_only=False)
    assert [one.partition(":")[0] for one in report.unanswered] == ["create"]
    assert not report.safe
    assert [seen.path for seen in line.sent("POST", "Observation")] == ["Observation/$validate"]


def test_doing_more_than_the_matrix_says_is_told_and_breaks_nothing(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World]
) -> None:
    """sekmet keeps identifiers and heeds conditions, which the matrix does not promise of Epic."""
    report = probe(world_on(counterpart("sekmet"), "epic").run, read_only=False)
    differing = {one.cell: one.found for one in report.findings if one.differs}
    assert differing["create.keeps_identifier"] is True
    assert differing["create.precondition"] == "if_none_exist"
    assert [one.cell for one in report.findings if one.breaking] == []
    assert report.safe, report.unanswered


def test_production_is_asked_only_what_writes_nothing(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World]
) -> None:
    world = world_on(counterpart("sekmet"))
    report = probe(world.run, read_only=True)
    assert [(one.cell, one.found) for one in report.findings] == [("nonsense matches nothing", True)]
    object.__setattr__(world.run.tenant.ehr, "sandbox", False)
    with pytest.raises(ConfigError, match=r"not marked as a sandbox.*--read-only"):
        probe(world.run, read_only=False)


def test_what_changed_since_it_was_approved_holds_the_writes_where_it_breaks_something(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World]
) -> None:
    world = world_on(counterpart("sekmet"))
    assert drift.check(world.run).metadata() == {"approved": "no; see fhir-writeback target probe"}
    report = probe(world.run, read_only=True)
    with world.run.store.tenant(world.run.id) as connection:
        drift.approve(connection, world.run, report.snapshot, [], "somebody")
    assert drift.check(world.run).differences == ()

    approved = report.snapshot | {"types": report.snapshot["types"] | {"Nonesuch": {"interactions": ["read"]}}}
    with world.run.store.tenant(world.run.id) as connection:
        drift.approve(connection, world.run, approved, [], "somebody")
    assert not drift.check(world.run).breaking

    observation = report.snapshot["types"]["Observation"]
    approved["types"]["Observation"] = observation | {"interactions": [*observation["interactions"], "search-type", "create"]}
    approved["fhir"] = "3.0.2"
    with world.run.store.tenant(world.run.id) as connection:
        drift.approve(connection, world.run, approved, [], "somebody")
    found = drift.check(world.run)
    assert found.breaking
    held = "SELECT held_because, held_until = 'infinity' FROM ledger.target WHERE tenant = %s"
    assert world.rows(held) == [("drift", True)]
    assert world.events("ehr").count("target.drifted") == 2
