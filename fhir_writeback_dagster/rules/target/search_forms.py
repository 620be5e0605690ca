"""What a search of a patient's chart has to name beside the patient.

R4 lets a server refuse a search that it finds too wide, and many refuse Observations by patient alone (400, ``required``). Which
combinations it has to take US Core says (each profile's "Mandatory Search Parameters"); what a vendor wants is in its matrix
(``reads.chart_search``). Where neither is known, or what is known is refused, the next one is tried.

A code narrows the search to the facts that are asked for, so an answer is as complete as one by patient alone: two tell of one
fact only if they share a code (`rules.fhir.natural_key`). A category or an intent would not, so all that R4 knows are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fhir_writeback_dagster.rules.target.matrix import Vendor

Form = tuple[str, ...]
"""Names of search parameters beside ``patient``."""
Coding = tuple[str, str]

_US_CORE: Mapping[str, tuple[Form, ...]] = {
    "AllergyIntolerance": ((), ("clinical-status",)),
    "Condition": ((), ("code",), ("category",)),
    "DocumentReference": ((), ("type",), ("category",)),
    "MedicationRequest": ((), ("intent",)),
    "Observation": ((), ("code",), ("category",)),
}
_ALL: Mapping[Coding, Form] = {
    ("AllergyIntolerance", "clinical-status"): ("active", "inactive", "resolved"),
    ("Condition", "category"): ("problem-list-item", "encounter-diagnosis", "health-concern"),
    ("DocumentReference", "category"): ("clinical-note",),
    ("MedicationRequest", "intent"): (
        "proposal", "plan", "order", "original-order", "reflex-order", "filler-order", "instance-order", "option",
    ),
    ("Observation", "category"): (
        "social-history", "vital-signs", "imaging", "laboratory", "procedure", "survey", "exam", "therapy", "activity",
    ),
}  # fmt: skip
"""Every value of a type's parameter, where they are few."""
_NARROW = ("code", "type")


def chart_forms(vendor: Vendor, resource_type: str) -> list[Form]:
    """The forms in the order in which they are tried, each once."""
    known = vendor.reads.chart_search.get({}).get(resource_type)
    return list(dict.fromkeys([*([known] if known is not None else []), *_US_CORE.get(resource_type, ((),))]))


def is_narrow(form: Form) -> bool:
    """Does the form find only what bears a code of the payloads that it was made for?"""
    return any(name in _NARROW for name in form)


def parameters(form: Form, resource_type: str, payloads: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Coding]]] | None:
    """The form's parameters, each with system (or "") and code of every value that may be meant; None: a payload says nothing of
    one of them.

    :param payloads: what is looked for.
    """
    found = []
    for name in form:
        every = [("", code) for code in _ALL.get((resource_type, name), ())]
        stated = [list(_codings(payload.get(name))) for payload in payloads]
        if not every and not all(stated):
            return None
        found.append((name, list(dict.fromkeys([*every, *(coding for codings in stated for coding in codings)]))))
    return found


def codes_of(payload: Mapping[str, Any]) -> frozenset[Coding]:
    """What a narrow form names of ``payload``."""
    return frozenset(coding for name in _NARROW for coding in _codings(payload.get(name)))


def _codings(concepts: object) -> Iterable[Coding]:
    """Of one concept, or of several."""
    for concept in concepts if isinstance(concepts, list) else [concepts]:
        codings = concept.get("coding") if isinstance(concept, dict) else None
        for coding in codings if isinstance(codings, list) else ():
            if isinstance(coding, dict) and isinstance(coding.get("code"), str):
                yield str(coding.get("system") or ""), coding["code"]
