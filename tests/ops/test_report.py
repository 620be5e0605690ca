"""The report: every row in exactly one end, the same numbers for people and for programs."""

from __future__ import annotations

from support import Database

from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.ops.report import ENDS, Refusal, TenantReport, read_report, table
from fhir_writeback_dagster.store.db import copy_rows


def test_rows_are_counted_by_end_and_reason_for_their_tenant_only(database: Database, make_tenant, open_run) -> None:  # type: ignore[no-untyped-def]
    tenant, other = make_tenant(), make_tenant()
    with open_run("ingest", tenant) as run, run.store.tenant(run.id) as connection:
        extract = new_id()
        rows = [("not_written", "reference_only"), ("quarantined", "ambiguous_date"), ("quarantined", "ambiguous_date")]
        columns = ["tenant", "row_id", "extract_id", "row_number", "disposition", "reason", "source_row"]
        copy_rows(
            connection,
            "canonical.row",
            columns,
            [(run.id, new_id(), extract, n, *row, b"sealed") for n, row in enumerate(rows)],
        )
    reports = read_report(database.dsn("status"), [tenant.tenant, other.tenant])
    assert list(reports) == sorted([tenant.tenant, other.tenant])
    mine = reports[tenant.tenant]
    assert mine.rows == 3
    assert mine.adds_up
    assert {end: count for end, count in mine.ends.items() if count} == {"not_written": 1, "quarantined": 2}
    assert mine.to_json()["reasons"] == {"not_written": {"reference_only": 1}, "quarantined": {"ambiguous_date": 2}}
    assert reports[other.tenant].rows == 0
    assert set(read_report(database.dsn("status"), [other.tenant])) == {other.tenant}


def test_the_object_has_every_end_also_where_nothing_ended_there() -> None:
    assert TenantReport().to_json() == {
        "rows": 0,
        "ends": dict.fromkeys(ENDS, 0),
        "reasons": {},
        "stages": {"canonical": 0, "candidates": 0},
        "resources": {"created": 0, "updated": 0},
        "extracts": {"ingested": 0, "refused": 0},
        "refusals": [],
        "pending": {},
        "targets": [],
    }


def test_the_table_lines_up_tells_why_and_says_what_does_not_add_up() -> None:
    good = TenantReport(rows=1200)
    good.ends |= {"created": 1190, "quarantined": 10}
    good.reasons = {"created": {"committed": 1190}, "quarantined": {"unknown_unit": 3, "ambiguous_date": 7}}
    lost = TenantReport(rows=5, extracts=2, refused=1, pending={"commit": 4})
    lost.refusals.append(Refusal("vitals", 3, "ragged_row", 1, line=7))
    text = table({"mercy": good, "st-vincent": lost})
    lines = text.splitlines()
    assert lines[0].split() == ["tenant", "rows", *(word for end in ENDS for word in end.split("_"))]
    assert lines[2].split()[:3] == ["mercy", "1200", "1190"]
    assert len({len(line) for line in lines[1:4]}) == 1
    assert lines[lines.index("why:") + 1].split() == ["mercy", "quarantined", "ambiguous_date", "7"]
    assert "committed" not in text
    assert "st-vincent: 1 of 3 extracts refused whole\n  vitals, version 3: ragged_row 1, line 7" in text
    assert "st-vincent: work waits: commit 4" in text
    assert "st-vincent: 5 rows were read and 0 are accounted for" in text
    assert table({}).startswith("no tenants yet")
