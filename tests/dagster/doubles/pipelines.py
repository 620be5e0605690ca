"""Pipelines that note when they come and go, wait while a file says so, and take what waits from their queue."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import structlog

from fhir_writeback_dagster.config.secrets import resolve
from fhir_writeback_dagster.errors import SecretError
from fhir_writeback_dagster.orchestration.run_context import RunContext

LONGEST_S = 400

_TAKE = {
    "decide": "DELETE FROM canonical.outbox WHERE tenant = %(tenant)s",
    "commit": "DELETE FROM decision.outbox WHERE tenant = %(tenant)s",
    "mirror": "INSERT INTO mirror.sync (tenant, target, resource_type, refreshed_at, changed_at) "
    "VALUES (%(tenant)s, %(target)s, 'Patient', now(), now()) "
    "ON CONFLICT (tenant, target, resource_type) DO UPDATE SET refreshed_at = now()",
}


class Report:
    checks = ()

    def metadata(self) -> dict[str, int]:
        return {"done": 1}


def _work(lane: str, run: RunContext) -> Report:
    folder = Path(os.environ["DOUBLES"])
    _note(folder, lane, run, "enter", ehr_key=_ehr_key(run))
    end = time.monotonic() + LONGEST_S
    while (folder / f"hold-{lane}-{run.id}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    structlog.get_logger().warning("a line of the pipeline", code=f"of_{lane}", patient="Zebediah-1931-04-17")
    if (fault := folder / f"fail-{lane}-{run.id}").exists():
        raise ValueError(fault.read_text())
    if lane in _TAKE:
        with run.store.tenant(run.id) as connection:
            connection.execute(_TAKE[lane], {"tenant": run.id, "target": run.tenant.ehr.target})
    _note(folder, lane, run, "leave")
    return Report()


def _note(folder: Path, lane: str, run: RunContext, what: str, **more: str) -> None:
    line = {"at": time.time(), "what": what, "lane": lane, "tenant": run.id, "run": run.run_id, "pid": os.getpid(), **more}
    with (folder / "journal").open("a") as journal:
        journal.write(json.dumps(line) + "\n")


def _ehr_key(run: RunContext) -> str:
    try:
        resolve(str(run.tenant.ehr.auth.private_key), run.settings.home)
    except SecretError as error:
        return error.code
    return "resolved"


def _lane(lane: str) -> Any:
    return lambda run, *_: _work(lane, run)


normalise, decide, refresh, commit = map(_lane, ("ingest", "decide", "mirror", "commit"))


def land(_: RunContext) -> Report:
    return Report()
