"""What a vendor's own error codes mean, by its matrix; what the matrix does not name is read as FHIR says it."""

from __future__ import annotations

from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.error_classes import ErrorClass, Recovery, RequestKind, classify
from fhir_writeback_dagster.rules.target.matrix import Vendor

MEANINGS = {
    "busy": ErrorClass("busy", Recovery.RETRY),
    "duplicate": ErrorClass("duplicate", Recovery.RECONCILE),
    "encounter_locked": ErrorClass("encounter_locked", Recovery.REVIEW),
    "forbidden": ErrorClass("forbidden", Recovery.ESCALATE),
    "malformed": ErrorClass("malformed", Recovery.QUARANTINE),
    "never": ErrorClass("not_built_in_ehr", Recovery.QUARANTINE),
    "patient_gone": ErrorClass("target_gone", Recovery.QUARANTINE),
    "reference": ErrorClass("bad_reference", Recovery.QUARANTINE),
    "several_matches": ErrorClass("several_matches", Recovery.REVIEW),
    "throttled": ErrorClass("throttled", Recovery.WAIT),
    "unprocessable": ErrorClass("unprocessable", Recovery.QUARANTINE),
}


def interpret(vendor: Vendor, request: RequestKind, answer: Answer) -> ErrorClass:
    """The class of ``answer``. A code in the vendor's own field counts whatever the status; one in an OperationOutcome only
    where the status is an error, because a success may come with warnings.
    """
    said = _own_code(vendor, answer) or (answer.codes() if answer.status >= 400 else frozenset())
    for error in vendor.errors:
        if error.code in said:
            return MEANINGS[error.means]
    return classify(request, answer, plain=vendor.answers.outcomes.value is False)


def _own_code(vendor: Vendor, answer: Answer) -> frozenset[str]:
    field = vendor.answers.error_field.value
    body = answer.json() if field else None
    value = body.get(field) if isinstance(body, dict) and "resourceType" not in body else None
    return frozenset({str(value)}) if isinstance(value, (str, int)) else frozenset()
