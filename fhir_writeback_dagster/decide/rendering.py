"""A matched item's payload: mapped, labelled, hashed and validated; what stands against it ends the item."""

from __future__ import annotations

from fhir_writeback_dagster.decide.mapping.versions import Refs
from fhir_writeback_dagster.decide.ruling.labels import LabelList, codings_in, labelled
from fhir_writeback_dagster.decide.validation.validate import validate
from fhir_writeback_dagster.decide.work_items import Ruling, WorkItem
from fhir_writeback_dagster.errors import CandidateProblem
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.natural_key import natural_key
from fhir_writeback_dagster.store.content_hash import ContentHasher

#: Of what validation finds in one payload, the errors first: as many as help somebody to fix it.
MAX_ISSUES = 20


def render(run: RunContext, item: WorkItem, hasher: ContentHasher, labels: LabelList, born: str | None) -> None:
    """Give ``item``, which has its business key, its payload with labels, hashes and issues.

    :param born: birth date by the chart; None: the record's own, if it says one.
    """
    assert item.mapping is not None
    assert item.business_key is not None
    refs = Refs(
        patient=f"Patient/{item.patient_id}",
        encounter=f"Encounter/{item.encounter_id}" if item.encounter_id else None,
        identifier_system=run.tenant.identifier_system,
        business_key=item.business_key,
    )
    try:
        payload = item.mapping.render(item.data, refs)
        item.codings = codings_in(payload)
    except CandidateProblem as problem:
        item.end("quarantined", problem.code, problem.where)
        return
    item.labels = labels.of(item.record, item.codings, born or item.record.patient.birth_date, run.now())
    # An update names single fields of a resource that has its own labels already.
    item.payload = labelled(payload, item.labels if item.mapping.interaction == "create" else ())
    item.content_hash = hasher.of(item.payload)
    natural = natural_key(item.payload)
    item.natural_key = run.identity.digest("natural-key", *natural) if natural else None
    item.issues = sorted(validate(item.payload), key=lambda issue: issue.severity != "error")[:MAX_ISSUES]
    if item.issues and item.issues[0].severity == "error":
        item.end("quarantined", f"invalid_{item.issues[0].code}", item.issues[0].path)
        # Its verdict, so that the quarantine item leads to all that is wrong with it.
        item.verdict_id, item.ruling = new_id(), Ruling("denied", ())
        item.versions = {"mapping": f"{item.kind}/{item.mapping.version}", "mapping_sha256": item.mapping.sha256}
