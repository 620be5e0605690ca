"""Logs keep known keys only."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading

import pytest
import structlog

from fhir_writeback_dagster.orchestration.logs import MOST_LINES, configure, only_known_keys, run_log


def test_a_key_that_nobody_allowed_is_dropped_and_its_name_told() -> None:
    kept = only_known_keys(None, "info", {"event": "x", "tenant": "mercy", "patient_name": "Grace Zebra"})
    assert kept == {"event": "x", "tenant": "mercy", "dropped": ["patient_name"]}


def test_a_line_shows_allowed_keys_and_no_other_value(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        configure()
        structlog.get_logger().warning("extract_refused", tenant="mercy", rows=3, body={"name": "Grace Zebra"})
    finally:
        structlog.reset_defaults()
    line = capsys.readouterr().err
    assert "event=extract_refused tenant=mercy rows=3" in line
    assert "dropped" in line
    assert "Zebra" not in line


def test_http_clients_do_not_log_their_urls(caplog: pytest.LogCaptureFixture) -> None:
    try:
        configure()
        assert logging.getLogger("httpx").getEffectiveLevel() == logging.WARNING
    finally:
        structlog.reset_defaults()


def test_lines_of_a_run_say_whose_they_are_and_reach_its_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page: list[tuple[str, str]] = []
    try:
        configure("json")
        with run_log(lambda level, text: page.append((level, text)), run_id="r1", tenant="mercy"):
            structlog.get_logger().warning("read_failed", code="no_answer", name="Grace Zebra")
            elsewhere = threading.Thread(target=lambda: structlog.get_logger().error("defect", code="x"))
            elsewhere.start()
            elsewhere.join()
        structlog.get_logger().warning("afterwards")
    finally:
        structlog.reset_defaults()
    first, second, last = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first.items() >= {"run_id": "r1", "tenant": "mercy", "event": "read_failed", "dropped": ["name"]}.items()
    assert second["run_id"] == "r1", "a thread that a library starts is of the run too"
    assert "run_id" not in last
    assert page == [("warning", "event=read_failed code=no_answer dropped=['name']"), ("error", "event=defect code=x")]


def test_a_page_gets_no_more_lines_than_it_can_show(capsys: pytest.CaptureFixture[str]) -> None:
    page: list[str] = []
    try:
        with run_log(lambda _, text: page.append(text), run_id="r1"):
            for number in range(MOST_LINES + 50):
                structlog.get_logger().info("line", count=number)
    finally:
        structlog.reset_defaults()
    assert len(page) == MOST_LINES + 1
    assert "own log" in page[-1]
    assert len(capsys.readouterr().err.splitlines()) == MOST_LINES + 50


FOREIGN = """
import asyncio, logging, threading, warnings
import fhir_writeback_dagster.ops.privacy
logging.getLogger("a.library").warning("cannot parse %s", "Grace Zebra")
warnings.warn("odd value Grace Zebra")
def fail(): raise ValueError("Grace Zebra")
thread = threading.Thread(target=fail); thread.start(); thread.join()
async def nobody_waits():
    task = asyncio.create_task(asyncio.to_thread(fail)); await asyncio.sleep(0.2); del task
asyncio.run(nobody_waits())
class Odd:
    def __del__(self): fail()
Odd()
fail()
"""


def test_of_what_a_library_says_only_the_place_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", FOREIGN], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Zebra" not in done.stdout + done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in told].count("a library logged something") >= 1
    assert len(told) == 6, done.stderr
    assert sum("ValueError at __main__:" in line["event"] for line in told) == 4
    assert [line["code"] for line in told if line["event"] == "a library warned"] == ["UserWarning"]
