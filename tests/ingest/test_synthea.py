"""The shipped contract of Synthea's CSV export, on rows of our own making in its shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fhir_writeback_dagster.canonical import to_json
from fhir_writeback_dagster.ingest.contracts.sources import Source, load_source
from fhir_writeback_dagster.ingest.normalise.columns import Maker
from fhir_writeback_dagster.ingest.normalise.records import Normalised, normalise
from fhir_writeback_dagster.ingest.readers import read as readers

PATIENT, ENCOUNTER = "6b1f0a52-0000-4000-8000-000000000001", "6b1f0a52-0000-4000-8000-000000000002"
HEADERS = {
    "observations": "DATE,PATIENT,ENCOUNTER,CATEGORY,CODE,DESCRIPTION,VALUE,UNITS,TYPE",
    "conditions": "START,STOP,PATIENT,ENCOUNTER,CODE,DESCRIPTION",
    "medications": "START,STOP,PATIENT,PAYER,ENCOUNTER,CODE,DESCRIPTION,BASE_COST,PAYER_COVERAGE,DISPENSES,TOTALCOST,REASONCODE,"
    "REASONDESCRIPTION",
    "allergies": "START,STOP,PATIENT,ENCOUNTER,CODE,SYSTEM,DESCRIPTION,TYPE,CATEGORY,REACTION1,DESCRIPTION1,SEVERITY1,REACTION2,"
    "DESCRIPTION2,SEVERITY2",
    "immunizations": "DATE,PATIENT,ENCOUNTER,CODE,DESCRIPTION,BASE_COST",
    "procedures": "START,STOP,PATIENT,ENCOUNTER,CODE,DESCRIPTION,BASE_COST,REASONCODE,REASONDESCRIPTION",
    "patients": "Id,BIRTHDATE,FIRST,LAST",
    "encounters": "Id,START,STOP,PATIENT",
}
AT = "2024-03-01T10:00:00Z"
WHO = {"PATIENT": PATIENT, "ENCOUNTER": ENCOUNTER}


@pytest.fixture(scope="module")
def synthea(shipped: Path) -> Source:
    return load_source(shipped, "synthea_csv", 1)


def made(synthea: Source, name: str, rows: Sequence[dict[str, str]]) -> Normalised:
    header = HEADERS[name]
    lines = [",".join((WHO | row).get(column, "") for column in header.split(",")) for row in rows]
    table = synthea.contract.tables[name]
    frame = readers.read("\n".join([header, *lines, ""]).encode(), table, whole=False)
    return normalise(frame, name, table, synthea.contract.actor, Maker("synthea_csv", {}, "UTC", synthea.concept_maps))


def only(synthea: Source, name: str, **row: str) -> dict[str, Any]:
    [record] = made(synthea, name, [row]).records
    return to_json(record.record)


def observed(category: str, code: str, value: str, units: str = "", type_: str = "numeric") -> dict[str, str]:
    return {
        "DATE": AT,
        "CATEGORY": category,
        "CODE": code,
        "DESCRIPTION": "What it is",
        "VALUE": value,
        "UNITS": units,
        "TYPE": type_,
    }


def test_every_file_of_the_export_is_taken_or_left_alone_on_purpose(synthea: Source) -> None:
    exported = (
        "allergies careplans claims claims_transactions conditions devices encounters imaging_studies immunizations medications "
        "observations organizations patients payer_transitions payers procedures providers supplies"
    )
    contract = synthea.contract
    for name in exported.split():
        assert (contract.table_of(f"{name}.csv") is None) == contract.ignores(f"{name}.csv"), name


def test_a_vital_sign(synthea: Source) -> None:
    record = only(synthea, "observations", **observed("vital-signs", "8302-2", "101.8", "cm"))
    assert record["kind"] == "vital_sign"
    assert record["effective"] == AT
    assert str(record["quantity"]["value"]) == "101.8"
    assert record["patient"]["identifiers"] == ({"system": "https://github.com/synthetichealth/synthea", "value": PATIENT},)
    assert record["encounter"] == ({"system": "https://github.com/synthetichealth/synthea", "value": ENCOUNTER},)


def test_two_pressures_are_one_panel(synthea: Source) -> None:
    rows = [observed("vital-signs", code, "80.0", "mm[Hg]") for code in ("8480-6", "8462-4")]
    [record] = made(synthea, "observations", rows).records
    assert to_json(record.record)["code"]["codings"][0]["code"] == "85354-9"
    assert len(to_json(record.record)["components"]) == 2


def test_sums_of_the_simulation_are_no_findings(synthea: Source) -> None:
    result = made(synthea, "observations", [observed("", code, "1.0", "a") for code in ("QALY", "DALY", "QOLS")])
    assert {other.reason for other in result.others.values()} == {"source_truth_only"}


def test_an_unforeseen_category_is_not_guessed(synthea: Source) -> None:
    result = made(synthea, "observations", [observed("astrology", "1-8", "x", type_="text")])
    assert [other.reason for other in result.others.values()] == ["no_rule"]


def test_answers_of_one_questionnaire_are_one_panel_each_in_its_own_form(synthea: Source) -> None:
    rows = [
        observed("survey", "93027-1", "No", type_="text"),
        observed("survey", "56799-0", "1 Elm Street", type_="text"),
        observed("survey", "63512-8", "4.0", "{#}"),
        observed("survey", "63586-2", "51000", "/a", type_="text"),
        observed("survey", "93038-8", "An answer that nobody foresaw", type_="text"),
        observed("survey", "55758-7", "2.0", "{score}"),
    ]
    panel, score = (to_json(record.record) for record in made(synthea, "observations", rows).records)
    assert (panel["code"]["codings"][0]["code"], panel["category"]) == ("93025-5", "survey")
    said = {component["code"]["codings"][0]["code"]: component for component in panel["components"]}
    assert said["93027-1"]["concept"]["codings"][0] == {"system": "http://loinc.org", "code": "LA32-8", "display": "No"}
    assert said["56799-0"]["text"] == "1 Elm Street"
    assert said["63512-8"]["quantity"]["code"] == "{#}"
    assert said["63586-2"]["quantity"]["code"] == "/a"
    assert said["93038-8"]["concept"] == {"codings": (), "text": "An answer that nobody foresaw"}
    assert str(score["quantity"]["value"]) == "2.0"


def test_a_coded_laboratory_answer_and_a_culture(synthea: Source) -> None:
    coded = only(synthea, "observations", **observed("laboratory", "94531-1", "Detected (qualifier value)", type_="text"))
    assert coded["concept"]["codings"][0]["code"] == "260373001"
    culture = only(synthea, "observations", **observed("laboratory", "630-4", "Escherichia coli", type_="text"))
    assert culture["text"] == "Escherichia coli"


def test_a_condition_ends_when_it_stops(synthea: Source) -> None:
    row = {"START": "2024-03-01", "CODE": "65363002", "DESCRIPTION": "Otitis media"}
    over = only(synthea, "conditions", **row, STOP="2024-03-08")
    assert (over["onset"], over["abatement"], over["clinical_status"]) == ("2024-03-01", "2024-03-08", "resolved")
    assert only(synthea, "conditions", **row)["clinical_status"] == "active"


def test_orders_that_differ_in_stop_and_dispenses_are_two(synthea: Source) -> None:
    row = {"START": AT, "CODE": "860975", "DESCRIPTION": "Metformin"}
    rows = [row | {"STOP": AT, "DISPENSES": "1"}, row | {"STOP": "2025-03-01T10:00:00Z", "DISPENSES": "12"}]
    records = made(synthea, "medications", rows).records
    assert [record.record.discriminator for record in records] == [None, "2"]
    # A STOP says that an order ended, and not why.
    assert [to_json(record.record)["status"] for record in records] == ["unknown", "unknown"]
    assert len({record.identity for record in records}) == 2


def test_an_allergy_with_its_reactions(synthea: Source) -> None:
    record = only(
        synthea, "allergies", START="2001-12-05", CODE="735971005", SYSTEM="SNOMED-CT", DESCRIPTION="Fish", TYPE="allergy",
        CATEGORY="food", REACTION1="267036007", DESCRIPTION1="Dyspnea", SEVERITY1="MODERATE",
    )  # fmt: skip
    assert (record["type"], record["categories"], record["clinical_status"]) == ("allergy", ("food",), "active")
    [reaction] = record["reactions"]
    assert (reaction["manifestation"]["codings"][0]["code"], reaction["severity"]) == ("267036007", "moderate")


def test_an_immunization_and_a_procedure(synthea: Source) -> None:
    shot = only(synthea, "immunizations", DATE=AT, CODE="140", DESCRIPTION="Influenza")
    assert (shot["occurrence"], shot["code"]["codings"][0]["system"]) == (AT, "http://hl7.org/fhir/sid/cvx")
    done = only(
        synthea,
        "procedures",
        START=AT,
        STOP="2024-03-01T10:15:00Z",
        CODE="117015009",
        DESCRIPTION="Culture",
        REASONCODE="195662009",
    )
    assert (done["start"], done["end"], done["status"]) == (AT, "2024-03-01T10:15:00Z", "completed")
    assert done["reason"]["codings"][0]["code"] == "195662009"


@pytest.mark.parametrize("name", ["patients", "encounters"])
def test_patients_and_encounters_are_never_created_from_rows(synthea: Source, name: str) -> None:
    result = made(synthea, name, [{"Id": "1"}])
    assert not result.records
    assert result.others[0].reason == "reference_only"
