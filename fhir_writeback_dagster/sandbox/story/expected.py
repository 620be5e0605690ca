"""What the generator planted: where every row must end, and what must stand in the EHR; the checker goes by nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

End = Literal["created", "updated", "suppressed", "stale", "not_written", "denied", "quarantined", "in_review", "waiting"]
ENDS: tuple[End, ...] = (
    "created",
    "updated",
    "suppressed",
    "stale",
    "not_written",
    "denied",
    "quarantined",
    "in_review",
    "waiting",
)

#: Where a row ends that is delivered again and says the same: nothing is written twice, nobody is asked twice.
AGAIN: dict[End, End] = {**dict.fromkeys(ENDS, "suppressed"), "denied": "denied", "quarantined": "quarantined"}


_AGAIN = ", again"
_KEPT_BACK_BY_INGEST = ("quarantined", "not_written")

#: The end and the reason that each planted fault must come to, wherever it is told for the first time.
REASONS: dict[str, tuple[End, str]] = {
    "no_patient": ("quarantined", "no_patient"),
    "unparsable_date": ("quarantined", "bad_date"),
    "ambiguous_date": ("quarantined", "ambiguous_date"),
    "skipped_hour": ("quarantined", "dst_gap"),
    "unmapped_code": ("quarantined", "unmapped_code"),
    "unknown_unit": ("quarantined", "unknown_unit"),
    "unit_unexpected": ("quarantined", "unit_unexpected"),
    "source_truth_only": ("not_written", "source_truth_only"),
    "unknown_patient": ("waiting", "patient_unknown"),
    "deceased": ("in_review", "patient_deceased"),
    "merged_differs": ("in_review", "merged_patient_differs"),
    "other_demographics": ("in_review", "demographics_differ"),
    "visit_of_another": ("in_review", "encounter_of_other_patient"),
    "closed_visit": ("in_review", "encounter_closed"),
    "told_differently": ("in_review", "owned_by_other_source"),
    "low_confidence": ("in_review", "policy_review"),
    "inferred": ("in_review", "policy_review"),
    "patient_update": ("in_review", "changes_patient"),
    "chart_equal": ("suppressed", "chart_has_same"),
    "chart_differs": ("in_review", "chart_has_other"),
    "wrong_patient": ("in_review", "identity_changed"),
}


@dataclass(frozen=True, slots=True)
class FactKey:
    """Which fact: resource type, chart, standard code (without its system), and UTC instant or date, as FHIR writes it."""

    resource_type: str
    chart_id: str
    code: str
    when: str


@dataclass(frozen=True, slots=True)
class Value:
    """What the fact says: (code, value, unit) of the fact itself or of each component; a text has no unit."""

    parts: tuple[tuple[str, Decimal | str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Planted:
    """One row of one extract. ``columns`` is what the file says; ``plant`` names what is special about it."""

    source: str
    columns: dict[str, Any]
    plant: str
    end: End
    fact: FactKey | None = None
    value: Value = Value()

    def again(self, end: End | None = None) -> Planted:
        """The row as it must end when it is delivered once more."""
        # What ingest keeps back by its contract it keeps back every time; a mode holds back what decide has seen.
        repeated = self.end if self.plant == "source_truth_only" else AGAIN[self.end]
        return replace(self, end=end or repeated, plant=self.plant + _AGAIN)


@dataclass(slots=True)
class Truth:
    """Sums over the rows that were delivered to one tenant so far.

    ``facts`` maps what must stand in the EHR to the values that are right: two sources that tell a fact differently leave open
    which of them was first. ``reasons`` counts the planted faults only.
    """

    ends: Counter[End] = field(default_factory=Counter)
    reasons: Counter[tuple[End, str]] = field(default_factory=Counter)
    facts: dict[FactKey, set[Value]] = field(default_factory=dict)
    refused: int = 0

    def read(self, rows: Iterable[Planted]) -> None:
        """Take account of delivered rows, in their order."""
        for row in rows:
            self.ends[row.end] += 1
            plant = row.plant.removesuffix(_AGAIN)
            if plant in REASONS and (plant == row.plant or row.end in _KEPT_BACK_BY_INGEST):
                self.reasons[REASONS[plant]] += REASONS[plant][0] == row.end
            if row.fact is None:
                continue
            if row.end == "created" or row.plant == "told_differently":
                self.facts.setdefault(row.fact, set()).add(row.value)
            elif row.end == "updated":
                self.facts[row.fact] = {row.value}

    @property
    def rows(self) -> int:
        return self.ends.total()


def instant(moment: datetime) -> str:
    """``2025-03-05T15:00:00Z``: instants are compared in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
