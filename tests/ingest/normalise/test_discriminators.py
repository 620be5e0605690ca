"""Which of the facts that agree in identity a later extract tells of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import OpenLayer
from ingest.hospital import HEADER, VITALS, Hospital, row

from fhir_writeback_dagster.ingest.normalise.discriminators import Parts, number
from fhir_writeback_dagster.ingest.pipeline import land, normalise

A, B, C = (b"a",), (b"b",), (b"c",)
OPEN: Parts = (None,)


@pytest.mark.parametrize(
    ("known", "told", "numbers"),
    [
        ({}, [A, B], [1, 2]),
        ({1: A, 2: B}, [B], [2]),  # only the second comes again: not the first changed
        ({1: A, 2: B}, [A, B, C], [1, 2, 3]),
        ({1: B}, [A, B], [2, 1]),  # one that sorts before it takes no number from it
        ({1: OPEN}, [A], [1]),  # it ended
        ({1: A}, [OPEN], [1]),  # an older file
        ({1: A, 2: OPEN}, [A, C], [1, 2]),
        ({1: A}, [B], [None]),  # another, or A corrected?
        ({1: A}, [B, C], [None, None]),
        ({1: OPEN}, [A, B], [None, None]),  # which of them is it?
        ({1: (b"a", None)}, [(b"a", b"x")], [1]),
        ({1: (b"a", None)}, [(b"b", b"x")], [None]),
    ],
)
def test_a_row_keeps_its_number_or_is_nobodys_guess(
    known: dict[int, Parts], told: list[Parts], numbers: list[int | None]
) -> None:
    found = number(known, told)
    assert [found.numbers[parts] for parts in told] == numbers


def test_what_was_open_is_remembered_as_it_ended() -> None:
    assert number({1: OPEN, 2: B}, [A]).learnt == {1: A}
    assert number({1: A}, [OPEN]).learnt == {1: A}


APART = VITALS.replace("    identity: [id]\n", "    identity: [mrn, item, at]\n    discriminator: [value]\n")


def test_the_second_of_two_stays_the_second_when_it_comes_alone(
    make_hospital: Callable[..., Hospital], open_run: OpenLayer
) -> None:
    hospital = make_hospital(APART)
    for name, rows in (("1", row(1, value="70") + row(2, value="80")), ("2", row(2, value="80")), ("3", row(1, value="75"))):
        hospital.deliver(f"vitals{name}.csv", HEADER + rows)
        with open_run("ingest", hospital.tenant) as run:
            land(run)
            normalise(run)
    records = hospital.ask(
        "SELECT source_record FROM canonical.record WHERE tenant = $tenant ORDER BY created_at, extract_id, position"
    )
    first, second, again, _ = (bytes(record) for (record,) in records)
    assert again == second != first
    ends = hospital.ask("SELECT disposition, reason FROM canonical.row WHERE tenant = $tenant ORDER BY row_id")
    assert ends == [("record", None)] * 3 + [("quarantined", "ambiguous_discriminator")]
    assert hospital.ask("SELECT count(*) FROM canonical.outbox WHERE tenant = $tenant") == [(3,)]
