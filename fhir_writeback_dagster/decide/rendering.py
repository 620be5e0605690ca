"""The payload of an identified record: mapped, labelled, hashed and validated."""

from __future__ import annotations

from fhir_writeback_dagster.decide.mapping.versions import Refs
from fhir_writeback_dagster.decide.ruling.labels import LabelList, codings_in, labelled
from fhir_writeback_dagster.decide.stages import Decision, Identified, Mapped, Ruled, Ruling, ended
from fhir_writeback_dagster.decide.validation.validate import validate
from fhir_writeback_dagster.errors import CandidateProblem
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.store.content_hash import ContentHasher

#: Of what validation finds in one payload, the errors first: as many as help somebody to fix it.
MAX_ISSUES = 20


def render(
    run: RunContext, identified: Identified, hasher: ContentHasher, labels: LabelList, born: str | None
) -> Mapped | Decision:
    """The payload of an identified record with its labels, hash and issues; a decision where it has none, or an invalid one.

    :param born: birth date by the chart; None: the record's own, if it says one.
    """
    row, matched = identified.row, identified.matched
    refs = Refs(
        patient=f"Patient/{matched.patient_id}",
        encounter=f"Encounter/{matched.encounter.encounter_id}" if matched.encounter.encounter_id else None,
        identifier_system=run.tenant.identifier_system,
        business_key=identified.business_key,
    )
    try:
        rendered = matched.mapping.render(row.data, refs)
        codings = codings_in(rendered)
    except CandidateProblem as problem:
        return ended(identified, "quarantined", problem.code, problem.where)
    its_labels = labels.of(row.record, codings, born or row.record.patient.birth_date, run.now())
    # An update names single fields of a resource that has its own labels already.
    payload = labelled(rendered, its_labels if matched.mapping.interaction == "create" else ())
    issues = tuple(sorted(validate(payload), key=lambda issue: issue.severity != "error")[:MAX_ISSUES])
    mapped = Mapped(row, matched, identified, payload, codings, its_labels, hasher.of(payload), issues)
    if issues and issues[0].severity == "error":
        # It gets a verdict, so that the quarantine item leads to all that is wrong with it.
        versions = {"mapping": f"{row.kind}/{mapped.mapping.version}", "mapping_sha256": mapped.mapping.sha256}
        ruled = Ruled(mapped, Ruling("denied", ()), versions, {})
        return ended(ruled, "quarantined", f"invalid_{issues[0].code}", issues[0].path, verdict_id=new_id())
    return mapped
