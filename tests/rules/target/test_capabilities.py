"""How a target may be written to: the matrix allows, the CapabilityStatement narrows, an unknown is no promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.rules.target.capabilities import Target, resources, server
from fhir_writeback_dagster.rules.target.matrix import VENDORS, load_vendor, vendors

NAMED = (
    "athenahealth azure canvas eclinicalworks epic generic google hapi healthlake meditech medplum nextgen oracle_health us_core "
    "veradigm"
).split()


def resource(*interactions: str, **more: Any) -> dict[str, Any]:
    return {"type": "Observation", "interaction": [{"code": code} for code in interactions], **more}


def statement(*resources: dict[str, Any], system: tuple[str, ...] = ()) -> dict[str, Any]:
    rest = {"mode": "server", "resource": list(resources), "interaction": [{"code": code} for code in system]}
    return {"resourceType": "CapabilityStatement", "rest": [rest]}


def test_every_vendor_has_a_file_that_loads() -> None:
    assert vendors() == NAMED
    for name in NAMED:
        assert load_vendor(name).cells()


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("create:", "creates:", 8, "expected one of access, answers, bundles, create"),
        ("precondition: {value: if_none_exist", "precondition: {value: if_nothing_exists", 10, "'if_none_exist'"),
        ("{value: if_none_exist, source: r4}", "{value: if_none_exist, source: r5}", 1, "no such source: r5"),
        ("{value: if_none_exist, source: r4}", "{value: if_none_exist}", 10, "expected `source`"),
        ("source: r4, note: what", "source: r4, remark: what", 9, "expected one of note, source, value"),
        ("title: Generic FHIR R4", "title: Generic FHIR R4\ncreate_types: [Observation]", 5, "expected one of"),
    ],
)
def test_a_bad_matrix_file_is_refused_with_its_line_and_what_was_expected(
    tmp_path: Path, old: str, new: str, line: int, says: str
) -> None:
    text = (VENDORS / "generic.yaml").read_text()
    assert old in text
    changed = text.replace(old, new, 1)
    (tmp_path / "generic.yaml").write_text(changed)
    with pytest.raises(ConfigError) as raised:
        load_vendor("generic", tmp_path)
    assert says in str(raised.value)
    assert f"generic.yaml:{line}:" in str(raised.value)


def test_an_unknown_vendor_is_told_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"no vendor epik.*epic.*docs/adding-an-ehr.md"):
        load_vendor("epik")


@pytest.mark.parametrize(
    ("vendor", "listed", "precondition", "form"),
    [
        ("generic", resource("create", "update", "patch", conditionalCreate=True), "if_none_exist", "patch"),
        ("generic", resource("create", "update", conditionalCreate=False), "search", "put"),
        ("epic", resource("create", "update", "patch", conditionalCreate=True), "search", "put"),
        ("oracle_health", resource("create", "patch"), "search", "patch"),
        ("healthlake", resource("create", "update"), "idempotency_key", "put"),
        ("meditech", resource("create", "update"), "search", "none"),
    ],
)
def test_the_strongest_way_that_both_know_is_taken(vendor: str, listed: dict[str, Any], precondition: str, form: str) -> None:
    target = Target(load_vendor(vendor), statement(listed))
    assert target.create_precondition("Observation") == precondition
    assert target.update_form("Observation") == form


def test_the_statement_never_widens_the_matrix_and_the_matrix_never_the_statement() -> None:
    epic = load_vendor("epic")
    medication = {"type": "MedicationRequest", "interaction": [{"code": "create"}]}
    assert Target(epic, statement(medication)).refusal("MedicationRequest", "create") == "target_cannot_create"
    assert Target(epic, statement(medication)).refusal("Observation", "create") == "target_cannot_create"
    assert Target(epic, statement(resource("create"))).refusal("Observation", "create") is None


@pytest.mark.parametrize("told", [None, {}, {"rest": "none"}, {"rest": [{"mode": "server", "resource": [None]}]}])
def test_a_statement_that_tells_nothing_leaves_it_to_the_matrix(told: dict[str, Any] | None) -> None:
    assert Target(load_vendor("epic"), told).refusal("Observation", "create") is None
    assert Target(load_vendor("epic"), told).refusal("MedicationRequest", "create") == "target_cannot_create"


@pytest.mark.parametrize("told", [{}, {"rest": "none"}, {"rest": [{"mode": "server", "resource": [None]}]}])
def test_what_neither_knows_may_not_be_done(told: dict[str, Any]) -> None:
    generic = Target(load_vendor("generic"), told)
    assert generic.refusal("Observation", "create") == "target_cannot_create"
    assert generic.refusal("Observation", "update") == "target_cannot_update"
    assert generic.update_form("Observation") == "none"


def test_what_only_a_statement_can_allow_is_not_decided_before_it_is_read() -> None:
    for vendor, interaction in (("generic", "create"), ("generic", "update"), ("canvas", "update")):
        assert Target(load_vendor(vendor)).refusal("Observation", interaction) == "target_not_read"  # type: ignore[arg-type]
    assert Target(load_vendor("epic")).refusal("Observation", "update") is None


def test_what_is_larger_than_the_target_takes_is_refused() -> None:
    note = {"resourceType": "DocumentReference", "content": [{"attachment": {"data": "A" * 5_300_000}}]}
    us_core = Target(load_vendor("us_core"))
    assert us_core.refusal("DocumentReference", "create", note) == "too_large_for_ehr"
    assert us_core.refusal("DocumentReference", "create", {**note, "content": []}) is None


def test_the_vendors_own_api_is_not_what_the_statement_tells_of() -> None:
    athena = Target(load_vendor("athenahealth"), statement({"type": "Observation", "interaction": [{"code": "read"}]}))
    assert athena.refusal("Observation", "create") is None
    assert athena.refusal("Observation", "update") == "target_cannot_update"
    assert athena.refusal("Procedure", "create") == "target_cannot_create"


@pytest.mark.parametrize(
    ("vendor", "kind", "wanted", "size"),
    [
        ("medplum", "transaction", 50, 8),
        ("medplum", "batch", 50, 50),
        ("epic", "batch", 50, 1),
        ("oracle_health", "transaction", 50, 1),
        ("healthlake", "transaction", 500, 160),
        ("generic", "batch", 50, 50),
        ("veradigm", "batch", 50, 1),
    ],
)
def test_bundles_are_as_large_as_the_target_takes_them(vendor: str, kind: Any, wanted: int, size: int) -> None:
    assert Target(load_vendor(vendor)).bundle_size(kind, wanted) == size


def test_a_bundle_kind_that_the_statement_does_not_list_is_not_used() -> None:
    assert Target(load_vendor("generic"), statement(system=("transaction",))).bundle_size("batch", 50) == 1


def test_the_example_of_the_docs_is_a_good_file(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "adding-an-ehr.md").read_text()
    (tmp_path / "riverside.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    riverside = Target(load_vendor("riverside", tmp_path))
    assert riverside.create_precondition("Observation") == "search"
    assert (riverside.update_form("Observation"), riverside.update_form("Condition")) == ("put", "none")


def test_a_server_that_states_itself_in_several_parts_does_what_any_of_them_says() -> None:
    def part(mode: str | None, *resources: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {**({"mode": mode} if mode else {}), "resource": list(resources), **more}

    def able(name: str, *codes: str, **flags: Any) -> dict[str, Any]:
        return {"type": name, "interaction": [{"code": code} for code in codes], **flags}

    statement = {
        "rest": [
            part("client", able("Observation", "delete")),
            part("server", able("Patient", "read"), able("Observation", "read", conditionalCreate=False)),
            part("server", able("Observation", "create", "patch", conditionalCreate=True), interaction=[{"code": "batch"}]),
            "nonsense",
        ]
    }
    found = {one["type"]: one for one in resources(statement)}
    assert sorted(found) == ["Observation", "Patient"]
    assert [one["code"] for one in found["Observation"]["interaction"]] == ["read", "create", "patch"]
    assert found["Observation"]["conditionalCreate"] is True
    assert server(statement)["interaction"] == [{"code": "batch"}]
    assert server({"rest": []}) == server(None) == {}
