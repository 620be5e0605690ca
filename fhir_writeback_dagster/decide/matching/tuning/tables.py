"""The two tables of `match evaluate` and `match learn`: a chart, and rows of which it is known whose they are.

Both become what the pipeline has: a chart of R4 Patients, and rows as a source contract reads them.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from fhir_writeback_dagster.canonical import Identifier, PatientRef
from fhir_writeback_dagster.decide.matching.comparison import FIELDS
from fhir_writeback_dagster.decide.matching.model import ChartPatient, Key
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.rules.people import demographics
from fhir_writeback_dagster.rules.people.demographics import identifier_key

#: Columns that are identifiers, each in a system of its own; a social security number may be a parent's.
SYSTEMS = {"ssn": "http://hl7.org/fhir/sid/us-ssn", "mrn": "urn:fhir-writeback:mrn"}
COLUMNS = (*FIELDS, *SYSTEMS)

_SEXES: dict[str, Literal["male", "female", "other", "unknown"]] = {
    "m": "male",
    "f": "female",
    "o": "other",
    "male": "male",
    "female": "female",
    "other": "other",
}


class MemoryChart:
    """A chart (:class:`~.matching_model.Chart`) that knows its patients by the same keys as the mirror does.

    :param resources: R4 Patients by their ids.
    """

    server: str | None = None

    def __init__(self, resources: Mapping[str, Mapping[str, Any]]) -> None:
        self.people = {i: ChartPatient(True, False, None, demographics.of_patient(one)) for i, one in resources.items()}
        self._bearers: dict[Key, list[str]] = defaultdict(list)
        for patient_id in sorted(resources):
            for system, values in demographics.of_patient(resources[patient_id]).identifiers.items():
                for value in values:
                    self._bearers[identifier_key(system, value)].append(patient_id)
            for key in demographics.mirror_keys(resources[patient_id]):
                self._bearers[key].append(patient_id)

    def bearers(self, keys: Collection[Key]) -> dict[Key, dict[bytes, list[str]]]:
        return {key: {repr(key).encode(): found} if (found := self._bearers.get(key)) else {} for key in keys}

    def patients(self, ids: Collection[str], compared: Collection[str]) -> Mapping[str, ChartPatient]:  # noqa: ARG002 - all are at hand
        return self.people

    def size(self) -> int:
        return len(self.people)


def read_chart(path: Path) -> dict[str, dict[str, Any]]:
    """The patients of a chart as R4 Patients by their ``id``.

    :raises ConfigError: a file is missing, is no CSV, lacks a column, or names a patient twice; with file and line.
    """
    chart: dict[str, dict[str, Any]] = {}
    for line, columns in _read(path, "id"):
        if not columns["id"] or columns["id"] in chart:
            what = "stands twice" if columns["id"] else "is empty"
            raise ConfigError("bad_table", f"the id {what}", where=f"{path}:{line}", fix="one row a patient, each with an id")
        chart[columns["id"]] = resource_of(columns["id"], columns)
    return chart


def read_truth(path: Path, chart: Collection[str]) -> Iterator[tuple[str, PatientRef]]:
    """Each row with the id of its patient, empty for one who is not in the chart.

    :raises ConfigError: as :func:`read_chart`, or a row's patient is not in the chart.
    """
    for line, columns in _read(path, "patient_id"):
        known = columns["patient_id"]
        if known and known not in chart:
            raise ConfigError(
                "bad_table",
                "`patient_id` names nobody of the chart",
                where=f"{path}:{line}",
                fix="leave it empty where the patient is not in the chart",
            )
        yield known, ref_of(columns)


def ref_of(columns: Mapping[str, str]) -> PatientRef:
    """A row's patient from columns named as in :data:`COLUMNS`; others are ignored."""
    said = {name: value for name in FIELDS if (value := (columns.get(name) or "").strip())}
    said["birth_date"] = iso_date(said.get("birth_date", ""))
    said["sex"] = _SEXES.get(said.get("sex", "").casefold(), "unknown")
    return PatientRef.model_validate({"identifiers": _identifiers(columns), **said})


def resource_of(patient_id: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """The R4 Patient of a row of the chart."""
    who = ref_of(columns)
    address = {"line": who.line and [who.line], "city": who.city, "postalCode": who.postal_code, "state": who.state}
    return {
        "resourceType": "Patient",
        "id": patient_id,
        "identifier": [i.model_dump() for i in who.identifiers],
        "name": [{"family": who.family or "", "given": [who.given or ""]}],
        "birthDate": who.birth_date,
        "gender": who.sex,
        "address": [{name: value for name, value in address.items() if value}],
        "telecom": [{"system": "phone", "value": who.phone}] if who.phone else [],
    }


def iso_date(text: str) -> str:
    """``1980-02-01``, ``1980/2/1``, ``19800201`` and ``1980-02-01T…`` as ``1980-02-01``; other digits as they stand."""
    parts = re.match(r"(\d{4})\D(\d{1,2})\D(\d{1,2})(?!\d)", text)
    digits = f"{parts[1]}{int(parts[2]):02d}{int(parts[3]):02d}" if parts else "".join(c for c in text if c.isdigit())
    return "-".join(part for part in (digits[:4], digits[4:6], digits[6:]) if part)


def _identifiers(columns: Mapping[str, str]) -> tuple[Identifier, ...]:
    said = ((system, (columns.get(name) or "").strip()) for name, system in SYSTEMS.items())
    return tuple(Identifier(system=system, value=value) for system, value in said if value)


def _read(path: Path, key: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            names = [(name or "").strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            if key not in names or not set(names) & set(COLUMNS):
                raise ConfigError(
                    "bad_table",
                    f"expected the columns {key} and some of {', '.join(COLUMNS)}",
                    where=f"{path}:1",
                    fix="name the columns in the first line",
                )
            if len(set(names)) < len(names):
                raise ConfigError("bad_table", "a column stands twice", where=f"{path}:1", fix="keep one of them")
            for columns in reader:
                if None in columns or None in columns.values():
                    raise ConfigError(
                        "bad_table",
                        f"expected {len(names)} fields",
                        where=f"{path}:{reader.line_num}",
                        fix='quote fields that hold a comma: "…"',
                    )
                yield reader.line_num, {name: (value or "").strip() for name, value in columns.items()}
    except FileNotFoundError:
        raise ConfigError("file_missing", "there is no such file", where=str(path), fix="create it or fix the name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("file_unreadable", type(error).__name__, where=str(path), fix="make it readable UTF-8") from None
    except csv.Error:
        raise ConfigError("bad_table", "not CSV", where=f"{path}:{reader.line_num}", fix="fix the quotes of this line") from None
