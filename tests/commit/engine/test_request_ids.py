"""What the EHR itself calls a request is kept with the attempt, because its support asks for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from commit.faults import FaultyLine, Twist
from commit.world import Resource, World, patient

Headers = list[tuple[str, str]]


def communication() -> Resource:
    return {"resourceType": "Communication", "status": "completed", "subject": {"reference": "Patient/a"}}


def named(name: str, status: int | None = None) -> Twist:
    def how(before: int, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]:
        return status or before, [*headers, ("mtrestapi-requestid", name)], body

    return Twist(how)


@pytest.mark.parametrize(
    ("name", "status", "kept"),
    [
        ("8a6e0804-2bd0-4672-b79d-d97027f9071a", None, "8a6e0804-2bd0-4672-b79d-d97027f9071a"),
        ("refused-1", 400, "refused-1"),
        ("Doe, Jane", None, None),
        ("x" * 200, None, None),
    ],
    ids=["of a success", "of a refusal", "no id", "too long"],
)
def test_it_is_kept_where_the_matrix_says_that_there_is_one(
    make_world: Callable[..., World], line: FaultyLine, name: str, status: int | None, kept: str | None
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "vendor": "meditech"})
    world.load(patient("a", "a"))
    line.on("POST", "Communication", named(name, status))
    world.approve(communication())
    world.commit()
    assert len(line.sent("POST", "Communication")) == 1
    assert world.rows("SELECT ehr_request_id FROM ledger.attempt WHERE tenant = %s") == [(kept,)]


def test_another_vendors_headers_are_left_alone(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url})
    world.load(patient("a", "a"))
    line.on("POST", "Communication", named("abc"))
    world.approve(communication())
    world.commit()
    assert world.rows("SELECT ehr_request_id FROM ledger.attempt WHERE tenant = %s") == [(None,)]
