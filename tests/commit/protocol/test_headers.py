"""Whatever stands in a header is read or left aside; it never raises, and never becomes part of a URL or a column unread."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from commit.faults import FaultyLine, LoseAnswer, Say, Twist
from commit.world import World, heart_rate, patient
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.commit.engine import bundles
from fhir_writeback_dagster.commit.protocol import headers
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.error_classes import classify

AT = "2024-03-01T10:00:00Z"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ODD = ["²", "٣", "-1", "1e9", "9" * 5000, "1.5", "", " ", "Thu, 99 Foo 2026 25:61:61 GMT", "Thu, 01 Jan 9999 23:59:59 -2359",
       "x\x00", "Wed, 21 Oct 2015 07:28:00 +99999999", "0x10", "\ud800", "inf", "nan"]  # fmt: skip

ANYTHING = (
    st.text(max_size=60) | st.sampled_from(ODD) | st.from_regex(re.compile(r"\w{3}, \d{1,3} \w{3} \d{1,6} [\d:]{5,9} \S{1,5}"))
)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("9" * 400, headers.MAX_WAIT_S),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0),
        (format_datetime(NOW + timedelta(days=1), usegmt=True), headers.MAX_WAIT_S),
        ("-5", None),
        ("²", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after(said: str, seconds: float | None) -> None:
    assert headers.retry_after(said, NOW) == seconds


@given(ANYTHING)
def test_no_text_makes_a_header_raise(text: str) -> None:
    wait = headers.retry_after(text, NOW)
    assert wait is None or 0 <= wait <= headers.MAX_WAIT_S
    when = headers.http_date(text)
    assert when is None or when.tzinfo is UTC
    place = headers.location(text)
    assert place is None or re.fullmatch(r"[A-Za-z0-9.-]{1,64}", place.id)
    assert (tag := headers.validator(text)) is None or (tag.isascii() and tag.isprintable())
    assert (code := headers.status(text)) is None or 100 <= code <= 599


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["resourceType", "id", "response", "status", "location", "etag", "lastModified", "resource", "outcome",
                         "issue", "code", "details", "coding", "identifier", "system", "value", "subject", "reference", "meta"]),
        inner, max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(_JSON, max_size=4), ANYTHING, ANYTHING)
def test_no_bundle_that_answers_makes_us_raise(entries: list[Any], retry: str, place: str) -> None:
    whole = Answer(
        200,
        {"retry-after": retry, "location": place},
        parsed={"resourceType": "Bundle", "type": "batch-response", "entry": entries},
    )
    for one in bundles.answers("batch", whole) or ():
        one.retry_after(NOW)
        one.codes()
        classify("create", one)
        assert all(value.isprintable() for value in one.headers.values())


@pytest.mark.parametrize("value", ["²", "-1", "9" * 400, "Thu, 99 Foo 2026 25:61:61 GMT", "Thu, 01 Jan 9999 23:59:59 -2359"])
@pytest.mark.parametrize("status", [503, 429])
def test_an_odd_retry_after_ends_no_run(faulty: World, line: FaultyLine, status: int, value: str) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", Say(status, (("Retry-After", value),)))
    faulty.commit()
    faulty.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")
    faulty.change("UPDATE ledger.target SET held_until = now() WHERE tenant = %s")
    faulty.commit()
    assert faulty.intents()[0][0] == "committed"
    assert len(faulty.in_ehr(wanted.business_key)) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("ETag", 'W/"\x801"'), ("ETag", 'W/"1" , é'), ("Location", "Observation/../../metadata"), ("Location", "²"),
     ("Last-Modified", "²"), ("Date", "²"), ("Content-Type", "²")],
)  # fmt: skip
def test_an_odd_header_of_a_success_ends_no_run(faulty: World, line: FaultyLine, name: str, value: str) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))

    def odd(status: int, headers: Any, body: bytes) -> Any:
        return status, [*((n, v) for n, v in headers if n.lower() != name.lower()), (name, value)], body

    line.rules.append(lambda seen: Twist(odd) if seen.path.startswith("Observation") and "_search" not in seen.path else None)
    faulty.commit()
    faulty.approve(heart_rate("a", AT, 80), key=wanted.business_key, revision=2)
    faulty.commit()
    assert faulty.intents()[0][0] == "committed"
    assert faulty.intents()[1][0] in ("committed", "in_review")
    assert len(faulty.in_ehr(wanted.business_key)) == 1


@pytest.mark.parametrize("odd", ["a/b", "../x", "a?b", "a b", "ä", "a\u0000b", "x" * 65, ".", "..", "", 7, None])
def test_an_id_that_is_none_of_r4s_becomes_no_link(faulty: World, line: FaultyLine, odd: Any) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))

    def renamed(status: int, headers: Any, body: bytes) -> Any:
        kept = [(name, value) for name, value in headers if name.lower() != "location"]
        return status, kept, json.dumps({**json.loads(body), "id": odd}).encode()

    line.on("POST", "Observation", Twist(renamed))
    faulty.commit()
    ((state, _, _),) = faulty.intents()
    assert state == "committed"
    (found,) = faulty.in_ehr(wanted.business_key)
    assert faulty.rows("SELECT resource_id FROM ledger.link WHERE tenant = %s") == [(found["id"],)]


def test_what_bears_our_key_under_an_id_that_is_none_is_a_persons_and_is_not_made_again(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))

    def renamed(status: int, headers: Any, body: bytes) -> Any:
        return status, headers, re.sub(rb'"id":\s*"[^"]+"', b'"id": "a_b"', body)

    line.on("POST", "Observation", LoseAnswer())
    line.rules.append(lambda seen: Twist(renamed) if seen.path == "Observation/_search" else None)
    faulty.commit()
    assert faulty.intents() == [("in_review", None, "search_unreliable")]
    assert len(line.sent("POST", "Observation")) == 1


@pytest.mark.parametrize("odd", ["a\u0000b", "\ud800", "x" * 5000, "²", {"x": 1}, 7])
def test_an_odd_version_becomes_no_column(faulty: World, line: FaultyLine, odd: Any) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))

    def versioned(status: int, headers: Any, body: bytes) -> Any:
        resource = json.loads(body)
        return status, headers, json.dumps({**resource, "meta": {**resource["meta"], "versionId": odd}}).encode()

    line.on("POST", "Observation", Twist(versioned))
    faulty.commit()
    assert faulty.intents()[0][0] == "committed"
