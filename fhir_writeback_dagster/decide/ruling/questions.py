"""What policies and consents are asked about a mapped record; commit asks it again, from its candidate's sealed context."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.canonical import CanonicalRecord, Coding, Concept
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.decide.ruling.gates import event_span
from fhir_writeback_dagster.decide.stages import Mapped
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.consent.codes import IDLE_STATUSES
from fhir_writeback_dagster.rules.consent.evaluate import MOST_UNPLACED, evaluate
from fhir_writeback_dagster.rules.consent.model import ConsentDecision, ConsentRequest
from fhir_writeback_dagster.rules.policy.cedar import PolicyRequest

#: FHIR's own vocabularies of status, category and the like: policies have words of their own for these, and a list of the codes
#: that a source may write need not hold them.
_OF_FHIR = ("http://terminology.hl7.org/CodeSystem/", "http://hl7.org/fhir/us/core/CodeSystem/")


def policy_ask(tenant: str, mapped: Mapped, now: datetime, *, known: bool) -> PolicyRequest:
    """``known``: the fact has been told before, so that this would change what stands there."""
    return PolicyRequest(
        tenant=tenant,
        source=mapped.row.source,
        actor_type=mapped.row.record.actor.type,
        actor_id=mapped.row.record.actor.id,
        kind=mapped.row.kind,
        resource_type=mapped.mapping.resource_type,
        interaction="update" if known or mapped.mapping.interaction == "update" else "create",
        confidence=mapped.row.record.confidence,
        basis=mapped.row.record.basis,
        codes=tuple(f"{system}|{code}" for system, code in mapped.codings if not system.startswith(_OF_FHIR)),
        encounter_status=mapped.matched.encounter.status,
        now=now,
        labels=tuple(f"{system}|{code}" for system, code in mapped.labels),
    )


def consent_ask(tenant: Tenant, mapped: Mapped, now: datetime) -> ConsentRequest:
    return ConsentRequest(
        purpose=tenant.consent.purpose,
        actor=tenant.consent.actor,
        resource_type=mapped.mapping.resource_type,
        codings=mapped.codings,
        labels=mapped.labels,
        at=now,
        event=event_span(mapped.row.record, tenant.consent_zone),
        coded=bool(codings_of(mapped.row.record)),
        zone=tenant.consent_zone,
    )


def codings_of(record: CanonicalRecord) -> tuple[Coding, ...]:
    """The codings of what the record is about: its code, or the type of a document."""
    concept = getattr(record, "code", None) or getattr(record, "type", None)
    return concept.codings if isinstance(concept, Concept) else ()


def answer_of(
    tenant: Tenant, consents: Sequence[dict[str, Any]], unplaced: Sequence[dict[str, Any]], ask: ConsentRequest
) -> ConsentDecision:
    """What the patient's ``consents`` say, where the tenant keeps consent by patient; ``unplaced`` are nobody knows whose."""
    if tenant.consent.source == "organisation":
        return ConsentDecision("none", reason="organisation")
    return evaluate(consents, ask, unplaced)


def consents_of(connection: Connection[Any], run: RunContext, patients: Sequence[str]) -> dict[str | None, list[dict[str, Any]]]:
    """The mirror's Consents of each of ``patients``; under None those of patients whom nobody can tell."""
    found: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
    target = run.tenant.ehr.target
    for consent_id, patient, body in connection.execute(
        "SELECT consent_id, patient_id, body FROM mirror.consent WHERE tenant = %(tenant)s AND target = %(target)s "
        "AND patient_id = ANY (%(patients)s::text[]) UNION ALL (SELECT consent_id, NULL, body FROM mirror.consent "
        "WHERE tenant = %(tenant)s AND target = %(target)s AND patient_id IS NULL AND status <> ALL (%(idle)s::text[]) "
        "LIMIT %(most)s)",
        {
            "tenant": run.id,
            "target": target,
            "patients": list(patients),
            "idle": sorted(IDLE_STATUSES),
            "most": MOST_UNPLACED + 1,
        },
    ):
        found[patient].append(run.sealer.open_json("mirror.consent", f"{target}|{consent_id}", body))
    return found
