"""Whose a resource is. It is ours only if it says so: of the type, of the patient, and with our business key.

Order, count and place prove nothing: servers give the answers of a bundle in another order, or show another resource's body.
"""

from __future__ import annotations

from dataclasses import dataclass

from fhir_writeback_dagster.commit.protocol.answer import dicts
from fhir_writeback_dagster.rules.fhir.references import literal
from fhir_writeback_dagster.rules.fhir.resource import ReadResource
from fhir_writeback_dagster.rules.fhir.resource_url import is_id

_OF_A_REVISION = "."
"""Between a business key and a revision, in the identifier of a document that takes another's place."""


def key_of_revision(business_key: str, revision: int) -> str:
    """The identifier of a document that takes the place of the one before."""
    return f"{business_key}{_OF_A_REVISION}{revision}"


def bears(resource: ReadResource, system: str, value: str | None = None) -> bool:
    """Has ``resource`` an identifier of ``system`` (and with ``value``)?"""
    return any(
        one.get("system") == system and (value is None or one.get("value") == value) for one in dicts(resource.get("identifier"))
    )


def patient_of(resource: ReadResource) -> str | None:
    """The id of the patient whom ``resource`` names by a literal reference; None: it names none, or nobody can tell which."""
    whose = literal(resource.get("subject", resource.get("patient")))
    return whose.id if whose and whose.resource_type == "Patient" else None


@dataclass(frozen=True, slots=True)
class ResourceIdentity:
    """What tells the resource of one write from every other.

    :param system: the tenant's own identifier system, and ``key`` the value under it.
    :param resource_id: of an update: the resource that is changed.
    """

    system: str
    key: str
    resource_type: str
    patient_id: str
    resource_id: str | None = None

    def against(self, resource: ReadResource) -> str | None:
        """What speaks against ``resource`` being this one, as a reason code; None: nothing does."""
        if resource.get("resourceType") != self.resource_type:
            return "another_type"
        if not is_id(resource.get("id")) or self.resource_id not in (None, resource["id"]):
            return "another_resource"
        if patient_of(resource) != self.patient_id:
            return "another_patient"
        if any(one.get("system") == self.system and not self._of_this_fact(one) for one in dicts(resource.get("identifier"))):
            return "bears_another_key"
        return None

    def proved_by(self, resource: ReadResource) -> bool:
        """Does ``resource`` say of itself that it is this one?"""
        return self.against(resource) is None and bears(resource, self.system, self.key)

    def _of_this_fact(self, identifier: ReadResource) -> bool:
        value = identifier.get("value")
        return isinstance(value, str) and value.split(_OF_A_REVISION)[0] == self.key.split(_OF_A_REVISION)[0]
