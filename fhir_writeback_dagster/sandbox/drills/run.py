"""One drill, from its first extract to its result."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from fhir_writeback_dagster.sandbox.drills.catalogue import Drill
from fhir_writeback_dagster.sandbox.drills.environment import DrillEnvironment
from fhir_writeback_dagster.sandbox.drills.setup_tenant import admit
from fhir_writeback_dagster.sandbox.drills.verdict import DrillVerdict, find


@dataclass(frozen=True, slots=True)
class DrillResult:
    """``recovery_s``: from the last kill, outage or other happening, or the last fault where there was none, until everything was
    at rest; ``seconds``: from the first worker on.
    ``may_ask``: how many facts a person may be asked about, where a fault looks like a refusal.
    """

    drill: Drill
    writes: int
    finding: DrillVerdict
    faults: dict[str, int]
    recovery_s: float
    seconds: float
    may_ask: int

    @property
    def held(self) -> bool:
        found = self.finding
        return (
            not (found.duplicates or found.lost or found.wrongly_sent or found.unaccounted) and found.with_people <= self.may_ask
        )

    def to_json(self) -> dict[str, Any]:
        """For programs. Where nothing is wrong and it is not held, more was given to people than may be."""
        found = self.finding
        return {
            "drill": self.drill.name,
            "writes": self.writes,
            "duplicates": found.duplicates,
            "lost": found.lost,
            "unaccounted": found.unaccounted,
            "wrongly_sent": found.wrongly_sent,
            "reconciled": found.reconciled,
            "faults": self.faults,
            "recovery_s": round(self.recovery_s, 1),
            "held": self.held,
            "with_people": found.with_people,
            "may_ask": self.may_ask,
        }

    def table(self) -> str:
        """For people: what happened, and whether the promise held."""
        found = self.finding
        lines = [
            f"{self.drill.name}: {self.drill.about}",
            "",
            f"  {'writes':<34}{self.writes:>8}   in {self.seconds:.1f} s, {self.writes / max(self.seconds, 0.001):.0f} a second",
            *(f"  {name.replace('_', ' '):<34}{times:>8}" for name, times in self.faults.items()),
            f"  {'found again after no answer':<34}{found.reconciled:>8}",
            f"  {'given to a person':<34}{found.with_people:>8}   at most {self.may_ask}",
            f"  {'recovered after the last trouble':<34}{self.recovery_s:>8.1f} s",
            "",
            *(
                f"  {name:<34}{count:>8}   {'held' if not count else 'BROKEN'}"
                for name, count in (
                    ("duplicates in the EHR", found.duplicates),
                    ("lost", found.lost),
                    ("wrongly sent", found.wrongly_sent),
                    ("unaccounted for", found.unaccounted),
                )
            ),
            "",
            f"{'held' if self.held else 'BROKEN'}: {self.drill.promise}",
        ]
        return "\n".join(lines)


def play(drill: Drill, stage: DrillEnvironment, writes: int | None = None, seed: int = 1) -> DrillResult:
    """Play ``drill`` on the stage; no process of it runs afterwards, and nothing goes wrong any more."""
    writes = drill.writes if writes is None else writes
    stage.proxy.forget()
    stage.progress(f"{drill.name}: {writes} writes to {stage.server.name}; {drill.about}")
    ward = admit(stage, drill.name, writes, seed, drill.ehr, drill.consent)
    stage.proxy.script(drill.script(writes), seed, drill.personality)
    try:
        drill.act(ward)
    finally:
        ward.crew.dismiss()
        stage.proxy.script()
        stage.clock.right()
    stage.progress(f"{drill.name}: reading the EHR")
    trouble_at = ward.trouble_at or stage.proxy.last_fault_at or ward.rest_at
    return DrillResult(
        drill,
        writes,
        find(ward),
        dict(sorted((ward.mishaps + Counter(stage.proxy.faults)).items())),
        max(0.0, ward.rest_at - trouble_at),
        ward.rest_at - ward.began_at,
        math.ceil(drill.may_ask * writes),
    )
