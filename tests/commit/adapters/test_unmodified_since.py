"""`If-Unmodified-Since` guards only what is at least a second old: two changes within one second look alike to it (RFC 9110)."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from commit.faults import FaultyLine, Twist
from commit.world import World, heart_rate, patient

from fhir_writeback_dagster.rules.target import matrix

AT = "2024-03-01T10:00:00Z"


def _read_after(seconds: float | None) -> Twist:
    """A read whose `Date` is so long after the change that it shows; None: its `Date` is empty."""

    def dated(status: int, headers: Any, body: bytes) -> Any:
        kept = [(name, value) for name, value in headers if name.lower() not in ("date", "last-modified")]
        changed = datetime.fromisoformat(json.loads(body)["meta"]["lastUpdated"]).replace(microsecond=0)
        told = [("Last-Modified", format_datetime(changed, usegmt=True))]
        date = "" if seconds is None else format_datetime(changed + timedelta(seconds=seconds), usegmt=True)
        return status, [*kept, *told, ("Date", date)], body

    return Twist(dated)


@pytest.fixture
def corrected(make_world: Callable[..., World], line: FaultyLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Canvas's way, on a server that takes our key."""
    plain = (matrix.VENDORS / "generic.yaml").read_text(encoding="utf-8")
    timed = plain.replace("vendor: generic", "vendor: timed").replace(
        "precondition: {value: if_match,", "precondition: {value: if_unmodified_since,"
    )
    (tmp_path / "timed.yaml").write_text(timed, encoding="utf-8")
    monkeypatch.setattr(matrix, "VENDORS", tmp_path)
    world = make_world(ehr={"base_url": line.base_url, "vendor": "timed"})
    world.load(patient("a", "a"))
    first = world.approve(heart_rate("a", AT, 72))
    world.commit()
    world.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    return world


def _updates(line: FaultyLine) -> list[Any]:
    return [*line.sent("PUT"), *line.sent("PATCH")]


@pytest.mark.parametrize("seconds", [0, None, -3600])
def test_within_its_second_nothing_is_sent(corrected: World, line: FaultyLine, seconds: float | None) -> None:
    line.always("GET", "Observation/", _read_after(seconds))
    corrected.commit(deadline_s=3)
    state, _, reason = corrected.intents()[1]
    assert (state, reason) in {("retry_wait", "modified_just_now"), ("in_review", "no_date")}
    assert _updates(line) == []


@pytest.mark.parametrize("seconds", [1, 3600])
def test_a_second_later_it_guards(corrected: World, line: FaultyLine, seconds: float) -> None:
    line.always("GET", "Observation/", _read_after(seconds))
    corrected.commit()
    assert corrected.intents()[1][:2] == ("committed", "updated")
    (sent,) = _updates(line)
    assert parsedate_to_datetime(sent.headers["if-unmodified-since"])


def test_what_was_modified_just_now_is_written_a_little_later(corrected: World, line: FaultyLine) -> None:
    line.on("GET", "Observation/", _read_after(0))
    line.always("GET", "Observation/", _read_after(5))
    corrected.commit(deadline_s=3)
    corrected.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")
    corrected.commit()
    assert corrected.intents()[1][:2] == ("committed", "updated")
