"""The two tables of `match evaluate` and `match learn`: a chart, and rows of which it is known whose they are."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from fhir_writeback_dagster.decide.matching_fields import FIELDS, Person, person_of
from fhir_writeback_dagster.errors import ConfigError


def read_chart(path: Path) -> dict[str, Person]:
    """The patients of a chart by their ``id``.

    :raises ConfigError: a file is missing, is no CSV, lacks a column, or names a patient twice; with file and line.
    """
    chart: dict[str, Person] = {}
    for line, columns in _read(path, "id"):
        if not columns["id"] or columns["id"] in chart:
            what = "stands twice" if columns["id"] else "is empty"
            raise ConfigError("bad_table", f"the id {what}", where=f"{path}:{line}", mend="one row a patient, each with an id")
        chart[columns["id"]] = person_of(columns)
    return chart


def read_truth(path: Path, chart: Mapping[str, Person]) -> Iterator[tuple[str, Person]]:
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
                mend="leave it empty where the patient is not in the chart",
            )
        yield known, person_of(columns)


def _read(path: Path, key: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            names = [(name or "").strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            if key not in names or not set(names) & set(FIELDS):
                raise ConfigError(
                    "bad_table",
                    f"expected the columns {key} and some of {', '.join(FIELDS)}",
                    where=f"{path}:1",
                    mend="name the columns in the first line",
                )
            if len(set(names)) < len(names):
                raise ConfigError("bad_table", "a column stands twice", where=f"{path}:1", mend="keep one of them")
            for columns in reader:
                if None in columns or None in columns.values():
                    raise ConfigError(
                        "bad_table",
                        f"expected {len(names)} fields",
                        where=f"{path}:{reader.line_num}",
                        mend='quote fields that hold a comma: "…"',
                    )
                yield reader.line_num, {name: (value or "").strip() for name, value in columns.items()}
    except FileNotFoundError:
        raise ConfigError("file_missing", "there is no such file", where=str(path), mend="create it or fix the name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("file_unreadable", type(error).__name__, where=str(path), mend="make it readable UTF-8") from None
    except csv.Error:
        raise ConfigError(
            "bad_table", "not CSV", where=f"{path}:{reader.line_num}", mend="mend the quotes of this line"
        ) from None
