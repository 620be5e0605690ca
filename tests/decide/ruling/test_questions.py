"""What policies and consents are asked about: the code of a record, and of a document its type."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_writeback_dagster.canonical import from_json
from fhir_writeback_dagster.decide.ruling.questions import codings_of

NOTE = {"codings": [{"system": "http://loinc.org", "code": "11506-3"}]}


@pytest.mark.parametrize(
    ("fields", "codes"),
    [
        ({"kind": "condition", "code": NOTE}, ["11506-3"]),
        ({"kind": "document", "type": NOTE, "date": "2026", "data": "YQ==", "sha256": "0"}, ["11506-3"]),
        ({"kind": "allergy", "code": NOTE, "type": "allergy"}, ["11506-3"]),
        ({"kind": "patient", "phone": "1"}, []),
        ({"kind": "condition", "code": {"text": "in words"}}, []),
    ],
    ids=["code", "type of a document", "allergy", "patient", "no coding"],
)
def test_what_a_record_is_about(fields: dict[str, Any], codes: list[str]) -> None:
    record = from_json({"patient": {}, "actor": {"type": "source", "id": "s"}, **fields})
    assert [coding.code for coding in codings_of(record)] == codes
