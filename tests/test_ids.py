"""Identifiers of ours are UUIDs of version 7 in the order of their making."""

from __future__ import annotations

from fhir_writeback_dagster.ids import new_id


def test_ids_are_version_7_distinct_and_in_order() -> None:
    made = []
    for _ in range(200):
        made.append(new_id())
        sum(range(100))  # about the time that making a row takes: more than the 244 ns that an id tells apart
    assert {one.version for one in made} == {7}
    assert made == sorted(made)
    assert len(set(made)) == len(made)
