"""Great Expectations results as asset checks of ``canonical_records``, one for each expectation, by tenant.

The specs come from the JSON of the suites, so a process that shows or schedules checks never imports Great Expectations
(3.3 s and 261 MB, measured). Results hold counts only.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import dagster as dg

from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ingest.quality.expectations import CheckName, CheckResult, check_names
from fhir_writeback_dagster.orchestration.partitions import TENANTS

CANONICAL = dg.AssetKey("canonical_records")


def check_specs(folder: Path) -> list[dg.AssetCheckSpec]:
    """A spec for each expectation of ``folder``. By tenant, or one tenant's result stands for all (measured, Dagster 1.13).

    Suites that cannot be read give none: the runs that need them fail with file and line, and the location stays up, with the
    sensor that keeps every tenant's partition.
    """
    names: Sequence[CheckName] = ()
    try:
        names = check_names(folder)
    except ConfigError as error:
        logging.getLogger(__name__).error("no checks are shown: %s", error)  # noqa: TRY400 - ours needs no traceback
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                check.name,
                asset=CANONICAL,
                description=check.description,
                partitions_def=TENANTS,
                metadata={"kind": check.kind, "severity": check.severity},
            )
            for check in names
        ]


def check_results(results: Sequence[CheckResult], selected: Collection[dg.AssetCheckKey]) -> Iterator[dg.AssetCheckResult]:
    """What a batch said, for the checks that this run knows: one that was added since shows when the location is reloaded.

    An expectation that saw no row says nothing: Dagster shows it as skipped, not as passed.
    """
    for result in results:
        if result.evaluated and dg.AssetCheckKey(CANONICAL, result.name) in selected:
            yield dg.AssetCheckResult(
                asset_key=CANONICAL,
                check_name=result.name,
                passed=result.passed,
                severity=dg.AssetCheckSeverity.ERROR if result.severity == "critical" else dg.AssetCheckSeverity.WARN,
                metadata={"rows_evaluated": result.evaluated, "rows_failed": result.failed},
            )
