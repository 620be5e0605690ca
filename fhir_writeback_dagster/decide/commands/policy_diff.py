"""``fhir-writeback policy diff``: which of the last verdicts other policies would alter. Ids, outcomes and policy ids only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from fhir_writeback_dagster.config.tenants import ModeSettings
from fhir_writeback_dagster.decide.commands.history import PastVerdict, last_verdicts
from fhir_writeback_dagster.orchestration.run_context import OpenRuns
from fhir_writeback_dagster.rules.modes import writes
from fhir_writeback_dagster.rules.policy.cedar import PolicyDecision, PolicySet, load_policies


@dataclass(frozen=True, slots=True)
class Altered:
    """A verdict that would come out otherwise; ``before`` and ``after`` are outcomes of verdicts."""

    candidate_id: UUID
    before: str
    after: str
    policy_ids: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "candidate_id": str(self.candidate_id),
            "before": self.before,
            "after": self.after,
            "policy_ids": list(self.policy_ids),
        }


def policy_diff(verdicts: Sequence[PastVerdict], policies: PolicySet, modes: ModeSettings) -> list[Altered]:
    """Ask ``policies`` what was asked for each of ``verdicts``, at the time that it was asked for."""
    decisions = policies.decide([judged.ask for judged in verdicts])
    return [
        Altered(judged.candidate_id, judged.outcome, after, decision.policy_ids)
        for judged, decision in zip(verdicts, decisions, strict=True)
        if (after := _after(judged, decision, modes)) != judged.outcome
    ]


def _after(judged: PastVerdict, policy: PolicyDecision, modes: ModeSettings) -> str:
    """The verdict with another answer of the policies; consent, encounter and mode stay as they were."""
    codes = [reason["code"] for reason in judged.reasons]
    if policy.outcome == "denied" or _consent_denied(judged, codes):
        return "denied"
    if judged.outcome == "not_written" or (judged.outcome == "denied" and not writes(modes.of(judged.resource_type))):
        return "not_written"
    other_reviews = any(reason["layer"] != "policy" for reason in judged.reasons)
    return "review" if policy.outcome == "review" or other_reviews else "automatic"


def _consent_denied(judged: PastVerdict, codes: Sequence[str]) -> bool:
    """A verdict's denials come first: `consent_none` before `policy_denied` was one, after it only a call for a person."""
    if judged.outcome != "denied":
        return False
    return "consent_deny" in codes or codes[0] == "consent_none"


@click.command("diff")
@click.option("--policies", "names", help="Names to ask, with commas between. Default: those of the tenant's file.")
@click.option(
    "--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Of other policies. Default: the project's."
)
@click.option("--last", "count", type=click.IntRange(1), default=1000, show_default=True, help="How many verdicts.")
@click.option("--tenant", help="Only this tenant's verdicts. Default: all tenants', each by itself.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a tenant.")
@click.pass_obj
def policy_diff_command(
    open_runs: OpenRuns, *, names: str | None, folder: Path | None, count: int, tenant: str | None, as_json: bool
) -> None:
    """Which of the last verdicts the policies, as they stand now, would alter.

    Edit a policy, or copy the folder and name it, and see what it would have done before it decides about a write.
    """
    with open_runs("decide", tenant) as places:
        for run in places:
            wanted = run.tenant.policies if names is None else tuple(filter(None, names.split(",")))
            policies = load_policies(folder or run.settings.policies, wanted)
            verdicts = list(last_verdicts(run, count))
            altered = policy_diff(verdicts, policies, run.tenant.modes)
            told = {"tenant": run.id, "policy": policies.version, "verdicts": len(verdicts), "altered": len(altered)}
            if as_json:
                click.echo(json.dumps({**told, "changes": _ways(altered), "verdicts_altered": [a.to_json() for a in altered]}))
            else:
                click.echo(_told(run.id, len(verdicts), altered))


def _ways(altered: Iterable[Altered]) -> dict[str, int]:
    return dict(Counter(f"{one.before} -> {one.after}" for one in altered))


def _told(tenant: str, asked: int, altered: Sequence[Altered]) -> str:
    lines = [f"{tenant}: {len(altered)} of the last {asked} verdicts would be others"]
    lines += [f"  {count} {way}" for way, count in _ways(altered).items()]
    by = Counter(policy for one in altered for policy in one.policy_ids)
    lines += [f"  by {policy}: {count}" for policy, count in by.most_common()]
    lines += [f"  {one.candidate_id} {one.before} -> {one.after}" for one in altered[:20]]
    return "\n".join(lines)
