"""What decide asks of a mirror that is filled on demand: lookups, which commit's mirror lane answers.

Such a mirror holds only those who were looked for. That it knows one bearer of a number proves nothing until this very number was
looked up, since another patient may bear it too; so a row waits for the answer about each of its identifiers, and one that may be
matched by demographics for the answer about these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.canonical import Identifier, PatientRef
from fhir_writeback_dagster.decide.matching.model import Match, url_of
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.resource_url import server_of
from fhir_writeback_dagster.rules.people import demographics

KEPT_FOR = timedelta(days=7)
"""So long after somebody last asked for them patients stay in the mirror."""
_OFTEN_ENOUGH = timedelta(days=1)
"""By so much that may run out before it is written anew."""
_BY_NO_NUMBER = ("patient_unknown", "patient_of_other_server", "no_identifiers")


@dataclass(frozen=True, slots=True)
class LookupRequest:
    """One question. ``search`` is what is sealed: ``{"identifier": [system, value]}``, ``{"family", "birth_date"}``,
    ``{"patient": id}`` or ``{"encounters_of": id}``; ``key`` is its HMAC.
    """

    key: bytes
    search: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Standing:
    """A lookup that was asked for before; ``outcome`` None: it has no answer yet."""

    outcome: str | None
    needed_until: datetime
    rests_since: datetime | None


def confirm(
    connection: Connection[Any],
    run: RunContext,
    refs: Sequence[PatientRef],
    matches: Sequence[Match],
    give_up: Sequence[datetime],
) -> list[Match]:
    """``matches`` as far as the mirror can prove them by now, in their order; what it cannot waits, and is asked for.

    :param give_up: until when each row waits.
    """
    numbers = {ref: _of_identifiers(run, ref) for ref in dict.fromkeys(refs)}
    names = {ref: _of_demographics(run, ref) for ref in numbers} if run.tenant.matching.probabilistic != "off" else {}
    known = _standing(connection, run, [one.key for some in (*numbers.values(), *names.values()) for one in some])
    asked: list[tuple[LookupRequest, datetime, bool]] = []
    confirmed = []
    for ref, match, until in zip(refs, matches, give_up, strict=True):
        wanted = list(numbers[ref])
        by_names = match.reason in _BY_NO_NUMBER or match.evidence.get("by") == "demographics"
        if by_names and None not in _outcomes(known, wanted):
            wanted += names.get(ref, ())
        proved = _proved(match, _outcomes(known, wanted), {known[one.key].outcome for one in numbers[ref] if one.key in known})
        confirmed.append(proved)
        waits = proved.outcome == "waiting"
        asked += [(one, max(until, run.now() + KEPT_FOR) if waits else run.now() + KEPT_FOR, waits) for one in wanted]
    _ask(connection, run, asked, known)
    return confirmed


def ask_for_patients(connection: Connection[Any], run: RunContext, waiting: Iterable[tuple[str, datetime]]) -> None:
    """Ask for known patients again, whose encounters are waited for: (EHR patient id, until when)."""
    asked = [
        (LookupRequest(run.identity.digest("lookup", "encounters", patient), {"encounters_of": patient}), until, True)
        for patient, until in waiting
    ]
    _ask(connection, run, asked, _standing(connection, run, [one.key for one, _, _ in asked]))


def _of_identifiers(run: RunContext, ref: PatientRef) -> list[LookupRequest]:
    return [_of_identifier(run, one) for one in ref.identifiers if one.value.strip()]


def _of_identifier(run: RunContext, identifier: Identifier) -> LookupRequest:
    """Whom this EHR's own URL names is read by the id."""
    url = url_of(identifier)
    if url and url.resource_type == "Patient" and url.server == server_of(run.tenant.ehr.base_url):
        return LookupRequest(run.identity.digest("lookup", "patient", url.id), {"patient": url.id})
    pair = [identifier.system, identifier.value]
    return LookupRequest(run.identity.digest("lookup", "identifier", *pair), {"identifier": pair})


def _of_demographics(run: RunContext, ref: PatientRef) -> list[LookupRequest]:
    """By family name and full birth date; less would find half the town."""
    who = demographics.of_row(ref)
    if len(who.birth_date) != 10 or not who.families:
        return []
    family = who.families[0]
    key = run.identity.digest("lookup", "demographics", family, who.birth_date)
    return [LookupRequest(key, {"family": family, "birth_date": who.birth_date})]


def _outcomes(known: Mapping[bytes, _Standing], lookups: Iterable[LookupRequest]) -> list[str | None]:
    return [known[one.key].outcome if one.key in known else None for one in lookups]


def _proved(match: Match, outcomes: Sequence[str | None], of_numbers: set[str | None]) -> Match:
    """``match`` after the answers; ``of_numbers`` are those about identifiers."""
    if not outcomes and match.outcome == "waiting":  # nobody is looked up, so nothing comes of waiting
        return Match("review", reason="no_identifiers", evidence=match.evidence)
    unproved = next((f"lookup_{outcome}" for outcome in ("refused", "unreliable") if outcome in outcomes), None)
    if None in outcomes:
        unproved = "lookup_open"
    if unproved:
        reason = match.reason if match.outcome == "waiting" and unproved == "lookup_open" else unproved
        return replace(match, outcome="waiting", patient_id=None, matched_by=None, reason=reason)
    if "too_many" in of_numbers:
        return Match("review", reason="several_patients", evidence=match.evidence)
    if match.outcome == "matched" and match.evidence.get("by") == "demographics":
        # Who is alike and has another family name or birth date was never looked for: a person decides.
        evidence = {**match.evidence, "because": "mirror_on_demand"}
        return replace(match, outcome="review", matched_by=None, reason="demographic_match", evidence=evidence)
    return match


def _standing(connection: Connection[Any], run: RunContext, keys: Sequence[bytes]) -> dict[bytes, _Standing]:
    if not keys:
        return {}
    rows = connection.execute(
        "SELECT key, outcome, needed_until, CASE WHEN due_at IS NULL THEN answered_at END FROM mirror.lookup "
        "WHERE tenant = %s AND target = %s AND key = ANY (%s)",
        (run.id, run.tenant.ehr.target, list(keys)),
    )
    return {bytes(key): _Standing(*rest) for key, *rest in rows}


def _ask(
    connection: Connection[Any],
    run: RunContext,
    asked: Iterable[tuple[LookupRequest, datetime, bool]],
    known: Mapping[bytes, _Standing],
) -> None:
    """Store the requests that have to be asked: those not asked before, those needed for longer than they were stored for, and,
    once the mirror's interval is over, those that a row still waits for.

    :param asked: each request with the time until which it is needed, and whether a row waits for its answer.
    """
    again_before = run.now() - run.tenant.ehr.mirror_every
    wanted: dict[bytes, tuple[LookupRequest, datetime, bool]] = {}
    for lookup, until, waits in asked:
        standing = known.get(lookup.key)
        again = waits and standing is not None and standing.rests_since is not None and standing.rests_since <= again_before
        if standing is None or again or standing.needed_until < until - _OFTEN_ENOUGH:
            _, before, was_again = wanted.get(lookup.key, (lookup, until, False))
            wanted[lookup.key] = (lookup, max(until, before), again or was_again)
    rows = [wanted[key] for key in sorted(wanted)]
    if not rows:
        return
    target = run.tenant.ehr.target
    connection.execute(
        "INSERT INTO mirror.lookup AS l (tenant, target, key, search, asked_at, needed_until, due_at) "
        "SELECT %(tenant)s, %(target)s, x.key, x.search, %(now)s, x.until, %(now)s "
        "FROM unnest(%(keys)s::bytea[], %(searches)s::bytea[], %(untils)s::timestamptz[]) AS x (key, search, until) "
        "ON CONFLICT (tenant, target, key) DO UPDATE SET needed_until = greatest(l.needed_until, excluded.needed_until), "
        "due_at = CASE WHEN l.key = ANY (%(again)s::bytea[]) THEN coalesce(l.due_at, excluded.due_at) ELSE l.due_at END",
        {
            "tenant": run.id,
            "target": target,
            "now": run.now(),
            "keys": [lookup.key for lookup, _, _ in rows],
            "searches": [
                run.sealer.seal_json("mirror.lookup", f"{target}|{one.key.hex()}", dict(one.search)) for one, _, _ in rows
            ],
            "untils": [until for _, until, _ in rows],
            "again": [lookup.key for lookup, _, again in rows if again],
        },
    )
