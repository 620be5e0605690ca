"""Answers that mislead, as a client hears them, and what the real server behind did meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from commit.world import heart_rate, patient

from fhir_writeback_dagster.sandbox.fault_proxy import misleading as m
from fhir_writeback_dagster.sandbox.fault_proxy.faults import Fault
from fhir_writeback_dagster.sandbox.fault_proxy.script import FaultRule
from fhir_writeback_dagster.sandbox.fault_proxy.server import FaultProxy
from fhir_writeback_dagster.sandbox.servers.sekmet import Sekmet


class Line:
    """A client, and between it and a real server a line on which one thing goes wrong."""

    def __init__(self, proxy: FaultProxy, client: httpx.Client) -> None:
        self.proxy, self.client = proxy, client

    def met(self, fault: Fault, method: str, path: str = "", body: Any = None) -> httpx.Response:
        """The answer to a request that meets ``fault``."""
        self.proxy.script([FaultRule("met", fault, count=1)])
        return self.client.request(method, path, json=body)


@pytest.fixture
def line(open_sekmet: Sekmet) -> Iterator[Line]:
    open_sekmet.load([patient("a", "a"), patient("b", "b")])
    with FaultProxy(open_sekmet.base_url) as proxy, httpx.Client(base_url=f"{proxy.base_url}/", trust_env=False) as client:
        yield Line(proxy, client)


def _batch(*patients: str) -> dict[str, Any]:
    request = {"method": "POST", "url": "Observation"}
    entries = [{"resource": _observation(one), "request": request} for one in patients]
    return {"resourceType": "Bundle", "type": "batch", "entry": entries}


def _observation(of: str, minute: int = 0) -> dict[str, Any]:
    return heart_rate(of, f"2025-03-01T10:{minute:02}:00Z", 72)


@pytest.mark.parametrize(("acted", "stored"), [(False, 0), (True, 1)])
def test_a_gateway_answers_with_a_page_of_its_own(line: Line, open_sekmet: Sekmet, acted: bool, stored: int) -> None:
    for status in (404, 302, 405, 200):
        page = line.met(m.Gateway(status, acted=acted), "POST", "Observation", _observation("a", status % 60))
        assert (page.status_code, page.headers["Content-Type"].split(";")[0]) == (status, "text/html")
    assert len(open_sekmet.search("Observation")) == 4 * stored


def test_entries_come_in_another_order(line: Line) -> None:
    answer = line.met(m.SwapEntries(), "POST", "", _batch("a", "b", "b")).json()
    said = [entry["resource"]["subject"]["reference"] for entry in answer["entry"]]
    assert said == ["Patient/b", "Patient/b", "Patient/a"]
    for entry in answer["entry"]:
        assert f"/{entry['resource']['id']}/" in entry["response"]["location"]


def test_a_write_is_answered_with_another_patients_resource(line: Line, open_sekmet: Sekmet) -> None:
    theirs = line.client.post("Observation", json=_observation("b")).json()
    told = line.met(m.AnothersResource(), "POST", "Observation", _observation("a"))
    assert (told.status_code, told.json()["id"]) == (201, theirs["id"])
    assert theirs["id"] in told.headers["Location"]
    assert len(open_sekmet.search("Observation")) == 2


@pytest.mark.parametrize(
    ("form", "begins"),
    [("relative", "Observation/"), ("of_the_backend", "http://ehr-node-3.internal:8443/r4/Observation/"), ("as_it_is", "http")],
)
def test_what_is_acknowledged_has_no_body(line: Line, form: m.Form, begins: str) -> None:
    told = line.met(m.NoBody(form), "POST", "Observation", _observation("a"))
    assert (told.status_code, told.content) == (201, b"")
    assert told.headers["Location"].startswith(begins)
    entries = line.met(m.NoBody(form), "POST", "", _batch("a", "b")).json()["entry"]
    assert all("resource" not in entry and entry["response"]["location"].startswith(begins) for entry in entries)


def test_a_location_may_name_no_version(line: Line) -> None:
    told = line.met(m.NoBody("without_version"), "POST", "Observation", _observation("a"))
    assert "_history" not in told.headers["Location"]


def test_a_search_is_cut_and_says_so(line: Line) -> None:
    for of in ("a", "b", "b"):
        line.client.post("Observation", json=_observation(of))
    counted = line.met(m.CutSearch("total"), "GET", "Observation").json()
    assert (len(counted["entry"]), counted["total"]) == (1, 3)
    told = line.met(m.CutSearch("outcome"), "GET", "Observation").json()
    assert [entry["resource"]["resourceType"] for entry in told["entry"]] == ["Observation", "OperationOutcome"]
    assert "total" not in told
    assert all(link["relation"] != "next" for bundle in (counted, told) for link in bundle["link"])


def test_pages_repeat_and_go_round(line: Line) -> None:
    line.client.post("Observation", json=_observation("a"))
    twice = line.met(m.RepeatEntries(), "GET", "Observation").json()
    assert len({entry["resource"]["id"] for entry in twice["entry"]}) == 1 < len(twice["entry"])
    looping = line.met(m.LoopingPages(), "GET", "Observation").json()
    links = {link["relation"]: link["url"] for link in looping["link"]}
    assert links["next"] == links["self"]
    assert links["next"].startswith(line.proxy.base_url)


def test_bytes_are_not_what_json_is_made_of(line: Line) -> None:
    begun = line.met(m.OddBytes("bom"), "POST", "Observation", _observation("a"))
    assert json.loads(begun.content.decode("utf-8-sig"))["resourceType"] == "Observation"
    assert begun.content.startswith(b"\xef\xbb\xbf")
    broken = line.met(m.OddBytes("not_utf8"), "POST", "Observation", _observation("a"))
    with pytest.raises(UnicodeDecodeError):
        broken.content.decode()
