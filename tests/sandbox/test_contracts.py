"""The demo's source contracts against the demo's files: ingest alone settles what only it can settle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contracts.sources import load_source
from fhir_writeback_dagster.ingest.normalise.columns import Maker
from fhir_writeback_dagster.ingest.normalise.records import Normalised, normalise
from fhir_writeback_dagster.ingest.readers.read import read
from fhir_writeback_dagster.sandbox.story.deliveries import Story, make_story
from fhir_writeback_dagster.sandbox.story.files import File
from fhir_writeback_dagster.sandbox.story.hospitals import make_world

MAPPINGS = Path(__file__).resolve().parents[2] / "mappings"


@pytest.fixture(scope="module", params=[0, 1], ids=["mercy", "stvincent"])
def story(request: pytest.FixtureRequest) -> Story:
    return make_story(make_world()[request.param])


def _ingest(story: Story, file: File) -> Normalised:
    source = load_source(MAPPINGS, file.source, 1)
    hospital = story.hospital
    systems = {"mrn": hospital.mrn_system, "visit": hospital.visit_system}
    maker = Maker(file.source, systems, hospital.time_zone, source.concept_maps)
    name = source.contract.table_of(file.name)
    assert name is not None
    table = source.contract.tables[name]
    return normalise(read(file.data, table, whole=False), name, table, source.contract.actor, maker)


def test_quarantined_and_not_written_rows_are_those_that_were_planted(story: Story) -> None:
    for file in (*story.first, *story.again, *story.corrections, *story.old):
        if not file.rows:
            continue
        made = _ingest(story, file)
        planted = Counter(r.plant for r in file.rows if r.end == "quarantined" or "source_truth" in r.plant)
        found = Counter(file.rows[n].plant for n in made.others)
        assert found == planted, file.name


def test_two_rows_of_blood_pressure_are_one_record(story: Story) -> None:
    (ward,) = (file for file in story.first if file.source == "ward_flowsheet")
    grouped = [record for record in _ingest(story, ward).records if len(record.rows) == 2]
    assert len(grouped) == 65
    assert {tuple(ward.rows[n].columns["item"] for n in record.rows) for record in grouped} == {("SYS", "DIA")}


def test_the_broken_file_is_refused_with_its_line(story: Story) -> None:
    with pytest.raises(ExtractRefused) as refusal:
        _ingest(story, story.first[-1])
    assert refusal.value.line == story.first[-1].data.count(b"\n") + 1
