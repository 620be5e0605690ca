"""What is refused is in the log, by its code and its extract's id; a file's own name may be a patient's and is not."""

from __future__ import annotations

from conftest import OpenLayer
from ingest.hospital import HEADER, Hospital, row
from structlog.testing import capture_logs

from fhir_writeback_dagster.ingest.pipeline import land, normalise
from fhir_writeback_dagster.orchestration.logs import KEYS


def test_an_extract_that_is_refused_is_logged(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("vitals_zebediah.csv", HEADER + row(1) + '2,"broken')
    with capture_logs() as lines, open_run("ingest", hospital.tenant) as run:
        land(run)
        refused = normalise(run).refused
    [(extract_id,)] = hospital.ask("SELECT extract_id FROM landing.extract WHERE tenant = $tenant")
    [line] = [line for line in lines if line["event"] == "an extract is refused"]
    assert {line["code"]} == set(refused)
    assert line["extract_id"] == str(extract_id)
    assert "zebediah" not in str(lines)
    assert line.keys() - KEYS == {"log_level"}  # capture_logs' own name of it
