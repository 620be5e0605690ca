"""decide: canonical records become candidates with a verdict, a batch at a time, one transaction a batch.

The steps are: match the patient and the encounter, map and validate, rule by consent, policy, mode and target, place the content
among the revisions of its fact. Whatever ends a record is a state and a reason code on its candidate; nothing is dropped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from psycopg import Connection

from fhir_writeback_dagster.decide.facts import store as memory
from fhir_writeback_dagster.decide.facts.corrections import bring_up
from fhir_writeback_dagster.decide.facts.placement import ACCEPT, Fact, Incoming, Placement, accept, business_keys, place
from fhir_writeback_dagster.decide.mapping.versions import Mapping, load_mapping
from fhir_writeback_dagster.decide.matching.encounters import EncounterRequest, match_encounters
from fhir_writeback_dagster.decide.matching.lookups import ask_for_patients, confirm
from fhir_writeback_dagster.decide.matching.patients import match_patients
from fhir_writeback_dagster.decide.recording import store
from fhir_writeback_dagster.decide.rendering import render
from fhir_writeback_dagster.decide.ruling.gates import consent_version, encounter_reasons, event_day, rule, target_reason
from fhir_writeback_dagster.decide.ruling.labels import LabelList, births_of, load_labels
from fhir_writeback_dagster.decide.ruling.mode_changes import note
from fhir_writeback_dagster.decide.ruling.questions import answer_of, consent_ask, consents_of, policy_ask
from fhir_writeback_dagster.decide.work_items import Reason, WorkItem, load
from fhir_writeback_dagster.errors import CandidateProblem
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.orchestration.target import mirror_on_demand, read_target
from fhir_writeback_dagster.rules.fhir.content import same_content
from fhir_writeback_dagster.rules.modes import in_sample, sample_parts
from fhir_writeback_dagster.rules.policy.cedar import PolicySet, load_policies
from fhir_writeback_dagster.rules.target.capabilities import NOT_READ, Target
from fhir_writeback_dagster.store.content_hash import ContentHasher, content_hasher

BATCH = 1000


@dataclass(frozen=True, slots=True)
class DecideReport:
    """Counts of one decide run: how many candidates came to which state, and the versions they were decided on."""

    decided: int
    states: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    mappings: tuple[str, ...] = ()
    policy: str = ""

    def metadata(self) -> dict[str, int | float | str]:
        return {
            "decided": self.decided,
            **{f"state/{state}": count for state, count in sorted(self.states.items())},
            **{f"reason/{reason}": count for reason, count in sorted(self.reasons.items())},
            "mappings": ", ".join(self.mappings),
            "policy": self.policy,
        }


def decide(run: RunContext, deadline_s: float = 60) -> DecideReport:
    """Decide what waits, until nothing does or ``deadline_s`` seconds are over.

    :raises ConfigError: a mapping or policy that the tenant names is missing or wrong; nothing was decided with it.
    """
    end = time.monotonic() + deadline_s
    with run.store.tenant(run.id) as connection:
        hasher = content_hasher(connection, run.id, run.sealer)
    round_ = _Round(run, hasher)
    with run.store.tenant(run.id) as connection:
        note(connection, run)
    states: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    while True:
        # What the mirror learns while a batch is decided was not seen: it has to be later than the batch's own time.
        began = run.now()
        with run.store.tenant(run.id) as connection:
            items = load(connection, run, BATCH)
            done = round_.settle(connection, items) if items else []
            if done:
                store(connection, run, done, round_.accepted, began)
        states.update(item.state for item in done)
        reasons.update(f"{item.state}.{item.reason}" for item in done if item.reason)
        if (len(items) < BATCH and len(done) == len(items)) or time.monotonic() > end:
            break
    mappings = tuple(f"{m.kind}/{m.version}@{m.sha256[:12]}" for m in round_.mappings.values())
    return DecideReport(states.total(), dict(states), dict(reasons), mappings, round_.policies.version[:12])


class _Round:
    """One run's fixed inputs, and the steps that a batch goes through."""

    def __init__(self, run: RunContext, hasher: ContentHasher) -> None:
        self.run, self.hasher = run, hasher
        self.mappings: dict[str, Mapping] = {
            kind: load_mapping(run.settings.mappings / "fhir", kind, version) for kind, version in run.tenant.mappings.items()
        }
        self.policies: PolicySet = load_policies(run.settings.policies, run.tenant.policies)
        self.labels: LabelList = load_labels(run.settings.mappings / "labels", run.tenant.labels)
        self.births: dict[str, str] = {}
        self.on_demand = mirror_on_demand(run)
        self.accepted: dict[str, Fact] = {}

    def settle(self, connection: Connection[Any], items: list[WorkItem]) -> list[WorkItem]:
        """Settle ``items``; returns those that are, the others are for the next round."""
        self.accepted = {}
        told = memory.source_records_of(connection, self.run, ((i.source, i.source_record, i.former_records) for i in items))
        for item in items:
            item.mapping = self.mappings.get(item.kind)
            if item.mapping is None:
                item.end("quarantined", "no_mapping")
        self._skip_open(connection, items)
        target = read_target(connection, self.run)
        self._match(connection, [i for i in items if i.open])
        self._await_statement(target, [i for i in items if i.open])
        self.births = births_of(connection, self.run, sorted({i.patient_id for i in items if i.open and i.patient_id}))
        facts = self._map(connection, [i for i in items if i.open])
        self._rule(connection, target, [i for i in items if i.open], facts)
        later = self._place(connection, [i for i in items if i.open], facts, told)
        settled = [item for item in items if item.record_id not in later]
        bring_up(connection, self.run, settled, told)
        for item in settled:
            if item.open:
                _settle(item)
        return settled

    def _skip_open(self, connection: Connection[Any], items: list[WorkItem]) -> None:
        """The same row again, while its first telling waits or is in review, makes no second task."""
        fresh = [i for i in items if not i.again]
        held = memory.open_inputs(connection, self.run, [i.input_hash for i in fresh], [i.candidate_id for i in items])
        for item in fresh:
            if item.input_hash in held:
                item.end("suppressed", f"already_{held[item.input_hash]}")

    def _wait(self, item: WorkItem, reason: str | None) -> None:
        """What the mirror does not know yet waits for it, until the tenant's patience ends."""
        if item.give_up_at <= self.run.now():
            item.end("quarantined", "no_match_in_time", reason)
        else:
            item.end("waiting", reason)

    def _match(self, connection: Connection[Any], items: list[WorkItem]) -> None:
        refs = [i.record.patient for i in items]
        matches = match_patients(connection, self.run, refs)
        if self.on_demand:
            matches = confirm(connection, self.run, refs, matches, [i.give_up_at for i in items])
        for item, match in zip(items, matches, strict=True):
            item.evidence["match"] = dict(match.evidence)
            item.patient_id, item.matched_by = match.patient_id, match.matched_by
            if match.outcome == "waiting":
                self._wait(item, match.reason)
            elif match.outcome == "review":
                item.end("in_review", match.reason)
        matched = [i for i in items if i.open]
        now = self.run.now()
        wanted = [
            EncounterRequest(i.record.encounter, i.patient_id or "", event_day(i.record), overdue=i.give_up_at <= now)
            for i in matched
        ]
        for item, encounter in zip(matched, match_encounters(connection, self.run, wanted), strict=True):
            item.encounter_id, item.encounter_status = encounter.encounter_id, encounter.status
            item.encounter_period = (encounter.starts_at, encounter.ends_at)
            if encounter.by_time:
                item.evidence["encounter"] = {"by": "time"}
                item.encounter_stands_in = bool(item.record.encounter)
            if encounter.outcome == "waiting":
                self._wait(item, encounter.reason)
            elif encounter.outcome == "review":
                item.end("in_review", encounter.reason)
        if self.on_demand:
            waiting = [(i.patient_id, i.give_up_at) for i in matched if i.state == "waiting" and i.patient_id]
            ask_for_patients(connection, self.run, waiting)

    def _await_statement(self, target: Target, items: list[WorkItem]) -> None:
        """What only the EHR's CapabilityStatement can allow waits for the mirror to have read it."""
        for item in items:
            assert item.mapping is not None
            if target.refusal(item.mapping.resource_type, "create") == NOT_READ:
                self._wait(item, NOT_READ)

    def _map(self, connection: Connection[Any], items: list[WorkItem]) -> dict[str, Fact]:
        """Give every item its business key and payload; returns the facts that are known under their keys."""
        persons = memory.persons_of(connection, self.run, (i.patient_id for i in items if i.patient_id))
        for item in items:
            assert item.mapping is not None
            person = persons[item.patient_id or ""]
            item.person = person[0]
            try:
                identity = item.mapping.identity(item.data)
            except CandidateProblem as problem:
                item.end("quarantined", problem.code, problem.where)
                continue
            item.keys = business_keys(self.run.identity, self.run.id, item.kind, person, identity)
        known = memory.facts_of(connection, self.run, sorted({key for i in items for key in i.keys}))
        for item in items:
            if item.open:
                item.business_key = next((key for key in item.keys if key in known), item.keys[0])
                render(self.run, item, self.hasher, self.labels, self.births.get(item.patient_id or ""))
        return known

    def _place(
        self, connection: Connection[Any], items: list[WorkItem], facts: dict[str, Fact], told: dict[tuple[str, bytes], str]
    ) -> set[UUID]:
        """Find who is the next revision of its fact; a batch's newest as-of goes first, so that the older are stale at once.

        Returns the records that have to wait for the next round. Such a record changes a fact that another record of this round
        creates, but policy was asked about it as if it created the fact itself; the next round asks about an update.
        """
        later: set[UUID] = set()
        payloads = memory.payloads_of(connection, self.run, _of_others(items, facts))
        for item in sorted(items, key=lambda i: -i.as_of.timestamp() if i.as_of else 0.0):
            assert item.business_key is not None
            assert item.content_hash is not None
            assert item.mapping is not None
            key = item.business_key
            fact = self.accepted.get(key) or facts.get(key)
            before = told.get((item.source, item.source_record))
            if before is not None and before != key:
                # Time, code or patient changed: the old resource must not stay. Retract and create are one decision.
                item.evidence |= {"retract": before, "create": key}
                item.end("in_review", "identity_changed")
                continue
            incoming = Incoming(item.source, item.content_hash, item.as_of, item.mapping.version, item.extract_id)
            placement = self._held(item, fact)
            if placement is None:
                placement = place(fact, incoming, partial(_same, payloads.get(key), item))
                if placement.verdict in ("accept", "review") and key in self.accepted and key not in facts:
                    later.add(item.record_id)
                    continue
                if placement.verdict == "accept":
                    self.accepted[key] = fact = accept(fact, key, incoming)
                    item.accepted = True
            item.revision = fact.latest.number if fact and fact.latest else None
            if placement.verdict == "accept":
                payloads[key] = item.payload or {}
                told[item.source, item.source_record] = key
            else:
                item.end("in_review" if placement.verdict == "review" else placement.verdict, placement.reason)
        return later

    def _held(self, item: WorkItem, fact: Fact | None) -> Placement | None:
        """An item that commit gave back holds its revision still, unless a newer one came. It was not sent, so that its content
        may have changed meanwhile (its patient was merged into another): the revision is what it says now.
        """
        if item.held_revision is None or fact is None or item.held_key != item.business_key:
            return None
        mine = next((r for r in fact.revisions if r.number == item.held_revision), None)
        if mine is None or mine.void:
            return None
        if fact.latest is not None and fact.latest.number > mine.number:
            return Placement("stale", "superseded")
        return ACCEPT

    def _rule(self, connection: Connection[Any], target: Target, items: list[WorkItem], facts: dict[str, Fact]) -> None:
        """The verdict of each item. What is denied ends here: a fact is never owned by content that may not be written."""
        now = self.run.now()
        asks = [policy_ask(self.run.id, item, now, known=item.business_key in facts) for item in items]
        consents = consents_of(connection, self.run, sorted({i.patient_id for i in items if i.patient_id}))
        for item, ask, policy in zip(items, asks, self.policies.decide(asks), strict=True):
            assert item.mapping is not None
            asked = consent_ask(self.run.tenant, item, now)
            consent = answer_of(self.run.tenant, consents[item.patient_id or ""], consents[None], asked)
            semantic = encounter_reasons(
                item.record,
                item.encounter_status,
                item.encounter_period,
                self.run.tenant.closed_encounter,
                stands_in=item.encounter_stands_in,
            )
            if item.mapping.interaction == "update":
                semantic.append(Reason("semantic", "changes_patient"))
            elif refused := target_reason(target, item.payload or {}, exists=item.business_key in facts):
                semantic.append(refused)
            item.ruling = rule(
                self.run.tenant.modes.of(item.mapping.resource_type),
                semantic,
                consent,
                self.run.tenant.consent.none_found,
                policy,
                sampled=in_sample(
                    self.run.identity.digest(*sample_parts(item.business_key or "", item.content_hash or b"")),
                    self.run.tenant.modes,
                ),
            )
            item.context = {"policy": ask.to_json(), "consent": asked.to_json()}
            item.versions = {
                "mapping": f"{item.kind}/{item.mapping.version}",
                "mapping_sha256": item.mapping.sha256,
                "source": f"{item.source}/{item.source_version}",
                "suite": item.suite,
                "policy": self.policies.version,
                "policy_ids": list(policy.policy_ids),
                "consent": consent_version(consent),
                "match": item.evidence.get("match"),
                # How many and by which list; which they are would tell of the patient, and stands in the sealed context.
                "labels": {"version": self.labels.version, "sha256": self.labels.sha256, "count": len(item.labels)},
            }
            if item.ruling.outcome == "denied":
                _settle(item)


_STATES = {"automatic": "approved", "review": "in_review", "denied": "denied", "not_written": "not_written"}


def _settle(item: WorkItem) -> None:
    """The ruling becomes the candidate's state and its verdict."""
    assert item.ruling is not None
    item.verdict_id = new_id()
    automatic = item.ruling.outcome == "automatic"
    item.end(_STATES[item.ruling.outcome], None if automatic else item.ruling.reasons[0].code)


def _of_others(items: Sequence[WorkItem], facts: dict[str, Fact]) -> list[Fact]:
    """The facts of another source that some of ``items`` tell in other words."""
    told = [(facts.get(i.business_key or ""), i) for i in items]
    return [f for f, i in told if f and f.latest and i.source != f.owner and i.content_hash != f.latest.content_hash]


def _same(theirs: dict[str, Any] | None, item: WorkItem) -> bool:
    return theirs is not None and item.payload is not None and same_content(item.payload, theirs)
