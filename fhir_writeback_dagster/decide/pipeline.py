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

from psycopg import Connection

from fhir_writeback_dagster.decide.facts import store as memory
from fhir_writeback_dagster.decide.facts.corrections import bring_up
from fhir_writeback_dagster.decide.facts.placement import ACCEPT, Fact, Incoming, Placement, accept, business_keys, place
from fhir_writeback_dagster.decide.mapping.versions import Mapping, load_mapping
from fhir_writeback_dagster.decide.matching.encounters import EncounterRequest, match_encounters
from fhir_writeback_dagster.decide.matching.lookups import ask_for_patients, confirm
from fhir_writeback_dagster.decide.matching.model import Match
from fhir_writeback_dagster.decide.matching.patients import match_patients
from fhir_writeback_dagster.decide.recording import set_apart, store
from fhir_writeback_dagster.decide.rendering import render
from fhir_writeback_dagster.decide.ruling.gates import consent_version, encounter_reasons, event_day, rule, target_reason
from fhir_writeback_dagster.decide.ruling.labels import LabelList, births_of, load_labels
from fhir_writeback_dagster.decide.ruling.mode_changes import note
from fhir_writeback_dagster.decide.ruling.questions import answer_of, consent_ask, consents_of, policy_ask
from fhir_writeback_dagster.decide.stages import (
    Decision,
    Identified,
    Loaded,
    Mapped,
    Matched,
    Placed,
    Reason,
    Ruled,
    ended,
    evidence_of,
)
from fhir_writeback_dagster.decide.work_items import load
from fhir_writeback_dagster.errors import CandidateProblem
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.orchestration.target import mirror_on_demand, read_target
from fhir_writeback_dagster.rules.fhir.content import same_content
from fhir_writeback_dagster.rules.fhir.resource import Resource
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
    batch = _Batch(run, hasher)
    with run.store.tenant(run.id) as connection:
        note(connection, run)
    states: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    while True:
        # What the mirror learns while a batch is decided was not seen: it has to be later than the batch's own time.
        began = run.now()
        with run.store.tenant(run.id) as connection:
            rows, unreadable = load(connection, run, BATCH)
            done, facts = batch.decide(connection, rows) if rows else ([], {})
            if done:
                store(connection, run, done, facts, began)
            if unreadable:
                set_apart(connection, run, unreadable)
        states.update(decision.state for decision in done)
        reasons.update(f"{decision.state}.{decision.reason}" for decision in done if decision.reason)
        states.update("quarantined" for _ in unreadable)
        reasons.update(f"quarantined.{one.code}" for one in unreadable)
        if (len(rows) + len(unreadable) < BATCH and len(done) == len(rows)) or time.monotonic() > end:
            break
    mappings = tuple(f"{m.kind}/{m.version}@{m.sha256[:12]}" for m in batch.mappings.values())
    return DecideReport(states.total(), dict(states), dict(reasons), mappings, batch.policies.version[:12])


class _Batch:
    """One run's fixed inputs, and the steps that every batch goes through. A step takes the records of one stage, appends the
    decisions on those that end there to ``done``, and returns the others at the next stage.
    """

    def __init__(self, run: RunContext, hasher: ContentHasher) -> None:
        self.run, self.hasher = run, hasher
        self.mappings: dict[str, Mapping] = {
            kind: load_mapping(run.settings.mappings / "fhir", kind, version) for kind, version in run.tenant.mappings.items()
        }
        self.policies: PolicySet = load_policies(run.settings.policies, run.tenant.policies)
        self.labels: LabelList = load_labels(run.settings.mappings / "labels", run.tenant.labels)
        self.on_demand = mirror_on_demand(run)

    def decide(self, connection: Connection[Any], rows: list[Loaded]) -> tuple[list[Decision], dict[str, Fact]]:
        """The decisions in the order of ``rows``, and the facts that got a new revision, by business key. A record without a
        decision waits for the next batch.
        """
        done: list[Decision] = []
        stated = memory.source_records_of(connection, self.run, ((r.source, r.source_record, r.former_records) for r in rows))
        target = read_target(connection, self.run)
        fresh = self._skip_open(connection, rows, done)
        matched = self._await_statement(target, self._match(connection, fresh, done), done)
        mapped, facts = self._map(connection, matched, done)
        ruled = self._rule(connection, target, mapped, facts, done)
        placed, accepted = self._place(connection, ruled, facts, stated, done)
        done = [*bring_up(connection, self.run, done, stated), *map(_settled, placed)]
        order = {row.record_id: position for position, row in enumerate(rows)}
        return sorted(done, key=lambda decision: order[decision.row.record_id]), accepted

    def _skip_open(self, connection: Connection[Any], rows: list[Loaded], done: list[Decision]) -> list[tuple[Loaded, Mapping]]:
        """Each record with its mapping. The same row again, while its first statement waits or is in review, makes no second
        task.
        """
        fresh = [row.input_hash for row in rows if not row.again]
        held = memory.open_inputs(connection, self.run, fresh, [row.candidate_id for row in rows])
        kept = []
        for row in rows:
            mapping = self.mappings.get(row.kind)
            if mapping is None:
                done.append(ended(row, "quarantined", "no_mapping"))
            elif not row.again and row.input_hash in held:
                done.append(ended(row, "suppressed", f"already_{held[row.input_hash]}", mapping=mapping))
            else:
                kept.append((row, mapping))
        return kept

    def _waiting(self, stage: Loaded | Matched, reason: str | None, **more: Any) -> Decision:
        """What the mirror does not know yet waits for it, until the tenant's patience ends."""
        row = stage.row if isinstance(stage, Matched) else stage
        if row.give_up_at <= self.run.now():
            return ended(stage, "quarantined", "no_match_in_time", reason, **more)
        return ended(stage, "waiting", reason, **more)

    def _match(self, connection: Connection[Any], rows: list[tuple[Loaded, Mapping]], done: list[Decision]) -> list[Matched]:
        refs = [row.record.patient for row, _ in rows]
        matches = match_patients(connection, self.run, refs)
        if self.on_demand:
            matches = confirm(connection, self.run, refs, matches, [row.give_up_at for row, _ in rows])
        found: list[tuple[Loaded, Mapping, Match, str]] = []
        for (row, mapping), match in zip(rows, matches, strict=True):
            more: dict[str, Any] = {"match": match, "mapping": mapping, "evidence": evidence_of(match)}
            if match.outcome == "waiting":
                done.append(self._waiting(row, match.reason, **more))
            elif match.outcome == "review" or match.patient_id is None:
                done.append(ended(row, "in_review", match.reason, **more))
            else:
                found.append((row, mapping, match, match.patient_id))
        return self._match_encounters(connection, found, done)

    def _match_encounters(
        self, connection: Connection[Any], found: list[tuple[Loaded, Mapping, Match, str]], done: list[Decision]
    ) -> list[Matched]:
        now = self.run.now()
        wanted = [
            EncounterRequest(row.record.encounter, patient, event_day(row.record), overdue=row.give_up_at <= now)
            for row, _, _, patient in found
        ]
        matched, unknown = [], []
        encounters = match_encounters(connection, self.run, wanted)
        for (row, mapping, match, patient), encounter in zip(found, encounters, strict=True):
            stage = Matched(row, mapping, patient, match, encounter)
            if encounter.outcome == "waiting":
                decision = self._waiting(stage, encounter.reason)
                done.append(decision)
                unknown += [(patient, row.give_up_at)] if decision.state == "waiting" else []
            elif encounter.outcome == "review":
                done.append(ended(stage, "in_review", encounter.reason))
            else:
                matched.append(stage)
        if self.on_demand:
            ask_for_patients(connection, self.run, unknown)
        return matched

    def _await_statement(self, target: Target, matched: list[Matched], done: list[Decision]) -> list[Matched]:
        """What only the EHR's CapabilityStatement can allow waits for the mirror to have read it."""
        unread = [one for one in matched if target.refusal(one.mapping.resource_type, "create") == NOT_READ]
        done += [self._waiting(one, NOT_READ) for one in unread]
        return [one for one in matched if one not in unread] if unread else matched

    def _map(
        self, connection: Connection[Any], matched: list[Matched], done: list[Decision]
    ) -> tuple[list[Mapped], dict[str, Fact]]:
        """Every record with its business key and payload, and the facts that are known under the keys."""
        persons = memory.persons_of(connection, self.run, (one.patient_id for one in matched))
        births = births_of(connection, self.run, sorted({one.patient_id for one in matched}))
        keyed: list[tuple[Matched, str, list[str]]] = []
        for one in matched:
            person = persons[one.patient_id]
            try:
                identity = one.mapping.identity(one.row.data)
            except CandidateProblem as problem:
                done.append(ended(one, "quarantined", problem.code, problem.where))
                continue
            keyed.append((one, person[0], business_keys(self.run.identity, self.run.id, one.row.kind, person, identity)))
        facts = memory.facts_of(connection, self.run, sorted({key for _, _, keys in keyed for key in keys}))
        mapped: list[Mapped] = []
        for one, person_id, keys in keyed:
            key = next((key for key in keys if key in facts), keys[0])
            identified = Identified(one.row, one, person_id, tuple(keys), key)
            rendered = render(self.run, identified, self.hasher, self.labels, births.get(one.patient_id))
            if isinstance(rendered, Decision):
                done.append(rendered)
            else:
                mapped.append(rendered)
        return mapped, facts

    def _rule(
        self, connection: Connection[Any], target: Target, mapped: list[Mapped], facts: dict[str, Fact], done: list[Decision]
    ) -> list[Ruled]:
        """The ruling on each record. What is denied ends here: a fact is never owned by content that may not be written."""
        now = self.run.now()
        asks = [policy_ask(self.run.id, one, now, known=one.business_key in facts) for one in mapped]
        consents = consents_of(connection, self.run, sorted({one.matched.patient_id for one in mapped}))
        ruled = []
        for one, ask, policy in zip(mapped, asks, self.policies.decide(asks), strict=True):
            asked = consent_ask(self.run.tenant, one, now)
            consent = answer_of(self.run.tenant, consents[one.matched.patient_id], consents[None], asked)
            ruling = rule(
                self.run.tenant.modes.of(one.mapping.resource_type),
                self._semantic(target, one, exists=one.business_key in facts),
                consent,
                self.run.tenant.consent.none_found,
                policy,
                sampled=in_sample(
                    self.run.identity.digest(*sample_parts(one.business_key, one.content_hash)), self.run.tenant.modes
                ),
            )
            versions = {
                "mapping": f"{one.row.kind}/{one.mapping.version}",
                "mapping_sha256": one.mapping.sha256,
                "source": f"{one.row.source}/{one.row.source_version}",
                "suite": one.row.suite,
                "policy": self.policies.version,
                "policy_ids": list(policy.policy_ids),
                "consent": consent_version(consent),
                "match": one.matched.evidence["match"],
                # How many and by which list; which they are would tell of the patient, and stands in the sealed context.
                "labels": {"version": self.labels.version, "sha256": self.labels.sha256, "count": len(one.labels)},
            }
            stage = Ruled(one, ruling, versions, {"policy": ask.to_json(), "consent": asked.to_json()})
            if ruling.outcome == "denied":
                done.append(ended(stage, "denied", ruling.reasons[0].code, verdict_id=new_id()))
            else:
                ruled.append(stage)
        return ruled

    def _semantic(self, target: Target, mapped: Mapped, *, exists: bool) -> list[Reason]:
        encounter = mapped.matched.encounter
        reasons = encounter_reasons(
            mapped.row.record,
            encounter.status,
            (encounter.starts_at, encounter.ends_at),
            self.run.tenant.closed_encounter,
            stands_in=mapped.matched.stands_in,
        )
        if mapped.mapping.interaction == "update":
            reasons.append(Reason("semantic", "changes_patient"))
        elif refused := target_reason(target, mapped.payload, exists=exists):
            reasons.append(refused)
        return reasons

    def _place(
        self,
        connection: Connection[Any],
        ruled: list[Ruled],
        facts: dict[str, Fact],
        stated: dict[tuple[str, bytes], str],
        done: list[Decision],
    ) -> tuple[list[Placed], dict[str, Fact]]:
        """The next revision of each fact; a batch's newest as-of goes first, so that the older are stale at once.

        A record is left for the next batch where it changes a fact that another record of this batch creates: policy was asked
        about it as if it created the fact itself, and has to be asked about an update.
        """
        placed: list[Placed] = []
        accepted: dict[str, Fact] = {}
        payloads = memory.payloads_of(connection, self.run, _of_others(ruled, facts))
        for one in sorted(ruled, key=lambda one: -at.timestamp() if (at := one.mapped.row.as_of) else 0.0):
            mapped, row, key = one.mapped, one.mapped.row, one.mapped.business_key
            fact = accepted.get(key) or facts.get(key)
            before = stated.get((row.source, row.source_record))
            if before is not None and before != key:
                # Time, code or patient changed: the old resource must not stay. Retract and create are one decision.
                done.append(ended(one, "in_review", "identity_changed", evidence={"retract": before, "create": key}))
                continue
            incoming = Incoming(row.source, mapped.content_hash, row.as_of, mapped.mapping.version, row.extract_id)
            placement, new = _held(mapped, fact), False
            if placement is None:
                placement = place(fact, incoming, partial(_same, payloads.get(key), mapped.payload))
                if placement.verdict in ("accept", "review") and key in accepted and key not in facts:
                    continue
                if placement.verdict == "accept":
                    accepted[key] = fact = accept(fact, key, incoming)
                    new = True
            stage = Placed(one, fact.latest.number if fact and fact.latest else None, new)
            if placement.verdict == "accept":
                payloads[key] = mapped.payload
                stated[row.source, row.source_record] = key
                placed.append(stage)
            else:
                state = "in_review" if placement.verdict == "review" else placement.verdict
                done.append(ended(stage, state, placement.reason))
        return placed, accepted


def _held(mapped: Mapped, fact: Fact | None) -> Placement | None:
    """The placement of a record that commit gave back: it holds its revision still, unless a newer one came. It was not sent, so
    that its content may have changed meanwhile (its patient was merged into another): the revision is what it says now.
    """
    row = mapped.row
    if row.held_revision is None or fact is None or row.held_key != mapped.business_key:
        return None
    mine = next((r for r in fact.revisions if r.number == row.held_revision), None)
    if mine is None or mine.void:
        return None
    if fact.latest is not None and fact.latest.number > mine.number:
        return Placement("stale", "superseded")
    return ACCEPT


_STATES = {"automatic": "approved", "review": "in_review", "denied": "denied", "not_written": "not_written"}


def _settled(placed: Placed) -> Decision:
    """The ruling becomes the candidate's state and its verdict."""
    ruling = placed.ruled.ruling
    reason = None if ruling.outcome == "automatic" else ruling.reasons[0].code
    return ended(placed, _STATES[ruling.outcome], reason, verdict_id=new_id())


def _of_others(ruled: Sequence[Ruled], facts: dict[str, Fact]) -> list[Fact]:
    """The facts of another source that some of ``ruled`` state in other words."""
    known = [(fact, one.mapped) for one in ruled if (fact := facts.get(one.mapped.business_key)) and fact.latest]
    return [f for f, m in known if m.row.source != f.owner and f.latest and m.content_hash != f.latest.content_hash]


def _same(theirs: Resource | None, ours: Resource) -> bool:
    return theirs is not None and same_content(ours, theirs)
