"""Codes by their system: what a spreadsheet made of one is none."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.rules.fhir.code_systems import (
    CVX,
    ICD_9_CM,
    ICD_10_CM,
    LOINC,
    NDC,
    RXNORM,
    SNOMED,
    code_of,
    is_cast_number,
    is_null_word,
    mod_10,
    verhoeff,
)


@pytest.mark.parametrize(
    ("system", "text"),
    [
        (SNOMED, "4.4054006E7"), (SNOMED, "44054006.0"), (SNOMED, "44054007"), (SNOMED, "nan"), (SNOMED, "1.57771E+16"),
        (SNOMED, "44054006 |Diabetes|"), (SNOMED, "751689013"), (SNOMED, "044054006"), (ICD_10_CM, "E119"), (ICD_10_CM, "e11.9"),
        (ICD_10_CM, "E11.9;I10"), (ICD_10_CM, "1.00E+11"), (ICD_9_CM, "8.45"), (ICD_9_CM, "45.1"), (LOINC, "8867-5"),
        (LOINC, "2823-3.0"), (LOINC, "Apr-67"), (LOINC, "28233"), (LOINC, "LOINC:2823-3"), (RXNORM, "860975.0"), (CVX, "8"),
        (CVX, "008"), (NDC, "2143380"), (NDC, "0002143380"), (NDC, "2.14338E+06"),
    ],
)  # fmt: skip
def test_no_code_of_its_system(system: str, text: str) -> None:
    assert code_of(system, text) is None


@pytest.mark.parametrize(
    ("system", "text"),
    [
        (SNOMED, "44054006"), (SNOMED, "10628711000119101"), (SNOMED, "138875005"), (ICD_10_CM, "E11.9"), (ICD_10_CM, "I10"),
        (ICD_10_CM, "S72.001A"), (ICD_10_CM, "C4A.9"), (ICD_10_CM, "U07.1"), (ICD_9_CM, "008.45"), (ICD_9_CM, "V45.81"),
        (ICD_9_CM, "E850.3"), (LOINC, "2823-3"), (LOINC, "3150-0"), (LOINC, "LA32-8"), (RXNORM, "860975"), (CVX, "08"),
        (CVX, "140"), ("urn:local", "anything at all"),
    ],
)  # fmt: skip
def test_codes_stay_as_they_are(system: str, text: str) -> None:
    assert code_of(system, text) == text


@pytest.mark.parametrize("text", ["0002-1433-80", "00002-1433-80", "00002143380"])
def test_the_spellings_of_an_ndc_are_one_code(text: str) -> None:
    assert code_of(NDC, text) == "00002143380"


@pytest.mark.parametrize(("text", "code"), [("12345-678-90", "12345067890"), ("12345-6789-0", "12345678900")])
def test_an_ndc_is_padded_where_its_part_is_short(text: str, code: str) -> None:
    assert code_of(NDC, text) == code


def _codings(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        if isinstance(value.get("system"), str) and isinstance(value.get("code"), str):
            yield value["system"], value["code"]
        for part in value.values():
            yield from _codings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _codings(part)


def test_codes_of_hl7_s_own_examples_are_codes() -> None:
    packed = next(Path(__file__).parents[2].glob("decide/**/r4_examples.json.gz"))
    found = set(_codings(json.loads(gzip.decompress(packed.read_bytes()))))
    refused = {(system, code) for system, code in found if code_of(system, code) is None}
    # Ten digits without hyphens, a short package part, and a post-coordinated expression: none says which code it is.
    assert refused == {(NDC, "0264751010"), (NDC, "2501-813-16"), (SNOMED, "71341001:272741003=7771000")}


@given(st.integers(1, 9_999_999))
def test_one_wrong_digit_of_a_loinc_code_is_seen(number: int) -> None:
    right = mod_10(str(number))
    assert code_of(LOINC, f"{number}-{right}") is not None
    assert all(code_of(LOINC, f"{number}-{digit}") is None for digit in range(10) if digit != right)


@given(st.integers(10_000, 10**15 - 1))
def test_one_wrong_digit_of_a_concept_is_seen(number: int) -> None:
    base = f"{number}00"
    right = [digit for digit in range(10) if verhoeff(f"{base}{digit}")]
    assert len(right) == 1
    assert code_of(SNOMED, f"{base}{right[0]}") == f"{base}{right[0]}"


@pytest.mark.parametrize("text", ["nan", "NaN", "NULL", "N/A", "None", "#N/A"])
def test_null_words(text: str) -> None:
    assert is_null_word(text)


@pytest.mark.parametrize("text", ["100.0", "4.4054006E7", "1.57771E+16", "1E+16", "0.0"])
def test_what_a_float_column_makes_of_digits(text: str) -> None:
    assert is_cast_number(text)


@pytest.mark.parametrize("text", ["100", "0012", "A100.0", "12E4", "1.2.3", "2024-01-02"])
def test_identifiers_are_no_floats(text: str) -> None:
    assert not is_cast_number(text)
