"""The canonical kinds: what an extract says, in one vocabulary, before anything is FHIR.

Times are FHIR dateTime strings (R4, datatypes): ``2014``, ``2014-08``, ``2014-08-22`` or an instant with seconds and offset;
their shape is the precision they came with. Decimals keep the digits of the source. Nothing here is guessed: what a source
does not say is None.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

DateTime = Annotated[
    str,
    Field(
        pattern=r"^\d{4}(-\d{2}(-\d{2}(T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2}))?)?)?$",
        description="FHIR dateTime; a time always has seconds and an offset",
    ),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Identifier(_Model):
    system: str
    value: str


class Coding(_Model):
    system: str
    code: str
    display: str | None = None


class Concept(_Model):
    """A CodeableConcept: the standard coding first, the source's own after it."""

    codings: tuple[Coding, ...] = ()
    text: str | None = None


#: R4, quantity-comparator: the true value is less than the given one, and so on.
Comparator = Literal["<", "<=", ">=", ">"]


class Quantity(_Model):
    value: Decimal
    comparator: Comparator | None = Field(None, description="the true value lies below or above `value`; None: it is `value`")
    unit: str = Field(description="for people, as the source writes it or its UCUM code")
    code: str = Field(description="UCUM code")


class Repair(_Model):
    """What the source wrote in another way than its one meaning is written; counted by rule in the run's metadata."""

    field: str
    rule: Literal["unit", "valence", "code"]
    was: str
    now: str


class Actor(_Model):
    """Who said it: a scraper of a source system, or an agent (then with its model)."""

    type: Literal["source", "agent"]
    id: str
    model: str | None = None


class PatientRef(_Model):
    """How a row names its patient. Demographics, if the source has them, confirm a match on identifiers; whether they may make
    one is the tenant's choice. Address and phone never contradict: people move."""

    identifiers: tuple[Identifier, ...] = ()
    family: str | None = None
    given: str | None = None
    birth_date: str | None = None
    sex: Literal["male", "female", "other", "unknown"] | None = None
    line: str | None = None
    city: str | None = None
    postal_code: str | None = None
    state: str | None = None
    phone: str | None = None


class _Record(_Model):
    patient: PatientRef
    encounter: tuple[Identifier, ...] = Field((), description="identifiers of the encounter that the row names")
    actor: Actor
    confidence: Decimal | None = Field(None, ge=0, le=1, description="the agent's own; None for plain sources")
    basis: Literal["observed", "inferred"] = "observed"
    labels: tuple[Coding, ...] | None = Field(None, description="security labels that the source gives; others follow in decide")
    repairs: tuple[Repair, ...] | None = Field(
        None, description="what was read otherwise than it was written; never in a payload"
    )
    discriminator: str | None = Field(None, description="tells apart rows of one extract that agree in identity; see contract")


class Component(_Model):
    code: Concept
    quantity: Quantity | None = None
    concept: Concept | None = None
    text: str | None = None


class _Observed(_Record):
    code: Concept
    effective: DateTime
    status: Literal["preliminary", "final", "amended", "corrected"] = "final"
    quantity: Quantity | None = None
    concept: Concept | None = None
    text: str | None = None
    components: tuple[Component, ...] = ()


class VitalSign(_Observed):
    kind: Literal["vital_sign"] = "vital_sign"


class LabResult(_Observed):
    kind: Literal["lab_result"] = "lab_result"
    interpretation: Concept | None = None
    reference_low: Quantity | None = None
    reference_high: Quantity | None = None


class OtherObservation(_Observed):
    """Survey, social history, exam: an Observation that is neither a vital sign nor a laboratory result."""

    kind: Literal["observation"] = "observation"
    category: Literal["social-history", "survey", "exam", "imaging", "procedure", "therapy", "activity"]


class Condition(_Record):
    kind: Literal["condition"] = "condition"
    code: Concept
    onset: DateTime | None = None
    abatement: DateTime | None = None
    recorded: DateTime | None = None
    clinical_status: Literal["active", "recurrence", "relapse", "inactive", "remission", "resolved"] | None = None
    verification_status: Literal["unconfirmed", "provisional", "differential", "confirmed", "refuted"] | None = None
    category: Literal["problem-list-item", "encounter-diagnosis"] = "encounter-diagnosis"


class MedicationRequest(_Record):
    kind: Literal["medication_request"] = "medication_request"
    code: Concept
    authored: DateTime
    ended: DateTime | None = None
    status: Literal["active", "on-hold", "cancelled", "completed", "stopped", "draft", "unknown"]
    intent: Literal["proposal", "plan", "order", "original-order", "reflex-order", "filler-order", "instance-order"] = "order"
    order_id: Identifier | None = Field(None, description="the source's own number of this order")
    reason: Concept | None = None
    dosage_text: str | None = None
    dispenses: int | None = None


class Reaction(_Model):
    manifestation: Concept
    severity: Literal["mild", "moderate", "severe"] | None = None


class Allergy(_Record):
    kind: Literal["allergy"] = "allergy"
    code: Concept
    recorded: DateTime | None = None
    onset: DateTime | None = None
    ended: DateTime | None = None
    type: Literal["allergy", "intolerance"] | None = None
    categories: tuple[Literal["food", "medication", "environment", "biologic"], ...] = ()
    criticality: Literal["low", "high", "unable-to-assess"] | None = None
    clinical_status: Literal["active", "inactive", "resolved"] | None = None
    verification_status: Literal["unconfirmed", "confirmed", "refuted"] | None = None
    reactions: tuple[Reaction, ...] = ()


class Immunization(_Record):
    kind: Literal["immunization"] = "immunization"
    code: Concept
    occurrence: DateTime
    status: Literal["completed", "not-done"] = "completed"
    lot_number: str | None = None
    primary_source: bool | None = None


class Procedure(_Record):
    kind: Literal["procedure"] = "procedure"
    code: Concept
    start: DateTime
    end: DateTime | None = None
    status: Literal["preparation", "in-progress", "on-hold", "stopped", "completed", "unknown"] = "completed"
    reason: Concept | None = None


class Document(_Record):
    kind: Literal["document"] = "document"
    type: Concept
    date: DateTime
    title: str | None = None
    content_type: Literal["text/plain", "application/pdf"] = "text/plain"
    data: str = Field(description="base64")
    sha256: str = Field(description="hex, of the document's bytes: its identity")
    status: Literal["preliminary", "final", "amended"] = "final"


class PatientUpdate(_Record):
    """Named fields of a patient that is there already; a patient is never created from rows."""

    kind: Literal["patient"] = "patient"
    phone: str | None = None
    email: str | None = None
    line: str | None = None
    city: str | None = None
    state: str | None = None
    postal_code: str | None = None
    country: str | None = None


CanonicalRecord = Annotated[
    Union[
        VitalSign,
        LabResult,
        OtherObservation,
        Condition,
        MedicationRequest,
        Allergy,
        Immunization,
        Procedure,
        Document,
        PatientUpdate,
    ],
    Field(discriminator="kind"),
]

#: Kinds that may become a write; `encounter` rows (and `patient` rows without named fields) are reference only.
KINDS: tuple[str, ...] = (
    "vital_sign",
    "lab_result",
    "observation",
    "condition",
    "medication_request",
    "allergy",
    "immunization",
    "procedure",
    "document",
    "patient",
)

_adapter: TypeAdapter[CanonicalRecord] = TypeAdapter(CanonicalRecord)


def to_json(record: CanonicalRecord) -> dict[str, Any]:
    """Plain data for :mod:`canonicaljson`; fields that the source did not say are left out, decimals stay decimals."""
    return record.model_dump(mode="python", exclude_none=True)


def from_json(data: dict[str, Any]) -> CanonicalRecord:
    """The record that :func:`to_json` made; raises ``pydantic.ValidationError``."""
    return _adapter.validate_python(data)
