"""What the columns of a table are, guessed from their names and from what all of their values can be."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fhir_writeback_dagster.ingest.commands.profile import ColumnProfile, TableProfile
from fhir_writeback_dagster.rules.fhir import code_systems

_VITALS = frozenset(
    "8867-4 8889-8 9279-1 8310-5 8331-1 8332-9 8328-7 2708-6 59408-5 8480-6 8462-4 8478-0 29463-7 3141-9 8302-2 8306-3 3137-7 "
    "9843-4 8287-5 39156-5 59576-9 72514-3 3150-0 3151-8".split()
)

#: What a column is, by its name in lower case without signs. The first that matches wins.
_NAMES: tuple[tuple[str, str], ...] = (
    (
        "patient",
        r"(pat(ient)?|hospital)?(mrn|medrec)|medicalrecord(no|number)?|pat(ient)?(id|no|nr|number)?|pid|subject(id)?|unitnumber",
    ),
    ("encounter", r"(encounter|enc|visit|csn|admission|case|account|stay)(id|no|nr|number)?"),
    ("birth_date", r"(date)?(of)?(birth|dob|birthdate|dateofbirth|birthday)"),
    ("sex", r"sex|gender"),
    ("family", r"(last|family|sur)(name)?|patientlastname"),
    ("given", r"(first|given)(name)?|patientfirstname"),
    ("as_of", r"(last)?(updated|modified|changed)(at|on|date|time|dttm)?|updatetime|asof|version(date)?"),
    ("end", r"(stop|end|ended|resolved|abatement|discontinued|inactive)(date|time|dttm|at|on)?"),
    ("unit", r".*(unit|units|uom|measure)"),
    ("status", r".*(status|state)"),
    ("comparator", r"(comparator|operator|sign)"),
    ("time", r"(time|clock|hour)(taken|collected|ofday)?"),
    ("system", r"(code)?(system|sys|codesystem|vocabulary|codetype)"),
    (
        "display",
        r".*(desc|description|display|term|title|label)|(test|code|drug|medication|vaccine|item|analyte|component|order|problem|diagnosis|procedure)name",
    ),
    ("code", r".*(code|loinc|snomed|icd(10|9)?(cm)?|rxnorm|rxcui|cvx|ndc|test|item|analyte|component)"),
    ("value", r"(.*(result|value|reading|measurement|amount|answer))|val"),
    ("note", r".*(note|comment|remark|text).*"),
    ("row", r"(row|record|line|result|obs|observation)?(id|no|nr|number|key)"),
)

DATED_AT = {
    "vital_sign": "effective", "lab_result": "effective", "observation": "effective", "condition": "onset",
    "medication_request": "authored", "immunization": "occurrence", "procedure": "start", "allergy": "recorded",
}  # fmt: skip
_KIND_OF_SYSTEM = {
    code_systems.CVX: "immunization", code_systems.RXNORM: "medication_request", code_systems.NDC: "medication_request",
    code_systems.ICD_10_CM: "condition", code_systems.ICD_9_CM: "condition", code_systems.CPT: "procedure",
}  # fmt: skip
#: None: what a table of this name holds is reference, whatever codes stand in it.
_KIND_OF_NAME: tuple[tuple[str, str | None], ...] = (
    (r"encounter|visit|admission|patient|provider|organi[sz]ation|payer", None),
    (r"allerg", "allergy"),
    (r"immun|vacc", "immunization"),
    (r"med|rx|drug|order", "medication_request"),
    (r"proc|surg", "procedure"),
    (r"cond|diag|problem|dx", "condition"),
    (r"vital", "vital_sign"),
    (r"lab|result", "lab_result"),
)


@dataclass(frozen=True, slots=True)
class Guess:
    """What each column of a table is taken for; ``others`` are those that nothing is known of."""

    of: dict[str, ColumnProfile]
    dates: tuple[ColumnProfile, ...]
    measured: tuple[ColumnProfile, ...]
    """Numbers with the name of a vital sign: a wide table."""
    others: tuple[ColumnProfile, ...]
    kind: str | None
    system: str | None


def guess_columns(profile: TableProfile) -> Guess:
    """What each column is taken for; a role is given to the first column that may have it."""
    of: dict[str, ColumnProfile] = {}
    dates: list[ColumnProfile] = []
    for column in profile.columns:
        role = role_of_name(column)
        if role not in {"birth_date", "as_of", "end"} and is_date(column):
            dates.append(column)
        elif role is not None and role not in of:
            of[role] = column
    for column in profile.columns:
        if "code" not in of and set(column.systems) & {code_systems.LOINC, code_systems.SNOMED} and column not in of.values():
            of["code"] = column
        if "unit" not in of and column.looks_like_units and column not in of.values():
            of["unit"] = column
    measured = tuple(
        c for c in profile.columns if c.numbers > 0.8 and c not in of.values() and _VITAL_NAME.search(_plain(c.name))
    )
    if "value" not in of:
        numeric = [
            c for c in profile.columns if c.numbers > 0.8 and c not in of.values() and c not in dates and c not in measured
        ]
        if len(numeric) == 1:
            of["value"] = numeric[0]
    used = [*of.values(), *dates, *measured]
    system = _system(of.get("code"))
    return Guess(
        of, tuple(dates), measured, tuple(c for c in profile.columns if c not in used), _kind(profile, of, system), system
    )


_VITAL_NAME = re.compile(r"^(pulse|heartrate|hr|bp|systolic|diastolic|sbp|dbp|sys|dia|temp|weight|height|bmi|spo2|resp)")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def role_of_name(column: ColumnProfile) -> str | None:
    """The role that a column's name tells; None where it tells none."""
    plain = _plain(column.name)
    return next((role for role, pattern in _NAMES if re.fullmatch(pattern, plain)), None)


def is_date(column: ColumnProfile) -> bool:
    """Whether nearly all of a column's texts are dates or times."""
    return max(column.dates.values(), default=0.0) >= 0.8


def _system(column: ColumnProfile | None) -> str | None:
    if column is None:
        return None
    plain = _plain(column.name)
    for word, system in (
        ("loinc", code_systems.LOINC), ("snomed", code_systems.SNOMED), ("icd9", code_systems.ICD_9_CM),
        ("icd", code_systems.ICD_10_CM), ("rx", code_systems.RXNORM), ("cvx", code_systems.CVX), ("ndc", code_systems.NDC),
        ("cpt", code_systems.CPT),
    ):  # fmt: skip
        if word in plain:
            return system
    return next((s for s in column.systems if s in {code_systems.LOINC, code_systems.SNOMED, code_systems.ICD_10_CM}), None)


def _kind(profile: TableProfile, of: dict[str, ColumnProfile], system: str | None) -> str | None:
    if system == code_systems.LOINC:
        codes = set(of["code"].loinc)
        return "vital_sign" if codes and codes <= _VITALS else "lab_result"
    if system in _KIND_OF_SYSTEM:
        return _KIND_OF_SYSTEM[system]
    named = next(((kind,) for pattern, kind in _KIND_OF_NAME if re.search(pattern, profile.name)), None)
    if named is not None:
        return named[0]
    if "value" in of and "unit" in of:
        return "lab_result"
    return "condition" if system == code_systems.SNOMED else None


def writes(guess: Guess) -> bool:
    """Whether the sketch can propose a rule that makes records."""
    needs_value = guess.kind in {"vital_sign", "lab_result", "observation"}
    return (
        guess.kind is not None
        and bool(guess.dates)
        and {"patient", "code"} <= guess.of.keys()
        and (not needs_value or "value" in guess.of)
    )


def orders(column: ColumnProfile) -> list[str | None]:
    """Orders in which the most texts are dates; None among them: no order is needed."""
    best = max(column.dates.values(), default=0.0)
    return [order for order, share in column.dates.items() if share == best]
