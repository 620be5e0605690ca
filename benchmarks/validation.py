"""Mapping and validation: µs of CPU a resource, and what each validator finds of the mutation corpus.

    python benchmarks/validation.py [--corpus N]     every Nth official example is mutated (default 16)

CPU time of this process, the best of five rounds, because the machine is shared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from decide.mutants import ERRATA, corpus, golden_payloads, official_examples  # noqa: E402
from fhir.resources.R4B import get_fhir_model_class  # noqa: E402, TID253
from pydantic import ValidationError  # noqa: E402

from fhir_writeback_dagster import canonicaljson  # noqa: E402
from fhir_writeback_dagster.decide.mapping.versions import Refs, load_mapping  # noqa: E402
from fhir_writeback_dagster.decide.validation.schema import validator_of  # noqa: E402
from fhir_writeback_dagster.decide.validation.semantics import semantic_issues  # noqa: E402
from fhir_writeback_dagster.decide.validation.validate import validate  # noqa: E402

Resource = dict[str, Any]


def microseconds(function: Callable[..., object], *arguments: object, rounds: int = 2000) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(rounds):
            function(*arguments)
        best = min(best, time.process_time() - start)
    return best / rounds * 1e6


def by_models(resource: Resource) -> bool:
    try:
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)
    except (ValidationError, AttributeError, TypeError):  # it trips over an int as url
        return False
    return True


def by_schema(resource: Resource) -> bool:
    return validator_of(resource["resourceType"]).is_valid(resource)


def by_all(resource: Resource) -> bool:
    return not any(issue.severity == "error" for issue in validate(resource))


def speed() -> None:
    print(f"{'golden payload':38} {'render':>7} {'identity':>8} {'schema':>7} {'semantic':>8} {'validate':>8} {'models':>7}  µs")
    for path in sorted((ROOT / "tests" / "golden").glob("*/*.json")):
        case = canonicaljson.decode(path.read_bytes())
        kind, _, version = case["mapping"].partition("/")
        mapping, refs, record, payload = (
            load_mapping(ROOT / "mappings" / "fhir", kind, int(version)),
            Refs(**case["refs"]),
            case["record"],
            case["payload"],
        )
        validate(payload)
        figures = (
            microseconds(mapping.render, record, refs),
            microseconds(mapping.identity, record),
            microseconds(by_schema, payload),
            microseconds(semantic_issues, payload),
            microseconds(validate, payload),
            microseconds(by_models, payload, rounds=200),
        )
        print(f"{kind + '/' + path.stem:38} " + " ".join(f"{f:>7.1f}" for f in figures))


def misses(every: int) -> None:
    valid = [r for r in official_examples() if (r["resourceType"], r.get("id")) not in ERRATA]
    made: Counter[str] = Counter()
    missed: dict[str, Counter[str]] = {name: Counter() for name in ("schema", "models", "all")}
    for resource in golden_payloads() + valid[::every]:
        for label, _, mutant in corpus(resource):
            made[label] += 1
            for name, check in (("schema", by_schema), ("models", by_models), ("all", by_all)):
                missed[name][label] += check(mutant)
    print(f"\n{'mutants accepted, of class':34} {'made':>6} {'schema':>7} {'models':>7} {'all':>5}")
    for label in sorted(made):
        print(f"{label:34} {made[label]:>6} " + " ".join(f"{missed[n][label]:>6}" for n in missed))
    print(f"{'all':34} {made.total():>6} " + " ".join(f"{c.total():>6}" for c in missed.values()))
    print(
        f"\nvalid official examples refused, of {len(valid)}: "
        + ", ".join(
            f"{name} {sum(not check(r) for r in valid)}"
            for name, check in (("schema", by_schema), ("models", by_models), ("all", by_all))
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="speed and strength of mapping and validation")
    parser.add_argument("--corpus", type=int, default=16, metavar="N")
    speed()
    misses(parser.parse_args().corpus)
