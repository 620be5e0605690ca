"""Each sentence of the design's section 4 "Identity" that a pure function decides; the stored ones are in test_pipeline.py."""

from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.decide.facts.placement import Fact, Incoming, accept, business_keys, person_id, place
from fhir_writeback_dagster.store.sealing import Identity

OLD, NEW = b"o" * 32, b"n" * 32
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
TUESDAY = MONDAY + timedelta(days=1)


def incoming(content: str, *, as_of: datetime | None = None, source: str = "lab", mapping: int = 1, extract: int = 1) -> Incoming:
    return Incoming(source, content.encode(), as_of, mapping, UUID(int=extract))


def told(*contents: Incoming) -> Fact | None:
    fact = None
    for content in contents:
        fact = accept(fact, "key", content)
    return fact


def verdict(fact: Fact | None, content: Incoming, same: bool = False) -> tuple[str, str | None]:
    placement = place(fact, content, lambda: same)
    return placement.verdict, placement.reason


def test_a_person_is_named_after_tenant_target_and_patient() -> None:
    identity = Identity([NEW])
    names = {person_id(identity, t, e, p) for t in ("a", "b") for e in ("ehr", "lab") for p in ("1", "2")}
    assert len(names) == 8


def test_a_business_key_is_short_enough_for_an_identifier_and_safe_in_a_url() -> None:
    (key,) = business_keys(Identity([NEW]), "mercy", "vital_sign", ["p"], ["http://loinc.org|8867-4", "2026-03-02T08:00:00Z"])
    assert len(key) <= 64
    assert set(key) <= set(string.ascii_lowercase + "234567")


def test_a_business_key_differs_by_tenant_kind_person_and_each_field() -> None:
    identity = Identity([NEW])
    base = ("mercy", "vital_sign", ["p"], ["a", "b"])
    variants = [
        base,
        ("stv", "vital_sign", ["p"], ["a", "b"]),
        ("mercy", "lab_result", ["p"], ["a", "b"]),
        ("mercy", "vital_sign", ["q"], ["a", "b"]),
        ("mercy", "vital_sign", ["p"], ["ab", ""]),
        ("mercy", "vital_sign", ["p"], ["a", "c"]),
    ]
    assert len({business_keys(identity, *v)[0] for v in variants}) == len(variants)


def test_a_lookup_tries_every_generation_and_alias_and_mints_under_the_newest() -> None:
    before = business_keys(Identity([OLD]), "mercy", "condition", ["p1"], ["x"])[0]
    keys = business_keys(Identity([NEW, OLD]), "mercy", "condition", ["p2", "p1"], ["x"])
    assert before in keys
    assert keys[0] == business_keys(Identity([NEW]), "mercy", "condition", ["p2"], ["x"])[0]
    assert len(keys) == 4


def test_the_first_telling_is_accepted_and_its_source_owns_the_fact() -> None:
    assert verdict(None, incoming("a")) == ("accept", None)
    fact = told(incoming("a", source="portal"))
    assert fact is not None
    assert fact.owner == "portal"


def test_equal_to_the_latest_is_suppressed_whatever_its_as_of() -> None:
    fact = told(incoming("a", as_of=TUESDAY))
    assert verdict(fact, incoming("a", as_of=MONDAY)) == ("suppressed", "equal_to_latest")
    assert verdict(fact, incoming("a", as_of=TUESDAY + timedelta(days=9))) == ("suppressed", "equal_to_latest")


def test_an_older_as_of_is_stale() -> None:
    assert verdict(told(incoming("b", as_of=TUESDAY)), incoming("a", as_of=MONDAY)) == ("stale", "older_as_of")


def test_a_newer_as_of_is_the_next_revision() -> None:
    fact = told(incoming("a", as_of=MONDAY))
    assert verdict(fact, incoming("b", as_of=TUESDAY)) == ("accept", None)
    assert [r.number for r in accept(fact, "key", incoming("b", as_of=TUESDAY)).revisions] == [1, 2]


def test_one_as_of_with_two_contents_is_for_a_person_unless_the_mapping_is_newer() -> None:
    fact = told(incoming("a", as_of=MONDAY))
    assert verdict(fact, incoming("b", as_of=MONDAY)) == ("review", "same_as_of_differs")
    assert verdict(fact, incoming("b", as_of=MONDAY, mapping=2)) == ("accept", None)


def test_without_a_declared_order_an_earlier_content_that_comes_again_is_for_a_person() -> None:
    fact = told(incoming("a", extract=1), incoming("b", extract=2))
    assert verdict(fact, incoming("a", extract=3)) == ("review", "equal_to_earlier")
    assert verdict(fact, incoming("c", extract=3)) == ("accept", None)


def test_two_contents_in_one_extract_without_an_order_are_for_a_person() -> None:
    assert verdict(told(incoming("a", extract=1)), incoming("b", extract=1)) == ("review", "conflict_in_extract")


def test_another_source_is_suppressed_when_it_says_the_same_and_reviewed_when_not() -> None:
    fact = told(incoming("a", source="lab"))
    assert verdict(fact, incoming("a worded otherwise", source="portal"), same=True) == ("suppressed", "equal_from_other_source")
    assert verdict(fact, incoming("b", source="portal"), same=False) == ("review", "owned_by_other_source")


def test_a_void_revision_counts_for_nothing_and_gives_no_ownership() -> None:
    fact = told(incoming("a", source="lab", as_of=TUESDAY))
    assert fact is not None
    voided = Fact(
        fact.business_key,
        fact.owner,
        tuple(type(r)(r.number, r.content_hash, r.as_of, 1, r.extract_id, True) for r in fact.revisions),
    )
    assert verdict(voided, incoming("a", source="portal", as_of=MONDAY)) == ("accept", None)
    again = accept(voided, "key", incoming("a", source="portal", as_of=MONDAY))
    assert again.owner == "portal"
    assert again.revisions[-1].number == 2


contents = st.builds(
    incoming, st.sampled_from("abc"), as_of=st.sampled_from([MONDAY, TUESDAY, None]), source=st.sampled_from(["lab", "portal"]),
    extract=st.integers(1, 3),
)  # fmt: skip


@given(st.lists(contents, max_size=12))
def test_whatever_was_told_the_latest_told_again_is_never_written_twice(history: list[Incoming]) -> None:
    fact: Fact | None = None
    for content in history:
        if place(fact, content, lambda: False).verdict == "accept":
            fact = accept(fact, "key", content)
            assert place(fact, content, lambda: False).verdict == "suppressed"
    if fact is not None:
        dated = [r.as_of for r in fact.revisions if r.as_of]
        if len(dated) == len(fact.revisions):
            assert dated == sorted(dated), "an older as-of never follows a newer one"
        assert [r.number for r in fact.revisions] == list(range(1, len(fact.revisions) + 1))
