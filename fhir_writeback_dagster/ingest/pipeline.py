"""ingest from end to end: :func:`land` what was delivered, then :func:`normalise` what it says; one transaction an extract."""

from __future__ import annotations

import gc
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import polars as pl
import psycopg
import structlog

from fhir_writeback_dagster.canonical import CanonicalRecord
from fhir_writeback_dagster.config.tenants import SourceUse
from fhir_writeback_dagster.errors import ConfigError, ExtractRefused, ServiceError, describe
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.ingest import recording
from fhir_writeback_dagster.ingest.contracts.reserved_columns import BROKEN, LINE
from fhir_writeback_dagster.ingest.contracts.sources import Source, source_of
from fhir_writeback_dagster.ingest.landing.landing import LandReport, land
from fhir_writeback_dagster.ingest.landing.zones import Zone
from fhir_writeback_dagster.ingest.normalise import discriminators, records
from fhir_writeback_dagster.ingest.normalise.columns import Maker
from fhir_writeback_dagster.ingest.quality.expectations import CheckResult, Suite, load_suites, none_evaluated, run_suites
from fhir_writeback_dagster.ingest.quality.flatten import flatten
from fhir_writeback_dagster.ingest.readers import read as readers
from fhir_writeback_dagster.orchestration.run_context import RunContext

__all__ = ["LandReport", "NormaliseReport", "land", "normalise"]


#: The database is away, or is not the one that this version needs: no fault of an extract's. Only what PostgreSQL refuses of the
#: data itself is.
_AWAY = (ServiceError, psycopg.OperationalError, psycopg.InterfaceError, psycopg.ProgrammingError, psycopg.InternalError)


@dataclass(frozen=True, slots=True)
class NormaliseReport:
    """Counts of one run, reasons by code, versions and hashes; ``checks`` has every expectation, also those without a row."""

    ingested: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    undeclared_columns: int = 0
    sources: Mapping[str, int] = field(default_factory=dict)
    extracts: tuple[str, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    problems: tuple[str, ...] = ()
    repairs: Mapping[str, int] = field(default_factory=dict)

    def metadata(self) -> dict[str, int | float | str]:
        names = ("rows", "records", "rows_in_records", "rows_not_written", "rows_quarantined")
        return {
            "extracts_ingested": self.ingested,
            "extracts_refused": sum(self.refused.values()),
            **{name: self.counts.get(name, 0) for name in names},
            "kinds": _listed(self.kinds),
            "reasons": _listed(self.reasons),
            "refusals": _listed(self.refused),
            "undeclared_columns": self.undeclared_columns,
            "repairs": _listed(self.repairs),
            "sources": _listed(self.sources),
            "extracts": ", ".join(self.extracts[:20]),
            "problems": "\n".join(self.problems),
        }


def normalise(run: RunContext) -> NormaliseReport:
    """Read every landed extract; a broken one is refused and never keeps the next from being read.

    :raises ConfigError: a suite of ``expectations/`` is wrong (nothing is read unchecked), or a file cannot be read for now;
        raised when every other extract is through.
    :raises ServiceError: the database went away; what was not committed is read again by the next run.
    """
    return _Run(run).all()


class _Run:
    """One run's work and tallies."""

    def __init__(self, run: RunContext) -> None:
        self.run = run
        self.suites = load_suites(run.settings.expectations)
        self.checks = none_evaluated(run.settings.expectations)
        self.sources: dict[tuple[str, int], Source | None] = {}
        self.counts, self.kinds, self.reasons, self.refused = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
        self.repairs = Counter[str]()
        self.versions: dict[str, int] = {}
        self.problems: dict[str, None] = {}
        self.extracts: list[str] = []
        self.refusals: list[str] = []
        self.undeclared = 0

    def all(self) -> NormaliseReport:
        with self.run.store.tenant(self.run.id) as connection:
            waiting = recording.landed(connection, self.run)
        faults: list[ConfigError] = []
        for extract in waiting:
            source = self._source(extract.source, extract.version)
            if source is None:
                continue
            try:
                self._one(extract, source)
            except ExtractRefused as error:
                self._refuse(extract, error)
            except ConfigError as error:
                structlog.get_logger().error(str(error), code=error.code, extract_id=str(extract.extract_id))
                faults.append(error)
            except MemoryError:
                self._refuse(
                    extract, ExtractRefused("too_costly", "it needs more memory than a run has", fix="deliver it in parts")
                )
            except _AWAY:
                raise  # that is no fault of the extract's
            except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001 - and nobody else's
                self._refuse(extract, ExtractRefused("defect", describe(error)))
        if faults:  # only now: the other extracts are through, and a run that fails is seen and asked for less often
            raise faults[0]
        return NormaliseReport(
            len(self.extracts), self.counts, self.kinds, self.reasons, self.refused, self.undeclared, self.versions,
            tuple(self.extracts), tuple(self.checks.values()), (*self.refusals, *self.problems),
            self.repairs,
        )  # fmt: skip

    def _refuse(self, extract: recording.Extract, error: ExtractRefused) -> None:
        self.refused[error.code] += 1
        place = "".join(f", {what} {at}" for what, at in (("line", error.line), ("byte", error.byte)) if at is not None)
        refused = {"source": extract.source, "extract_id": str(extract.extract_id), "sha256": extract.sha256.hex()}
        structlog.get_logger().warning("an extract is refused", code=error.code, **refused)
        self.refusals.append(f"{extract.source}: extract {extract.sha256.hex()[:12]}{place}: {error}")
        with self.run.store.tenant(self.run.id) as connection:
            recording.refuse(connection, self.run, extract, error)

    def _one(self, extract: recording.Extract, source: Source) -> None:
        if source.sha256 != extract.contract_sha256:
            raise ExtractRefused("contract_changed", "the contract is not the one that it landed by")
        with _uncollected():
            outcome = self._outcome(extract, self.run.tenant.sources[extract.source], source)
            with self.run.store.tenant(self.run.id) as connection:
                known, unclear = discriminators.settle(connection, self.run, extract.source, outcome.records)
                outcome = replace(outcome, records=known, failed=unclear | dict(outcome.failed))
                self.counts.update(recording.store(connection, self.run, extract, outcome))
        self._tally(extract, outcome)

    def _outcome(self, extract: recording.Extract, use: SourceUse, source: Source) -> recording.ExtractOutcome:
        contract = source.contract
        name = contract.table_of(extract.name)
        if name is None:
            raise ExtractRefused("no_table", "no table of the contract takes a file of this name")
        table = contract.tables[name]
        data = self._bytes(extract, Zone(self.run.settings.home, use))
        ehr = self.run.tenant.ehr.base_url if use.relative_references == "ehr" else None
        frame = readers.read(data, table, whole=use.complete_by == "manifest", relative_to=ehr)
        maker = Maker(
            extract.source,
            use.patient_systems,
            contract.time_zone or self.run.tenant.time_zone,
            source.concept_maps,
            self.run.now(),
            use.choices,
            offset_required=table.format == "fhir" and contract.time_zone is None,
        )
        made = records.normalise(frame, name, table, contract.actor, maker)
        self.problems.update((f"{extract.source}: a row cannot be made: {line}", None) for line in made.defects)
        found = {new_id(): record for record in made.records}
        by_kind: dict[str, list[tuple[str, CanonicalRecord]]] = {}
        for record_id, record in found.items():
            by_kind.setdefault(record.record.kind, []).append((str(record_id), record.record))
        failed = self._check(by_kind, maker.zone)
        return recording.ExtractOutcome(
            frame,
            found,
            made.others,
            {record_id: f"gx_{failed[str(record_id)]}" for record_id in found if str(record_id) in failed},
            {kind: suite.sha256 for kind, suite in self.suites.items()},
            sum(column not in table.columns and column not in {BROKEN, LINE} for column in frame.columns),
        )

    def _check(self, by_kind: Mapping[str, list[tuple[str, CanonicalRecord]]], zone: str) -> Mapping[str, str]:
        """Record id → check that keeps it from decide.

        :raises ExtractRefused: a critical rule on the whole batch.
        """
        suites: dict[str, Suite] = {kind: self.suites[kind] for kind in by_kind if kind in self.suites}
        rows = {kind: flatten(by_kind[kind], zone, self.run.now()) for kind in suites}
        verdict = run_suites(suites, rows)
        for result in verdict.results:
            self.checks[result.name] += result
        if verdict.blocked:
            raise ExtractRefused(f"gx_{verdict.blocked}", "a rule on the whole batch fails")
        return verdict.failed

    def _source(self, name: str, version: int) -> Source | None:
        """None: it cannot be used, which is a problem of the report, and its extracts wait for the fix."""
        key = (name, version)
        if key not in self.sources:
            try:
                self.sources[key] = source_of(self.run.settings.mappings, self.run.tenant, name, version)
            except ConfigError as error:
                self.sources[key] = None
                self.problems[str(error)] = None
            except Exception as error:  # noqa: BLE001 - what nobody foresaw in one contract leaves the others alone
                self.sources[key] = None
                self.problems[f"{name}, version {version}: {describe(error)}"] = None
        return self.sources[key]

    def _bytes(self, extract: recording.Extract, zone: Zone) -> bytes:
        try:
            data = zone.read(extract.name)
        except FileNotFoundError:
            raise ExtractRefused("file_gone", "the file is not there any more", fix="deliver it again") from None
        except OSError as error:
            raise ConfigError(
                "file_unreadable",
                f"a landed file cannot be read ({type(error).__name__})",
                where=f"tenants/{self.run.id}.yaml: sources.{extract.source}",
                fix="let this layer read it",
            ) from None
        if hashlib.sha256(data).digest() != extract.sha256:
            raise ExtractRefused("changed_since", "the file is not the one that landed", fix="its new content lands by itself")
        return data

    def _tally(self, extract: recording.Extract, outcome: recording.ExtractOutcome) -> None:
        self.versions[extract.source] = extract.version
        self.extracts.append(extract.sha256.hex()[:12])
        self.undeclared += outcome.undeclared
        for record_id, record in outcome.records.items():
            if record_id in outcome.failed:
                self.reasons[outcome.failed[record_id]] += len(record.rows)
            else:
                self.kinds[record.record.kind] += 1
                self.repairs.update(repair.rule for repair in record.record.repairs or ())
        self.reasons.update(other.reason for other in outcome.others.values())


@contextmanager
def _uncollected() -> Iterator[None]:
    """No cyclic garbage collection for one extract: its records live until they are stored, and looking through them again
    and again for cycles that are not there took a fifth of the time (40,000 rows, measured)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))
