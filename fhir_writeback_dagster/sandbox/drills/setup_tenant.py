"""A new tenant for a drill: patients in the EHR, the tenant's file and keys, its role in the database, a first mirror."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from fhir_writeback_dagster.ops.database import register
from fhir_writeback_dagster.sandbox.demo_home import tenant_document, zone_of
from fhir_writeback_dagster.sandbox.drills.environment import DrillEnvironment
from fhir_writeback_dagster.sandbox.drills.tenant_under_test import SOURCE, TenantUnderTest, make_maker
from fhir_writeback_dagster.sandbox.drills.worker_pool import WorkerPool
from fhir_writeback_dagster.sandbox.keys import make_secret
from fhir_writeback_dagster.sandbox.story.hospitals import Hospital, StoryPatient

WRITES_A_PATIENT, PATIENTS = 5, (6, 200)
#: Short enough that a drill sees a timeout and a quiet period pass; see `docs/exactly-once.md` on what they must outlast.
EHR = {"timeout": "5s", "quiet": "1s", "concurrency": 8}


def admit(
    stage: DrillEnvironment,
    name: str,
    writes: int,
    seed: int,
    ehr: Mapping[str, Any] | None = None,
    consent: Mapping[str, Any] | None = None,
) -> TenantUnderTest:
    """The ward of one drill. ``ehr`` and ``consent`` are laid over the tenant's file."""
    stage.drills += 1
    hospital = _hospital(f"{name}-{stage.drills}", f"d{stage.drills}", writes)
    stage.server.chart.load(hospital.chart())
    document = tenant_document(hospital, stage.proxy.base_url)
    document["ehr"] |= {"vendor": stage.server.vendor, "auth": stage.server.auth, **EHR, **(ehr or {})}
    document["consent"] |= consent or {}
    keys = {"sealing": make_secret(), "identity": make_secret()}
    document["keys"] = {"sealing": _key(stage, hospital, "sealing"), "identity": [_key(stage, hospital, "identity")]}
    document["sources"] = {SOURCE: document["sources"][SOURCE]}
    for kind, secret in keys.items():
        _write_key(stage, f"{hospital.id}.{kind}", secret)
    _write_key(stage, "client.jwk", stage.server.private_jwk)
    (stage.home / "tenants" / f"{hospital.id}.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    zone_of(stage.home, hospital, SOURCE).mkdir(parents=True)
    register(stage.dsns, [hospital.id])
    crew = WorkerPool(stage.home, hospital.id, stage.dsns.of("commit"), stage.state.log(f"worker {hospital.id}"))
    ward = TenantUnderTest(stage, hospital, writes, make_maker(hospital, seed), crew)
    ward.charts.update(person.chart_id for person in hospital.people)
    ward.look_around()
    return ward


def _hospital(tenant: str, prefix: str, writes: int) -> Hospital:
    fewest, most = PATIENTS
    number = min(max(writes // WRITES_A_PATIENT, fewest), most)
    people = tuple(_person(prefix, n) for n in range(1, number + 1))
    return Hospital(tenant, f"Drill {tenant}", "America/New_York", "permit", {"Observation": "auto"}, people)


def _person(prefix: str, number: int) -> StoryPatient:
    return StoryPatient(
        number=number,
        mrn=f"{prefix.upper()}{number:05d}",
        chart_id=f"{prefix}-p{number}",
        family="Fairweather",
        given=f"{'ABCDEFGHIJ'[number % 10]}lex",
        birth_date=f"{1940 + number % 60}-06-15",
        sex="female" if number % 2 else "male",
        phone="+1-555-0100",
        role="plain",
    )


def _key(stage: DrillEnvironment, hospital: Hospital, kind: str) -> str:
    return f"file://{stage.home}/keys/{hospital.id}.{kind}"


def _write_key(stage: DrillEnvironment, name: str, text: str) -> None:
    path = stage.home / "keys" / name
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
