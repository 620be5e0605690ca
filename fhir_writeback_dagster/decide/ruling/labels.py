"""Security labels: what a source says of a record's sensitivity, and what its codes and the patient's age say.

Which code earns which label is data, ``mappings/labels/<n>.yaml``; a tenant names the version that it runs. Labels go into the
questions to consent and policy and into the payload's ``meta.security``; a payload without any is as the mapping made it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from psycopg import Connection
from pydantic import Field

from fhir_writeback_dagster.canonical import CanonicalRecord
from fhir_writeback_dagster.config.strict_model import StrictModel
from fhir_writeback_dagster.config.yaml_file import file_sha256, load_yaml
from fhir_writeback_dagster.decide.ruling.gates import span
from fhir_writeback_dagster.errors import CandidateProblem, ConfigError, ServiceError
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.consent.codes import ACT_CODE
from fhir_writeback_dagster.rules.fhir.codes import SystemCode

#: No chart's resource has nearly as many; one that has is not looked through for ever.
MAX_CODINGS = 1_000
_EVENT = ("effective", "authored", "occurrence", "start", "recorded", "onset", "date")
_CODING = frozenset({"id", "extension", "system", "version", "code", "display", "userSelected"})


class Age(StrictModel):
    """Years of life at the event: from ``from``, and not yet ``below``."""

    label: str
    first: int = Field(alias="from", ge=0)
    below: int = Field(ge=1)


class LabelFile(StrictModel):
    """A version's file: v3-ActCode label -> code system -> codes, and labels by age."""

    version: int = Field(ge=1)
    about: str
    sources: tuple[str, ...] = Field(min_length=1)
    codes: dict[str, dict[str, tuple[str, ...]]]
    ages: tuple[Age, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelList:
    """One version; ``sha256`` (hex) is of the file's bytes."""

    version: int
    sha256: str
    _exact: Mapping[SystemCode, frozenset[str]]
    _beginning: Mapping[str, Sequence[tuple[str, str]]]
    _ages: tuple[Age, ...]

    def of(
        self, record: CanonicalRecord, codings: Iterable[SystemCode], born: str | None, now: datetime
    ) -> tuple[SystemCode, ...]:
        """(system, code) of every label of ``record``, sorted: its source's, by its ``codings``, and by the patient's age.

        :param born: FHIR date, to the day or less; None: not known, so that no age says anything.
        :param now: counts for what has no time of its own.
        """
        found = {(label.system, label.code) for label in record.labels or ()}
        for system, code in codings:
            found |= {(ACT_CODE, label) for label in self._exact.get((system, code), ())}
            found |= {(ACT_CODE, label) for prefix, label in self._beginning.get(system, ()) if code.startswith(prefix)}
        if born is not None and self._ages:
            youngest, oldest = _ages(born, _event(record, now))
            found |= {(ACT_CODE, age.label) for age in self._ages if oldest >= age.first and youngest < age.below}
        return tuple(sorted(found))


def load_labels(folder: Path, version: int) -> LabelList:
    """Read ``<folder>/<version>.yaml``; once for each content.

    :raises ConfigError: no such version, or a file that is wrong, with its line.
    """
    path = folder / f"{version}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        raise ConfigError("unknown_labels", f"there is no list of labels {version}", where=str(path), fix=f"versions: {known}")
    return _loaded(path, file_sha256(path))


@cache
def _loaded(path: Path, sha256: str) -> LabelList:
    file = load_yaml(path, LabelFile)
    if str(file.version) != path.stem:
        raise ConfigError("bad_labels", "`version` differs from the file's name", where=f"{path}:1", fix="make them equal")
    exact: dict[SystemCode, set[str]] = {}
    beginning: dict[str, list[tuple[str, str]]] = {}
    for label, systems in file.codes.items():
        for system, codes in systems.items():
            for code in codes:
                if code.endswith("*"):
                    beginning.setdefault(system, []).append((code[:-1], label))
                else:
                    exact.setdefault((system, code), set()).add(label)
    return LabelList(file.version, sha256, {key: frozenset(labels) for key, labels in exact.items()}, beginning, file.ages)


def codings_in(payload: Mapping[str, Any]) -> tuple[SystemCode, ...]:
    """(system, code) of every Coding of ``payload``, at any depth, once each and sorted; ``meta`` is not what it says.

    :raises CandidateProblem: more than :data:`MAX_CODINGS`.
    """
    found: set[SystemCode] = set()
    ahead: list[Any] = [value for name, value in payload.items() if name != "meta"]
    while ahead:
        node = ahead.pop()
        if isinstance(node, list):
            ahead += node
        elif isinstance(node, dict):
            if isinstance(node.get("code"), str) and node.keys() <= _CODING:
                found.add((str(node.get("system") or ""), node["code"]))
            ahead += [value for value in node.values() if isinstance(value, dict | list)]
        if len(found) > MAX_CODINGS:
            raise CandidateProblem("too_many_codings", "more codes than a resource can be looked through for")
    return tuple(sorted(found))


def labelled(payload: dict[str, Any], labels: Sequence[SystemCode]) -> dict[str, Any]:
    """``payload`` with ``labels`` in its ``meta.security``; the same object where there are none."""
    if not labels:
        return payload
    security = [{"system": system, "code": code} for system, code in labels]
    return {**payload, "meta": {**payload.get("meta", {}), "security": security}}


def births_of(connection: Connection[Any], run: RunContext, patients: Sequence[str]) -> dict[str, str]:
    """Birth dates of ``patients`` as the mirror has them; who has none, or cannot be opened any more, is left out."""
    found = {}
    target = run.tenant.ehr.target
    for patient, body in connection.execute(
        "SELECT patient_id, body FROM mirror.patient WHERE tenant = %s AND target = %s AND patient_id = ANY(%s)",
        (run.id, target, list(patients)),
    ):
        with contextlib.suppress(ServiceError):
            born = run.sealer.open_json("mirror.patient", f"{target}|{patient}", body).get("birthDate")
            if isinstance(born, str):
                found[patient] = born
    return found


def _event(record: CanonicalRecord, now: datetime) -> tuple[date, date]:
    """First and last day that the record can be about; today where it has no time."""
    said = next((value for name in _EVENT if isinstance(value := getattr(record, name, None), str)), None)
    first, last = span(said) if said else (now, now)
    return first.date(), last.date()


def _ages(born: str, event: tuple[date, date]) -> tuple[int, int]:
    """Least and most years that somebody ``born`` then can have lived at the event; (-1, -1) where it is no date."""
    try:
        earliest, after = span(born)
    except ValueError:
        return -1, -1
    latest = after.date() - timedelta(days=1)
    return _years(latest, event[0]), _years(earliest.date(), event[1])


def _years(born: date, at: date) -> int:
    return at.year - born.year - ((at.month, at.day) < (born.month, born.day))
