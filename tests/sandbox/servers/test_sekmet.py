"""The sandbox EHR: it comes up with SMART on, keeps ids, pages searches, and is gone afterwards."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import psutil
import pytest

from fhir_writeback_dagster.errors import ServiceError, TargetError
from fhir_writeback_dagster.sandbox.keys import make_client_key
from fhir_writeback_dagster.sandbox.servers.ehr_client import EhrClient
from fhir_writeback_dagster.sandbox.servers.sekmet import CLIENT_ID, Sekmet


def _patient(number: int) -> dict[str, object]:
    return {
        "resourceType": "Patient",
        "id": f"p-{number}",
        "identifier": [{"system": "urn:test:mrn", "value": f"M{number:05d}"}],
    }


def test_loaded_resources_keep_their_ids_and_a_search_reads_every_page(sekmet: Sekmet) -> None:
    assert sekmet.load(_patient(n) for n in range(1203)) == 1203
    found = sekmet.search("Patient")
    assert {p["id"] for p in found} == {f"p-{n}" for n in range(1203)}
    assert len(found) == 1203
    assert sekmet.search("Patient", identifier="urn:test:mrn|M00007")[0]["id"] == "p-7"


def test_a_chart_is_empty_again_for_the_next_test(sekmet: Sekmet) -> None:
    assert sekmet.search("Patient") == []
    assert sekmet.chart.versions("Patient") == 0


def test_versions_count_every_write(sekmet: Sekmet) -> None:
    sekmet.load([_patient(1)])
    sekmet.load([_patient(1)])
    assert sekmet.chart.versions("Patient") == 2
    assert sekmet.chart.count("Patient") == 1


def test_without_a_token_nothing_is_read(sekmet: Sekmet) -> None:
    assert httpx.get(f"{sekmet.base_url}/Patient", trust_env=False).status_code == 401


def test_the_registered_client_gets_in_and_another_key_does_not(sekmet: Sekmet, client_key: str) -> None:
    with EhrClient(sekmet.base_url, client_id=CLIENT_ID, private_jwk=client_key) as chart:
        assert chart.search("Patient") == []
    stranger, _ = make_client_key()
    with EhrClient(sekmet.base_url, client_id=CLIENT_ID, private_jwk=stranger) as chart, pytest.raises(TargetError, match="401"):
        chart.search("Patient")


def test_a_taken_port_is_refused_with_its_number(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"port {port} for the sandbox EHR"):
            Sekmet(tmp_path, port).start()


def test_it_survives_a_kill_with_its_data_and_leaves_no_process(tmp_path: Path) -> None:
    with Sekmet(tmp_path) as server:
        server.load([_patient(1)])
        server.kill()
        server.start()
        assert [p["id"] for p in server.search("Patient")] == ["p-1"]
        pid = server.pid
    assert pid is not None
    assert not psutil.pid_exists(pid)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0
