"""When two URLs name one resource, and when they only look alike."""

from __future__ import annotations

import pytest

from fhir_writeback_dagster.rules.fhir.resource_url import URI, ResourceUrl, comparable, parse, server_of

URL = "https://ehr.mercy.example/fhir/R4/Patient/123"


@pytest.mark.parametrize(
    "other",
    [
        "https://ehr.mercy.example/fhir/R4/Patient/123/_history/2",
        "https://ehr.mercy.example/fhir/R4/Patient/123/",
        "https://ehr.mercy.example/fhir/R4/Patient/123/_history/2/",
        "http://ehr.mercy.example/fhir/R4/Patient/123",
        "HTTPS://EHR.Mercy.Example/fhir/R4/Patient/123",
        "https://ehr.mercy.example:443/fhir/R4/Patient/123",
        "http://ehr.mercy.example:80/fhir/R4/Patient/123",
    ],
)
def test_one_resource_in_other_words(other: str) -> None:
    assert comparable(URI, other) == comparable(URI, URL)
    assert parse(other) == ResourceUrl("//ehr.mercy.example/fhir/R4", "Patient", "123")


@pytest.mark.parametrize(
    "other",
    [
        "https://ehr.mercy.example/fhir/r4/Patient/123",
        "https://ehr.mercy.example/fhir/R4/Patient/124",
        "https://ehr.mercy.example/fhir/R4/Encounter/123",
        "https://ehr.mercy.example/Patient/123",
        "https://ehr.mercy.example:8443/fhir/R4/Patient/123",
        "https://ehr.stv.example/fhir/R4/Patient/123",
        "https://ehr.mercy.example.evil.example/fhir/R4/Patient/123",
        "https://evil.example/ehr.mercy.example/fhir/R4/Patient/123",
    ],
)
def test_another_resource_or_another_server(other: str) -> None:
    assert parse(other) is not None
    assert comparable(URI, other) != comparable(URI, URL)


@pytest.mark.parametrize(
    "text",
    [
        "Patient/123",
        "/Patient/123",
        "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0",
        "ftp://ehr.mercy.example/fhir/R4/Patient/123",
        "https://ehr.mercy.example@evil.example/fhir/R4/Patient/123",
        "https://ehr.mercy.example/fhir/R4/Patient/123?_format=json",
        "https://ehr.mercy.example/fhir/R4/Patient/123#name",
        "https://ehr.mercy.example/fhir/R4/Patient?identifier=x|1",
        "https://ehr.mercy.example/fhir/R4/Patient/1 23",
        "https://ehr.mercy.example/fhir//R4/Patient/123",
        "https://ehr.mercy.example/fhir/R4/Patient/" + "1" * 65,
        "https:///Patient/123",
        "",
    ],
)
def test_what_is_no_absolute_literal_reference_stays_as_it_is(text: str) -> None:
    assert parse(text) is None
    assert comparable(URI, text) == text


def test_an_identifier_of_another_system_is_never_read_as_a_url() -> None:
    assert comparable("urn:oid:1.2.3", URL) == URL


def test_a_base_with_a_port_or_without_a_path_is_a_server_too() -> None:
    assert server_of("http://127.0.0.1:8080") == "//127.0.0.1:8080"
    assert server_of("http://[::1]:8080/fhir") == "//[::1]:8080/fhir"
    assert server_of("not a url") is None
