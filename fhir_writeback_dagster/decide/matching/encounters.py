"""Which encounter a row belongs to: by its identifiers, or by its time where the tenant wants that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.canonical import Identifier
from fhir_writeback_dagster.decide.matching.mirror_queries import EncounterHit, digests_of, read_encounters, read_stays
from fhir_writeback_dagster.decide.matching.model import (
    EncounterMatch,
    url_of,
)
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.resource_url import server_of


@dataclass(frozen=True, slots=True)
class EncounterRequest:
    """What a row says of its encounter; ``at`` is the first and last instant that its time can mean, None if it has none.

    ``overdue``: the row has waited for its number as long as the tenant waits.
    """

    identifiers: tuple[Identifier, ...]
    patient_id: str
    at: tuple[datetime, datetime] | None = None
    overdue: bool = False


def match_encounters(connection: Connection[Any], run: RunContext, wanted: Sequence[EncounterRequest]) -> list[EncounterMatch]:
    """For each row the encounter of *its* patient, in one query for the batch, or two where the time counts too."""
    digests = {i: digests_of(run.identity, i) for ask in wanted for i in ask.identifiers}
    hits = read_encounters(connection, run, [digest for tries in digests.values() for digest in tries])
    server = server_of(run.tenant.ehr.base_url)
    found = [
        decide_encounter(ask, [hit for i in ask.identifiers for d in digests[i] for hit in hits.get(d, ())], server)
        for ask in wanted
    ]
    # The time stands in for a number that never came; a row that names none gets an encounter only if the tenant wants that.
    timed = {
        n: ask.at
        for n, ask in enumerate(wanted)
        if ask.at
        and (
            (found[n].outcome == "waiting" and ask.overdue)
            or (found[n].outcome == "none" and run.tenant.matching.encounter_by_time)
        )
    }
    if timed:
        first, last = min(at[0] for at in timed.values()), max(at[1] for at in timed.values())
        stays = read_stays(connection, run, {wanted[n].patient_id for n in timed}, first, last)
        for n in timed:
            stay = decide_stay(wanted[n], stays.get(wanted[n].patient_id, ()))
            if found[n].outcome == "none" or stay.outcome == "matched":
                found[n] = stay
    return found


def decide_encounter(ask: EncounterRequest, hits: Sequence[EncounterHit], server: str | None = None) -> EncounterMatch:
    """By identifier, without a database. A number that others' encounters bear too is often unique only within a patient; the
    EHR's own URL names one encounter for good.
    """
    if not ask.identifiers:
        return EncounterMatch("none")
    urls = (url_of(i) for i in ask.identifiers)
    named = {url.id for url in urls if url is not None and url.server == server}
    if not hits or not named <= {hit.encounter_id for hit in hits}:
        return EncounterMatch("waiting", reason="encounter_unknown")
    own = {hit.encounter_id: hit for hit in hits if ask.patient_id in hit.patients}
    if not own or not named <= own.keys():
        return EncounterMatch("review", reason="encounter_of_other_patient")
    return _only(own)


def decide_stay(ask: EncounterRequest, stays: Sequence[EncounterHit]) -> EncounterMatch:
    """By the row's time, without a database: the patient's only encounter that holds it."""
    if ask.at is None:
        return EncounterMatch("none")
    first, last = ask.at
    holding = {
        stay.encounter_id: stay
        for stay in stays
        if stay.starts_at is not None and stay.starts_at <= last and (stay.ends_at is None or stay.ends_at >= first)
    }
    return replace(_only(holding), by_time=True) if holding else EncounterMatch("none")


def _only(found: Mapping[str, EncounterHit]) -> EncounterMatch:
    if len(found) > 1:
        return EncounterMatch("review", reason="several_encounters")
    (hit,) = found.values()
    return EncounterMatch("matched", hit.encounter_id, hit.status, hit.starts_at, hit.ends_at)
