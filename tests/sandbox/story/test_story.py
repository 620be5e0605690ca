"""The demo's generator: one seed, one story; what it planted is what a reader of the files finds."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter

import pytest

from fhir_writeback_dagster.sandbox.story.deliveries import Story, make_story
from fhir_writeback_dagster.sandbox.story.expected import Truth
from fhir_writeback_dagster.sandbox.story.files import File
from fhir_writeback_dagster.sandbox.story.hospitals import make_world


@pytest.fixture(scope="module", params=[0, 1], ids=["mercy", "stvincent"])
def story(request: pytest.FixtureRequest) -> Story:
    return make_story(make_world()[request.param])


def _read(file: File) -> list[dict[str, object]]:
    text = file.data.decode()
    if file.name.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in text.splitlines()[0] else ","))


def test_one_seed_is_one_story() -> None:
    once, twice = (make_story(make_world(7)[0], 7) for _ in range(2))
    other = make_story(make_world(8)[0], 8)
    assert once == twice
    assert [f.data for f in once.first] != [f.data for f in other.first]


def test_about_a_thousand_rows_a_hospital_and_every_one_has_an_end(story: Story) -> None:
    rows = [row for file in story.first for row in file.rows]
    assert 900 <= len(rows) <= 1100
    ends = Counter(row.end for row in rows)
    assert set(ends) == {"created", "suppressed", "not_written", "denied", "quarantined", "in_review"}
    assert ends["created"] > 600


def test_a_reader_of_the_files_finds_the_rows_that_were_planted(story: Story) -> None:
    for file in (*story.first, *story.again, *story.corrections, *story.old):
        if file.rows:
            assert [r for r in _read(file) if any(r.values())] == [row.columns for row in file.rows], file.name


def test_no_two_rows_tell_one_fact_unless_that_is_planted(story: Story) -> None:
    told = Counter(
        row.fact
        for file in story.first
        for row in file.rows
        if row.fact and row.plant not in ("duplicate_in_file", "told_twice", "told_differently")
        if row.fact.code != "85354-9"
    )
    assert [fact for fact, times in told.items() if times > 1] == []


def test_the_second_export_holds_the_same_rows_in_other_bytes(story: Story) -> None:
    for again in story.again:
        first = next(f for f in story.first if f.source == again.source)
        assert sorted(r.plant for r in again.rows) == sorted(f"{r.plant}, again" for r in first.rows)
        assert again.data != first.data
        assert {r.end for r in again.rows} <= {"suppressed", "denied", "quarantined", "not_written"}


def test_the_broken_file_ends_in_the_middle_of_a_row(story: Story) -> None:
    broken = story.first[-1]
    assert broken.rows == ()
    assert len(broken.data.splitlines()[-1].split(b",")) <= 18
    assert not broken.data.endswith(b"\n")


def test_after_all_deliveries_every_fact_has_one_value_unless_two_sources_differ(story: Story) -> None:
    truth = Truth()
    for file in (*story.first, *story.again, *story.corrections, *story.old):
        truth.read(file.rows)
    assert truth.rows == truth.ends.total()
    assert truth.ends["updated"] == 2
    assert truth.ends["stale"] == 1
    assert Counter(len(values) for values in truth.facts.values())[2] == 3


def test_files_arrive_whole(story: Story, tmp_path_factory: pytest.TempPathFactory) -> None:
    zone = tmp_path_factory.mktemp("zone") / "mercy" / "labs"
    landed = story.first[0].drop(zone)
    assert landed.read_bytes() == story.first[0].data
    assert list(zone.iterdir()) == [landed]
