"""How a resource can name its patient, other than `Patient/1`: each form is R4's, and has been met in a Consent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal
from zlib import crc32

from fhir_writeback_dagster.rules.fhir.resource import Resource

Disguise = Literal["https", "another_host", "slash", "versioned", "absolute"]

BACKEND = "http://ehr-node-3.internal:8443/r4"
"""The base under which a server behind a proxy knows itself."""

_FORMS: dict[Disguise, Callable[[str, str], str]] = {
    "https": lambda name, base: f"{base.replace('http://', 'https://', 1)}/{name}",
    "another_host": lambda name, _: f"{BACKEND}/{name}",
    "slash": lambda name, _: f"{name}/",
    "versioned": lambda name, _: f"{name}/_history/1",
    "absolute": lambda name, base: f"{base}/{name}",
}


def disguised(resource: Resource, forms: Sequence[Disguise], base_url: str) -> Resource:
    """A Consent that names its patient in one of ``forms``, for each patient always the same; everything else as it is."""
    patient = resource.get("patient")
    if resource.get("resourceType") != "Consent" or not isinstance(patient, dict) or "reference" not in patient:
        return resource
    name = str(patient["reference"])
    form = forms[crc32(name.encode()) % len(forms)]
    return {**resource, "patient": {**patient, "reference": _FORMS[form](name, base_url)}}
