"""What a tick costs: sensors run every five seconds, so the database is asked once for all tenants and no secret is read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

TENANTS = ("mercy", "other", "third")

_opened: list[str] | None = None


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(arguments[0]))


sys.addaudithook(_hear)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Paths of files as they are opened."""
    global _opened  # noqa: PLW0603 - an audit hook cannot be taken away
    _opened = []
    yield _opened
    _opened = None


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each connection that is made."""
    made: list[str] = []
    connect = psycopg.connect

    def counting(*arguments: Any, **options: Any) -> Any:
        made.append(str(options.get("application_name", "")))
        return connect(*arguments, **options)

    monkeypatch.setattr(psycopg, "connect", counting)
    return made


@pytest.mark.parametrize("delivered", [True, False], ids=["files wait", "nothing waits"])
@pytest.mark.parametrize(
    ("location", "sensor"),
    [
        ("ingest", "extract_sensor"),
        ("ingest", "tenant_sensor"),
        ("decide", "decide_sensor"),
        ("commit", "commit_sensor"),
        ("commit", "mirror_sensor"),
    ],
)
def test_a_tick_opens_one_connection_for_all_tenants_and_reads_no_secret(
    instance: dg.DagsterInstance,
    layer_environment: Callable[[str], None],
    make_tenant: Callable[[str], Any],
    home: Path,
    connections: list[str],
    opened: list[str],
    location: str,
    sensor: str,
    delivered: bool,
) -> None:
    for tenant in TENANTS:
        make_tenant(tenant)
        instance.add_dynamic_partitions("tenant", [tenant])
        if delivered:
            (home / "landing" / tenant / "synthea_csv" / "conditions.csv").write_text("START,STOP\n")
    layer_environment(location)
    module = import_module(f"fhir_writeback_dagster.{location}.sensors")
    connections.clear()
    opened.clear()
    with dg.build_sensor_context(instance=instance) as context:
        result = getattr(module, sensor)(context)
    assert len(connections) == 1
    assert [path for path in opened if "/keys/" in path] == []
    if sensor == "extract_sensor":
        assert [request.partition_key for request in result.run_requests or []] == (list(TENANTS) if delivered else [])
