"""UCUM's grammar, on the codes that HL7 lists as common and on what people write instead."""

from __future__ import annotations

import pytest

from fhir_writeback_dagster.rules.fhir.r4 import definitions
from fhir_writeback_dagster.rules.fhir.ucum import is_ucum


def test_every_common_ucum_code_is_ucum() -> None:
    assert len(definitions().ucum_examples) > 1000
    assert [code for code in definitions().ucum_examples if not is_ucum(code)] == []


@pytest.mark.parametrize(
    "code",
    [
        "1",
        "%",
        "{score}",
        "mm[Hg]",
        "10*3/uL",
        "10*-6",
        "kg/m2",
        "/min",
        "g.m/s2",
        "L/(min.m2)",
        "[degF]",
        "[in_i'Hg]",
        "mg{total}/dL",
        "{a}{b}",
    ],
)
def test_a_valid_expression_is_taken(code: str) -> None:
    assert is_ucum(code)


@pytest.mark.parametrize(
    "code",
    [
        "",
        "/",
        "mmHg",
        "beats/minute",
        "lb",
        "mcg",
        "mEq",
        "ea",
        "IU/L",
        "cm ",
        " cm",
        "m//s",
        "(m",
        "m)",
        "()",
        "m.",
        "2m",
        "m{",
        "°C",
        "kkg",
        "[nope]",
        "k%",
    ],
)
def test_what_is_no_ucum_is_refused(code: str) -> None:
    assert not is_ucum(code)
