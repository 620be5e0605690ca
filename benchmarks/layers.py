"""Rows a second of each layer on one seeded extract, and fhirpy's ``gather(16)`` on the same server in the same run.

``python -m benchmarks [--rows 3000] [--bundle 100] [--json]``: a table on stderr and, with ``--json``, one object on stdout. All
parts are real: an embedded PostgreSQL with fsync on, a sekmet-fhir server with SMART on. commit sends transactions of ``bundle``
entries, as this server takes them, each with its precondition; ``--bundle 1`` sends each write by itself. fhirpy sends what
commit has sent — the very payloads, under other identifiers — one by one, without ledger, precondition or check, because it
has nothing else; ``ratio`` is commit's speed over fhirpy's. Trust the ratio, not the rows a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import yaml
from dotenv import dotenv_values
from fhirpy import AsyncFHIRClient

from fhir_writeback_dagster.config.settings import Layer, Settings
from fhir_writeback_dagster.ops.database import register
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.postgres import Postgres
from fhir_writeback_dagster.ops.provision import Dsns, provision
from fhir_writeback_dagster.orchestration.run_context import RunContext, open_run
from fhir_writeback_dagster.sandbox.demo_home import make_home, zone_of
from fhir_writeback_dagster.sandbox.keys import make_client_key
from fhir_writeback_dagster.sandbox.servers.sekmet import Sekmet
from fhir_writeback_dagster.sandbox.story.files import csv_file
from fhir_writeback_dagster.sandbox.story.hospitals import Hospital, make_world
from fhir_writeback_dagster.sandbox.story.rows import RowMaker
from fhir_writeback_dagster.sandbox.story.vocabulary import LABS

R = TypeVar("R")
AT_ONCE = 16
_BUNDLE_SCOPE = "system/*.cruds"
"""sekmet-fhir 0.1.1 wants a wildcard for transactions, whatever their entries are."""


def measure(rows: int, bundle: int) -> dict[str, Any]:
    """Run it all once; rates are rows (ingest, decide) and resources (commit, fhirpy) a second."""
    hospital = make_world()[0]
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fhir-writeback-bench-")))
        private, jwks = make_client_key()
        ehr = stack.enter_context(Sekmet(home / "ehr", client_jwks=jwks))
        ehr.load(hospital.chart())
        state = make_home(home, [(hospital, ehr.base_url, private)])
        _send_bundles(home / "tenants" / f"{hospital.id}.yaml", bundle)
        dsns = stack.enter_context(_database(state, hospital.id))
        # One process plays all layers here, so it needs what commit needs.
        os.environ.update({k: v for k, v in dotenv_values(state.path / "env" / "commit.env").items() if v})
        _drop(home, hospital, rows)
        seconds = _layers(home, dsns, hospital)
        payloads = ehr.search("Observation", identifier=f"{hospital.identifier_system}|")
        if len(payloads) != rows:
            sys.exit(f"{len(payloads)} resources came of {rows} rows: nothing to compare")
        seconds["fhirpy"] = asyncio.run(_fhirpy(ehr, payloads))
    rates = {name: round(rows / spent, 1) for name, spent in seconds.items()}
    return {"rows": rows, "bundle": bundle, "per_second": rates, "ratio": round(rates["commit"] / rates["fhirpy"], 2)}


def _send_bundles(file: Path, size: int) -> None:
    document = yaml.safe_load(file.read_text("utf-8"))
    document["ehr"] |= {"bundle": "transaction", "bundle_size": size}
    document["ehr"]["auth"]["scopes"] = [_BUNDLE_SCOPE]
    file.write_text(yaml.safe_dump(document), "utf-8")


@contextmanager
def _database(state: StateFolder, tenant: str) -> Iterator[Dsns]:
    postgres = Postgres(state)
    try:
        dsns = provision(postgres.superuser, postgres.port, state)
        register(dsns, [tenant])
        yield dsns
    finally:
        postgres.destroy()


def _drop(home: Path, hospital: Hospital, rows: int) -> None:
    maker = RowMaker(hospital, Random(1))
    people = [p for p in hospital.people if p.role == "plain"]
    made = [maker.lab(people[n % len(people)], LABS[n % len(LABS)]) for n in range(rows)]
    csv_file("lab_portal", "labs.csv", made).drop(zone_of(home, hospital, "lab_portal"))


def _layers(home: Path, dsns: Dsns, hospital: Hospital) -> dict[str, float]:
    from fhir_writeback_dagster.commit.mirror.refresh import refresh
    from fhir_writeback_dagster.commit.pipeline import commit
    from fhir_writeback_dagster.decide.pipeline import decide
    from fhir_writeback_dagster.ingest.pipeline import land, normalise

    def run(layer: Layer, work: Callable[[RunContext], R]) -> float:
        with open_run(Settings(home, layer, dsns.of(layer)), hospital.id, "bench") as context:
            started = time.monotonic()
            work(context)
            return time.monotonic() - started

    def ingest(context: RunContext) -> None:
        land(context)
        normalise(context)

    run("commit", refresh)
    return {
        "ingest": run("ingest", ingest),
        "decide": run("decide", lambda context: decide(context, deadline_s=600)),
        "commit": run("commit", lambda context: commit(context, deadline_s=600)),
    }


async def _fhirpy(ehr: Sekmet, payloads: list[dict[str, Any]]) -> float:
    client = AsyncFHIRClient(ehr.base_url, authorization=ehr.chart.bearer(), dump_resource=dict)
    waiting = [_another(payload) for payload in payloads]
    started = time.monotonic()
    for start in range(0, len(waiting), AT_ONCE):
        resources = (client.resource("Observation", **payload) for payload in waiting[start : start + AT_ONCE])
        await asyncio.gather(*(resource.save() for resource in resources))
    return time.monotonic() - started


def _another(payload: dict[str, Any]) -> dict[str, Any]:
    """The same clinical content as a resource that is not there yet."""
    kept = {k: v for k, v in payload.items() if k not in ("id", "meta", "resourceType")}
    kept["identifier"] = [{**i, "value": f"fhirpy-{i['value']}"} for i in payload["identifier"]]
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=float))
    return plain


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--bundle", type=int, default=100, help="entries of a transaction; 1 sends each write by itself")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.rows, arguments.bundle)
    for name, rate in result["per_second"].items():
        print(f"{name:<10}{rate:>12,.1f} a second", file=sys.stderr)
    print(f"commit is {result['ratio']} times fhirpy's gather({AT_ONCE})", file=sys.stderr)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
