"""The re-check before the send marker: does what decide approved still stand, at this moment?

It runs in the transaction that writes the marker (`commit.gate`), on a mirror no older than the tenant's ``consent.max_age``.
What no longer stands goes back to decide, which looks at it anew; nothing is guessed here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg import Connection

from fhir_writeback_dagster.commit.mirror.model import mirrored
from fhir_writeback_dagster.commit.mirror.store import read_sync
from fhir_writeback_dagster.commit.protocol.changes import Refuse, Review, Supersede, Withdraw
from fhir_writeback_dagster.commit.protocol.model import Intent
from fhir_writeback_dagster.commit.protocol.transitions import State
from fhir_writeback_dagster.commit.sqlfile import statement
from fhir_writeback_dagster.config.tenants import Mode, ModeSettings, load_tenant
from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.consent.codes import IDLE_STATUSES
from fhir_writeback_dagster.rules.consent.evaluate import MOST_UNPLACED, evaluate
from fhir_writeback_dagster.rules.consent.model import ConsentDecision, ConsentRequest
from fhir_writeback_dagster.rules.encounters import takes_no_more
from fhir_writeback_dagster.rules.modes import in_sample, needs_person, sample_parts, writes
from fhir_writeback_dagster.rules.policy.cedar import PolicyDecision, PolicyRequest, load_policies

_UNREADABLE = (ServiceError, LookupError, TypeError, ValueError, AttributeError)
"""What opening and reading of a sealed value or a foreign resource can raise: one that is broken must not stop the others."""
_DROPPED = [State.WITHDRAWN, State.DISCARDED]


Objection = Withdraw | Review | Refuse | Supersede
"""Why an intent is not sent; its reason is the code that decide, reviewers and the log see."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the database says about one intent now; columns of `recheck.sql` in their order."""

    intent_id: UUID
    verdict_stands: bool
    verdict_unexpired: bool
    context: bytes | None
    patient_known: bool
    patient_active: bool | None
    patient_deceased: bool | None
    patient_replaced: bool
    identifier_matched: bool
    identifier_leads_to: list[str]
    encounter_known: bool
    encounter_status: str | None
    encounter_of: list[str]
    superseded: bool | None
    in_doubt: bool
    reviewed: bool


class Recheck:
    """One run's re-checks. Policies are those of the run's start; modes are read from the tenant's file each time."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._policies = load_policies(run.settings.policies, run.tenant.policies)
        self._consents: dict[tuple[str, str], dict[str, Any]] = {}
        self._modes: tuple[tuple[int, int, int] | None, ModeSettings] | None = None

    def mirror_is_young(self, connection: Connection[Any]) -> bool:
        """Was every mirrored type refreshed, and every consent listed, within the tenant's ``consent.max_age``? What was read in
        the future was read under a clock that has been set back since: nobody knows how old it is.
        """
        syncs, now = read_sync(connection, self._run), self._run.now()
        oldest = now - self._run.tenant.consent.max_age
        kinds = mirrored(self._run.tenant)
        read = [syncs[kind].refreshed_at for kind in kinds if kind in syncs]
        listed = [syncs[kind].listed_at for kind in kinds if kind in syncs and kind == "Consent"]
        return len(read) == len(kinds) and all(at is not None and oldest <= at <= now for at in (*read, *listed))

    def objections(self, connection: Connection[Any], items: Sequence[Intent]) -> dict[UUID, Objection]:
        """What stands against sending each of ``items``; those that are not in the answer may go.

        :raises ConfigError: the tenant's file cannot be read any more; nothing may go.
        """
        run, now = self._run, self._run.now()
        rows = connection.execute(
            statement("recheck"),
            {
                "tenant": run.id,
                "target": run.tenant.ehr.target,
                "intents": [item.intent_id for item in items],
                "now": now,
                "dropped": _DROPPED,
                "in_review": State.IN_REVIEW,
            },
        )
        facts = {row[0]: Facts(*row) for row in rows}
        modes = self._modes_now()
        found: dict[UUID, Objection] = {}
        standing: list[tuple[Intent, Facts]] = []
        for item in items:
            known = facts.get(item.intent_id)
            sampled = in_sample(run.identity.digest(*sample_parts(item.business_key, item.content_hash)), modes)
            objection = about_records(item, known, run.tenant.closed_encounter) or about_mode(
                modes.of(item.resource_type), known, sampled=sampled
            )
            if objection:
                found[item.intent_id] = objection
            elif known:
                standing.append((item, known))
        found |= self._consent_and_policy(connection, standing, now)
        return found

    def _modes_now(self) -> ModeSettings:
        """The modes in the tenant's file, read again whenever it was written (reading YAML takes milliseconds)."""
        try:
            status = (self._run.settings.tenants / f"{self._run.id}.yaml").stat()
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            version = None
        if self._modes is None or version is None or version != self._modes[0]:
            self._modes = (version, load_tenant(self._run.settings.tenants, self._run.id).modes)
        return self._modes[1]

    def _consent_and_policy(
        self, connection: Connection[Any], standing: Sequence[tuple[Intent, Facts]], now: datetime
    ) -> dict[UUID, Objection]:
        run = self._run
        asked: list[tuple[Intent, Facts, PolicyRequest, ConsentRequest]] = []
        found: dict[UUID, Objection] = {}
        zone = run.tenant.consent_zone
        for item, known in standing:
            try:
                context = run.sealer.open_json("decision.candidate.context", item.candidate_id, known.context or b"")
                policy_ask = replace(PolicyRequest.from_json(context["policy"]), now=now, encounter_status=known.encounter_status)
                asked.append((item, known, policy_ask, replace(ConsentRequest.from_json(context["consent"]), at=now, zone=zone)))
            except _UNREADABLE:
                found[item.intent_id] = Refuse("context_unreadable")
        consents = self._consents_of(connection, {item.patient_id for item, *_ in asked})
        policies = self._policies.decide([policy_ask for _, _, policy_ask, _ in asked])
        for (item, known, _, consent_ask), policy in zip(asked, policies, strict=True):
            objection = about_policy(policy, known) or self._about_consent(
                consents[item.patient_id], consents[None], consent_ask, known
            )
            if objection:
                found[item.intent_id] = objection
        return found

    def _about_consent(
        self, consents: Sequence[dict[str, Any]], unplaced: Sequence[dict[str, Any]], ask: ConsentRequest, known: Facts
    ) -> Objection | None:
        decision = ConsentDecision("none")
        if self._run.tenant.consent.source == "ehr":
            try:
                decision = evaluate(consents, ask, unplaced)
            except _UNREADABLE:
                return Withdraw("consent_unreadable")
        if decision.outcome == "deny" or (decision.outcome == "none" and not self._may_without_consent(known)):
            return Withdraw(f"consent_{decision.outcome}")
        return Withdraw("consent_patient_unclear") if decision.unplaced and not known.reviewed else None

    def _may_without_consent(self, known: Facts) -> bool:
        none_found = self._run.tenant.consent.none_found
        return none_found == "permit" or (none_found == "review" and known.reviewed)

    def _consents_of(self, connection: Connection[Any], patients: set[str]) -> dict[str | None, list[dict[str, Any]]]:
        """The mirror's consents of each of ``patients``; under None those of patients whom nobody can tell."""
        target = self._run.tenant.ehr.target
        found: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
        rows = connection.execute(
            "SELECT patient_id, consent_id, version_id, body FROM mirror.consent "
            "WHERE tenant = %(tenant)s AND target = %(target)s AND patient_id = ANY (%(patients)s::text[]) UNION ALL "
            "(SELECT NULL, consent_id, version_id, body FROM mirror.consent WHERE tenant = %(tenant)s AND target = %(target)s "
            "AND patient_id IS NULL AND status <> ALL (%(idle)s::text[]) LIMIT %(most)s)",
            {
                "tenant": self._run.id,
                "target": target,
                "patients": sorted(patients),
                "idle": sorted(IDLE_STATUSES),
                "most": MOST_UNPLACED + 1,
            },
        )
        for patient, consent_id, version, sealed in rows:
            body = self._consents.get((consent_id, version)) if version else None
            if body is None:
                try:
                    body = self._run.sealer.open_json("mirror.consent", f"{target}|{consent_id}", sealed)
                except _UNREADABLE:
                    body = {}  # no Consent that anybody understands: it denies
                self._consents[consent_id, version] = body
            found[patient].append(body)
        return found


def about_records(
    item: Intent, known: Facts | None, closed_encounter: Literal["review", "permit"] = "review"
) -> Objection | None:
    """Verdict, revision order, patient and encounter; what a person approved for a closed encounter goes."""
    if known is None:
        return Withdraw("verdict_gone")
    if known.superseded:
        return Supersede("superseded")
    if known.in_doubt:
        # A person has that one, because it may stand in the EHR and cannot be looked up: ours would stand beside it.
        return Review("earlier_revision_in_doubt")
    in_encounter = item.patient_id in known.encounter_of
    complaints = (
        (not known.verdict_stands, "verdict_changed"),
        (not known.verdict_unexpired, "verdict_expired"),
        (known.context is None, "context_gone"),
        (not known.patient_known, "patient_gone"),
        (known.patient_replaced, "patient_replaced"),
        (not known.patient_active, "patient_inactive"),
        (known.patient_deceased, "patient_deceased"),
        (not known.identifier_matched, "match_not_verified"),
        (known.identifier_leads_to != [item.patient_id], "identifier_moved"),
        (item.encounter_id is not None and not known.encounter_known, "encounter_gone"),
        (item.encounter_id is not None and not in_encounter, "encounter_moved"),
        (known.encounter_status == "entered-in-error", "encounter_in_error"),
        (
            closed_encounter == "review" and takes_no_more(known.encounter_status, item.kind) and not known.reviewed,
            "encounter_closed",
        ),
    )
    reason = next((code for holds, code in complaints if holds), None)
    return Withdraw(reason) if reason else None


def about_mode(mode: Mode, known: Facts | None, *, sampled: bool = False) -> Objection | None:
    """Where the mode asks for a person, it lets through what one approved with this very content."""
    if writes(mode) and (not needs_person(mode, sampled=sampled) or (known is not None and known.reviewed)):
        return None
    return Withdraw(f"mode_{mode}")


def about_policy(policy: PolicyDecision, known: Facts) -> Objection | None:
    if policy.outcome == "automatic" or (policy.outcome == "review" and known.reviewed):
        return None
    return Withdraw(f"policy_{policy.outcome}")
