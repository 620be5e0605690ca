"""Logs keep known keys only."""

from __future__ import annotations

import logging

import pytest
import structlog

from fhir_writeback_dagster.ops.logging import configure, only_known_keys


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
