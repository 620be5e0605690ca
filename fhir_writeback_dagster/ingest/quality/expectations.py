"""Great Expectations on canonical batches: plausible ranges, units, value sets — and no value leaves the process.

A suite is ``expectations/<kind>.json`` in GX 1.x form; each expectation carries ``meta.check``, its name. What a failure does:

=========  =================================================  ==========================================
severity   a rule on rows                                     a rule on the batch (max, mean, row count …)
=========  =================================================  ==========================================
critical   the record is quarantined, ``gx_<check>``          the batch is blocked: the extract is refused
warning    the record is quarantined, ``gx_<check>``          shown
info       shown                                              shown
=========  =================================================  ==========================================

Importing GX takes 3 s and 260 MB (measured): only :func:`run_suites` does it, and only when there is something to check.
Every suite runs BOOLEAN_ONLY first; what failed runs again for record ids. Results stay in this module: GX puts values in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fhir_writeback_dagster.canonical import KINDS
from fhir_writeback_dagster.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True, slots=True)
class CheckName:
    """One expectation, for people: ``name`` is ``<kind>_<check>`` and unique over all suites."""

    name: str
    kind: str
    description: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one expectation said of a run's rows: ``evaluated`` are those that meet its condition, a component being a row."""

    name: str
    kind: str
    passed: bool
    severity: Severity
    evaluated: int
    failed: int

    def __add__(self, other: CheckResult) -> CheckResult:
        """Of two batches together."""
        return replace(
            self,
            passed=self.passed and other.passed,
            evaluated=self.evaluated + other.evaluated,
            failed=self.failed + other.failed,
        )


@dataclass(frozen=True, slots=True)
class SuiteVerdict:
    """Of one batch. ``failed``: record id → the name of the first check it failed; ``blocked``: the batch rule that blocks it."""

    results: tuple[CheckResult, ...]
    failed: Mapping[str, str]
    blocked: str | None


class _Meta(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    check: str = Field(pattern=r"^[a-z0-9_]+$")


class _Expectation(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str = Field(pattern=r"^expect_[a-z0-9_]+$")
    kwargs: dict[str, Any]
    severity: Severity = "critical"
    description: str = ""
    meta: _Meta

    @property
    def check(self) -> str:
        return self.meta.check


class _SuiteFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    meta: dict[str, Any] = {}
    expectations: tuple[_Expectation, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Suite:
    """``sha256`` (32 bytes) is of the file: the version that a record was checked by."""

    kind: str
    sha256: bytes
    expectations: tuple[_Expectation, ...]


def load_suites(folder: Path) -> dict[str, Suite]:
    """Every suite, by kind.

    :raises ConfigError: a file that is not JSON, not a suite, of no kind, or with a check's name missing or twice.
    """
    return {path.stem: _load(path, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.json"))}


@cache
def _load(path: Path, _changed: int) -> Suite:
    data = path.read_bytes()
    try:
        suite = _SuiteFile.model_validate(json.loads(data))
    except json.JSONDecodeError as error:
        raise ConfigError("bad_json", error.msg, where=f"{path}:{error.lineno}", fix="fix the JSON") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError("bad_suite", f"{place}: {first['msg']}", where=str(path), fix="fix the named key") from None
    if path.stem not in KINDS or suite.name != path.stem:
        raise ConfigError("bad_suite", "name and file are not one canonical kind", where=str(path), fix="rename both")
    checks = [one.check for one in suite.expectations]
    if twice := next((check for check in checks if checks.count(check) > 1), None):
        raise ConfigError("bad_suite", f"meta.check {twice} is there twice", where=str(path), fix="name each check once")
    return Suite(path.stem, hashlib.sha256(data).digest(), suite.expectations)


def check_names(folder: Path) -> tuple[CheckName, ...]:
    """Every expectation of every suite, read from the JSON alone.

    :raises ConfigError: see :func:`load_suites`.
    """
    return tuple(
        CheckName(f"{kind}_{one.check}", kind, one.description, one.severity)
        for kind, suite in load_suites(folder).items()
        for one in suite.expectations
    )


def none_evaluated(folder: Path) -> dict[str, CheckResult]:
    """Every check, by name, as it is before any row was seen."""
    return {c.name: CheckResult(c.name, c.kind, True, c.severity, 0, 0) for c in check_names(folder)}


def run_suites(suites: Mapping[str, Suite], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> SuiteVerdict:
    """Check one batch.

    :param rows: kind → flat rows as :mod:`~fhir_writeback_dagster.ingest.quality.flatten` makes them, each with
        its ``record_id``.
    :raises ConfigError: an expectation that cannot be evaluated (an unknown type or column, a bad condition).
    """
    batches = [(suites[kind], list(found)) for kind, found in rows.items() if found and kind in suites]
    if not batches:
        return SuiteVerdict((), {}, None)
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when GX is imported
    results: list[CheckResult] = []
    failed: dict[str, str] = {}
    blocked: str | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GX 1.24 imports sre_constants and warns of its own arguments
        for suite, found in batches:
            for one, evaluated, ids in _run(suite, found):
                name = f"{suite.kind}_{one.check}"
                passed = ids is not None and not ids
                results.append(CheckResult(name, suite.kind, passed, one.severity, evaluated, len(ids or ())))
                if ids and one.severity != "info":
                    for record_id in ids:
                        failed.setdefault(record_id, name)
                if ids is None and one.severity == "critical":
                    blocked = blocked or name
    return SuiteVerdict(tuple(results), failed, blocked)


def _run(suite: Suite, rows: list[Mapping[str, Any]]) -> list[tuple[_Expectation, int, list[str] | None]]:
    """Each expectation, how many rows it is about, and the record ids that fail it; None: a rule on the batch failed."""
    import pandas as pd

    frame: pd.DataFrame = pd.DataFrame.from_records(rows)
    about = {one.check: _about(one, frame) for one in suite.expectations}
    wanted = [one for one in suite.expectations if about[one.check]]  # GX takes 25 ms to say that no row fails
    if not wanted:
        return [(one, 0, []) for one in suite.expectations]
    batch = _batch(suite.kind, frame)
    quick = batch.validate(_gx_suite(suite.kind, wanted), result_format="BOOLEAN_ONLY")
    unhappy = [one for one, result in zip(wanted, _in_order(suite, wanted, quick), strict=True) if not result.success]
    found: dict[str, list[str] | None] = {}
    if unhappy:
        form = {"result_format": "COMPLETE", "unexpected_index_column_names": ["record_id"], "partial_unexpected_count": 0}
        slow = batch.validate(_gx_suite(suite.kind, unhappy), result_format=form)
        found = {one.check: _ids(result) for one, result in zip(unhappy, _in_order(suite, unhappy, slow), strict=True)}
    return [(one, about[one.check], found.get(one.check, [])) for one in suite.expectations]


def _about(one: _Expectation, frame: pd.DataFrame) -> int:
    """How many rows meet the expectation's condition; a bad condition is left to GX to refuse."""
    condition = one.kwargs.get("row_condition")
    if not isinstance(condition, str) or one.kwargs.get("condition_parser") != "pandas":
        return len(frame)
    try:
        return len(frame.query(condition))
    except (ValueError, TypeError, NameError, SyntaxError, KeyError):
        return len(frame)


def _batch(kind: str, frame: pd.DataFrame) -> Any:
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults, ProgressBarsConfig

    memory = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)  # its documentation site is a folder in /tmp
    config = DataContextConfig(store_backend_defaults=memory, progress_bars=ProgressBarsConfig(globally=False))
    context = gx.get_context(mode="ephemeral", project_config=config)
    asset = context.data_sources.add_pandas("canonical").add_dataframe_asset(kind)
    return asset.add_batch_definition_whole_dataframe("batch").get_batch({"dataframe": frame})


def _gx_suite(name: str, expectations: Sequence[_Expectation]) -> Any:
    import great_expectations as gx

    return gx.ExpectationSuite(name=name, expectations=[one.model_dump() for one in expectations])


def _in_order(suite: Suite, expectations: Sequence[_Expectation], outcome: Any) -> list[Any]:
    """GX's results in our order (it groups them by column); an expectation that raised is a fault of the suite."""
    by_check = {result.expectation_config.meta["check"]: result for result in outcome.results}
    for one in expectations:
        result = by_check.get(one.check)
        raised = result is None or (result.exception_info or {}).get("raised_exception") is not False
        if raised:  # its text can hold values
            raise ConfigError(
                "bad_expectation",
                f"the check {one.check} cannot be evaluated",
                where=f"expectations/{suite.kind}.json",
                fix="compare its type, column and condition with the columns of ingest/flatten.py",
            )
    return [by_check[one.check] for one in expectations]


def _ids(result: Any) -> list[str] | None:
    places = result.result.get("unexpected_index_list")
    return None if places is None else list(dict.fromkeys(str(place["record_id"]) for place in places))
