"""The probe finds what each counterpart does; what it finds of the real ones is what their matrix says, and what the docs show.

``WRITE_DOCS=1 pytest tests/contract/test_probe.py -k real_server`` writes `docs/probes.md` anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from commit.world import World
from contract.counterparts import SLOW, Counterpart

from fhir_writeback_dagster.commit import drift
from fhir_writeback_dagster.commit.probe_commands import probe, table
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.sandbox.fault_proxy.personality import Personality
from fhir_writeback_dagster.sandbox.fault_proxy.server import FaultProxy

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
    report = probe(world_on(there, vendor, timeout="120s").w, read_only=False)  # a first $validate loads all that it knows
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
    report = probe(world_on(there, "generic", proxy.base_url).w, read_only=False)
    proxy.forget()
    assert cell in {one.cell for one in report.findings if one.breaking}
    assert not report.safe


def test_production_is_asked_only_what_writes_nothing(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World]
) -> None:
    world = world_on(counterpart("sekmet"))
    report = probe(world.w, read_only=True)
    assert [(one.cell, one.found) for one in report.findings] == [("nonsense matches nothing", True)]
    object.__setattr__(world.w.tenant.ehr, "sandbox", False)
    with pytest.raises(ConfigError, match=r"not marked as a sandbox.*--read-only"):
        probe(world.w, read_only=False)


def test_what_changed_since_it_was_approved_holds_the_writes_where_it_breaks_something(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World]
) -> None:
    world = world_on(counterpart("sekmet"))
    assert drift.check(world.w).metadata() == {"approved": "no; see fhir-writeback target probe"}
    report = probe(world.w, read_only=True)
    with world.w.store.tenant(world.w.id) as connection:
        drift.approve(connection, world.w, report.snapshot, [], "somebody")
    assert drift.check(world.w).differences == ()

    approved = report.snapshot | {"types": report.snapshot["types"] | {"Nonesuch": {"interactions": ["read"]}}}
    with world.w.store.tenant(world.w.id) as connection:
        drift.approve(connection, world.w, approved, [], "somebody")
    assert not drift.check(world.w).breaking

    observation = report.snapshot["types"]["Observation"]
    approved["types"]["Observation"] = observation | {"interactions": [*observation["interactions"], "search-type", "create"]}
    approved["fhir"] = "3.0.2"
    with world.w.store.tenant(world.w.id) as connection:
        drift.approve(connection, world.w, approved, [], "somebody")
    found = drift.check(world.w)
    assert found.breaking
    held = "SELECT held_because, held_until = 'infinity' FROM ledger.target WHERE tenant = %s"
    assert world.rows(held) == [("drift", True)]
    assert world.events("ehr").count("target.drifted") == 2
