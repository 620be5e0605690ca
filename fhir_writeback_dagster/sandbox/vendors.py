"""A vendor's personality for the fault proxy, made from its matrix: what it is known to do otherwise than R4 says.

What nobody knows of a vendor is not played: then the server behind does it as R4 says.
"""

from __future__ import annotations

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.rules.target.matrix import ErrorCode, Types, Vendor
from fhir_writeback_dagster.sandbox.fault_proxy.exchange import ProxyInteraction
from fhir_writeback_dagster.sandbox.fault_proxy.faults import SayBody
from fhir_writeback_dagster.sandbox.fault_proxy.personality import Personality

MISSING = 412
"""What an EHR that requires a precondition says without one, where its status is not known."""

UNFILTERED = 400
"""What an EHR says to a search of all its patients that it does not take; its matrix has no cell for the status."""


MEDIATED = 202
"""A create that is decided upon later; the server behind has decided already."""


def error_of(vendor: Vendor, error: ErrorCode) -> SayBody:
    """An error of the vendor's own as it words it: in a JSON of its own under a status that says nothing, or in an
    OperationOutcome.
    """
    if vendor.answers.error_field.value:
        return SayBody(200, canonicaljson.encode({vendor.answers.error_field.value: error.code}), "application/json")
    issue = {"severity": "error", "code": "processing", "details": {"coding": [{"code": error.code}]}}
    return SayBody(400, canonicaljson.encode({"resourceType": "OperationOutcome", "issue": [issue]}))


def personality_of(vendor: Vendor) -> Personality:
    """How ``vendor`` behaves, in front of a server that does all that R4 says."""
    create, update, answers = vendor.create, vendor.update, vendor.answers
    return Personality(
        name=vendor.vendor,
        strips_identifiers=create.keeps_identifier.value is False,
        drops_etags=answers.etag.value is False,
        ignores_if_none_exist=create.precondition.value not in (None, "if_none_exist"),
        ignores_if_match=update.precondition.value in ("none", "if_unmodified_since") or update.patch_precondition.value is False,
        needs_if_match=update.missing_status.get(MISSING) if update.required.get(False) else None,
        stale_status=update.stale_status.value,
        heeds_time=update.precondition.value == "if_unmodified_since",
        idempotency_header=create.idempotency_header.value,
        creates=None if create.types.value is None or "*" in create.types.value else create.types.value,
        largest=vendor.limits.body_bytes.value,
        outcomes=answers.outcomes.value is not False,
        error_field=answers.error_field.value,
        created_status=MEDIATED if answers.asynchronous.value else 201,
        empty_created=create.answers_body.value is False or bool(answers.asynchronous.value),
        no_location=bool(answers.asynchronous.value),
        refuses_body_id=create.takes_id.value is False,
        refuses_unfiltered=UNFILTERED if vendor.on_demand else None,
        lacks=_lacks(vendor),
    )


def _lacks(vendor: Vendor) -> tuple[ProxyInteraction, ...]:
    lacks: list[ProxyInteraction] = []
    if _none(vendor.update.put):
        lacks.append("update")
    if _none(vendor.update.patch):
        lacks.append("patch")
    if vendor.bundles.kinds.value == ():
        lacks.append("bundle")
    if vendor.reads.history.value is False:
        lacks.append("history")
    return tuple(lacks)


def _none(types: Types) -> bool:
    return types.value == ()
