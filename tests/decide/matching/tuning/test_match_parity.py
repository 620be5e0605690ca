"""`match evaluate` tells what the pipeline would do: row by row, on the mirror that commit fills from the same chart."""

from __future__ import annotations

import random
from typing import Any

from conftest import MakeTenant, OpenLayer
from decide.matching.tuning.test_match_evaluate import Columns, corrupted, made_up

from fhir_writeback_dagster.commit.mirror.store import write_page
from fhir_writeback_dagster.decide.matching.model import Match
from fhir_writeback_dagster.decide.matching.patients import match_patients
from fhir_writeback_dagster.decide.matching.scoring import Thresholds
from fhir_writeback_dagster.decide.matching.tuning import evaluate
from fhir_writeback_dagster.decide.matching.tuning.tables import MemoryChart, ref_of, resource_of

REVIEW = 0.02


def everybody(random_: random.Random) -> tuple[dict[str, Columns], list[Columns]]:
    """A chart of 300 with households and twins, and 300 rows with errors: of patients, of strangers, with others' numbers."""
    people: list[dict[str, Any]] = []
    for number in range(400):
        one = made_up(random_, number) | {"state": random_.choice(("IL", "NY")), "mrn": f"A{number}"}
        one["ssn"] = f"{random_.randrange(10**8, 10**9)}"
        if number % 10 == 9:  # lives with the one before, every other time as a twin
            one |= {name: people[-1][name] for name in ("family", "line", "city", "postal_code", "state", "phone", "ssn")}
            one |= {"birth_date": people[-1]["birth_date"]} if number % 20 == 9 else {}
        people.append(one)
    rows = []
    for one in random_.sample(people, 300):
        row = {name: value for name, value in corrupted(random_, one).items() if random_.random() < 0.9}
        for column in ("ssn", "mrn"):
            match random_.choice(("keep", "drop", "drop", "another's", "nobody's")):
                case "drop":
                    row.pop(column, None)
                case "another's":
                    row[column] = random_.choice(people)[column]
                case "nobody's":
                    row[column] = f"9{random_.randrange(10**7)}"
        rows.append(row)
    return {one["id"]: one for one in people[:300]}, rows


def seen(match: Match) -> dict[str, Any]:
    """All but the digest, which is an HMAC here and none there."""
    return {"outcome": match.outcome, "patient": match.patient_id, "reason": match.reason, "evidence": match.evidence}


def test_the_pipeline_does_with_each_row_what_evaluate_counts(make_tenant: MakeTenant, open_run: OpenLayer) -> None:
    chart, rows = everybody(random.Random(20261123))
    resources = {patient: resource_of(patient, columns) for patient, columns in chart.items()}
    refs = [ref_of(row) for row in rows]
    tenant = make_tenant(matching={"probabilistic": "auto", "review": REVIEW})
    with open_run("commit", tenant) as run, run.store.tenant(run.id) as connection:
        write_page(connection, run, "Patient", list(resources.values()), again=False)
    with open_run("decide", tenant) as run, run.store.tenant(run.id) as connection:
        real = match_patients(connection, run, refs)

    memory = MemoryChart(resources)
    found = evaluate.find(memory, [("", ref) for ref in refs])
    told = [evaluate.match_of(memory, row, Thresholds(review=REVIEW)) for row in found]
    assert [seen(match) for match in told] == [seen(match) for match in real]
    outcomes: list[tuple[str, str | None]] = [(match.outcome, match.evidence.get("by")) for match in real]
    ways = {("matched", None), ("matched", "demographics"), ("review", None), ("review", "demographics"), ("waiting", None)}
    assert set(outcomes) == ways
    assert min(outcomes.count(way) for way in ways) >= 5, "the rows come to each end, and by each way"
