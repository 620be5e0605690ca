"""Absence needs a complete answer: what a search leaves out, or says that it leaves out, proves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from commit.faults import Fault, FaultyLine, LoseAnswer, LoseRequest, Say, Seen, Twist
from commit.world import World, heart_rate, patient

from fhir_writeback_dagster.errors import TargetError

AT = "2024-03-01T10:00:00Z"
FHIR = (("Content-Type", "application/fhir+json"),)
UNANSWERED = [("unknown", None, "look_incomplete_answer")]

Resource = dict[str, Any]


def outcome(severity: str, code: str, *details: str) -> Resource:
    issue: Resource = {"severity": severity, "code": code}
    if details:
        issue["details"] = {"coding": [{"system": "urn:vendor", "code": one} for one in details]}
    return {"resource": {"resourceType": "OperationOutcome", "issue": [issue]}, "search": {"mode": "outcome"}}


def bundle(*entries: Resource, total: int | None = None, following: str | None = None) -> Fault:
    body: Resource = {"resourceType": "Bundle", "type": "searchset", "entry": list(entries)}
    if total is not None:
        body["total"] = total
    if following is not None:
        body["link"] = [{"relation": "next", "url": following}]
    return Say(200, FHIR, json.dumps(body).encode())


def changed(change: Callable[[Resource], None]) -> Fault:
    """The server's own searchset, with ``change`` made to it."""

    def how(status: int, headers: Any, body: bytes) -> Any:
        found = json.loads(body)
        change(found)
        return status, headers, json.dumps(found).encode()

    return Twist(how)


def add(*entries: Resource) -> Fault:
    return changed(lambda found: found.update(entry=[*found.get("entry", []), *entries]))


def on_looks(line: FaultyLine, fault: Fault) -> None:
    """Every search by our identifier meets ``fault``."""
    line.rules.append(lambda seen: fault if seen.path == "Observation/_search" and b"identifier=" in seen.body else None)


def on_pages(line: FaultyLine, *faults: Fault) -> list[Seen]:
    """Pages that follow meet ``faults``, the last one for ever; returns the requests for them."""
    left, asked = list(faults), []

    def rule(seen: Seen) -> Fault | None:
        if seen.method != "GET" or "page=" not in seen.path:
            return None
        asked.append(seen)
        return left.pop(0) if len(left) > 1 else left[0]

    line.rules.append(rule)
    return asked


def unanswered(world: World, line: FaultyLine, fault: Fault) -> Any:
    """One approved write whose answer, or request, was lost."""
    world.load(patient("a", "a"))
    wanted = world.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", fault)
    return wanted


HALVES: dict[str, Fault] = {
    "a total above the entries": bundle(total=1),
    "an outcome that says incomplete": bundle(outcome("warning", "incomplete"), total=0),
    "an outcome that says suppressed": bundle(outcome("warning", "suppressed"), total=0),
    "an information that says incomplete": bundle(outcome("information", "incomplete"), total=0),
    "an outcome that is an error": bundle(outcome("error", "processing")),
    "a warning that nobody knows": bundle(outcome("warning", "processing", "4711"), total=0),
    "an outcome in the mode of a match": bundle({**outcome("error", "timeout"), "search": {"mode": "match"}}),
    "an entry that is no resource": bundle({"search": {"mode": "match"}}, total=1),
}


@pytest.mark.parametrize("half", HALVES.values(), ids=list(HALVES))
def test_half_an_answer_is_no_absence(faulty: World, line: FaultyLine, half: Fault) -> None:
    wanted = unanswered(faulty, line, LoseAnswer())
    on_looks(line, half)
    faulty.commit()
    assert faulty.intents() == UNANSWERED
    assert len(line.sent("POST", "Observation")) == 1
    line.rules.clear()
    faulty.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")
    faulty.commit()
    assert faulty.intents() == [("committed", "reconciled", "found")]
    assert len(faulty.in_ehr(wanted.business_key)) == 1


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (Say(410), "look_page_expired"),
        (Say(404), "look_page_expired"),
        (Say(410, FHIR, b'{"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "expired"}]}'),
         "look_page_expired"),
        (Say(500), "look_server_error"),
        (bundle(following="Observation?page=2"), "look_incomplete_answer"),
    ],
    ids=["410", "404", "410 of FHIR", "500", "itself again"],
)  # fmt: skip
def test_a_page_that_fails_or_comes_again_is_no_absence(faulty: World, line: FaultyLine, page: Fault, reason: str) -> None:
    unanswered(faulty, line, LoseAnswer())
    on_looks(line, bundle(following="Observation?page=2"))
    asked = on_pages(line, page)
    faulty.commit(deadline_s=20)
    assert faulty.intents() == [("unknown", None, reason)]
    assert len(line.sent("POST", "Observation")) == 1
    assert len(asked) <= 12, "a few looks, not a page for ever"


def test_a_complete_answer_without_it_is_an_absence(faulty: World, line: FaultyLine) -> None:
    wanted = unanswered(faulty, line, LoseRequest())
    assert faulty.commit().counts["created"] == 1
    assert len(faulty.in_ehr(wanted.business_key)) == 1


@pytest.mark.parametrize(
    "said",
    [outcome("information", "informational"), outcome("information", "processing", "4711"), outcome("success", "informational")],
    ids=["information", "information with a code", "success"],
)
def test_an_outcome_that_only_informs_is_no_incompleteness(faulty: World, line: FaultyLine, said: Resource) -> None:
    unanswered(faulty, line, LoseRequest())
    line.always("POST", "Observation/_search", add(said))
    assert faulty.commit().counts["created"] == 1


def test_what_a_vendor_says_on_every_answer_is_the_matrix_to_know(make_world: Callable[..., World], line: FaultyLine) -> None:
    """Epic's 4119 is a warning that says `suppressed`, and is on every answer."""
    epic = make_world(ehr={"vendor": "epic", "base_url": line.base_url})
    epic.load(patient("a", "a"))
    epic.approve(heart_rate("a", AT, 72))
    line.rules.append(lambda seen: add(outcome("warning", "suppressed", "4119")) if seen.path.endswith("_search") else None)
    assert epic.commit().counts["created"] == 1


def test_one_resource_on_two_pages_is_one(faulty: World, line: FaultyLine) -> None:
    wanted = unanswered(faulty, line, LoseAnswer())
    following = {"relation": "next", "url": f"{line.base_url}/Observation?page=2"}
    first: list[Resource] = []

    def remember(found: Resource) -> None:
        first.extend(found["entry"])
        found["link"] = [following]

    on_looks(line, changed(remember))
    line.rules.append(lambda seen: bundle(*first, total=1) if "page=2" in seen.path else None)
    faulty.commit()
    assert faulty.intents() == [("committed", "reconciled", "found")]
    assert len(faulty.in_ehr(wanted.business_key)) == 1


def test_a_listing_that_says_it_is_incomplete_removes_nothing(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"), patient("b", "b"))
    faulty.refresh()

    def cut(found: Resource) -> None:
        found["entry"] = [*found["entry"][:1], outcome("warning", "incomplete")]
        found.pop("total", None)

    line.rules.append(lambda seen: changed(cut) if seen.path == "Patient/_search" and b"_summary" not in seen.body else None)
    line.rules.append(lambda seen: Say(200, FHIR, b'{"resourceType": "Bundle"}') if b"_summary" in seen.body else None)
    with pytest.raises(TargetError) as raised:
        faulty.refresh(full=True)
    assert raised.value.code == "incomplete_answer"
    assert faulty.rows("SELECT count(*) FROM mirror.patient WHERE tenant = %s") == [(2,)]


def test_the_limit_of_pages_is_a_setting_that_its_error_names(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url, "most_pages": 3})
    numbers = iter(range(1000))

    def page() -> Fault:
        number = next(numbers)
        return bundle({"resource": patient(f"p{number}", str(number))}, following=f"Patient?page={number + 1}")

    line.rules.append(lambda seen: page() if seen.path == "Patient/_search" or "page=" in seen.path else None)
    with pytest.raises(TargetError, match=r"ehr\.most_pages") as raised:
        world.refresh()
    assert raised.value.code == "too_many_pages"
    assert next(numbers) == 3
