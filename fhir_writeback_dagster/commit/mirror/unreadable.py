"""What the mirror holds in place of a resource that it cannot keep: an entry that nobody is matched by and that permits nothing.

One resource of a page that is not as R4 says (a NUL in its version, an id that would be a path) must not cost the others their
place. It is counted all the same, so that the mirror is as complete as the EHR's own count, and it fails closed: a patient or an
encounter without anything that tells who it is, a consent that cannot be understood and so denies.
"""

from __future__ import annotations

import hashlib
import re

from fhir_writeback_dagster.commit.mirror.model import MirroredType
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.references import referenced
from fhir_writeback_dagster.rules.fhir.resource import Resource

_ID = re.compile(r"(?!\.+$)[A-Za-z0-9\-.]{1,64}", re.ASCII)


def kept_id(resource_id: str) -> str:
    """The id by which the mirror knows a resource: its own, where that is of R4's form, else one that stands for it."""
    if _ID.fullmatch(resource_id):
        return resource_id
    return f"unreadable-{hashlib.sha256(resource_id.encode(errors='surrogatepass')).hexdigest()[:32]}"


def stand_in(run: RunContext, kind: MirroredType, resource: Resource) -> Resource:
    """What is kept of ``resource`` instead."""
    bare: Resource = {"resourceType": kind, "id": kept_id(resource["id"])}
    if kind == "Patient":
        return {**bare, "active": False}
    if kind == "Consent" and (patient := referenced(resource.get("patient"), "Patient", run.tenant.ehr.bases)):
        return {**bare, "patient": {"reference": f"Patient/{patient}"}}
    return bare
