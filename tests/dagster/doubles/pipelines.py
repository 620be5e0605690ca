"""Pipelines that note when they come and go, wait while a file says so, and take what waits from their queue."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from fhir_writeback_dagster.config.secrets import resolve
from fhir_writeback_dagster.errors import SecretError
from fhir_writeback_dagster.orchestration.run_context import Workplace

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


def _work(lane: str, w: Workplace) -> Report:
    folder = Path(os.environ["DOUBLES"])
    _note(folder, lane, w, "enter", ehr_key=_ehr_key(w))
    end = time.monotonic() + LONGEST_S
    while (folder / f"hold-{lane}-{w.id}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    if (fault := folder / f"fail-{lane}-{w.id}").exists():
        raise ValueError(fault.read_text())
    if lane in _TAKE:
        with w.store.tenant(w.id) as connection:
            connection.execute(_TAKE[lane], {"tenant": w.id, "target": w.tenant.ehr.target})
    _note(folder, lane, w, "leave")
    return Report()


def _note(folder: Path, lane: str, w: Workplace, what: str, **more: str) -> None:
    line = {"at": time.time(), "what": what, "lane": lane, "tenant": w.id, "run": w.run_id, "pid": os.getpid(), **more}
    with (folder / "journal").open("a") as journal:
        journal.write(json.dumps(line) + "\n")


def _ehr_key(w: Workplace) -> str:
    try:
        resolve(str(w.tenant.ehr.auth.private_key), w.settings.home)
    except SecretError as error:
        return error.code
    return "resolved"


def _lane(lane: str) -> Any:
    return lambda w, *_: _work(lane, w)


normalise, decide, refresh, commit = map(_lane, ("ingest", "decide", "mirror", "commit"))


def land(_: Workplace) -> Report:
    return Report()
